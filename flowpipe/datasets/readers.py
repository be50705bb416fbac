"""Lists of videos: class folders, CSV files and plain lists, one reader each.

Each form has one reader, `folder_videos`, `csv_videos` and `list_videos`, which knows how a
line is read. `from_folders`, `from_csv` and `from_list` make a `Dataset` of what it returns, for
which every video must have a label and be on disk; `flowpipe.datasets.paths` takes the same
videos, labelled or not, for extraction.

A video's id is its path relative to the root with forward slashes. A path that leaves the root
(absolute, or through `..`) goes by its file name. Files are read as UTF-8, with or without a
byte order mark.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from flowpipe.datasets.video import Dataset, Video, some
from flowpipe.errors import AnnotationError, nearest_name
from flowpipe.video import VIDEO_EXTENSIONS, find_videos

VIDEO_COLUMNS = ("video", "clip", "path", "file", "filename", "name")

_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(VIDEO_EXTENSIONS))
# The path ends at the first video extension that is followed by white space or by the end; a
# line that ends in any other extension is a path as a whole.
_LIST_LINE = re.compile(
    rf"(?P<path>.+?(?:{_EXTENSIONS}))(?:\s+(?P<rest>.*))?|(?P<whole>.*\S\.\w{{1,5}})",
    re.IGNORECASE,
)


def from_folders(root: str | Path) -> Dataset:
    """List the videos of a folder with one sub-folder per class, at any depth below it.

    Raises
    ------
    VideoNotFound
        If there is no such folder.
    AnnotationError
        If it holds no video, or a video is outside of the class folders.
    """
    root = Path(root)
    videos = folder_videos(root)
    for video in videos:
        if not video.labels:
            raise AnnotationError(
                f'"{video.id}" is outside of a class folder; move it to {root}/<class>/{video.id}'
            )
    return make_dataset(videos, root, check_files=False)


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
        Column of paths; None takes the first there is of video, clip, path, file, filename,
        name.
    label_column, fold_column, group_column : str or None
        Columns of the label, fold and group; None leaves them out. A row whose fold is empty
        is left out.
    label_separator : str, optional
        What separates the labels of a video that has several, such as ";".
    check_files : bool
        Whether every video must be on disk; False where only the cache is at hand.

    Raises
    ------
    AnnotationError
        If the file cannot be read, a column is missing, a row is broken, or a video is missing.
    """
    path = Path(csv_path)
    videos = csv_videos(
        path,
        Path(root),
        video_column=video_column,
        label_column=label_column,
        fold_column=fold_column,
        group_column=group_column,
        label_separator=label_separator,
    )
    if label_column is not None:
        _refuse_unlabelled(videos, path)
    return make_dataset(videos, path, check_files=check_files)


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
    videos = list_videos(path, Path(root))
    if any(video.labels for video in videos):
        _refuse_unlabelled(videos, path)
    return make_dataset(videos, path, check_files=check_files)


def folder_videos(root: Path) -> list[Video]:
    """Read a folder: the label of a video is the first folder below the root, if any."""
    videos = []
    for path in find_videos(root):
        inside = path.relative_to(root)
        labels = (clean_name(inside.parts[0]),) if len(inside.parts) > 1 else ()
        videos.append(Video(clean_name(inside.as_posix()), path, labels))
    return videos


def csv_videos(
    path: Path,
    root: Path,
    *,
    video_column: str | None = None,
    label_column: str | None = None,
    fold_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
) -> list[Video]:
    """Read a CSV file; arguments as for `from_csv`, but that an empty label is no error."""
    columns, rows = csv_rows(path)
    if video_column is None:
        video_column = next((column for column in VIDEO_COLUMNS if column in columns), None)
        if video_column is None:
            raise AnnotationError(
                f"{path}: no column of videos among {', '.join(columns) or '(an empty header)'}; "
                f"it must be called {', '.join(VIDEO_COLUMNS)}, or be named by video_column"
            )
    for column in (video_column, label_column, fold_column, group_column):
        if column is not None:
            check_column(path, columns, column)
    videos = []
    for where, row in rows:
        fold = row[fold_column] if fold_column else None
        if fold == "":
            continue
        label = row[label_column] if label_column else ""
        labels = (
            label.split(label_separator) if label and label_separator else [label][: bool(label)]
        )
        videos.append(
            make_video(
                row[video_column],
                root,
                where,
                labels=[part.strip() for part in labels],
                folds=() if fold is None else (fold,),
                group=(row[group_column] or None) if group_column else None,
            )
        )
    return videos


