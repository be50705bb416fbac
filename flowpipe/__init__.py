"""flowpipe: dense optical flow, extracted in parallel and cached, and two-stream networks.

import flowpipe
flowpipe.extract("ucf101/", "ucf101.cache", flow="dis", short_side=256)
flow = flowpipe.open_cache("ucf101.cache")["v_Archery_g02_c02"].flow[10:20]
"""

import importlib
from typing import TYPE_CHECKING, Any

from flowpipe._version import __version__

# Late, so that `import flowpipe` costs nothing; only `load_network` imports torch.
_PUBLIC = {
    "extract": "flowpipe.extraction",
    "open_cache": "flowpipe.cache",
    "fuse": "flowpipe.fusion",
    "load_network": "flowpipe.models.weights",
    "load_scores": "flowpipe.scores",
    "Scores": "flowpipe.scores",
    "FlowpipeError": "flowpipe.errors",
}

if TYPE_CHECKING:
    from flowpipe.cache import open_cache
    from flowpipe.errors import FlowpipeError
    from flowpipe.extraction import extract
    from flowpipe.fusion import fuse
    from flowpipe.models.weights import load_network
    from flowpipe.scores import Scores, load_scores

__all__ = [
    "FlowpipeError",
    "Scores",
    "__version__",
    "extract",
    "fuse",
    "load_network",
    "load_scores",
    "open_cache",
]


def __getattr__(name: str) -> Any:
    if name == "flow":
        return importlib.import_module("flowpipe.flow")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'flowpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
