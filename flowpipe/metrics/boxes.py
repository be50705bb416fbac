"""Boxes of persons on key frames: AVA's frame mAP. numpy only.

The official program's rules [1]_: per key frame and class, each detection (best score first) looks
only at the box of the truth that it overlaps most; IoU ≥ .5 and that box free: found. The area
under the whole precision-recall curve; classes without truth are left out of the mean.

References
----------
.. [1] C. Gu et al., "AVA: a video dataset of spatio-temporally localized atomic visual actions",
   CVPR 2018. https://doi.org/10.1109/CVPR.2018.00633
"""

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument
from flowpipe.metrics.matching import (
    ErrorKind,
    Matching,
    Pairs,
    check_thresholds,
    encode,
    mean,
    places,
    same_key,
)

# What AVA's program keeps of a key frame: this many rows (box, class) of highest score.
AVA_CAP = 50


@dataclass(frozen=True)
class Boxes:
    """Boxes on key frames, one row for each box and class.

    Attributes
    ----------
    frames : array of N
        Of which key frame a box is: any value that both sides share, such as (video, microsecond).
    labels : array of N str
    boxes : array of N×4
        x1, y1, x2, y2; any unit that both sides share.
    scores : array of N or None
        None for the truth.
    empty_frames : frozenset
        Key frames that exist though no row names them: detections there count as false.
    """

    frames: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64] | None = None
    empty_frames: frozenset[object] = frozenset()

    def __post_init__(self) -> None:
        count = len(self.frames)
        scores = (count,) if self.scores is None else self.scores.shape
        if not self.labels.shape == scores == (count,) or self.boxes.shape != (count, 4):
            raise InvalidArgument(
                f"{count} frames, labels {self.labels.shape}, boxes {self.boxes.shape}: there must "
                "be a frame, a label and four numbers for each box"
            )
        if not np.isfinite(self.boxes).all():
            row = int(np.flatnonzero(~np.isfinite(self.boxes).all(axis=1))[0])
            raise InvalidArgument(f"box {row} of {self.frames[row]} has a corner that is no number")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Boxes":
        scores = None if self.scores is None else self.scores[rows]
        return Boxes(
            self.frames[rows], self.labels[rows], self.boxes[rows], scores, self.empty_frames
        )


