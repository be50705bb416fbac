"""From lists of videos and a cache to clips for a network.

============  ==================================================================
module        what it holds
============  ==================================================================
sampling      which frames make a clip
transforms    crops, flips and resizing, the same for RGB and flow
streams       `StreamInput`: what one network looks at
memory        decoded items kept in memory
order         the order of an epoch's items; balanced; resumable
dataset       PyTorch data sets and the network's input
============  ==================================================================

Only `dataset` imports torch.
"""
