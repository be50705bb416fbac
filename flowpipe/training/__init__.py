"""Training of one stream: the options, the loop, its checkpoints, devices, several processes."""

import importlib
from typing import TYPE_CHECKING, Any

from flowpipe.training.options import TestOptions, TrainOptions

if TYPE_CHECKING:
    from flowpipe.training.checkpoint import read_model
    from flowpipe.training.loop import train_stream

__all__ = ["TestOptions", "TrainOptions", "read_model", "train_stream"]

# Late: the options need no torch.
_LATE = {"read_model": "flowpipe.training.checkpoint", "train_stream": "flowpipe.training.loop"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'flowpipe.training' has no attribute {name!r}")
