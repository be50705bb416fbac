"""Kernel SVMs on descriptions of clips, weighed by cross-validation inside the training clips.

What is known of a clip comes in *pieces*, vectors of length one; a *description* is some of them,
one after the other. There is an SVM on each of many descriptions; how much it counts is decided by
cross-validation. What the pieces are, motion (`whole_clip`) or looks (`appearance`) say.

Axes: N clips, D numbers, C classes.

SVM: Cortes and Vapnik, "Support-vector networks", 1995, https://doi.org/10.1007/BF00994018.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.features.local_motion import LocalMotion, Vocabulary

# A name, into how many parts of time it is cut, and how the parts are made.
Piece: TypeAlias = tuple[str, int, str]
LOCAL: Piece = ("local", 1, "no")
# What a piece looks at, for people: by its name, and how its parts are made.
WORDS = {
    "fixed": "motion by place",
    "moving": "motion within its box",
    "boundaries": "boundaries of motion",
    "local": "small blocks, wherever they are",
    "amount": "how much moves",
    "edges": "edges",
    "colours": "colours",
    "textures": "textures",
    "network": "a network of pictures",
}
HOW = {"time": ", over time", "motion": ", by its course", "moving": " of what moves"}


# So many clips more are imagined, of which nothing is known: a few right ones prove little.
IMAGINED_CLIPS = 0.5
# Of more there are few descriptions, and no mirrored clips: a kernel of so many and their mirrored
# ones takes 64 MB, and there is one for each kind of piece.
MANY_CLIPS = 2000
# A held-out clip counts as so many independent ones: those of one person or scene are alike.
EVIDENCE = 0.3
# Descriptions of a smaller share of the largest weight are left out.
LEAST_WEIGHT = 0.05
INNER_FOLDS = 5
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.05, 5.0, 25))


@dataclass(frozen=True)
class Description:
    """What of a clip becomes numbers, and which SVM takes them.

    Attributes
    ----------
    pieces : tuple of Piece
        Each as heavy as the others; one that stands there twice is twice as heavy.
    mirror : bool
        Train on the mirrored clips as well.
    kernel : "linear" or "rbf"
    cost : float
        C of the SVM: the larger, the closer it follows the training clips.
    """

    pieces: tuple[Piece, ...]
    mirror: bool = False
    kernel: str = "rbf"
    cost: float = 10.0


class Clip(Protocol):
    """What is known of a clip."""

    @property
    def local(self) -> LocalMotion:
        """Its small blocks, of which the piece `LOCAL` is made with a vocabulary."""
        ...

    def mirrored(self) -> "Clip":
        """Return the same of the clip in a mirror."""
        ...

    def piece(self, piece: Piece) -> NDArray[np.float32]:
        """Return any other piece, of length one."""
        ...

    def candidates(self, count: int, *, mirror: bool) -> list[Description]:
        """Return the descriptions to weigh, for `count` clips."""
        ...


def describe(
    clip: Clip, how: Description, vocabulary: Vocabulary | None = None
) -> NDArray[np.float32]:
    """Return the description of a clip, D float32 of length one; `vocabulary` is that of blocks."""
    made = {piece: _piece(clip, piece, vocabulary) for piece in set(how.pieces)}
    share = np.float32(math.sqrt(len(how.pieces)))
    return np.asarray(np.concatenate([made[piece] for piece in how.pieces]) / share, np.float32)


def _piece(clip: Clip, piece: Piece, vocabulary: Vocabulary | None) -> NDArray[np.float32]:
    if piece != LOCAL:
        return clip.piece(piece)
    assert vocabulary is not None
    return vocabulary.describe(clip.local)


def roots(means: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the roots of some means, one after the other, of length one."""
    numbers = np.sqrt(np.concatenate([mean.ravel() for mean in means]))
    return np.asarray(numbers / max(1e-6, float(np.linalg.norm(numbers))), np.float32)


def time_parts(items: NDArray[np.float32], parts: int) -> list[NDArray[np.float32]]:
    """Return means over equal parts of time; what lies on an edge is of both."""
    edges = np.linspace(0, len(items), parts + 1)
    firsts = np.minimum(np.floor(edges[:-1]).astype(int), len(items) - 1)
    stops = np.maximum(np.ceil(edges[1:]).astype(int), firsts + 1)
    return [items[a:b].mean(0) for a, b in zip(firsts, stops, strict=True)]


