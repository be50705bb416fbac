"""Where a network runs."""

import torch
from torch import nn

from flowpipe.errors import InvalidArgument


def choose_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto"; refuse a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InvalidArgument(f'device "{device}" must be auto, cpu or cuda', parameter="device")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument(
            "device cuda: torch finds no GPU; choose cpu, or auto to take one where there is one",
            parameter="device",
        )
    return device


def place(model: nn.Module, device: torch.device, *, single: bool = False) -> nn.Module:
    """Move a network to a device, its kernels with channels last: a CPU is up to twice as fast.

    With one clip at a time (`single`) kernels of three dimensions stay: some networks are slower.
    """
    layouts = {4: torch.channels_last}
    if device.type == "cpu" and not single:
        layouts[5] = torch.channels_last_3d
    for weight in model.to(device).parameters():
        if weight.ndim in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.ndim])
    return model
