"""What features are worth: a classifier on the mean over each video, fitted at once, by fold."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Cache
from flowpipe.datasets.video import Dataset
from flowpipe.errors import AnnotationError, InvalidArgument, nearest_name
from flowpipe.features.align import FeatureTracks
from flowpipe.metrics import mean_class_accuracy, top_k_accuracy

TOGETHER = "all fused"
LinearMethod = Literal["svm", "linear"]
Method = Literal["svm", "linear", "kernel"]
METHODS: tuple[str, ...] = ("svm", "linear")
# What a class gets that no training video has: e⁻¹⁰⁰ of the others, and finite.
UNSEEN_LOGIT = -100.0
PENALTY = 1.0
KERNEL_PENALTY = 10.0
MOST_ITERATIONS = 2000
# A feature that never varies in training is left out rather than blown up.
LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of the features of each network, and of all fused (mean of the probabilities).

    Attributes
    ----------
    folds : tuple of str
    accuracy, class_mean : dict of str to float
        Over the tested videos of all folds.
    per_fold : dict of str to list of float
    videos, untaught : int
        Tested videos, and how many of them are of a class without a training video: no classifier
        can be right there.
    num_features : dict of str to int
    seconds : float
    """

    folds: tuple[str, ...]
    accuracy: dict[str, float]
    class_mean: dict[str, float]
    per_fold: dict[str, list[float]]
    videos: int
    untaught: int
    num_features: dict[str, int]
    seconds: float


