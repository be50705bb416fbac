"""The labelled videos of `[data]`, and their folds."""

from collections.abc import Callable, Mapping
from pathlib import Path

from flowpipe.datasets import (
    Dataset,
    equal_folds,
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
from flowpipe.datasets.splits import tested_folds
from flowpipe.errors import ConfigError
from flowpipe.experiment.results import Fold
from flowpipe.experiment.settings import DataSettings

# The only fold of a data set without folds: a random split.
WHOLE = "split"
PLAIN_READERS: Mapping[str, Callable[[Path, Path], Dataset]] = {
    "list": from_list,
    "ucf101": from_ucf101,
    "hmdb51": from_hmdb51,
}


def read_dataset(data: DataSettings) -> Dataset:
    """Return all labelled videos of `[data]`, in folds where it names or asks for some."""
    dataset = _read(data)
    return dataset if data.folds is None else equal_folds(dataset, data.folds)


def _read(data: DataSettings) -> Dataset:
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
        group_column=data.group_column,
        label_separator=data.label_separator,
    )


def choose_folds(dataset: Dataset, fold: str | None) -> list[str]:
    """Return the names of the folds asked for: one, "all", or (None) the first."""
    names = folds(dataset)
    if not names:
        if fold not in (None, "all", WHOLE):
            raise ConfigError(f'fold "{fold}": the data has no folds; set [data] fold_column')
        return [WHOLE]
    if fold == "all":
        return tested_folds(dataset)
    return [names[0] if fold is None else fold]


def make_fold(data: DataSettings, dataset: Dataset, name: str, *, seed: int) -> Fold:
    """Return a fold by its name: its training and its test videos."""
    if folds(dataset):
        return Fold(name, *split_fold(dataset, name))
    return Fold(
        name,
        *seeded_split(
            dataset,
            group_pattern=data.group_pattern,
            test_fraction=data.test_fraction,
            seed=seed,
        ),
    )
