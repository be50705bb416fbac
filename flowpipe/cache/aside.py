"""What `flowpipe.cache.part` holds, under the name that it had before."""

from flowpipe.cache.part import is_abandoned, remove_abandoned

__all__ = ["is_abandoned", "remove_abandoned"]
