"""The streams of an experiment that need no network: histograms of whole clips under SVMs."""

import copy
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed
from torch import nn

from flowpipe.cache import Cache
from flowpipe.clips.parts import PartCache
from flowpipe.datasets import Dataset, Video
from flowpipe.experiment.settings import FRAME_HISTOGRAM, SVM, StreamSettings
from flowpipe.experiment.streams import ClipStream, History, OnEpoch, class_numbers
from flowpipe.features.appearance import PictureNetwork, clip_looks
from flowpipe.features.clip_svm import ClipClassifier
from flowpipe.features.whole_clip import clip_grids
from flowpipe.models.weights import read_state
from flowpipe.scores import Scores
from flowpipe.training import TestOptions, TrainOptions
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    check_same,
    read_settings,
    read_tensors,
    save_checkpoint,
    write_metrics,
)

# What the names of a picture network's tensors begin with, in a checkpoint.
PICTURES = "pictures/"


def described(
    videos: Iterable[Video], cache: Any, known: dict[str, Any], compute: Callable[[Any], Any]
) -> list[Any]:
    """Return what is computed of the entries of videos; what is `known` is taken from there."""
    names = [video.id for video in videos]
    missing = [name for name in names if name not in known]
    call = delayed(lambda name: compute(cache[name]))
    workers = max(1, min(os.cpu_count() or 1, len(missing)))
    made = Parallel(workers, prefer="threads")(call(name) for name in missing)
    known |= dict(zip(missing, made, strict=True))
    return [known[name] for name in names]


