"""Which action happens from when to when: annotation and result files of the public data sets.

Read by what is inside, not by name: plain CSV (`video,label,start_s,end_s`), ActivityNet's JSON and
its dialects (ActionFormer, OpenTAD, BMN), THUMOS'14 text, Charades and EPIC-KITCHENS CSV, AFSD's.
Times are seconds everywhere.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.atomic import write_aside
from flowpipe.errors import AnnotationError, nearest_name
from flowpipe.metrics.temporal import Segments
from flowpipe.tables import (
    check_column,
    csv_rows,
    parse_number,
    read_json,
    read_lines,
)

AMBIGUOUS = "Ambiguous"
PLAIN_COLUMNS = ("video", "label", "start_s", "end_s")
_THUMOS_FILE = re.compile(r"(?P<label>.+)_(?P<subset>val|test)\.txt")
_THUMOS_LABELS = "detclasslist.txt"

Row = tuple[str, str, float, float]


@dataclass(frozen=True)
class Annotations:
    """Annotated long videos.

    Attributes
    ----------
    segments : Segments
        Every instance, in the order of the file.
    videos : tuple of str
        Every video, also those without an instance.
    durations_s : dict of str to float
        Of the videos whose file states it.
    subsets : dict of str to str
        "training", "validation", … of the videos whose file states it.
    ambiguous : Segments
        Stretches marked so in THUMOS'14's files.
    label_numbers : dict of int to str
        What a number stands for in a result file that has numbers instead of labels.
    """

    segments: Segments
    videos: tuple[str, ...]
    durations_s: Mapping[str, float]
    subsets: Mapping[str, str]
    ambiguous: Segments
    label_numbers: Mapping[int, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that occur, sorted."""
        return tuple(sorted(set(self.segments.labels)))

    def of_subset(self, name: str | None) -> "Annotations":
        """Return the videos of one subset, upper and lower case alike; None: all.

        Raises
        ------
        AnnotationError
            If no video is of this subset.
        """
        if name is None:
            return self
        wanted = {v for v in self.videos if self.subsets.get(v, "").lower() == name.lower()}
        if not wanted:
            known = sorted(set(self.subsets.values()))
            raise AnnotationError(
                f'no video is of subset "{name}"{nearest_name(name, known)}; the file has '
                f"{', '.join(known) or 'no subsets'}"
            )
        return self.of_videos(wanted)

    def subset_of(self, videos: Iterable[str]) -> str | None:
        """Return the subset that all of `videos` are of, if there is just one."""
        subsets = {self.subsets[video] for video in videos if video in self.subsets}
        return subsets.pop() if len(subsets) == 1 else None

    def of_videos(self, wanted: Iterable[str]) -> "Annotations":
        """Return these videos only, in the file's order."""
        chosen = set(wanted)
        return replace(
            self,
            segments=_of_videos(self.segments, chosen),
            ambiguous=_of_videos(self.ambiguous, chosen),
            videos=tuple(video for video in self.videos if video in chosen),
        )

    def clipped(self, durations_s: Mapping[str, float]) -> tuple["Annotations", int, int]:
        """Cut instances at the videos' ends.

        Returns
        -------
        annotations, clipped, dropped
            How many instances passed an end, and how many lay outside altogether or had no length.
        """
        times = self.segments.times_s.copy()
        ends = [durations_s.get(video, math.inf) for video in self.segments.videos]
        times[:, 0] = times[:, 0].clip(0.0)
        times[:, 1] = times[:, 1].clip(None, ends)
        inside = times[:, 1] > times[:, 0]
        changed = (times != self.segments.times_s).any(axis=1) & inside
        cut = replace(self.segments, times_s=times)[inside]
        return replace(self, segments=cut), int(changed.sum()), int((~inside).sum())


def read_annotations(path: str | Path, *, label_column: str = "verb") -> Annotations:
    """Read who does what from when to when.

    Parameters
    ----------
    path : str or Path
        A JSON or CSV file, or the folder of THUMOS'14's text files. A plain CSV has the columns
        video, label, start_s, end_s and perhaps subset and duration_s; a video without instances
        is a row with the other fields empty.
    label_column : str
        Which column of an EPIC-KITCHENS file is the label, such as "verb" or "noun".

    Raises
    ------
    AnnotationError
        If the file cannot be read, is of no known form, or a row is broken.
    """
    path = Path(path)
    if path.is_dir():
        return _from_thumos(path)
    if path.suffix.lower() == ".json":
        return _from_json(path)
    return _from_csv(path, label_column)


