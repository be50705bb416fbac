"""`flowpipe probe`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import duration, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.cache import Cache
    from flowpipe.datasets import Dataset

FOLDS = 5
OF_A_RUN = "the run "


@click.command()
@click.argument("path", metavar="FEATURES", type=click.Path(path_type=Path))
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="A CSV with a header. [default: the labels in the store]",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Where the videos are. [default: beside the CSV]",
)
@click.option(
    "--label-column",
    default="label",
    show_default=True,
    metavar="NAME",
    help="Column of the labels.",
)
@click.option(
    "--fold-column", metavar="NAME", help="[default: the only one that begins with fold or split]"
)
@click.option("--fold", metavar="K", help="Only this fold.")
@click.option(
    "--features",
    "networks",
    metavar="NAME,...",
    help="Which features; {fold} in a name stands for the fold. [default: all that are there]",
)
@click.option(
    "--method",
    type=click.Choice(["svm", "linear", "kernel"]),
    default="svm",
    show_default=True,
    help="Linear SVM, logistic regression, or SVM with Gaussian kernels.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the classifier.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def probe(
    path: Path,
    annotations: Path | None,
    root: Path | None,
    label_column: str,
    fold_column: str | None,
    fold: str | None,
    networks: str | None,
    method: str,
    seed: int,
    as_json: bool,
) -> None:
    """Print what FEATURES are worth: a classifier on each video's mean, fold by fold.

    Without a column of folds, the videos are divided at random into five, of whole groups (films,
    persons) where a column or the names tell them. Of a column with "train",
    "val" and "test", those of "train" are trained on and those of "test" tested.
    """
    from flowpipe.cache import open_cache
    from flowpipe.features.probe import probe as run

    store = open_cache(path)
    names = list(dict.fromkeys(networks.split(","))) if networks else sorted(store.networks)
    if annotations is None:
        listed = _from_store(path, names)
    else:
        listed = _from_csv(annotations, root, label_column, fold_column)
    _say_what_was_trained(store, names)
    divisions = _divisions(listed, fold, seed)
    with progress_line("probe") as update:
        result = run(
            store,
            names,
            divisions,
            method=method,  # type: ignore[arg-type]
            seed=seed,
            on_progress=lambda done, of: update(done / of, f"{done}/{of} folds"),
        )
    if as_json:
        print_json(
            {
                "features": str(path),
                "method": method,
                "videos": result.videos,
                "untaught": result.untaught,
                "accuracy": result.accuracy,
                "mean_class_accuracy": result.class_mean,
                "folds": dict(zip(result.folds, _columns(result.per_fold), strict=True)),
                "num_features": result.num_features,
                "seconds": round(result.seconds, 3),
            }
        )
        return
    several = len(result.folds) > 1
    rows = [
        [
            name,
            str(result.num_features.get(name, "")),
            f"{accuracy:.1%}",
            f"{result.class_mean[name]:.1%}",
            *(f"{value:.1%}" for value in result.per_fold[name] if several),
        ]
        for name, accuracy in result.accuracy.items()
    ]
    header = ["", "D", "accuracy", "class mean", *(f for f in result.folds if several)]
    print_table(f"{result.videos} test videos, {method} on the mean over time", header, rows)
    if result.untaught:
        say(
            f"{result.untaught} of {result.videos} test videos are of classes without a training "
            "video: nothing can be right there"
        )
    say(f"{duration(result.seconds)}")


def _say_what_was_trained(store: "Cache", names: list[str]) -> None:
    """Say which features come from networks that were trained on some of these videos."""
    from flowpipe.cache.store import read_weights

    for name in names:
        recipe = store.networks.get(name)
        weights = read_weights(store.path, recipe).get("weights") if recipe else None
        if weights is not None and weights.startswith(OF_A_RUN):
            say(
                f"{name}: of {weights}; videos on which that network was trained look better "
                "than others here. Features of each fold's own network (features RUN --fold all) "
                f"under the name {name}-{{fold}} keep them apart"
            )


def _columns(per_fold: dict[str, list[float]]) -> list[dict[str, float]]:
    names = list(per_fold)
    return [
        dict(zip(names, values, strict=True)) for values in zip(*per_fold.values(), strict=True)
    ]


def _from_csv(
    path: Path, root: Path | None, label_column: str, fold_column: str | None
) -> "Dataset":
    from flowpipe.datasets import from_csv
    from flowpipe.datasets.opening import GROUP_COLUMNS
    from flowpipe.errors import AnnotationError
    from flowpipe.tables import csv_rows, find_column

    columns = csv_rows(path)[0] if path.is_file() else []
    if fold_column is None:
        found = [name for name in columns if name.lower().startswith(("fold", "split"))]
        if len(found) > 1:
            raise AnnotationError(
                f"{path} has the columns {', '.join(found)}; choose one with --fold-column"
            )
        fold_column = found[0] if found else None
    return from_csv(
        path,
        root or path.parent,
        label_column=label_column,
        fold_column=fold_column,
        group_column=find_column(GROUP_COLUMNS, columns),
        missing="keep",
    )


def _from_store(path: Path, names: list[str]) -> "Dataset":
    from flowpipe.cache import open_cache
    from flowpipe.datasets import Dataset, Video

    network = open_cache(path, recipe=names[0].replace("{fold}", "0"))
    rows = [network.row(name) for name in network.names()]
    videos = tuple(
        Video(row.name, Path(row.path), () if row.label is None else (row.label,)) for row in rows
    )
    return Dataset(videos, tuple(sorted({label for video in videos for label in video.labels})))


def _divisions(listed: "Dataset", fold: str | None, seed: int) -> dict[str, Any]:
    from flowpipe.datasets import equal_folds, folds, split_fold, with_groups
    from flowpipe.datasets.splits import TRAIN, tested_folds
    from flowpipe.errors import AnnotationError

    if not folds(listed):
        if any(TRAIN in video.folds for video in listed.videos):
            raise AnnotationError(
                f'all {len(listed)} videos are of the fold "{TRAIN}", none is left to test; '
                "without a column of folds they are divided at random"
            )
        noted = len(listed.notes)
        listed = with_groups(listed)
        groups = len({video.group or video.id for video in listed.videos})
        count = max(2, min(FOLDS, groups))
        listed = equal_folds(listed, count, seed=seed)
        for note in (f"no folds given: {count} at random, seed {seed}", *listed.notes[noted:]):
            say(note)
    return {name: split_fold(listed, name) for name in ([fold] if fold else tested_folds(listed))}
