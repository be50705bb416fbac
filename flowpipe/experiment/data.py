"""The videos of an experiment: their labels, their folds, their flow."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowpipe.cache import Cache
from flowpipe.datasets.annotations import from_csv, from_folders
from flowpipe.datasets.official import SPLITS, TEST, TRAIN, from_kinetics, split_numbers
from flowpipe.datasets.splits import folds, seeded_split, split_fold
from flowpipe.datasets.synthetic import write_videos
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import ConfigError, EntryNotFound, VideoError
from flowpipe.experiment.results import Fold
from flowpipe.experiment.settings import Settings
from flowpipe.extraction import extract
from flowpipe.extraction.results import ExtractionResult, Progress
from flowpipe.extraction.sources import Source

WHOLE = "split"


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
    if form in SPLITS:
        splits = [
            SPLITS[form](data.annotations, data.root, number)
            for number in split_numbers(form, data.annotations)
        ]
        records = {record.id: record for split in splits for record in split.records}
        return Dataset(tuple(records.values()), splits[0].classes)
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
    data = settings.data
    if data.form is not None and data.form in SPLITS and data.annotations is not None:
        numbers = list(map(str, split_numbers(data.form, data.annotations)))
        official = numbers if fold == "all" else [numbers[0] if fold is None else fold]
        if unknown := [name for name in official if name not in numbers]:
            raise ConfigError(f'no split "{unknown[0]}"; there are: {", ".join(numbers)}')
        read = SPLITS[data.form]
        splits = {name: read(data.annotations, data.root, int(name)) for name in official}
        return [Fold(name, *split_fold(split, TEST)) for name, split in splits.items()]
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
    # A column of splits ("train", "val", "test") trains on one of them, not on all others.
    tested = [name for name in names if name != TRAIN]
    if len(tested) < len(names) and fold in (None, "all", *tested):
        first = TEST if TEST in tested else tested[0]
        chosen = [first if fold in (None, "all") else str(fold)]
        kept = tuple(r for r in annotations.records if r.fold in (TRAIN, *chosen))
        annotations = replace(annotations, records=kept)
    else:
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
    sources = [Source(record.path, record.id, record.label) for record in records]
    result = extract(sources, cache, on_progress=on_progress, **extract_arguments(settings))
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


class RecordCache:
    """A cache by the ids of records: the entry of the file at a record's path."""

    def __init__(self, cache: Cache, records: Sequence[Video]) -> None:
        self._cache = cache
        by_path = {row.path: row.name for row in cache.rows()}
        self._names = {}
        for record in records:
            name = by_path.get(os.path.abspath(record.path))  # noqa: PTH100 — links are not followed
            if name is None:
                raise EntryNotFound(f"{record.path} is not in the cache {cache.path}")
            self._names[record.id] = name

    def __getitem__(self, record_id: str) -> Any:
        return self._cache[self._names[record_id]]

    def backward(self, record_id: str) -> Any:
        return self._cache.backward(self._names[record_id])
