"""Lists of videos with labels, folds and groups: CSV, class folders, UCF101 lists, plain lists.

Every reader gives the same `Dataset`: one checked `Video` per video, and the classes.
A record's `id` is the video's path relative to the root with forward slashes, which is also
its name in the cache. Files are read as UTF-8, with or without a byte order mark.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flowpipe.datasets.splits import folds, seeded_split, split_fold
from flowpipe.datasets.video import Dataset, Video, check_id, some
from flowpipe.errors import AnnotationError, nearest_name
from flowpipe.video import VIDEO_EXTENSIONS, find_videos

__all__ = [
    "VIDEO_COLUMNS",
    "Dataset",
    "Video",
    "folds",
    "from_csv",
    "from_folders",
    "from_list",
    "from_ucf101",
    "seeded_split",
    "split_fold",
]

VIDEO_COLUMNS = ("video", "clip", "path", "file", "name")

_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(VIDEO_EXTENSIONS))
# The path ends at the first video extension that is followed by white space or by the end.
_LIST_LINE = re.compile(rf"(?P<path>.+?(?:{_EXTENSIONS}))(?:\s+(?P<rest>.*))?", re.IGNORECASE)
_UCF101_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")


def from_csv(
    csv_path: str | Path,
    root: str | Path,
    *,
    video_column: str | None = None,
    label_column: str | None = "label",
    fold_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
    check_files: bool = True,
) -> Dataset:
    """Read a CSV file with a header and one video per row.

    Parameters
    ----------
    csv_path : str or Path
    root : str or Path
        Folder to which the paths of the file are relative.
    video_column : str or None
        Column of paths; None takes the first there is of video, clip, path, file, name.
    label_column, fold_column, group_column : str or None
        Columns of the label, fold and group; None leaves them out. A row whose fold is empty
        is left out.
    label_separator : str, optional
        What stands between the labels of a video that has several, such as ";".
    check_files : bool
        Whether every video must be on disk; False where only the cache is at hand.

    Raises
    ------
    AnnotationError
        If the file cannot be read, a column is missing, a row is broken, or a video is missing.
    """
    path = Path(csv_path)
    rows = csv.DictReader(read_lines(path), strict=True)
    try:
        columns = list(rows.fieldnames or ())
        video_column = _video_column(path, columns, video_column)
        for column in (label_column, fold_column, group_column):
            if column is not None:
                check_column(path, columns, column)
        records = []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            # DictReader gathers surplus values under None and fills missing ones with None.
            if any(key is None or value is None for key, value in row.items()):
                raise AnnotationError(
                    f"{where}: the row must have {len(columns)} values, like the header; "
                    "put values that hold a comma into quotes"
                )
            values = {key: value.strip() for key, value in row.items()}
            fold = values[fold_column] if fold_column else None
            if fold == "":
                continue
            if label_column and not values[label_column]:
                raise AnnotationError(f'{where}: column "{label_column}" is empty; give a label')
            labels = [values[label_column]] if label_column else []
            if label_separator and labels:
                labels = [label.strip() for label in labels[0].split(label_separator)]
            records.append(
                make_record(
                    values[video_column],
                    Path(root),
                    where,
                    labels=labels,
                    fold=fold,
                    group=(values[group_column] or None) if group_column else None,
                )
            )
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {rows.line_num}: not valid CSV: {error}") from error
    return make_annotations(records, path, check_files=check_files)


def from_folders(root: str | Path) -> Dataset:
    """List the videos of a folder with one sub-folder per class, at any depth below it.

    Raises
    ------
    VideoNotFound
        If there is no such folder.
    AnnotationError
        If it holds no video, or a video stands outside of the class folders.
    """
    root = Path(root)
    records = []
    for path in find_videos(root):
        video_id = path.relative_to(root).as_posix()
        label, slash, _ = video_id.partition("/")
        if not slash:
            raise AnnotationError(
                f'"{video_id}" stands outside of a class folder; '
                f"move it to {root}/<class>/{video_id}"
            )
        records.append(Video(video_id, path, label))
    return make_annotations(records, root, check_files=False)


def from_ucf101(
    list_file: str | Path,
    root: str | Path,
    class_index_file: str | Path | None = None,
    *,
    check_files: bool = True,
) -> Dataset:
    """Read a list of the official UCF101 splits: `trainlist01.txt` or `testlist01.txt`.

    A line is `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1` (training) or has no number
    (test). The label is the folder; the group is the film, `v_ApplyEyeMakeup_g08`.

    Parameters
    ----------
    list_file, root : str or Path
    class_index_file : str or Path, optional
        `classInd.txt`, lines `1 ApplyEyeMakeup`: gives the classes in the official order, and
        the numbers of the list are checked against it. Without it the classes are the sorted
        folders of the list.
    check_files : bool
        Whether every video must be on disk.

    Raises
    ------
    AnnotationError
        If a line is broken, or number and folder disagree, or a video is missing.
    """
    path = Path(list_file)
    index = None if class_index_file is None else _read_class_index(Path(class_index_file))
    numbers: dict[str, str] = {}
    records = []
    for where, video, rest in list_lines(path):
        label = PurePosixPath(video).parts[0] if "/" in video else ""
        if not label:
            raise AnnotationError(f'{where}: "{video}" must be <class>/<file>')
        if rest:
            expected = numbers.setdefault(label, rest) if index is None else index.get(label)
            if rest != expected:
                raise AnnotationError(
                    f'{where}: class number "{rest}" does not belong to "{label}" '
                    f"(that is {expected}); check the list against classInd.txt"
                )
        found = _UCF101_GROUP.search(PurePosixPath(video).stem)
        group = found.group(1) if found else None
        records.append(make_record(video, Path(root), where, labels=[label], group=group))
    classes = None if index is None else tuple(index)
    return make_annotations(records, path, check_files=check_files, classes=classes)


def from_list(list_file: str | Path, root: str | Path, *, check_files: bool = True) -> Dataset:
    """Read a text file with one video per line, and its label behind white space or not at all.

    The path ends with its video extension, so paths and labels may hold spaces:
    `my films/a b.mp4 long jump`. Empty lines and lines that start with `#` are skipped.

    Raises
    ------
    AnnotationError
        If a line names no video file, only some lines have a label, or a video is missing.
    """
    path = Path(list_file)
    records = [
        make_record(video, Path(root), where, labels=[rest] if rest else [])
        for where, video, rest in list_lines(path)
    ]
    unlabelled = [record.id for record in records if record.label is None]
    if unlabelled and len(unlabelled) < len(records):
        raise AnnotationError(
            f"{path}: {some(unlabelled)} without a label, while other lines have one; "
            "label all lines or none"
        )
    return make_annotations(records, path, check_files=check_files)


def make_annotations(
    records: Sequence[Video],
    source: Path,
    *,
    check_files: bool,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Check that the videos are there, and join them with their classes."""
    if check_files:
        missing = [record.id for record in records if not record.path.is_file()]
        if missing:
            raise AnnotationError(
                f"{source}: {len(missing)} of {len(records)} videos not found: {some(missing)} "
                f"(looked for {records[0].path.parent}/…); check the root folder"
                if len(missing) == len(records)
                else f"{source}: {len(missing)} of {len(records)} videos not found: "
                f"{some(missing)}; restore them or take them off the list"
            )
    if classes is None:
        classes = tuple(sorted({label for record in records for label in record.labels}))
    try:
        return Dataset(tuple(records), classes)
    except AnnotationError as error:
        raise AnnotationError(f"{source}: {error}") from error


