"""Weights from files and checkpoints into networks; nothing is ever unpickled."""

from flowpipe.models.weights.networks import load_network
from flowpipe.models.weights.origins import ORIGINS, Preprocessing, Recognised, recognise
from flowpipe.models.weights.reading import (
    LoadReport,
    check_state,
    classes_of,
    load_state,
    load_weights,
    model_state,
    read_state,
    stem_names,
    variant_parameters,
)

__all__ = [
    "ORIGINS",
    "LoadReport",
    "Preprocessing",
    "Recognised",
    "check_state",
    "classes_of",
    "load_network",
    "load_state",
    "load_weights",
    "model_state",
    "read_state",
    "recognise",
    "stem_names",
    "variant_parameters",
]
