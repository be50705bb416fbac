"""Crops, flips and resizing of clips, the same for every stream of a sample.

A clip travels as the codes of the cache, T×C×H×W: RGB as uint8 with C = 3, flow as uint8,
int16 or float16 codes with C = 2, RGB differences as int16 with C = 3. The geometry (`View`)
is drawn once per sample, with a generator that is an argument, and then applied to all streams.

What happens to flow, where it differs from pictures:

- A flip negates u. Codes are mid-tread, so this is exact: 256 − c for uint8, −c otherwise.
- Resizing scales the values, u by output width / crop width, v by output height / crop height,
  around the code of zero flow. uint8 codes that leave 1..255 are clipped, as when encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument

Codes = NDArray[Any]
Content = Literal["rgb", "flow", "rgbdiff"]
CropChoice = Literal["corners", "random", "center"]
TestCrops = Literal["center", "three", "five", "ten"]
Layout = Literal["CHW", "CTHW", "TCHW"]

ZERO_CODE_U8 = 128
TSN_SCALES = (1.0, 0.875, 0.75, 0.66)
_I16_LIMIT = 32767


@dataclass(frozen=True)
class View:
    """A box of the frame in pixels, rows `[top, top + height)`, and whether it is mirrored.

    Raises
    ------
    InvalidArgument
        If the box is empty or begins outside of the frame.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def __post_init__(self) -> None:
        if self.top < 0 or self.left < 0 or self.height < 1 or self.width < 1:
            raise InvalidArgument(
                f"box of {self.height}×{self.width} at ({self.top}, {self.left}) must begin "
                "inside the frame and hold a pixel"
            )


def box_size(
    frame_size: tuple[int, int], output_size: tuple[int, int], scale: float
) -> tuple[int, int]:
    """Return the (height, width) of a box: `scale` times the largest of the output's shape.

    The largest box has the output's aspect ratio and just fits into the frame. With square
    outputs that is the short side: scale 0.875 of a frame of 256×340 gives 224×224.

    Raises
    ------
    InvalidArgument
        If the scale is not in (0, 1].
    """
    if not 0.0 < scale <= 1.0:
        raise InvalidArgument(f"scale {scale} must be in (0, 1]; 0.875 is 224 of 256 pixels")
    fit = scale * min(frame_size[0] / output_size[0], frame_size[1] / output_size[1])
    height = min(max(round(output_size[0] * fit), 1), frame_size[0])
    width = min(max(round(output_size[1] * fit), 1), frame_size[1])
    return height, width


def draw_view(
    frame_size: tuple[int, int],
    output_size: tuple[int, int],
    rng: np.random.Generator,
    *,
    scales: Sequence[float] = TSN_SCALES,
    max_distortion: int = 1,
    crop: CropChoice = "corners",
    flip: bool = True,
) -> View:
    """Draw the view of a training sample.

    Parameters
    ----------
    frame_size, output_size : (int, int)
        (height, width) of the cached frames and of the network's input.
    rng : numpy.random.Generator
    scales : sequence of float
        Sides of the box as shares of the largest box (`box_size`). One value gives crops of
        one size; TSN's 1, 0.875, 0.75, 0.66 gives multi-scale crops.
    max_distortion : int
        How far apart in `scales` height and width may be; 0 keeps the output's shape.
    crop : {"corners", "random", "center"}
        Four corners and the centre, or anywhere, or only the centre.
    flip : bool
        Whether every second view, at random, is mirrored.

    References
    ----------
    Wang et al. (2016), Temporal Segment Networks, section 3.2, doi:10.1007/978-3-319-46484-8_2.
    """
    if not scales:
        raise InvalidArgument("scales is empty; (0.875,) gives crops of one size")
    if max_distortion < 0:
        raise InvalidArgument(f"max_distortion {max_distortion} must be ≥ 0; 0 keeps the shape")
    sizes = [box_size(frame_size, output_size, scale) for scale in scales]
    pairs = [
        (row, column)
        for row in range(len(sizes))
        for column in range(len(sizes))
        if abs(row - column) <= max_distortion
    ]
    row, column = pairs[int(rng.integers(len(pairs)))]
    height, width = sizes[row][0], sizes[column][1]
    room_y, room_x = frame_size[0] - height, frame_size[1] - width
    if crop == "random":
        top, left = int(rng.integers(room_y + 1)), int(rng.integers(room_x + 1))
    elif crop == "corners":
        top, left = _corners_and_centre(room_y, room_x)[int(rng.integers(5))]
    elif crop == "center":
        top, left = room_y // 2, room_x // 2
    else:
        raise InvalidArgument(f'crop "{crop}" must be "corners", "random" or "center"')
    return View(top, left, height, width, flip=bool(flip and rng.integers(2)))


