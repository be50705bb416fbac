"""Histograms of flow: which way, how much and where a picture moves, without any weights.

A field becomes a small grid of cells; a cell holds, for each of K directions, the mean length of
the vectors that point that way, and the mean length of all. Cells are first taken on a fine grid,
of which the two coarse ones are made:

- `fixed_grid`: cells of the picture, for scenes in which the place says what happens;
- `moving_grid`: cells of a box that follows what moves, so that an action is the same wherever in
  the picture, and however large, it is done.

Axes: T fields, R rows of cells, Q columns of cells, K directions.

Histograms of oriented flow: Laptev et al., "Learning realistic human actions from movies", CVPR
2008, https://doi.org/10.1109/CVPR.2008.4587756. The box that follows the motion is this project's.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow.compiling import compiled

Cells = NDArray[np.float32]

DIRECTIONS = 8
FINE_ROWS = 16
# Cells whose mean length is below this are noise to the box that follows the motion.
STILL_PX = 0.05
# Half-widths of the windows over which the box's centre and size are averaged, in fields.
CENTER_FIELDS = 4
SIZE_FIELDS = 25
SAMPLES_PER_CELL = 4


def fine_cells(
    uv_THWC: NDArray[np.float32],
    *,
    rows: int = FINE_ROWS,
    cols: int | None = None,
    directions: int = DIRECTIONS,
) -> Cells:
    """Return the histograms of flow in a fine grid of nearly square cells.

    Parameters
    ----------
    uv_THWC : array of T×H×W×2 float32
        Flow in px.
    rows : int
        R; fewer where the picture has fewer pixels.
    cols : int, optional
        Q; by default what follows from the shape of the picture.
    directions : int
        K; direction k is at the angle 2πk/K, from x (right) towards y (down). A vector is shared
        by the two directions nearest to it.

    Returns
    -------
    array of T×R×Q×(K+1) float32
        Mean length in px by direction, and of all vectors.

    Raises
    ------
    InvalidArgument
        For fewer than 2 directions or no row.
    """
    if directions < 2 or rows < 1:
        raise InvalidArgument(
            f"directions {directions} and rows {rows} must be >= 2 and >= 1; "
            f"{DIRECTIONS} and {FINE_ROWS} are usual"
        )
    num_fields, height, width = uv_THWC.shape[:3]
    square = grid_of(height, width, rows)
    rows, cols = square[0], square[1] if cols is None else min(cols, width)
    row_of_H = np.arange(height) * rows // height
    col_of_W = np.arange(width) * cols // width
    cells = np.zeros((num_fields, rows, cols, directions + 1), np.float32)
    for field, uv_HWC in enumerate(uv_THWC):
        u_HW, v_HW = np.ascontiguousarray(uv_HWC[..., 0]), np.ascontiguousarray(uv_HWC[..., 1])
        _add_vectors(u_HW, v_HW, row_of_H, col_of_W, cells[field])
    cells /= np.outer(np.bincount(row_of_H), np.bincount(col_of_W))[..., None]
    return cells


def grid_of(height: int, width: int, rows: int = FINE_ROWS) -> tuple[int, int]:
    """Return rows and columns of a grid of nearly square cells over a picture."""
    rows = min(rows, height)
    return rows, min(max(1, round(rows * width / height)), width)


@compiled
def _add_vectors(u_HW, v_HW, row_of_H, col_of_W, cells_RQK):  # type: ignore[no-untyped-def]
    """Add the length of each vector to its cell, shared by the two directions nearest to it."""
    directions = cells_RQK.shape[2] - 1
    per_radian = np.float32(directions / (2 * math.pi))
    for y in range(u_HW.shape[0]):
        row = row_of_H[y]
        for x in range(u_HW.shape[1]):
            u, v = u_HW[y, x], v_HW[y, x]
            length = math.sqrt(u * u + v * v)
            if length == 0:
                continue
            place = math.atan2(v, u) * per_radian
            if place < 0:
                place += directions
            low = int(place)
            share = (place - low) * length
            cell = cells_RQK[row, col_of_W[x]]
            cell[low % directions] += length - share
            cell[(low + 1) % directions] += share
            cell[directions] += length


def mirrored(cells: Cells) -> Cells:
    """Return the cells of the videos seen in a mirror: columns turned round, right become left.

    Takes any grid, …×R×Q×(K+1), of an even number of directions.
    """
    directions = cells.shape[-1] - 1
    order = [(directions // 2 - k) % directions for k in range(directions)]
    return np.ascontiguousarray(cells[..., ::-1, [*order, directions]])


def fixed_grid(cells: Cells, rows: int, cols: int) -> Cells:
    """Return means over a coarse grid of the picture, T×rows×cols×(K+1)."""
    if rows < 1 or cols < 1:
        raise InvalidArgument(f"grid {rows}×{cols} must have a row and a column")
    grid = np.empty((len(cells), rows, cols, cells.shape[-1]), np.float32)
    for field, cells_RQK in enumerate(cells):
        for k in range(cells.shape[-1]):
            fine_RQ = np.ascontiguousarray(cells_RQK[..., k])
            grid[field, ..., k] = cv2.resize(fine_RQ, (cols, rows), interpolation=cv2.INTER_AREA)
    return grid


def moving_grid(
    cells: Cells,
    rows: int,
    cols: int,
    *,
    spread: float = 2.0,
    center_fields: int = CENTER_FIELDS,
    size_fields: int = SIZE_FIELDS,
) -> Cells:
    """Return means over a grid in a box that follows the motion, T×rows×cols×(K+1).

    The box is centred on the motion's centre of gravity, averaged over neighbouring fields, and
    reaches `spread` standard deviations of the motion's place to each side, averaged over some
    seconds. Outside of the picture there is no motion. Where nothing moves the box is the picture.
    `center_fields` and `size_fields` are the half-widths of the windows of these averages.
    """
    moving_TRQ = np.maximum(cells[..., -1] - STILL_PX, 0).astype(np.float64)
    amount = moving_TRQ.sum((1, 2))
    center_y, center_x, half_y, half_x = _whole_picture(cells)
    for axis, center, half in ((2, center_y, half_y), (1, center_x, half_x)):
        moving = moving_TRQ.sum(axis)  # T × places along the other axis
        place = np.arange(moving.shape[1]) + 0.5
        near = _averaged(np.stack([amount, moving @ place]), center_fields)
        some = near[0] > 0
        center[some] = near[1, some] / near[0, some]
        away = (moving * (place - center[:, None]) ** 2).sum(1)
        wide = _averaged(np.stack([amount, away]), size_fields)
        some = wide[0] > 0
        half[some] = spread * np.sqrt(np.maximum(wide[1, some] / wide[0, some], 1.0))
    return _sampled(cells, rows, cols, center_y, center_x, half_y, half_x)


def _whole_picture(cells: Cells) -> tuple[NDArray[np.float64], ...]:
    """Return center y, center x, half height and half width of the picture, for each field."""
    num_fields, rows, cols = cells.shape[:3]
    return tuple(np.full(num_fields, half) for half in (rows / 2, cols / 2, rows / 2, cols / 2))


def _averaged(sums: NDArray[np.float64], half_width: int) -> NDArray[np.float64]:
    """Return sums over [t − half_width, t + half_width], cut at the ends."""
    total = np.concatenate([np.zeros((len(sums), 1)), sums.cumsum(1)], axis=1)
    fields = np.arange(sums.shape[1])
    stop = np.minimum(fields + half_width + 1, sums.shape[1])
    averaged: NDArray[np.float64] = total[:, stop] - total[:, np.maximum(fields - half_width, 0)]
    # Differences of running sums leave dust where nothing moves.
    return np.where(averaged > 1e-9 * max(1.0, float(total.max())), averaged, 0.0)


def _sampled(
    cells: Cells,
    rows: int,
    cols: int,
    center_y: NDArray[np.float64],
    center_x: NDArray[np.float64],
    half_y: NDArray[np.float64],
    half_x: NDArray[np.float64],
) -> Cells:
    """Return means over a grid in each field's box, from bilinear samples of the fine cells."""
    if rows < 1 or cols < 1:
        raise InvalidArgument(f"grid {rows}×{cols} must have a row and a column")
    fine_y, fine_x = rows * SAMPLES_PER_CELL, cols * SAMPLES_PER_CELL
    step_y, step_x = 2 * half_y / fine_y, 2 * half_x / fine_x
    grid = np.empty((len(cells), rows, cols, cells.shape[-1]), np.float32)
    for field, cells_RQK in enumerate(cells):
        # Cell i of the fine grid has its middle at i + 0.5.
        move = np.array(
            [
                [step_x[field], 0, center_x[field] - half_x[field] + (step_x[field] - 1) / 2],
                [0, step_y[field], center_y[field] - half_y[field] + (step_y[field] - 1) / 2],
            ]
        )
        for k in range(cells.shape[-1]):
            sampled = cv2.warpAffine(
                np.ascontiguousarray(cells_RQK[..., k]),
                move,
                (fine_x, fine_y),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            )
            parts = sampled.reshape(rows, SAMPLES_PER_CELL, cols, SAMPLES_PER_CELL)
            grid[field, ..., k] = parts.mean((1, 3))
    return grid
