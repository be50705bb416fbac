"""Tubes, boxes that follow a person over time: video mAP. numpy only.

The rules of UCF101-24's program [1]_: per video, tubes by score; each takes the free tube of its
class of highest spatio-temporal IoU, if that is > threshold; the area under the whole
precision-recall curve. Spatio-temporal IoU is the overlap in time times the mean IoU of the boxes
on common frames. Detected boxes are one pixel wider and higher and one further right and down, as
there; classes that the truth lacks count 0.

References
----------
.. [1] G. Singh et al., "Online real-time multiple spatiotemporal action localisation and
   prediction", ICCV 2017. https://doi.org/10.1109/ICCV.2017.393
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument
from flowpipe.metrics.boxes import box_iou
from flowpipe.metrics.matching import (
    ErrorKind,
    Matching,
    Pairs,
    by_score,
    check_thresholds,
    encode,
    places,
    same_key,
    take_in_turn,
)

DEFAULT_IOU = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
UCF101_24 = re.findall(
    r"\w+",
    "Basketball BasketballDunk Biking CliffDiving CricketBowling Diving Fencing FloorGymnastics "
    "GolfSwing HorseRiding IceDancing LongJump PoleVault RopeClimbing SalsaSpin SkateBoarding "
    "Skiing Skijet SoccerJuggling Surfing TennisSwing TrampolineJumping VolleyballSpiking "
    "WalkingWithDog",
)


@dataclass(frozen=True)
class Tube:
    """Boxes of one person doing one thing.

    Attributes
    ----------
    video, label : str
    frames : array of F int
        Ascending.
    boxes : array of F×4
        x1, y1, x2, y2 in pixels.
    score : float
        0 for the truth.
    """

    video: str
    label: str
    frames: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    score: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.frames) or self.boxes.shape != (len(self.frames), 4):
            raise InvalidArgument(
                f"tube of {self.video} has {len(self.frames)} frames and boxes of shape "
                f"{self.boxes.shape}; there must be a box on each frame, and one frame at least"
            )
        if (np.diff(self.frames) <= 0).any():
            raise InvalidArgument(
                f"tube of {self.video} has frames out of order or twice; a person has one box on "
                "a frame"
            )


@dataclass(frozen=True)
class TubePrecision:
    """Average precision by class and threshold.

    Attributes
    ----------
    iou : tuple of float
    classes : tuple of str
    ap_KT : array
        0 for a class without truth.
    errors : tuple of ErrorKind
        At the threshold nearest to .5.
    """

    iou: tuple[float, ...]
    classes: tuple[str, ...]
    ap_KT: npt.NDArray[np.float64]
    errors: tuple[ErrorKind, ...]

    @property
    def map_T(self) -> npt.NDArray[np.float64]:
        """Mean over the classes, at each threshold."""
        return np.asarray(self.ap_KT.mean(axis=0))


def tube_iou(tube: Tube, truth: Tube) -> float:
    """Return the spatio-temporal overlap of a detected tube with a true one."""
    start = max(tube.frames[0], truth.frames[0])
    end = min(tube.frames[-1], truth.frames[-1])
    if end <= start:
        return 0.0
    union = max(tube.frames[-1], truth.frames[-1]) - min(tube.frames[0], truth.frames[0]) + 1
    _, ours, theirs = np.intersect1d(tube.frames, truth.frames, return_indices=True)
    if not ours.size:
        return 0.0
    # UCF101-24's program adds 1 to x, y, width and height of what was detected.
    boxes = tube.boxes[ours] + (1.0, 1.0, 2.0, 2.0)
    return float((end - start + 1) / union * box_iou(boxes, truth.boxes[theirs]).mean())


def tube_precision(
    truth: Sequence[Tube],
    detections: Sequence[Tube],
    classes: Sequence[str] | None = None,
    *,
    iou: Sequence[float] = DEFAULT_IOU,
) -> TubePrecision:
    """Average precision of tubes, by class and threshold of spatio-temporal overlap.

    Parameters
    ----------
    truth, detections : sequence of Tube
    classes : sequence of str, optional
        Over which the mean is taken; absent: the 24 of UCF101-24 where the truth holds some of
        these only, else those of the truth.
    iou : sequence of float

    Raises
    ------
    InvalidArgument
        Without truth, or for a threshold outside (0, 1].
    """
    thresholds = check_thresholds(iou, "IoU")
    if not truth:
        raise InvalidArgument("the truth has no tube, so that there is nothing to measure")
    held = sorted({tube.label for tube in truth})
    if classes is None:
        classes = UCF101_24 if set(held) <= set(UCF101_24) else held
    names, (truth_labels, labels) = encode(
        *(_objects([tube.label for tube in side]) for side in (truth, detections))
    )
    order = by_score(np.array([tube.score for tube in detections], np.float64))
    pairs = _pairs(truth, detections)
    turns = np.lexsort((pairs.instances, -pairs.overlap, places(order)[pairs.detections]))
    same = labels[pairs.detections] == truth_labels[pairs.instances]
    matchings = []
    for threshold in thresholds:
        chosen = turns[(same & (pairs.overlap > threshold))[turns]]
        matched = take_in_turn(pairs.detections[chosen], pairs.instances[chosen], len(detections))
        matchings.append(Matching(names, truth_labels, labels, matched, order))
    columns = [np.nan_to_num(matching.average_precision(classes)) for matching in matchings]
    usual = min(range(len(thresholds)), key=lambda place: abs(thresholds[place] - 0.5))
    errors = matchings[usual].errors(pairs, pairs.overlap > thresholds[usual])
    return TubePrecision(thresholds, tuple(classes), np.stack(columns, axis=1), errors)


def _objects(values: Sequence[str]) -> npt.NDArray[np.object_]:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _pairs(truth: Sequence[Tube], detections: Sequence[Tube]) -> Pairs:
    _, (truth_video, video) = encode(
        *(_objects([tube.video for tube in side]) for side in (truth, detections))
    )
    rows, instances = same_key(video, truth_video)
    overlap = np.array(
        [
            tube_iou(detections[row], truth[instance])
            for row, instance in zip(rows.tolist(), instances.tolist(), strict=True)
        ],
        np.float64,
    )
    some = overlap > 0
    return Pairs(rows[some], instances[some], overlap[some])
