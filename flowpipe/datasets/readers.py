"""Lists of videos: class folders, CSV files and plain lists, one reader each.

Each form has one reader, `folder_videos`, `csv_videos` and `list_videos`, which knows how a
line is read. `from_folders`, `from_csv` and `from_list` make a `Dataset` of what it returns, for
which every video must have a label and be on disk; `flowpipe.datasets.paths` takes the same
videos, labelled or not, for extraction.

A video's id is its path relative to the root with forward slashes. A path that leaves the root
(absolute, or through `..`) goes by its file name. Files are read as UTF-8, with or without a
byte order mark.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from flowpipe.datasets.splits import TEST, TRAIN, VAL
from flowpipe.datasets.video import Dataset, Span, Video
from flowpipe.errors import AnnotationError, some
from flowpipe.tables import (
    check_column,
    csv_rows,
    find_column,
    parse_number,
    read_lines,
)
from flowpipe.video import VIDEO_EXTENSIONS, find_videos

Missing: TypeAlias = Literal["refuse", "skip", "keep"]

VIDEO_COLUMNS = ("video", "clip", "path", "file", "filename", "file_name", "name")
# Columns of times, the first pair there is: (start, end, unit).
SPAN_COLUMNS: Sequence[tuple[str, str, Literal["s", "frame"]]] = (
    ("start_s", "end_s", "s"),
    ("start_s", "stop_s", "s"),
    ("start_frame", "end_frame", "frame"),
    ("start_frame", "stop_frame", "frame"),
)
# Other words for the folds that a data set is divided into.
FOLD_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST),
}

_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(VIDEO_EXTENSIONS))
# The path ends at the first video extension that is followed by white space or by the end; of a
# line without one, `path num_frames label` as lists of frame folders have it, before the numbers;
# a line that ends in any other extension is a path as a whole.
_LIST_LINE = re.compile(
    rf"(?P<path>.+?(?:{_EXTENSIONS}))(?:\s+(?P<rest>.*))?"
    r"|(?P<bare>\S+)\s+(?P<counts>\d+\s+(?:-1|\d+))|(?P<whole>.*\S\.\w{1,5})",
    re.IGNORECASE,
)
_COUNT_AND_LABEL = re.compile(r"\d+\s+(-1|\d+)")  # -1: unknown, as in lists of tests
_NUMBERS = re.compile(r"-?[\d.]+(\s+-?[\d.]+)+")
# Columns that look like times, but are not called as those of SPAN_COLUMNS.
_TIMES = re.compile(r"(start|begin|onset|from|end|stop|offset|to)([\s_-].*)?", re.IGNORECASE)


def from_folders(root: str | Path) -> Dataset:
    """List the videos of a folder with one sub-folder per class, at any depth below it.

    Where the sub-folders are `train` and `test` (or `val`, or other words for these), each with
    one folder per class, they are the folds; so they are where each class folder is so divided.

    Raises
    ------
    VideoNotFound
        If there is no such folder.
    AnnotationError
        If it holds no video, or a video is outside of the class folders.
    """
    root = Path(root)
    videos = folder_videos(root)
    divided = any(video.folds for video in videos)
    for video in videos:
        if not video.labels or (divided and not video.folds):
            folder = "<fold>/<class>" if divided else "<class>"
            raise AnnotationError(
                f'"{video.id}" is outside of a class folder; move it to '
                f"{root}/{folder}/{PurePosixPath(video.id).name}, or out of {root}, or list the "
                "videos and their labels in an annotations.csv"
            )
    dataset = make_dataset(videos, root)
    empty = sorted(folder.name for folder in _folders(root)) if not divided else []
    empty = [name for name in empty if clean_name(name) not in dataset.classes]
    if empty:
        dataset = replace(
            dataset, notes=(*dataset.notes, f"folders without a video: {some(empty)}")
        )
    return dataset


def from_csv(
    csv_path: str | Path,
    root: str | Path,
    *,
    video_column: str | None = None,
    label_column: str | None = "label",
    fold_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
    missing: Missing = "refuse",
) -> Dataset:
    """Read a CSV file with a header and one video per row.

    Columns `start_s` and `end_s`, or `start_frame` and `end_frame`, make each row a part of its
    video; a row whose times are empty is the whole video.

    Parameters
    ----------
    csv_path : str or Path
    root : str or Path
        Folder to which the paths of the file are relative.
    video_column : str or None
        Column of paths; None takes the first there is of video, clip, path, file, filename,
        file_name, name.
    label_column, fold_column, group_column : str or None
        Columns of the label, fold and group; None leaves them out. A row whose fold is empty
        is left out. Folds called training, validation and the like become train, val, test.
    label_separator : str, optional
        What separates the labels of a video that has several, such as ";".
    missing : {"refuse", "skip", "keep"}
        What to do with videos that are not on disk; "keep" where only the cache is at hand.

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
    dataset = make_dataset(videos, path, missing=missing)
    times = [name for name in csv_rows(path)[0] if _TIMES.fullmatch(name)]
    if times and not any(video.span for video in videos):
        note = f"not read: {some(times)}; times are start_s, end_s or start_frame, end_frame"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return dataset


