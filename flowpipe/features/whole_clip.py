"""Classify whole clips by histograms of their flow: kernel SVMs weighed by validation, no networks.

What ten flows cannot see, a gesture of two seconds or the order of push and fall, stands in the
histograms of the whole clip. A clip becomes two coarse grids of flow (`flowpipe.flow.histogram`) in
steps of equal time, and small blocks of picture and time (`local_motion`). Its *description* holds
one or both grids, averaged over the clip, and over its halves, quarters and eighths, of time or of
motion; the blocks; or all of these. There is an SVM on each description; how much it counts is
decided by cross-validation inside the training clips.

Axes: N clips, B steps of time, R×Q cells, K directions (and all), D numbers, C classes.

SVM: Cortes and Vapnik, "Support-vector networks", 1995, https://doi.org/10.1007/BF00994018.
Parts of parts: Lazebnik, Schmid, Ponce, "Beyond bags of features: spatial pyramid matching", CVPR
2006, https://doi.org/10.1109/CVPR.2006.68.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.features.local_motion import LocalMotion, Vocabulary, local_motion
from flowpipe.flow.histogram import Cells, fine_cells, fixed_grid, mirrored, moving_grid

STEP_S = 0.08
# Lengths are made those of flow between frames this far apart, at this height of the picture.
NOMINAL_S = 0.04
NOMINAL_HEIGHT_PX = 128
FIELDS_AT_ONCE = 64
FIXED, MOVING = (3, 4), (4, 4)
# A grid, its parts and its pyramid; or the blocks.
Piece: TypeAlias = tuple[str, int, str]
LOCAL: Piece = ("local", 1, "no")
AMOUNT: Piece = ("amount", 1, "no")
# Lengths that an amount of motion is counted by, in px; each is twice the one before.
LEAST_AMOUNT_PX, AMOUNTS = 0.02, 10
# Of equal parts of motion: this share of it is spread evenly over the clip.
EVEN_SHARE = 0.2
# So many clips more are imagined, of which nothing is known: a few right ones prove little.
IMAGINED_CLIPS = 0.5
# A held-out clip counts as so many independent ones: those of one person or scene are alike.
EVIDENCE = 0.3
# A kernel of so many clips and their mirrored ones takes 64 MB, and there are eight.
MANY_CLIPS = 2000
# Descriptions of a smaller weight are left out.
LEAST_WEIGHT = 0.02
INNER_FOLDS = 5
# So many clips of a class must be judged right, and such a share of them otherwise in a mirror.
LEAST_CLIPS, MIRRORED_SHARE = 5, 0.6
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.05, 5.0, 25))


@dataclass(frozen=True)
class Description:
    """What of a clip becomes numbers, and which SVM takes them.

    Attributes
    ----------
    grids : "fixed", "moving", "both" or "none"
    parts : int
        Equal parts of the clip, whose means stand one after the other.
    pyramid : "no", "time" or "motion"
        Whether the halves, the quarters and so on down to `parts` count as much as the whole, and
        what of the clip is the same in each part.
    local : bool
        Whether small blocks of motion, wherever they are, count as much as the grids.
    amount : bool
        Whether it counts how much moves, and how suddenly. The rest knows shares only.
    mirror : bool
        Train on the mirrored clips as well.
    kernel : "linear" or "rbf"
    cost : float
        C of the SVM: the larger, the closer it follows the training clips.
    """

    grids: str = "both"
    parts: int = 4
    pyramid: str = "no"
    local: bool = False
    amount: bool = False
    mirror: bool = False
    kernel: str = "rbf"
    cost: float = 10.0

    def pieces(self) -> list[Piece]:
        """Return what the description consists of, each piece as heavy as the others."""
        chosen = {"fixed": ["fixed"], "moving": ["moving"], "both": ["fixed", "moving"], "none": []}
        grids: list[Piece] = [(name, self.parts, self.pyramid) for name in chosen[self.grids]]
        pieces = grids + [LOCAL] * (max(1, len(grids)) if self.local else 0)
        return pieces + [AMOUNT] * (max(1, len(grids)) if self.amount else 0)


def candidates(count: int, *, mirror: bool) -> list[Description]:
    """Return the descriptions to weigh, for `count` clips.

    `mirror` has them train on mirrored clips too. Of many clips, whose kernels are large, there are
    few descriptions and no mirrored ones.
    """
    if count > MANY_CLIPS:
        return [Description("both", 8, "time", local) for local in (False, True)]
    choices = itertools.product(
        ("moving", "both", "fixed"),
        ((1, "no"), (8, "time"), (8, "motion")),
        (False, True),
        (False, True),
    )
    listed = [
        Description(grids, parts, pyramid, local, amount, mirror)
        for grids, (parts, pyramid), local, amount in choices
    ]
    return [
        *listed,
        *(Description("none", 1, "no", True, amount, mirror) for amount in (False, True)),
    ]


@dataclass(frozen=True)
class ClipGrids:
    """What all descriptions of a clip are made of: coarse grids B×R×Q×(K+1), and blocks."""

    fixed: Cells
    moving: Cells
    local: LocalMotion

    def mirrored(self) -> "ClipGrids":
        """Return the same of the clip in a mirror."""
        return ClipGrids(mirrored(self.fixed), mirrored(self.moving), self.local.mirrored())


def clip_grids(entry: Any, start: int = 0, stop: int | None = None) -> ClipGrids:
    """Return the coarse grids and blocks of an entry's flow in steps of `STEP_S`.

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
    return ClipGrids(fixed_grid(cells, *FIXED), moving_grid(cells, *MOVING), local_motion(cells))


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


