"""Average precision and kinds of error of detections that were matched to the truth.

Segments, boxes and tubes differ in what overlaps and who may take whom; from there on, all is the
same and stands here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument

ERROR_KINDS = ("label", "place", "double", "background", "missed")
# A detection that overlaps nothing of its class by this much is on the background.
NEAR_OVERLAP = 0.1

AveragePrecision = Callable[[npt.NDArray[np.bool_], int], float]


@dataclass(frozen=True)
class ErrorKind:
    """How often one kind of error occurs, and what it costs.

    `count` is among as many detections of each class, the best, as it has instances (of "missed":
    instances that no detection of their class overlaps enough). `cost` is what mAP would gain if
    detections of this kind did not exist (of "missed": if those instances were not asked for).
    """

    name: str
    count: int
    cost: float


@dataclass(frozen=True)
class Pairs:
    """Detections and instances of the same place (video, frame) that overlap, one pair a row."""

    detections: npt.NDArray[np.int64]
    instances: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Matching:
    """Which instance each detection takes.

    Attributes
    ----------
    names : sequence of str
        Every label that occurs.
    truth_labels, labels : array of M and of N int
        Of the instances and of the detections, as places in `names`.
    matched_N : array of N int
        The instance that a detection takes, or -1.
    order_N : array of N int
        Detections from the best score on.
    """

    names: Sequence[str]
    truth_labels: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    matched_N: npt.NDArray[np.int64]
    order_N: npt.NDArray[np.int64]

    def average_precision(
        self,
        classes: Sequence[str],
        *,
        counted_N: npt.NDArray[np.bool_] | None = None,
        asked_M: npt.NDArray[np.bool_] | None = None,
        rule: AveragePrecision | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the average precision of each class; NaN where nothing is asked for.

        Parameters
        ----------
        classes : sequence of str
        counted_N, asked_M : arrays of bool, optional
            Which detections count and which instances are asked for; all where absent.
        rule : callable, optional
            `all_point_average_precision` where absent.
        """
        rule = rule or all_point_average_precision
        order = self.order_N if counted_N is None else self.order_N[counted_N[self.order_N]]
        truth = self.truth_labels if asked_M is None else self.truth_labels[asked_M]
        place = {name: k for k, name in enumerate(classes)}
        # Labels outside `classes` go to a last group, which nobody looks at.
        group = np.array([place.get(name, len(classes)) for name in self.names], np.int64)
        asked_K = np.bincount(group[truth], minlength=len(classes))
        code_N = group[self.labels[order]]
        by_class = np.argsort(code_N, kind="stable")
        bounds = np.searchsorted(code_N[by_class], np.arange(len(classes) + 1))
        hits = (self.matched_N[order] >= 0)[by_class]
        return np.array(
            [
                rule(hits[bounds[k] : bounds[k + 1]], int(asked_K[k])) if asked_K[k] else np.nan
                for k in range(len(classes))
            ]
        )

    def errors(self, pairs: Pairs, enough: npt.NDArray[np.bool_]) -> tuple[ErrorKind, ...]:
        """Divide what went wrong into kinds.

        A false detection is "double" if it overlaps enough an instance of its class, which
        another one has taken; else "label" if it overlaps enough one of another class; else
        "place" if it overlaps one of its class by .1 at least; else "background". An instance is
        "missed" if no detection of its class overlaps it enough.

        Parameters
        ----------
        pairs : Pairs
            Of all classes.
        enough : array of bool
            Which pairs overlap by the threshold.
        """
        classes = [self.names[code] for code in np.unique(self.truth_labels)]
        same = self.labels[pairs.detections] == self.truth_labels[pairs.instances]
        kind_N = np.full(len(self.labels), ERROR_KINDS.index("background"))
        for name, chosen in (
            ("place", same & (pairs.overlap >= NEAR_OVERLAP)),
            ("label", ~same & enough),
            ("double", same & enough),
        ):
            kind_N[pairs.detections[chosen]] = ERROR_KINDS.index(name)
        kind_N[self.matched_N >= 0] = -1
        missed_M = np.ones(len(self.truth_labels), bool)
        missed_M[pairs.instances[same & enough]] = False
        best_N = self._among_the_best()
        whole = mean(self.average_precision(classes))
        found = []
        for code, name in enumerate(ERROR_KINDS):
            if name == "missed":
                better = self.average_precision(classes, asked_M=~missed_M)
                count = missed_M.sum()
            else:
                better = self.average_precision(classes, counted_N=kind_N != code)
                count = (best_N & (kind_N == code)).sum()
            found.append(ErrorKind(name, int(count), mean(better) - whole))
        return tuple(found)

    def _among_the_best(self) -> npt.NDArray[np.bool_]:
        """Mark as many detections of each class, the best, as the class has instances."""
        wanted = np.bincount(self.truth_labels, minlength=len(self.names))
        return np.asarray(rank_in_group(self.labels, self.order_N) < wanted[self.labels])


