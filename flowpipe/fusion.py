"""Scores → Scores: what several streams say about the same videos, joined by video id.

=========  ====================================================================================
method     probabilities of a video
=========  ====================================================================================
logsum     softmax over the classes of Σ log p: the product of the streams, normalised
average    mean of p [1]
weighted   weighted mean of p; weights given, or searched on held-out scores
svm        softmax of the decision values of a linear SVM on stacked L2-normalised p [1]
sum        softmax of the sum of the streams' mean logits, as two-stream I3D [2]
validated  softmax of Σ w·log p/τ: temperatures τ by the least cross-entropy of held-out scores,
           weights w the mean of those on a grid, each as probable as it makes these scores [3];
           a stream that is no better than chance there gets no weight
=========  ====================================================================================

`p` are a video's probabilities in one stream, already averaged over clips and crops. Of classes
that come out equal, `Scores.predictions_N` takes the first. Where streams have sigmoid
probabilities, each class is fused for itself: "logsum" is Πp against Π(1 − p), "sum" the sigmoid
of the summed logits, and there is no "svm".

References
----------
.. [1] K. Simonyan, A. Zisserman, "Two-stream convolutional networks for action recognition in
   videos", NIPS 2014. https://doi.org/10.48550/arXiv.1406.2199
.. [2] J. Carreira, A. Zisserman, "Quo vadis, action recognition? A new model and the Kinetics
   dataset", CVPR 2017. https://doi.org/10.1109/CVPR.2017.502
.. [3] J. Hoeting and others, "Bayesian model averaging: a tutorial", Statistical Science 14, 1999.
   https://doi.org/10.1214/ss/1009212519
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument, ScoresMismatch, nearest_name
from flowpipe.scores import Scores

Method: TypeAlias = Literal["logsum", "average", "weighted", "svm", "sum", "validated"]
FUSIONS: tuple[str, ...] = get_args(Method)

ONE_LABEL = ("svm", "validated")

# A probability of zero has no logarithm; the smallest normal float64 (log: −708) keeps the order.
PROBABILITY_FLOOR = float(np.finfo(np.float64).tiny)
# What a class gets that the SVM never saw: e⁻¹⁰⁰ of the others, and finite as Scores must be.
UNSEEN_LOGIT = -100.0
SVM_PENALTY = 1.0
# Of "validated": temperatures to choose from, and how sure a stream must be better than chance.
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 8.0, 26))
CHANCE_LEVEL = 0.05
VALIDATED_STEPS = (0, 1, 2, 4)
# So many videos more are imagined, of which nothing is known: ten right ones of ten prove little.
IMAGINED_VIDEOS = 0.5

Floats: TypeAlias = npt.NDArray[np.float64]


def fuse(
    scores: Sequence[Scores],
    method: Method = "logsum",
    *,
    weights: Sequence[float] | None = None,
    training: Sequence[Scores] | None = None,
    seed: int = 0,
) -> Scores:
    """Fuse the scores of two or more streams.

    Parameters
    ----------
    scores : sequence of Scores
        One per stream, of the same videos in any order, with the same classes. The result keeps
        the order of the first. A label unknown (−1) in one stream is taken from another.
    method : {"logsum", "average", "weighted", "svm", "sum", "validated"}
        See the table above. "logsum" takes a probability of 0 as 2.2e-308.
    weights : sequence of float, optional
        For "weighted": one per stream, ≥ 0, not all 0; divided by their sum. Without them the
        weights of highest top-1 accuracy on `training` are searched, in steps of 0.05 for up to
        3 streams, 0.1 for up to 5 and 0.2 for more, and equal weights besides. Of weights that
        do equally well the most equal are taken (least Σ w²), then the ones that favour the
        earlier streams.
    training : sequence of Scores, optional
        For "weighted" without weights, for "svm" and "validated": scores of the same streams in
        the same order, every video labelled, none of them among the tested ones. Take scores of
        videos that the networks were *not* trained on (a held-out fold): on their own training
        videos networks are right and sure, which teaches a fusion nothing. Other methods ignore it.
    seed : int
        Of the SVM's solver.

    Returns
    -------
    Scores
        Stream "fused". `logits_NK` are what goes into the softmax: Σ log p, Σ logits, decision
        values; for means the logarithm of the mean. `protocol` holds `method`, `weights` (or
        None), `streams` (name and protocol of each), and how the fusion was trained, if it was.

    Raises
    ------
    ScoresMismatch
        If ids, labels or classes differ, or training videos are among the tested ones.
    InvalidArgument
        For an unknown method, fewer than two streams, bad weights, or training scores that are
        missing, without labels, or of one class only.
    """
    if method not in FUSIONS:
        raise InvalidArgument(
            f'unknown fusion "{method}"{nearest_name(method, FUSIONS)}; known: {", ".join(FUSIONS)}'
        )
    if len(scores) < 2:
        raise InvalidArgument(f"{len(scores)} streams given; a fusion needs two at least")
    if weights is not None and (method != "weighted" or training is not None):
        raise InvalidArgument(
            f'weights {list(weights)} go with method "weighted" and without training scores, which '
            f'are there to search weights; here the method is "{method}"'
        )
    streams = _join(scores)
    sigmoid = streams[0].activation == "sigmoid"
    activate = _sigmoid if sigmoid else _softmax
    labels_N = _merge_labels(streams)
    details: dict[str, Any] = {}
    if method in ONE_LABEL and (sigmoid or streams[0].targets_NK is not None):
        raise InvalidArgument(
            f"{method} gives each video one class; for several labels take logsum, average or sum"
        )
    if method == "svm":
        logits_NK, details = _svm_logits(streams, _checked_training(streams, training), seed)
        probabilities_NK = _softmax(logits_NK)
    elif method == "logsum":
        logits_NK = np.sum([_log(stream.probabilities_NK) for stream in streams], axis=0)
        if sigmoid:
            logits_NK -= np.sum([_log(1 - stream.probabilities_NK) for stream in streams], axis=0)
        probabilities_NK = activate(logits_NK)
    elif method == "validated":
        powers, details = _validated_powers(_checked_training(streams, training))
        logits_NK = _raised(streams, powers)
        probabilities_NK = _softmax(logits_NK)
    elif method == "sum":
        logits_NK = np.sum([stream.logits_NK for stream in streams], axis=0, dtype=np.float64)
        probabilities_NK = activate(logits_NK)
    else:
        shares = np.full(len(streams), 1 / len(streams))
        if method == "weighted" and weights is not None:
            shares = _checked_weights(weights, len(streams))
        elif method == "weighted":
            shares, details = _search_weights(_checked_training(streams, training))
        probabilities_NK = _weighted_mean(streams, shares)
        logits_NK = _log(probabilities_NK)
        details["weights"] = shares.tolist()
    first = streams[0]
    return Scores(
        ids=first.ids,
        labels_N=labels_N,
        probabilities_NK=probabilities_NK,
        logits_NK=logits_NK.astype(np.float32),
        classes=first.classes,
        stream="fused",
        protocol={
            "method": method,
            "weights": None,
            "streams": [
                {"stream": stream.stream, "protocol": dict(stream.protocol)} for stream in streams
            ],
            **details,
        },
        activation=first.activation,
        targets_NK=first.targets_NK,
    )


def _join(scores: Sequence[Scores]) -> list[Scores]:
    """Bring every stream into the order of the first, or say what does not fit."""
    first = scores[0]
    wanted = set(first.ids)
    for other in scores[1:]:
        pair = f"streams {first.stream} and {other.stream}"
        if other.classes != first.classes:
            raise ScoresMismatch(f"{pair} {_class_difference(first.classes, other.classes)}")
        if other.activation != first.activation:
            raise ScoresMismatch(
                f"{pair} have {first.activation} and {other.activation} probabilities; train both "
                "with one loss"
            )
        there = set(other.ids)
        if there != wanted:
            parts = [
                f"{_some(extra)} only in {name}"
                for extra, name in (
                    ([i for i in first.ids if i not in there], first.stream),
                    ([i for i in other.ids if i not in wanted], other.stream),
                )
                if extra
            ]
            raise ScoresMismatch(
                f"{pair} do not speak of the same videos: {'; '.join(parts)}; predict the missing "
                "ones or leave the others out with Scores.select"
            )
    joined = [first, *(other.select(first.ids) for other in scores[1:])]
    for other in joined[1:]:
        if not _same_targets(first, other):
            raise ScoresMismatch(
                f"streams {first.stream} and {other.stream} have different labels for some of the "
                "videos; predict all streams from one annotation"
            )
    return joined


def _same_targets(one: Scores, other: Scores) -> bool:
    if one.targets_NK is None or other.targets_NK is None:
        return one.targets_NK is other.targets_NK
    return np.array_equal(one.targets_NK, other.targets_NK)


def _merge_labels(streams: Sequence[Scores]) -> npt.NDArray[np.int64]:
    """Labels that all streams agree upon; unknown gives way to known."""
    first = streams[0]
    labels_N = first.labels_N.copy()
    owner_N = np.zeros(len(labels_N), np.int64)
    for number, other in enumerate(streams[1:], start=1):
        clash_N = (labels_N >= 0) & (other.labels_N >= 0) & (labels_N != other.labels_N)
        if clash_N.any():
            row = int(np.flatnonzero(clash_N)[0])
            raise ScoresMismatch(
                f'video "{first.ids[row]}" is {first.classes[labels_N[row]]} in stream '
                f"{streams[owner_N[row]].stream} and {first.classes[other.labels_N[row]]} in "
                f"{other.stream}, as are {clash_N.sum() - 1} others of two labels; predict all "
                "streams from one annotation"
            )
        new_N = (labels_N < 0) & (other.labels_N >= 0)
        labels_N[new_N], owner_N[new_N] = other.labels_N[new_N], number
    return labels_N


def _checked_training(streams: Sequence[Scores], training: Sequence[Scores] | None) -> list[Scores]:
    """Joined training scores of the same streams, labelled and apart from the test."""
    if training is None:
        raise InvalidArgument(
            "training is None, but this fusion learns from scores with labels; give the scores "
            "of held-out videos, or take logsum, average or sum, which learn nothing"
        )
    names, wanted = [s.stream for s in training], [s.stream for s in streams]
    if names != wanted:
        raise ScoresMismatch(
            f"training scores of streams {names} must be of {wanted}, in this order"
        )
    if training[0].classes != streams[0].classes:
        raise ScoresMismatch(
            f"test and training {_class_difference(streams[0].classes, training[0].classes)}"
        )
    joined = _join(training)
    tested = set(streams[0].ids)
    overlap = [video_id for video_id in joined[0].ids if video_id in tested]
    if overlap:
        raise ScoresMismatch(
            f"{_some(overlap)} in training and test both; a fusion that saw the test proves "
            "nothing: take the scores of held-out videos"
        )
    labels_N = _merge_labels(joined)
    unknown = [joined[0].ids[row] for row in np.flatnonzero(labels_N < 0)]
    if unknown:
        raise InvalidArgument(
            f"{_some(unknown)} without a label in the training scores; leave them out with "
            "Scores.select"
        )
    return joined


def _checked_weights(weights: Sequence[float], num_streams: int) -> Floats:
    shares = np.asarray(weights, np.float64)
    if shares.shape != (num_streams,):
        raise InvalidArgument(
            f"weights {list(weights)} for {num_streams} streams; there must be one per stream"
        )
    if not np.isfinite(shares).all() or (shares < 0).any() or not (shares > 0).any():
        raise InvalidArgument(
            f"weights {list(weights)} must be finite, ≥ 0 and not all 0; [1, 2] counts the second "
            "stream twice"
        )
    shares = shares / shares.max()  # so that the sum cannot overflow
    return np.asarray(shares / shares.sum(), np.float64)


def _search_weights(training: Sequence[Scores]) -> tuple[Floats, dict[str, Any]]:
    num_streams = len(training)
    steps = 20 if num_streams <= 3 else 10 if num_streams <= 5 else 5
    # Whole numbers of steps, so that equally unequal weights compare as equal.
    grid = sorted(_simplex(num_streams, steps), key=lambda row: sum(n * n for n in row))
    candidates: Iterable[Floats] = itertools.chain(
        [np.full(num_streams, 1 / num_streams)], (np.array(row) / steps for row in grid)
    )
    labels_N = _merge_labels(training)
    targets_NK = training[0].targets_NK
    if targets_NK is None:
        targets_NK = labels_N[:, None] == np.arange(len(training[0].classes))
    best, best_right = np.empty(0), -1
    for shares in candidates:
        predictions_N = _weighted_mean(training, shares).argmax(axis=1)
        right = int(np.count_nonzero(targets_NK[np.arange(len(labels_N)), predictions_N]))
        if right > best_right:
            best, best_right = shares, right
    return best, {
        "weights_step": 1 / steps,
        "training_videos": len(labels_N),
        "training_top_1": best_right / len(labels_N),
    }


def _validated_powers(training: Sequence[Scores]) -> tuple[Floats, dict[str, Any]]:
    """Return what multiplies the log of each stream's probabilities, and how it was found."""
    labels_N = _merge_labels(training)
    num_classes = len(training[0].classes)
    logs = [_log(np.maximum(stream.probabilities_NK, 1e-6)) for stream in training]
    taus = np.array([calibrate(own, labels_N)[0] for own in logs])
    right = [int(stream.correct_N.sum()) for stream in training]
    useful = [_better_than_chance(count, len(labels_N), num_classes) for count in right]
    if not any(useful):  # then all are as good as none
        useful = [True] * len(training)
    powers_GS, losses_G = [], []
    for row in itertools.product(*(VALIDATED_STEPS if use else (0,) for use in useful)):
        if not any(row) or (max(row) > 1 and all(n % 2 == 0 for n in row)):
            continue
        powers_S = np.array(row) / sum(row) / taus
        # The mean of several calibrated opinions is too modest: what they share counts once only.
        mixed = np.sum([p * own for p, own in zip(powers_S, logs, strict=True)], axis=0)
        tau, loss = calibrate(mixed, labels_N)
        powers_GS.append(powers_S / tau)
        losses_G.append(loss)
    # How probable the held-out labels are by each row: few videos leave many rows likely.
    likely_G = np.exp(len(labels_N) * (min(losses_G) - np.array(losses_G)))
    powers_S = likely_G / likely_G.sum() @ np.array(powers_GS)
    return powers_S, {
        "weights": (powers_S * taus / (powers_S * taus).sum()).tolist(),
        "temperatures": taus.tolist(),
        "validation_videos": len(labels_N),
        "validation_top_1": [count / len(labels_N) for count in right],
        "left_out": [
            stream.stream for stream, use in zip(training, useful, strict=True) if not use
        ],
    }


