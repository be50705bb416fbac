"""One door to all forms of data sets; the form is found by looking."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flowpipe.datasets.official import from_hmdb51, from_kinetics, from_ucf101
from flowpipe.datasets.readers import (
    Missing,
    from_csv,
    from_folders,
    from_list,
)
from flowpipe.datasets.segments import FORMS as SEGMENT_FORMS
from flowpipe.datasets.segments import from_segments
from flowpipe.datasets.video import Dataset
from flowpipe.errors import AnnotationError, nearest_name, some
from flowpipe.tables import csv_rows, find_column, read_json, read_lines
from flowpipe.video import VIDEO_EXTENSIONS, find_videos

# Taken for the annotations where a folder holds one of them, the first there is.
ANNOTATION_FILES = ("annotations.csv", "splits.csv", "labels.csv", "metadata.csv")
LABEL_COLUMNS = ("label", "class", "action", "category", "label_name")
GROUP_COLUMNS = ("group", "actor", "person", "subject", "film", "source", "scene", "session")
# "fold_1" and "kfold", but not "folder".
FOLD_COLUMNS = re.compile(r"(?<![a-z])k?(fold|split|subset)s?(?![a-z])", re.IGNORECASE)

_LISTS: Mapping[str, Callable[..., Dataset]] = {
    "list": from_list,
    "ucf101": from_ucf101,
    "hmdb51": from_hmdb51,
    "kinetics": from_kinetics,
}
FORMS = ("folders", "csv", *_LISTS, *SEGMENT_FORMS)


def open_dataset(
    root: str | Path,
    annotations: str | Path | None = None,
    *,
    form: str | None = None,
    video_column: str | None = None,
    label_column: str | None = None,
    fold_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
    missing: Missing = "refuse",
) -> Dataset:
    """Read a data set of any form.

    Parameters
    ----------
    root : str or Path
        Folder of the videos.
    annotations : str or Path, optional
        File or folder of labels; by default the first there is in the root of
        `ANNOTATION_FILES`, else the folders are the classes.
    form : str, optional
        One of `FORMS`; by default found by what the annotations hold.
    video_column, label_column, fold_column, group_column, label_separator
        Of a CSV file, see `from_csv`. By default the first column of `LABEL_COLUMNS`, the first
        whose name holds fold, split or subset, the first of `GROUP_COLUMNS`.
    missing : {"refuse", "skip", "keep"}
        What to do with videos that are not on disk.

    Raises
    ------
    AnnotationError
        If the form cannot be found, or as the reader of the form says.
    """
    root = Path(root)
    path = None if annotations is None else Path(annotations)
    notes: list[str] = []
    if looked := path is None and form in (None, "csv"):
        path, notes = _annotations_in(root)
    if form is None:
        form = "folders" if path is None else form_of(path)
    if form not in FORMS:
        raise AnnotationError(
            f'form "{form}"{nearest_name(form, FORMS)} must be one of: {", ".join(FORMS)}'
        )
    if form == "folders":
        return from_folders(root)
    if path is None:
        raise AnnotationError(f'form "{form}" needs annotations, a file or a folder')
    if form in SEGMENT_FORMS:
        return from_segments(path, root, form, missing=missing)
    if form in _LISTS:
        return _LISTS[form](path, root, missing=missing)
    columns, rows = csv_rows(path)
    if fold_column is None:
        found = [name for name in columns if FOLD_COLUMNS.search(name)]
        fold_column = found[0] if found else None
        if len(found) > 1:
            notes.append(f'folds: column "{found[0]}"; there are also {", ".join(found[1:])}')
    dataset = from_csv(
        path,
        root,
        video_column=video_column,
        label_column=label_column or find_column(LABEL_COLUMNS, columns) or "label",
        fold_column=fold_column,
        group_column=group_column or find_column(GROUP_COLUMNS, columns),
        label_separator=label_separator,
        missing=missing,
    )
    if fold_column and (empty := sum(not row[fold_column] for _, row in rows)):
        notes.append(f'left out: {empty} rows without a value in "{fold_column}"')
    elif looked and (beside := _not_listed(root, dataset)):
        notes.append(f"left out: {len(beside)} videos not in {path.name}: {some(beside)}")
    return replace(dataset, notes=(*dataset.notes, *notes))


def _annotations_in(root: Path) -> tuple[Path | None, list[str]]:
    there = [root / name for name in ANNOTATION_FILES if (root / name).is_file()]
    if len(there) < 2:
        return next(iter(there), None), []
    others = ", ".join(path.name for path in there[1:])
    return there[0], [f"the labels are those of {there[0].name}; not read: {others}"]


def _not_listed(root: Path, dataset: Dataset) -> list[str]:
    listed = {os.path.abspath(video.path) for video in dataset.videos}  # noqa: PTH100
    found = find_videos(root)
    return [p.relative_to(root).as_posix() for p in found if os.path.abspath(p) not in listed]  # noqa: PTH100


def form_of(path: Path) -> str:
    """Return the form of annotations by what they hold.

    Raises
    ------
    AnnotationError
        If it is none that is known.
    """
    if path.is_dir():
        names = [child.name for child in path.iterdir()]
        for form, part in (("ucf101", "testlist"), ("hmdb51", "_test_split")):
            if any(part in name for name in names):
                return form
    elif path.suffix.lower() == ".json":
        table = read_json(path)
        return "activitynet" if isinstance(table, dict) and "database" in table else "label-studio"
    elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _form_of_text(path)
    raise AnnotationError(f"{path}: its form is not known; name one of {', '.join(FORMS)}")


def _form_of_text(path: Path) -> str:
    lines = read_lines(path)
    if any("VGG Image Annotator" in line or "temporal_coordinates" in line for line in lines[:20]):
        return "via"
    if any("Behavior" in line and ("Observation" in line or "Time" in line) for line in lines):
        return "boris"
    first = next((line.strip() for line in lines if line.strip()), "")
    names_video = any(
        word.lower().endswith(tuple(VIDEO_EXTENSIONS)) for word in first.replace(",", " ").split()
    )
    table = path.suffix.lower() in (".csv", ".tsv")
    if table and not (names_video and not re.search(r"[,;\t]", first)):
        return "kinetics" if "youtube_id" in first else "csv"
    if "\t" in first and not names_video:
        return "elan"
    return "list"
