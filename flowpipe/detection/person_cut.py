"""Persons cut out of a clip, each in a square of one size; what reads them learns from few."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.detection.roi_align import roi_align
from flowpipe.errors import InvalidArgument

# A person this high, in px, moves in the units of the cut-out.
USUAL_HEIGHT_PX = 20.0
MOST_PX = 512


class PersonCut(nn.Module):
    """A network that looks at squares around persons, not at the frame.

    Parameters
    ----------
    context : float
        Side of the square, in longer sides of the box.
    size : int
        Of the cut-out in px.
    follow : bool
        Whether boxes move with the flow of the persons' torsos.
    """

    layout = "CTHW"

    def __init__(self, *, context: float, size: int, follow: bool) -> None:
        super().__init__()
        if not 1 <= context < math.inf or not 16 <= size <= MOST_PX:
            raise InvalidArgument(
                f"context {context} must be ≥ 1 (2 is usual), size {size} from 16 to {MOST_PX} "
                "(32 is usual)"
            )
        self.context, self.size, self.follow = context, size, follow

    def cut(self, clip_CTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
        """Return what the network sees of each box, N × C+1 × T × size × size.

        Flow is divided by the box's height; the last channel is 1 within the box.
        """
        channels, frames = clip_CTHW.shape[:2]
        count = len(boxes_NT4)
        boxes_M4 = boxes_NT4.flatten(0, 1)
        sides_M2 = boxes_M4[:, 2:] - boxes_M4[:, :2]
        middle_M2 = (boxes_M4[:, 2:] + boxes_M4[:, :2]) / 2
        half_M1 = sides_M2.amax(1, keepdim=True) * self.context / 2
        squares_M4 = torch.cat([middle_M2 - half_M1, middle_M2 + half_M1], 1)
        times_M = torch.arange(frames, device=clip_CTHW.device).repeat(count)
        frames_TCHW = clip_CTHW.transpose(0, 1)
        # RoIAlign reads four points of a cell: where the largest cell is of many px, their means.
        shrink = max(1, int(float(half_M1.max()) / self.size))
        if shrink > 1:
            frames_TCHW = functional.avg_pool2d(frames_TCHW, shrink, ceil_mode=True)
        read = roi_align(
            frames_TCHW, squares_M4, times_M, size=(self.size, self.size), scale=1 / shrink
        )
        if channels != 3:
            unit_M = USUAL_HEIGHT_PX / sides_M2[:, 1].clamp(min=1)
            read = torch.cat([read[:, :-2], read[:, -2:] * unit_M.view(-1, 1, 1, 1)], 1)
        place = (torch.arange(self.size, device=read.device) + 0.5) / self.size * 2 - 1
        x_MS, y_MS = (place.abs() * half_M1 <= sides_M2[:, axis, None] / 2 for axis in (0, 1))
        mask = (y_MS[:, None, :, None] & x_MS[:, None, None, :]).to(read.dtype)
        seen = torch.cat([read, mask], 1).reshape(count, frames, channels + 1, *mask.shape[2:])
        return seen.transpose(1, 2)
