"""A localisation experiment: from a configuration, or a folder, to a trained and measured run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowpipe.cache import FlowRecipe
from flowpipe.config import apply_overrides, from_table, read_toml
from flowpipe.datasets import videos_of
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.localisation.annotations import Annotations, stem_of, write_submission
from flowpipe.localisation.data import (
    DataSettings,
    Say,
    Told,
    ensure_features,
    find_annotations,
    instances_line,
    load_data,
    samples_of,
    widths_of,
)
from flowpipe.localisation.learning import LearnOptions
from flowpipe.localisation.localiser import (
    Localiser,
    LocaliserSettings,
    load_localiser,
    quantiles_of,
)
from flowpipe.localisation.nms import Suppression
from flowpipe.localisation.pyramid import Pyramid, assign
from flowpipe.localisation.timeline import Example, examples_of
from flowpipe.metrics.matching import check_thresholds
from flowpipe.metrics.temporal import (
    Segments,
    temporal_errors,
    temporal_lengths,
    temporal_precision,
)
from flowpipe.registry import own_code, trust
from flowpipe.sealed import FILES, RESULTS, checksums_of, write_table
from flowpipe.training.devices import choose_device

DETECTIONS = "detections.json"
DEFAULT_TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class LocaliseSettings:
    """A configuration of `flowpipe localise train`.

    Attributes
    ----------
    data : DataSettings
    title : str
    method : str
        pyramid, two-stage, snippets, or package.module:Class.
    parameters : dict
        Of the method.
    features : tuple of str
        Names in the cache of features; flow-histogram and flow-histogram-follow are computed
        where they are missing.
    fusion : "early" or "late"
        One network on all features, or one on each, averaged.
    networks : int
        Of each stream, which differ by their seed; averaged.
    train : LearnOptions
    suppression : Suppression
    tiou : tuple of float
        Thresholds at which the test videos are measured.
    expected : dict
        What published results say, to stand beside the measured.
    """

    data: DataSettings
    title: str = ""
    method: str = "pyramid"
    parameters: dict[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ("flow-histogram", "flow-histogram-follow")
    fusion: Literal["early", "late"] = "late"
    networks: int = 1
    train: LearnOptions = field(default_factory=LearnOptions)
    suppression: Suppression = field(default_factory=Suppression)
    tiou: tuple[float, ...] = DEFAULT_TIOU
    expected: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LocaliseResult:
    """What a run of localisation came to.

    Attributes
    ----------
    record : dict
        As in results.json.
    detections : Segments
        Of the test videos; none where there are no test videos.
    truth : Annotations
        Of the test videos.
    paths : dict of str to Path
        The files of the videos that are on disk.
    """

    record: dict[str, Any]
    detections: Segments
    truth: Annotations
    paths: dict[str, Path]


def load_settings(source: Path, overrides: Sequence[str] = ()) -> LocaliseSettings:
    """Read a configuration, or take a folder that holds videos and one annotation file.

    Raises
    ------
    ConfigError
        For an unknown key, or a value of the wrong kind.
    AnnotationError
        If a folder holds no annotation file, or several.
    """
    if source.is_dir():
        table: dict[str, Any] = {
            "data": {"annotations": str(find_annotations(source)), "videos": str(source)}
        }
        base = Path()
    else:
        table, base = read_toml(source), source.parent
    apply_overrides(table, overrides)
    settings = from_table(LocaliseSettings, table, where=str(source))
    paths = {
        name: base / value
        for name in ("annotations", "videos", "cache", "store")
        if (value := getattr(settings.data, name)) is not None
    }
    return replace(settings, data=replace(settings.data, **paths))


def train(
    settings: LocaliseSettings,
    out: Path,
    *,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_progress: Told | None = None,
    on_epoch: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> LocaliseResult:
    """Train a localiser and measure it; the same call goes on with a run that was interrupted.

    Parameters
    ----------
    settings : LocaliseSettings
    out : Path
        The run's folder.
    workers : int, optional
        Processes that compute missing flow.
    say : callable
        Called with lines for people: what the data hold, what the levels get.
    on_progress, on_epoch : callable, optional
        Called while flow is computed, and with each network's name and epoch's record.
    """
    trust(*own_code(asdict(settings)))  # of the person's own configuration
    # What can be refused is refused before hours of flow.
    chosen = LocaliserSettings(
        method=settings.method,
        parameters=settings.parameters,
        features=settings.features,
        fusion=settings.fusion,
        networks=settings.networks,
        train=settings.train,
        suppression=settings.suppression,
    )
    check_thresholds(settings.tiou, "tiou")
    choose_device(settings.train.device)
    data = load_data(
        settings.data, settings.features, out, workers=workers, say=say, on_progress=on_progress
    )
    known = data.annotations.of_videos(sample.video for sample in data.train)
    classes = known.classes
    if not classes:
        raise AnnotationError(
            f"the training videos of {settings.data.annotations} have no instance"
        )
    examples = examples_of(data.train, known, classes)
    empty = sum(not len(example.labels) for example in examples)
    say(
        f"{len(examples)} training videos ({empty} without instances), {len(classes)} classes, "
        f"{instances_line(known.segments.lengths_s.tolist())}"
    )
    if data.test_subset is None:
        say(
            "note: all videos are trained on and none is tested; a column subset with training and "
            "validation divides them"
        )
    localiser = Localiser(
        replace(
            chosen,
            classes=classes,
            widths=widths_of(settings.data.store or out / "features", settings.features),
            lengths=quantiles_of(examples),
            extensions=any(stem_of(video) != video for video in known.videos),
            source=data.source,
        )
    )
    localiser.save(out)
    for line in level_lines(localiser, examples):
        say(line)
    localiser.train(examples, out, on_epoch)
    truth = data.annotations.of_videos(sample.video for sample in data.test)
    detections = localiser.localise(data.test)
    record: dict[str, Any] = {
        "method": settings.method,
        "features": list(settings.features),
        "fusion": settings.fusion,
        "parameters": localiser.num_parameters,
        "training_videos": len(examples),
        "classes": list(classes),
        "test_subset": data.test_subset,
        "expected": settings.expected,
        **measure(truth, detections, settings.tiou),
    }
    files = localiser.files(out)
    if data.test:
        write_submission(out / DETECTIONS, detections, truth.videos)
        files.append(out / DETECTIONS)
    write_table(out / RESULTS, {**record, FILES: checksums_of(out, files)})
    return LocaliseResult(record, detections, truth, data.paths)


def measure(
    truth: Annotations, detections: Segments, tiou: Sequence[float] = DEFAULT_TIOU
) -> dict[str, Any]:
    """Return mAP by threshold, average, errors by kind and by length; {} without instances."""
    if not len(truth.segments):
        return {}
    precision = temporal_precision(truth.segments, detections, tiou)
    return {
        "mAP": {f"{t:g}": v for t, v in zip(precision.tiou, precision.map_T.tolist(), strict=True)},
        "average": precision.average,
        "AP": dict(zip(precision.classes, precision.ap_KT.mean(axis=1).tolist(), strict=True)),
        "errors": {kind.name: kind.count for kind in temporal_errors(truth.segments, detections)},
        "lengths": [asdict(g) for g in temporal_lengths(truth.segments, detections)],
    }


def level_lines(localiser: Localiser, examples: Sequence[Example]) -> list[str]:
    """Return how many instances each level of a pyramid gets; nothing of other methods."""
    network = next(iter(localiser.networks.values()))
    if not isinstance(network, Pyramid):
        return []
    import torch

    reached = np.zeros(network.num_levels, np.int64)
    unreached = 0
    for example in examples:
        steps = len(example.sample)
        points = [-(-steps // 2**level) for level in range(network.num_levels)]
        for segment in example.segments:
            one = torch.from_numpy(segment[None])
            targets, _ = assign(points, one, torch.zeros(1, dtype=torch.long), 1)
            hit = [bool(part.any()) for part in torch.split(targets, points)]
            reached += hit
            unreached += not any(hit)
    shown = ", ".join(f"stride {2**level}: {count}" for level, count in enumerate(reached))
    lines = [f"{network.num_levels} levels; instances by level: {shown}"]
    if unreached:
        lines.append(
            f"note: {unreached} instances are too short for any point (a step is "
            f"{examples[0].sample.step_s:.2f} s); take features with a shorter step"
        )
    return lines


def predict(
    run: Path,
    videos: Sequence[Path],
    *,
    cache: Path | None = None,
    store: Path | None = None,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_progress: Told | None = None,
) -> tuple[Segments, dict[str, float], dict[str, Path]]:
    """Find actions in new videos, by the flow and features that the run was trained on.

    Parameters
    ----------
    run : Path
        A trained localiser.
    videos : sequence of Path
        Videos, folders or lists.
    cache, store : Path, optional
        Caches of flow and of features. [default: those in the run's folder]

    Returns
    -------
    detections : Segments
    durations_s : dict
        Where each video's features end.
    paths : dict
        The file of each video.

    Raises
    ------
    InvalidArgument
        If there is no video, or none gave features.
    """
    localiser = load_localiser(run)
    found, _ = videos_of([str(path) for path in videos])
    if not found:
        raise InvalidArgument("there is no video at the paths given", parameter="videos")
    chosen, store = localiser.settings, store or run / "features"
    recipe = chosen.source.get("flow")
    ensure_features(
        found,
        chosen.features,
        cache or run / "cache",
        store,
        flow="dis" if recipe is None else FlowRecipe.from_json(json.dumps(recipe)),
        workers=workers,
        say=say,
        on_progress=on_progress,
    )
    samples = samples_of(store, chosen.features, [video.id for video in found])
    for video in {video.id for video in found} - {sample.video for sample in samples}:
        say(f"note: {video} has no features and is left out")
    if not samples:
        raise InvalidArgument(f"no video has the features {', '.join(chosen.features)} in {store}")
    paths = {video.id: video.path for video in found}
    if not chosen.extensions and len({stem_of(name) for name in paths}) == len(paths):
        samples = [replace(sample, video=stem_of(sample.video)) for sample in samples]
        paths = {stem_of(name): path for name, path in paths.items()}
    detections = localiser.localise(samples)
    return detections, {sample.video: sample.end_s for sample in samples}, paths
