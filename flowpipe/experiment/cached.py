"""Streams on cached features: where their features are, and the head that is fitted at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flowpipe.cache import open_cache
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import ConfigError
from flowpipe.experiment.settings import SVM, Settings
from flowpipe.features.align import FeatureTracks
from flowpipe.features.linear import fit_linear
from flowpipe.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint

FOLD = "{fold}"


def needs_flow(settings: Settings) -> bool:
    """Whether any stream reads the cache of flow and frames."""
    return any(stream.input != "features" for stream in settings.streams.values())


def feature_records(
    settings: Settings, name: str, fold: str, records: Sequence[Video]
) -> FeatureTracks | None:
    """Give the features of a stream; None where it looks at flow or frames.

    "{fold}" in the name of a network stands for the fold: features of a network that was trained
    on the fold's training videos.
    """
    stream = settings.streams[name]
    if stream.input != "features" or settings.data.features is None:
        return None
    networks = [network.replace(FOLD, fold) for network in stream.features]
    return FeatureTracks(
        open_cache(settings.data.features),
        networks,
        records,
        average=stream.model == SVM,
        memory_mb=settings.train.memory_mb,
    )


def fit_svm(
    model: nn.Module,
    annotations: Dataset,
    features: FeatureTracks,
    *,
    out: Path,
    fingerprint: Mapping[str, Any],
    seed: int,
) -> None:
    """Fit the head "svm" to whole videos, and leave a checkpoint as a training does."""
    if load_checkpoint(out / CHECKPOINT, model, None, fingerprint) is not None:
        return
    records = annotations.videos
    numbers = {label: number for number, label in enumerate(annotations.classes)}
    found = fit_linear(
        np.concatenate([features[record.id].features for record in records]),
        np.array([numbers[str(record.label)] for record in records]),
        len(annotations.classes),
        seed=seed,
    )
    with torch.no_grad():
        for name, values in (
            ("mean", found.mean_D),
            ("scale", found.scale_D),
            ("fc.weight", found.weights_KD),
            ("fc.bias", found.biases_K),
        ):
            model.state_dict()[name].copy_(torch.from_numpy(values))
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out / CHECKPOINT, model, None, fingerprint, [])


def refuse_new_videos(settings: Settings) -> None:
    """New videos have no cached features; say so before anything is extracted."""
    cached = [name for name, stream in settings.streams.items() if stream.input == "features"]
    if cached:
        raise ConfigError(
            f"streams {', '.join(cached)} look at cached features, which new videos have not; "
            "compute them with flowpipe features into the store, list the videos in the "
            "annotations, and give flowpipe test"
        )
