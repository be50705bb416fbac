"""The videos of a data set: `Video` and `Dataset`, checked where they are made."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flowpipe.errors import AnnotationError, nearest_name

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes
    ----------
    id : str
        Path relative to the root, with forward slashes; the video's name in the cache.
    path : Path
        Where the file stands.
    label : str or None
        Class name; None if unknown. Of several labels the first.
    fold : str or None
        Fold of cross-validation to which the video belongs as a *test* video.
    group : str or None
        What must not be torn apart by a split: an actor, or the film a clip was cut from.
    more_labels : tuple of str
        The labels behind the first, of a video that has several.

    Raises
    ------
    AnnotationError
        If the id is empty, absolute, holds `..` or a control character, or a label is empty or
        stands twice.
    """

    id: str
    path: Path
    label: str | None = None
    fold: str | None = None
    group: str | None = None
    more_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.id)
        labels = self.labels
        if not all(label.strip() for label in labels) or (self.more_labels and not self.label):
            raise AnnotationError(f'"{self.id}": label is empty; give a class name or None')
        if len(set(labels)) < len(labels):
            raise AnnotationError(
                f'"{self.id}": labels {", ".join(labels)}: one stands twice; give each once'
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels; none where the class is unknown."""
        return (() if self.label is None else (self.label,)) + self.more_labels


@dataclass(frozen=True)
class Dataset:
    """Videos and the classes their labels are drawn from.

    Attributes
    ----------
    records : tuple of Video
        In the order of the list.
    classes : tuple of str
        Class names; the position is the class number. Sorted, unless the data set comes with
        an official index. Both halves of a split keep all classes of the whole.

    Raises
    ------
    AnnotationError
        If there is no record, an id stands twice, or a label is not among the classes.
    """

    records: tuple[Video, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.records:
            raise AnnotationError("no video is listed; at least one is needed")
        counts = Counter(record.id for record in self.records)
        twice = [video_id for video_id, count in counts.items() if count > 1]
        if twice:
            raise AnnotationError(f"{some(twice)} listed more than once; keep one line for each")
        if len(set(self.classes)) != len(self.classes):
            raise AnnotationError("a class name stands twice; class names must differ")
        known = set(self.classes)
        for record in self.records:
            for label in record.labels:
                if label not in known:
                    raise AnnotationError(
                        f'"{record.id}": label "{label}" is not among the '
                        f"{len(known)} classes{nearest_name(label, known)}"
                    )

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"Dataset({len(self.records)} videos, {len(self.classes)} classes)"


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


def some(names: Sequence[str]) -> str:
    """Give the first few names, quoted, and how many more there are."""
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
