"""Whether a network gives here what its authors' code gave, with weights and input by rule.

Weights and inputs are drawn from the names and shapes of tensors alone: uniform numbers of the
Mersenne Twister that NumPy has frozen, seeded by the CRC-32 of the name. `parity.json` has, for
networks of public files, a digest of names and shapes, the gain of the weights, the input, and what
the original implementation gave for it. So the conversion and the network are checked on this
machine, with this version of torch, without any trained weights.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.models.weights.networks import network_of

__all__ = ["TOLERANCE", "ParityCheck", "check_parity", "fill", "make_input", "names_digest"]

# Of the logits' root mean square; rounding makes a tenth of it.
TOLERANCE = 3e-5

Shapes = Mapping[str, tuple[int, ...]]


def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return uniform numbers in [-1, 1); the name is the seed."""
    seed = zlib.crc32(name.encode("utf-8"))
    return 2.0 * np.random.RandomState(seed).random_sample(shape) - 1.0


def fill(name: str, shape: tuple[int, ...], gain: float) -> Tensor:
    """Return a tensor by its name and shape; weights have the deviation gain / √(fan in)."""
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    value = draw(name, shape)
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        value = 1.0 + 0.5 * value
    elif len(shape) < 2:
        value = 0.2 * value
    elif len(shape) == 3 and shape[0] == 1:  # tokens and position embeddings
        value = 0.5 * value
    else:
        value = value * (gain * math.sqrt(3.0 / math.prod(shape[1:])))
    return torch.from_numpy(value.astype(np.float32))


def make_input(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return fine noise and blocks of 16×16 px that differ from frame to frame."""
    height, width = shape[-2:]
    grid = (*shape[:-2], -(-height // 16), -(-width // 16))
    coarse = draw(name + "/coarse", grid).repeat(16, -2).repeat(16, -1)[..., :height, :width]
    value = math.sqrt(1.5) * (draw(name, shape) + coarse)
    return torch.from_numpy(value.astype(np.float32))


def names_digest(shapes: Shapes) -> str:
    """Return a digest of names and shapes, in any order."""
    lines = [
        f"{name} {'×'.join(map(str, shape))}"
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    ]
    return f"{zlib.crc32(chr(10).join(sorted(lines)).encode()):08x}"


@dataclass(frozen=True)
class ParityCheck:
    """What came out.

    Attributes
    ----------
    name
        Of the recorded implementation.
    error
        Largest difference of a logit, as a share of their root mean square.
    """

    name: str
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE


def check_parity(shapes: Shapes, *, where: str, origin: str | None = None) -> ParityCheck | None:
    """Run the network of a file on recorded weights and input; None if it is not recorded.

    Parameters
    ----------
    shapes
        Names in the file to shapes.
    where, origin
        As for `flowpipe.models.weights.recognise`.
    """
    records = json.loads(Path(__file__).with_name("parity.json").read_text("utf-8"))
    record = records.get(names_digest(shapes))
    if record is None:
        return None
    state = {name: fill(name, tuple(shape), record["gain"]) for name, shape in shapes.items()}
    network = network_of(state, where=where, origin=origin or record["origin"])
    return ParityCheck(record["name"], _error(network, record))


def _error(network: nn.Module, record: Mapping[str, Any]) -> float:
    clip = shaped(make_input(record["input"], tuple(record["shape"])), network)
    with torch.no_grad():
        logits = network(clip)[0, : len(record["logits"])]
    difference = (logits - torch.tensor(record["logits"])).abs().max()
    return float(difference) / float(record["rms"])


def shaped(clip: Tensor, network: nn.Module) -> Tensor:
    """Take away an axis for clips of a video; put channels of segments into an axis."""
    size = clip.shape[-2:]
    if network.input_layout == "TCHW":
        return clip.reshape(len(clip), -1, int(network.in_channels), *size)  # type: ignore[arg-type]
    if network.input_layout == "CTHW":
        return clip.reshape(-1, int(network.in_channels), *clip.shape[-3:])  # type: ignore[arg-type]
    return clip
