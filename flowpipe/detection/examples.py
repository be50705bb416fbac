"""From boxes in a file and videos to key frames that a network learns from, counted."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.detection.annotations import (
    KeyFrame,
    read_boxes,
    read_key_frames,
    read_label_map,
    read_tubes,
)
from flowpipe.detection.matlab import read_matlab_tubes
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.localisation.annotations import names_in
from flowpipe.metrics.boxes import Boxes

Say = Callable[[str], None]
# A second counts as on show at the frame nearest to it, if that is within so many seconds.
NEAR_S = 0.5
# Shares beyond 1 by rounding; AVA has none.
SHARE_SLACK = 1e-3
MICRO = 1e6
_MIRRORED = re.compile(r"(?<![a-z])(left|right|(counter|anti)?clockwise|c?cw)(?![a-z])")


@dataclass(frozen=True)
class Truth:
    """Boxes as a file has them.

    Attributes
    ----------
    boxes : Boxes
        Key frames are (video, millionths of `unit`).
    unit : "s" or "frame"
    normalised : bool
        Whether corners are shares of the picture's sides.
    """

    boxes: Boxes
    unit: str
    normalised: bool


@dataclass(frozen=True)
class Example:
    """A key frame with the boxes of its persons; a negative one has none.

    Attributes
    ----------
    key : (str, int)
        Its video and moment as the annotations have them.
    video : str
        Its name in the cache.
    frame : int
        Of the cached frames.
    boxes : array of N×4
        x1, y1, x2, y2 in px of the cached frames.
    targets : array of N×K bool
        Which classes each person has; none: does nothing of these.
    """

    key: KeyFrame
    video: str
    frame: int
    boxes: npt.NDArray[np.float64]
    targets: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.targets), 4):
            raise InvalidArgument(
                f"{self.key}: boxes {self.boxes.shape} and targets {self.targets.shape} must have "
                "a row for each person"
            )


@dataclass
class Use:
    """What became of the rows of a file: used, dropped by reason, and how many of each class."""

    boxes: int = 0
    key_frames: int = 0
    negative_key_frames: int = 0
    videos: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_key_frames: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return lines of a table: what, boxes (or labels), key frames."""
        lines = [
            ("used", str(self.boxes), str(self.key_frames)),
            ("  of these without persons", "", str(self.negative_key_frames)),
        ]
        lines += [
            (f"  label {name}", str(count), "") for name, count in sorted(self.labels.items())
        ]
        reasons = dict.fromkeys([*self.dropped, *self.dropped_key_frames])
        lines += [
            (f"dropped: {r}", str(self.dropped[r]), str(self.dropped_key_frames[r] or ""))
            for r in reasons
        ]
        return lines


