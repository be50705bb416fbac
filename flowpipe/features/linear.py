"""A linear classifier on standardised features, fitted at once: SVM or logistic regression."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument, nearest_name

LinearMethod = Literal["svm", "linear"]
METHODS: tuple[str, ...] = ("svm", "linear")
# What a class gets that no training video has: e⁻¹⁰⁰ of the others, and finite.
UNSEEN_LOGIT = -100.0
PENALTY = 1.0
MOST_ITERATIONS = 2000
# A feature that never varies in training is left out rather than blown up.
LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class LinearClassifier:
    """Decision values are `((x − mean) / scale) @ weights.T + biases`, N×K."""

    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    weights_KD: NDArray[np.float64]
    biases_K: NDArray[np.float64]

    def __call__(self, features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        values = (features_ND - self.mean_D) / self.scale_D
        return values @ self.weights_KD.T + self.biases_K


def fit_linear(
    features_ND: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    num_classes: int,
    *,
    method: LinearMethod = "svm",
    seed: int = 0,
) -> LinearClassifier:
    """Fit one-against-rest linear SVMs, or multinomial logistic regression ("linear").

    Features are standardised by the mean and deviation of the training videos, and divided by
    √D, so that the penalty (C = 1) means the same for any number of features.

    Raises
    ------
    InvalidArgument
        For another method, or videos of one class only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if method not in METHODS:
        raise InvalidArgument(
            f'method "{method}"{nearest_name(method, METHODS)} must be one of {", ".join(METHODS)}'
        )
    seen = np.unique(labels_N)
    if len(seen) < 2:
        raise InvalidArgument(f"{len(seen)} class in training; two at least are needed")
    features = np.asarray(features_ND, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    constant = deviation < LEAST_SCALE
    scale = np.where(constant, 1.0, deviation * np.sqrt(features.shape[1]))
    values = np.where(constant, 0.0, (features - mean) / scale)
    if method == "svm":
        model = LinearSVC(C=PENALTY, random_state=seed, max_iter=MOST_ITERATIONS)
    else:
        model = LogisticRegression(C=PENALTY, random_state=seed, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values, labels_N)
    weights, biases = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(seen) == 2:  # scikit-learn gives one column for two classes
        weights, biases = np.concatenate([-weights, weights]), np.concatenate([-biases, biases])
    weights_KD = np.zeros((num_classes, features.shape[1]))
    biases_K = np.full(num_classes, UNSEEN_LOGIT)
    weights_KD[seen], biases_K[seen] = weights, biases
    return LinearClassifier(mean, scale, weights_KD, biases_K)


def softmax(values_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn decision values into shares that sum to 1 for each video."""
    raised = np.exp(values_NK - values_NK.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
