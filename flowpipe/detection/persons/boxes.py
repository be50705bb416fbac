"""What all detectors of persons share: their form, and cleaning of boxes."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument

Boxes = npt.NDArray[np.float64]
Found = tuple[int, Boxes, npt.NDArray[np.float64]]


class PersonDetector(Protocol):
    """Finds persons in frames."""

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the boxes of each frame, in order; memory does not grow with the video.

        Parameters
        ----------
        frames : iterable of (index, H×W×3 uint8 RGB)
            Indices ascend; a detector may ask for some frames ahead before it answers.

        Returns
        -------
        iterator of (index, N×4, N)
            Boxes x1, y1, x2, y2 in px of the frame (x2, y2 exclusive), inside it, and scores
            in [0, 1], the best first.
        """
        ...


def clean(
    boxes_N4: Boxes,
    scores_N: npt.NDArray[np.float64],
    size: tuple[int, int],
    *,
    min_score: float = 0.0,
    max_overlap: float = 1.0,
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Clip boxes to a picture, leave out weak and empty ones and doubles, best first.

    Parameters
    ----------
    boxes_N4, scores_N : arrays
    size : (height, width)
    min_score : float
    max_overlap : float
        Of two boxes of larger IoU the worse is left out; 1 keeps all.
    """
    height, width = size
    boxes_N4 = np.clip(boxes_N4, 0.0, (width, height, width, height))
    sides = boxes_N4[:, 2:] - boxes_N4[:, :2]
    rows = np.flatnonzero((scores_N >= min_score) & (sides >= 1.0).all(axis=1))
    rows = rows[np.argsort(-scores_N[rows], kind="stable")]
    boxes_N4, scores_N = boxes_N4[rows], scores_N[rows]
    if max_overlap < 1.0:
        kept = suppress(boxes_N4, max_overlap)
        boxes_N4, scores_N = boxes_N4[kept], scores_N[kept]
    return boxes_N4, scores_N


def suppress(boxes_N4: Boxes, max_overlap: float) -> npt.NDArray[np.int64]:
    """Return the rows, of boxes from the best on, that no kept one overlaps by more (NMS)."""
    free = np.ones(len(boxes_N4), bool)
    kept = []
    for row in range(len(boxes_N4)):
        if free[row]:
            kept.append(row)
            free &= overlaps(boxes_N4[row : row + 1], boxes_N4)[0] <= max_overlap
    return np.array(kept, np.int64)


def overlaps(boxes_M4: Boxes, others_N4: Boxes) -> npt.NDArray[np.float64]:
    """Return the M×N intersections by union; 0 where both boxes are empty."""
    ours, theirs = boxes_M4[:, None], others_N4[None]
    corner = np.maximum(ours[..., :2], theirs[..., :2])
    opposite = np.minimum(ours[..., 2:], theirs[..., 2:])
    shared = np.maximum(opposite - corner, 0.0).prod(axis=-1)
    areas = [np.maximum(b[..., 2:] - b[..., :2], 0.0).prod(axis=-1) for b in (ours, theirs)]
    union = areas[0] + areas[1] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def check_share(name: str, value: float) -> None:
    """Raise InvalidArgument unless a value is a number in [0, 1]."""
    if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
        raise InvalidArgument(f"{name} {value} must lie in [0, 1]", parameter=name)


def check_positive(name: str, value: float) -> None:
    """Raise InvalidArgument unless a value is a number > 0."""
    if not (isinstance(value, int | float) and value > 0):
        raise InvalidArgument(f"{name} {value} must be > 0", parameter=name)
