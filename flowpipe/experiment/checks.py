"""What is refused before anything is extracted or trained, and doubts about results."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flowpipe.clips.streams import StreamInput
from flowpipe.datasets import Dataset, folds
from flowpipe.errors import (
    AnnotationError,
    ConfigError,
    FlowpipeError,
    InvalidArgument,
    VideoError,
)
from flowpipe.experiment.results import Fold, accuracy
from flowpipe.experiment.settings import HISTOGRAMS, Settings, StreamSettings
from flowpipe.experiment.streams import ClipStream
from flowpipe.fusion import ONE_LABEL
from flowpipe.scores import Scores
from flowpipe.training import TestOptions
from flowpipe.training.devices import choose_device
from flowpipe.training.loop import check_logits, needing_two_clips
from flowpipe.training.ranks import join
from flowpipe.video import VideoInfo, probe

# A loss that has fallen by less than this share of ln K has learnt nothing.
LEAST_GAIN = 0.01
# Motion from frame to frame may differ by this factor.
RATE_TOLERANCE = 1.25
MOST_LOOKED_AT = 100
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def check_folds(dataset: Dataset, chosen: Sequence[Fold]) -> None:
    """Refuse folds on which nothing can be learnt or tested, with ConfigError."""
    for fold in chosen:
        for half, data in (("training", fold.train), ("test", fold.test)):
            unlabelled = [video.id for video in data.videos if not video.labels]
            if half == "test" and 0 < len(unlabelled) < len(data.videos):
                continue  # those are scored, and no accuracy counts them
            if unlabelled:
                others = [name for name in folds(dataset) if name != fold.name]
                raise ConfigError(
                    f'fold "{fold.name}": {len(unlabelled)} of {len(data.videos)} {half} videos '
                    f'have no label, the first is "{unlabelled[0]}"; give labels'
                    + (f", or choose another fold: {', '.join(others)}" if others else ""),
                    parameter="fold",
                )
        if len({video.label for video in fold.train.videos}) < 2:
            raise ConfigError(
                f'fold "{fold.name}": all training videos are of one class; a network needs two '
                "classes at least",
                parameter="fold",
            )


def check_parts(dataset: Dataset) -> None:
    """Refuse parts far behind the end that their file states, such as milliseconds for seconds.

    Headers may be wrong, so that what is nearer is looked at when the frames are there.
    """
    files: dict[Path, VideoInfo | None] = {}
    for video in dataset.videos:
        if video.span is None:
            continue
        if video.path not in files:
            files[video.path] = None
            with contextlib.suppress(VideoError):  # extraction tells what is wrong with it
                files[video.path] = probe(video.path)
        info = files[video.path]
        if info is None or info.duration_s is None:
            continue
        rate = 1.0 if video.span.unit == "s" else info.average_fps or math.inf
        if video.span.start / rate > 2 * info.duration_s + 1:
            raise AnnotationError(
                f'"{video.id}" begins at {video.span.start / rate:g} s, but the video has '
                f"{info.duration_s:g} s; times are seconds, or numbers of frames"
            )


def check_test(settings: Settings, options: TestOptions) -> None:
    """Refuse mirrored crops where the configuration says that a mirror changes the class."""
    if settings.data.flip or not settings.needs_flow:
        return
    if options.crops == "ten" or options.flip:
        mirrored = 'crops = "ten": five of the ten are' if options.crops == "ten" else "flip is"
        raise ConfigError(
            f"[test] {mirrored} mirrored, but [data] flip = false says that a mirror changes the "
            'class; take crops = "five"',
            parameter="crops",
        )


def rate_fault(settings: Settings, rates_fps: Sequence[float], own_fps: float | None) -> str:
    """Return why a video of another frame rate cannot be judged; "" where it can.

    Parameters
    ----------
    settings : Settings
    rates_fps : sequence of float
        The least and the largest rate that was trained on; empty for older runs.
    own_fps : float, optional
        Of the video; None where the file does not say.
    """
    fps = settings.extract.fps
    steps = [s for s in settings.streams.values() if s.fps is None and s.input not in HISTOGRAMS]
    sees_motion = any(s.input == "flow" or s.frames > 1 for s in steps)
    if own_fps is None or not rates_fps or not sees_motion:
        return ""
    least, largest = min(rates_fps), max(rates_fps)
    seen_fps = own_fps if fps is None else min(own_fps, fps)
    if least / RATE_TOLERANCE <= seen_fps <= largest * RATE_TOLERANCE:
        return ""
    trained = f"{least:.3g}" if largest < 1.01 * least else f"{least:.3g} to {largest:.3g}"
    return (
        f"it has {own_fps:.3g} frames/s, and the run was trained at {trained}: from frame to frame "
        f"it moves {least / seen_fps:.2g} times as far; train with [extract] fps = "
        f"{min(least, own_fps):.3g}, or give a video of the same rate"
    )


def check_fusion(settings: Settings, several_labels: bool) -> None:
    """Refuse fusions that cannot be made of these streams, with ConfigError."""
    if len(settings.streams) < 2:
        return
    several = several_labels or settings.train.loss == "sigmoid"
    methods = settings.fuse.all_methods(several)
    if several and (unfit := [method for method in methods if method in ONE_LABEL]):
        raise ConfigError(
            f"[fuse] {unfit[0]} gives each video one class, and here videos have several labels "
            "(or the loss is sigmoid); take logsum, average, weighted or sum"
        )
    learning = [method for method in methods if method in ("svm", "weighted")]
    if learning and not settings.fuse.training_clips:
        raise ConfigError(
            f"[fuse] {learning[0]} learns from scores of training videos, but training_clips is 0; "
            "2 is usual"
        )


def check_stream(stream: ClipStream, num_classes: int) -> dict[str, Any]:
    """Return a stream's cost; refuse one that cannot be built, take its clips, or give logits.

    Raises
    ------
    FlowpipeError
        Of the kind that the fault has; the message begins with the stream's name.
    """
    try:
        choose_device(stream.options.device)
        batch_size = join().share_of(stream.options.batch_size)
        if ":" in stream.settings.model:
            check_own_network(stream, num_classes)
        cost = stream.cost(num_classes)
        model, _ = stream.start(num_classes)
        if batch_size == 1 and any(isinstance(m, BATCH_NORM) for m in model.modules()):
            with torch.no_grad(), needing_two_clips(1):
                model.train()(torch.zeros(1, *stream.input.input_shape))
        return cost
    except FlowpipeError as error:
        message = f'stream "{stream.name}", {_shape_text(stream.settings)}: {error}'
        raise type(error)(message, parameter=error.parameters) from error


def check_own_network(stream: ClipStream, num_classes: int) -> None:
    """Run a network of one's own on two empty clips."""
    model = stream.network(num_classes).eval()
    try:
        logits = model(torch.zeros(2, *stream.input.input_shape))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidArgument(
            f"the network fails on two empty clips, {type(error).__name__}: {reason}"
        ) from error
    check_logits(logits, 2, num_classes)
    if not (logits.is_floating_point() and logits.requires_grad):
        raise InvalidArgument(
            f"the network gave logits of {logits.dtype} without a gradient; nothing can be learnt "
            "from them: give real numbers that are computed from parameters"
            if not logits.requires_grad
            else f"the network gave logits of {logits.dtype}; they must be real numbers"
        )
    if not bool(logits.isfinite().all()):
        raise InvalidArgument("the network gave logits that are not finite for two empty clips")


