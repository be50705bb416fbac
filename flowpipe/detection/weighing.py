"""How much each stream of a detector counts: what answers best for videos it has not seen."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowpipe.detection.detector import Detector, DetectorSettings
from flowpipe.detection.examples import Example
from flowpipe.detection.learning import criterion

HELD_SHARE = 0.25
AT_ONCE = 16
# Weights are whole multiples of one part in so many.
STEPS = 20
# Beyond this many streams there are too many ways to divide the weight.
MOST_STREAMS = 4
# Among those whose loss on held-out persons is within this share of the least, the most even one.
EQUAL_LOSS = 0.01


def validated_weights(
    settings: DetectorSettings,
    examples: Sequence[Example],
    cache: Any,
    out: Path,
    on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Return weights of the streams, of least loss on training videos that are held out.

    A detector is trained without a quarter of the videos. Where there is nothing to hold out, or
    nothing to choose, streams count alike.

    Parameters
    ----------
    settings : DetectorSettings
    examples : sequence of Example
        For training.
    cache : Cache
    out : Path
        Folder of the detector of this trial; it goes on where it stood.
    on_epoch : callable, optional
        Called with each stream's name and epoch's record.
    """
    names = list(settings.streams)
    shown = [example for example in examples if len(example.boxes)]
    videos = sorted({example.video for example in shown})
    if not 1 < len(names) <= MOST_STREAMS or len(videos) < 2:
        return {}
    count = max(1, round(HELD_SHARE * len(videos)))
    held = set(np.random.default_rng(settings.train.seed).permutation(videos)[:count].tolist())
    known = [example for example in shown if example.video not in held]
    if sum(len(example.boxes) for example in known) < 2:
        return {}
    trial = Detector(replace(settings, weights={}))
    trial.train(known, cache, out, on_epoch)
    unseen = [example for example in shown if example.video in held]
    says_SRK = torch.stack([_said(trial, name, unseen, cache) for name in names])
    targets_RK = torch.from_numpy(np.concatenate([example.targets for example in unseen]))
    return dict(zip(names, best_weights(says_SRK, targets_RK, settings.softmax), strict=True))


def _said(detector: Detector, name: str, examples: Sequence[Example], cache: Any) -> Tensor:
    """Return what a stream says of all persons, a few key frames at a time."""
    starts = range(0, len(examples), AT_ONCE)
    parts = [detector.say(name, examples[start : start + AT_ONCE], cache) for start in starts]
    return torch.cat(parts).cpu()


def best_weights(says_SRK: Tensor, targets_RK: Tensor, softmax: bool) -> list[float]:
    """Return the weights of streams whose weighted mean has the least loss."""
    judged = []
    for weights in _divisions(len(says_SRK)):
        mean_RK = torch.tensordot(torch.tensor(weights, dtype=says_SRK.dtype), says_SRK, dims=1)
        judged.append((float(criterion(mean_RK, targets_RK, softmax)[0]), weights))
    limit = min(loss for loss, _ in judged) * (1 + EQUAL_LOSS)
    return min((weights for loss, weights in judged if loss <= limit), key=max)


def _divisions(count: int) -> Iterator[list[float]]:
    """Return all ways to divide 1 among streams in steps of one part in `STEPS`."""
    for edges in itertools.combinations_with_replacement(range(STEPS + 1), count - 1):
        yield [(b - a) / STEPS for a, b in itertools.pairwise((0, *edges, STEPS))]
