"""Temporal localisation: mAP over temporal overlap, average recall of proposals. numpy only.

Two rules for mAP, which give different numbers on the same files:

* ``activitynet`` [1]_: detections by score, each takes the free instance of its class that it
  overlaps most, if tIoU ≥ threshold; the area under the whole precision-recall curve.
* ``thumos14`` [2]_: instances in file order, each takes the free detection that overlaps it most,
  if tIoU > threshold, whatever its score; what overlaps an ambiguous stretch is not counted; the
  mean of precision at eleven recalls.

References
----------
.. [1] F. Caba Heilbron et al., "ActivityNet: a large-scale video benchmark for human activity
   understanding", CVPR 2015. https://doi.org/10.1109/CVPR.2015.7298698
.. [2] H. Idrees et al., "The THUMOS challenge on action recognition for videos in the wild",
   CVIU 155, 2017. https://doi.org/10.1016/j.cviu.2016.10.018
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument
from flowpipe.metrics.matching import (
    ErrorKind,
    Matching,
    Pairs,
    by_score,
    check_thresholds,
    eleven_point_average_precision,
    encode,
    mean,
    places,
    rank_in_group,
    same_key,
    take_in_turn,
)

PROTOCOLS = {
    "activitynet": "ActivityNet's rules: by score, the free instance of most overlap, tIoU ≥ t, "
    "area under the whole curve; duplicate instances kept; classes without truth ignored",
    "thumos14": "rules of the THUMOS'14 kit: by instance, the free detection of most overlap, "
    "tIoU > t, eleven points; detections on ambiguous stretches not counted",
}
DEFAULT_TIOU = {
    "activitynet": tuple(round(0.5 + 0.05 * step, 2) for step in range(10)),
    "thumos14": (0.1, 0.2, 0.3, 0.4, 0.5),
    "proposals": tuple(round(0.5 + 0.05 * step, 2) for step in range(10)),
}


@dataclass(frozen=True)
class Segments:
    """Labelled stretches of time, in the order of their file: instances, or detections.

    Attributes
    ----------
    videos, labels : array of N str
    times_s : array of N×2 float64
        Start and end; seconds, or any other unit that both sides share.
    scores : array of N float64 or None
        None for the truth.
    """

    videos: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    times_s: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        count = len(self.videos)
        shapes = [self.labels.shape, self.times_s.shape[:1]]
        shapes += [] if self.scores is None else [self.scores.shape]
        if any(shape != (count,) for shape in shapes) or self.times_s.shape != (count, 2):
            raise InvalidArgument(
                f"{count} videos, labels {self.labels.shape}, times {self.times_s.shape}: there "
                "must be a video, a label, a start and an end for each segment"
            )
        for values, name in ((self.times_s, "time"), (self.scores, "score")):
            if values is not None and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values).reshape(count, -1).all(axis=1))[0])
                raise InvalidArgument(
                    f"segment {row} (video {self.videos[row]}) has a {name} that is no finite "
                    "number; correct the file or leave the row out"
                )

    @classmethod
    def of(
        cls, rows: Sequence[tuple[str, str, float, float]], scores: Sequence[float] | None = None
    ) -> "Segments":
        """Return the record of rows (video, label, start, end)."""
        videos, labels = np.empty(len(rows), object), np.empty(len(rows), object)
        videos[:], labels[:] = [row[0] for row in rows], [row[1] for row in rows]
        times_s = np.array([row[2:] for row in rows], np.float64).reshape(len(rows), 2)
        return cls(videos, labels, times_s, None if scores is None else np.array(scores, float))

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Segments":
        scores = None if self.scores is None else self.scores[rows]
        return Segments(self.videos[rows], self.labels[rows], self.times_s[rows], scores)

    @property
    def lengths_s(self) -> npt.NDArray[np.float64]:
        """End minus start of each."""
        return self.times_s[:, 1] - self.times_s[:, 0]


@dataclass(frozen=True)
class TemporalPrecision:
    """Average precision by class and threshold.

    Attributes
    ----------
    tiou : tuple of float
    classes : tuple of str
        Those of the truth, in order of name.
    ap_KT : array
    unknown : int
        Detections of classes that the truth does not hold; they were ignored.
    """

    tiou: tuple[float, ...]
    classes: tuple[str, ...]
    ap_KT: npt.NDArray[np.float64]
    unknown: int

    @property
    def map_T(self) -> npt.NDArray[np.float64]:
        """Mean over the classes, at each threshold."""
        return np.asarray(self.ap_KT.mean(axis=0))

    @property
    def average(self) -> float:
        """Mean over classes and thresholds."""
        return float(self.map_T.mean())


@dataclass(frozen=True)
class ProposalRecall:
    """Average recall over tIoU .5 … .95 at 1, 2, … proposals per video, and its area.

    `area` is the trapezoid from 1 to the largest number, divided by that number: .99 at best.
    """

    average_recall: npt.NDArray[np.float64]
    area: float

    def at(self, number: int) -> float:
        """Return the average recall at `number` proposals per video."""
        return float(self.average_recall[number - 1])


@dataclass(frozen=True)
class LengthGroup:
    """Instances of like length: how many, how many are found at all, their mAP.

    Detections that find an instance of another length do not count here, neither way.
    """

    shortest_s: float
    longest_s: float
    instances: int
    found: int
    mean_ap: float


def temporal_iou(
    segments_N2: npt.NDArray[np.float64], others_N2: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the overlap of each pair, intersection by union; 0 where both have no length."""
    start, end = segments_N2.T
    other_start, other_end = others_N2.T
    shared = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start), 0.0)
    union = (end - start) + (other_end - other_start) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def temporal_precision(
    truth: Segments,
    detections: Segments,
    tiou: Sequence[float] | None = None,
    *,
    protocol: str = "activitynet",
    ambiguous: Segments | None = None,
) -> TemporalPrecision:
    """Average precision of detections, by class and threshold of temporal overlap.

    Parameters
    ----------
    truth : Segments
        At least one instance. Only classes that occur here count.
    detections : Segments
        With scores. Of equal scores the later row comes first, as in ActivityNet's program.
    tiou : sequence of float, optional
        Thresholds in (0, 1]; absent: `DEFAULT_TIOU` of the protocol.
    protocol : {"activitynet", "thumos14"}
    ambiguous : Segments, optional
        Stretches where detections do not count against anyone; used by thumos14 only.

    Raises
    ------
    InvalidArgument
        Without instances, for detections without scores, an unknown protocol or a threshold
        outside (0, 1].
    """
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f'protocol "{protocol}" must be one of {", ".join(PROTOCOLS)}')
    tiou = _checked(truth, detections, DEFAULT_TIOU[protocol] if tiou is None else tiou)
    classes = tuple(sorted(set(truth.labels)))
    counted_N, rule = np.ones(len(detections), bool), None
    matchings = _match_by_score(truth, detections, tiou)
    if protocol == "thumos14":
        matchings = _match_by_instance(truth, detections, tiou)
        counted_N, rule = ~_overlaps_any(detections, ambiguous), eleven_point_average_precision
    columns = [
        matching.average_precision(
            classes, counted_N=counted_N | (matching.matched_N >= 0), rule=rule
        )
        for matching in matchings
    ]
    known = set(classes)
    unknown = sum(label not in known for label in detections.labels)
    return TemporalPrecision(tiou, classes, np.stack(columns, axis=1), unknown)


