"""Weights from files and checkpoints into networks; nothing is ever unpickled."""

from flowpipe.models.weights.reading import (
    LoadReport,
    load_state,
    load_weights,
    model_state,
    read_state,
    stem_names,
)

__all__ = ["LoadReport", "load_state", "load_weights", "model_state", "read_state", "stem_names"]
