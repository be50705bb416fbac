"""Persons' boxes and tubes: AVA's CSV and label map, plain CSV, UCF101-24's tubes as CSV.

AVA's truth is `video,second,x1,y1,x2,y2,action,person` without a header, its detections have a
score in place of the person; `video,second` alone says that a key frame exists. The plain form has
a header: `video,time_s,x1,y1,x2,y2,label,person,score`; tubes are
`video,tube,label,frame,x,y,w,h,score`.
"""

import csv
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.errors import AnnotationError, nearest_name
from flowpipe.metrics.boxes import Boxes
from flowpipe.metrics.tubes import Tube

_CORNERS = ("x1", "y1", "x2", "y2")
_TUBE_COLUMNS = ("video", "label", "frame", "x", "y", "w", "h")
_NAME = re.compile(r'\s+name:\s*"(.*)"\s*')
_NUMBER = re.compile(r"\s+(?:id|label_id):\s*(\d+)\s*")

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
    name: str | None = None
    for line in _text(path).splitlines():
        if match := _NAME.fullmatch(line):
            name = match[1]
        elif (match := _NUMBER.fullmatch(line)) and name is not None:
            names[match[1]] = name
            name = None
    if not names:
        raise AnnotationError(
            f'{path} names no class; a label map has lines like  name: "stand"  and  id: 12'
        )
    return names


def read_key_frames(path: str | Path) -> frozenset[KeyFrame]:
    """Read rows `video,second`, such as AVA's excluded seconds."""
    path = Path(path)
    rows = _plain_rows(path)
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise AnnotationError(f"{path}, row {number}: {row} must be video,second")
    return frozenset(_key_frame(path, n, row[0], row[1]) for n, row in enumerate(rows, 1))


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
    rows = _plain_rows(path)
    if rows and rows[0][0] == "video":
        return _from_header(path, rows[0], rows[1:], names, scored)
    frames: list[KeyFrame] = []
    labels, corners, scores = [], [], []
    empty = set()
    for number, row in enumerate(rows, 1):
        if len(row) == 2:
            empty.add(_key_frame(path, number, *row))
            continue
        if len(row) not in (7, 8) or (scored and len(row) != 8):
            last = "score" if scored else "person"
            raise AnnotationError(
                f"{path}, row {number} has {len(row)} fields; it must be "
                f"video,second,x1,y1,x2,y2,action,{last}"
            )
        frames.append(_key_frame(path, number, row[0], row[1]))
        corners.append([_number(path, number, field) for field in row[2:6]])
        labels.append(names.get(row[6], row[6]))
        scores.append(_number(path, number, row[7]) if scored else 0.0)
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
    rows = _plain_rows(path)
    if not rows or "video" not in rows[0]:
        boxes = read_boxes(path, scored=any(len(row) == 8 and "." in row[7] for row in rows))
        scores, in_frames = boxes.scores, False
        videos = [video for video, _ in boxes.frames]
        moments = np.array([microsecond / 1e6 for _, microsecond in boxes.frames], np.float64)
        corners = boxes.boxes
    else:
        header = rows[0]
        records = [_record(path, n, header, fields) for n, fields in enumerate(rows[1:], 2)]
        in_frames = "frame" in header
        sides = _CORNERS if "x1" in header else ("x", "y", "w", "h")
        scored = ("score",) if "score" in header else ()
        for column in ("frame" if in_frames else "time_s", *sides):
            if column not in header:
                raise AnnotationError(
                    f"{path} has no column {column}{nearest_name(column, header)}; boxes are "
                    "video,time_s,x1,y1,x2,y2,score or video,frame,x,y,w,h"
                )
        columns = ("frame" if in_frames else "time_s", *sides, *scored)
        values = np.array(
            [
                [_number(path, number, record[column]) for column in columns]
                for number, record in enumerate(records, 2)
            ],
            np.float64,
        ).reshape(len(records), len(columns))
        videos = [record["video"] for record in records]
        moments, corners = values[:, 0], values[:, 1:5].copy()
        if sides != _CORNERS:
            corners[:, 2:] += corners[:, :2]
        scores = values[:, 5] if scored else None
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
    rows = _plain_rows(path)
    header = rows[0] if rows else []
    key = "tube" if "tube" in header else "person"
    for column in (*_TUBE_COLUMNS, key, *(("score",) if scored else ())):
        if column not in header:
            raise AnnotationError(
                f"{path} has no column {column}{nearest_name(column, header)}; tubes are "
                f"video,tube,label,frame,x,y,w,h{',score' if scored else ''}"
            )
    groups: dict[tuple[str, str, str], list[tuple[int, list[float], float]]] = {}
    for number, fields in enumerate(rows[1:], 2):
        row = _record(path, number, header, fields)
        x, y, w, h = (_number(path, number, row[column]) for column in ("x", "y", "w", "h"))
        score = _number(path, number, row["score"]) if scored else 0.0
        frame = int(_number(path, number, row["frame"]))
        box = (frame, [x, y, x + w, y + h], score)
        groups.setdefault((row["video"], row[key], row["label"]), []).append(box)
    tubes = []
    for (video, _, label), boxes in groups.items():
        boxes.sort(key=lambda box: box[0])
        for run in _runs(boxes) if key == "person" else [boxes]:
            frames, corners, scores = zip(*run, strict=True)
            if len(set(frames)) != len(frames):
                raise AnnotationError(f"{path}: a tube of {video}, {label} has a frame twice")
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


def _from_header(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    names: Mapping[str, str],
    scored: bool,
) -> Boxes:
    time = next((name for name in ("time_s", "frame") if name in header), None)
    for column in ("video", "label", *_CORNERS, *(("score",) if scored else ())):
        if column not in header or time is None:
            raise AnnotationError(
                f"{path} lacks {column if time else 'time_s'}; the plain form is "
                f"video,time_s,x1,y1,x2,y2,label,person{',score' if scored else ''}"
            )
    frames: list[KeyFrame] = []
    labels, corners, scores = [], [], []
    for number, fields in enumerate(rows, 2):
        row = _record(path, number, header, fields)
        frames.append(_key_frame(path, number, row["video"], row[str(time)]))
        corners.append([_number(path, number, row[column]) for column in _CORNERS])
        labels.append(names.get(row["label"], row["label"]))
        scores.append(_number(path, number, row["score"]) if scored else 0.0)
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


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def _plain_rows(path: Path) -> list[list[str]]:
    try:
        return [row for row in csv.reader(_text(path).splitlines(), strict=True) if row]
    except csv.Error as error:
        raise AnnotationError(f"{path} cannot be read as CSV: {error}") from error


def _record(
    path: Path, number: int, header: Sequence[str], fields: Sequence[str]
) -> dict[str, str]:
    if len(fields) != len(header):
        raise AnnotationError(
            f"{path}, row {number} has {len(fields)} fields, the header {len(header)}"
        )
    return dict(zip(header, fields, strict=True))


def _key_frame(path: Path, number: int, video: str, second: str) -> KeyFrame:
    return video, round(_number(path, number, second) * 1e6)


def _number(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise AnnotationError(f'{path}, row {number}: "{text}" is no number') from None
    if not math.isfinite(value):
        raise AnnotationError(f'{path}, row {number}: "{text}" is no finite number')
    return value
