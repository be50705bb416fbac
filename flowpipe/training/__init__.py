"""Training of one stream: the options, the loop, its checkpoints, devices, several processes."""

import importlib
from typing import TYPE_CHECKING, Any

from flowpipe.training.options import TestOptions, TrainOptions

if TYPE_CHECKING:
    from flowpipe.training.loop import train_stream

__all__ = ["TestOptions", "TrainOptions", "train_stream"]


def __getattr__(name: str) -> Any:
    if name == "train_stream":  # late: the options need no torch
        return importlib.import_module("flowpipe.training.loop").train_stream
    raise AttributeError(f"module 'flowpipe.training' has no attribute {name!r}")
