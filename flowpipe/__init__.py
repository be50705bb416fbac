"""flowpipe: videos become flow once, in parallel and for good; networks read the cache."""

__version__ = "0.1.0"