def from_list(list_file: str | Path, root: str | Path, *, missing: Missing = "refuse") -> Dataset:
    """Read a text file with one video per line, and its label behind white space or not at all.

    The path ends with its video extension, so paths and labels may hold spaces:
    `my films/a b.mp4 long jump`. Empty lines and lines that start with `#` are skipped. Where two
    whole numbers follow, `a.mp4 250 3`, they are the number of frames and the label; such a path
    may lack its extension.

    Raises
    ------
    AnnotationError
        If a line names no video file, only some lines have a label, or a video is missing.
    """
    path = Path(list_file)
    videos = list_videos(path, Path(root))
    if any(video.labels for video in videos):
        _refuse_unlabelled(videos, path)
    return make_dataset(videos, path, missing=missing)


def folder_videos(root: Path) -> list[Video]:
    """Read a folder: the label of a video is the first folder below the root, if any.

    ::

        red/a.mp4, red/more/b.mp4           label red
        train/red/a.mp4, test/red/b.mp4     label red, folds train and test
        red/train/a.mp4, red/test/b.mp4     the same
        fold1/red/a.mp4, fold2/red/b.mp4    label red, folds 1 and 2

    What is beside or right in folders of folds has no label.
    """
    inside = {path: path.relative_to(root).parts for path in find_videos(root)}
    level = _fold_level([parts[:-1] for parts in inside.values()])
    videos = []
    for path, (*folders, _) in inside.items():
        fold = None
        if level is not None:
            fold = fold_word(folders.pop(level)) if len(folders) > level else None
            folders = folders if fold else []
        labels = (clean_name(folders[0]),) if folders else ()
        name = clean_name("/".join(inside[path]))
        videos.append(Video(name, path, labels, folds=(fold,) if fold else ()))
    return videos


def fold_word(folder: str) -> str | None:
    """Return the fold that a folder is by its name, as `training_set` or `fold3`, or None."""
    word = re.sub(r"[\s_-]*(set|data|split|videos)$", "", folder.lower())
    numbered = re.fullmatch(r"(?:fold|split|cv)[\s_-]*(\d+)", folder.lower())
    return numbered[1] if numbered else FOLD_WORDS.get(word)


