"""flowpipe: dense optical flow, extracted in parallel and cached, and two-stream networks.

Flow of videos, computed once and kept::

    flowpipe.extract("ucf101/", "ucf101.cache", flow="dis", short_side=256)
    flow = flowpipe.open_cache("ucf101.cache")["v_Archery_g02_c02"].flow[10:20]  # T × H × W × 2

A classifier from a folder of videos, used and handed on::

    run = flowpipe.train("videos/")
    run.predict("new/").to_csv("new.csv")
    run.over_time("long.mp4", every_s=0.5).segments()
    run.export("model.flowpipe")

Flow to look at::

    picture = flowpipe.draw_flow(flowpipe.compute_flow("one.avi")[10])
"""

import importlib
from typing import TYPE_CHECKING, Any

from flowpipe._version import __version__

# Late, so that `import flowpipe` costs nothing; only what trains or predicts imports torch.
_PUBLIC = {
    "train": "flowpipe.experiment.api",
    "load": "flowpipe.experiment.api",
    "predict": "flowpipe.experiment.api",
    "compute_flow": "flowpipe.flow.look",
    "draw_flow": "flowpipe.flow.look",
    "extract": "flowpipe.extraction",
    "open_cache": "flowpipe.cache",
    "fuse": "flowpipe.fusion",
    "load_network": "flowpipe.models.weights",
    "load_scores": "flowpipe.scores",
    "Scores": "flowpipe.scores",
    "FlowpipeError": "flowpipe.errors",
}

# Parts of the package that are public by themselves.
_MODULES = ("cache", "datasets", "flow")

if TYPE_CHECKING:
    from flowpipe import cache, datasets, flow
    from flowpipe.cache import open_cache
    from flowpipe.errors import FlowpipeError
    from flowpipe.experiment.api import load, predict, train
    from flowpipe.extraction import extract
    from flowpipe.flow.look import compute_flow, draw_flow
    from flowpipe.fusion import fuse
    from flowpipe.models.weights import load_network
    from flowpipe.scores import Scores, load_scores

__all__ = [
    "FlowpipeError",
    "Scores",
    "__version__",
    "cache",
    "compute_flow",
    "datasets",
    "draw_flow",
    "extract",
    "flow",
    "fuse",
    "load",
    "load_network",
    "load_scores",
    "open_cache",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"flowpipe.{name}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'flowpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