def levels(each: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return vectors of length one, each as heavy as the others, as one of length one."""
    return np.asarray(np.concatenate(each) / np.float32(math.sqrt(len(each))), np.float32)


@dataclass(frozen=True)
class Member:
    """One SVM of a classifier: what it looks at, how much it counts, and for its calibration."""

    how: Description
    weight: float
    temperature: float


class ClipClassifier:
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
            kernel = kernel_of(member.how, products)[np.ix_(rows, rows)]
            self._svms.append(fit_svm(kernel, labels_N[rows % len(labels_N)], member.how.cost))

    @property
    def description(self) -> Description:
        """What counts most."""
        return self.members[0].how

    @classmethod
    def fit(
        cls,
        clips: Sequence[Clip],
        labels_N: NDArray[np.int64],
        num_classes: int,
        *,
        ids: Sequence[str] = (),
        groups: Sequence[str] | None = None,
        mirror: bool = False,
        choices: Sequence[Description] | None = None,
        seed: int = 0,
    ) -> "ClipClassifier":
        """Weigh descriptions by cross-validation and fit their SVMs to all clips.

        Parameters
        ----------
        clips : sequence of Clip
            Of one kind: `clip_grids` or `clip_looks` of each training clip.
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
            In place of the `candidates` of this kind of clip.
        seed : int

        Raises
        ------
        InvalidArgument
            For fewer than two classes among the clips.
        """
        if len(np.unique(labels_N)) < 2:
            raise InvalidArgument("clips of one class only; a classifier needs two or more")
        folds_N = inner_folds(labels_N, groups, seed)
        if choices is None:
            choices = clips[0].candidates(len(clips), mirror=mirror)
        listed = list(choices)
        seen = list(clips)
        if any(how.mirror for how in listed):
            seen += [clip.mirrored() for clip in clips]
        vocabulary = None
        if any(LOCAL in how.pieces for how in listed):
            vocabulary = Vocabulary.learn([clip.local for clip in seen], seed)
        described = {
            piece: np.stack([_piece(clip, piece, vocabulary) for clip in seen])
            for piece in dict.fromkeys(piece for how in listed for piece in how.pieces)
        }
        alike = {piece: rows @ rows.T for piece, rows in described.items()}
        judged: list[tuple[Description, float, float, NDArray[np.float64]]] = []
        for how in listed:
            logits_NC = _validated(how, kernel_of(how, alike), labels_N, folds_N, num_classes)
            judged.append((how, *_calibrated(logits_NC, labels_N), logits_NC))
        losses = np.array([loss for _, _, loss, _ in judged])
        weights = np.exp(EVIDENCE * len(labels_N) * (losses.min() - losses))
        weights[weights < LEAST_WEIGHT * weights.max()] = 0
        weights /= weights.sum()
        chosen = [int(n) for n in np.argsort(-weights, kind="stable") if weights[n] > 0]
        members = [Member(judged[n][0], float(weights[n]), judged[n][1]) for n in chosen]
        answers = [judged[n][3] / judged[n][1] for n in chosen]
        mean_NC = np.asarray(np.tensordot(weights[chosen], np.stack(answers), axes=1))
        temperature, _ = _calibrated(mean_NC, labels_N)
        kept = {piece for member in members for piece in member.how.pieces}
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

    def looks_at(self) -> dict[str, float]:
        """Return the share that each kind of piece has in the answer, the largest first."""
        shares: dict[str, float] = {}
        for member in self.members:
            for name, parts, how in member.how.pieces:
                text = WORDS[name] + HOW.get(how, "")
                text += ", over time" if how == "moving" and parts > 1 else ""
                share = member.weight / len(member.how.pieces)
                shares[text] = shares.get(text, 0.0) + share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def logits(self, clips: Sequence[Clip]) -> NDArray[np.float64]:
        """Return logits of clips, N×C; their softmax is calibrated on the validation."""
        products = {
            piece: np.stack([_piece(clip, piece, self.vocabulary) for clip in clips]) @ rows.T
            for piece, rows in self.support.items()
        }
        logits_NC = np.zeros((len(clips), self.num_classes))
        count = len(self.labels_N)
        for member, svm in zip(self.members, self._svms, strict=True):
            rows = _rows(member.how, np.arange(count), count)
            kernel = kernel_of(member.how, products)[:, rows]
            answers = decisions_of(svm, kernel, self.num_classes) / member.temperature
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
    def from_state(cls, state: dict[str, NDArray[Any]]) -> "ClipClassifier":
        """Return the classifier whose `state()` this is.

        Raises
        ------
        WeightsError
            For the state of a classifier of one description, as they were before.
        """
        facts = json.loads(np.asarray(state["facts"], np.uint8).tobytes())
        if not all("pieces" in each["how"] for each in facts.get("members", [{"how": ()}])):
            raise WeightsError(
                "this classifier of whole clips is of an older flowpipe; train its stream again"
            )
        pieces: list[Piece] = [(name, parts, equal) for name, parts, equal in facts["pieces"]]
        found = cls(
            [Member(**{**each, "how": _description(each["how"])}) for each in facts["members"]],
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


def _description(facts: dict[str, Any]) -> Description:
    pieces = tuple((name, parts, equal) for name, parts, equal in facts["pieces"])
    return Description(**{**facts, "pieces": pieces})


def kernel_of(how: Description, products: dict[Piece, NDArray[Any]]) -> NDArray[np.float64]:
    """Return how alike descriptions are, from the products of their pieces."""
    alike = np.mean([products[piece] for piece in how.pieces], axis=0, dtype=np.float64)
    if how.kernel == "linear":
        return np.asarray(alike)
    # Descriptions have length one; roots of histograms of unlike clips are 0.1 to 0.5 apart.
    return np.asarray(np.exp(-4.0 * np.maximum(0.0, 1.0 - alike)))


def _rows(how: Description, train: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the rows to learn from, of `count` clips and (where there are) the mirrored ones."""
    return np.concatenate([train, count + train]) if how.mirror else train


def fit_svm(kernel: NDArray[np.float64], labels_N: NDArray[np.int64], cost: float) -> Any:
    from sklearn.svm import SVC

    return SVC(C=cost, kernel="precomputed", class_weight="balanced").fit(kernel, labels_N)


def decisions_of(svm: Any, kernel: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Return the decision values N×C; a class without training clips gets the lowest and less."""
    values = svm.decision_function(kernel)
    if values.ndim == 1:  # two classes
        values = np.stack([-values, values], axis=1)
    decisions = np.full((len(kernel), num_classes), values.min() - 1.0)
    decisions[:, svm.classes_] = values
    return decisions


def inner_folds(
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
        svm = fit_svm(kernel[np.ix_(rows, rows)], labels_N[rows % count], how.cost)
        logits_NC[held] = decisions_of(svm, kernel[np.ix_(held, rows)], num_classes)
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
