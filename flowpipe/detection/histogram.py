"""Histograms of the flow around a person, under a linear classifier: learns from few videos.

A square of twice the person's size, which moves along with them, is divided into 8 × 8 cells. A
cell holds, for each of K directions, the mean speed of what moves that way, and the mean speed of
all; of these are kept the mean over the clip, and the mean change over `lag` items. Both are the
same at any phase of a movement that repeats; the change says how fast it repeats::

    16 items, lag 2         change: |item 2 - item 0|, |item 3 - item 1| … |item 15 - item 13|

The 4 × 4 cells in the middle, about the box, are taken once more by themselves: a neighbour who
moves into the square leaves them as they are. Roots are taken, and each part has length one.

Laptev et al., "Learning realistic human actions from movies", CVPR 2008,
https://doi.org/10.1109/CVPR.2008.4587756. Squares that follow, and the change, are this project's.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.detection.person_cut import PersonCut
from flowpipe.errors import InvalidArgument

CONTEXT, GRID, INNER, CELL_PX = 2.0, 8, 4, 3
# Parts are divided by no less: noise about who stands still remains small.
SHORTEST = 1e-2


class HistogramNetwork(PersonCut):
    """Classify boxes by histograms of the flow in them.

    Parameters
    ----------
    num_classes
        Outputs.
    channels
        Of a field: 2.
    directions
        K; the first is to the right, the next towards below.
    lag
        Items over which change is measured.
    follow
        Whether squares move with the persons.
    """

    moves = True

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 2,
        directions: int = 8,
        lag: int = 2,
        follow: bool = True,
    ) -> None:
        super().__init__(context=CONTEXT, size=GRID * CELL_PX, follow=follow)
        if channels != 2:
            raise InvalidArgument(
                f"model flow-histogram reads flow, not {channels} channels; set input = flow, or "
                "choose another model",
                parameter="model",
            )
        if directions < 2 or lag < 1:
            raise InvalidArgument(
                f"directions {directions} must be ≥ 2 (8 is usual), lag {lag} ≥ 1 (2 is usual)"
            )
        self.directions, self.lag = directions, lag
        self.fc = nn.Linear(2 * (GRID**2 + INNER**2) * (directions + 1), num_classes)

    def forward(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return logits R×K of all boxes, one clip after the other; arguments as `RoiNetwork`."""
        return self.fc(self.describe(clips, boxes))  # type: ignore[no-any-return]

    def describe(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return the histograms of all boxes, R×D."""
        cut = [self.cut(clip, of_clip) for clip, of_clip in zip(clips, boxes, strict=True)]
        cells_RTKGG = self._cells(torch.cat(cut)[:, :2])
        count = cells_RTKGG.shape[1]
        lag = min(self.lag, count - 1)
        change = (cells_RTKGG[:, lag:] - cells_RTKGG[:, : count - lag]).abs()
        kept = [cells_RTKGG.mean(1), change.mean(1)]
        first = (GRID - INNER) // 2
        middle = slice(first, first + INNER)
        parts = []
        for each in kept:
            for of_square in (each, each[..., middle, middle]):
                roots = of_square.flatten(1).sqrt()
                parts.append(roots / roots.norm(dim=1, keepdim=True).clamp(min=SHORTEST))
        return torch.cat(parts, 1) / math.sqrt(len(parts))

    def _cells(self, uv_R2TSS: Tensor) -> Tensor:
        """Return mean speeds by direction and of all, R×T×(K+1)×GRID×GRID."""
        u, v = uv_R2TSS.unbind(1)
        speed = torch.hypot(u, v)
        # A vector is shared by the two directions nearest to it.
        place = (torch.atan2(v, u) * (self.directions / (2 * math.pi))) % self.directions
        planes = []
        for direction in range(self.directions):
            away = (place - direction).abs()
            away = torch.minimum(away, self.directions - away)
            planes.append(speed * (1 - away).clamp(min=0))
        cells = functional.avg_pool2d(torch.stack([*planes, speed], 2).flatten(0, 2), CELL_PX)
        return cells.reshape(*uv_R2TSS.shape[:1], uv_R2TSS.shape[2], -1, GRID, GRID)