def list_videos(path: Path, root: Path) -> list[Video]:
    """Read a plain list: one video per line, then perhaps its label."""
    return [
        make_video(video, root, where, labels=[label] if label else [])
        for where, video, label in list_lines(path)
    ]


def csv_rows(path: Path) -> tuple[list[str], list[tuple[str, Mapping[str, str]]]]:
    """Return (columns, rows) of a CSV file; a row has its place in the file in front."""
    reader = csv.DictReader(read_lines(path), strict=True)
    rows: list[tuple[str, Mapping[str, str]]] = []
    try:
        columns = list(reader.fieldnames or ())
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            # DictReader gathers surplus values under None and fills missing ones with None.
            if any(key is None or value is None for key, value in row.items()):
                raise AnnotationError(
                    f"{where}: the row must have {len(columns)} values, like the header; "
                    "put values that hold a comma into quotes"
                )
            rows.append((where, {key: value.strip() for key, value in row.items()}))
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    return columns, rows


def list_lines(path: Path, *, comments: bool = True) -> list[tuple[str, str, str]]:
    """Return (place in the file, video, rest of the line) of every line that is not empty.

    With `comments`, lines that start with `#` are left out.
    """
    lines = []
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip()
        if not text or (comments and text.startswith("#")):
            continue
        match = _LIST_LINE.fullmatch(text)
        if match is None:
            raise AnnotationError(
                f'{path}, line {number}: "{text}" names no video file; a line is a path that '
                f"ends in {', '.join(sorted(VIDEO_EXTENSIONS))}, then perhaps a label"
            )
        video = match["path"] or match["whole"]
        lines.append((f"{path}, line {number}", video, (match["rest"] or "").strip()))
    return lines


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text, with or without a byte order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: must be UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    return text.splitlines(keepends=True)


def check_column(path: Path, columns: Sequence[str], column: str) -> None:
    """Refuse a column that does not exist."""
    if column not in columns:
        raise AnnotationError(
            f'{path}: no column "{column}"{nearest_name(column, columns)}; '
            f"there are: {', '.join(columns)}"
        )


def make_video(
    written: str,
    root: Path,
    where: str,
    *,
    labels: Sequence[str] = (),
    folds: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
    group: str | None = None,
) -> Video:
    """Return the video of a path as written in a list; errors begin with the place in the file."""
    path = PurePosixPath(written)
    inside = not path.is_absolute() and ".." not in path.parts
    try:
        video_id = clean_name(path.as_posix() if inside and path.name else path.name)
        return Video(video_id, root / path, tuple(labels), group, folds, unused)
    except AnnotationError as error:
        raise AnnotationError(f"{where}: {error}") from error


def make_dataset(
    videos: Sequence[Video],
    source: Path,
    *,
    check_files: bool,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Check that the videos are on disk, and join them with their classes."""
    missing = [v.id for v in videos if not v.path.is_file()] if check_files else []
    if missing:
        hint = "restore them or take them off the list"
        if len(missing) == len(videos):
            hint = f"looked for {videos[0].path.parent}/…; check the root folder"
        raise AnnotationError(
            f"{source}: {len(missing)} of {len(videos)} videos not found: {some(missing)}; {hint}"
        )
    if classes is None:
        classes = tuple(sorted({label for video in videos for label in video.labels}))
    try:
        return Dataset(tuple(videos), classes)
    except AnnotationError as error:
        raise AnnotationError(f"{source}: {error}") from error


def clean_name(name: str) -> str:
    """Write undecodable bytes and control characters as escapes: names go into lists and pages."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refuse_unlabelled(videos: Sequence[Video], source: Path) -> None:
    if unlabelled := [video.id for video in videos if not video.labels]:
        raise AnnotationError(
            f"{source}: {some(unlabelled)} without a label; give every video one, or none any"
        )
