"""The videos of an experiment: their labels, their folds, their flow."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowpipe.datasets import (
    Dataset,
    Video,
    folds,
    from_csv,
    from_folders,
    from_hmdb51,
    from_kinetics,
    from_list,
    from_ucf101,
    seeded_split,
    split_fold,
)
from flowpipe.datasets.splits import TRAIN
from flowpipe.datasets.synthetic import write_videos
from flowpipe.errors import ConfigError, VideoError
from flowpipe.experiment.results import Fold
from flowpipe.experiment.settings import Settings
from flowpipe.extraction import extract
from flowpipe.extraction.results import ExtractionResult, Progress

WHOLE = "split"
PLAIN_READERS: Mapping[str, Callable[[Path, Path], Dataset]] = {
    "list": from_list,
    "ucf101": from_ucf101,
    "hmdb51": from_hmdb51,
}


def load_annotations(settings: Settings) -> Dataset:
    """Give all labelled videos of `[data]`."""
    data = settings.data
    if data.generate is not None:
        write_videos(data.root, clips=data.generate)
    if not data.root.is_dir():
        raise ConfigError(f"[data] root {data.root} is not a directory")
    form = data.form or ("folders" if data.annotations is None else "csv")
    if form == "folders":
        return from_folders(data.root)
    if data.annotations is None:
        raise ConfigError(f'[data] form "{form}" needs annotations, a path below the root')
    if form in PLAIN_READERS:
        return PLAIN_READERS[form](data.annotations, data.root)
    if form == "kinetics":
        return from_kinetics(data.annotations, data.root, skip_missing=data.skip_missing)
    return from_csv(
        data.annotations,
        data.root,
        video_column=data.video_column,
        label_column=data.label_column,
        fold_column=data.fold_column,
        label_separator=data.label_separator,
    )


def divide(settings: Settings, annotations: Dataset, fold: str | None) -> list[Fold]:
    """Give the folds asked for: one name, "all", or (None) the first; or a seeded split."""
    names = folds(annotations)
    if not names:
        if fold not in (None, "all", WHOLE):
            raise ConfigError(f'fold "{fold}": the data has no folds; set [data] fold_column')
        train, test = seeded_split(
            annotations,
            group_pattern=settings.data.group_pattern,
            test_fraction=settings.data.test_fraction,
            seed=settings.train.seed,
        )
        return [Fold(WHOLE, train, test)]
    # Folds beside a fold "train" share their training videos: one of them is enough for all.
    if fold == "all" and any(TRAIN in video.folds for video in annotations.videos):
        fold = None
    chosen = names if fold == "all" else [names[0] if fold is None else fold]
    return [Fold(name, *split_fold(annotations, name)) for name in chosen]


def fill_cache(
    settings: Settings,
    records: Sequence[Video],
    cache: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractionResult:
    """Extract what is missing; a video without flow is an error, as no fold may lose it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    result = extract(records, cache, on_progress=on_progress, **extract_arguments(settings))
    if result.failed:
        first = result.failures[0]
        raise VideoError(
            f"{result.failed} videos have no flow, the first: {first.reason}; take them off the "
            "annotations (an empty fold leaves a row out)"
        )
    return result


def extract_arguments(settings: Settings) -> dict[str, Any]:
    """Give the keyword arguments of `extract` that `[extract]` stands for."""
    wanted = settings.extract
    options = {f.name: getattr(wanted, f.name) for f in dataclasses.fields(wanted)}
    options["size"] = None if wanted.size is None else (wanted.size[0], wanted.size[-1])
    backward = any(stream.stacking == "bidirectional" for stream in settings.streams.values())
    return {**options, "rgb": True, "backward": backward}