class HistogramStream(ClipStream):
    """Kernel SVMs on histograms of the flow or frames of whole clips, weighed by cross-validation.

    Parameters
    ----------
    name, settings, options, cache, flip
        As for `ClipStream`; `flip` says whether an action in the mirror is the same action.
    known : dict
        What has been computed of each video, shared by the folds.
    """

    leaves_out = False

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        options: TrainOptions,
        cache: Cache | PartCache | None,
        *,
        flip: bool,
        known: dict[str, Any],
    ) -> None:
        self.name, self.settings, self.options, self.flip = name, settings, options, flip
        self._stored, self.cache, self._known = cache, cache, known

    def _clips(self, data: Dataset, model: "WholeClipModel") -> list[Any]:
        compute: Callable[[Any], Any] = clip_grids
        if self.settings.input == FRAME_HISTOGRAM:
            compute = partial(clip_looks, network=model.pictures)
        return described(data.videos, self.cache, self._known, compute)

    def on(self, cache: Any) -> "ClipStream":
        """Return the same stream, reading other videos."""
        other = copy.copy(self)
        other.cache, other._known = cache, {}
        return other

    def network(self, num_classes: int) -> nn.Module:
        """Return an empty classifier."""
        return WholeClipModel(num_classes)

    def start(self, num_classes: int) -> tuple[nn.Module, str]:
        """Return an empty classifier, and what became of the file of a network."""
        model, path = WholeClipModel(num_classes), self.settings.weights
        if path is None:
            return model, ""
        model.pictures = PictureNetwork(read_state(path), where=str(path))
        return model, f"{self.name}: {model.pictures.report}"

    def train(
        self,
        model: nn.Module,
        data: Dataset,
        out: Path,
        *,
        fingerprint: Mapping[str, Any],
        held_out: Dataset | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> History:
        """Fit the SVM to all videos; the held-out ones serve in its own cross-validation."""
        assert isinstance(model, WholeClipModel)
        path = out / CHECKPOINT
        if (saved := read_settings(path)) is not None:
            check_same(path, saved, fingerprint)
            tensors, history = read_tensors(path)
            model.restore(tensors)
            return history
        started = time.perf_counter()
        labels_N = class_numbers(data)
        groups = [video.group or video.id for video in data.videos]
        clips = self._clips(data, model)
        model.classifier = ClipClassifier.fit(
            clips,
            labels_N,
            len(data.classes),
            ids=[video.id for video in data.videos],
            groups=groups,
            mirror=self.flip,
            seed=self.options.seed,
        )
        seconds = time.perf_counter() - started
        right = model.classifier.logits(clips).argmax(1) == labels_N
        record = {
            "epoch": 1,
            "loss": 0.0,
            "accuracy": float(right.mean()),
            "validation_accuracy": model.classifier.validation_accuracy,
            "seconds": round(seconds, 3),
            "clips_per_s": round(len(data) / max(seconds, 1e-9), 1),
            "descriptions": [asdict(member) for member in model.classifier.members],
            "looks_at": model.classifier.looks_at(),
        }
        out.mkdir(parents=True, exist_ok=True)
        model.keep()
        save_checkpoint(path, model, None, fingerprint, [record])
        write_metrics(out / METRICS, [record])
        if on_epoch is not None:
            on_epoch(record)
        return [record]

    def trained(self, folder: Path, num_classes: int) -> nn.Module:
        """Return the classifier as a run left it."""
        model = WholeClipModel(num_classes)
        model.restore(read_tensors(folder / CHECKPOINT)[0])
        return model

    def predict(self, model: nn.Module, data: Dataset, options: TestOptions) -> Scores:
        """Return the scores of videos, each seen as one whole clip."""
        assert isinstance(model, WholeClipModel)
        return self._scores(data, model.fitted.logits(self._clips(data, model)))

    def held_out_scores(self, model: nn.Module, held_out: Dataset, options: TestOptions) -> Scores:
        """Return the scores of the held-out videos from the cross-validation's own SVMs."""
        assert isinstance(model, WholeClipModel)
        rows = [model.fitted.validation_ids.index(video.id) for video in held_out.videos]
        return self._scores(held_out, model.fitted.validation_logits[rows])

    def _scores(self, data: Dataset, logits_NK: npt.NDArray[np.float64]) -> Scores:
        powers = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
        shares_NK = powers / powers.sum(1, keepdims=True)
        labels_N = class_numbers(data)
        known = bool((labels_N >= 0).all())
        right = float((shares_NK.argmax(1) == labels_N).mean())
        return Scores(
            ids=tuple(video.id for video in data.videos),
            labels_N=labels_N,
            probabilities_NK=shares_NK,
            logits_NK=logits_NK.astype(np.float32),
            classes=data.classes,
            stream=self.name,
            protocol={
                "input": self.settings.input,
                "clips": 1,
                "model": SVM,
                **({"clip_accuracy": right} if known else {}),
            },
        )

    def learnt(self) -> dict[str, Any]:
        """Return the options of training that determine what it learns."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what of the stream determines what it learns, beside the options of training."""
        facts = {"input": self.settings.input, "flip": self.flip, "seed": self.options.seed}
        return {**facts, "descriptions": "pieces"}

    def cost(self, num_classes: int) -> dict[str, Any]:
        """Return the classifier's name and input; it has no network to count."""
        return {"model": SVM, "input": self.settings.input, "parameters": None, "macs": None}


class WholeClipModel(nn.Module):
    """A `ClipClassifier` as a module, so that a checkpoint holds it as any other."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier: ClipClassifier | None = None
        self.pictures: PictureNetwork | None = None

    @property
    def fitted(self) -> ClipClassifier:
        assert self.classifier is not None
        return self.classifier

    def keep(self) -> None:
        """Put the classifier's arrays where a state dict finds them."""
        for name, values in self.fitted.state().items():
            self.register_buffer(name, torch.from_numpy(values))
        for name, tensor in ({} if self.pictures is None else self.pictures.state).items():
            # A buffer's name has no dots.
            self.register_buffer(f"{PICTURES}{name.replace('.', '/')}", tensor)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the classifier from the tensors of a checkpoint."""
        own, pictures = _parts(tensors)
        self.classifier = ClipClassifier.from_state({k: v.numpy() for k, v in own.items()})
        if pictures:
            state = {k.removeprefix(PICTURES).replace("/", "."): v for k, v in pictures.items()}
            self.pictures = PictureNetwork(state, where="the run's network of pictures")


def _parts(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the tensors of the classifier, and those of the network of pictures."""
    pictures = {name: value for name, value in tensors.items() if name.startswith(PICTURES)}
    return {name: tensors[name] for name in tensors if name not in pictures}, pictures


def without_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a `WholeClipModel` without the names of its training videos."""
    own, pictures = _parts(tensors)
    classifier = ClipClassifier.from_state({k: v.numpy() for k, v in own.items()})
    count = len(classifier.validation_ids)
    classifier.validation_ids = tuple(f"training {number}" for number in range(count))
    return {k: torch.from_numpy(values) for k, values in classifier.state().items()} | pictures