def proposal_recall(
    truth: Segments, proposals: Segments, *, max_proposals: int = 100
) -> ProposalRecall:
    """Average recall of proposals over their number (AR@AN), labels ignored.

    ActivityNet's rules: a proposal may find several instances and an instance may be found again;
    a video with more proposals than others keeps more, `max_proposals` on the average; videos
    without proposals count with recall 0, videos without instances do not count.
    """
    tiou = _checked(truth, proposals, DEFAULT_TIOU["proposals"])
    videos, (truth_video, video) = encode(truth.videos, proposals.videos)
    kept_V = np.bincount(video, minlength=len(videos))
    asked_V = np.bincount(truth_video, minlength=len(videos)) > 0
    wanted = max_proposals * float(asked_V.sum())
    if len(proposals):
        kept_V = np.minimum((kept_V * (wanted / len(proposals))).astype(int), kept_V)
    kept = int(kept_V[asked_V].sum())
    assert proposals.scores is not None
    rank_N = rank_in_group(video, by_score(proposals.scores))
    pairs = _pairs(truth, proposals)
    rows, instances, overlap = pairs.detections, pairs.instances, pairs.overlap
    inside = rank_N[rows] < kept_V[video[rows]]
    rows, instances, overlap = rows[inside], instances[inside], overlap[inside]
    shares = np.arange(1, max_proposals + 1) / float(max_proposals) * (wanted / max(kept, 1))
    used_VP = np.minimum((kept_V[:, None] * shares).astype(int), kept_V[:, None])
    recall_TP = np.zeros((len(tiou), max_proposals))
    for position, threshold in enumerate(tiou):
        hit = overlap >= threshold
        first_M = np.full(len(truth), np.iinfo(np.int64).max)
        np.minimum.at(first_M, instances[hit], rank_N[rows[hit]])
        recall_TP[position] = (first_M[:, None] < used_VP[truth_video]).sum(axis=0) / len(truth)
    average = recall_TP.mean(axis=0)
    numbers = shares * (kept / asked_V.sum())
    return ProposalRecall(average, float(np.trapezoid(average, numbers)) / max_proposals)


