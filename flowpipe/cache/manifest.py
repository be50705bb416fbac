"""Which names and labels point to which entries: JSON lines, one file per writing process.

No line is ever changed, so several processes and machines may write at once. A later line for
the same name and path displaces an earlier one: the video's content, or its label, has changed.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
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
        self._folder.mkdir(parents=True, exist_ok=True)
        append_line(self._path, asdict(row))


def add_failure(cache: Path, row: FailureRow) -> None:
    """Append to failures.jsonl; one short append is whole or not there."""
    append_line(cache / FAILURES_FILE, asdict(row))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line by a single write."""
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(cache: Path) -> list[ManifestRow]:
    """Give the rows that stand, oldest first: the last one for each (name, path, recipe)."""
    rows: list[ManifestRow] = []
    for file in sorted((cache / MANIFEST_FOLDER).glob("*.jsonl")):
        rows.extend(ManifestRow(**record) for record in _records(file, ManifestRow))
    rows.sort(key=lambda row: row.time)
    standing: dict[tuple[str, str, str], ManifestRow] = {}
    for row in rows:
        key = row.name, row.path, row.recipe
        standing.pop(key, None)  # a dict keeps the place of a key's first value
        standing[key] = row
    return list(standing.values())


def read_failures(cache: Path) -> list[FailureRow]:
    """Give the failures, oldest first: the last one for each (path, digest, recipe)."""
    rows = [FailureRow(**r) for r in _records(cache / FAILURES_FILE, FailureRow)]
    return list({(row.path, row.digest, row.recipe): row for row in rows}.values())


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Give the JSON objects of a file's lines; a line that a kill cut is left out."""
    if not file.is_file():
        return
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            continue  # the last line of a process that was killed while writing it
        if isinstance(record, dict):
            yield record


def _records(file: Path, kind: type[Any]) -> Iterator[dict[str, Any]]:
    known = set(kind.__dataclass_fields__)
    for record in read_lines(file):
        if known <= set(record):
            yield {key: record[key] for key in known}
