"""The networks of an experiment's streams: as they begin, as a run left them, their cost."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flowpipe.experiment.cached import feature_records
from flowpipe.experiment.results import Fold, accuracy, stream_folder
from flowpipe.experiment.settings import Settings
from flowpipe.models import build_for_clip
from flowpipe.models.analysis import describe
from flowpipe.models.heads import build_head
from flowpipe.models.weights import load_weights
from flowpipe.scores import Scores
from flowpipe.training.checkpoint import CHECKPOINT, read_model

Say = Callable[[str], None]


def make_model(
    settings: Settings,
    name: str,
    num_classes: int,
    *,
    load: bool,
    say: Say = lambda text: None,
    feature_shape: tuple[int, ...] = (),
) -> nn.Module:
    """Build the network of a stream, its initial weights fixed by the seed."""
    stream = settings.streams[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.train.seed)
        if stream.input == "features":
            model = build_head(
                stream.model, feature_shape, num_classes=num_classes, **stream.model_parameters
            )
        else:
            model = build_for_clip(
                stream.model,
                settings.stream_input(name).clip_CTHW,
                num_classes=num_classes,
                **stream.model_parameters,
            )
    if load and stream.weights is not None:
        say(f"{name}: {load_weights(model, stream.weights)}")
    return model


def trained_model(
    settings: Settings,
    name: str,
    fold: str,
    out: Path,
    classes: int,
    feature_shape: tuple[int, ...] = (),
) -> nn.Module:
    """Build the network of a stream with the weights that a run gave it."""
    model = make_model(settings, name, classes, load=False, feature_shape=feature_shape)
    read_model(stream_folder(out, fold, name) / CHECKPOINT, model)
    return model


def describe_networks(
    settings: Settings, divisions: Sequence[Fold], scores: Mapping[str, Scores]
) -> dict[str, dict[str, Any]]:
    """Give what each stream's network is and what it cost: rows of the table of results."""
    found = {}
    for name, stream in settings.streams.items():
        classes = len(divisions[0].train.classes)
        features = feature_records(settings, name, divisions[0].name, ())
        if features is None:
            clip: tuple[int, ...] = settings.stream_input(name).clip_CTHW
            summary = describe(
                stream.model,
                num_classes=classes,
                clip=settings.stream_input(name).clip_CTHW,
                **stream.model_parameters,
            )
            parameters, macs = summary.parameters, summary.macs
        else:
            # The cost of a head is next to nothing beside the network's, which is paid once.
            shape = features.feature_shape
            clip, macs = settings.stream_input(name, shape).input_shape, None
            head = make_model(settings, name, classes, load=False, feature_shape=shape)
            parameters = sum(p.numel() for p in head.parameters())
        tested = [division.scores[name] for division in divisions]
        # A test of a finished run trained nothing.
        spent = [d.seconds[name] for d in divisions if name in d.seconds]
        seconds = round(sum(spent), 1) if spent else None
        clip_accuracies = [part.protocol["clip_accuracy"] for part in tested]
        found[name] = {
            "model": stream.model,
            "input": f"{stream.input} {'×'.join(map(str, clip))}",
            "parameters": parameters,
            "macs": macs,
            "clip_accuracy": float(np.mean(clip_accuracies)),
            "video_accuracy": float(np.mean([accuracy(part) for part in tested])),
            "seconds": seconds,
        }
    return found
