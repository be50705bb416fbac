"""Maximised inputs as pictures that move: what a class likes, stream by stream, speed by speed."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from flowpipe.clips.streams import StreamInput
from flowpipe.flow.color import flow_to_color
from flowpipe.visualize.drawing import INK, PAPER, Picture, column, enlarge, grid, row
from flowpipe.visualize.maximise import Maximised

SIDE_PX = 128
LOOPS = 4
TITLE_PX = 16
GREY = 127.5
MOST_OF_FLOW = 99.5  # %; the few longest vectors would leave the others pale


def paint(found: Maximised, stream: StreamInput) -> list[Picture]:
    """Return a picture for each moment; frames and flow, where both are seen, side by side.

    Flow has one scale over all moments, which few pixels exceed. Frames are brought back to pixels.
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
        length_THW1 = np.hypot(values_THWC[..., :1], values_THWC[..., 1:])
        reach = float(np.percentile(length_THW1, MOST_OF_FLOW)) or 1.0
        shown_THWC = values_THWC * np.minimum(1, 0.999 * reach / np.maximum(length_THW1, 1e-12))
        pictures = [flow_to_color(uv_HWC, reach) for uv_HWC in shown_THWC]
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


def side_by_side(parts: Mapping[str, Sequence[Picture]]) -> list[Picture]:
    """Return the clip of several maximised inputs under their titles, played forwards only."""
    length = max(map(len, parts.values()))
    tallest = max(moments[0].shape[0] for moments in parts.values())
    filled = [
        [_titled(title, _as_tall(picture, tallest)) for picture in moments]
        for title, moments in parts.items()
    ]
    once = [row([m[t * len(m) // length] for m in filled], 6) for t in range(length)]
    return once * LOOPS


def film(moments: Sequence[Picture]) -> tuple[Picture, Picture]:
    """Return all moments side by side without a gap, and the middle line over time (x–t)."""
    height = moments[0].shape[0]
    slice_TWC = np.stack([picture[height // 2] for picture in moments])
    slope = slice_TWC.repeat(max(1, height // len(moments)), axis=0)[:height]
    return np.concatenate(moments, axis=1), slope


def sheet(parts: Mapping[str, Sequence[Picture]]) -> Picture:
    """Return all moments of each input in a row, and its middle line over time (x–t) at the end."""
    rows = []
    for title, moments in parts.items():
        line = row(
            [grid(moments, len(moments)), _as_tall(film(moments)[1], moments[0].shape[0])], 8
        )
        rows.append(_titled(title, line))
    return column(rows, 6)


def _titled(title: str, picture: Picture) -> Picture:
    strip = np.full((TITLE_PX, picture.shape[1], 3), PAPER, np.uint8)
    cv2.putText(strip, title, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def _as_tall(picture: Picture, height: int) -> Picture:
    filled = ((0, height - picture.shape[0]), (0, 0), (0, 0))
    return np.pad(picture, filled, constant_values=PAPER)
