"""How far flow may be trusted: forward and backward flow must undo each other.

Where they do not, a thing is hidden in one of the two frames, or one field is wrong. The length of
uv(x) + back(x + uv(x)) in px, averaged over cells of 8×8 px, is kept in 16 steps: 4 bits a cell, a
few hundredths of what the flow takes. Cells rank errors better than pixels, whose difference is
noisy (`benchmarks/confidence.py`). The check is that of N. Sundaram, T. Brox, K. Keutzer, "Dense
point trajectories by GPU-accelerated large displacement optical flow", ECCV 2010,
https://doi.org/10.1007/978-3-642-15549-9_32, without its threshold.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 8
LEVELS = 16
FINEST_PX, STEP = 0.01, 1.6
TRUSTED = 5
"""Least code of what is painted, and of what clips keep: differences below 1.1 px."""


def confidence_codes(
    uv_HWC: NDArray[np.float32], back_HWC: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return a code for each cell of 8×8 px: 15 where the fields agree best, 0 where least.

    Parameters
    ----------
    uv_HWC, back_HWC : arrays of H×W×2 float32
        Flow from a frame to the next, on its grid, and back, on the grid of the next.

    Returns
    -------
    array of ceil(H/8)×ceil(W/8) uint8
        Code c is a mean difference below 0.01 · 1.6^(15 − c) px, which it reaches but for a
        factor of 1.6; of 15 it may be anything below.
    """
    height, width = uv_HWC.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + uv_HWC[..., 0], y + uv_HWC[..., 1]
    back = cv2.remap(back_HWC, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.magnitude(*cv2.split(uv_HWC + back))
    rows, columns = cells(height, width)
    whole = (0, rows * CELL - height, 0, columns * CELL - width)
    difference = cv2.copyMakeBorder(difference, *whole, cv2.BORDER_REPLICATE)
    mean = cv2.resize(difference, (columns, rows), interpolation=cv2.INTER_AREA)
    level = np.floor(np.log(np.maximum(mean, FINEST_PX / STEP) / FINEST_PX) / np.log(STEP)) + 1
    codes: NDArray[np.uint8] = (LEVELS - 1 - np.clip(level, 0, LEVELS - 1)).astype(np.uint8)
    return codes


def cells(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of cells of a field."""
    return -(-height // CELL), -(-width // CELL)


def difference_px(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the differences that codes stand for, at most: 0.01 · 1.6^(15 − c) px."""
    steps = LEVELS - 1 - np.arange(LEVELS, dtype=np.float32)
    return (np.float32(FINEST_PX) * np.float32(STEP) ** steps).astype(np.float32)[codes]


def spread(cells_Thw: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return T×H×W: the code of each pixel's cell."""
    wide = cells_Thw.repeat(CELL, axis=-2).repeat(CELL, axis=-1)
    return wide[..., :height, :width]