def calibrate(logits_NK: Floats, labels_N: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature of the least cross-entropy, and that cross-entropy in nats.

    Parameters
    ----------
    logits_NK : array of N×K float
        Of N videos and K classes; logs of probabilities will do.
    labels_N : array of N int
        `IMAGINED_VIDEOS` more are taken to be of every class alike.
    """
    imagined = IMAGINED_VIDEOS / (len(labels_N) + IMAGINED_VIDEOS)
    found = []
    for tau in TEMPERATURES:
        logs_NK = np.log(np.maximum(_softmax(logits_NK / tau), 1e-12))
        own = logs_NK[np.arange(len(labels_N)), labels_N].mean()
        found.append((-float((1 - imagined) * own + imagined * logs_NK.mean()), tau))
    loss, tau = min(found)
    return tau, loss


def _better_than_chance(right: int, videos: int, num_classes: int) -> bool:
    """Whether guessing gets as many right with a probability below `CHANCE_LEVEL`."""
    from scipy.stats import binom

    return bool(binom.sf(right - 1, videos, 1 / num_classes) < CHANCE_LEVEL)


def _simplex(parts: int, steps: int) -> Iterator[tuple[int, ...]]:
    """Give every way to share `steps` among `parts`, the first part's largest share first."""
    if parts == 1:
        yield (steps,)
        return
    for own in range(steps, -1, -1):
        for rest in _simplex(parts - 1, steps - own):
            yield (own, *rest)


def _svm_logits(
    streams: Sequence[Scores], training: Sequence[Scores], seed: int
) -> tuple[Floats, dict[str, Any]]:
    from sklearn.svm import LinearSVC

    labels_N = _merge_labels(training)
    seen = np.unique(labels_N)
    if len(seen) < 2:
        raise InvalidArgument(
            f"all {len(labels_N)} training videos are {training[0].classes[seen[0]]}; an SVM needs "
            "two classes at least"
        )
    machine = LinearSVC(C=SVM_PENALTY, dual="auto", max_iter=20_000, random_state=seed)
    machine.fit(_stacked(training), labels_N)
    decisions = np.asarray(machine.decision_function(_stacked(streams)), np.float64)
    if decisions.ndim == 1:  # two classes: one value, positive for the second
        decisions = np.stack([-decisions, decisions], axis=1)
    logits_NK = np.full((len(streams[0].ids), len(streams[0].classes)), UNSEEN_LOGIT)
    logits_NK[:, seen] = decisions
    return logits_NK, {
        "svm_penalty": SVM_PENALTY,
        "seed": seed,
        "training_videos": len(labels_N),
        "training_classes": len(seen),
    }


def _stacked(streams: Sequence[Scores]) -> Floats:
    """N × (streams·K): each stream's probabilities at length one, side by side."""
    rows = [
        stream.probabilities_NK / np.linalg.norm(stream.probabilities_NK, axis=1, keepdims=True)
        for stream in streams
    ]
    return np.concatenate(rows, axis=1)


def _weighted_mean(streams: Sequence[Scores], shares: Floats) -> Floats:
    pairs = zip(shares, streams, strict=True)
    return np.asarray(np.sum([share * stream.probabilities_NK for share, stream in pairs], axis=0))


def _raised(streams: Sequence[Scores], powers: Floats) -> Floats:
    """Return Σ power · log p."""
    pairs = zip(powers, streams, strict=True)
    return np.asarray(np.sum([p * _log(stream.probabilities_NK) for p, stream in pairs], axis=0))


def _log(probabilities_NK: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities_NK, PROBABILITY_FLOOR)))


def _softmax(logits_NK: Floats) -> Floats:
    powers = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(logits_NK: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits_NK)))


def _class_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    extra = [name for name in ours if name not in set(theirs)]
    missing = [name for name in theirs if name not in set(ours)]
    if extra or missing:
        what = f"only the first knows {extra[:3]}, only the second {missing[:3]}"
    else:
        what = "the same names in another order"
    return (
        f"have different classes ({len(ours)} and {len(theirs)}; {what}); they must be the same "
        "in the same order: predict them from one annotation"
    )


def _some(ids: Sequence[str]) -> str:
    """`3 videos (a, b, …)`."""
    shown = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
    return f"{len(ids)} {'video' if len(ids) == 1 else 'videos'} ({shown})"
