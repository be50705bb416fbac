"""The streams of an experiment: on clips of the cache, on cached features.

Those on whole clips, which need no network, stand in `histograms`.

All have the same four methods: `dataset`, `network`, `train`, `predict`.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from flowpipe.cache import Cache
from flowpipe.clips.dataset import ClipDataset
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.parts import PartCache
from flowpipe.clips.streams import AnyInput, FeatureInput
from flowpipe.datasets import Dataset, Video
from flowpipe.experiment.settings import SVM, StreamSettings
from flowpipe.features.align import FeatureTracks
from flowpipe.features.probe import fit_linear
from flowpipe.fusion import calibrate
from flowpipe.models import build_for_clip
from flowpipe.models.analysis import describe
from flowpipe.models.heads import build_head
from flowpipe.models.weights import check_state, load_state, load_weights
from flowpipe.prediction import predict_scores
from flowpipe.scores import Scores
from flowpipe.training import TestOptions, TrainOptions, train_stream
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    load_checkpoint,
    read_weights,
    save_checkpoint,
)
from flowpipe.training.ranks import join

History = list[dict[str, Any]]
OnEpoch = Callable[[dict[str, Any]], None]
# "{fold}" in the name of features stands for the fold: features of a network that was trained on
# the fold's training videos.
FOLD = "{fold}"
# Held-out videos are scored after every epoch: few clips, in the middle of the picture.
VALIDATION = TestOptions(clips=3)


class ClipStream:
    """A network on clips of frames or flow.

    Parameters
    ----------
    name : str
    settings : StreamSettings
    options : TrainOptions
        With what the stream has of its own.
    cache : Cache, optional
        Not needed to build its network.
    memory : MemoryCache, optional
        The same, what is read of it being kept.
    flip : bool
        Whether training clips are mirrored.
    """

    input: AnyInput
    cache: Any
    # Whether training leaves the held-out videos out, so that a second one can learn from them.
    leaves_out = True

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        options: TrainOptions,
        cache: Cache | PartCache | None,
        *,
        memory: MemoryCache | None = None,
        flip: bool,
    ) -> None:
        self.name, self.settings, self.options, self.flip = name, settings, options, flip
        self._stored, self.cache = cache, memory or cache
        self.input = settings.clip_input(name)

    def dataset(self, data: Dataset) -> ClipDataset:
        """Return the training clips of videos."""
        options = self.options
        return ClipDataset(
            data.videos,
            self.cache,
            [self.input],
            classes=data.classes,
            seed=options.seed,
            clips_per_video=options.clips_per_video,
            sampling=options.sampling,
            scales=options.scales,
            max_distortion=options.max_distortion,
            crop=options.crop,
            flip=self.flip,
        )

    def network(self, num_classes: int) -> nn.Module:
        """Return the network as its training begins; its weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return self._build(num_classes)

    def on(self, cache: Any) -> "ClipStream":
        """Return the same stream, reading other videos."""
        other = copy.copy(self)
        other.cache = cache
        return other

    def start(self, num_classes: int) -> tuple[nn.Module, str]:
        """Return the network with its initial weights, and what became of those of a file."""
        model, path = self.network(num_classes), self.settings.weights
        if path is None:
            return model, ""
        loaded = load_weights(model, path, origin=self.settings.weights_origin)
        return model, f"{self.name}: {loaded}"

    def _build(self, num_classes: int) -> nn.Module:
        clip_CTHW = self.settings.clip_input(self.name).clip_CTHW
        parameters = self.settings.model_parameters
        return build_for_clip(self.settings.model, clip_CTHW, num_classes=num_classes, **parameters)

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
        """Train the network, or go on with it; return the records of its epochs.

        The videos of `held_out` are left out; after each epoch they are scored, and choose the
        epoch that counts.
        """
        validate = None if held_out is None else partial(self._validate, held_out)
        return train_stream(
            model,
            self.dataset(_without(data, held_out)),
            self.options,
            out,
            fingerprint=fingerprint,
            validate=validate,
            on_epoch=on_epoch,
        )

    def _validate(self, held_out: Dataset, model: nn.Module) -> dict[str, float]:
        scores = self.predict(model, held_out, VALIDATION)
        logs_NK = np.log(np.maximum(scores.probabilities_NK, 1e-6))
        # At the best temperature: a network that has become too sure is calmed by the fusion.
        _, loss = calibrate(logs_NK, scores.labels_N)
        return {"validation_loss": loss, "validation_accuracy": float(scores.correct_N.mean())}

    def trained(self, folder: Path, num_classes: int) -> nn.Module:
        """Return the network as a run left it."""
        path = folder / CHECKPOINT
        weights = read_weights(path)
        if ":" not in self.settings.model:
            # Sizes that a forged file names must not take memory before they are known to fit.
            with torch.device("meta"):
                empty = self._build(num_classes)
            check_state(empty, weights, where=str(path))
        model = self.network(num_classes)
        load_state(model, weights, where=str(path))
        return model

    def held_out_scores(self, model: nn.Module, held_out: Dataset, options: TestOptions) -> Scores:
        """Return the scores of the videos that training left out."""
        return self.predict(model, held_out, options)

    def predict(self, model: nn.Module, data: Dataset, options: TestOptions) -> Scores:
        """Return the scores of videos, labelled or not."""
        return predict_scores(
            model,
            data,
            self.cache,
            self.input,
            options,
            workers=self.options.workers,
            device=self.options.device,
            activation=self.options.loss,
            protocol={"model": self.settings.model},
        )

    def digests(self, videos: Sequence[str]) -> list[str]:
        """Return the digest of the content of each video."""
        rows = {row.name: row.digest for row in self._stored.rows()} if self._stored else {}
        return [rows[video] for video in videos]

    def learnt(self) -> dict[str, Any]:
        """Return the options of training that determine what it learns."""
        return self.options.learnt()

    def facts(self) -> dict[str, Any]:
        """Return what of the stream determines what it learns, beside the options of training."""
        stream = asdict(self.settings)
        for key in ("epochs", "learning_rate", "clips_per_video", "weights"):
            del stream[key]
        if stream["untrusted"] == "keep":
            del stream["untrusted"]  # checkpoints of before there was such a thing
        return {"stream": stream, "flip": self.flip}

    def cost(self, num_classes: int) -> dict[str, Any]:
        """Return the network's name, input, parameters, and multiply-adds of one clip."""
        clip_CTHW = self.settings.clip_input(self.name).clip_CTHW
        summary = describe(
            self.settings.model,
            num_classes=num_classes,
            clip=clip_CTHW,
            **self.settings.model_parameters,
        )
        return self._row(clip_CTHW, summary.parameters, summary.macs)

    def _row(self, clip: tuple[int, ...], parameters: int, macs: int | None) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "input": f"{self.settings.input} {'×'.join(map(str, clip))}",
            "parameters": parameters,
            "macs": macs,
        }


