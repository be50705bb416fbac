"""The filters of a network's first layer, as strips, as clips and in numbers.

One scale for each filter over all its times and channels, and zero always the same grey: scaling
each frame by itself would hide what moves. As in A. Karpathy et al., "Large-scale video
classification with convolutional neural networks", CVPR 2014, and in K. Simonyan, A. Zisserman,
"Two-stream convolutional networks", 2014, doi:10.48550/arXiv.1406.2199 (figure 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument
from flowpipe.flow.color import flow_to_color
from flowpipe.visualize import drawing
from flowpipe.visualize.drawing import Picture

# Of the median norm; a filter that is weaker does nothing.
DEAD = 0.01
TILE_PX = 28
LOOPS, CLIP_FPS = 4, 5


@dataclass(frozen=True)
class Filters:
    """The filters of one layer.

    Attributes
    ----------
    layer : str
    input : str
        What they look at: "rgb", "rgbdiff" or "flow".
    weights_FTCHW : array of float32
        C is 3 (red, green, blue) or 2 (u, v).
    """

    layer: str
    input: str
    weights_FTCHW: NDArray[np.float32]

    def __post_init__(self) -> None:
        wanted = 2 if self.input == "flow" else 3
        if self.weights_FTCHW.ndim != 5 or self.weights_FTCHW.shape[2] != wanted:
            raise InvalidArgument(
                f"filters of shape {self.weights_FTCHW.shape} on {self.input} must be "
                f"F×T×{wanted}×H×W"
            )

    @property
    def norms_F(self) -> NDArray[np.float64]:
        """The length of each filter as a vector."""
        power_F = np.square(self.weights_FTCHW, dtype=np.float64).sum((1, 2, 3, 4))
        return np.asarray(np.sqrt(power_F), np.float64)

    @property
    def dead_F(self) -> NDArray[np.bool_]:
        """Whether a filter's norm is below a hundredth of the median."""
        norms = self.norms_F
        return np.asarray((norms < DEAD * np.median(norms)) | (norms == 0), np.bool_)

    @property
    def order(self) -> list[int]:
        """The filters, the strongest first."""
        return [int(number) for number in np.argsort(-self.norms_F, kind="stable")]

    def numbers(self) -> list[dict[str, Any]]:
        """Return what can be counted of each filter, the strongest first.

        `how_temporal` is max_t |w_t − mean| / |w|, 0 for a filter that is the same at all times;
        `centroid_cycles_per_frame` the mean frequency in time; `orientation_deg` that of the
        spatial grating it likes best and `selectivity` (0 to 1) how much it prefers it; of flow,
        `direction_deg` that of the sum of (u, v): 0 right, 90 down.
        """
        norms, dead = self.norms_F, self.dead_F
        return [
            {"filter": f, "norm": float(norms[f]), "dead": bool(dead[f])}
            | _numbers(self.weights_FTCHW[f].astype(np.float64), self.input)
            for f in self.order
        ]

    def strip(self, number: int) -> Picture:
        """Return one filter over time: a row of tiles; of flow a row each of u, v and colours."""
        tiles = [self._tiles(number, t) for t in range(self.weights_FTCHW.shape[1])]
        return drawing.column([drawing.row(line) for line in zip(*tiles, strict=True)])

    def strips(self) -> Picture:
        """Return all filters over time, the strongest first."""
        strips = [self.strip(number) for number in self.order]
        height, width = strips[0].shape[:2]
        columns = max(1, round(math.sqrt(len(strips) * height / width)))
        return drawing.grid(strips, columns)

    def clip(self) -> list[Picture]:
        """Return a picture of all filters for each time."""
        columns = max(1, round(math.sqrt(len(self.weights_FTCHW))))
        return [
            drawing.grid([drawing.row(self._tiles(f, t)) for f in self.order], columns)
            for t in range(self.weights_FTCHW.shape[1])
        ]

    def _tiles(self, number: int, time: int) -> Sequence[Picture]:
        whole = self.weights_FTCHW[number]
        largest, weights_CHW = float(np.abs(whole).max()), whole[time]
        if self.input != "flow":
            return [drawing.enlarge(drawing.rgb_tile(weights_CHW, largest), TILE_PX)]
        reach = float(np.hypot(whole[:, 0], whole[:, 1]).max()) or 1.0
        colours = flow_to_color(weights_CHW.transpose(1, 2, 0), reach)
        tiles = [drawing.grey_tile(plane, largest) for plane in weights_CHW]
        return [drawing.enlarge(tile, TILE_PX) for tile in (*tiles, colours)]


