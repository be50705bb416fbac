"""video → flow → cache, in parallel; failures are collected, and what is there is not redone."""

from flowpipe.cache import FlowRecipe
from flowpipe.extraction.run import ExtractionResult, extract
from flowpipe.runs import Failure, Progress

__all__ = ["ExtractionResult", "Failure", "FlowRecipe", "Progress", "extract"]
