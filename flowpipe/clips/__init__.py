"""From lists of videos and a cache to clips for a network.

============  ==================================================================
module        what it holds
============  ==================================================================
sampling      which frames make a clip
transforms    crops, flips and resizing, the same for RGB and flow
streams       what one network looks at: `StreamInput`, or `FeatureInput` on features
memory        decoded items kept in memory
order         the order of an epoch's items; balanced; resumable
dataset       PyTorch data sets
network_input a batch's codes → the network's float32 input
============  ==================================================================

Only `dataset` and `network_input` import torch.
"""