def _fold_level(folders: Sequence[Sequence[str]]) -> int | None:
    """Return at which depth folders are folds: 0 above the classes, 1 below; None if nowhere."""
    tops = {fold_word(parts[0]) for parts in folders if parts}
    if TRAIN in tops and len(tops - {None}) > 1:
        return 0
    if all(len(parts) > 1 for parts in folders):
        if None not in tops and TRAIN not in tops and len(tops) > 1:  # fold1, fold2
            return 0
        inner = {fold_word(parts[1]) for parts in folders}
        if None not in inner and TRAIN in inner and len(inner) > 1:
            return 1
    return None


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


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
        video_column = find_column(VIDEO_COLUMNS, columns)
        if video_column is None:
            raise AnnotationError(
                f"{path}: no column of videos among {', '.join(columns) or '(an empty header)'}; "
                f"it must be called {', '.join(VIDEO_COLUMNS)}, or be named by video_column"
            )
    for column in (video_column, label_column, fold_column, group_column):
        if column is not None:
            check_column(path, columns, column)
    names = _with_extensions([row[video_column] for _, row in rows], root)
    videos = []
    for name, (where, row) in zip(names, rows, strict=True):
        fold = row[fold_column] if fold_column else None
        if fold == "":
            continue
        label = row[label_column] if label_column else ""
        parts = label.split(label_separator) if label and label_separator else [label]
        videos.append(
            make_video(
                name,
                root,
                where,
                labels=[part.strip() for part in parts] if label else [],
                folds=() if fold is None else (FOLD_WORDS.get(fold.lower(), fold),),
                group=(row[group_column] or None) if group_column else None,
                span=_span_of(row, where),
            )
        )
    return videos


def list_videos(path: Path, root: Path) -> list[Video]:
    """Read a plain list: one video per line, then perhaps its label."""
    lines = list_lines(path, root)
    numbers = [_COUNT_AND_LABEL.fullmatch(label) for _, _, label in lines]
    counted = all(numbers)  # every line is `path num_frames label_index`
    unclear = not counted and all(_NUMBERS.fullmatch(label) for _, _, label in lines)
    names = _with_extensions([name for _, name, _ in lines], root)
    videos = []
    for name, (where, _, label), match in zip(names, lines, numbers, strict=True):
        own = match[1].removeprefix("-1") if counted and match else label
        if unclear:
            raise AnnotationError(
                f'{where}: "{label}" is no label; a line is a path, or a path, its number of '
                "frames and one label >= 0; several labels need a CSV file"
            )
        videos.append(make_video(name, root, where, labels=[own] if own else []))
    return videos


class Files:
    """The videos below a root, to be found by what a list or a program calls them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] = {}
        for path in find_videos(root):
            for name in (path.name, path.stem):
                self._by_name.setdefault(name, []).append(path)

    def find(self, written: str) -> Path | None:
        """Return the file at this path; else the only one of this name, or of this stem.

        Raises
        ------
        AnnotationError
            If several files have this name.
        """
        name = written.replace("\\", "/")
        for path in (self.root / name, *sorted(self.root.glob(f"{_literal(name)}.*"))):
            if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file():
                return path
        found = self._by_name.get(PurePosixPath(name).name, [])
        if len(found) > 1:
            raise AnnotationError(f'"{written}" may be {found[0]} or {found[1]}; write its folder')
        return found[0] if found else None


def list_lines(path: Path, root: Path | None = None) -> list[tuple[str, str, str]]:
    """Return (place in the file, video, rest of the line) of every line that is not empty.

    With a root, lines that start with `#` are left out, but for those that name a video there is.
    """
    lines = []
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip()
        match = _LIST_LINE.fullmatch(text)
        if not text:
            continue
        if root is not None and text.startswith("#"):
            named = match["path"] if match else None
            if not named or not (root / named).is_file():
                continue
        if match is None:
            raise AnnotationError(
                f'{path}, line {number}: "{text}" names no video file; a line is a path that '
                f"ends in {', '.join(sorted(VIDEO_EXTENSIONS))}, then perhaps a label"
            )
        video = match["path"] or match["bare"] or match["whole"]
        rest = match["rest"] or match["counts"] or ""
        lines.append((f"{path}, line {number}", video, rest.strip()))
    return lines


def make_video(
    written: str,
    root: Path,
    where: str,
    *,
    labels: Sequence[str] = (),
    folds: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
    group: str | None = None,
    span: Span | None = None,
) -> Video:
    """Return the video of a path as written in a list; errors begin with the place in the file."""
    if "\\" in written and not (root / written).is_file():
        written = written.replace("\\", "/")  # as Windows writes it
    path = PurePosixPath(written)
    inside = not path.is_absolute() and ".." not in path.parts
    try:
        name = clean_name(path.as_posix() if inside and path.name else path.name)
        video_id = name if span is None else f"{name}@{span}"
        return Video(video_id, root / path, tuple(labels), group, folds, unused, span)
    except AnnotationError as error:
        raise AnnotationError(f"{where}: {error}") from error


def make_dataset(
    videos: Sequence[Video],
    source: Path,
    *,
    missing: Missing = "refuse",
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Look for the videos on disk, and join them with their classes."""
    notes: tuple[str, ...] = ()
    there = [v for v in videos if v.path.is_file()] if missing != "keep" else list(videos)
    if len(there) < len(videos):
        away = [video.id for video in videos if not video.path.is_file()]
        count = f"{len(away)} of {len(videos)} videos not found: {some(away)}"
        if not there:
            folder = videos[0].path.parent
            raise AnnotationError(
                f"{source}: {count}; looked for {folder}/…; check the root folder"
            )
        if missing == "refuse":
            raise AnnotationError(
                f"{source}: {count}; restore them, take them off the list, or skip missing videos"
            )
        notes = (f"left out: {count}",)
    if classes is None:
        classes = tuple(sorted({label for video in videos for label in video.labels}))
        notes += _alike(classes)
    _refuse_twice(there, source)
    try:
        return Dataset(tuple(there), classes, notes)
    except AnnotationError as error:
        raise AnnotationError(f"{source}: {error}") from error


