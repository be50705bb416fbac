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

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flowpipe.datasets.annotations import (
    check_column,
    from_ucf101,
    list_lines,
    make_annotations,
    make_record,
    read_lines,
)
from flowpipe.datasets.video import Dataset
from flowpipe.errors import AnnotationError

TRAIN, TEST = "train", "test"

_HMDB51_FILE = re.compile(r"(?P<label>.+)_test_split(?P<number>\d+)\.txt")
_HMDB51_FOLDS: Mapping[str, str | None] = {"0": None, "1": TRAIN, "2": TEST}
_UCF101_FILE = re.compile(r"testlist(?P<number>\d\d)\.txt")


def ucf101_split(
    folder: str | Path, root: str | Path, number: int, *, check_files: bool = True
) -> Dataset:
    """Read an official split of UCF101: folds "train" and "test".

    Parameters
    ----------
    folder : str or Path
        With `trainlist01.txt`, `testlist01.txt` and so on, and perhaps `classInd.txt`.
    root : str or Path
        Folder of the videos.
    number : int
        1, 2 or 3.
    check_files : bool
        Whether every video must be on disk.

    Raises
    ------
    AnnotationError
        If a list is missing or broken, a video is in both, or one is not on disk.
    """
    folder = Path(folder)
    _check_number(number, "ucf101", folder)
    index = folder / "classInd.txt"
    lists = [folder / f"{kind}list{number:02}.txt" for kind in (TRAIN, TEST)]
    halves = [
        from_ucf101(path, root, index if index.is_file() else None, check_files=check_files)
        for path in lists
    ]
    records = [
        replace(record, fold=fold)
        for fold, half in zip((TRAIN, TEST), halves, strict=True)
        for record in half.records
    ]
    classes = halves[0].classes if index.is_file() else None
    return make_annotations(records, folder, check_files=False, classes=classes)


def hmdb51_split(
    folder: str | Path, root: str | Path, number: int, *, check_files: bool = True
) -> Dataset:
    """Read an official split of HMDB51: folds "train" and "test".

    A line is `April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1`: 1 trains, 2 tests, 0 is left out.
    The class is in the name of the file, `brush_hair_test_split1.txt`.

    Parameters and errors as for `ucf101_split`.
    """
    folder = Path(folder)
    _check_number(number, "hmdb51", folder)
    records = []
    for path in sorted(folder.iterdir()):
        found = _HMDB51_FILE.fullmatch(path.name)
        if found is None or int(found["number"]) != number:
            continue
        label = found["label"]
        for where, video, mark in list_lines(path):
            if mark not in _HMDB51_FOLDS:
                raise AnnotationError(
                    f'{where}: "{mark}" behind the video must be 1 (train), 2 (test) or 0 (unused)'
                )
            if (fold := _HMDB51_FOLDS[mark]) is not None:
                name = f"{label}/{video}"
                records.append(make_record(name, Path(root), where, labels=[label], fold=fold))
    return make_annotations(records, folder, check_files=check_files)


def split_numbers(form: str, folder: str | Path) -> list[int]:
    """Give the numbers of the official splits whose files are in a folder; form as in `SPLITS`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise AnnotationError(f"{folder} is not a folder; it must hold the split files of {form}")
    pattern = _UCF101_FILE if form == "ucf101" else _HMDB51_FILE
    found = (pattern.fullmatch(path.name) for path in folder.iterdir())
    numbers = sorted({int(match["number"]) for match in found if match})
    if not numbers:
        wanted = "testlist01.txt" if form == "ucf101" else "<class>_test_split1.txt"
        raise AnnotationError(f"{folder} holds no split file of {form}, such as {wanted}")
    return numbers


# Form → reader of one split.
SPLITS: Mapping[str, Callable[..., Dataset]] = {
    "ucf101": ucf101_split,
    "hmdb51": hmdb51_split,
}


def from_kinetics(
    csv_path: str | Path, root: str | Path, *, skip_missing: bool = False, check_files: bool = True
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
    skip_missing : bool
        Leave out videos that are not there, as in every copy of Kinetics.
    check_files : bool
        Whether every video must be on disk.

    Raises
    ------
    AnnotationError
        If a column is missing, a row is broken, or a video is missing.
    """
    path, root = Path(csv_path), Path(root)
    rows = csv.DictReader(read_lines(path), strict=True)
    columns = list(rows.fieldnames or ())
    for column in ("youtube_id", "time_start", "time_end"):
        check_column(path, columns, column)
    records = []
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if any(key is None or value is None for key, value in row.items()):
                raise AnnotationError(
                    f"{where}: the row must have {len(columns)} values, like the header"
                )
            label, fold = row.get("label", "").strip(), row.get("split", "").strip()
            names = _kinetics_names(row, label, fold, where)
            there = next((name for name in names if (root / name).is_file()), None)
            if there is None and skip_missing:
                continue
            records.append(
                make_record(
                    there or names[0],
                    root,
                    where,
                    labels=[label] if label else [],
                    fold=fold or None,
                )
            )
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {rows.line_num}: not valid CSV: {error}") from error
    if not records and skip_missing:
        raise AnnotationError(f"{path}: none of its videos is below {root}; check the root folder")
    return make_annotations(records, path, check_files=check_files)


def _kinetics_names(row: Mapping[str, str], label: str, fold: str, where: str) -> list[str]:
    """Give the names under which a video may stand below the root, the usual one first."""
    video = row["youtube_id"].strip()
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


def _check_number(number: int, form: str, folder: Path) -> None:
    numbers = split_numbers(form, folder)
    if number not in numbers:
        raise AnnotationError(
            f"split {number} must be one of {', '.join(map(str, numbers))}, those in {folder}"
        )
