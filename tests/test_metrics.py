"""Each metric against a slow one written from its definition."""

import numpy as np
import pytest

from flowpipe.errors import InvalidArgument
from flowpipe.metrics import (
    accuracy_interval,
    confusion_matrix,
    mean_class_accuracy,
    top_k_accuracy,
)


@pytest.fixture(params=range(4))
def answers(request):
    """Scores with many ties, and labels; class 5 has no video."""
    rng = np.random.default_rng(request.param)
    return rng.integers(0, 4, (60, 7)) / 4, rng.choice([0, 1, 2, 3, 4, 6], 60)


def ranking(row):
    """Classes from most to least probable; of equal ones the lower index first."""
    return sorted(range(len(row)), key=lambda k: (-row[k], k))


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k(answers, k):
    scores, labels = answers
    hits = [label in ranking(row)[:k] for row, label in zip(scores, labels, strict=True)]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(sum(hits) / len(hits))


def test_a_constant_answer_gets_no_gift():
    assert top_k_accuracy(np.ones((4, 4)), [0, 1, 2, 3]) == 0.25


def test_mean_class_accuracy(answers):
    scores, labels = answers
    shares = []
    for label in sorted(set(labels.tolist())):
        rows = [row for row, own in zip(scores, labels, strict=True) if own == label]
        shares.append(sum(ranking(row)[0] == label for row in rows) / len(rows))
    assert mean_class_accuracy(scores, labels) == pytest.approx(sum(shares) / len(shares))


def test_mean_class_accuracy_weighs_classes_alike():
    scores = np.eye(2)[[0] * 9 + [0]]
    labels = [0] * 9 + [1]
    assert top_k_accuracy(scores, labels) == 0.9
    assert mean_class_accuracy(scores, labels) == 0.5


def test_confusion(answers):
    scores, labels = answers
    predictions = scores.argmax(axis=1)
    matrix = confusion_matrix(labels, predictions, 7)
    slow = [[0] * 7 for _ in range(7)]
    for label, prediction in zip(labels, predictions, strict=True):
        slow[label][prediction] += 1
    assert matrix.tolist() == slow
    assert matrix.dtype == np.int64
    assert confusion_matrix([], [], 3).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize(
    ("accuracy", "videos", "low", "high"),
    [
        # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29 by Wilson's score.
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0.0, 20, 0.0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
    ],
)
def test_interval(accuracy, videos, low, high):
    assert accuracy_interval(accuracy, videos) == pytest.approx((low, high), abs=1e-4)
    mirrored = accuracy_interval(1 - accuracy, videos)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: top_k_accuracy(np.ones((2, 3)), [0, 1], 0), r"k = 0 must be 1 to 3"),
        (lambda: top_k_accuracy(np.ones((2, 3)), [0, 1], 4), r"k = 4 must be 1 to 3"),
        (lambda: top_k_accuracy(np.ones(3), [0]), r"shape \(3,\) must be N×K"),
        (lambda: top_k_accuracy(np.ones((0, 3)), []), "with a video and a class at least"),
        (lambda: top_k_accuracy([[0.5, np.nan]], [0]), "scores of 1 videos are NaN, .* row 0"),
        (lambda: top_k_accuracy(np.ones((2, 3)), [0]), "1 labels for 2 rows of scores"),
        (lambda: top_k_accuracy(np.ones((1, 3)), [3]), r"label 3 must lie in \[0, 3\)"),
        (lambda: mean_class_accuracy(np.ones((1, 3)), [-1]), "label -1 .* leave out videos of"),
        (lambda: mean_class_accuracy(np.ones((1, 3)), [0.0]), "float64 must be N whole numbers"),
        (lambda: confusion_matrix([0], [3], 3), r"prediction 3 must lie in \[0, 3\)"),
        (lambda: confusion_matrix([0, 1], [1], 3), "2 labels and 1 predictions must be as many"),
        (lambda: accuracy_interval(1.2, 5), "accuracy 1.2 of 5 videos: the accuracy must lie in"),
        (lambda: accuracy_interval(0.5, 0), "there must be a video"),
    ],
)
def test_nonsense_is_refused(call, match):
    with pytest.raises(InvalidArgument, match=match):
        call()
