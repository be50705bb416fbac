"""Flow as colours: the Middlebury wheel. Direction is hue, magnitude is saturation.

S. Baker, D. Scharstein, J. P. Lewis, S. Roth, M. J. Black, R. Szeliski, "A database and
evaluation methodology for optical flow", IJCV 92, 2011, https://doi.org/10.1007/s11263-010-0390-2,
whose colour code is D. Scharstein's `colorcode.cpp`. Zero is white, `max_px` fully saturated,
what lies beyond darker by a quarter, unknown flow black. The scale is an argument on purpose: a
scale taken from each field would give equal colours to unequal motion.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow.files import UNKNOWN_PX

# Steps between neighbouring corners of the wheel, chosen by how well the eye tells hues apart.
RED_YELLOW, YELLOW_GREEN, GREEN_CYAN, CYAN_BLUE, BLUE_MAGENTA, MAGENTA_RED = 15, 6, 4, 11, 13, 6
OVER_RANGE = 0.75


@cache
def color_wheel() -> NDArray[np.uint8]:
    """Give the 55 colours of the wheel, 55×3 RGB, from red over yellow, green, cyan, blue.

    Motion to the right (u > 0) is at the wheel's start, motion to the left in its middle; the
    order goes clockwise on the screen: right, down, left, up. The array is read-only.
    """
    corners = np.array(
        [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)]
    )
    steps = (RED_YELLOW, YELLOW_GREEN, GREEN_CYAN, CYAN_BLUE, BLUE_MAGENTA, MAGENTA_RED)
    parts = []
    for index, count in enumerate(steps):
        start, end = corners[index], corners[(index + 1) % len(corners)]
        # 255·i/count cut to a whole number for rising and falling edges alike, as in the original.
        ramp = 255 * np.arange(count)[:, None] // count
        parts.append(start + np.sign(end - start) * ramp)
    wheel = np.concatenate(parts).astype(np.uint8)
    wheel.flags.writeable = False
    return wheel


def flow_to_color(uv_HWC: ArrayLike, max_px: float) -> NDArray[np.uint8]:
    """Paint a flow field.

    Parameters
    ----------
    uv_HWC : array of …×2 float
        Displacements in px; NaN, inf and Middlebury's "unknown" (above 1e9) become black.
    max_px : float
        The magnitude of full saturation. Keep it fixed over a video.

    Returns
    -------
    array of …×3 uint8
        RGB.

    Raises
    ------
    InvalidArgument
        If the last axis is not (u, v), or `max_px` is not a positive number.

    References
    ----------
    S. Baker et al., 2011. https://doi.org/10.1007/s11263-010-0390-2
    """
    uv = np.asarray(uv_HWC, np.float64)
    if uv.ndim < 1 or uv.shape[-1] != 2:
        raise InvalidArgument(f"flow of shape {uv.shape} must end in 2; the last axis is (u, v)")
    if not (math.isfinite(max_px) and max_px > 0):
        raise InvalidArgument(f"max_px {max_px} must be > 0; 20 shows what storage u8 can hold")
    # The comparison is False for NaN too.
    known: NDArray[np.bool_] = np.asarray((np.abs(uv) <= UNKNOWN_PX).all(axis=-1))
    u, v = np.moveaxis(np.where(known[..., None], uv, 0.0) / max_px, -1, 0)

    wheel = color_wheel() / 255.0
    # Adding 0 turns −0.0 into 0.0: motion straight to the right is at the wheel's start, not end.
    turn = (np.arctan2(-(v + 0.0), -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = turn.astype(np.intp)
    share = (turn - before)[..., None]
    hue = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    radius = np.hypot(u, v)[..., None]
    color = np.where(radius <= 1, 1 - radius * (1 - hue), hue * OVER_RANGE)
    rgb: NDArray[np.uint8] = (255 * color * known[..., None]).astype(np.uint8)
    return rgb


def color_key(diameter_px: int) -> NDArray[np.uint8]:
    """Give the legend: a disc whose colour at each place is that of motion from its centre there.

    Returns
    -------
    array of D×D×3 uint8
        RGB, white outside the disc.
    """
    places = (np.arange(diameter_px) + 0.5) / diameter_px * 2 - 1
    uv_HWC = np.stack(np.meshgrid(places, places), axis=-1)
    outside = np.hypot(uv_HWC[..., 0], uv_HWC[..., 1]) > 1
    return flow_to_color(np.where(outside[..., None], 0.0, uv_HWC), 1.0)