class FeatureStream(ClipStream):
    """A head on cached features of one fold.

    Parameters
    ----------
    name, settings, options
        As for `ClipStream`.
    cache : Cache
        With the features.
    fold : str
        Its name takes the place of "{fold}" in the names of features.
    videos : iterable of Video
        Each must have features of every network, of the video as it is now.
    """

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        options: TrainOptions,
        cache: Cache,
        *,
        fold: str,
        videos: Iterable[Video] = (),
    ) -> None:
        self.name, self.settings, self.options, self.flip = name, settings, options, False
        self.at_once = settings.model == SVM
        networks = [network.replace(FOLD, fold) for network in settings.features]
        self._stored = cache.select(networks[0])
        self.cache = FeatureTracks(
            cache,
            networks,
            videos,
            average=self.at_once,
            memory_mb=options.memory_mb,
        )
        self.input = FeatureInput(
            name,
            1 if self.at_once else settings.frames,
            self.cache.feature_shape,
            frame_step=settings.stride,
        )

    def _build(self, num_classes: int) -> nn.Module:
        self.settings.refuse_foreign_code(self.name)
        return build_head(
            self.settings.model,
            self.cache.feature_shape,
            num_classes=num_classes,
            **self.settings.model_parameters,
        )

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
        """Train the head; an SVM is fitted to whole videos at once, by the first process."""
        if not self.at_once:
            return super().train(
                model, data, out, fingerprint=fingerprint, held_out=held_out, on_epoch=on_epoch
            )
        path = out / CHECKPOINT
        if join().first and load_checkpoint(path, model, None, fingerprint) is None:
            self._fit(model, _without(data, held_out))
            out.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, model, None, fingerprint, [])
        return []

    def _fit(self, model: nn.Module, data: Dataset) -> None:
        fitted = fit_linear(
            np.concatenate([self.cache[video.id].features for video in data.videos]),
            class_numbers(data),
            len(data.classes),
            seed=self.options.seed,
        )
        with torch.no_grad():
            for name, values in (
                ("mean", fitted.mean_D),
                ("scale", fitted.scale_D),
                ("fc.weight", fitted.weights_KD),
                ("fc.bias", fitted.biases_K),
            ):
                model.state_dict()[name].copy_(torch.from_numpy(values))

    def learnt(self) -> dict[str, Any]:
        """Return the options of training that determine what it learns."""
        return {} if self.at_once else super().learnt()

    def facts(self) -> dict[str, Any]:
        """Return what of the stream determines what it learns, beside the options of training."""
        seed = {"seed": self.options.seed} if self.at_once else {}
        stream = super().facts()["stream"]
        return {"stream": stream, "features": list(self.cache.recipes), **seed}

    def cost(self, num_classes: int) -> dict[str, Any]:
        """Return the head's name, input and parameters; the network's cost is paid once."""
        parameters = sum(p.numel() for p in self.network(num_classes).parameters())
        return self._row(self.input.input_shape, parameters, None)


def _without(data: Dataset, held_out: Dataset | None) -> Dataset:
    """Return a data set without the videos that are held out."""
    away = {video.id for video in held_out.videos} if held_out is not None else set()
    return replace(data, videos=tuple(video for video in data.videos if video.id not in away))


def class_numbers(data: Dataset) -> npt.NDArray[np.int64]:
    """Return the class number of each video, −1 without a label."""
    numbers = {label: number for number, label in enumerate(data.classes)}
    return np.array([numbers.get(str(video.label), -1) for video in data.videos], np.int64)
