"""Which names and labels point to which entries: JSON lines, one file per writing process.

No line is ever changed, so several processes and machines may write at once. A later line for
the same name and path displaces an earlier one: the video's content, or its label, has changed.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST_FOLDER = "manifest"
FAILURES_FILE = "failures.jsonl"


@dataclass(frozen=True)
class ManifestRow:
    """One name of one entry.

    `size` (bytes) and `mtime_ns` are a memo of the file at `path`: while they stay, its digest
    is taken from here.
    """

    name: str
    label: str | None
    digest: str
    recipe: str
    path: str
    size: int
    mtime_ns: int
    time: float


@dataclass(frozen=True)
class FailureRow:
    """A video that gave no entry under a recipe, and why."""

    name: str
    path: str
    digest: str
    recipe: str
    reason: str
    time: float


class ManifestWriter:
    """Append rows to a file of this process's own."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / MANIFEST_FOLDER
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self._path = self._folder / f"{stamp}-{host}-{os.getpid()}-{secrets.token_hex(3)}.jsonl"

    def add(self, row: ManifestRow) -> None:
        self.add_all([row])

    def add_all(self, rows: Iterable[ManifestRow]) -> None:
        """Append several rows by one write."""
        if records := [asdict(row) for row in rows]:
            self._folder.mkdir(parents=True, exist_ok=True)
            append_lines(self._path, records)


def add_failure(cache: Path, row: FailureRow) -> None:
    """Append to failures.jsonl; one short append is whole or not there."""
    append_lines(cache / FAILURES_FILE, [asdict(row)])


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines by a single write."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, "".join(lines).encode("utf-8", "surrogateescape"))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(cache: Path) -> list[ManifestRow]:
    """Give the rows that stand, oldest first: the last one for each (name, path, recipe)."""
    rows: list[ManifestRow] = []
    for file in sorted((cache / MANIFEST_FOLDER).glob("*.jsonl")):
        rows.extend(ManifestRow(**record) for record in records_of(file.read_bytes(), ManifestRow))
    rows.sort(key=lambda row: row.time)
    standing: dict[tuple[str, str, str], ManifestRow] = {}
    for row in rows:
        key = row.name, row.path, row.recipe
        standing.pop(key, None)  # a dict keeps the place of a key's first value
        standing[key] = row
    return list(standing.values())


def read_failures(cache: Path) -> list[FailureRow]:
    """Give the failures, oldest first: the last one for each (path, digest, recipe)."""
    file = cache / FAILURES_FILE
    return failures_of(file.read_bytes() if file.is_file() else b"")


def failures_of(text: bytes) -> list[FailureRow]:
    """Give the failures of a text, the last one for each (path, digest, recipe)."""
    rows = [FailureRow(**record) for record in records_of(text, FailureRow)]
    return list({(row.path, row.digest, row.recipe): row for row in rows}.values())


def records_of(text: bytes, kind: type[Any]) -> Iterator[dict[str, Any]]:
    """Give the lines that hold what `kind` needs."""
    known = set(kind.__dataclass_fields__)
    for record in objects_of(text):
        if known <= set(record):
            yield {key: record[key] for key in known}


def objects_of(text: bytes) -> Iterator[dict[str, Any]]:
    """Give the JSON objects of a text, one a line."""
    for line in text.splitlines():
        try:
            record = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            continue  # the last line of a process that was killed while writing it
        if isinstance(record, dict):
            yield record
