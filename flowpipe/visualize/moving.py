"""Maximised inputs as pictures that move: what a class likes, stream by stream, speed by speed."""

from collections.abc import Sequence

import numpy as np

from flowpipe.clips.streams import StreamInput
from flowpipe.flow.color import flow_to_color
from flowpipe.visualize.drawing import Picture, column, enlarge, grid, row
from flowpipe.visualize.maximise import Maximised

SIDE_PX = 128
LOOPS = 4
GREY = 127.5


def paint(found: Maximised, stream: StreamInput) -> list[Picture]:
    """Return a picture for each moment; frames and flow, where both are seen, side by side.

    Flow has one scale over all moments. Frames are brought back to pixels.
    """
    cuts = np.cumsum([part.channels for part in stream.parts])[:-1]
    pieces = np.split(found.values_TCHW, cuts, axis=1)
    painted = [
        _paint_part(piece_TCHW, part) for piece_TCHW, part in zip(pieces, stream.parts, strict=True)
    ]
    return [row(list(moment), 2) for moment in zip(*painted, strict=True)]


def _paint_part(values_TCHW: np.ndarray, part: StreamInput) -> list[Picture]:
    values_THWC = values_TCHW.transpose(0, 2, 3, 1)
    if part.input == "flow":
        reach = float(np.hypot(values_THWC[..., 0], values_THWC[..., 1]).max()) or 1.0
        pictures = [flow_to_color(uv_HWC, reach) for uv_HWC in values_THWC]
    elif part.input == "rgbdiff":
        reach = float(np.abs(values_THWC).max()) or 1.0
        pictures = list(np.rint(GREY * (1 + values_THWC / reach)).astype(np.uint8))
    else:
        wanted = part.pixel_values
        pixels = (values_THWC * np.array(wanted.deviation) + np.array(wanted.mean)) * wanted.scale
        if wanted.order == "BGR":
            pixels = pixels[..., ::-1]
        pictures = list(np.rint(pixels.clip(0, 255)).astype(np.uint8))
    return [enlarge(picture, SIDE_PX) for picture in pictures]


def side_by_side(parts: Sequence[Sequence[Picture]]) -> list[Picture]:
    """Return the pictures of a clip of several maximised inputs, played several times forwards."""
    length = max(map(len, parts))
    tallest = max(moments[0].shape[0] for moments in parts)
    filled = [[_as_tall(picture, tallest) for picture in moments] for moments in parts]
    once = [row([m[t * len(m) // length] for m in filled], 6) for t in range(length)]
    return once * LOOPS


def sheet(parts: Sequence[Sequence[Picture]]) -> Picture:
    """Return all moments of each input in a row, and its middle line over time (x–t) at the end."""
    rows = []
    for moments in parts:
        middle = moments[0].shape[0] // 2
        slice_TWC = np.stack([picture[middle] for picture in moments])
        slope = slice_TWC.repeat(max(1, moments[0].shape[0] // len(moments)), axis=0)
        slope = slope[: moments[0].shape[0]]
        rows.append(row([grid(moments, len(moments)), _as_tall(slope, moments[0].shape[0])], 8))
    return column(rows, 6)


def _as_tall(picture: Picture, height: int) -> Picture:
    return np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0)), constant_values=255)
