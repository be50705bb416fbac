"""Classify whole clips by histograms of their flow: a kernel SVM chosen by validation, no weights.

What ten flows cannot see, a gesture of two seconds or the order of push and fall, stands in the
histograms of the whole clip. A clip becomes two coarse grids of flow (`flowpipe.flow.histogram`) in
steps of equal time, and its *description*: the cells of one or both, averaged over equal parts of
the clip, and how fast they change. Which grids, how many parts, which kernel, and whether training
clips are also seen in a mirror, is chosen by cross-validation inside the training clips.

Axes: N clips, B steps of time, R×Q cells, K directions (and all), D numbers, C classes.

SVM: Cortes and Vapnik, "Support-vector networks", 1995, https://doi.org/10.1007/BF00994018.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow.histogram import Cells, fine_cells, fixed_grid, mirrored, moving_grid

STEP_S = 0.08
# Lengths are made those of flow between frames this far apart, at this height of the picture.
NOMINAL_S = 0.04
NOMINAL_HEIGHT_PX = 128
FIELDS_AT_ONCE = 64
FIXED, MOVING = (3, 4), (4, 4)
INNER_FOLDS = 5
# So many clips of a class must be judged right, and such a share of them otherwise in a mirror.
LEAST_CLIPS, MIRRORED_SHARE = 5, 0.6
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.05, 5.0, 25))


@dataclass(frozen=True)
class Description:
    """How the cells of a clip become numbers, and which SVM takes them.

    Attributes
    ----------
    grids : "fixed", "moving" or "both"
    parts : int
        Equal parts of the clip's time, whose means stand one after the other.
    mirror : bool
        Train on the mirrored clips as well.
    kernel : "linear" or "rbf"
    cost : float
        C of the SVM: the larger, the closer it follows the training clips.
    """

    grids: str = "both"
    parts: int = 4
    mirror: bool = False
    kernel: str = "rbf"
    cost: float = 10.0


def candidates(*, mirror: bool) -> list[Description]:
    """Return the descriptions to choose from; `mirror` allows training on mirrored clips."""
    choices = itertools.product(
        ("fixed", "moving", "both"),
        (1, 4, 8),
        (False, True) if mirror else (False,),
        (("linear", 10.0), ("rbf", 10.0)),
    )
    return [Description(g, p, m, kernel, cost) for g, p, m, (kernel, cost) in choices]


@dataclass(frozen=True)
class ClipGrids:
    """What all descriptions of a clip are made of: its two coarse grids, each B×R×Q×(K+1)."""

    fixed: Cells
    moving: Cells

    def mirrored(self) -> "ClipGrids":
        """Return the grids of the clip in a mirror."""
        return ClipGrids(mirrored(self.fixed), mirrored(self.moving))


def clip_grids(entry: Any, start: int = 0, stop: int | None = None) -> ClipGrids:
    """Return the coarse grids of an entry's flow in steps of `STEP_S`.

    Lengths are those of flow at a fixed rate and size, so that clips of other frame rates or
    sizes compare.

    Parameters
    ----------
    entry : Entry
        With flow and `pts_s`.
    start, stop : int
        Range of the fields, [start, stop); all by default.
    """
    stop = entry.num_flows if stop is None else min(stop, entry.num_flows)
    if not 0 <= start < stop:
        raise InvalidArgument(f"fields [{start}, {stop}) of {entry.num_flows} must hold one")
    interval_s = np.maximum(np.diff(entry.pts_s[start : stop + 1]), 1e-6)
    scale = NOMINAL_S / interval_s * (NOMINAL_HEIGHT_PX / min(entry.height, entry.width))
    blocks = []
    for first in range(start, stop, FIELDS_AT_ONCE):
        last = min(first + FIELDS_AT_ONCE, stop)
        cells = fine_cells(np.asarray(entry.flow[first:last], np.float32))
        blocks.append(cells * scale[first - start : last - start, None, None, None])
    cells = in_steps(np.concatenate(blocks), interval_s)
    return ClipGrids(fixed_grid(cells, *FIXED), moving_grid(cells, *MOVING))


def in_steps(cells: Cells, interval_s: NDArray[np.float64]) -> Cells:
    """Return means of fields over steps of `STEP_S`; a field counts by its time in a step."""
    ends_s = np.cumsum(interval_s)
    starts_s = ends_s - interval_s
    steps = max(1, round(float(ends_s[-1]) / STEP_S))
    edges_s = np.linspace(0.0, float(ends_s[-1]), steps + 1)
    weights = np.zeros((steps, len(cells)), np.float32)
    for step in range(steps):
        overlap = np.minimum(ends_s, edges_s[step + 1]) - np.maximum(starts_s, edges_s[step])
        weights[step] = np.maximum(overlap, 0)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, cells, axes=1).astype(np.float32)


def describe(clip: ClipGrids, how: Description) -> NDArray[np.float32]:
    """Return the description of a clip, D float32 of length one."""
    grids = {"fixed": (clip.fixed,), "moving": (clip.moving,), "both": (clip.fixed, clip.moving)}
    chosen = grids[how.grids]
    return np.concatenate([_pooled(grid, how.parts) / math.sqrt(len(chosen)) for grid in chosen])


def _pooled(grid: Cells, parts: int) -> NDArray[np.float32]:
    """Means over parts of the clip, and the mean change from step to step; roots, length one."""
    edges = np.linspace(0, len(grid), parts + 1)
    firsts = np.minimum(np.floor(edges[:-1]).astype(int), len(grid) - 1)
    stops = np.maximum(np.ceil(edges[1:]).astype(int), firsts + 1)
    means = [grid[a:b].mean(0) for a, b in zip(firsts, stops, strict=True)]
    change = np.abs(np.diff(grid, axis=0)).mean(0) if len(grid) > 1 else np.zeros_like(grid[0])
    numbers = np.sqrt(np.concatenate([part.ravel() for part in (*means, change)]))
    length = max(1e-6, float(np.linalg.norm(numbers)))
    return np.asarray(numbers / length, np.float32)


class WholeClipClassifier:
    """An SVM on descriptions of clips.

    Attributes
    ----------
    description : Description
    validation_accuracy : float
        Of the chosen description, by cross-validation inside the training clips.
    validation_logits : array of N×C float64
        Of each training clip, from an SVM that had not seen its group; in the order of
        `validation_ids`.
    """

    def __init__(
        self,
        description: Description,
        num_classes: int,
        support_SD: NDArray[np.float32],
        labels_S: NDArray[np.int64],
        temperature: float,
    ) -> None:
        self.description, self.num_classes = description, num_classes
        self.support_SD, self.labels_S = support_SD, labels_S
        self.temperature = temperature
        self.validation_accuracy = math.nan
        self.validation_logits: NDArray[np.float64] = np.empty((0, num_classes))
        self.validation_ids: tuple[str, ...] = ()
        self._svm = _fit(_kernel(description, support_SD, support_SD), labels_S, description.cost)

    @classmethod
    def fit(
        cls,
        clips: Sequence[ClipGrids],
        labels_N: NDArray[np.int64],
        num_classes: int,
        *,
        ids: Sequence[str] = (),
        groups: Sequence[str] | None = None,
        mirror: bool = False,
        choices: Sequence[Description] | None = None,
        seed: int = 0,
    ) -> "WholeClipClassifier":
        """Choose a description by cross-validation and fit its SVM to all clips.

        Parameters
        ----------
        clips : sequence of ClipGrids
            `clip_grids` of each training clip.
        labels_N : array of int
            Class numbers.
        num_classes : int
        ids : sequence of str, optional
            Names of the clips, to find their `validation_logits` by.
        groups : sequence of str, optional
            Clips of one group are never on both sides of the validation.
        mirror : bool
            Whether a clip in the mirror is of the same class.
        choices : sequence of Description, optional
            In place of `candidates(mirror=mirror)`.
        seed : int

        Raises
        ------
        InvalidArgument
            For fewer than two classes among the clips.
        """
        if len(np.unique(labels_N)) < 2:
            raise InvalidArgument("clips of one class only; a classifier needs two or more")
        folds_N = _inner_folds(labels_N, groups, seed)
        best: tuple[float, float] | None = None
        described: dict[tuple[str, int, bool], NDArray[np.float32]] = {}
        for how in choices if choices is not None else candidates(mirror=mirror):
            key = (how.grids, how.parts, False)
            if key not in described:
                described[key] = np.stack([describe(clip, how) for clip in clips])
            seen_ND = described[key]
            turned_ND = None
            if how.mirror:
                key = (how.grids, how.parts, True)
                if key not in described:
                    described[key] = np.stack([describe(clip.mirrored(), how) for clip in clips])
                turned_ND = described[key]
            logits_NC = _validated(how, seen_ND, turned_ND, labels_N, folds_N, num_classes)
            temperature, loss = _calibrated(logits_NC, labels_N)
            right = float(np.mean(logits_NC.argmax(1) == labels_N))
            score = (right - 0.25 * loss, -loss)
            if best is None or score > best:
                best, chosen, accuracy = score, how, right
                validation, parts = logits_NC / temperature, (seen_ND, turned_ND, temperature)
        seen_ND, turned_ND, temperature = parts
        support, labels = seen_ND, labels_N
        if turned_ND is not None:
            support, labels = np.concatenate([seen_ND, turned_ND]), np.tile(labels_N, 2)
        found = cls(chosen, num_classes, support, labels, temperature)
        found.validation_accuracy, found.validation_logits = accuracy, validation
        found.validation_ids = tuple(ids)
        return found

    def logits(self, clips: Sequence[ClipGrids]) -> NDArray[np.float64]:
        """Return logits of clips, N×C; their softmax is calibrated on the validation."""
        clips_ND = np.stack([describe(clip, self.description) for clip in clips])
        kernel = _kernel(self.description, clips_ND, self.support_SD)
        return _decisions(self._svm, kernel, self.num_classes) / self.temperature

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what `from_state` needs, as arrays."""
        facts = {
            **asdict(self.description),
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "validation_accuracy": self.validation_accuracy,
            "validation_ids": self.validation_ids,
        }
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8).copy()
        return {
            "facts": text,
            "support_SD": self.support_SD,
            "labels_S": self.labels_S,
            "validation_logits": self.validation_logits,
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> "WholeClipClassifier":
        """Return the classifier whose `state()` this is."""
        facts = json.loads(np.asarray(state["facts"], np.uint8).tobytes())
        how = Description(**{f.name: facts[f.name] for f in fields(Description)})
        found = cls(
            how,
            int(facts["num_classes"]),
            np.asarray(state["support_SD"], np.float32),
            np.asarray(state["labels_S"], np.int64),
            float(facts["temperature"]),
        )
        found.validation_accuracy = float(facts["validation_accuracy"])
        found.validation_ids = tuple(facts["validation_ids"])
        found.validation_logits = np.asarray(state["validation_logits"], np.float64)
        return found


def mirror_images(
    clips: Sequence[ClipGrids],
    labels_N: NDArray[np.int64],
    num_classes: int,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[int, int]:
    """Return the classes whose clips, in a mirror, are taken for each other: class → the other.

    Each clip is judged by an SVM that has not seen its group. A class counts if it has
    `LEAST_CLIPS` clips that are judged right, and most of those are judged to be of one other
    class in a mirror, as those of the other are to be of this.
    """
    how = Description(grids="fixed", parts=4)
    seen_ND = np.stack([describe(clip, how) for clip in clips])
    turned_ND = np.stack([describe(clip.mirrored(), how) for clip in clips])
    folds_N = _inner_folds(labels_N, groups, seed)
    judged_N, turned_N = np.full((2, len(clips)), -1)
    for fold in np.unique(folds_N):
        train, held = folds_N != fold, folds_N == fold
        if len(np.unique(labels_N[train])) < 2:
            continue
        svm = _fit(_kernel(how, seen_ND[train], seen_ND[train]), labels_N[train], how.cost)
        for rows_ND, found_N in ((seen_ND, judged_N), (turned_ND, turned_N)):
            kernel = _kernel(how, rows_ND[held], seen_ND[train])
            found_N[held] = _decisions(svm, kernel, num_classes).argmax(1)
    images = {}
    for label in np.unique(labels_N):
        right = (labels_N == label) & (judged_N == label)
        counts = np.bincount(turned_N[right], minlength=num_classes)
        image = int(counts.argmax())
        enough = right.sum() >= max(LEAST_CLIPS, 0.6 * (labels_N == label).sum())
        if enough and image != label and counts[image] > MIRRORED_SHARE * right.sum():
            images[int(label)] = image
    return {one: other for one, other in images.items() if images.get(other) == one}


def _kernel(
    how: Description, left_ND: NDArray[np.float32], right_MD: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return how alike descriptions are, N×M; they have length one, so that 0 to 2 apart."""
    alike = (left_ND @ right_MD.T).astype(np.float64)
    if how.kernel == "linear":
        return alike
    # Distances of roots of histograms: 0.1 to 0.5 between unlike clips.
    return np.exp(-4.0 * np.maximum(0.0, 1.0 - alike))


def _fit(kernel: NDArray[np.float64], labels_N: NDArray[np.int64], cost: float) -> Any:
    from sklearn.svm import SVC

    return SVC(C=cost, kernel="precomputed", class_weight="balanced").fit(kernel, labels_N)


def _decisions(svm: Any, kernel: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Return the decision values N×C; a class without training clips gets the lowest and less."""
    values = svm.decision_function(kernel)
    if values.ndim == 1:  # two classes
        values = np.stack([-values, values], axis=1)
    decisions = np.full((len(kernel), num_classes), values.min() - 1.0)
    decisions[:, svm.classes_] = values
    return decisions


def _inner_folds(
    labels_N: NDArray[np.int64], groups: Sequence[str] | None, seed: int
) -> NDArray[np.int64]:
    """Return the validation fold of each clip: classes spread evenly, groups kept whole."""
    rng = np.random.default_rng(seed)
    names = [str(i) for i in range(len(labels_N))] if groups is None else list(groups)
    unique = sorted(set(names))
    count = min(INNER_FOLDS, len(unique))
    order = [unique[i] for i in rng.permutation(len(unique))]
    members = {name: [i for i, own in enumerate(names) if own == name] for name in order}
    order.sort(key=lambda name: -len(members[name]))
    load = np.zeros((count, int(labels_N.max()) + 1))
    folds_N = np.zeros(len(labels_N), np.int64)
    for name in order:
        clips = members[name]
        added = np.bincount(labels_N[clips], minlength=load.shape[1])
        # The fold that has least of what comes; of equals, the smallest.
        costs = (load * added).sum(1) + 1e-3 * load.sum(1)
        fold = int(costs.argmin())
        folds_N[clips] = fold
        load[fold] += added
    return folds_N


def _validated(
    how: Description,
    seen_ND: NDArray[np.float32],
    turned_ND: NDArray[np.float32] | None,
    labels_N: NDArray[np.int64],
    folds_N: NDArray[np.int64],
    num_classes: int,
) -> NDArray[np.float64]:
    """Return decision values of each clip from SVMs that were fitted to the other folds."""
    both_ND = seen_ND if turned_ND is None else np.concatenate([seen_ND, turned_ND])
    whole = _kernel(how, seen_ND, both_ND)
    among = None if turned_ND is None else _kernel(how, turned_ND, turned_ND)
    logits_NC = np.zeros((len(labels_N), num_classes))
    count = len(labels_N)
    for fold in np.unique(folds_N):
        train, held = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        labels = labels_N[train]
        if len(np.unique(labels)) < 2:
            continue
        if among is None:
            kernel, columns = whole[np.ix_(train, train)], train
        else:
            columns = np.concatenate([train, count + train])
            upper = whole[np.ix_(train, columns)]
            across = whole[np.ix_(train, count + train)]
            lower = np.concatenate([across.T, among[np.ix_(train, train)]], axis=1)
            kernel, labels = np.concatenate([upper, lower]), np.tile(labels, 2)
        svm = _fit(kernel, labels, how.cost)
        logits_NC[held] = _decisions(svm, whole[np.ix_(held, columns)], num_classes)
    return logits_NC


def _calibrated(logits_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature with the least cross-entropy, and that cross-entropy in nats."""
    losses = [(_loss(logits_NC / t, labels_N), t) for t in TEMPERATURES]
    loss, temperature = min(losses)
    return temperature, loss


def _loss(logits_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> float:
    top = logits_NC.max(1, keepdims=True)
    logs = logits_NC - top - np.log(np.exp(logits_NC - top).sum(1, keepdims=True))
    return float(-logs[np.arange(len(labels_N)), labels_N].mean())