@dataclass(frozen=True)
class BoxPrecision:
    """Average precision by class at one overlap.

    Attributes
    ----------
    ap : dict of str to float
        NaN for a class without truth.
    errors : tuple of ErrorKind
    dropped : dict of str to int
        Rows of detections that did not count, by reason.
    """

    ap: dict[str, float]
    errors: tuple[ErrorKind, ...]
    dropped: dict[str, int]

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that have truth."""
        return mean(np.array(list(self.ap.values())))


def box_iou(
    boxes_N4: npt.NDArray[np.float64], others_N4: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return intersection by union of each pair of boxes; 0 where both have no area."""
    corner = np.maximum(boxes_N4[:, :2], others_N4[:, :2])
    opposite = np.minimum(boxes_N4[:, 2:], others_N4[:, 2:])
    shared = np.maximum(opposite - corner, 0.0).prod(axis=1)
    union = (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(axis=1)
    union = union + (others_N4[:, 2:] - others_N4[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def box_precision(
    truth: Boxes,
    detections: Boxes,
    classes: Sequence[str] | None = None,
    *,
    excluded: Collection[object] = (),
    iou: float = 0.5,
    cap: int | None = AVA_CAP,
) -> BoxPrecision:
    """Average precision of boxes by class.

    Parameters
    ----------
    truth, detections : Boxes
        A label "" of the truth is a person without an action: its frame exists, no more.
    classes : sequence of str, optional
        Which labels count; absent: those of the truth.
    excluded : collection, optional
        Key frames that are left out on both sides.
    iou : float
    cap : int or None
        Rows of each key frame that count, the best; `None`: all.

    Raises
    ------
    InvalidArgument
        Without truth, for detections without scores, or an inverted box in the truth.
    """
    (iou,) = check_thresholds([iou], "IoU")
    if detections.scores is None:
        raise InvalidArgument("detections without scores cannot be ranked; give each a score")
    inverted = _inverted(truth)
    if inverted.any():
        row = int(np.flatnonzero(inverted)[0])
        raise InvalidArgument(
            f"box {truth.boxes[row].tolist()} of the truth at {truth.frames[row]} ends before it "
            "begins; x1, y1, x2, y2 is the order"
        )
    left_out = set(excluded)
    frames = (set(truth.frames) | set(truth.empty_frames)) - left_out
    names = sorted(set(truth.labels) - {""}) if classes is None else list(classes)
    known = set(names)
    truth = truth[
        np.array(
            [f in frames and n in known for f, n in zip(truth.frames, truth.labels, strict=True)],
            bool,
        )
    ]
    if not len(truth):
        raise InvalidArgument("the truth has no box of a class that counts")
    detections, dropped = _usable(detections, frames, left_out, known, cap)
    order = _order(detections, list(dict.fromkeys(truth.frames)))
    pairs = _pairs(truth, detections)
    label_names, (truth_labels, labels) = encode(truth.labels, detections.labels)
    matched_N = _match_nearest(truth, detections, pairs, order, iou)
    matching = Matching(label_names, truth_labels, labels, matched_N, order)
    ap = dict(zip(names, matching.average_precision(names).tolist(), strict=True))
    return BoxPrecision(ap, matching.errors(pairs, pairs.overlap >= iou), dropped)


def _usable(
    detections: Boxes,
    frames: set[object],
    left_out: set[object],
    known: set[str],
    cap: int | None,
) -> tuple[Boxes, dict[str, int]]:
    """Return the rows that count, each frame's in descending score, and how many do not."""
    assert detections.scores is not None
    dropped = dict.fromkeys(
        ("excluded frame", "class that does not count", "below the cap", "frame without truth",
         "inverted box"), 0
    )  # fmt: skip
    by_frame: dict[object, list[tuple[float, str, int]]] = {}
    scores = detections.scores.tolist()
    for row, (frame, label) in enumerate(zip(detections.frames, detections.labels, strict=True)):
        if frame in left_out:
            dropped["excluded frame"] += 1
        elif label not in known:
            dropped["class that does not count"] += 1
        else:
            kept, entry = by_frame.setdefault(frame, []), (scores[row], label, row)
            if cap is None or len(kept) < cap:
                heapq.heappush(kept, entry)
                continue
            dropped["below the cap"] += 1
            if entry[0] > kept[0][0]:
                heapq.heapreplace(kept, entry)
    rows: list[int] = []
    for frame, kept in by_frame.items():
        if frame in frames:
            rows += [row for _, _, row in sorted(kept, key=lambda entry: -entry[0])]
        else:
            dropped["frame without truth"] += len(kept)
    usable = detections[np.array(rows, np.int64)]
    inverted = _inverted(usable)
    dropped["inverted box"] = int(inverted.sum())
    return usable[~inverted], {reason: count for reason, count in dropped.items() if count}


def _inverted(boxes: Boxes) -> npt.NDArray[np.bool_]:
    backwards: npt.NDArray[np.bool_] = boxes.boxes[:, 2:] < boxes.boxes[:, :2]
    return np.asarray(backwards.any(axis=1), bool)


def _order(detections: Boxes, frames: list[object]) -> npt.NDArray[np.int64]:
    """Rows by score; of equal scores the later frame and there the later row first."""
    assert detections.scores is not None
    place = {frame: position for position, frame in enumerate(frames)}
    frame_N = np.array([place.get(frame, len(place)) for frame in detections.frames], np.int64)
    return np.lexsort((np.arange(len(detections)), frame_N, detections.scores))[::-1]


def _pairs(truth: Boxes, detections: Boxes) -> Pairs:
    _, (truth_frame, frame) = encode(truth.frames, detections.frames)
    rows, instances = same_key(frame, truth_frame)
    overlap = box_iou(detections.boxes[rows], truth.boxes[instances])
    some = overlap > 0
    return Pairs(rows[some], instances[some], overlap[some])


def _match_nearest(
    truth: Boxes, detections: Boxes, pairs: Pairs, order: npt.NDArray[np.int64], iou: float
) -> npt.NDArray[np.int64]:
    """Return the box that each detection takes, or -1; a detection looks at the nearest only."""
    same = detections.labels[pairs.detections] == truth.labels[pairs.instances]
    rows, instances = pairs.detections[same], pairs.instances[same]
    overlap = pairs.overlap[same]
    turns = np.lexsort((instances, -overlap, places(order)[rows]))
    matched_N = np.full(len(detections), -1)
    looked: set[int] = set()
    taken: set[int] = set()
    for turn in turns.tolist():
        row, instance = int(rows[turn]), int(instances[turn])
        if row in looked:
            continue
        looked.add(row)
        if overlap[turn] >= iou and instance not in taken:
            taken.add(instance)
            matched_N[row] = instance
    return matched_N
