"""Histograms of the flow around a person, under a kernel classifier: learns from few videos.

A square of twice the person's size, which moves along with them, is divided into 8 × 8 cells. A
cell holds, for each of K directions, the mean speed of what moves that way, and the mean speed of
all. Of these are kept the mean over the clip, and the mean change over each of `lags` items, both
the same at any phase of a movement that repeats; changes say how fast it repeats. The middle of the
clip counts most, since an action may begin or end near its ends::

    16 items, lag 2         change: |item 2 - item 0|, |item 3 - item 1| … |item 15 - item 13|

The 4 × 4 cells in the middle, about the box, are taken once more by themselves: a neighbour who
moves into the square leaves them as they are. Roots are taken, and each part has length one.

A description is compared with those of training persons (`landmarks`) by a Gaussian kernel; a
linear layer is over the likenesses, made independent of each other [2]_.

Axes: R boxes, T items, K directions (and all), G×G cells, D numbers of a description, M landmarks.

Histograms: Laptev et al., "Learning realistic human actions from movies", CVPR 2008,
https://doi.org/10.1109/CVPR.2008.4587756. Squares that follow, and the change, are this project's.

References
----------
.. [2] C. Williams, M. Seeger, "Using the Nyström method to speed up kernel machines", NIPS 2000.
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
# Of unlike persons descriptions are 0.1 to 0.5 apart, as products.
SHARPNESS = 4.0
LANDMARKS = 1000
MOST_DIRECTIONS = 360
# Directions in which landmarks differ by less than this share hold nothing but rounding.
LEAST_SHARE = 1e-6


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
    lags
        Items over which change is measured.
    follow
        Whether squares move with the persons.

    Attributes
    ----------
    fc : Linear
        From likenesses to logits.
    """

    moves = True
    landmarks_MD: Tensor
    independent_MM: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 2,
        directions: int = 8,
        lags: Sequence[int] = (1, 2, 4),
        follow: bool = True,
    ) -> None:
        super().__init__(context=CONTEXT, size=GRID * CELL_PX, follow=follow)
        if channels != 2:
            raise InvalidArgument(
                f"model flow-histogram reads flow, not {channels} channels; set input = flow, or "
                "choose another model",
                parameter="model",
            )
        if not 2 <= directions <= MOST_DIRECTIONS or directions % 2:
            raise InvalidArgument(
                f"directions {directions} must be even, 2 to {MOST_DIRECTIONS}; 8 is usual"
            )
        if not lags or min(lags) < 1:
            raise InvalidArgument(f"lags {list(lags)} must each be ≥ 1; 1, 2 and 4 are usual")
        self.directions, self.lags = directions, tuple(lags)
        numbers = (1 + len(self.lags)) * (GRID**2 + INNER**2) * (directions + 1)
        self.register_buffer("landmarks_MD", torch.zeros(LANDMARKS, numbers))
        self.register_buffer("independent_MM", torch.zeros(LANDMARKS, LANDMARKS))
        self.fc = nn.Linear(LANDMARKS, num_classes)

    def forward(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return logits R×K of all boxes, one clip after the other; arguments as `RoiNetwork`."""
        return self.classify(self.describe(self.cells(clips, boxes)))

    def cells(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return mean speeds by direction and of all, R×T×(K+1)×G×G."""
        cut = [self.cut(clip, of_clip) for clip, of_clip in zip(clips, boxes, strict=True)]
        return self._cells(torch.cat(cut)[:, :2])

    def mirrored(self, cells_RTKGG: Tensor) -> Tensor:
        """Return the cells of the same persons in a mirror."""
        half = self.directions // 2
        order = [(half - k) % self.directions for k in range(self.directions)]
        return cells_RTKGG[:, :, [*order, self.directions]].flip(-1)

    def describe(self, cells_RTKGG: Tensor) -> Tensor:
        """Return the histograms of all boxes, R×D."""
        count = cells_RTKGG.shape[1]
        away_T = (torch.arange(count, device=cells_RTKGG.device) + 0.5 - count / 2).abs()
        weights_T = 1 - away_T / (count / 2 + 0.5)
        kept = [_mean(cells_RTKGG, weights_T)]
        for lag in self.lags:
            lag = min(lag, count - 1)
            change = (cells_RTKGG[:, lag:] - cells_RTKGG[:, : count - lag]).abs()
            kept.append(_mean(change, torch.minimum(weights_T[lag:], weights_T[: count - lag])))
        first = (GRID - INNER) // 2
        middle = slice(first, first + INNER)
        parts = []
        for each in kept:
            for of_square in (each, each[..., middle, middle]):
                roots = of_square.flatten(1).sqrt()
                parts.append(roots / roots.norm(dim=1, keepdim=True).clamp(min=SHORTEST))
        return torch.cat(parts, 1) / math.sqrt(len(parts))

    def compare(self, described_RD: Tensor) -> Tensor:
        """Return how like descriptions are to the landmarks, made independent, R×M."""
        return _likeness(described_RD, self.landmarks_MD) @ self.independent_MM

    def classify(self, described_RD: Tensor) -> Tensor:
        """Return logits R×K."""
        return self.fc(self.compare(described_RD))  # type: ignore[no-any-return]

    def remember(self, described_RD: Tensor) -> None:
        """Take descriptions of training persons as landmarks; of too many the first."""
        known_RD = described_RD[:LANDMARKS]
        values_R, vectors_RR = torch.linalg.eigh(_likeness(known_RD, known_RD).double())
        kept = values_R > LEAST_SHARE * values_R[-1]
        scaled = vectors_RR[:, kept] / values_R[kept].sqrt()
        self.landmarks_MD.zero_()[: len(known_RD)] = known_RD
        # What is not there is multiplied by zero.
        self.independent_MM.zero_()[: len(known_RD), : scaled.shape[1]] = scaled.float()

    def _cells(self, uv_R2TSS: Tensor) -> Tensor:
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


def _mean(cells_RTKGG: Tensor, weights_T: Tensor) -> Tensor:
    """Return the weighted mean over time."""
    return torch.einsum("rt...,t->r...", cells_RTKGG, weights_T / weights_T.sum())


def _likeness(one_RD: Tensor, other_MD: Tensor) -> Tensor:
    """Return the kernel of descriptions, R×M; those of length one are 1 like themselves."""
    return torch.exp(SHARPNESS * (one_RD @ other_MD.T - 1).clamp(max=0))