def _refuse_twice(videos: Sequence[Video], source: Path) -> None:
    """Refuse one file, or one part of it, under two names, such as `a.mp4` and `../x/a.mp4`."""
    names: dict[tuple[str, Span | None], str] = {}
    for video in videos:
        place = os.path.abspath(video.path), video.span  # noqa: PTH100 — links are not followed
        other = names.setdefault(place, video.id)
        if other != video.id:
            raise AnnotationError(
                f'{source}: "{other}" and "{video.id}" are one file; keep one line for each'
            )


def _alike(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note on names of classes that look the same: run, Run, 1, 1.0, an unseen space."""
    groups: dict[object, list[str]] = {}
    for name in classes:
        seen = "".join(c for c in unicodedata.normalize("NFKC", name) if c.isprintable())
        key: object = " ".join(seen.casefold().split())
        with contextlib.suppress(ValueError):
            key = float(seen)
        groups.setdefault(key, []).append(name)
    alike = [name for names in groups.values() if len(names) > 1 for name in names]
    return (f"classes whose names look the same: {some(alike)}",) if alike else ()


def clean_name(name: str) -> str:
    """Write undecodable bytes and control characters as escapes: names go into lists and pages."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _with_extensions(names: Sequence[str], root: Path) -> list[str]:
    """Return the paths of videos that are named without folder or extension, where found."""
    bare = {name for name in names if name and not PurePosixPath(name).suffix}
    if not bare:
        return list(names)
    files = Files(root)
    found = {name: files.find(name) for name in bare}
    paths = {name: path.relative_to(root).as_posix() for name, path in found.items() if path}
    return [paths.get(name, name) for name in names]


def _literal(name: str) -> str:
    """Return a glob pattern that matches this text only."""
    return re.sub(r"([*?[])", r"[\1]", name.lstrip("/"))


def _span_of(row: Mapping[str, str], where: str) -> Span | None:
    columns = {name.lower(): name for name in row}
    for wanted in SPAN_COLUMNS:
        start, end = (columns.get(name, "") for name in wanted[:2])
        unit = wanted[2]
        if start and end and (row[start] or row[end]):
            try:
                return Span(parse_number(row[start], where), parse_number(row[end], where), unit)
            except AnnotationError as error:
                raise AnnotationError(
                    f'{where}: {start} "{row[start]}" and {end} "{row[end]}" must be numbers, '
                    "0 <= start < end"
                ) from error
    return None


def _refuse_unlabelled(videos: Sequence[Video], source: Path) -> None:
    if unlabelled := [video.id for video in videos if not video.labels]:
        raise AnnotationError(
            f"{source}: {some(unlabelled)} without a label; give every video one, or none any "
            "(nan is none)"
        )
