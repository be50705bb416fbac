"""The videos of a data set: `Video` and `Dataset`, checked where they are made."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from flowpipe.errors import AnnotationError, nearest_name, some


@dataclass(frozen=True)
class Span:
    """A part of a video, [start, end), in seconds or in frames.

    Raises
    ------
    AnnotationError
        If not 0 ≤ start < end.
    """

    start: float
    end: float
    unit: Literal["s", "frame"] = "s"

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.end and math.isfinite(self.end)):
            raise AnnotationError(f"part {self} of a video must have 0 <= start < end")
        if self.unit == "frame" and (self.start % 1 or self.end % 1):
            raise AnnotationError(f"part {self} of a video must begin and end at whole frames")

    def __str__(self) -> str:
        start, end = (f"{v:.3f}".rstrip("0").rstrip(".") for v in (self.start, self.end))
        return f"{start}-{end}{'s' if self.unit == 's' else 'f'}"


@dataclass(frozen=True)
class Video:
    """One video, or one part of a longer one.

    Attributes
    ----------
    id : str
        Path relative to the root, with forward slashes: the video's name in the cache. Of a
        part it ends in its times: `long.mp4@12.5-18s`.
    path : Path
        Where the file is.
    labels : tuple of str
        Class names; none where the class is unknown.
    group : str or None
        What a split must keep together: an actor, or the film a clip was cut from.
    folds : tuple of str
        Folds of cross-validation in which it is a *test* video. In the others it trains, unless
        the data set has a fold "train": then only the videos of that one train.
    unused : tuple of str
        Folds in which it neither trains nor tests.
    span : Span or None
        The part of the file; None for all of it.

    Raises
    ------
    AnnotationError
        If the id is empty, absolute, holds `..` or a control character, a label is empty or
        given twice, or a fold cannot be the name of a folder.
    """

    id: str
    path: Path
    labels: tuple[str, ...] = ()
    group: str | None = None
    folds: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    span: Span | None = None

    def __post_init__(self) -> None:
        check_id(self.id)
        for name in ("labels", "folds", "unused"):
            if not isinstance(value := getattr(self, name), tuple):
                raise AnnotationError(f'"{self.id}": {name} {value!r} must be a tuple of names')
        if not all(label.strip() for label in self.labels):
            raise AnnotationError(f'"{self.id}": label is empty; give a class name, or none')
        if len(set(self.labels)) < len(self.labels):
            raise AnnotationError(
                f'"{self.id}": labels {", ".join(self.labels)}: one is given twice; give each once'
            )

        for fold in (*self.folds, *self.unused):
            if fold in ("", ".", "..") or not fold.isprintable() or re.search(r"[/\\:]", fold):
                raise AnnotationError(
                    f'"{self.id}": fold {fold!r} cannot be the name of a folder; use letters, '
                    "digits, - or _"
                )

    @property
    def name(self) -> str:
        """The id of the whole file: its name in the cache."""
        return self.id if self.span is None else self.id.removesuffix(f"@{self.span}")

    @property
    def label(self) -> str | None:
        """The first label; None where the class is unknown."""
        return self.labels[0] if self.labels else None


@dataclass(frozen=True)
class Dataset:
    """Videos and the classes their labels are drawn from.

    Attributes
    ----------
    videos : tuple of Video
        In the order of the list.
    classes : tuple of str
        Class names; the position is the class number. Sorted, unless the data set comes with
        an official index. Both halves of a split keep all classes of the whole.
    notes : tuple of str
        Sentences on what was noticed while reading: videos left out, how groups were found.

    Raises
    ------
    AnnotationError
        If there is no video, an id is given twice, or a label is not among the classes.
    """

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.videos:
            raise AnnotationError("no video is listed; at least one is needed")
        counts = Counter(video.id for video in self.videos)
        if twice := [video_id for video_id, count in counts.items() if count > 1]:
            raise AnnotationError(f"{some(twice)} listed more than once; keep one line for each")
        known = set(self.classes)
        if len(known) != len(self.classes):
            raise AnnotationError("a class name is given twice; class names must differ")
        for video in self.videos:
            for label in video.labels:
                if label not in known:
                    raise AnnotationError(
                        f'"{video.id}": label "{label}" is not among the '
                        f"{len(known)} classes{nearest_name(label, known)}"
                    )

    def __len__(self) -> int:
        return len(self.videos)

    def __repr__(self) -> str:
        return f"Dataset({len(self.videos)} videos, {len(self.classes)} classes)"


def video_of_id(video_id: str) -> Video:
    """Return a video, or a part of one, of which only the id is known."""
    match = re.fullmatch(r"(.+)@([\d.]+)-([\d.]+)([sf])", video_id)
    if match is None:
        return Video(video_id, Path(video_id))
    span = Span(float(match[2]), float(match[3]), "s" if match[4] == "s" else "frame")
    return Video(video_id, Path(match[1]), span=span)


def check_id(video_id: str) -> None:
    """Refuse an id that is no path below the root, or would break a line of text."""
    path = PurePosixPath(video_id)
    if not path.name:
        raise AnnotationError(f'video path "{video_id}" is empty; give a path below the root')
    if path.is_absolute() or re.match(r"[A-Za-z]:[\\/]", video_id):
        raise AnnotationError(f'"{video_id}" is absolute; paths must be relative to the root')
    if ".." in path.parts:
        raise AnnotationError(f'"{video_id}" holds ".."; paths must stay below the root')
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in video_id):
        raise AnnotationError(f"{video_id!r} holds a control character; rename the file")
