"""Flow to look at or to compute with, of a video file: `compute_flow`, `draw_flow`."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow import create
from flowpipe.flow.color import flow_to_color
from flowpipe.video import VideoReader

# A picture is not louder than its video: full color is at least this, so that noise stays white.
LEAST_SCALE_PX = 2.0
SCALE_PERCENT = 99.0


def iterate_flow(
    video: str | os.PathLike[str],
    method: str = "dis+tvl1",
    *,
    short_side: int | None = None,
    fps: float | None = None,
    **parameters: Any,
) -> Iterator[tuple[float, NDArray[np.uint8], NDArray[np.float32]]]:
    """Give (time in s, frame H×W×3, flow H×W×2 in px) for each frame but the last.

    Parameters as for `compute_flow`; memory does not grow with the length of the video.
    """
    compute = create(method, **parameters)
    in_color = getattr(compute, "takes", "grey") == "rgb"
    previous = None
    for frame in VideoReader(os.fspath(video), short_side=short_side, fps=fps, rgb=True):
        assert frame.rgb_HWC is not None
        seen = frame.rgb_HWC if in_color else frame.grey_HW
        if previous is not None:
            time_s, rgb_HWC, before = previous
            yield time_s, rgb_HWC, compute(before, seen)
        previous = frame.pts_s, frame.rgb_HWC, seen


def compute_flow(
    video: str | os.PathLike[str],
    method: str = "dis+tvl1",
    *,
    short_side: int | None = None,
    fps: float | None = None,
    **parameters: Any,
) -> NDArray[np.float32]:
    """Compute the optical flow of a video file.

    Parameters
    ----------
    video : path
    method : str
        A name of `flowpipe.flow.FLOWS`, or your own; see `flowpipe.flow.create`.
    short_side : int, optional
        Bring frames to this size in px before; flow is in px of that size.
    fps : float, optional
        Take frames at this rate, by timestamp.
    **parameters
        Of the method.

    Returns
    -------
    array of T×H×W×2 float32
        px per frame step, x (right) then y (down): N frames have N − 1 flows.

    Raises
    ------
    VideoError
        If the video cannot be read.
    InvalidArgument
        If it has one frame only.
    """
    fields = [uv for _, _, uv in iterate_flow(
        video, method, short_side=short_side, fps=fps, **parameters
    )]  # fmt: skip
    if not fields:
        raise InvalidArgument(f"{video} has one frame; flow needs two")
    return np.stack(fields)


def natural_scale_px(lengths_px: ArrayLike) -> float:
    """Return the length that gets full color: the 99th percentile, in whole px, 2 at least."""
    lengths = np.asarray(lengths_px)
    if not lengths.size:
        return LEAST_SCALE_PX
    return float(max(LEAST_SCALE_PX, np.ceil(np.percentile(lengths, SCALE_PERCENT))))


def draw_flow(uv_HWC: ArrayLike, *, scale_px: float | None = None) -> NDArray[np.uint8]:
    """Draw flow in Middlebury's colors: hue is direction, saturation is length.

    Parameters
    ----------
    uv_HWC : array of H×W×2
        Flow in px.
    scale_px : float, optional
        The length that gets full color; give the same to compare pictures. By default the 99th
        percentile, and 2 px at least, so that stillness stays white.

    Returns
    -------
    array of H×W×3 uint8
        RGB.
    """
    uv = np.asarray(uv_HWC, np.float32)
    if scale_px is None:
        scale_px = natural_scale_px(np.hypot(uv[..., 0], uv[..., 1]))
    return flow_to_color(uv, scale_px)
