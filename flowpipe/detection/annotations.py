"""Persons' boxes and tubes: AVA's CSV and label map, plain CSV, UCF101-24's tubes as CSV.

AVA's truth is `video,second,x1,y1,x2,y2,action,person` without a header, its detections have a
score in place of the person; `video,second` alone says that a key frame exists. The plain form has
a header: `video,time_s,x1,y1,x2,y2,label,person,score`; tubes are
`video,tube,label,frame,x,y,w,h,score`.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.errors import AnnotationError
from flowpipe.metrics.boxes import Boxes
from flowpipe.metrics.tubes import Tube
from flowpipe.tables import (
    check_column,
    csv_rows,
    csv_table,
    parse_number,
    read_text,
    with_header,
)

_CORNERS = ("x1", "y1", "x2", "y2")
_TUBE_COLUMNS = ("video", "label", "frame", "x", "y", "w", "h")
_ITEM = re.compile(r"""(?:[^{}"']|"[^"]*"|'[^']*')*""")
_NAME = re.compile(r"""\bname\s*:\s*(?:"([^"]*)"|'([^']*)')""")
_NUMBER = re.compile(r"\b(?:id|label_id)\s*:\s*(\d+)")

# (video, microsecond): AVA's program compares seconds by six decimals.
KeyFrame = tuple[str, int]


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read the names of AVA's action numbers from a .pbtxt.

    Returns
    -------
    dict of str to str
        Number, as it stands in the CSV files, → name.

    Raises
    ------
    AnnotationError
        If the file cannot be read or names no class.
    """
    path = Path(path)
    names: dict[str, str] = {}
    for item in _ITEM.findall(read_text(path)):  # what is between braces, in any order
        name, number = _NAME.search(item), _NUMBER.search(item)
        if name is None or number is None:
            continue
        label = name[1] or name[2] or ""
        if number[1] in names or label in names.values():
            raise AnnotationError(
                f'{path}: the number {number[1]} or the name "{label}" is there twice; each class '
                "has one of both"
            )
        names[number[1]] = label
    if not names:
        raise AnnotationError(
            f'{path} names no class; a label map has items like  item {{ name: "stand" id: 12 }}'
        )
    return names


def read_key_frames(path: str | Path) -> frozenset[KeyFrame]:
    """Read rows `video,second`, such as AVA's excluded seconds."""
    frames = set()
    for where, row in csv_table(Path(path)):
        if len(row) < 2:
            raise AnnotationError(f"{where}: {row} must be video,second")
        frames.add(_key_frame(where, row[0], row[1]))
    return frozenset(frames)


def read_boxes(
    path: str | Path, names: Mapping[str, str] | None = None, *, scored: bool = False
) -> Boxes:
    """Read boxes on key frames, AVA's form or the plain one.

    Parameters
    ----------
    path : str or Path
    names : dict of str to str, optional
        Names of action numbers, from `read_label_map`; a number without a name stays a number.
    scored : bool
        Whether these are detections: the eighth column, or `score`, is then needed.

    Raises
    ------
    AnnotationError
        If the file cannot be read or a row is broken.
    """
    path, names = Path(path), names or {}
    rows = csv_table(path)
    if _has_header(rows):
        return _from_header(path, rows, names, scored)
    frames: list[KeyFrame] = []
    labels, corners, scores = [], [], []
    empty = set()
    for where, row in rows:
        if len(row) == 2:
            empty.add(_key_frame(where, *row))
            continue
        if len(row) not in (7, 8) or (scored and len(row) != 8):
            last = "score" if scored else "person"
            raise AnnotationError(
                f"{where} has {len(row)} values; it must be "
                f"video,second,x1,y1,x2,y2,action,{last}, or there must be a header"
            )
        frames.append(_key_frame(where, row[0], row[1]))
        corners.append([parse_number(value, where) for value in row[2:6]])
        labels.append(names.get(row[6], row[6]))
        scores.append(parse_number(row[7], where) if scored else 0.0)
    return _boxes(frames, labels, corners, scores if scored else None, empty)


@dataclass(frozen=True)
class PersonBoxes:
    """Boxes of persons in videos, without regard to what they do.

    Attributes
    ----------
    videos : array of N str
    moments : array of N
        Seconds, or frame numbers where `in_frames`.
    boxes : array of N×4
        x1, y1, x2, y2.
    scores : array of N
        1 where the file has none.
    in_frames : bool
    """

    videos: npt.NDArray[np.object_]
    moments: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    in_frames: bool


def read_person_boxes(path: str | Path) -> PersonBoxes:
    """Read boxes of persons: AVA's form, the plain one without need of a label, or tubes.

    The last column of AVA's form is a score where the file has a number there that is not whole,
    else the number of a person.

    Raises
    ------
    AnnotationError
        If the file cannot be read, a column is missing or a row is broken.
    """
    path = Path(path)
    rows = csv_table(path)
    if not _has_header(rows):
        scored = any(len(row) == 8 and "." in row[7] for _, row in rows)
        boxes = read_boxes(path, scored=scored)
        scores, in_frames = boxes.scores, False
        videos = [video for video, _ in boxes.frames]
        moments = np.array([microsecond / 1e6 for _, microsecond in boxes.frames], np.float64)
        corners = boxes.boxes
    else:
        header = rows[0][1]
        in_frames = "frame" in header
        sides = _CORNERS if "x1" in header else ("x", "y", "w", "h")
        needed = ("frame" if in_frames else "time_s", *sides)
        form = "video,time_s,x1,y1,x2,y2,score or video,frame,x,y,w,h"
        check_column(path, header, "video", *needed, form=form)
        columns = (*needed, *(("score",) if "score" in header else ()))
        records = with_header(path, header, rows[1:])
        values = np.array(
            [[parse_number(row[column], where) for column in columns] for where, row in records],
            np.float64,
        ).reshape(len(records), len(columns))
        videos = [row["video"] for _, row in records]
        moments, corners = values[:, 0], values[:, 1:5].copy()
        if sides != _CORNERS:
            corners[:, 2:] += corners[:, :2]
        scores = values[:, 5] if "score" in header else None
    if scores is None:
        scores = np.ones(len(corners))
    names = np.empty(len(videos), object)
    names[:] = videos
    return PersonBoxes(names, moments, corners, scores, in_frames)


def read_tubes(path: str | Path, *, scored: bool = False) -> list[Tube]:
    """Read tubes, one row for each box; `person` in place of `tube` makes runs of one label tubes.

    Raises
    ------
    AnnotationError
        If the file cannot be read, a column is missing or a row is broken.
    """
    path = Path(path)
    header, rows = csv_rows(path)
    key = "person" if "person" in header and "tube" not in header else "tube"
    columns = (*_TUBE_COLUMNS, key, *(("score",) if scored else ()))
    check_column(path, header, *columns, form="video,tube,label,frame,x,y,w,h,score")
    groups: dict[tuple[str, str, str], list[tuple[int, list[float], float]]] = {}
    for where, row in rows:
        x, y, w, h = (parse_number(row[column], where) for column in ("x", "y", "w", "h"))
        if w < 0 or h < 0:
            raise AnnotationError(f"{where}: w {w:g} and h {h:g} must be >= 0")
        score = parse_number(row["score"], where) if scored else 0.0
        box = (_frame(row["frame"], where), [x, y, x + w, y + h], score)
        groups.setdefault((row["video"], row[key], row["label"]), []).append(box)
    tubes = []
    for (video, name, label), boxes in groups.items():
        boxes.sort(key=lambda box: box[0])
        for run in _runs(boxes) if key == "person" else [boxes]:
            frames, corners, scores = zip(*run, strict=True)
            if len(set(frames)) != len(frames):
                raise AnnotationError(f"{path}: a tube of {video}, {label} has a frame twice")
            if len(set(scores)) > 1:
                raise AnnotationError(
                    f"{path}: tube {name} of {video}, {label} has the scores {min(scores):g} to "
                    f"{max(scores):g}; a tube has one, the same in each of its rows"
                )
            tubes.append(Tube(video, label, np.array(frames), np.array(corners), scores[0]))
    return tubes


def write_tubes(path: str | Path, tubes: Iterable[Tube]) -> None:
    """Write detected tubes in the form that `read_tubes` reads, whole or not at all."""
    with write_aside(Path(path), "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("video", "tube", "label", "frame", "x", "y", "w", "h", "score"))
        for number, tube in enumerate(tubes):
            for frame, (x1, y1, x2, y2) in zip(tube.frames, tube.boxes.tolist(), strict=True):
                corner = f"{x1:.2f}", f"{y1:.2f}", f"{x2 - x1:.2f}", f"{y2 - y1:.2f}"
                rows.writerow((tube.video, number, tube.label, frame, *corner, f"{tube.score:.6g}"))


def _runs(
    boxes: Sequence[tuple[int, list[float], float]],
) -> Iterable[list[tuple[int, list[float], float]]]:
    """Divide where a frame is missing: the person did something else meanwhile."""
    numbered = enumerate(boxes)
    for _, run in itertools.groupby(numbered, key=lambda pair: pair[1][0] - pair[0]):
        yield [box for _, box in run]


def _has_header(rows: Sequence[tuple[str, Sequence[str]]]) -> bool:
    return bool(rows) and "video" in [value.lower() for value in rows[0][1]]


def _from_header(
    path: Path,
    rows: Sequence[tuple[str, Sequence[str]]],
    names: Mapping[str, str],
    scored: bool,
) -> Boxes:
    header = rows[0][1]
    time = "frame" if "frame" in header and "time_s" not in header else "time_s"
    table = with_header(path, header, rows[1:])
    needed = ("video", time, "label", *_CORNERS, *(("score",) if scored else ()))
    check_column(path, header, *needed, form="video,time_s,x1,y1,x2,y2,label,person,score")
    frames: list[KeyFrame] = []
    labels, corners, scores = [], [], []
    for where, row in table:
        frames.append(_key_frame(where, row["video"], row[time]))
        corners.append([parse_number(row[column], where) for column in _CORNERS])
        labels.append(names.get(row["label"], row["label"]))
        scores.append(parse_number(row["score"], where) if scored else 0.0)
    return _boxes(frames, labels, corners, scores if scored else None, set())


def _boxes(
    frames: Sequence[KeyFrame],
    labels: Sequence[str],
    corners: Sequence[Sequence[float]],
    scores: Sequence[float] | None,
    empty: set[KeyFrame],
) -> Boxes:
    frame_column: npt.NDArray[np.object_] = np.empty(len(frames), object)
    frame_column[:] = frames
    label_column: npt.NDArray[np.object_] = np.empty(len(labels), object)
    label_column[:] = labels
    boxes = np.array(corners, np.float64).reshape(len(frames), 4)
    column = None if scores is None else np.array(scores, np.float64)
    return Boxes(frame_column, label_column, boxes, column, frozenset(empty))


def _key_frame(where: str, video: str, second: str) -> KeyFrame:
    return video, round(parse_number(second, where) * 1e6)


def _frame(text: str, where: str) -> int:
    number = parse_number(text, where)
    if not number.is_integer() or abs(number) >= 2**53:
        raise AnnotationError(f'{where}: frame "{text}" must be a whole number')
    return int(number)