def _shape_text(stream: StreamSettings) -> str:
    if stream.input == "features":
        return f"head {stream.model} on {stream.frames} snippets"
    size = "×".join(map(str, stream.crop_size))
    items = "1 item" if stream.frames == 1 else f"{stream.frames} items"
    return f"{stream.model} on clips of {items} ({stream.input}) of {size} px"


def doubts(
    folds: Sequence[Fold],
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    headline: str,
    *,
    loss: str,
) -> list[str]:
    """Return sentences on results that say less than they seem to.

    Parameters
    ----------
    folds : sequence of Fold
        Tested.
    histories : mapping of str to sequence
        Stream → the records of its epochs on each fold.
    headline : str
        The fusion that counts.
    loss : "softmax" or "sigmoid"
    """
    return [
        *_loss_doubts(folds, histories, loss),
        *_chance_doubts(folds),
        *_fusion_doubts(folds, headline),
    ]


def _loss_doubts(
    folds: Sequence[Fold],
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    loss: str,
) -> Iterator[str]:
    num_classes = len(folds[0].train.classes)
    guess, name = (
        (math.log(num_classes), f"ln {num_classes}")
        if loss == "softmax"
        else (num_classes * math.log(2), f"{num_classes} · ln 2")
    )
    for stream, parts in histories.items():
        for fold, history in zip(folds, parts, strict=True):
            if history and history[-1]["loss"] >= guess * (1 - LEAST_GAIN):
                yield (
                    f"{stream}, fold {fold.name}: the loss ended at {history[-1]['loss']:.3f}, as "
                    f"for guessing ({name} = {guess:.3f}): it learnt nothing"
                )


