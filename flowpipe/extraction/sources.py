"""What a person names as sources → videos with names and labels."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.video import VIDEO_EXTENSIONS, find_videos

LIST_EXTENSIONS = frozenset((".csv", ".txt"))
KEY_BYTES = 2**16
VIDEO_COLUMNS = ("video", "clip", "path", "file", "filename", "name")


@dataclass(frozen=True)
class Source:
    """A video: where it is, under which name it stands in the cache, and its label."""

    path: Path
    name: str
    label: str | None = None


Given: TypeAlias = str | os.PathLike[str] | Source


def find_sources(given: Sequence[Given]) -> tuple[list[Source], list[Source]]:
    """Turn videos, directories and lists into videos.

    ::

        clip.avi              name "clip.avi", no label
        ucf101/               every video below it: name "Archery/v_1.avi", label "Archery"
        list.csv, list.txt    paths relative to the list's folder; the column `label`, if any

    Where two sources give the same name to different files, each name gets the name of its
    source in front.

    Returns
    -------
    sources, empty : list of Source
        The videos in the order given, each path once; and the directories that hold none.

    Raises
    ------
    AnnotationError
        For a list that cannot be read.
    """
    found: list[tuple[Source, str]] = []
    empty: list[Source] = []
    for item in given:
        if isinstance(item, Source):
            found.append((item, ""))
            continue
        path = Path(item)
        if path.is_dir():
            videos = _from_directory(path)
            if not videos:
                empty.append(Source(path, path.name))
        elif path.suffix.lower() in LIST_EXTENSIONS and path.is_file():
            videos = _from_list(path)
        else:
            videos = [Source(path, clean_name(path.name))]
        found.extend((video, clean_name(path.resolve().name)) for video in videos)
    return _distinct(found), empty


def part_of(sources: Sequence[Source], number: int, count: int) -> list[Source]:
    """Give the videos of part `number` of `count`; each is in exactly one, by its content.

    The key is a digest of size, first and last bytes: reading each video wholly on each machine
    would cost more than it gives. A file that cannot be read goes by its name.

    Raises
    ------
    InvalidArgument
        If not 1 ≤ number ≤ count.
    """
    if not 1 <= number <= count:
        raise InvalidArgument(f"shard {number}/{count} must be i/n with 1 <= i <= n")
    return [source for source in sources if _content_key(source) % count == number - 1]


def _content_key(source: Source) -> int:
    try:
        with source.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            text = file.read(KEY_BYTES)
            file.seek(max(0, size - KEY_BYTES))
            text += b"%d" % size + file.read(KEY_BYTES)
    except OSError:
        text = source.name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def clean_name(name: str) -> str:
    """Write undecodable bytes and control characters as escapes: names go into lists and pages."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _from_directory(folder: Path) -> list[Source]:
    sources = []
    for path in find_videos(folder):
        inside = path.relative_to(folder)
        label = clean_name(inside.parts[0]) if len(inside.parts) > 1 else None
        sources.append(Source(path, clean_name(inside.as_posix()), label))
    return sources


def _from_list(list_file: Path) -> list[Source]:
    try:
        text = list_file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"list {list_file} cannot be read as UTF-8 text: {error}") from error
    rows = _csv_rows(list_file, text) if list_file.suffix.lower() == ".csv" else _txt_rows(text)
    sources = []
    for written, label in rows:
        path = Path(written)
        if path.name in ("", ".."):
            raise AnnotationError(f'list {list_file} names "{written}", which is no file')
        inside = not path.is_absolute() and ".." not in path.parts
        name = path.as_posix() if inside else path.name
        sources.append(Source(list_file.parent / path, clean_name(name), label or None))
    if not sources:
        raise AnnotationError(f"list {list_file} names no video; one path per line is enough")
    return sources


def _csv_rows(list_file: Path, text: str) -> list[tuple[str, str | None]]:
    reader = csv.DictReader(text.splitlines())
    columns = [column for column in VIDEO_COLUMNS if column in (reader.fieldnames or ())]
    if not columns:
        raise AnnotationError(
            f"list {list_file} has the columns {', '.join(reader.fieldnames or ['(none)'])}; "
            f"one of them must be called {', '.join(VIDEO_COLUMNS)}"
        )
    return [(row[columns[0]], row.get("label")) for row in reader if row[columns[0]]]


def _txt_rows(text: str) -> list[tuple[str, str | None]]:
    """One path per line; a class index behind it, as in UCF101's lists, is left out."""
    rows: list[tuple[str, str | None]] = []
    for line in text.splitlines():
        path, _, last = line.strip().rpartition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        indexed = last.isdigit() and Path(path.strip()).suffix.lower() in VIDEO_EXTENSIONS
        rows.append((path.strip() if indexed else line.strip(), None))
    return rows


def _distinct(found: Sequence[tuple[Source, str]]) -> list[Source]:
    by_path: dict[Path, tuple[Source, str]] = {}
    for source, origin in found:
        by_path.setdefault(Path(os.path.abspath(source.path)), (source, origin))  # noqa: PTH100
    names: dict[str, int] = {}
    for source, _ in by_path.values():
        names[source.name] = names.get(source.name, 0) + 1
    distinct = []
    for path, (source, origin) in by_path.items():
        name = source.name
        if names[name] > 1:
            # Of two single files the folder tells them apart, of two directories their names.
            front = origin if origin != name else clean_name(path.parent.name)
            name = f"{front}/{name}"
        distinct.append(replace(source, path=path, name=name))
    return _numbered(distinct)


def _numbered(sources: Sequence[Source]) -> list[Source]:
    seen: dict[str, int] = {}
    numbered = []
    for source in sources:
        count = seen[source.name] = seen.get(source.name, 0) + 1
        numbered.append(source if count == 1 else replace(source, name=f"{source.name}~{count}"))
    return numbered