def describe(
    clip: ClipGrids, how: Description, vocabulary: Vocabulary | None = None
) -> NDArray[np.float32]:
    """Return the description of a clip, D float32 of length one; `vocabulary` is that of blocks."""
    pieces = how.pieces()
    made = {piece: _piece(clip, piece, vocabulary) for piece in set(pieces)}
    share = np.float32(math.sqrt(len(pieces)))
    return np.asarray(np.concatenate([made[piece] for piece in pieces]) / share, np.float32)


def _piece(clip: ClipGrids, piece: Piece, vocabulary: Vocabulary | None) -> NDArray[np.float32]:
    """Return a piece of a clip's description; it has length one."""
    name, parts, pyramid = piece
    if piece == LOCAL:
        assert vocabulary is not None
        return vocabulary.describe(clip.local)
    if piece == AMOUNT:
        return _amounts(clip.fixed)
    grid: Cells = getattr(clip, name)
    if pyramid == "no":
        return _roots([*_parts(grid, parts, "time"), _change(grid)])
    levels = [_roots([*_parts(grid, 1, "time"), _change(grid)])]
    levels += [_roots(_parts(grid, 2**n, pyramid)) for n in range(1, parts.bit_length())]
    return np.asarray(np.concatenate(levels) / np.float32(math.sqrt(len(levels))), np.float32)


def _parts(grid: Cells, parts: int, equal: str) -> list[Cells]:
    """Return means over parts of the clip that have the same time, or as much motion."""
    steps = len(grid)
    if equal == "time":
        edges = np.linspace(0, steps, parts + 1)
        firsts = np.minimum(np.floor(edges[:-1]).astype(int), steps - 1)
        stops = np.maximum(np.ceil(edges[1:]).astype(int), firsts + 1)
        return [grid[a:b].mean(0) for a, b in zip(firsts, stops, strict=True)]
    amount_B = grid[..., -1].sum((1, 2), dtype=np.float64)
    amount_B += EVEN_SHARE * amount_B.mean() + 1e-6
    passed = np.concatenate([[0.0], amount_B.cumsum() / amount_B.sum()])
    edges = np.interp(np.linspace(0, 1, parts + 1), passed, np.arange(steps + 1))
    step_B = np.arange(steps)
    means = []
    for first, stop in itertools.pairwise(edges):
        inside_B = np.minimum(step_B + 1, stop) - np.maximum(step_B, first)
        weights_B = np.maximum(inside_B, 0).astype(np.float32)
        means.append(np.tensordot(weights_B / weights_B.sum(), grid, axes=1))
    return means


def _amounts(grid: Cells) -> NDArray[np.float32]:
    """Return how often so much moves: in all, in the liveliest cell, in any; and how it changes."""
    length_BC = grid[..., -1].reshape(len(grid), -1)
    change_B = np.abs(np.diff(length_BC, axis=0)).mean(1) if len(grid) > 1 else np.zeros(1)
    counts = []
    for lengths in (length_BC.mean(1), length_BC.max(1), length_BC.ravel(), change_B):
        place = np.log2(np.maximum(lengths, 1e-6) / LEAST_AMOUNT_PX).clip(0, AMOUNTS - 1.001)
        low, share = place.astype(int), place % 1
        count = np.bincount(low, 1 - share, AMOUNTS) + np.bincount(low + 1, share, AMOUNTS)
        counts.append((count / len(place)).astype(np.float32))
    return _roots(counts)


def _change(grid: Cells) -> Cells:
    """Return the mean change from step to step."""
    return np.abs(np.diff(grid, axis=0)).mean(0) if len(grid) > 1 else np.zeros_like(grid[0])


def _roots(means: Sequence[Cells]) -> NDArray[np.float32]:
    """Return the roots of some means, one after the other, of length one."""
    numbers = np.sqrt(np.concatenate([mean.ravel() for mean in means]))
    return np.asarray(numbers / max(1e-6, float(np.linalg.norm(numbers))), np.float32)


