"""`recipe_id` under the name that it had before `flowpipe.cache.recipe`."""

from flowpipe.cache.recipe import recipe_id

__all__ = ["recipe_id"]
