"""The streams of an experiment: on clips of the cache, and on cached features.

Both have the same four methods: `dataset`, `network`, `train`, `predict`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flowpipe.cache import Cache
from flowpipe.clips.dataset import ClipDataset
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.streams import AnyInput, FeatureInput
from flowpipe.datasets import Dataset, Video
from flowpipe.experiment.settings import SVM, StreamSettings
from flowpipe.features.align import FeatureTracks
from flowpipe.features.probe import fit_linear
from flowpipe.models import build_for_clip
from flowpipe.models.analysis import describe
from flowpipe.models.heads import build_head
from flowpipe.prediction import predict_scores
from flowpipe.scores import Scores
from flowpipe.training import TestOptions, TrainOptions, train_stream
from flowpipe.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from flowpipe.training.ranks import join

History = list[dict[str, Any]]
OnEpoch = Callable[[dict[str, Any]], None]
# "{fold}" in the name of features stands for the fold: features of a network that was trained on
# the fold's training videos.
FOLD = "{fold}"


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

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        options: TrainOptions,
        cache: Cache | None,
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
        on_epoch: OnEpoch | None = None,
    ) -> History:
        """Train the network, or go on with it; return the records of its epochs."""
        return train_stream(
            model,
            self.dataset(data),
            self.options,
            out,
            fingerprint=fingerprint,
            on_epoch=on_epoch,
        )

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
        on_epoch: OnEpoch | None = None,
    ) -> History:
        """Train the head; an SVM is fitted to whole videos at once, by the first process."""
        if not self.at_once:
            return super().train(model, data, out, fingerprint=fingerprint, on_epoch=on_epoch)
        path = out / CHECKPOINT
        if join().first and load_checkpoint(path, model, None, fingerprint) is None:
            self._fit(model, data)
            out.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, model, None, fingerprint, [])
        return []

    def _fit(self, model: nn.Module, data: Dataset) -> None:
        numbers = {label: number for number, label in enumerate(data.classes)}
        fitted = fit_linear(
            np.concatenate([self.cache[video.id].features for video in data.videos]),
            np.array([numbers[str(video.label)] for video in data.videos]),
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