def read_detections(path: str | Path, label_numbers: Mapping[int, str] | None = None) -> Segments:
    """Read scored segments: ActivityNet's submission, plain CSV with `score`, THUMOS'14 text.

    Parameters
    ----------
    path : str or Path
    label_numbers : dict of int to str, optional
        What numbers in place of labels stand for; `Annotations.label_numbers`.

    Raises
    ------
    AnnotationError
        If the file cannot be read, is of no known form, or a row is broken.
    """
    path, numbers = Path(path), label_numbers or {}
    if path.suffix.lower() == ".json":
        return _detections_from_json(path, numbers)
    if path.suffix.lower() == ".csv":
        return _detections_from_csv(path, numbers)
    return _detections_from_text(path, numbers)


def names_in(available: Sequence[str], videos: Sequence[str]) -> dict[str, str]:
    """Return which of the available names each video has: its own, its file name or its stem.

    ActivityNet's ids lack the `v_` of their files; both ways are tried.

    Raises
    ------
    AnnotationError
        If two names could be the same video.
    """
    known = set(available)
    by_stem: dict[str, set[str]] = {}
    for name in available:
        file = name.rsplit("/", 1)[-1]
        for key in {file, stem_of(file), stem_of(name)}:
            by_stem.setdefault(key, set()).add(name)
    found: dict[str, str] = {}
    for video in videos:
        if video in known:
            found[video] = video
            continue
        stem = stem_of(video)
        for key in (video, stem, f"v_{stem}", stem.removeprefix("v_")):
            candidates = by_stem.get(key, set())
            if len(candidates) > 1:
                shown = ", ".join(sorted(candidates)[:3])
                raise AnnotationError(f'"{video}" may be {shown}; name videos by their path')
            if candidates:
                found[video] = next(iter(candidates))
                break
    return found


def stem_of(name: str) -> str:
    """Return a name without an extension of up to four letters; ids may hold other dots."""
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,3}$", "", name)


def renamed(detections: Segments, videos: Sequence[str]) -> Segments:
    """Return detections whose videos are called as in `videos`, where that is clear."""
    known = set(videos)
    others = sorted({video for video in detections.videos if video not in known})
    names = names_in(videos, others) if others else {}
    if not names:
        return detections
    column = np.empty(len(detections), object)
    column[:] = [names.get(video, video) for video in detections.videos]
    return replace(detections, videos=column)


def write_submission(path: str | Path, detections: Segments, videos: Sequence[str]) -> None:
    """Write ActivityNet's submission JSON; videos without a detection get an empty list."""
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
    for video, label, (start, end), score in _scored(detections):
        row = {"label": label, "score": score, "segment": [start, end]}
        results.setdefault(video, []).append(row)
    record = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False}}
    with write_aside(path, "w") as file:
        json.dump(record, file)


def write_detections(path: str | Path, detections: Segments) -> None:
    """Write the plain CSV `video,label,start_s,end_s,score`."""
    with write_aside(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*PLAIN_COLUMNS, "score"))
        for video, label, (start, end), score in _scored(detections):
            writer.writerow((video, label, f"{start:.3f}", f"{end:.3f}", f"{score:.6f}"))


def _scored(detections: Segments) -> Iterable[tuple[str, str, list[float], float]]:
    assert detections.scores is not None
    return zip(
        detections.videos,
        detections.labels,
        detections.times_s.tolist(),
        detections.scores.tolist(),
        strict=True,
    )


def _of_videos(segments: Segments, wanted: set[str]) -> Segments:
    return segments[np.array([video in wanted for video in segments.videos], bool)]


def _annotations(
    path: Path,
    rows: list[Row],
    videos: Iterable[str],
    durations_s: Mapping[str, float],
    subsets: Mapping[str, str],
    label_numbers: Mapping[int, str] | None = None,
) -> Annotations:
    for video, label, start, end in rows:
        if end < start:
            raise AnnotationError(
                f"{path}: video {video}, {label}: from {start:g} to {end:g} s is no stretch of "
                "time; the end must not lie before the start"
            )
    return Annotations(
        segments=Segments.of([row for row in rows if row[1] != AMBIGUOUS]),
        videos=tuple(dict.fromkeys([*videos, *(row[0] for row in rows)])),
        durations_s=durations_s,
        subsets=subsets,
        ambiguous=Segments.of([row for row in rows if row[1] == AMBIGUOUS]),
        label_numbers=label_numbers or {},
    )


# JSON


def _from_json(path: Path) -> Annotations:
    record = _load(path)
    database = record.get("database", record)
    rows: list[Row] = []
    durations, subsets, numbers = {}, {}, {}
    for video, entry in _items(path, database):
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations", []), list):
            raise AnnotationError(
                f'{path}: video {video} is no table with a list "annotations"; '
                "ActivityNet's and BMN's forms have one for each video"
            )
        duration = _duration(path, video, entry)
        if duration is not None:
            durations[video] = duration
        if isinstance(entry.get("subset"), str):
            subsets[video] = entry["subset"].strip()
        for annotation in entry.get("annotations", []):
            label, start, end = _annotation(path, video, annotation)
            rows.append((video, label, start, end))
            if type(annotation.get("label_id")) is int:
                numbers[annotation["label_id"]] = label
    return _annotations(path, rows, database, durations, subsets, numbers)