def make_record(
    video: str,
    root: Path,
    where: str,
    *,
    labels: Sequence[str] = (),
    fold: str | None = None,
    group: str | None = None,
) -> Video:
    """Make a record, with its place in the file in front of what is wrong with it."""
    try:
        check_id(video)
        video_id = PurePosixPath(video).as_posix()
        first = labels[0] if labels else None
        return Video(video_id, root / video_id, first, fold, group, tuple(labels[1:]))
    except AnnotationError as error:
        raise AnnotationError(f"{where}: {error}") from error


def _video_column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        check_column(path, columns, wanted)
        return wanted
    for column in VIDEO_COLUMNS:
        if column in columns:
            return column
    raise AnnotationError(
        f"{path}: no column of videos among {', '.join(columns) or '(an empty header)'}; "
        f"it must be called {', '.join(VIDEO_COLUMNS)}, or be named by video_column"
    )


def check_column(path: Path, columns: Sequence[str], column: str) -> None:
    """Refuse a column that is not there."""
    if column not in columns:
        raise AnnotationError(
            f'{path}: no column "{column}"{nearest_name(column, columns)}; '
            f"there are: {', '.join(columns)}"
        )


def read_lines(path: Path) -> list[str]:
    """Give the lines of a UTF-8 text, with or without a byte order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: must be UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    return text.splitlines(keepends=True)


def list_lines(path: Path) -> list[tuple[str, str, str]]:
    """Give (where, video, rest of the line) for every line that is neither empty nor a comment."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LIST_LINE.fullmatch(text)
        if match is None:
            raise AnnotationError(
                f'{path}, line {number}: "{text}" names no video file; a line is a path that '
                f"ends in {', '.join(sorted(VIDEO_EXTENSIONS))}, then perhaps a label"
            )
        found.append((f"{path}, line {number}", match["path"], (match["rest"] or "").strip()))
    return found


def _read_class_index(path: Path) -> dict[str, str]:
    """Give class name → number as text, in the order of the file."""
    index: dict[str, str] = {}
    for line_number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        number, _, name = line.strip().partition(" ")
        if number != str(len(index) + 1) or not name.strip() or name.strip() in index:
            raise AnnotationError(
                f'{path}, line {line_number}: "{line.strip()}" must be '
                f'"{len(index) + 1} <class>", numbers rising from 1'
            )
        index[name.strip()] = number
    return index