def all_point_average_precision(hits_N: npt.NDArray[np.bool_], num_truth: int) -> float:
    """Return the area under the monotone precision-recall curve of a list, best score first.

    The rule of Pascal VOC since 2010: precision is made non-increasing from the right and summed
    over every change of recall, with the sentinels (recall 0, precision 0) and (1, 0).

    Parameters
    ----------
    hits_N : array of N bool
        Whether each detection found something, in descending order of score.
    num_truth : int
        How many things there were to find, at least 1.
    """
    found_N = np.cumsum(hits_N)
    recall = np.concatenate(([0.0], found_N / num_truth, [1.0]))
    precision = np.concatenate(([0.0], found_N / np.arange(1, len(hits_N) + 1), [0.0]))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    changes = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[changes] - recall[changes - 1]) * precision[changes]))


def eleven_point_average_precision(hits_N: npt.NDArray[np.bool_], num_truth: int) -> float:
    """Return the mean of the best precision at a recall of 0, .1, … 1 at least (VOC 2007)."""
    found_N = np.cumsum(hits_N)
    recall_N = found_N / num_truth
    precision_N = found_N / np.arange(1, len(hits_N) + 1)
    best = [precision_N[recall_N >= step * 0.1].max(initial=0.0) for step in range(11)]
    return float(np.mean(best))


def mean(values_K: npt.NDArray[np.float64]) -> float:
    """Return the mean over the classes that have a value; 0 where none has."""
    known = values_K[~np.isnan(values_K)]
    return float(known.mean()) if known.size else 0.0


def by_score(scores_N: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the rows from the best score on; of equal scores the later row first."""
    return np.argsort(scores_N, kind="stable")[::-1]


def places(order_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each row in an order of rows."""
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = np.arange(len(order_N))
    return place_N


def encode(
    *columns: npt.NDArray[np.object_],
) -> tuple[list[Any], list[npt.NDArray[np.int64]]]:
    """Return the values that occur in the columns, and each column as places in that list."""
    numbers: dict[object, int] = {}
    codes = [
        np.fromiter((numbers.setdefault(n, len(numbers)) for n in column), np.int64, len(column))
        for column in columns
    ]
    return list(numbers), codes


def rank_in_group(
    groups_N: npt.NDArray[np.int64], order_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return each row's place, from 0, among the rows of its group, in the given order."""
    by_group = order_N[np.argsort(groups_N[order_N], kind="stable")]
    sizes = np.bincount(groups_N)
    ranks = np.empty(len(groups_N), np.int64)
    ranks[by_group] = np.arange(len(groups_N)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def same_key(
    keys_N: npt.NDArray[np.int64], truth_keys_M: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return every pair (detection, instance) of the same key, by detection, then instance."""
    by_key = np.argsort(truth_keys_M, kind="stable")
    first = np.searchsorted(truth_keys_M[by_key], keys_N, "left")
    counts = np.searchsorted(truth_keys_M[by_key], keys_N, "right") - first
    rows = np.repeat(np.arange(len(keys_N)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, by_key[np.repeat(first, counts) + within]


def take_in_turn(
    rows: npt.NDArray[np.int64], instances: npt.NDArray[np.int64], num_detections: int
) -> npt.NDArray[np.int64]:
    """Join each pair, in the order given, of which both sides are still free.

    Returns
    -------
    array of N int
        The instance of each detection, or -1.
    """
    taken: dict[int, int] = {}
    joined: set[int] = set()
    for row, instance in zip(rows.tolist(), instances.tolist(), strict=True):
        if row not in joined and instance not in taken:
            taken[instance] = row
            joined.add(row)
    matched_N = np.full(num_detections, -1)
    matched_N[list(taken.values())] = list(taken)
    return matched_N


def check_thresholds(thresholds: Sequence[float], name: str) -> tuple[float, ...]:
    """Return thresholds of overlap.

    Raises
    ------
    InvalidArgument
        If there is none, or one outside (0, 1].
    """
    if not len(thresholds) or not all(0.0 < value <= 1.0 for value in thresholds):
        raise InvalidArgument(
            f"{name} thresholds {list(thresholds)} must lie in (0, 1], one at least; .5 is usual"
        )
    return tuple(float(value) for value in thresholds)
