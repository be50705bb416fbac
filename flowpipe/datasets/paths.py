"""What a person names, paths, folders and lists → videos with names for the cache."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from flowpipe.datasets.readers import (
    clean_name,
    csv_videos,
    folder_videos,
    list_videos,
)
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.tables import csv_rows, find_column

KEY_BYTES = 2**16

Given: TypeAlias = str | os.PathLike[str] | Video | Dataset


def videos_of(given: Given | Sequence[Given]) -> tuple[list[Video], list[Path]]:
    """Turn videos, directories, lists and data sets into videos.

    ::

        clip.avi              id "clip.avi", no label
        ucf101/               every video below it: id "Archery/v_1.avi", label "Archery"
        list.csv, list.txt    paths relative to the list's folder; labels as in `from_csv` (from
                              the column `label`, if there is one) and `from_list`
        Video, Dataset        as they are; of parts of a video the whole file

    Where two of them give the same id to different files, each id gets the name of what it came
    from in front.

    Returns
    -------
    videos : list of Video
        In the order given, each path once.
    empty : list of Path
        The directories that hold no video.

    Raises
    ------
    AnnotationError
        For a list that cannot be read or names no video.
    """
    items = [given] if isinstance(given, str | os.PathLike | Video | Dataset) else given
    found: list[tuple[Video, str]] = []
    empty: list[Path] = []
    for item in items:
        if isinstance(item, Video | Dataset):
            given_videos = (item,) if isinstance(item, Video) else item.videos
            found.extend((_whole(video), "") for video in given_videos)
            continue
        path = Path(item)
        videos = _videos_at(path)
        if not videos:
            empty.append(path)
        found.extend((_whole(video), clean_name(path.resolve().name)) for video in videos)
    return _distinct(found), empty


def part_of(videos: Sequence[Video], number: int, count: int) -> list[Video]:
    """Return part `number` of `count` of the videos; each is in exactly one, by its content.

    The key is a digest of size, first and last bytes: reading each video wholly on each machine
    would cost more than it gives. A file that cannot be read goes by its id.

    Raises
    ------
    InvalidArgument
        If not 1 ≤ number ≤ count.
    """
    if not 1 <= number <= count:
        raise InvalidArgument(f"shard {number}/{count} must be i/n with 1 <= i <= n")
    return [video for video in videos if _content_key(video) % count == number - 1]


def _videos_at(path: Path) -> Sequence[Video]:
    if path.is_dir():
        return folder_videos(path)
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or not path.is_file():
        return (Video(clean_name(path.name), path),)
    if path.suffix.lower() != ".txt":
        label = find_column(("label",), csv_rows(path)[0])
        videos = csv_videos(path, path.parent, label_column=label)
    else:
        videos = list_videos(path, path.parent)
    if not videos:
        raise AnnotationError(f"list {path} names no video; one path per line is enough")
    return videos


def _whole(video: Video) -> Video:
    """Return the file that a part is of; its labels are those of the part."""
    return video if video.span is None else replace(video, id=video.name, span=None, labels=())


def _content_key(video: Video) -> int:
    try:
        with video.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            text = file.read(KEY_BYTES)
            file.seek(max(0, size - KEY_BYTES))
            text += b"%d" % size + file.read(KEY_BYTES)
    except OSError:
        text = video.id.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def _distinct(found: Sequence[tuple[Video, str]]) -> list[Video]:
    by_path: dict[Path, tuple[Video, str]] = {}
    for video, origin in found:
        # Links are not followed: a name belongs to the path that was given.
        by_path.setdefault(Path(os.path.abspath(video.path)), (video, origin))  # noqa: PTH100
    counts = Counter(video.id for video, _ in by_path.values())
    used: Counter[str] = Counter()
    distinct = []
    for path, (video, origin) in by_path.items():
        video_id = video.id
        if counts[video_id] > 1:
            # Of two single files the folder tells them apart, of two directories their names.
            front = origin if origin not in ("", video_id) else clean_name(path.parent.name)
            video_id = f"{front}/{video_id}".strip("/")
        used[video_id] += 1
        if used[video_id] > 1:
            video_id = f"{video_id}~{used[video_id]}"
        distinct.append(replace(video, id=video_id, path=path))
    return distinct
