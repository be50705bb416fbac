"""The cache: one HDF5 file per (video content, recipe), and names that point to them.

Public: `open_cache`, `Cache`, `Entry` and the two recipes; `entry_path` and `write_recipe` are
for those who write entries. What lies on disk is in FORMAT.md.
"""

from flowpipe.cache.cache import Cache, open_cache
from flowpipe.cache.entry import Entry
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe
from flowpipe.cache.store import entry_path, write_recipe

__all__ = [
    "Cache",
    "Entry",
    "FeatureRecipe",
    "FlowRecipe",
    "entry_path",
    "open_cache",
    "write_recipe",
]
