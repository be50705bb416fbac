"""Layers and helpers that three or more networks share."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models import build


def dropout_layer(dropout: float) -> nn.Dropout:
    """Dropout by the probability that a value is **dropped** (not kept).

    Raises
    ------
    InvalidArgument
        If `dropout` is not in [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise InvalidArgument(
            f"dropout {dropout!r} must be in [0, 1): it is the share of values that are dropped; "
            "0 turns dropout off"
        )
    return nn.Dropout(dropout)


def log_mean_softmax(logits_BTK: Tensor) -> Tensor:
    """Give log of the mean over T of the softmax, B×K: its own softmax is that mean."""
    return logits_BTK.log_softmax(-1).logsumexp(1) - math.log(logits_BTK.shape[1])


def frame_backbone(
    name: str, parameters: Mapping[str, Any] | None, *, num_classes: int, in_channels: int
) -> nn.Module:
    """Build a 2D network by name, to be run on single frames.

    Raises
    ------
    UnknownName
        If no network has this name.
    InvalidArgument
        If it takes more than one frame at a time, or a parameter is not its own.
    """
    network = build(name, num_classes=num_classes, in_channels=in_channels, **(parameters or {}))
    if network.input_layout != "CHW":
        raise InvalidArgument(
            f'backbone "{name}" takes clips ({network.input_layout}); a backbone must take single '
            "frames (CHW), such as resnet18"
        )
    return network


def feature_backbone(
    name: str, parameters: Mapping[str, Any] | None, *, in_channels: int
) -> tuple[nn.Module, int]:
    """Build a 2D network without its classifier; give it and D, the features per frame.

    Raises
    ------
    UnknownName, InvalidArgument
        As `frame_backbone`.
    """
    network = frame_backbone(name, parameters, num_classes=1, in_channels=in_channels)
    last = network.get_submodule(str(network.classifier_name))
    weight = last.weight
    assert isinstance(weight, Tensor)
    network.set_submodule(str(network.classifier_name), nn.Identity())
    return network, weight.shape[1]