def _duration(path: Path, video: str, entry: Mapping[str, Any]) -> float | None:
    """Return the length of a video; BMN's counts frames that its features do not reach."""
    where = f"{path}: video {video}"
    if "duration_second" not in entry:
        return _length(entry["duration"], where) if "duration" in entry else None
    seconds = _length(entry["duration_second"], where)
    frames, seen = (
        parse_number(entry.get(key) or 0, where) for key in ("duration_frame", "feature_frame")
    )
    return seconds * seen / frames if frames > 0 and seen > 0 else seconds


def _length(value: object, where: str) -> float:
    length_s = parse_number(value, where)
    if length_s <= 0:
        raise AnnotationError(f"{where}: a duration of {length_s:g} s must be > 0")
    return length_s


def _annotation(
    path: Path, video: str, annotation: Any, label: str | None = None
) -> tuple[str, float, float]:
    """Return label, start and end; without `label`, the annotation must have one."""
    try:
        start, end = annotation["segment"]
        label = annotation["label"] if label is None else annotation.get("label", label)
    except (KeyError, TypeError, ValueError):
        label = None
    if type(label) not in (str, int) or not str(label).strip():
        raise AnnotationError(
            f'{path}: video {video}: {str(annotation)[:80]} must have a "label" and "segment": '
            "[start, end]"
        )
    where = f"{path}: video {video}"
    return str(label).strip(), parse_number(start, where), parse_number(end, where)


def _detections_from_json(path: Path, numbers: Mapping[int, str]) -> Segments:
    record = _load(path)
    if "results" not in record:
        raise AnnotationError(
            f'{path} has no "results"; a submission is {{"results": {{video: [{{"label", "score", '
            '"segment"}]}}'
        )
    rows: list[Row] = []
    scores = []
    for video, found in _items(path, record["results"]):
        if not isinstance(found, list):
            raise AnnotationError(f"{path}: video {video}: its detections must be a list")
        for detection in found:
            label, start, end = _annotation(path, video, detection, label="proposal")
            if "score" not in detection:
                raise AnnotationError(f"{path}: video {video}: a detection has no score")
            rows.append((video, _named(label, numbers), start, end))
            scores.append(parse_number(detection["score"], f"{path}: video {video}"))
    return Segments.of(rows, scores)


def _named(label: str, numbers: Mapping[int, str]) -> str:
    """Return the label behind a number, where the truth numbers its labels."""
    return numbers.get(int(label), label) if label.isdecimal() else label


