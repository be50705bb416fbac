"""Features: what a frozen network, or a histogram of flow, makes of the entries of a cache.

============  ==================================================================
module        what it holds
============  ==================================================================
options       `FeatureOptions`: which snippets, boxes and precision
snippets      where the snippets of a video lie, and when
extractor     a frozen network, and which of its layers is kept
presets       networks by name, with their published input and their weights
histogram     histograms of flow: features without weights
computing     all videos of a cache → a cache of features, resumable
align         features of several networks on one grid of time
probe         what features are worth: a classifier on their mean, by fold
interchange   features as .npy with a JSON beside it: export and import
============  ==================================================================

Reading features needs none of these: `open_cache(path, recipe="rgb")["a.avi"].features`.
"""
