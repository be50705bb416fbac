"""Annotations of parts of videos, as annotation programs and ActivityNet write them.

==============  ==========================================================================
form            file
==============  ==========================================================================
boris           BORIS: tabular or aggregated events, tab- or comma-separated
elan            ELAN: "Export as tab-delimited text", tiers, times and annotations
label-studio    Label Studio: JSON export of video timelines or choices
via             VGG Image Annotator 3: CSV export of temporal segments
activitynet     ActivityNet's JSON: `{"database": {id: {"annotations": [...]}}}`
==============  ==========================================================================

Each row or annotation becomes a `Video` with a `Span`; parts of one time with several labels
become one with all of them. Videos are looked for below the root by the path that the file has,
else by name: programs write absolute paths of other machines.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from flowpipe.datasets.readers import (
    FOLD_WORDS,
    Files,
    Missing,
    make_dataset,
    make_video,
)
from flowpipe.datasets.video import Dataset, Span, Video
from flowpipe.errors import AnnotationError
from flowpipe.tables import parse_json, parse_number, read_json, read_lines

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_BORIS_MEDIA = ("Media file name at start", "Media file name", "Media file", "Media file path")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class Segment:
    """One annotated part: what the file calls the video, its label, and its times.

    `end` None is the whole video.
    """

    where: str
    video: str
    label: str
    start: float = 0.0
    end: float | None = None
    unit: Literal["s", "frame"] = "s"
    fold: str | None = None


def from_segments(
    path: str | Path, root: str | Path, form: str, *, missing: Missing = "refuse"
) -> Dataset:
    """Read the annotated parts of videos.

    Parameters
    ----------
    path : str or Path
    root : str or Path
        Folder of the videos.
    form : str
        One of `FORMS`: boris, elan, label-studio, via, activitynet.
    missing : {"refuse", "skip", "keep"}
        What to do with videos that are not on disk.

    Raises
    ------
    AnnotationError
        If the file is broken, holds no part with a label, or a video is missing.
    """
    path, root = Path(path), Path(root)
    if form not in FORMS:
        raise AnnotationError(f'form "{form}" must be one of: {", ".join(FORMS)}')
    files = Files(root)
    videos: dict[str, Video] = {}
    for segment in _read(path, form):
        found = files.find(_without_upload_prefix(files, segment.video))
        name = segment.video if found is None else found.relative_to(root).as_posix()
        try:
            span = None
            if segment.end is not None:
                span = Span(segment.start, segment.end, segment.unit)
        except AnnotationError as error:
            raise AnnotationError(f"{segment.where}: {error}") from error
        folds = (segment.fold,) if segment.fold else ()
        video = make_video(
            name, root, segment.where, labels=[segment.label], folds=folds, span=span
        )
        known = videos.get(video.id)
        if known is not None:  # several labels at one time
            labels = tuple(dict.fromkeys((*known.labels, *video.labels)))
            video = replace(known, labels=labels)
        videos[video.id] = video
    return make_dataset(list(videos.values()), path, missing=missing)


def _read(path: Path, form: str) -> list[Segment]:
    try:
        return list(FORMS[form](path))
    except AnnotationError:
        raise
    # What JSON of another shape does to the readers.
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise AnnotationError(
            f"{path}: not of the form {form} ({type(error).__name__}: {error}); export it anew"
        ) from error


def _boris(path: Path) -> Iterator[Segment]:
    """Rows with start and stop, or START and STOP events that belong together; points are none."""
    columns, rows = _table(path, "Behavior")
    media = next((column for column in _BORIS_MEDIA if column in columns), None)
    started: dict[tuple[str, str, str], float] = {}
    for where, row in rows:
        written = row.get(media or "") or row.get("Source", "")
        video = re.sub(r"^player #\d+:", "", written)
        label, subject = row["Behavior"], row.get("Subject", "")
        if not video or not label:
            raise AnnotationError(f"{where}: media file and Behavior must not be empty")
        if "Start (s)" in row and "Stop (s)" in row:
            start, end = _number(row["Start (s)"], where), _number(row["Stop (s)"], where)
            if end != start:  # a point has no length
                yield Segment(where, video, label, start, end)
            continue
        event = (row.get("Behavior type") or row.get("Status", "")).upper()
        time_s = _number(row.get("Time") or row.get("Time relative to start", ""), where)
        key = video, label, subject
        if event == "START":
            if key in started:
                raise AnnotationError(f'{where}: a second START of "{label}" before its STOP')
            started[key] = time_s
        elif event == "STOP":
            if key not in started:
                raise AnnotationError(f'{where}: STOP of "{label}" without a START before it')
            yield Segment(where, video, label, started.pop(key), time_s)
    if started:
        video, label, _ = next(iter(started))
        raise AnnotationError(f'{path}: START of "{label}" in {video} without a STOP')


def _elan(path: Path) -> Iterator[Segment]:
    """Rows of tier, times, annotation; the video is a column, or has the name of the file."""
    lines = [line.rstrip("\r\n").split("\t") for line in read_lines(path)]
    header = next((cells for cells in lines[:1] if any("Begin Time" in cell for cell in cells)), [])
    places = _elan_places(lines, header)
    for number, cells in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if cells == header or not any(cell.strip() for cell in cells):
            continue
        if len(cells) == 1:
            raise AnnotationError(f"{where}: the line has no tabs; export as tab-delimited text")
        start, end = _elan_times(cells, header, where)
        named = [cell for cell in cells if PurePosixPath(cell).suffix.lower() in (".eaf", ".mp4")]
        video = PurePosixPath(named[0] if named else path.name).stem
        labels = [cells[n].strip() for n in places if n < len(cells) and cells[n] not in named]
        if not any(labels):
            raise AnnotationError(f"{where}: the annotation is empty; give a label")
        for label in filter(None, labels):
            yield Segment(where, video, label, start, end)


def _elan_places(lines: list[list[str]], header: list[str]) -> list[int]:
    """Return the columns of annotations: one, or one for each tier; without a header the last."""
    if header:
        others = re.compile(".*(Time|Duration|File).*|Tier|Participant")
        return [n for n, name in enumerate(header) if not others.fullmatch(name.strip())]
    texts = [
        n
        for cells in lines
        for n, cell in enumerate(cells)
        if cell.strip() and PurePosixPath(cell).suffix.lower() not in (".eaf", ".mp4")
    ]
    return [max(texts, default=0)]


def _elan_times(cells: list[str], header: list[str], where: str) -> tuple[float, float]:
    """Return start and end in seconds: of `hh:mm:ss.ms`, else of seconds or milliseconds."""
    pairs = []
    for word in ("Begin Time", "End Time"):
        pairs.append([c for name, c in zip(header, cells, strict=False) if word in name])
    if not header:
        clocks = [cell for cell in cells if ":" in cell and _CLOCK.fullmatch(cell)]
        plain = [cell for cell in cells[1:] if re.fullmatch(r"\d+(\.\d+)?", cell)]
        pairs = [clocks[:1] or plain[:1], clocks[1:2] or plain[1:2]]
    if not all(pairs):
        raise AnnotationError(f"{where}: begin and end time must be among the columns")
    first, second = (next((c for c in cells_ if ":" in c), cells_[0]) for cells_ in pairs)
    return _seconds(first, where), _seconds(second, where)


def _label_studio(path: Path) -> Iterator[Segment]:
    """Timelines (frames, counted from 1, both ends inside), times in seconds, or choices."""
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise AnnotationError(f"{path}: must be a list of tasks, Label Studio's JSON export")
    for number, task in enumerate(tasks):
        where = f"{path}, task {task.get('id', number)}"
        data = task.get("data", {})
        video = next((str(v) for k, v in data.items() if k.startswith("video")), "")
        if not video:
            raise AnnotationError(f"{where}: its data names no video")
        parts = urlsplit(video)
        local = parse_qs(parts.query).get("d")
        video = unquote(local[0] if local else parts.path)
        given = []
        for annotation in task.get("annotations", []):
            if not annotation.get("was_cancelled"):
                results = annotation.get("result", [])
                given.append([s for r in results for s in _label_studio_result(r, where, video)])
        if any(set(own) != set(given[0]) for own in given):
            raise AnnotationError(
                f"{where}: its {len(given)} annotations differ; export one for each task, the one "
                "that is agreed on"
            )
        yield from given[0] if given else ()


def _label_studio_result(result: Mapping[str, Any], where: str, video: str) -> Iterator[Segment]:
    value = result.get("value", {})
    labels = [str(label) for label in value.get(result.get("type", ""), [])]
    for label in labels:
        for part in value.get("ranges", []):
            start, end = (parse_number(part[edge], where) for edge in ("start", "end"))
            yield Segment(where, video, label, max(0.0, start - 1), end, "frame")
        if "ranges" not in value and "start" in value and "end" in value:
            start, end = (parse_number(value[edge], where) for edge in ("start", "end"))
            yield Segment(where, video, label, start, end)
        if result.get("type") == "choices":
            yield Segment(where, video, label)


def _via(path: Path) -> Iterator[Segment]:
    """Rows of temporal segments; an attribute's value is the label, its option's text if it has."""
    names = ["metadata_id", "file_list", "flags", "temporal_coordinates", "spatial", "metadata"]
    options: dict[str, dict[str, str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}, line {number}"
        if line.startswith("#") or not line.strip():
            if match := re.match(r"#\s*ATTRIBUTE\s*=\s*(\{.*\})", line):
                table = parse_json(match[1], where)
                options = {key: a.get("options") or {} for key, a in table.items()}
            continue
        row = dict(zip(names, next(csv.reader([line], skipinitialspace=True)), strict=False))
        if row.keys() != set(names):
            raise AnnotationError(f"{where}: must have the columns {', '.join(names)}")
        if row["metadata_id"] == "metadata_id":
            continue
        times = parse_json(row["temporal_coordinates"], where)
        if not isinstance(times, list) or len(times) != 2:
            continue  # a region of one frame
        (video, *_) = parse_json(row["file_list"], where)
        start, end = (parse_number(time, where) for time in times)
        for key, value in parse_json(row["metadata"], where).items():
            texts = options.get(key, {})
            chosen = str(value).split(",")  # several boxes may be ticked
            for part in chosen if set(chosen) <= set(texts) else [str(value)]:
                yield Segment(where, str(video), texts.get(part, part), start, end)


def _activitynet(path: Path) -> Iterator[Segment]:
    table = read_json(path)
    if not isinstance(table, dict) or not isinstance(table.get("database"), dict):
        raise AnnotationError(f'{path}: must hold {{"database": {{id: …}}}}, as of ActivityNet')
    for video, entry in table["database"].items():
        where = f"{path}, {video}"
        fold = entry.get("subset") or None
        fold = FOLD_WORDS.get(fold.lower(), fold) if fold else None
        for annotation in entry.get("annotations", []):
            start, end = (parse_number(value, where) for value in annotation["segment"])
            label = annotation["label"]
            if not isinstance(label, str | int):
                raise AnnotationError(f"{where}: label {label!r} must be a name")
            yield Segment(where, str(video), str(label), start, end, fold=fold)


FORMS: Mapping[str, Callable[[Path], Iterator[Segment]]] = {
    "boris": _boris,
    "elan": _elan,
    "label-studio": _label_studio,
    "via": _via,
    "activitynet": _activitynet,
}


def _table(path: Path, column: str) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the rows below the header, which has `column`; lines above it are left out."""
    lines = read_lines(path)
    for delimiter in "\t,;":
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
        place = next((n for n, row in enumerate(rows) if column in row and len(row) > 1), None)
        if place is not None:
            break
    else:
        raise AnnotationError(f'{path}: no line is a header with the column "{column}"')
    header = rows[place]
    return header, [
        (f"{path}, line {number}", dict(zip(header, row, strict=False)))
        for number, row in enumerate(rows[place + 1 :], start=place + 2)
        if any(row)
    ]


def _without_upload_prefix(files: Files, video: str) -> str:
    """Return the name before Label Studio's upload put eight hex digits in front."""
    name = PurePosixPath(video.replace("\\", "/")).name
    shorter = _UPLOAD_PREFIX.sub("", name)
    return shorter if shorter != name and files.find(video) is None else video


def _seconds(text: str, where: str) -> float:
    """Return seconds of `hh:mm:ss.ms`, of seconds with a point, or of whole milliseconds."""
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match.groups(default="0")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    value = _number(text, where)
    return value if "." in text else value / 1000


def _number(text: str, where: str) -> float:
    try:
        return parse_number(text.replace(",", "."), where)
    except AnnotationError as error:
        raise AnnotationError(f'{where}: time "{text}" must be a number of seconds') from error