def probe(
    store: Cache,
    networks: Sequence[str],
    divisions: Mapping[str, tuple[Dataset, Dataset]],
    *,
    method: Method = "svm",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Fit a classifier to the mean features of the training videos of each fold.

    Parameters
    ----------
    store : Cache
    networks : sequence of str
        Names in the store; "{fold}" in one stands for the fold.
    divisions : mapping
        Fold → (training, test), as `flowpipe.datasets.splits` gives them.
    method : "svm", "linear" or "kernel"
        A linear SVM, logistic regression, or an SVM with Gaussian kernels.
    seed : int
    on_progress : callable, optional
        Called with (folds done, folds).

    Raises
    ------
    EntryNotFound
        If a video has no features.
    AnnotationError
        If a video has no label.
    """
    started = time.perf_counter()
    means: dict[str, dict[str, NDArray[np.float32]]] = {}
    tested: dict[str, list[NDArray[np.float64]]] = {}
    labels: list[NDArray[np.int64]] = []
    sizes: dict[str, int] = {}
    untaught = 0
    for done, (fold, (train, test)) in enumerate(divisions.items()):
        shares = []
        train_labels, test_labels = _labels(train), _labels(test)
        labels.append(test_labels)
        untaught += int((~np.isin(test_labels, train_labels)).sum())
        for network in networks:
            name = network.replace("{fold}", fold)
            known = means.setdefault(name, {})
            missing = [r for r in (*train.videos, *test.videos) if r.id not in known]
            found = FeatureTracks(store, [name], missing, average=True, memory_mb=0)
            for record in missing:
                known[record.id] = found[record.id].features.reshape(-1)
            seen = np.stack([known[record.id] for record in train.videos])
            fitted = _fit(seen, train_labels, len(train.classes), method, seed)
            values = np.stack([known[record.id] for record in test.videos])
            sizes[network] = values.shape[1]
            shares.append(softmax(fitted(values)))
            tested.setdefault(network, []).append(shares[-1])
        if len(networks) > 1:
            tested.setdefault(TOGETHER, []).append(np.mean(shares, axis=0))
        if on_progress is not None:
            on_progress(done + 1, len(divisions))
    joined = np.concatenate(labels)
    whole = {name: np.concatenate(parts) for name, parts in tested.items()}
    return ProbeResult(
        tuple(divisions),
        {name: top_k_accuracy(shares, joined) for name, shares in whole.items()},
        {name: mean_class_accuracy(shares, joined) for name, shares in whole.items()},
        {
            name: [top_k_accuracy(s, own) for s, own in zip(parts, labels, strict=True)]
            for name, parts in tested.items()
        },
        len(joined),
        untaught,
        sizes,
        time.perf_counter() - started,
    )


def _labels(annotations: Dataset) -> NDArray[np.int64]:
    numbers = {label: number for number, label in enumerate(annotations.classes)}
    for record in annotations.videos:
        if record.label is None:
            raise AnnotationError(f'"{record.id}" has no label; a probe needs one for each video')
    return np.array([numbers[str(record.label)] for record in annotations.videos])


def _fit(
    features_ND: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    num_classes: int,
    method: Method,
    seed: int,
) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    if method == "kernel":
        return fit_kernel(features_ND, labels_N, num_classes)
    return fit_linear(features_ND, labels_N, num_classes, method=method, seed=seed)


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
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if method not in METHODS:
        raise InvalidArgument(
            f'method "{method}"{nearest_name(method, METHODS)} must be one of {", ".join(METHODS)}'
        )
    seen = _seen(labels_N)
    features = np.asarray(features_ND, np.float64)
    mean, scale, constant = _standard(features)
    values = np.where(constant, 0.0, (features - mean) / scale)
    if method == "svm":
        model = LinearSVC(C=PENALTY, random_state=seed, max_iter=MOST_ITERATIONS)
    else:
        model = LogisticRegression(C=PENALTY, random_state=seed, max_iter=MOST_ITERATIONS)
    _fit_quietly(model, values, labels_N)
    weights, biases = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(seen) == 2:  # scikit-learn gives one column for two classes
        weights, biases = np.concatenate([-weights, weights]), np.concatenate([-biases, biases])
    weights_KD = np.zeros((num_classes, features.shape[1]))
    biases_K = np.full(num_classes, UNSEEN_LOGIT)
    weights_KD[seen], biases_K[seen] = weights, biases
    return LinearClassifier(mean, scale, weights_KD, biases_K)


def fit_kernel(
    features_ND: NDArray[np.floating], labels_N: NDArray[np.integer], num_classes: int
) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """Fit an SVM with Gaussian kernels (C = 10, width by the variance) to standardised features.

    Returns
    -------
    callable
        Features N×D → decision values N×K, one class against the rest.

    Raises
    ------
    InvalidArgument
        For videos of one class only.
    """
    from sklearn.svm import SVC

    seen = _seen(labels_N)
    features = np.asarray(features_ND, np.float64)
    mean, scale, constant = _standard(features)
    model = SVC(C=KERNEL_PENALTY)
    _fit_quietly(model, np.where(constant, 0.0, (features - mean) / scale), labels_N)

    def decide(features_MD: NDArray[np.floating]) -> NDArray[np.float64]:
        found = model.decision_function(np.where(constant, 0.0, (features_MD - mean) / scale))
        if len(seen) == 2:  # scikit-learn gives one column for two classes
            found = np.stack([-found, found], axis=1)
        values_MK = np.full((len(features_MD), num_classes), UNSEEN_LOGIT)
        values_MK[:, seen] = found
        return values_MK

    return decide


def _seen(labels_N: NDArray[np.integer]) -> NDArray[np.integer]:
    seen = np.unique(labels_N)
    if len(seen) < 2:
        raise InvalidArgument(f"{len(seen)} class in training; two at least are needed")
    return seen


def _standard(
    features_ND: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return mean and scale (deviation · √D) of features, and which do not vary."""
    mean, deviation = features_ND.mean(axis=0), features_ND.std(axis=0)
    constant = deviation < LEAST_SCALE
    return mean, np.where(constant, 1.0, deviation * np.sqrt(features_ND.shape[1])), constant


def softmax(values_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return decision values as shares that sum to 1 for each video."""
    raised = np.exp(values_NK - values_NK.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _fit_quietly(model: Any, values_ND: NDArray[np.float64], labels_N: NDArray[np.integer]) -> None:
    """Fit, without scikit-learn's warnings of slow convergence, and of nearly as many classes."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(values_ND, labels_N)
