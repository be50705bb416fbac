"""One decoded frame as grey and RGB pictures: range of values, rotation, size."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument

GREY_RULE = "luma-full-range-1"
"""Grey is the Y plane, 16..235 stretched to 0..255 where the video is of limited range; formats
without an 8-bit Y plane go through RGB (0.299 R + 0.587 G + 0.114 B)."""

RESIZE_RULE = "area-or-linear-1"
"""OpenCV's INTER_AREA where no side grows, else INTER_LINEAR; grey and RGB each on its own."""

Picture = NDArray[np.uint8]

SKEW = 50
"""A display matrix whose other entries are this many times smaller turns by quarters only."""

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
# cv2.flip's code for (left with right, top with bottom).
_FLIP = {(True, False): 1, (False, True): 0, (True, True): -1}
_ROTATIONS = {
    (False, False, False): 0,
    (True, False, True): 90,
    (False, True, True): 180,
    (True, True, False): 270,
    # Mirrored left with right, then turned.
    (False, True, False): 0,
    (True, False, False): 90,
    (False, False, True): 180,
    (True, True, True): 270,
}


class Orientation(NamedTuple):
    """How a stored picture is shown: rows and columns exchanged, then mirrored.

    ::

        (False, False, False)  as it is         (False, True, False)  mirrored left with right
        (True, False, True)    90° to the left  (False, False, True)  mirrored top with bottom
        (False, True, True)    180°             (True, False, False)  mirrored at the diagonal
        (True, True, False)    90° to the right (True, True, True)    at the other diagonal
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def mirrored(self) -> bool:
        return self.transposed ^ self.flip_x ^ self.flip_y

    @property
    def rotation(self) -> int:
        """Degrees counterclockwise; of a mirrored picture, after left and right are exchanged."""
        return _ROTATIONS[self]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the picture as it is shown."""
        return (width, height) if self.transposed else (height, width)


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


def orientation_of(frame: Any) -> tuple[Orientation, float | None]:
    """Return how a frame is to be shown, and the stored rotation in degrees if it is none of ours.

    The display matrix (a b; c d) sends x to a·x + c·y and y to b·x + d·y.
    """
    stored = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if stored is None:
        return Orientation(), None
    a, b, _, c, d = (int(value) for value in np.frombuffer(stored, np.int32)[:5])
    if max(abs(b), abs(c)) * SKEW <= min(abs(a), abs(d)):
        return Orientation(False, a < 0, d < 0), None
    if max(abs(a), abs(d)) * SKEW <= min(abs(b), abs(c)):
        return Orientation(True, c < 0, b < 0), None
    return Orientation(), float(frame.rotation)


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


def fit(picture: Picture, orientation: Orientation, size: tuple[int, int]) -> Picture:
    """Bring a picture to its orientation, and to (height, width) by `RESIZE_RULE`."""
    if orientation.transposed:
        picture = np.asarray(cv2.transpose(picture), dtype=np.uint8)
    if (code := _FLIP.get((orientation.flip_x, orientation.flip_y))) is not None:
        picture = np.asarray(cv2.flip(picture, code), dtype=np.uint8)
    height, width = picture.shape[:2]
    if (height, width) != size:
        shrinks = size[0] <= height and size[1] <= width
        rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(picture, (size[1], size[0]), interpolation=rule)
        picture = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(picture)
