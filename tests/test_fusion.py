"""Fusion: numbers worked out by hand, joining by id, and what is refused."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flowpipe.errors import InvalidArgument, ScoresMismatch
from flowpipe.fusion import FUSIONS, UNSEEN_LOGIT, fuse
from flowpipe.scores import Scores

CLASSES = ("bend", "jump", "run")


def scores(
    probabilities: Sequence[Sequence[float]],
    *,
    stream: str = "rgb",
    labels: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    logits: Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] | None = None,
    protocol: dict[str, Any] | None = None,
) -> Scores:
    rows = np.asarray(probabilities, float)
    return Scores(
        ids=tuple(ids or (f"v{number}" for number in range(len(rows)))),
        labels_N=np.asarray(labels if labels is not None else np.zeros(len(rows)), np.int64),
        probabilities_NK=rows,
        logits_NK=np.asarray(rows if logits is None else logits, np.float32),
        classes=tuple(classes or CLASSES[: rows.shape[1]]),
        stream=stream,
        protocol=protocol or {},
    )


def random_scores(
    seed: int, stream: str, *, videos: int = 30, prefix: str = "v", skill: float = 1.5
) -> Scores:
    """Scores that lean towards the truth, the same labels for every seed."""
    generator = np.random.default_rng(seed)
    labels = np.arange(videos) % len(CLASSES)
    logits = generator.normal(size=(videos, len(CLASSES)))
    logits[np.arange(videos), labels] += skill
    powers = np.exp(logits)
    return scores(
        powers / powers.sum(axis=1, keepdims=True),
        stream=stream,
        labels=labels.tolist(),
        ids=[f"{prefix}{number}" for number in range(videos)],
        logits=logits,
    )


RGB = scores([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], logits=[[1, 0, -1], [0, 0, 2]])
FLOW = scores([[0.2, 0.6, 0.2], [0.5, 0.0, 0.5]], logits=[[0, 2, 0], [1, -3, 1]], stream="flow")
TEST = (random_scores(1, "rgb"), random_scores(2, "flow"))
HELD_OUT = (random_scores(3, "rgb", prefix="h"), random_scores(4, "flow", prefix="h"))


def test_average_is_the_mean_of_probabilities() -> None:
    fused = fuse([RGB, FLOW], "average")
    np.testing.assert_allclose(fused.probabilities_NK, [[0.35, 0.45, 0.2], [0.3, 0.05, 0.65]])
    np.testing.assert_allclose(np.exp(fused.logits_NK), fused.probabilities_NK, rtol=1e-6)


def test_logsum_is_the_normalised_product() -> None:
    fused = fuse([RGB, FLOW])
    # 0.5·0.2 : 0.3·0.6 : 0.2·0.2 = 10 : 18 : 4, and 0.05 : 0 : 0.4 = 1 : 0 : 8.
    np.testing.assert_allclose(fused.probabilities_NK[0], np.array([10, 18, 4]) / 32)
    np.testing.assert_allclose(fused.probabilities_NK[1], np.array([1, 0, 8]) / 9, atol=1e-300)
    assert fused.logits_NK[0, 0] == pytest.approx(math.log(0.5) + math.log(0.2))
    assert np.isfinite(fused.logits_NK).all()


def test_sum_adds_the_logits() -> None:
    fused = fuse([RGB, FLOW], "sum")
    np.testing.assert_array_equal(fused.logits_NK, [[1, 2, -1], [1, -3, 3]])
    powers = [math.exp(1), math.exp(2), math.exp(-1)]
    np.testing.assert_allclose(fused.probabilities_NK[0], np.array(powers) / sum(powers))


def test_published_i3d_sample_by_sum_of_logits() -> None:
    # v_CricketShot_g04_c01: the two streams' logits add up to 41.813675.
    streams = [
        scores([[0.5, 0.5]], stream=name, logits=[[logit, 0.0]])
        for name, logit in (("rgb", 25.856646), ("flow", 15.957031))
    ]
    assert fuse(streams, "sum").logits_NK[0, 0] == pytest.approx(41.813675, abs=1e-5)


def test_given_weights_are_normalised() -> None:
    fused = fuse([RGB, FLOW], "weighted", weights=[1, 3])
    np.testing.assert_allclose(fused.probabilities_NK[0], [0.275, 0.525, 0.2])
    assert fused.protocol["weights"] == [0.25, 0.75]


def test_weight_zero_silences_a_stream() -> None:
    fused = fuse([RGB, FLOW], "weighted", weights=[0, 2])
    np.testing.assert_allclose(fused.probabilities_NK, FLOW.probabilities_NK)


@pytest.mark.parametrize("method", FUSIONS)
def test_videos_are_joined_by_id(method: Any) -> None:
    training = HELD_OUT if method in ("weighted", "svm", "validated") else None
    rgb, flow = TEST
    order = np.random.default_rng(0).permutation(len(flow.ids))
    shuffled = flow.select([flow.ids[row] for row in order])
    straight = fuse([rgb, flow], method, training=training)
    joined = fuse([rgb, shuffled], method, training=training)
    assert joined.ids == rgb.ids
    np.testing.assert_array_equal(joined.probabilities_NK, straight.probabilities_NK)
    np.testing.assert_array_equal(joined.labels_N, rgb.labels_N)
    assert not np.array_equal(shuffled.probabilities_NK, flow.probabilities_NK)


@pytest.mark.parametrize("method", FUSIONS)
def test_result_says_how_it_was_made(method: Any) -> None:
    training = HELD_OUT if method in ("weighted", "svm", "validated") else None
    rgb = scores([[0.5, 0.3, 0.2]], protocol={"clips": 25})
    flow = scores([[0.2, 0.6, 0.2]], stream="flow")
    fused = fuse([rgb, flow], method, training=training)
    assert fused.stream == "fused"
    assert fused.protocol["method"] == method
    assert fused.protocol["streams"] == [
        {"stream": "rgb", "protocol": {"clips": 25}},
        {"stream": "flow", "protocol": {}},
    ]
    assert (fused.protocol["weights"] is None) == (method in ("logsum", "sum", "svm"))
    assert fused.probabilities_NK.sum() == pytest.approx(1)


def test_equal_classes_give_the_first() -> None:
    fused = fuse([scores([[0.6, 0.4]]), scores([[0.4, 0.6]], stream="flow")], "average")
    assert fused.predictions_N.tolist() == [0]


def test_unknown_label_is_taken_from_the_other_stream() -> None:
    first = scores([[0.6, 0.4], [0.6, 0.4]], labels=[-1, 0])
    second = scores([[0.6, 0.4], [0.6, 0.4]], labels=[1, -1], stream="flow")
    assert fuse([first, second], "average").labels_N.tolist() == [1, 0]


# --- searched weights


def best_by_brute_force(streams: Sequence[Scores]) -> tuple[float, list[tuple[float, ...]]]:
    """Best accuracy and every weighting of it: a slow, independent search over two streams."""
    right: dict[tuple[float, ...], int] = {}
    for step in range(21):
        weights = (step / 20, 1 - step / 20)
        right[weights] = sum(
            max(range(3), key=lambda k: sum(
                w * s.probabilities_NK[n, k] for w, s in zip(weights, streams, strict=True)
            )) == streams[0].labels_N[n]
            for n in range(len(streams[0].ids))
        )  # fmt: skip
    best = max(right.values())
    return best / len(streams[0].ids), [w for w, count in right.items() if count == best]


def test_search_finds_the_best_and_most_equal_weights() -> None:
    weak = random_scores(4, "flow", prefix="h", skill=0.2)
    training = (HELD_OUT[0], weak)
    accuracy, best = best_by_brute_force(training)
    fused = fuse(TEST, "weighted", training=training)
    chosen = fused.protocol["weights"]
    most_equal = min(best, key=lambda weights: sum(w * w for w in weights))
    assert sum(w * w for w in chosen) == pytest.approx(sum(w * w for w in most_equal))
    assert fused.protocol["training_top_1"] == pytest.approx(accuracy)
    assert fused.protocol["training_videos"] == 30
    mean = chosen[0] * TEST[0].probabilities_NK + chosen[1] * TEST[1].probabilities_NK
    np.testing.assert_allclose(fused.probabilities_NK, mean)


def test_ties_go_to_equal_weights() -> None:
    # Three streams that are always right: every weighting is as good, 1/3 is not on the grid.
    held = [
        scores([[0.8, 0.2]], stream=name, ids=["h"], labels=[0]) for name in ("rgb", "flow", "diff")
    ]
    test = [scores([[0.8, 0.2]], stream=name) for name in ("rgb", "flow", "diff")]
    fused = fuse(test, "weighted", training=held)
    np.testing.assert_allclose(fused.protocol["weights"], [1 / 3] * 3)


def test_search_silences_a_stream_that_is_wrong() -> None:
    held = [
        scores([[0.55, 0.45], [0.45, 0.55]], ids=["a", "b"], labels=[0, 1]),
        scores([[0.0, 1.0], [1.0, 0.0]], ids=["a", "b"], labels=[0, 1], stream="flow"),
    ]
    test = [scores([[0.7, 0.3]]), scores([[0.2, 0.8]], stream="flow")]
    # 0.55 − 0.45 = 0.1 against 1: the wrong stream may have a weight below 1/11, so 0.05.
    assert fuse(test, "weighted", training=held).protocol["weights"] == [0.95, 0.05]


@pytest.mark.parametrize(("num_streams", "step"), [(2, 0.05), (4, 0.1), (6, 0.2)])
def test_search_grows_coarser_with_the_streams(num_streams: int, step: float) -> None:
    names = [f"s{number}" for number in range(num_streams)]
    held = [random_scores(seed, name, prefix="h") for seed, name in enumerate(names)]
    test = [random_scores(seed + 50, name) for seed, name in enumerate(names)]
    protocol = fuse(test, "weighted", training=held).protocol
    assert protocol["weights_step"] == step
    assert sum(protocol["weights"]) == pytest.approx(1)
    assert min(protocol["weights"]) >= 0


# --- SVM


def test_svm_learns_to_trust_the_stream_that_is_right() -> None:
    def pair(prefix: str, seed: int) -> list[Scores]:
        good = random_scores(seed, "rgb", prefix=prefix, videos=60, skill=6)
        liar = random_scores(seed + 1, "flow", prefix=prefix, videos=60, skill=-6)
        return [good, liar]

    test = pair("v", 10)
    fused = fuse(test, "svm", training=pair("h", 20))
    svm = np.mean(fused.predictions_N == fused.labels_N)
    logsum = fuse(test, "logsum")
    assert svm > 0.95
    assert svm > np.mean(logsum.predictions_N == logsum.labels_N)
    assert fused.protocol["training_videos"] == 60


def test_svm_decision_values_are_the_logits() -> None:
    from sklearn.svm import LinearSVC

    def stacked(streams: Sequence[Scores]) -> Any:
        return np.array([
            [p / math.sqrt(sum(q * q for q in row)) for row in rows for p in row]
            for rows in zip(*(stream.probabilities_NK for stream in streams), strict=True)
        ])  # fmt: skip

    machine = LinearSVC(C=1.0, dual="auto", random_state=0).fit(
        stacked(HELD_OUT), HELD_OUT[0].labels_N
    )
    fused = fuse(TEST, "svm", training=HELD_OUT)
    decisions = machine.decision_function(stacked(TEST))
    np.testing.assert_allclose(fused.logits_NK, decisions, atol=1e-3)
    np.testing.assert_array_equal(fused.predictions_N, decisions.argmax(axis=1))


def test_svm_of_two_classes_and_one_never_seen() -> None:
    # Class "jump" is missing in training; "bend" and "run" remain, one decision value for both.
    held = [
        scores([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]] * 4, stream=name, labels=[0, 2] * 4,
               ids=[f"h{n}" for n in range(8)])
        for name in ("rgb", "flow")
    ]  # fmt: skip
    test = [
        scores([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], stream=name, labels=[0, 2])
        for name in ("rgb", "flow")
    ]
    fused = fuse(test, "svm", training=held)
    assert fused.predictions_N.tolist() == [0, 2]
    assert (fused.logits_NK[:, 1] == UNSEEN_LOGIT).all()
    np.testing.assert_array_equal(fused.logits_NK[:, 0], -fused.logits_NK[:, 2])
    assert fused.protocol["training_classes"] == 2


def test_svm_is_the_same_for_the_same_seed() -> None:
    first = fuse(TEST, "svm", training=HELD_OUT, seed=3)
    second = fuse(TEST, "svm", training=HELD_OUT, seed=3)
    np.testing.assert_array_equal(first.logits_NK, second.logits_NK)
    assert first.protocol["seed"] == 3


# --- refusals


def test_other_videos_are_named() -> None:
    rgb = scores([[0.5, 0.5]] * 3, ids=["a", "b", "c"])
    flow = scores([[0.5, 0.5]] * 2, ids=["b", "x"], stream="flow")
    with pytest.raises(
        ScoresMismatch, match=r"2 videos \(a, c\) only in rgb; 1 video \(x\) only in flow"
    ):
        fuse([rgb, flow])


def test_other_labels_are_named() -> None:
    rgb, flow = scores([[0.5, 0.5]]), scores([[0.5, 0.5]], labels=[1], stream="flow")
    with pytest.raises(ScoresMismatch, match='"v0" is bend in stream rgb and jump in flow'):
        fuse([rgb, flow])


@pytest.mark.parametrize(
    ("classes", "message"),
    [(("bend", "skip"), "only the second"), (("jump", "bend"), "another order")],
)
def test_other_classes_are_refused(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ScoresMismatch, match=message):
        fuse([scores([[0.5, 0.5]]), scores([[0.5, 0.5]], classes=classes, stream="flow")])


def test_unknown_method_gets_the_nearest_name() -> None:
    with pytest.raises(InvalidArgument, match='did you mean "average"'):
        fuse([RGB, FLOW], "averge")  # type: ignore[arg-type]


def test_one_stream_is_no_fusion() -> None:
    with pytest.raises(InvalidArgument, match="needs two at least"):
        fuse([RGB])


@pytest.mark.parametrize("weights", [[1, -1], [0, 0], [1, math.nan], [math.inf, 1]])
def test_bad_weights(weights: list[float]) -> None:
    with pytest.raises(InvalidArgument, match="must be finite, ≥ 0 and not all 0"):
        fuse([RGB, FLOW], "weighted", weights=weights)


def test_one_weight_per_stream() -> None:
    with pytest.raises(InvalidArgument, match="one per stream"):
        fuse([RGB, FLOW], "weighted", weights=[1, 1, 1])


def test_weights_of_a_method_without_weights() -> None:
    with pytest.raises(InvalidArgument, match='here the method is "average"'):
        fuse([RGB, FLOW], "average", weights=[1, 1])


@pytest.mark.parametrize("method", ["weighted", "svm"])
class TestTraining:
    def test_is_needed(self, method: Any) -> None:
        with pytest.raises(InvalidArgument, match="give the scores of held-out videos"):
            fuse(TEST, method)

    def test_must_not_hold_test_videos(self, method: Any) -> None:
        with pytest.raises(ScoresMismatch, match=r"30 videos \(v0, v1, v2, …\) in training and"):
            fuse(TEST, method, training=TEST)

    def test_must_be_of_the_same_streams_in_order(self, method: Any) -> None:
        with pytest.raises(ScoresMismatch, match="in this order"):
            fuse(TEST, method, training=HELD_OUT[::-1])

    def test_must_have_labels(self, method: Any) -> None:
        held = [
            scores([[0.5, 0.3, 0.2]], stream=name, ids=["h"], labels=[-1])
            for name in ("rgb", "flow")
        ]
        with pytest.raises(InvalidArgument, match=r"1 video \(h\) without a label"):
            fuse(TEST, method, training=held)

    def test_must_have_the_same_classes(self, method: Any) -> None:
        held = [scores([[0.5, 0.5]], stream=name, ids=["h"]) for name in ("rgb", "flow")]
        with pytest.raises(ScoresMismatch, match="different classes"):
            fuse(TEST, method, training=held)


def test_svm_needs_two_classes() -> None:
    held = [
        scores([[0.5, 0.3, 0.2]] * 2, stream=name, ids=["h", "i"], labels=[1, 1])
        for name in ("rgb", "flow")
    ]
    with pytest.raises(InvalidArgument, match="all 2 training videos are jump"):
        fuse(TEST, "svm", training=held)


def test_validated_leaves_out_what_is_no_better_than_chance() -> None:
    noise = random_scores(5, "noise", skill=0.0)
    held_noise = random_scores(6, "noise", prefix="h", skill=0.0)
    fused = fuse([TEST[0], noise], "validated", training=[HELD_OUT[0], held_noise])
    assert fused.protocol["left_out"] == ["noise"]
    assert fused.protocol["weights"] == [1.0, 0.0]
    assert (fused.predictions_N == TEST[0].predictions_N).all()


def test_validated_takes_both_streams_that_know_something() -> None:
    fused = fuse(list(TEST), "validated", training=list(HELD_OUT))
    assert fused.protocol["left_out"] == []
    assert min(fused.protocol["weights"]) > 0
    assert fused.correct_N.mean() >= max(stream.correct_N.mean() for stream in TEST)


def test_validated_calms_a_stream_that_is_too_sure() -> None:
    def sure(given: Scores) -> Scores:
        """The same opinions, each held with almost all the probability."""
        rows = np.maximum(given.probabilities_NK, 1e-9) ** 8
        rows /= rows.sum(axis=1, keepdims=True)
        return scores(rows, stream=given.stream, labels=given.labels_N.tolist(), ids=given.ids)

    weak, strong = random_scores(7, "weak", skill=0.7), random_scores(8, "sure", skill=2.5)
    held = random_scores(9, "weak", skill=0.7, prefix="h", videos=120)
    held_strong = random_scores(10, "sure", skill=2.5, prefix="h", videos=120)
    fused = fuse([sure(weak), strong], "validated", training=[sure(held), held_strong])
    assert fused.protocol["temperatures"][0] > 3
    assert fused.correct_N.mean() > fuse([sure(weak), strong], "logsum").correct_N.mean()


def test_validated_has_something_to_say_where_all_guess() -> None:
    noise = [random_scores(seed, f"s{seed}", skill=0.0) for seed in (11, 12)]
    held = [random_scores(seed + 9, f"s{seed}", skill=0.0, prefix="h") for seed in (11, 12)]
    fused = fuse(noise, "validated", training=held)
    assert np.isfinite(fused.probabilities_NK).all()
    assert fused.protocol["left_out"] == []
