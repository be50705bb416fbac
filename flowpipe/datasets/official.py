"""The official files of data sets: splits of UCF101 and HMDB51, lists of Kinetics.

==========  ==================================================  ==================================
data set    files                                               videos, below the root
==========  ==================================================  ==================================
UCF101      `trainlist01.txt`, `testlist01.txt`, `classInd.txt`  `<class>/<video>.avi`
HMDB51      `<class>_test_split1.txt`, one per class            `<class>/<video>.avi`
Kinetics    CSV: label, youtube_id, time_start, time_end, split  see `from_kinetics`
==========  ==================================================  ==================================

References
----------
K. Soomro, A. R. Zamir, M. Shah, "UCF101", 2012. https://doi.org/10.48550/arXiv.1212.0402
H. Kuehne et al., "HMDB", ICCV 2011. https://doi.org/10.1109/ICCV.2011.6126543
W. Kay et al., "The Kinetics human action video dataset", 2017.
https://doi.org/10.48550/arXiv.1705.06950
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from flowpipe.datasets.readers import (
    FOLD_WORDS,
    Missing,
    list_lines,
    make_dataset,
    make_video,
)
from flowpipe.datasets.splits import TEST, TRAIN
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import AnnotationError
from flowpipe.tables import check_column, csv_rows, read_lines

_UCF101_FILE = re.compile(r"(?P<half>train|test)list(?P<number>\d\d)\.txt")
_UCF101_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")
_HMDB51_FILE = re.compile(r"(?P<label>.+)_test_split(?P<number>\d+)\.txt")
_HMDB51_MARKS = {"0": None, "1": TRAIN, "2": TEST}


def from_ucf101(folder: str | Path, root: str | Path, *, missing: Missing = "refuse") -> Dataset:
    """Read the official splits of UCF101; the folds are "1", "2", "3".

    A line is `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1` (training) or has no number
    (test). The label is the folder; the group is the film, `v_ApplyEyeMakeup_g08`.

    Parameters
    ----------
    folder : str or Path
        With `trainlist01.txt`, `testlist01.txt` and so on, and perhaps `classInd.txt`, which
        gives the classes in the official order (else they are sorted by name).
    root : str or Path
        Folder of the videos.
    missing : {"refuse", "skip", "keep"}
        What to do with videos that are not on disk.

    Raises
    ------
    AnnotationError
        If a list is missing or broken, a video is in both halves of a split, number and folder
        disagree, or a video is not on disk.
    """
    folder = Path(folder)
    files = _split_files(folder, _UCF101_FILE, "UCF101", "testlist01.txt")
    index_file = folder / "classInd.txt"
    numbers = _read_class_index(index_file) if index_file.is_file() else {}
    splits: dict[str, dict[str, str]] = {}
    videos: dict[str, Video] = {}
    for path, match in files:
        number = str(int(match["number"]))
        for half in (TRAIN, TEST):
            if not path.with_name(f"{half}list{match['number']}.txt").is_file():
                raise AnnotationError(f"{folder} has no {half}list{match['number']}.txt")
        split = splits.setdefault(number, {})
        for video in _ucf101_videos(path, Path(root), numbers, checked=index_file.is_file()):
            if video.id in split:
                raise AnnotationError(
                    f'split {number} of {folder}: "{video.id}" listed more than once'
                )
            split[video.id] = match["half"]
            videos.setdefault(video.id, video)
    classes = tuple(numbers) if index_file.is_file() else tuple(sorted(numbers))
    place = {label: position for position, label in enumerate(classes)}
    # The order of the official lists.
    ordered = sorted(videos.values(), key=lambda video: (place[str(video.label)], video.id))
    return make_dataset(_with_folds(ordered, splits), folder, missing=missing, classes=classes)


def from_hmdb51(folder: str | Path, root: str | Path, *, missing: Missing = "refuse") -> Dataset:
    """Read the official splits of HMDB51; the folds are "1", "2", "3".

    A line is `April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1`: 1 trains, 2 tests, 0 is unused. The
    class is in the name of the file, `brush_hair_test_split1.txt`. Names may begin with `#`.

    Parameters and errors as for `from_ucf101`.
    """
    folder = Path(folder)
    splits: dict[str, dict[str, str]] = {}
    videos: dict[str, Video] = {}
    for path, match in _split_files(folder, _HMDB51_FILE, "HMDB51", "<class>_test_split1.txt"):
        split = splits.setdefault(str(int(match["number"])), {})
        for where, name, mark in list_lines(path):
            if mark not in _HMDB51_MARKS:
                raise AnnotationError(
                    f'{where}: "{mark}" behind the video must be 1 (train), 2 (test) or 0 (unused)'
                )
            if half := _HMDB51_MARKS[mark]:
                video = make_video(
                    f"{match['label']}/{name}", Path(root), where, labels=[match["label"]]
                )
                split[video.id] = half
                videos.setdefault(video.id, video)
    return make_dataset(_with_folds(videos.values(), splits), folder, missing=missing)


def _split_files(
    folder: Path, pattern: re.Pattern[str], name: str, example: str
) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        raise AnnotationError(f"{folder} is not a folder; it must hold the split files of {name}")
    files = [
        (path, match)
        for path in sorted(folder.iterdir())
        if (match := pattern.fullmatch(path.name))
    ]
    if not files:
        raise AnnotationError(f"{folder} holds no split file of {name}, such as {example}")
    return files


def _with_folds(videos: Iterable[Video], splits: Mapping[str, Mapping[str, str]]) -> list[Video]:
    """Return the videos with the splits ({number: {video id: half}}) as their folds."""
    return [
        replace(
            video,
            folds=tuple(n for n in sorted(splits) if splits[n].get(video.id) == TEST),
            unused=tuple(n for n in sorted(splits) if video.id not in splits[n]),
        )
        for video in videos
    ]


def _ucf101_videos(
    path: Path, root: Path, numbers: dict[str, str], *, checked: bool
) -> list[Video]:
    """Read one list; `numbers` (class → number) gains the classes it lacks, unless `checked`."""
    videos = []
    for where, name, number in list_lines(path, root):
        label = PurePosixPath(name).parts[0] if "/" in name else ""
        if not label:
            raise AnnotationError(f'{where}: "{name}" must be <class>/<file>')
        if checked and label not in numbers:
            raise AnnotationError(
                f'{where}: "{label}" is not among the {len(numbers)} classes of classInd.txt'
            )
        known = numbers.setdefault(label, number)
        if number and number != (known or number):
            raise AnnotationError(
                f'{where}: class number "{number}" does not belong to "{label}" '
                f"(that is {known}); check the list against classInd.txt"
            )
        numbers[label] = known or number
        found = _UCF101_GROUP.search(PurePosixPath(name).stem)
        group = found.group(1) if found else None
        videos.append(make_video(name, root, where, labels=[label], group=group))
    return videos


def _read_class_index(path: Path) -> dict[str, str]:
    """Return class name → number as text, in the order of the file."""
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


def from_kinetics(
    csv_path: str | Path, root: str | Path, *, missing: Missing = "refuse"
) -> Dataset:
    """Read a list of Kinetics; the fold is the split that it names: "train", "val", "test".

    A video is looked for as `<youtube_id>_<start>_<end>` (seconds, six digits) or
    `<youtube_id>`, ending in .mp4, .mkv, .webm or .avi; in the root, or in the folder of its
    label, of its split, or `<split>/<label>`, where spaces of a label may be underscores.

    Parameters
    ----------
    csv_path : str or Path
        Columns youtube_id, time_start, time_end, and perhaps label and split.
    root : str or Path
    missing : {"refuse", "skip", "keep"}
        What to do with videos that are not on disk.

    Raises
    ------
    AnnotationError
        If a column is missing, a row is broken, or a video is missing.
    """
    path, root = Path(csv_path), Path(root)
    columns, rows = csv_rows(path)
    for column in ("youtube_id", "time_start", "time_end"):
        check_column(path, columns, column)
    videos = []
    for where, row in rows:
        label, fold = row.get("label", ""), row.get("split", "")
        names = _kinetics_names(row, label, fold, where)
        there = next((name for name in names if (root / name).is_file()), None)
        labels = [label] if label else []
        folds = (FOLD_WORDS.get(fold.lower(), fold),) if fold else ()
        videos.append(make_video(there or names[0], root, where, labels=labels, folds=folds))
    return make_dataset(videos, path, missing=missing)


def _kinetics_names(row: Mapping[str, str], label: str, fold: str, where: str) -> list[str]:
    """Return the names under which a video may be below the root, the usual one first."""
    video = row["youtube_id"]
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except ValueError as error:
        raise AnnotationError(
            f"{where}: time_start and time_end must be seconds: {error}"
        ) from error
    folders = [label, label.replace(" ", "_"), f"{fold}/{label}"]
    folders += [f"{fold}/{label.replace(' ', '_')}", fold, ""]
    return [
        f"{folder}/{stem}{extension}".strip("/")
        for stem in (f"{video}_{start:06}_{end:06}", video)
        for folder in dict.fromkeys(folder.strip("/") for folder in folders)
        for extension in (".mp4", ".mkv", ".webm", ".avi")
    ]
