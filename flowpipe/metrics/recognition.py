"""What a number in a table of results means: accuracies, confusion. numpy only.

Everything here counts *videos*: averaging over clips and crops happens before, in prediction.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument


def top_k_accuracy(probabilities_NK: npt.ArrayLike, labels_N: npt.ArrayLike, k: int = 1) -> float:
    """Share of the videos whose true class is among the `k` most probable ones.

    Among equal scores the class of lower index counts as the more probable, as in `argmax`: a
    network that answers the same for every class gets no gift.

    Parameters
    ----------
    probabilities_NK : array of N×K
        Probabilities or any other scores that grow with confidence.
    labels_N : array of N int
        True classes, `[0, K)`.
    k : int
        `[1, K]`.

    Raises
    ------
    InvalidArgument
        For shapes that do not fit, no video, NaN, a label outside `[0, K)`, a `k` outside `[1, K]`.
    """
    scores_NK, labels = _checked(probabilities_NK, labels_N)
    num_classes = scores_NK.shape[1]
    if not 1 <= k <= num_classes:
        raise InvalidArgument(f"k = {k} must be 1 to {num_classes}, the number of classes")
    own_N1 = np.take_along_axis(scores_NK, labels[:, None], axis=1)
    earlier_NK = np.arange(num_classes)[None, :] < labels[:, None]
    ahead_NK = (scores_NK > own_N1) | ((scores_NK == own_N1) & earlier_NK)
    return float(np.mean(ahead_NK.sum(axis=1) < k))


def hit_at_k(scores_NK: npt.ArrayLike, targets_NK: npt.ArrayLike, k: int = 1) -> float:
    """Share of the videos of which at least one true class is among the `k` most probable ones.

    The measure of Sports-1M, whose videos have several labels [1]. With one label each it is
    `top_k_accuracy`, of equal scores the lower index first here too.

    Parameters
    ----------
    scores_NK : array of N×K
        Probabilities or any other scores that grow with confidence.
    targets_NK : array of N×K bool
        Which classes a video has, one at least.
    k : int
        `[1, K]`.

    Raises
    ------
    InvalidArgument
        For shapes that do not fit, no video, NaN, a video without a class, a `k` outside `[1, K]`.

    References
    ----------
    .. [1] A. Karpathy et al., "Large-scale video classification with convolutional neural
       networks", CVPR 2014. https://doi.org/10.1109/CVPR.2014.223
    """
    targets: npt.NDArray[np.bool_] = np.asarray(targets_NK).astype(bool)
    scores, _ = _checked(scores_NK, np.zeros(len(targets), np.int64))
    if targets.shape != scores.shape:
        raise InvalidArgument(
            f"targets of shape {targets.shape} must be {scores.shape}, like the scores"
        )
    if not targets.any(axis=1).all():
        row = int(np.flatnonzero(~targets.any(axis=1))[0])
        raise InvalidArgument(f"the video in row {row} has no class; leave it out")
    if not 1 <= k <= scores.shape[1]:
        raise InvalidArgument(f"k = {k} must be 1 to {scores.shape[1]}, the number of classes")
    best_Nk = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.take_along_axis(targets, best_Nk, axis=1).any(axis=1)))


def mean_class_accuracy(probabilities_NK: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Top-1 accuracy of each class, averaged over the classes that have a video.

    Parameters and errors as in `top_k_accuracy`.
    """
    scores_NK, labels = _checked(probabilities_NK, labels_N)
    confusion_KK = confusion_matrix(labels, scores_NK.argmax(axis=1), scores_NK.shape[1])
    videos_K = confusion_KK.sum(axis=1)
    present_K = videos_K > 0
    return float(np.mean(confusion_KK.diagonal()[present_K] / videos_K[present_K]))


def confusion_matrix(
    labels_N: npt.ArrayLike, predictions_N: npt.ArrayLike, num_classes: int
) -> npt.NDArray[np.int64]:
    """Count the videos of each (true class, predicted class).

    Returns
    -------
    array of K×K int64
        Rows are the truth, columns the predictions.

    Raises
    ------
    InvalidArgument
        For lengths that differ, or an index that is not a whole number in `[0, num_classes)`.
    """
    labels = _checked_indices(labels_N, num_classes, "label")
    predictions = _checked_indices(predictions_N, num_classes, "prediction")
    if len(labels) != len(predictions):
        raise InvalidArgument(
            f"{len(labels)} labels and {len(predictions)} predictions must be as many; "
            "one of each per video"
        )
    pairs = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def accuracy_interval(accuracy: float, num_videos: int) -> tuple[float, float]:
    """95 % interval of an accuracy measured on `num_videos` videos, by Wilson's score.

    It says how far another draw of test videos could move the number; it knows nothing of other
    seeds or training sets.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    J. American Statistical Association 22, 1927. https://doi.org/10.1080/01621459.1927.10502953
    """
    if num_videos < 1 or not 0.0 <= accuracy <= 1.0:
        raise InvalidArgument(
            f"accuracy {accuracy} of {num_videos} videos: the accuracy must lie in 0 to 1 and "
            "there must be a video"
        )
    z = 1.959963984540054
    shrink = 1.0 + z * z / num_videos
    centre = (accuracy + z * z / (2 * num_videos)) / shrink
    half = math.sqrt(accuracy * (1 - accuracy) / num_videos + (z / (2 * num_videos)) ** 2)
    half *= z / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(
    scores_NK: npt.ArrayLike, labels_N: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    scores = np.asarray(scores_NK, np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise InvalidArgument(
            f"scores of shape {scores.shape} must be N×K with a video and a class at least"
        )
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).any(axis=1))
        raise InvalidArgument(
            f"scores of {len(rows)} videos are NaN, the first in row {rows[0]}; numbers are needed"
        )
    labels = _checked_indices(labels_N, scores.shape[1], "label")
    if len(labels) != len(scores):
        raise InvalidArgument(
            f"{len(labels)} labels for {len(scores)} rows of scores; there must be one per video"
        )
    return scores, labels


def _checked_indices(
    indices_N: npt.ArrayLike, num_classes: int, kind: str
) -> npt.NDArray[np.int64]:
    indices: npt.NDArray[Any] = np.asarray(indices_N)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
        raise InvalidArgument(
            f"{kind}s of shape {indices.shape} and type {indices.dtype} must be N whole numbers"
        )
    outside = indices[(indices < 0) | (indices >= num_classes)]
    if outside.size:
        raise InvalidArgument(
            f"{kind} {outside[0]} must lie in [0, {num_classes}); leave out videos of unknown class"
        )
    return indices.astype(np.int64)
