"""RoIAlign: what a map shows within a box, at a size that does not depend on the box.

He, Gkioxari, Dollár, Girshick: Mask R-CNN, ICCV 2017, doi:10.1109/ICCV.2017.322. As the compiled
ones have it: a bin is the mean of n × n points, each read bilinearly; a point further than one
cell outside of the map counts 0.

    box (x1, y1, x2, y2) in px    → box · scale − ½, in cells whose middles are whole numbers
    points of an axis             start + (k + ½) / (out · n) · side,  k = 0 … out · n − 1
"""

import torch
from torch import Tensor
from torch.nn import functional

from flowpipe.errors import InvalidArgument

# Numbers that are read at a time, at most (4 bytes each); more boxes are done in pieces.
PIECE = 16_000_000


def roi_align(
    maps_BCHW: Tensor,
    boxes_R4: Tensor,
    items_R: Tensor,
    *,
    size: tuple[int, int] = (7, 7),
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Return what maps show within boxes, R×C×h×w.

    Parameters
    ----------
    maps_BCHW : Tensor
    boxes_R4 : Tensor
        x1, y1, x2, y2 in pixels of the picture that the maps are of.
    items_R : Tensor of int
        Which of the B maps each box lies on.
    size : (int, int)
        (height, width) of the result.
    scale : float
        Cells of the map per pixel: 1/16 where the network's stride is 16.
    samples : int
        n, points of a bin along each axis.
    aligned : bool
        False: the older form, without the half cell, sides at least 1.

    Raises
    ------
    InvalidArgument
        If shapes do not agree.
    """
    if maps_BCHW.ndim != 4 or boxes_R4.shape != (len(items_R), 4):
        raise InvalidArgument(
            f"maps of shape {tuple(maps_BCHW.shape)}, boxes {tuple(boxes_R4.shape)} and "
            f"{len(items_R)} items: there must be B×C×H×W, R×4 and R"
        )
    channels = maps_BCHW.shape[1]
    corners = boxes_R4.to(maps_BCHW.dtype) * scale - (0.5 if aligned else 0.0)
    sides = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1.0)
    out = maps_BCHW.new_empty(len(items_R), channels, *size)
    if not len(items_R):
        return out
    pieces: list[Tensor] = []
    rows: list[Tensor] = []
    batch = len(maps_BCHW)
    counts = torch.bincount(items_R, minlength=batch)
    order = items_R.argsort(stable=True)
    # Of each box its number among those of its map.
    number_R = torch.empty_like(items_R)
    number_R[order] = (
        torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[items_R[order]]
    )
    step = max(1, PIECE // (batch * channels * size[0] * size[1] * samples**2))
    for first in range(0, int(counts.max()), step):
        rows_R = ((number_R >= first) & (number_R < first + step)).nonzero()[:, 0]
        items, places = items_R[rows_R], number_R[rows_R] - first
        shape = (batch, int(places.max()) + 1)
        points = []
        for axis in (0, 1):
            points_RM = _points(corners[rows_R, axis], sides[rows_R, axis], size[1 - axis], samples)
            padded = points_RM.new_zeros(*shape, points_RM.shape[1])
            points.append(padded.index_put((items, places), points_RM))
        read_BCSNM = _read(maps_BCHW, *points)
        bins = functional.avg_pool2d(read_BCSNM.flatten(1, 2), samples)
        bins_BSChw = bins.reshape(batch, channels, shape[1], *size).transpose(1, 2)
        pieces.append(bins_BSChw[items, places])
        rows.append(rows_R)
    return out.index_copy(0, torch.cat(rows), torch.cat(pieces))


def _points(start_R: Tensor, side_R: Tensor, count: int, samples: int) -> Tensor:
    """Return the points of one axis, R × count·samples."""
    numbers = torch.arange(count * samples, dtype=start_R.dtype, device=start_R.device)
    return start_R[:, None] + (numbers + 0.5) / (count * samples) * side_R[:, None]


def _read(maps_BCHW: Tensor, x_BSM: Tensor, y_BSN: Tensor) -> Tensor:
    """Read each map bilinearly on the grids of its S boxes, B×C×S×N×M."""
    batch, channels, height, width = maps_BCHW.shape
    inside_x = (x_BSM >= -1) & (x_BSM <= width)
    inside_y = (y_BSN >= -1) & (y_BSN <= height)
    # grid_sample has −1 and 1 at the middles of the first and the last cell.
    x = x_BSM.clamp(0, width - 1) * (2 / max(width - 1, 1)) - 1
    y = y_BSN.clamp(0, height - 1) * (2 / max(height - 1, 1)) - 1
    boxes, rows, columns = x.shape[1], y.shape[2], x.shape[2]
    grid = torch.stack(
        [x[:, :, None, :].expand(-1, -1, rows, -1), y[..., None].expand(-1, -1, -1, columns)], -1
    )
    # The boxes of a map one below the other: it is not copied for each.
    read = functional.grid_sample(
        maps_BCHW,
        grid.reshape(batch, boxes * rows, columns, 2),
        padding_mode="border",
        align_corners=True,
    )
    read = read.reshape(batch, channels, boxes, rows, columns)
    return read * (inside_y[:, None, :, :, None] & inside_x[:, None, :, None, :])
