"""Tiles, grids, curves and clips: what the pictures of this package are put together from."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside

Picture = NDArray[np.uint8]

GREY, PAPER, INK, LINE = 128, 255, (40, 40, 40), (200, 60, 40)
STRIP_PX = 40


def grey_tile(values_HW: NDArray[Any], largest: float) -> Picture:
    """Paint signed values: zero is always the same grey, ±`largest` white and black."""
    share = np.clip(np.asarray(values_HW, np.float64) / (largest or 1.0), -1, 1)
    levels = np.rint(GREY + 127 * share).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def rgb_tile(values_CHW: NDArray[Any], largest: float) -> Picture:
    """Paint signed values of three channels as a colour; zero is the same grey as above."""
    return np.concatenate([grey_tile(plane, largest)[..., :1] for plane in values_CHW], axis=2)


def enlarge(picture: Picture, side_px: int) -> Picture:
    """Repeat pixels, so that the shorter side is about `side_px`, or larger as it was."""
    factor = max(1, round(side_px / min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def row(pictures: Sequence[Picture], gap_px: int = 1) -> Picture:
    """Put pictures of one height beside each other."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), PAPER, np.uint8)
    return np.concatenate([piece for picture in pictures for piece in (picture, gap)][:-1], axis=1)


def column(pictures: Sequence[Picture], gap_px: int = 1) -> Picture:
    """Put pictures below each other, the narrower ones filled up at the right."""
    width = max(picture.shape[1] for picture in pictures)
    gap = np.full((gap_px, width, 3), PAPER, np.uint8)
    filled = [
        np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=PAPER)
        for p in pictures
    ]
    return np.concatenate([piece for picture in filled for piece in (picture, gap)][:-1])


def grid(pictures: Sequence[Picture], columns: int, gap_px: int = 4) -> Picture:
    """Put pictures of one size into rows."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return column([row(each, gap_px) for each in rows], gap_px)


def curve_strip(curve_N: NDArray[Any], now: int, width: int) -> Picture:
    """Draw a curve from zero to its maximum, and where in it we are."""
    strip = np.full((STRIP_PX, width, 3), PAPER, np.uint8)
    largest = float(curve_N.max()) or 1.0
    x = np.linspace(0, width - 1, len(curve_N))
    y = STRIP_PX - 3 - np.asarray(curve_N) / largest * (STRIP_PX - 6)
    points = np.rint(np.stack([x, y], axis=1)).astype(np.int32)
    cv2.polylines(strip, [points], False, INK, 1, cv2.LINE_AA)
    place = int(points[now, 0])
    cv2.line(strip, (place, 0), (place, STRIP_PX - 1), LINE, 1)
    return strip


def write_png(path: Path, picture: Picture) -> None:
    """Write an RGB picture."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with write_aside(path) as file:
        file.write(data.tobytes())


def write_movie(path: Path, pictures: Iterable[Picture], fps: float) -> None:
    """Write RGB pictures of one size as H.264 that plays anywhere."""
    rate = Fraction(fps).limit_denominator(1000)
    with write_aside(path) as file, av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18", "preset": "veryfast"}
        for number, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if number == 0:
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
