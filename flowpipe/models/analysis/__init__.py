"""What a network is, layer by layer: `describe` one of the table, `summarise` one that is built."""

from flowpipe.models.analysis.summary import Layer, Summary, describe, summarise

__all__ = ["Layer", "Summary", "describe", "summarise"]