def temporal_errors(
    truth: Segments, detections: Segments, tiou: float = 0.5
) -> tuple[ErrorKind, ...]:
    """Divide what went wrong at one threshold into kinds, under ActivityNet's rules.

    `Matching.errors` says what the kinds are.
    """
    (threshold,) = _checked(truth, detections, [tiou])
    (matching,) = _match_by_score(truth, detections, [threshold])
    pairs = _pairs(truth, detections)
    return matching.errors(pairs, pairs.overlap >= threshold)


def temporal_lengths(
    truth: Segments, detections: Segments, tiou: float = 0.5
) -> tuple[LengthGroup, ...]:
    """Return the result at one threshold for the shortest, middle and longest third of instances.

    Under ActivityNet's rules. A class counts in the groups in which it has an instance.
    """
    (matching,) = _match_by_score(truth, detections, _checked(truth, detections, [tiou]))
    matched_N, lengths = matching.matched_N, truth.lengths_s
    groups = []
    for rows in np.array_split(np.argsort(lengths, kind="stable"), 3):
        if not rows.size:
            continue
        asked_M = np.zeros(len(truth), bool)
        asked_M[rows] = True
        here_N = (matched_N < 0) | asked_M[matched_N]
        values = matching.average_precision(
            sorted(set(truth.labels)), counted_N=here_N, asked_M=asked_M
        )
        found = int(((matched_N >= 0) & here_N).sum())
        ends = float(lengths[rows].min()), float(lengths[rows].max())
        groups.append(LengthGroup(*ends, len(rows), found, mean(values)))
    return tuple(groups)


def _checked(truth: Segments, detections: Segments, tiou: Sequence[float]) -> tuple[float, ...]:
    if not len(truth):
        raise InvalidArgument("the truth has no instance, so that there is nothing to measure")
    if detections.scores is None:
        raise InvalidArgument("detections without scores cannot be ranked; give each a score")
    return check_thresholds(tiou, "tIoU")


def _match_by_score(truth: Segments, detections: Segments, tiou: Sequence[float]) -> list[Matching]:
    """Each detection in turn takes the free instance that it overlaps most (ActivityNet)."""
    assert detections.scores is not None
    order = by_score(detections.scores)
    pairs = _pairs(truth, detections, of_a_class=True)
    # Of equal overlaps the later instance first, as a reversed stable sort has them.
    turns = np.lexsort((-pairs.instances, -pairs.overlap, places(order)[pairs.detections]))
    enough = [pairs.overlap[turns] >= threshold for threshold in tiou]
    return _matchings(truth, detections, pairs, [turns[mask] for mask in enough], order)


def _match_by_instance(
    truth: Segments, detections: Segments, tiou: Sequence[float]
) -> list[Matching]:
    """Each instance in turn takes the free detection that overlaps it most (THUMOS'14)."""
    assert detections.scores is not None
    _, video = np.unique(detections.videos.astype(str), return_inverse=True)
    # Of equal scores by name of video, then the earlier row.
    order = np.lexsort((np.arange(len(video)), video, -detections.scores))
    pairs = _pairs(truth, detections, of_a_class=True)
    turns = np.lexsort((places(order)[pairs.detections], -pairs.overlap, pairs.instances))
    enough = [pairs.overlap[turns] > threshold for threshold in tiou]
    return _matchings(truth, detections, pairs, [turns[mask] for mask in enough], order)


def _matchings(
    truth: Segments,
    detections: Segments,
    pairs: Pairs,
    turns: Sequence[npt.NDArray[np.int64]],
    order: npt.NDArray[np.int64],
) -> list[Matching]:
    taken = [
        take_in_turn(pairs.detections[turn], pairs.instances[turn], len(detections))
        for turn in turns
    ]
    names, (truth_labels, labels) = encode(truth.labels, detections.labels)
    return [Matching(names, truth_labels, labels, matched, order) for matched in taken]


def _pairs(truth: Segments, detections: Segments, *, of_a_class: bool = False) -> Pairs:
    """Return the pairs of a video that overlap at all."""
    videos, (truth_key, key) = encode(truth.videos, detections.videos)
    if of_a_class:
        _, (truth_label, label) = encode(truth.labels, detections.labels)
        truth_key, key = truth_label * len(videos) + truth_key, label * len(videos) + key
    rows, instances = same_key(key, truth_key)
    overlap = temporal_iou(detections.times_s[rows], truth.times_s[instances])
    some = overlap > 0
    return Pairs(rows[some], instances[some], overlap[some])


def _overlaps_any(detections: Segments, ambiguous: Segments | None) -> npt.NDArray[np.bool_]:
    touched = np.zeros(len(detections), bool)
    if ambiguous is not None and len(ambiguous):
        touched[_pairs(ambiguous, detections).detections] = True
    return touched
