"""`flowpipe view`: a local, read-only page of a cache, a run, features or a file of findings."""

from flowpipe.view.open import open_catalogue
from flowpipe.view.server import PageServer

__all__ = ["PageServer", "open_catalogue"]
