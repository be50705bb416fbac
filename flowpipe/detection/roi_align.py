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
    step = max(1, PIECE // (channels * size[0] * size[1] * samples**2))
    pieces: list[Tensor] = []
    rows: list[Tensor] = []
    for item in sorted(set(items_R.tolist())):
        mine = (items_R == item).nonzero()[:, 0]
        for part in mine.split(step):
            points = [
                _points(corners[part, axis], sides[part, axis], size[1 - axis], samples)
                for axis in (0, 1)
            ]
            read = _read(maps_BCHW[item : item + 1], *points)
            pieces.append(functional.avg_pool2d(read, samples))
            rows.append(part)
    return out.index_copy(0, torch.cat(rows), torch.cat(pieces))


def _points(start_R: Tensor, side_R: Tensor, count: int, samples: int) -> Tensor:
    """Return the points of one axis, R × count·samples."""
    numbers = torch.arange(count * samples, dtype=start_R.dtype, device=start_R.device)
    return start_R[:, None] + (numbers + 0.5) / (count * samples) * side_R[:, None]


def _read(map_1CHW: Tensor, x_RM: Tensor, y_RN: Tensor) -> Tensor:
    """Read a map bilinearly on the grids of boxes, R×C×N×M."""
    channels, height, width = map_1CHW.shape[1:]
    inside_x = (x_RM >= -1) & (x_RM <= width)
    inside_y = (y_RN >= -1) & (y_RN <= height)
    # grid_sample has −1 and 1 at the middles of the first and the last cell.
    x = x_RM.clamp(0, width - 1) * (2 / max(width - 1, 1)) - 1
    y = y_RN.clamp(0, height - 1) * (2 / max(height - 1, 1)) - 1
    boxes, rows, columns = len(x), y.shape[1], x.shape[1]
    grid = torch.stack(
        [x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], -1
    )
    # All boxes one below the other on one map: it is not copied for each.
    read = functional.grid_sample(
        map_1CHW,
        grid.reshape(1, boxes * rows, columns, 2),
        padding_mode="border",
        align_corners=True,
    )
    read = read.reshape(channels, boxes, rows, columns).transpose(0, 1)
    return read * (inside_y[:, None, :, None] & inside_x[:, None, None, :])