def _load(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise AnnotationError(f"{path} must hold one JSON object, with a key for each video")
    return record


def _items(path: Path, table: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(table, dict):
        raise AnnotationError(f"{path} must name videos; it holds {type(table).__name__} instead")
    return table.items()


# CSV


CsvRows = Sequence[tuple[str, Mapping[str, str]]]


def _from_csv(path: Path, label_column: str) -> Annotations:
    columns, rows = csv_rows(path)
    forms: dict[str, tuple[Callable[[Path, CsvRows, str], Annotations], Sequence[str]]] = {
        "start_s": (_from_plain, PLAIN_COLUMNS),
        "actions": (_from_charades, ("id",)),
        "start_timestamp": (_from_epic, ("video_id", label_column, "stop_timestamp")),
        "startFrame": (_from_afsd, ("video", "type", "start", "end")),
    }
    for column, (reader, needed) in forms.items():
        if column in columns:
            check_column(path, columns, *needed)
            return reader(path, rows, label_column)
    raise AnnotationError(
        f"{path}: its columns {', '.join(columns) or '(none)'} are of no known form; the plain one "
        f"has {', '.join(PLAIN_COLUMNS)}"
    )


def _from_plain(path: Path, records: CsvRows, _: str) -> Annotations:
    rows: list[Row] = []
    durations: dict[str, float] = {}
    subsets: dict[str, str] = {}
    videos = []
    for where, record in records:
        video = _field(where, record, "video")
        videos.append(video)
        if record.get("subset"):
            _note_once(subsets, video, record["subset"], where)
        if record.get("duration_s"):
            _note_once(durations, video, _length(record["duration_s"], where), where)
        if any(record[column] for column in PLAIN_COLUMNS[1:]):
            label = _field(where, record, "label")
            start, end = (parse_number(record[column], where) for column in PLAIN_COLUMNS[2:])
            rows.append((video, label, start, end))
    return _annotations(path, rows, videos, durations, subsets)


def _note_once(noted: dict[str, Any], video: str, value: Any, where: str) -> None:
    if noted.setdefault(video, value) != value:
        raise AnnotationError(
            f'{where}: video {video} is of "{noted[video]}" in a row before, and here of "{value}"'
        )


def _from_charades(path: Path, records: CsvRows, _: str) -> Annotations:
    rows: list[Row] = []
    durations = {}
    videos = []
    for where, record in records:
        video = _field(where, record, "id")
        videos.append(video)
        if record.get("length"):
            durations[video] = _length(record["length"], where)
        for action in filter(None, record["actions"].split(";")):
            parts = action.split()
            if len(parts) != 3:
                raise AnnotationError(f'{where}: "{action}" must be class start end')
            start, end = (parse_number(part, where) for part in parts[1:])
            rows.append((video, parts[0], start, end))
    return _annotations(path, rows, videos, durations, {})


def _from_epic(path: Path, records: CsvRows, label_column: str) -> Annotations:
    rows: list[Row] = []
    for where, record in records:
        video, label = (_field(where, record, name) for name in ("video_id", label_column))
        start, end = (_clock(record[f"{edge}_timestamp"], where) for edge in ("start", "stop"))
        rows.append((video, label, start, end))
    return _annotations(path, rows, [], {}, {})


def _from_afsd(path: Path, records: CsvRows, _: str) -> Annotations:
    rows: list[Row] = []
    numbers = {}
    for where, record in records:
        video, label = (_field(where, record, name) for name in ("video", "type"))
        start, end = (parse_number(record[edge], where) for edge in ("start", "end"))
        rows.append((video, label, start, end))
        if record.get("type_idx", "").isdecimal():
            numbers[int(record["type_idx"])] = label
    return _annotations(path, rows, [], {}, {}, numbers)


def _detections_from_csv(path: Path, numbers: Mapping[int, str]) -> Segments:
    columns, records = csv_rows(path)
    check_column(path, columns, "video", "start_s", "end_s", "score")
    rows: list[Row] = []
    scores = []
    for where, record in records:
        if not record["score"] and not record["start_s"]:
            continue  # a video without a detection
        start, end, score = (parse_number(record[c], where) for c in ("start_s", "end_s", "score"))
        rows.append((record["video"], _named(record.get("label", ""), numbers), start, end))
        scores.append(score)
    return Segments.of(rows, scores)


def _field(where: str, record: Mapping[str, str], column: str) -> str:
    if not record[column]:
        raise AnnotationError(f"{where}: {column} is empty")
    return record[column]


def _clock(text: str, where: str) -> float:
    """Return the seconds of HH:MM:SS.mmm."""
    if (match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", text)) is None:
        raise AnnotationError(f'{where}: "{text}" is no HH:MM:SS.mmm')
    hours, minutes, seconds = map(float, match.groups())
    return hours * 3600 + minutes * 60 + seconds


# THUMOS'14 text


def _from_thumos(folder: Path) -> Annotations:
    rows: list[Row] = []
    subsets = {}
    files = [(file, _THUMOS_FILE.fullmatch(file.name)) for file in sorted(folder.glob("*.txt"))]
    for file, name in files:
        if name is None:
            continue
        for number, line in enumerate(read_lines(file), 1):
            where, parts = f"{file}, row {number}", line.split()
            if not parts:
                continue
            if len(parts) != 3:
                raise AnnotationError(f"{where}: {line.strip()!r} must be video start end")
            start, end = (parse_number(part, where) for part in parts[1:])
            rows.append((parts[0], name["label"], start, end))
            subsets[parts[0]] = "validation" if name["subset"] == "val" else "test"
    if not rows:
        raise AnnotationError(
            f"{folder} holds no <Class>_val.txt or <Class>_test.txt with instances; a folder is "
            "read as THUMOS'14's text"
        )
    numbers = {}
    if (folder / _THUMOS_LABELS).is_file():
        for number, line in enumerate(read_lines(folder / _THUMOS_LABELS), 1):
            parts = line.split()
            if len(parts) != 2 or not parts[0].isdecimal():
                raise AnnotationError(
                    f"{folder / _THUMOS_LABELS}, row {number}: {parts} must be number class"
                )
            numbers[int(parts[0])] = parts[1]
    return _annotations(folder, rows, [], {}, subsets, numbers)


def _detections_from_text(path: Path, numbers: Mapping[int, str]) -> Segments:
    """Read `video[.mpeg] start end class score`; an end before the start is put in order."""
    rows: list[Row] = []
    scores = []
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 5:
            raise AnnotationError(
                f"{path}, row {number}: {line.strip()!r} must be video start end class score"
            )
        one, other, score = (parse_number(parts[i], f"{path}, row {number}") for i in (1, 2, 4))
        video, label = parts[0].removesuffix(".mpeg"), _named(parts[3], numbers)
        rows.append((video, label, min(one, other), max(one, other)))
        scores.append(score)
    return Segments.of(rows, scores)
