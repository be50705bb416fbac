"""What features are worth: a linear classifier on the mean over each video, fold by fold."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Cache
from flowpipe.datasets.video import Dataset
from flowpipe.errors import AnnotationError
from flowpipe.features.align import FeatureTracks
from flowpipe.features.linear import LinearMethod, fit_linear, softmax
from flowpipe.metrics import mean_class_accuracy, top_k_accuracy

TOGETHER = "all fused"


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of the features of each network, and of all fused (mean of the probabilities).

    Attributes
    ----------
    folds : tuple of str
    accuracy, class_mean : dict of str to float
        Over the tested videos of all folds.
    per_fold : dict of str to list of float
    videos, num_features : int, dict of str to int
    seconds : float
    """

    folds: tuple[str, ...]
    accuracy: dict[str, float]
    class_mean: dict[str, float]
    per_fold: dict[str, list[float]]
    videos: int
    num_features: dict[str, int]
    seconds: float


def probe(
    store: Cache,
    networks: Sequence[str],
    divisions: Mapping[str, tuple[Dataset, Dataset]],
    *,
    method: LinearMethod = "svm",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Fit a linear classifier to the mean features of the training videos of each fold.

    Parameters
    ----------
    store : Cache
    networks : sequence of str
        Names in the store; "{fold}" in one stands for the fold.
    divisions : mapping
        Fold → (training, test), as `flowpipe.datasets.splits` gives them.
    method : "svm" or "linear"
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
    for done, (fold, (train, test)) in enumerate(divisions.items()):
        shares = []
        train_labels, test_labels = _labels(train), _labels(test)
        labels.append(test_labels)
        for network in networks:
            name = network.replace("{fold}", fold)
            known = means.setdefault(name, {})
            missing = [r for r in (*train.videos, *test.videos) if r.id not in known]
            found = FeatureTracks(store, [name], missing, average=True, memory_mb=0)
            for record in missing:
                known[record.id] = found[record.id].features.reshape(-1)
            fitted = fit_linear(
                np.stack([known[record.id] for record in train.videos]),
                train_labels,
                len(train.classes),
                method=method,
                seed=seed,
            )
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
        sizes,
        time.perf_counter() - started,
    )


def _labels(annotations: Dataset) -> NDArray[np.int64]:
    numbers = {label: number for number, label in enumerate(annotations.classes)}
    for record in annotations.videos:
        if record.label is None:
            raise AnnotationError(f'"{record.id}" has no label; a probe needs one for each video')
    return np.array([numbers[str(record.label)] for record in annotations.videos])
