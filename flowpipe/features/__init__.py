"""Features of a frozen network, the second level of the cache.

============  ==================================================================
module        what it holds
============  ==================================================================
extractor     a network, what it looks at, which snippets, which layer
computing     all videos of a cache → a store of features, resumable
results       what that did
presets       published feature extractors
files         features as .npy with a JSON beside it: export and import
linear        a linear classifier, fitted at once
probe         what a feature is worth: a linear classifier on its mean, by fold
============  ==================================================================

Reading a store needs none of these: see `flowpipe.cache.Cache.select`.
"""
