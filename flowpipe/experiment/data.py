"""The labelled videos of `[data]`, and their folds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowpipe.cache import open_cache
from flowpipe.datasets import (
    Dataset,
    Video,
    equal_folds,
    folds,
    grouped_by,
    open_dataset,
    seeded_split,
    split_fold,
    with_groups,
)
from flowpipe.datasets.readers import FOLD_WORDS
from flowpipe.datasets.splits import TRAIN, tested_folds
from flowpipe.errors import AnnotationError, ConfigError
from flowpipe.experiment.results import Fold
from flowpipe.experiment.settings import DataSettings
from flowpipe.extraction import ExtractionResult, Failure

# The only fold of a data set without folds: a random split.
WHOLE = "split"


def read_dataset(data: DataSettings) -> Dataset:
    """Return all labelled videos of `[data]`, in folds where it names or asks for some.

    Where a split has to be made, groups are read from the names.
    """
    dataset = _read(data)
    return dataset if data.folds is None else equal_folds(dataset, data.folds)


def _read(data: DataSettings) -> Dataset:
    if not data.root.is_dir():
        raise ConfigError(f"[data] root {data.root} is not a directory")
    dataset = open_dataset(
        data.root,
        data.annotations,
        form=data.form,
        video_column=data.video_column,
        label_column=data.label_column,
        fold_column=data.fold_column,
        group_column=data.group_column,
        label_separator=data.label_separator,
        missing="skip" if data.skip_missing else "refuse",
    )
    if dataset.classes and any(not video.labels for video in dataset.videos):
        labelled = tuple(video for video in dataset.videos if video.labels)
        note = f"left out: {len(dataset) - len(labelled)} videos without a label"
        dataset = replace(dataset, videos=labelled, notes=(*dataset.notes, note))
    if len(dataset.classes) < 2:
        inner = data.root / "".join(dataset.classes)
        if data.annotations is None and any(child.is_dir() for child in inner.glob("*")):
            hint = f"; are the classes in {inner}?"
        else:
            hint = ": one folder for each class, or a label for each video"
        raise AnnotationError(
            f"{data.annotations or data.root} holds videos of {len(dataset.classes)} class; a "
            f"classifier needs two{hint}"
        )
    if data.group_pattern is not None:
        dataset = grouped_by(dataset, data.group_pattern)
    if folds(dataset) and data.folds is None:
        return dataset
    if data.folds is None and any(TRAIN in video.folds for video in dataset.videos):
        raise ConfigError(
            f'all {len(dataset)} videos are of the fold "{TRAIN}", none is left to test; without '
            "a column of folds they are split at random"
        )
    return with_groups(dataset)


def choose_folds(dataset: Dataset, fold: str | None) -> list[str]:
    """Return the names of the folds asked for: one, "all", or (None) the first."""
    names = folds(dataset)
    if not names:
        if fold not in (None, "all", WHOLE):
            raise ConfigError(f'fold "{fold}": the data has no folds; set [data] fold_column')
        return [WHOLE]
    if fold is not None and fold not in ("all", *names):
        fold = FOLD_WORDS.get(fold.lower(), fold)
    return tested_folds(dataset) if fold == "all" else [names[0] if fold is None else fold]


def make_fold(data: DataSettings, dataset: Dataset, name: str, *, seed: int) -> Fold:
    """Return a fold by its name: its training and its test videos."""
    if folds(dataset):
        return Fold(name, *split_fold(dataset, name))
    return Fold(
        name,
        *seeded_split(
            dataset,
            test_fraction=data.test_fraction,
            seed=seed,
        ),
    )


def read_pack(path: Path, recipe: str, videos: Sequence[Video]) -> ExtractionResult:
    """Return what a packed cache holds of videos: nothing is computed, nor are they opened.

    Raises
    ------
    ConfigError
        If the pack is of other recipes.
    """
    if recipe not in open_cache(path).recipes:
        raise ConfigError(
            f"{path} holds no flow of the settings of [extract]; flowpipe cache info PACK says of "
            "which: set those, or name a directory as cache, to extract into"
        )
    cache = open_cache(path, recipe=recipe)
    known = set(cache.names())
    wanted = {video.name: video.path for video in videos}
    result = ExtractionResult(recipe, videos=len(wanted))
    for name, source in wanted.items():
        if name in known:
            result.skipped += 1
            result.items_total += cache[name].num_flows
        else:
            reason = f'"{name}" is not in {path}; a pack is complete: extract it into a directory'
            result.failures.append(Failure(name, source, reason))
    result.failed = len(result.failures)
    return result