def make_test_views(
    frame_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    crops: TestCrops = "center",
    scale: float = 0.875,
    flip: bool = False,
) -> list[View]:
    """Return the views of a test clip, in a fixed order.

    ==========  ======================================================================
    `crops`     views
    ==========  ======================================================================
    "center"    the middle
    "three"     left, middle, right, or top, middle, bottom: along the long side
    "five"      top left, top right, bottom left, bottom right, middle
    "ten"       the five, then the five mirrored
    ==========  ======================================================================

    `flip=True` appends the mirrored views to any but "ten", which has them.
    """
    height, width = box_size(frame_size, output_size, scale)
    room_y, room_x = frame_size[0] - height, frame_size[1] - width
    if crops == "center":
        places = [(room_y // 2, room_x // 2)]
    elif crops == "three":
        places = [
            (room_y // 2, room_x * step // 2)
            if room_x >= room_y
            else (room_y * step // 2, room_x // 2)
            for step in range(3)
        ]
    elif crops in ("five", "ten"):
        places = _corners_and_centre(room_y, room_x)
    else:
        raise InvalidArgument(f'crops "{crops}" must be "center", "three", "five" or "ten"')
    flips = (False, True) if flip or crops == "ten" else (False,)
    return [View(top, left, height, width, flip=side) for side in flips for top, left in places]


def apply_view(
    codes_TCHW: Codes, view: View, output_size: tuple[int, int], content: Content
) -> Codes:
    """Crop, resize and flip a clip; give a contiguous array of the same dtype.

    Raises
    ------
    InvalidArgument
        If the box reaches beyond the frames.
    """
    rows, columns = codes_TCHW.shape[-2:]
    bottom, right = view.top + view.height, view.left + view.width
    if bottom > rows or right > columns:
        raise InvalidArgument(
            f"box of {view.height}×{view.width} at ({view.top}, {view.left}) reaches beyond "
            f"the frame of {rows}×{columns}; draw it for this frame size"
        )
    codes = codes_TCHW[..., view.top : bottom, view.left : right]
    codes = resize(codes, output_size, content)
    return np.ascontiguousarray(flip_horizontal(codes, content) if view.flip else codes)


def flip_horizontal(codes_TCHW: Codes, content: Content) -> Codes:
    """Mirror left and right; of flow, negate u as well. Twice gives the clip again."""
    # OpenCV moves bytes and knows no halves; it is five times as fast as numpy's [..., ::-1].
    raw = codes_TCHW.view(np.uint16) if codes_TCHW.dtype == np.float16 else codes_TCHW
    out = np.empty_like(raw, order="C")
    for place in np.ndindex(raw.shape[:2]):
        cv2.flip(raw[place], 1, dst=out[place])
    mirrored = out.view(codes_TCHW.dtype)
    if content != "flow":
        return mirrored
    # For uint8 this wraps to 256 − c, the mid-tread code of the negated value; code 0 is unused.
    np.negative(mirrored[:, 0], out=mirrored[:, 0])
    return mirrored


def resize(codes_TCHW: Codes, output_size: tuple[int, int], content: Content) -> Codes:
    """Resize every plane to (height, width); scale flow values by the change of each axis.

    Planes that shrink along both axes are averaged over areas, all others interpolated
    linearly, in float32 with one rounding at the end.
    """
    frames, channels, rows, columns = codes_TCHW.shape
    height, width = output_size
    if (rows, columns) == (height, width):
        return codes_TCHW
    shrinks = height <= rows and width <= columns
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    zero = np.float32(ZERO_CODE_U8 if content == "flow" and codes_TCHW.dtype == np.uint8 else 0)
    factors = np.array([width / columns, height / rows], np.float32)
    out_TCHW = np.empty((frames, channels, height, width), codes_TCHW.dtype)
    plane = np.empty((rows, columns), np.float32)
    resized = np.empty((height, width), np.float32)
    # Plane by plane, so that all steps find their numbers in the processor's cache.
    for frame, channel in np.ndindex(frames, channels):
        np.copyto(plane, codes_TCHW[frame, channel])
        # OpenCV takes (width, height).
        cv2.resize(plane, (width, height), dst=resized, interpolation=interpolation)
        if content == "flow" and factors[channel] != 1:
            resized -= zero
            resized *= factors[channel]
            resized += zero
        _round(resized, codes_TCHW.dtype, content)
        out_TCHW[frame, channel] = resized
    return out_TCHW


def _round(values: NDArray[np.float32], dtype: np.dtype[Any], content: Content) -> None:
    """Bring values, in place, to those that the type of the codes has."""
    if dtype == np.float16:
        return
    if dtype == np.uint8:
        low, high = (1, 255) if content == "flow" else (0, 255)
    else:
        low, high = -_I16_LIMIT, _I16_LIMIT
    np.rint(values, out=values)
    np.clip(values, low, high, out=values)


def to_layout(codes_TCHW: Codes, layout: Layout) -> Codes:
    """Arrange a clip as its network takes it.

    ======  =======================================================================
    "CHW"   T·C channels, the first frame first: u0 v0 u1 v1 …, or r0 g0 b0 r1 …
    "CTHW"  channels, then time (3D convolutions)
    "TCHW"  as it is (one frame after the other)
    ======  =======================================================================
    """
    if layout == "TCHW":
        return codes_TCHW
    if layout == "CTHW":
        return np.ascontiguousarray(codes_TCHW.swapaxes(0, 1))
    if layout != "CHW":
        raise InvalidArgument(f'layout "{layout}" must be "CHW", "CTHW" or "TCHW"')
    return stack_CHW(codes_TCHW)


def stack_CHW(codes_TCHW: Codes) -> Codes:
    """Stack L fields of C channels to L·C channels, the first field first, u before v."""
    frames, channels, rows, columns = codes_TCHW.shape
    return codes_TCHW.reshape(frames * channels, rows, columns)


def _corners_and_centre(room_y: int, room_x: int) -> list[tuple[int, int]]:
    return [(0, 0), (0, room_x), (room_y, 0), (room_y, room_x), (room_y // 2, room_x // 2)]
