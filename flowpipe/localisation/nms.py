"""Non-maximum suppression of segments: soft (Gaussian, linear), hard, with voting. numpy only.

As ActionFormer's compiled code does it [1]_: the best segment is taken, every other one of its
class loses score by how much it overlaps the taken one, and so on until nothing is left above
`min_score`. The Gaussian form knows no threshold of overlap.

References
----------
.. [1] C. Zhang, J. Wu, Y. Li, "ActionFormer: localizing moments of actions with transformers",
   ECCV 2022. https://doi.org/10.1007/978-3-031-19772-7_29
.. [2] N. Bodla et al., "Soft-NMS – improving object detection with one line of code", ICCV 2017.
   https://doi.org/10.1109/ICCV.2017.593
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument

FORMS = ("gaussian", "linear", "hard")
# Added to every length, so that two segments without length have an overlap.
LENGTH_OFFSET = 1e-6


@dataclass(frozen=True)
class Suppression:
    """How overlapping segments are thinned out.

    Attributes
    ----------
    form : {"gaussian", "linear", "hard"}
        A neighbour's score is multiplied by exp(−IoU²/σ), by 1 − IoU, or it is dropped.
    sigma : float
        σ of the Gaussian form.
    iou : float
        From this overlap on the linear and the hard form act.
    min_score : float
        Segments below are dropped.
    keep : int
        Segments that remain at most; a localiser keeps as many of each 2,304 steps.
    by_class : bool
        Whether segments of different classes leave each other alone.
    voting : float
        Where above 0 and classes are not apart: the ends become the mean of all segments that
        overlap by this much, weighted by score and overlap.
    """

    form: str = "gaussian"
    sigma: float = 0.5
    iou: float = 0.1
    min_score: float = 0.001
    keep: int = 200
    by_class: bool = True
    voting: float = 0.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InvalidArgument(f'form "{self.form}" must be one of {", ".join(FORMS)}')
        if not 0 <= self.min_score < 1:
            raise InvalidArgument(f"min_score {self.min_score} must be in [0, 1); .001 is usual")
        if not (self.sigma > 0 and 0 <= self.iou <= 1 and 0 <= self.voting <= 1 and self.keep > 0):
            raise InvalidArgument(
                f"sigma {self.sigma} must be > 0, iou {self.iou} and voting {self.voting} in 0 to "
                f"1, keep {self.keep} at least 1; .5, .1, 0 and 200 are usual"
            )


def suppress(
    segments_N2: npt.ArrayLike,
    scores_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    options: Suppression | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Thin out overlapping segments.

    Parameters
    ----------
    segments_N2 : array of N×2
        Start and end, in any unit.
    scores_N : array of N
    labels_N : array of N int
    options : Suppression, optional

    Returns
    -------
    segments_K2, scores_K, labels_K
        What remains, best score first, with the lowered scores.
    """
    options = options or Suppression()
    segments = np.asarray(segments_N2, np.float64).reshape(-1, 2)
    scores, labels = np.asarray(scores_N, np.float64), np.asarray(labels_N, np.int64)
    if not len(segments) == len(scores) == len(labels):
        raise InvalidArgument(
            f"{len(segments)} segments, {len(scores)} scores and {len(labels)} labels must be as "
            "many"
        )
    groups = [np.arange(len(labels))]
    if options.by_class:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows, left = [np.empty(0, np.int64)], [np.empty(0)]
    for group in groups:
        kept, lowered = _thin_out(segments[group], scores[group], options)
        rows.append(group[kept])
        left.append(lowered)
    row, score = np.concatenate(rows), np.concatenate(left)
    ends = segments[row]
    if options.voting > 0 and not options.by_class:
        ends = _vote(ends, segments, scores, options.voting)
    best = np.argsort(-score, kind="stable")[: options.keep]
    return ends[best], score[best], labels[row[best]]


def _thin_out(
    segments: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], options: Suppression
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    left = scores.copy()
    lengths = segments[:, 1] - segments[:, 0] + LENGTH_OFFSET
    alive = np.flatnonzero(left >= options.min_score)
    kept: list[int] = []
    while alive.size and len(kept) < options.keep:
        position = int(np.argmax(left[alive]))
        best = int(alive[position])
        kept.append(best)
        alive = np.delete(alive, position)
        overlap = _overlap(segments[best], lengths[best], segments[alive], lengths[alive])
        if options.form == "gaussian":
            left[alive] *= np.exp(-(overlap**2) / options.sigma)
        elif options.form == "linear":
            left[alive] *= np.where(overlap >= options.iou, 1.0 - overlap, 1.0)
        else:
            alive = alive[overlap < options.iou]
        alive = alive[left[alive] >= options.min_score]
    return np.array(kept, np.int64), left[kept]


def _overlap(
    one: npt.NDArray[np.float64],
    length: float,
    others: npt.NDArray[np.float64],
    lengths: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0]) + LENGTH_OFFSET
    shared = np.maximum(shared, 0.0)
    return np.asarray(shared / (length + lengths - shared))


def _vote(
    kept_K2: npt.NDArray[np.float64],
    segments_N2: npt.NDArray[np.float64],
    scores_N: npt.NDArray[np.float64],
    iou: float,
) -> npt.NDArray[np.float64]:
    lengths = segments_N2[:, 1] - segments_N2[:, 0]
    voted = np.empty_like(kept_K2)
    for row, segment in enumerate(kept_K2):
        shared = np.minimum(segment[1], segments_N2[:, 1]) - np.maximum(
            segment[0], segments_N2[:, 0]
        )
        shared = np.maximum(shared, 0.0)
        overlap = shared / np.maximum(segment[1] - segment[0] + lengths - shared, LENGTH_OFFSET)
        weights = np.where(overlap >= iou, scores_N * overlap, 0.0)
        # A segment without length overlaps nothing, not even itself.
        voted[row] = weights @ segments_N2 / weights.sum() if weights.sum() > 0 else segment
    return voted
