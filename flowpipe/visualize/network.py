"""A network that is looked at and left as it was, and its input with time as an axis."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode with frozen parameters; afterwards it is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)


def class_logits(model: nn.Module, values: Tensor) -> Tensor:
    """Return logits B×K; those of a network that scores every frame are averaged."""
    answer: Tensor = model(values)
    return answer.mean(1) if answer.ndim == 3 else answer


def check_class(number: int, logits_BK: Tensor) -> None:
    """Refuse a class that the network has not."""
    if not 0 <= number < logits_BK.shape[1]:
        raise InvalidArgument(f"class {number} must be in [0, {logits_BK.shape[1]})")


def to_BTCHW(values: Tensor, stream: StreamInput) -> Tensor:
    """Return the input of a network, B × `stream.input_shape`, with axes B×T×C×H×W."""
    if stream.layout == "TCHW":
        return values
    if stream.layout == "CTHW":
        return values.transpose(1, 2)
    pieces = torch.split(values, [part.in_channels for part in stream.parts], 1)
    split = [p.reshape(len(p), stream.frames, -1, *stream.crop_size) for p in pieces]
    return torch.cat(split, 2)


def from_BTCHW(values_BTCHW: Tensor, stream: StreamInput) -> Tensor:
    """Undo `to_BTCHW`."""
    if stream.layout == "TCHW":
        return values_BTCHW
    if stream.layout == "CTHW":
        return values_BTCHW.transpose(1, 2)
    pieces = torch.split(values_BTCHW, [part.channels for part in stream.parts], 2)
    return torch.cat([piece.flatten(1, 2) for piece in pieces], 1)