def _numbers(weights_TCHW: NDArray[np.float64], kind: str) -> dict[str, Any]:
    norm = float(np.sqrt(np.square(weights_TCHW).sum())) or 1.0
    away_T = np.sqrt(np.square(weights_TCHW - weights_TCHW.mean(0)).sum((1, 2, 3)))
    found: dict[str, Any] = {
        "how_temporal": float(away_T.max()) / norm,
        "centroid_cycles_per_frame": temporal_centroid(weights_TCHW),
    }
    power_HW = np.square(np.abs(np.fft.fft2(weights_TCHW))).sum((0, 1))
    frequencies = [np.fft.fftfreq(length) for length in power_HW.shape]
    y_HW, x_HW = np.meshgrid(*frequencies, indexing="ij")
    # Twice the angle: a grating and its opposite are one orientation.
    doubled = (power_HW * np.exp(2j * np.arctan2(y_HW, x_HW)))[np.hypot(x_HW, y_HW) > 0].sum()
    varying = float(power_HW[np.hypot(x_HW, y_HW) > 0].sum())
    found["orientation_deg"] = float(np.rad2deg(np.angle(doubled) / 2) % 180)
    found["selectivity"] = float(abs(doubled)) / varying if varying > 0 else 0.0
    if kind == "flow":
        u, v = weights_TCHW.sum((0, 2, 3))
        found["direction_deg"] = float(np.rad2deg(np.arctan2(v, u)) % 360)
    return found


def temporal_centroid(values_TCHW: NDArray[Any]) -> float:
    """Return the mean frequency in time, in cycles per frame, weighted by power; 0 of nothing."""
    power_T = np.square(np.abs(np.fft.rfft(values_TCHW, axis=0))).sum((1, 2, 3))
    whole = float(power_T.sum())
    return float(power_T @ np.fft.rfftfreq(len(values_TCHW))) / whole if whole > 0 else 0.0


def first_filters(model: nn.Module, stream: StreamInput) -> list[Filters]:
    """Return the filters of a network's first layer: of several pathways one after another.

    A layer that sees frames and flow at once has its filters on each given apart.

    Raises
    ------
    InvalidArgument
        If the layer is no convolution of the stream's channels.
    """
    layers = dict(model.named_modules())
    names = [str(model.stem_name), *getattr(model, "other_stem_names", ())]
    return [found for name in names for found in _layer_filters(name, layers[name], stream)]


def _layer_filters(name: str, layer: nn.Module, stream: StreamInput) -> list[Filters]:
    if not isinstance(layer, nn.Conv2d | nn.Conv3d):
        raise InvalidArgument(f"layer {name} is a {type(layer).__name__}; only convolutions show")
    weights = layer.weight.detach().cpu().float().numpy()
    channels = [part.in_channels for part in stream.parts]
    if weights.shape[1] == sum(channels):
        parts, pieces = stream.parts, np.split(weights, np.cumsum(channels)[:-1], axis=1)
    elif weights.shape[1] in channels:
        parts, pieces = (stream.parts[channels.index(weights.shape[1])],), [weights]
    else:
        raise InvalidArgument(
            f"layer {name} sees {weights.shape[1]} channels, not the {sum(channels)} of stream "
            f'"{stream.name}"; its filters are no pictures'
        )
    found = []
    for part, piece in zip(parts, pieces, strict=True):
        if piece.ndim == 5:
            piece_FTCHW = piece.swapaxes(1, 2)
        else:
            piece_FTCHW = piece.reshape(len(piece), -1, part.channels, *piece.shape[2:])
        if part.input != "flow" and part.pixel_values.order == "BGR":
            piece_FTCHW = piece_FTCHW[:, :, ::-1]
        found.append(Filters(name, part.input, np.ascontiguousarray(piece_FTCHW)))
    return found
