"""What the frames of a clip look like, as histograms of edges, colours and textures: no weights.

The counterpart of `whole_clip` for frames. Of some frames, spread evenly over the clip, a grid of
cells holds which way edges run, which colours there are, and which textures; once a grid over the
picture, once in a box about what moves. Small blocks of edges, wherever they are, are counted by
kind. A network that was trained on other pictures may be asked as well: `PictureNetwork`. Which of
these say something, cross-validation inside the training clips decides.

Axes: N clips, T frames, H×W pixels, R×Q cells, K numbers of a cell.

Edges: Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR 2005,
https://doi.org/10.1109/CVPR.2005.177. Textures: Ojala, Pietikäinen, Mäenpää, "Multiresolution
gray-scale and rotation invariant texture classification with local binary patterns", PAMI 24, 2002,
https://doi.org/10.1109/TPAMI.2002.1017623.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.features.clip_svm import (
    LOCAL,
    MANY_CLIPS,
    Description,
    Piece,
    levels,
    roots,
    time_parts,
)
from flowpipe.features.local_motion import LocalMotion, local_motion
from flowpipe.flow.histogram import Cells, fine_cells, fixed_grid, moving_grid
from flowpipe.models.weights.networks import network_of

# Frames of a clip, and the short side to which larger ones are brought.
FRAMES, SHORT_SIDE_PX = 12, 128
GRID = 4
# By how much (of 255) a neighbour must be brighter, after this much smoothing.
BRIGHTER, SMOOTHED_PX = 1.0, 0.8
HUES, GREYS = 8, 4
# Three times the chroma of a colour is its share of a hue; the rest is grey.
CHROMA_GAIN = 3.0
# Blocks are made for motion, whose numbers are smaller than those of edges.
EDGE_SCALE = 0.25
EDGES: tuple[Piece, ...] = (("edges", 1, "picture"), ("edges", 1, "moving"))
COLOURS: tuple[Piece, ...] = (("colours", 1, "picture"), ("colours", 1, "moving"))
# How the edges of what moves follow each other: over halves and quarters of the clip.
POSES: tuple[Piece, ...] = (("edges", 4, "moving"),) * 2
NETWORK: Piece = ("network", 1, "picture")
TEXTURES: tuple[Piece, ...] = (("textures", 1, "picture"), ("textures", 1, "moving"))


@dataclass(frozen=True)
class ClipLooks:
    """What is seen in the frames of a clip, in 4×4 cells, and blocks of edges.

    Attributes
    ----------
    edges : array of 4×4×8 float32
        How strong edges are, by the direction across them in steps of 22.5°.
    colours : array of 4×4×12 float32
        Shares of 8 hues and 4 greys.
    textures : array of 4×4×10 float32
        Shares of the ten rotation-invariant patterns of eight neighbours.
    moving_edges, moving_colours, moving_textures : array of T×4×4×K float32
        The same of each frame, in the box about what moves.
    local : LocalMotion
        Blocks of edges in place of motion.
    seen, seen_mirrored : array of D float32
        What a network sees in the frames, and in the mirrored ones; D is 0 without one.
    """

    edges: Cells
    colours: Cells
    textures: Cells
    moving_edges: Cells
    moving_colours: Cells
    moving_textures: Cells
    local: LocalMotion
    seen: NDArray[np.float32]
    seen_mirrored: NDArray[np.float32]

    def mirrored(self) -> "ClipLooks":
        """Return the same of the clip in a mirror."""
        blocks = np.ascontiguousarray(turned(self.local.blocks[..., ::-1, :]))
        return ClipLooks(
            edges=turned(self.edges[:, ::-1]),
            colours=self.colours[:, ::-1],
            textures=self.textures[:, ::-1],
            moving_edges=turned(self.moving_edges[:, :, ::-1]),
            moving_colours=self.moving_colours[:, :, ::-1],
            moving_textures=self.moving_textures[:, :, ::-1],
            local=LocalMotion(blocks, self.local.times),
            seen=self.seen_mirrored,
            seen_mirrored=self.seen,
        )

    def piece(self, piece: Piece) -> NDArray[np.float32]:
        """Return a piece of the clip's description; it has length one."""
        name, parts, place = piece
        if piece == NETWORK:
            return roots([self.seen])
        if place == "moving":
            moving: Cells = getattr(self, f"moving_{name}")
            return levels([roots(time_parts(moving, 2**n)) for n in range(parts.bit_length())])
        cells: Cells = getattr(self, name)
        # Cells of the whole picture, of its quarters and of the grid.
        each = [cells.reshape(n, GRID // n, n, GRID // n, -1).mean((1, 3)) for n in (1, 2, GRID)]
        return levels([roots([grid]) for grid in each])

    def candidates(self, count: int, *, mirror: bool) -> list[Description]:
        """Return the descriptions to weigh, for `count` clips: all choices of the pieces."""
        kinds: list[tuple[Piece, ...]] = [(LOCAL, LOCAL), EDGES, POSES, COLOURS, TEXTURES]
        kinds += [(NETWORK, NETWORK)] if self.seen.size else []
        if count > MANY_CLIPS:
            return [Description(tuple(itertools.chain(*kinds)))]
        chosen = itertools.product((False, True), repeat=len(kinds))
        listed = [tuple(itertools.chain(*itertools.compress(kinds, each))) for each in chosen]
        return [Description(pieces, mirror=mirror) for pieces in listed if pieces]


def turned(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return edges by direction, …×8, as a mirror turns them."""
    directions = edges.shape[-1]
    return edges[..., [-k % directions for k in range(directions)]]


class PictureNetwork:
    """A network of pictures that was trained on others: what goes into its classifier.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of a public file, under its authors' names.
    where : str
        The file, for messages.

    Raises
    ------
    WeightsError
        If it is not recognised.
    InvalidArgument
        If it does not look at single pictures.
    """

    def __init__(self, state: Mapping[str, Tensor], *, where: str) -> None:
        self.state = dict(state)
        self._network = network_of(state, where=where)
        self.report = f"{self._network.model} of {self._network.origin} is asked about the frames"
        made = self._network.preprocessing
        if made is None or made.input != "rgb" or self._network.input_layout != "CHW":  # type: ignore[union-attr]
            raise InvalidArgument(
                f"{where} is of {self._network.model}, which does not look at single pictures; "
                "ResNet, VGG, SqueezeNet, MobileNetV2 and EfficientNet-Lite0 do",
                parameter="weights",
            )
        self._prepare: Any = made.apply  # type: ignore[union-attr]
        # What goes into the classifier comes out.
        self._network.set_submodule(str(self._network.classifier_name), nn.Identity())

    def __call__(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the network sees in frames, the mean over them, D float32."""
        with torch.inference_mode():
            seen = self._network(self._prepare(torch.from_numpy(frames_THWC)))
        seen_TD = seen.mean((2, 3)) if seen.ndim == 4 else seen
        return np.asarray(seen_TD.mean(0).numpy(), np.float32)


def clip_looks(
    entry: Any, start: int = 0, stop: int | None = None, *, network: PictureNetwork | None = None
) -> ClipLooks:
    """Return what some frames of an entry look like, spread evenly over a range.

    Parameters
    ----------
    entry : Entry
        With flow and frames.
    start, stop : int
        Range of the fields, [start, stop); all by default.
    network : PictureNetwork, optional
        Which is asked as well.
    """
    stop = entry.num_flows if stop is None else min(stop, entry.num_flows)
    if not 0 <= start < stop:
        raise InvalidArgument(f"fields [{start}, {stop}) of {entry.num_flows} must hold one")
    count = min(FRAMES, stop - start)
    places = np.unique(np.linspace(start, stop - 1, count).round().astype(int))
    edges, colours, textures, motion = [], [], [], []
    frames_THWC = np.ascontiguousarray(entry.rgb[places])
    flow_THWC = np.asarray(entry.flow[places], np.float32)
    for large_HWC, uv_HWC in zip(frames_THWC, flow_THWC, strict=True):
        rgb_HWC = _small(large_HWC)
        grey_HW = np.asarray(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY), np.uint8)
        edges.append(fine_cells(edge_field(grey_HW)[None])[0])
        rows, cols = edges[-1].shape[:2]
        colours.append(fixed_grid(colour_shares(rgb_HWC)[None], rows, cols)[0])
        textures.append(fixed_grid(texture_shares(grey_HW)[None], rows, cols)[0])
        motion.append(fixed_grid(fine_cells(uv_HWC[None])[..., -1:], rows, cols)[0])
    kinds = {"colours": np.stack(colours), "textures": np.stack(textures)}
    kinds["edges"] = np.stack(edges)[..., :-1]
    made: dict[str, Any] = {
        name: fixed_grid(cells.mean(0)[None], GRID, GRID)[0] for name, cells in kinds.items()
    }
    # The box follows the last of the numbers. Frames are far apart in time: each has a box of its
    # own, of one size.
    followed = np.concatenate([*kinds.values(), np.stack(motion)], axis=-1)
    boxed = moving_grid(followed, GRID, GRID, center_fields=0, size_fields=FRAMES)
    ends = np.cumsum([cells.shape[-1] for cells in kinds.values()])
    of_kinds = zip(kinds, np.split(boxed, ends, axis=-1)[:-1], strict=True)
    made |= {f"moving_{name}": grid for name, grid in of_kinds}
    turned_THWC = np.ascontiguousarray(frames_THWC[:, :, ::-1])
    nothing = np.empty(0, np.float32)
    return ClipLooks(
        **made,
        local=local_motion(np.float32(EDGE_SCALE) * np.stack(edges)),
        seen=nothing if network is None else network(frames_THWC),
        seen_mirrored=nothing if network is None else network(turned_THWC),
    )


def _small(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb_HWC.shape[:2]
    scale = SHORT_SIDE_PX / min(height, width)
    if scale >= 1:
        return rgb_HWC
    size = round(width * scale), round(height * scale)
    return np.asarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def edge_field(grey_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the gradient as H×W×2 float32, its angle doubled: dark-bright is as bright-dark."""
    grey = grey_HW.astype(np.float32)
    x_HW = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8)
    y_HW = cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
    length_HW = np.hypot(x_HW, y_HW) + 1e-6
    doubled = np.stack([x_HW**2 - y_HW**2, 2 * x_HW * y_HW], axis=-1)
    return np.asarray(doubled / length_HW[..., None], np.float32)


def colour_shares(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how much of each of 8 hues and 4 greys a pixel is, H×W×12 float32."""
    hsv = cv2.cvtColor(rgb_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hue, value = hsv[..., 0] * (HUES / 360), hsv[..., 2] * (GREYS - 1)
    chroma = np.clip(CHROMA_GAIN * hsv[..., 1] * hsv[..., 2], 0, 1)
    half = HUES / 2
    away = [np.abs((hue - k + half) % HUES - half) for k in range(HUES)]
    hues = [chroma * np.maximum(0, 1 - each) for each in away]
    greys = [(1 - chroma) * np.maximum(0, 1 - np.abs(value - k)) for k in range(GREYS)]
    return np.stack([*hues, *greys], axis=-1).astype(np.float32)


def texture_shares(grey_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return which of the ten patterns of brighter neighbours each pixel has, H×W×10 float32."""
    grey = cv2.GaussianBlur(grey_HW, (0, 0), SMOOTHED_PX).astype(np.float32)
    grey = np.pad(grey, 1, mode="edge")
    height, width = grey_HW.shape
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    middle = grey[1:-1, 1:-1] + BRIGHTER
    brighter = np.stack([grey[y : y + height, x : x + width] > middle for y, x in ring])
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(0)
    pattern = np.where(changes <= 2, brighter.sum(0), len(ring) + 1)
    return np.eye(len(ring) + 2, dtype=np.float32)[pattern]
