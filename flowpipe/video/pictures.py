"""One decoded frame as grey and RGB pictures: range of values, rotation, size."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument

GREY_RULE = "luma-full-range-1"
"""Grey is the Y plane, 16..235 stretched to 0..255 where the video is of limited range; formats
without an 8-bit Y plane go through RGB (0.299 R + 0.587 G + 0.114 B)."""

RESIZE_RULE = "area-or-linear-1"
"""OpenCV's INTER_AREA where no side grows, else INTER_LINEAR; grey and RGB each on its own."""

Picture = NDArray[np.uint8]

# Formats whose plane 0 holds 8-bit luma, one byte for each pixel.
_LIMITED_LUMA = frozenset(
    [
        "yuv410p",
        "yuv411p",
        "yuv420p",
        "yuv422p",
        "yuv440p",
        "yuv444p",
        "yuva420p",
        "yuva422p",
        "yuva444p",
        "nv12",
        "nv21",
        "nv16",
        "nv24",
        "nv42",
    ]
)
_FULL_LUMA = frozenset(("gray", "yuvj411p", "yuvj420p", "yuvj422p", "yuvj440p", "yuvj444p"))
_COLOR_RANGE_FULL = 2  # AVCOL_RANGE_JPEG
_STRETCH = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
_ROTATE = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


def output_size(
    height: int,
    width: int,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Give the (height, width) in px that a displayed frame is brought to.

    ::

        short_side=256   240 × 320 → 256 × 341     the other side keeps the aspect ratio,
                         320 × 240 → 341 × 256     rounded to the nearest px, at least 1
        size=(224, 224)  240 × 320 → 224 × 224     exactly
        neither          240 × 320 → 240 × 320

    Raises
    ------
    InvalidArgument
        If both are given, or a length is below 1.
    """
    if short_side is not None and size is not None:
        raise InvalidArgument(
            f"short_side {short_side} and size {size} cannot both hold; give one of the two"
        )
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            raise InvalidArgument(f"size {size} must be (height, width), both >= 1 px")
        return (int(size[0]), int(size[1]))
    if short_side is None:
        return (height, width)
    if short_side < 1:
        raise InvalidArgument(f"short_side {short_side} px must be >= 1; 256 is the usual choice")
    short = min(height, width)
    return (
        max(1, (2 * height * short_side + short) // (2 * short)),
        max(1, (2 * width * short_side + short) // (2 * short)),
    )


def rotation_of(frame: Any) -> tuple[int, float | None]:
    """Give the rotation in degrees counterclockwise, and the stored value if it is none of ours."""
    stored = frame.rotation
    if stored % 90 or abs(stored) > 360:
        return 0, stored
    return stored % 360, None


def to_rgb(frame: Any) -> Picture:
    rgb_HWC: Picture = frame.to_ndarray(format="rgb24", threads=1)
    return rgb_HWC


def to_grey(frame: Any, rgb_HWC: Picture | None) -> Picture:
    """Give the grey picture of a decoded frame by `GREY_RULE`; `rgb_HWC` is used if at hand."""
    name = frame.format.name
    full_range = name in _FULL_LUMA
    plane = frame.planes[0]
    has_luma = full_range or name in _LIMITED_LUMA
    if not has_luma or plane.line_size < frame.width:  # negative for a bottom-up picture
        rgb_HWC = to_rgb(frame) if rgb_HWC is None else rgb_HWC
        return np.asarray(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    # Rows are padded to the decoder's alignment; OpenCV's DIS asserts on such views.
    padded = np.frombuffer(plane, np.uint8)[: plane.line_size * frame.height]
    luma_HW = padded.reshape(frame.height, plane.line_size)[:, : frame.width]
    if full_range or frame.color_range == _COLOR_RANGE_FULL:
        return luma_HW.copy()
    return np.asarray(cv2.LUT(luma_HW, _STRETCH), dtype=np.uint8)


def fit(picture: Picture, rotation: int, size: tuple[int, int]) -> Picture:
    """Turn a picture upright and bring it to (height, width) by `RESIZE_RULE`."""
    if rotation:
        picture = np.asarray(cv2.rotate(picture, _ROTATE[rotation]), dtype=np.uint8)
    height, width = picture.shape[:2]
    if (height, width) != size:
        shrinks = size[0] <= height and size[1] <= width
        rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(picture, (size[1], size[0]), interpolation=rule)
        picture = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(picture)