@dataclass(frozen=True)
class Member:
    """One SVM of a classifier: what it looks at, how much it counts, and for its calibration."""

    how: Description
    weight: float
    temperature: float


class WholeClipClassifier:
    """SVMs on descriptions of clips, whose calibrated answers are averaged.

    Attributes
    ----------
    members : list of Member
        The heaviest first.
    validation_accuracy : float
        By cross-validation inside the training clips.
    validation_logits : array of N×C float64
        Of each training clip, from SVMs that had not seen its group; in the order of
        `validation_ids`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        num_classes: int,
        support: dict[Piece, NDArray[np.float32]],
        labels_N: NDArray[np.int64],
        temperature: float,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.members, self.num_classes = list(members), num_classes
        self.support, self.labels_N = support, labels_N
        self.temperature, self.vocabulary = temperature, vocabulary
        self.validation_accuracy = math.nan
        self.validation_logits: NDArray[np.float64] = np.empty((0, num_classes))
        self.validation_ids: tuple[str, ...] = ()
        products = {piece: rows @ rows.T for piece, rows in support.items()}
        self._svms = []
        for member in self.members:
            rows = _rows(member.how, np.arange(len(labels_N)), len(labels_N))
            kernel = _kernel(member.how, products)[np.ix_(rows, rows)]
            self._svms.append(_fit(kernel, labels_N[rows % len(labels_N)], member.how.cost))

    @property
    def description(self) -> Description:
        """What counts most."""
        return self.members[0].how

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
        """Weigh descriptions by cross-validation and fit their SVMs to all clips.

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
            In place of `candidates(len(clips), mirror=mirror)`.
        seed : int

        Raises
        ------
        InvalidArgument
            For fewer than two classes among the clips.
        """
        if len(np.unique(labels_N)) < 2:
            raise InvalidArgument("clips of one class only; a classifier needs two or more")
        folds_N = _inner_folds(labels_N, groups, seed)
        listed = list(choices if choices is not None else candidates(len(clips), mirror=mirror))
        seen = list(clips)
        if any(how.mirror for how in listed):
            seen += [clip.mirrored() for clip in clips]
        vocabulary = None
        if any(how.local for how in listed):
            vocabulary = Vocabulary.learn([clip.local for clip in seen], seed)
        described = {
            piece: np.stack([_piece(clip, piece, vocabulary) for clip in seen])
            for piece in dict.fromkeys(piece for how in listed for piece in how.pieces())
        }
        alike = {piece: rows @ rows.T for piece, rows in described.items()}
        judged: list[tuple[Description, float, float, NDArray[np.float64]]] = []
        for how in listed:
            logits_NC = _validated(how, _kernel(how, alike), labels_N, folds_N, num_classes)
            judged.append((how, *_calibrated(logits_NC, labels_N), logits_NC))
        losses = np.array([loss for _, _, loss, _ in judged])
        weights = np.exp(EVIDENCE * len(labels_N) * (losses.min() - losses))
        weights[weights < LEAST_WEIGHT * weights.sum()] = 0
        weights /= weights.sum()
        chosen = [int(n) for n in np.argsort(-weights, kind="stable") if weights[n] > 0]
        members = [Member(judged[n][0], float(weights[n]), judged[n][1]) for n in chosen]
        answers = [judged[n][3] / judged[n][1] for n in chosen]
        mean_NC = np.asarray(np.tensordot(weights[chosen], np.stack(answers), axes=1))
        temperature, _ = _calibrated(mean_NC, labels_N)
        kept = {piece for member in members for piece in member.how.pieces()}
        found = cls(
            members,
            num_classes,
            {piece: rows for piece, rows in described.items() if piece in kept},
            labels_N,
            temperature,
            vocabulary if LOCAL in kept else None,
        )
        found.validation_accuracy = float(np.mean(mean_NC.argmax(1) == labels_N))
        found.validation_logits, found.validation_ids = mean_NC / temperature, tuple(ids)
        return found

    def logits(self, clips: Sequence[ClipGrids]) -> NDArray[np.float64]:
        """Return logits of clips, N×C; their softmax is calibrated on the validation."""
        products = {
            piece: np.stack([_piece(clip, piece, self.vocabulary) for clip in clips]) @ rows.T
            for piece, rows in self.support.items()
        }
        logits_NC = np.zeros((len(clips), self.num_classes))
        count = len(self.labels_N)
        for member, svm in zip(self.members, self._svms, strict=True):
            rows = _rows(member.how, np.arange(count), count)
            kernel = _kernel(member.how, products)[:, rows]
            answers = _decisions(svm, kernel, self.num_classes) / member.temperature
            logits_NC += member.weight * answers
        return logits_NC / self.temperature

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what `from_state` needs, as arrays."""
        facts = {
            "members": [asdict(member) for member in self.members],
            "pieces": list(self.support),
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "validation_accuracy": self.validation_accuracy,
            "validation_ids": self.validation_ids,
        }
        return {
            "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8).copy(),
            "labels_N": self.labels_N,
            "validation_logits": self.validation_logits,
            **{f"support_{n}": rows for n, rows in enumerate(self.support.values())},
            **({} if self.vocabulary is None else self.vocabulary.state()),
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> "WholeClipClassifier":
        """Return the classifier whose `state()` this is.

        Raises
        ------
        WeightsError
            For the state of a classifier of one description, as they were before.
        """
        facts = json.loads(np.asarray(state["facts"], np.uint8).tobytes())
        if "members" not in facts:
            raise WeightsError(
                "this classifier of whole clips is of an older flowpipe; train its stream again"
            )
        pieces: list[Piece] = [(name, parts, equal) for name, parts, equal in facts["pieces"]]
        found = cls(
            [Member(**{**each, "how": Description(**each["how"])}) for each in facts["members"]],
            int(facts["num_classes"]),
            {p: np.asarray(state[f"support_{n}"], np.float32) for n, p in enumerate(pieces)},
            np.asarray(state["labels_N"], np.int64),
            float(facts["temperature"]),
            Vocabulary.from_state(state) if LOCAL in pieces else None,
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
    (piece,) = how.pieces()
    seen_ND = np.stack([describe(clip, how) for clip in clips])
    turned_ND = np.stack([describe(clip.mirrored(), how) for clip in clips])
    seen_NN, turned_NN = (_kernel(how, {piece: r @ seen_ND.T}) for r in (seen_ND, turned_ND))
    folds_N = _inner_folds(labels_N, groups, seed)
    judged_N, turned_N = np.full((2, len(clips)), -1)
    for fold in np.unique(folds_N):
        train, held = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        if len(np.unique(labels_N[train])) < 2:
            continue
        svm = _fit(seen_NN[np.ix_(train, train)], labels_N[train], how.cost)
        for kernel, found_N in ((seen_NN, judged_N), (turned_NN, turned_N)):
            held_kernel = kernel[np.ix_(held, train)]
            found_N[held] = _decisions(svm, held_kernel, num_classes).argmax(1)
    images = {}
    for label in np.unique(labels_N):
        right = (labels_N == label) & (judged_N == label)
        counts = np.bincount(turned_N[right], minlength=num_classes)
        image = int(counts.argmax())
        enough = right.sum() >= max(LEAST_CLIPS, 0.6 * (labels_N == label).sum())
        if enough and image != label and counts[image] > MIRRORED_SHARE * right.sum():
            images[int(label)] = image
    return {one: other for one, other in images.items() if images.get(other) == one}


def _kernel(how: Description, products: dict[Piece, NDArray[Any]]) -> NDArray[np.float64]:
    """Return how alike descriptions are, from the products of their pieces."""
    alike = np.mean([products[piece] for piece in how.pieces()], axis=0, dtype=np.float64)
    if how.kernel == "linear":
        return np.asarray(alike)
    # Descriptions have length one; roots of histograms of unlike clips are 0.1 to 0.5 apart.
    return np.asarray(np.exp(-4.0 * np.maximum(0.0, 1.0 - alike)))


def _rows(how: Description, train: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the rows to learn from, of `count` clips and (where there are) the mirrored ones."""
    return np.concatenate([train, count + train]) if how.mirror else train


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
    kernel: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    folds_N: NDArray[np.int64],
    num_classes: int,
) -> NDArray[np.float64]:
    """Return decision values of each clip from SVMs that were fitted to the other folds.

    `kernel` is of the N clips, and may hold their N mirrored ones after them.
    """
    count = len(labels_N)
    logits_NC = np.zeros((count, num_classes))
    for fold in np.unique(folds_N):
        train, held = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        if len(np.unique(labels_N[train])) < 2:
            continue
        rows = _rows(how, train, count)
        svm = _fit(kernel[np.ix_(rows, rows)], labels_N[rows % count], how.cost)
        logits_NC[held] = _decisions(svm, kernel[np.ix_(held, rows)], num_classes)
    return logits_NC


def _calibrated(logits_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature with the least cross-entropy, and that cross-entropy in nats."""
    losses = [(_loss(logits_NC / t, labels_N), t) for t in TEMPERATURES]
    loss, temperature = min(losses)
    return temperature, loss


def _loss(logits_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> float:
    top = logits_NC.max(1, keepdims=True)
    logs = logits_NC - top - np.log(np.exp(logits_NC - top).sum(1, keepdims=True))
    count = len(labels_N)
    own = logs[np.arange(count), labels_N].sum() + IMAGINED_CLIPS * logs.mean()
    return float(-own / (count + IMAGINED_CLIPS))
