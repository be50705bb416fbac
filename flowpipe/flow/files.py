"""Flow in the files of the benchmarks: Middlebury's .flo, and reading KITTI's 16-bit PNG."""

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.atomic import write_aside
from flowpipe.errors import FlowError, InvalidArgument

UNKNOWN_PX = 1e9
"""Middlebury marks unknown pixels by components above this."""

FLO_MAGIC = 202021.25
FLO_HEADER_BYTES = 12
# The benchmark's own reader refuses larger ones.
FLO_LARGEST_SIDE = 99_999
KITTI_ZERO, KITTI_PER_PX = 32768, 64


def read_flo(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a Middlebury .flo file: float32 202021.25, int32 width, height, then u, v interleaved.

    Returns
    -------
    array of H×W×2 float32
        Displacements in px as stored: unknown pixels are above 1e9.

    Raises
    ------
    FlowError
        If there is no such file, or it is no .flo file, cut short or too long.

    References
    ----------
    https://vision.middlebury.edu/flow/code/flow-code/README.txt
    """
    data = _read_bytes(path)
    if len(data) < FLO_HEADER_BYTES or np.frombuffer(data, "<f4", 1)[0] != FLO_MAGIC:
        raise FlowError(
            f"{path} does not start with {FLO_MAGIC}; it must be a little-endian .flo file"
        )
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, offset=4))
    if not (1 <= width <= FLO_LARGEST_SIDE and 1 <= height <= FLO_LARGEST_SIDE):
        raise FlowError(
            f"{path} gives a size of {height}×{width} px, which must be 1 to {FLO_LARGEST_SIDE} "
            "on each side; the file is damaged"
        )
    expected = FLO_HEADER_BYTES + height * width * 2 * 4
    if len(data) != expected:
        raise FlowError(
            f"{path} has {len(data)} bytes, must have {expected} for {height}×{width} px; "
            "get the file again"
        )
    uv = np.frombuffer(data, "<f4", offset=FLO_HEADER_BYTES).reshape(height, width, 2)
    return uv.astype(np.float32)


def write_flo(path: str | os.PathLike[str], uv_HWC: ArrayLike) -> None:
    """Write a Middlebury .flo file; the layout is that of `read_flo`.

    Raises
    ------
    InvalidArgument
        If the field is not H×W×2 or holds NaN or inf; unknown pixels are written as 1e10.
    FlowError
        If the file cannot be written.
    """
    uv = np.asarray(uv_HWC, np.float32)
    if uv.ndim != 3 or uv.shape[2] != 2 or 0 in uv.shape:
        raise InvalidArgument(f"flow of shape {uv.shape} must be H×W×2, at least one pixel")
    if not np.isfinite(uv).all():
        raise InvalidArgument(
            f"{np.count_nonzero(~np.isfinite(uv))} displacements are not finite; "
            "write unknown pixels as 1e10"
        )
    height, width = uv.shape[:2]
    header = np.float32(FLO_MAGIC).astype("<f4").tobytes()
    header += np.array([width, height], "<i4").tobytes()
    try:
        with write_aside(path) as file:
            file.write(header + uv.astype("<f4").tobytes())
    except OSError as error:
        raise FlowError(f"flow file {path} cannot be written: {error.strerror or error}") from error


def read_kitti_png(
    path: str | os.PathLike[str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a KITTI flow PNG: 16 bit, R = u, G = v as 64·px + 32768, B = whether valid.

    Returns
    -------
    uv_HWC : array of H×W×2 float32
        Displacements in px; 0 where not valid.
    valid_HW : array of H×W bool

    Raises
    ------
    FlowError
        If there is no such file, or it is no PNG of three 16-bit channels.

    References
    ----------
    M. Menze, A. Geiger, "Object scene flow for autonomous vehicles", CVPR 2015.
    https://doi.org/10.1109/CVPR.2015.7298925
    """
    data = _read_bytes(path)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if picture is None or picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 3:
        told = "no picture" if picture is None else f"{picture.dtype} {picture.shape}"
        raise FlowError(f"{path} is {told}; KITTI flow is a PNG of three 16-bit channels")
    # OpenCV gives blue, green, red.
    valid_HW: NDArray[np.bool_] = picture[..., 0] > 0
    uv = (picture[..., 2:0:-1].astype(np.float32) - KITTI_ZERO) / np.float32(KITTI_PER_PX)
    uv[~valid_HW] = 0.0
    return uv, valid_HW


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FlowError(f"flow file {path} cannot be read: {error.strerror or error}") from error