def read_truth(
    path: Path, names: dict[str, str] | None = None, normalised: bool | None = None
) -> Truth:
    """Read boxes of persons: AVA's CSV, the plain one, tubes as CSV or .mat.

    Parameters
    ----------
    path : Path
    names : dict, optional
        AVA's label map.
    normalised : bool, optional
        Whether corners are shares; None: those of AVA's form are, others are px.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or is a pickle.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise AnnotationError(
            f"{path} is a pickle, which may run any program when it is opened; convert it where "
            "you trust it: rows video,tube,label,frame,x,y,w,h (frames from 0) of gttubes, or "
            "video,time_s,x1,y1,x2,y2,label,person"
        )
    if path.is_dir() or path.suffix.lower() == ".mat":
        tubes = read_matlab_tubes(path)
    else:
        header = _first_line(path)
        if {"frame", "w", "h"} <= set(header):
            tubes = read_tubes(path)
        else:
            boxes = read_boxes(path, names)
            plain = bool(header) and header[0] == "video"
            unit = "frame" if plain and "time_s" not in header else "s"
            return Truth(boxes, unit, not plain if normalised is None else normalised)
    rows = [
        ((tube.video, round(int(frame) * MICRO)), tube.label, box)
        for tube in tubes
        for frame, box in zip(tube.frames, tube.boxes, strict=True)
    ]
    return Truth(boxes_of(rows), "frame", bool(normalised))


def boxes_of(
    rows: Sequence[tuple[KeyFrame, str, npt.NDArray[np.float64]]],
    scores: Sequence[float] | None = None,
    empty: Collection[KeyFrame] = (),
) -> Boxes:
    """Return rows (key frame, label, box) as `Boxes`."""
    frames: npt.NDArray[np.object_] = np.empty(len(rows), object)
    labels: npt.NDArray[np.object_] = np.empty(len(rows), object)
    frames[:] = [row[0] for row in rows]
    labels[:] = [row[1] for row in rows]
    corners = np.array([row[2] for row in rows], np.float64).reshape(len(rows), 4)
    column = None if scores is None else np.asarray(scores, np.float64)
    return Boxes(frames, labels, corners, column, frozenset(empty))


def mirrored(classes: Iterable[str]) -> bool:
    """Return whether a class says left, right or clockwise: its mirror image is another action."""
    return any(_MIRRORED.search(name.lower()) for name in classes)


class KeyFrames:
    """Finds the cached frame of a key frame, and its boxes in px.

    Parameters
    ----------
    cache : Cache
    videos : sequence of str
        As the annotations have them.
    unit, normalised
        Those of a `Truth`.
    offset_s : float
        Time of a video's first frame in the annotations' count: 900 for AVA.
    """

    def __init__(
        self,
        cache: Any,
        videos: Sequence[str],
        *,
        unit: str = "s",
        normalised: bool = False,
        offset_s: float = 0.0,
    ) -> None:
        self.unit, self.normalised, self.offset_s = unit, normalised, offset_s
        self._cache = cache
        self.names = names_in(cache.names(), list(dict.fromkeys(videos)))
        self._facts: dict[str, tuple[Any, ...]] = {}

    def _of(self, video: str) -> tuple[Any, ...]:
        """Return times, (width, height) of the cache and of the file, and the file's rate."""
        if video not in self._facts:
            entry = self._cache[self.names[video]]
            source = json.loads(str(entry.attributes["source"]))
            size = (entry.width, entry.height)
            file = (source["width"], source["height"])
            fps = source.get("average_fps") if entry.flow_recipe.fps is not None else None
            self._facts[video] = (entry.pts_s - entry.pts_s[0], size, file, fps)
        return self._facts[video]

    def frame(self, key: KeyFrame) -> int | None:
        """Return the frame on show at a key frame, None where its video has ended or not begun."""
        times_s, _, _, fps = self._of(key[0])
        value = key[1] / MICRO
        if self.unit == "frame" and fps is None:
            return int(value) if 0 <= value < len(times_s) else None
        moment_s = value / fps if self.unit == "frame" else value - self.offset_s
        frame = int(np.abs(times_s - moment_s).argmin())
        return frame if abs(times_s[frame] - moment_s) <= NEAR_S else None

    def moment(self, video: str, frame: int) -> int:
        """Return the moment of a cached frame, in millionths of the unit."""
        times_s, _, _, fps = self._of(video)
        if self.unit == "frame":
            return round((frame if fps is None else round(times_s[frame] * fps)) * MICRO)
        return round((float(times_s[frame]) + self.offset_s) * MICRO)

    def scale(self, video: str) -> npt.NDArray[np.float64]:
        """Return by what the annotations' corners are multiplied to be px of cached frames."""
        _, size, file, _ = self._of(video)
        whole = (1.0, 1.0) if self.normalised else file
        return np.tile(np.divide(size, whole), 2)

    def to_px(self, key: KeyFrame, box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return a box in px of the cached frame.

        Raises
        ------
        AnnotationError
            If it is empty, or reaches out of the frame by more than a px.
        """
        video = key[0]
        file = self._of(video)[2]
        limit = np.tile((1.0, 1.0) if self.normalised else file, 2)
        slack = SHARE_SLACK if self.normalised else 1.0
        if (box < -slack).any() or (box > limit + slack).any() or (box[2:] <= box[:2]).any():
            bounds = "[0, 1]" if self.normalised else f"its frame of {file[0]}×{file[1]} px"
            moment = f"{key[1] / MICRO:g} {self.unit}"
            raise AnnotationError(
                f"{video} at {moment}: box {[round(v, 4) for v in box.tolist()]} must have x1 < "
                f"x2, y1 < y2 and lie in {bounds}; [data] normalised says whether corners are "
                "shares of the sides or px"
            )
        scaled: npt.NDArray[np.float64] = box.clip(0, limit) * self.scale(video)
        return scaled


def make_examples(
    truth: Truth,
    classes: Sequence[str],
    cache: Any,
    *,
    offset_s: float = 0.0,
    excluded: Collection[KeyFrame] = (),
) -> tuple[list[Example], Use, KeyFrames]:
    """Return the key frames of a truth that can be used, and what became of its rows.

    Raises
    ------
    AnnotationError
        If a box lies outside of its frame, or nothing is left.
    """
    boxes = truth.boxes
    videos = [key[0] for key in (*boxes.frames, *boxes.empty_frames)]
    places = KeyFrames(
        cache, videos, unit=truth.unit, normalised=truth.normalised, offset_s=offset_s
    )
    numbers = {name: number for number, name in enumerate(classes)}
    empty = sorted(boxes.empty_frames)  # type: ignore[type-var]
    grouped: dict[Any, list[int]] = {key: [] for key in empty}
    for row, key in enumerate(boxes.frames):
        grouped.setdefault(key, []).append(row)
    use, examples = Use(), []
    for key, rows in grouped.items():
        reason, frame = "", None
        if key in excluded:
            reason = "excluded"
        elif key[0] not in places.names:
            reason = "video is missing"
        else:
            frame = places.frame(key)
            reason = "" if frame is not None else "outside of its video"
        if frame is None:
            use.dropped[reason] += len(rows)
            use.dropped_key_frames[reason] += 1
            continue
        persons: dict[tuple[float, ...], npt.NDArray[np.bool_]] = {}
        for row in rows:
            label = boxes.labels[row]
            corners = tuple(places.to_px(key, boxes.boxes[row]).tolist())
            targets = persons.setdefault(corners, np.zeros(len(classes), bool))
            if label in numbers:
                targets[numbers[label]] = True
                use.labels[label] += 1
            elif label:
                use.dropped["label is not among the classes"] += 1
        use.boxes += len(persons)
        use.key_frames += 1
        use.negative_key_frames += not persons
        examples.append(
            Example(
                key,
                places.names[key[0]],
                frame,
                np.array(list(persons), np.float64).reshape(-1, 4),
                np.array(list(persons.values()), bool).reshape(-1, len(classes)),
            )
        )
    use.videos = len({example.video for example in examples})
    if not use.boxes:
        shown = "; ".join(f"{reason}: {count}" for reason, count in use.dropped.items())
        raise AnnotationError(f"no box is left to use ({shown or 'there is none'})")
    return examples, use, places


def with_found(
    examples: Sequence[Example],
    found: dict[tuple[str, int], npt.NDArray[np.float64]],
    *,
    same: float,
    other: float = 0.3,
) -> list[Example]:
    """Add found boxes: with the labels of a true one at IoU ≥ `same`, with none below `other`.

    What lies between teaches nothing.
    """
    from flowpipe.detection.persons.boxes import overlaps

    added = []
    for example in examples:
        boxes = found.get((example.video, example.frame), np.zeros((0, 4)))
        if not len(example.boxes):
            targets = np.zeros((len(boxes), example.targets.shape[1]), bool)
        elif len(boxes):
            overlap = overlaps(boxes, example.boxes)
            best = overlap.argmax(axis=1)
            share = overlap[np.arange(len(boxes)), best]
            kept = (share >= same) | (share < other)
            targets = (example.targets[best] & (share >= same)[:, None])[kept]
            boxes = boxes[kept]
        else:
            added.append(example)
            continue
        added.append(
            replace(
                example,
                boxes=np.concatenate([example.boxes, boxes]),
                targets=np.concatenate([example.targets, targets]),
            )
        )
    return added


def classes_in(truth: Truth, names: dict[str, str] | None) -> tuple[str, ...]:
    """Return the classes: those of the label map, else all labels of the truth."""
    if names:
        return tuple(dict.fromkeys(names.values()))
    return tuple(sorted({str(label) for label in truth.boxes.labels} - {""}))


def labels_of(path: Path | None) -> dict[str, str] | None:
    """Return a label map where there is one."""
    return None if path is None else read_label_map(path)


def excluded_of(path: Path | None) -> frozenset[KeyFrame]:
    """Return the excluded key frames where there are some."""
    return frozenset() if path is None else read_key_frames(path)


def _first_line(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return [name.strip() for name in file.readline().split(",")]
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error