def _chance_doubts(folds: Sequence[Fold]) -> Iterator[str]:
    names = folds[0].scores
    common = float(np.mean([_commonest_share(fold.scores[next(iter(names))]) for fold in folds]))
    for stream in names:
        own = float(np.mean([accuracy(fold.scores[stream]) for fold in folds]))
        if own <= common:
            yield (
                f"{stream}: {own:.1%} is not above always naming the commonest class ({common:.1%})"
            )


def _commonest_share(scores: Scores) -> float:
    """Return the accuracy of always naming the commonest class of these videos."""
    known_N = scores.labels_N >= 0
    if scores.targets_NK is not None:
        return float(scores.targets_NK[known_N].mean(axis=0).max())
    counts = Counter(scores.labels_N[known_N].tolist())
    return max(counts.values()) / int(known_N.sum())


def _fusion_doubts(folds: Sequence[Fold], headline: str) -> Iterator[str]:
    if not folds[0].fused:
        return
    own = {s: float(np.mean([accuracy(f.scores[s]) for f in folds])) for s in folds[0].scores}
    fused = float(np.mean([accuracy(fold.fused[headline]) for fold in folds]))
    best = max(own, key=lambda name: own[name])
    if fused < own[best]:
        yield f"fused ({headline}): {fused:.1%} is below {best} alone, {own[best]:.1%}"


def still_videos(dataset: Dataset, cache: Any) -> Iterator[str]:
    """Yield a sentence where half of the videos do not move; a hundred of them are looked at."""
    step = max(1, len(dataset.videos) // MOST_LOOKED_AT)
    looked_at = [video.id for video in dataset.videos[::step]]
    still = [v for v in looked_at if not np.any(cache[v].flow[:1])]
    still = [v for v in still if not np.any(cache[v].flow[:])]
    if 2 * len(still) >= len(looked_at):
        yield (
            f"{len(still)} of {len(looked_at)} videos that were looked at do not move at all, the "
            f'first is "{still[0]}"'
        )


def mixed_rates(settings: Settings, rates_fps: Sequence[float]) -> Iterator[str]:
    """Yield a sentence where motion from frame to frame is not comparable between videos."""
    moving = [
        name
        for name, stream in settings.streams.items()
        if stream.fps is None and (stream.frames > 1 or "flow" in stream.input)
    ]
    if moving and rates_fps and max(rates_fps) > RATE_TOLERANCE * min(rates_fps):
        yield (
            f"{', '.join(moving)}: training videos have {min(rates_fps):g} to {max(rates_fps):g} "
            "frames/s, so that one motion looks slower in some than in others; set [extract] fps"
        )


def long_clips(inputs: Sequence[StreamInput], dataset: Dataset, cache: Any) -> Iterator[str]:
    """Yield a sentence for each stream whose clips are longer than half of the videos."""
    looked_at = dataset.videos[:: max(1, len(dataset.videos) // MOST_LOOKED_AT)]
    for stream in inputs:
        if stream.frames == 1:
            continue
        ranges = [stream.centres(cache[video.id]) for video in looked_at]
        short = sum(stop <= first for first, stop in ranges)
        if 2 * short >= len(looked_at):
            yield (
                f"{stream.name}: {short} of {len(looked_at)} videos that were looked at are "
                "shorter than a clip, whose last item is repeated; take fewer frames or steps"
            )


def same_contents(fold: Fold, digests: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence where videos have the content of training videos."""
    contents = [(digests[video.id], video.span) for video in fold.train.videos]
    trained = set(contents)
    if copies := len(contents) - len(trained):
        yield f"fold {fold.name}: {copies} of {len(contents)} training videos are copies of others"
    same = [v.id for v in fold.test.videos if (digests[v.id], v.span) in trained]
    if same:
        yield (
            f"fold {fold.name}: {len(same)} of {len(fold.test.videos)} test videos are copies of "
            f'training videos, the first is "{same[0]}"'
        )
