"""Which names and labels point to which entries: JSON lines, one file per writing process.

Each line ends in its checksum. No line is ever changed, so several processes and machines may
write at once. A later line for the same name and path displaces an earlier one: the video's
content, or its label, has changed.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flowpipe.sealed import Kind, Lines, append_lines, listed, read_bytes, read_lines

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


MANIFEST_KINDS: dict[str, Kind] = {
    "name": str,
    "label": (str, type(None)),
    "digest": str,
    "recipe": str,
    "path": str,
    "size": int,
    "mtime_ns": int,
    "time": (int, float),
}
FAILURE_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("name", "path", "digest", "recipe", "reason"), str),
    "time": (int, float),
}


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
            append_lines(self._path, records)


def add_failure(cache: Path, row: FailureRow) -> None:
    """Append to failures.jsonl; one short append is whole or not there."""
    append_lines(cache / FAILURES_FILE, [asdict(row)])


def manifest_files(cache: Path) -> list[Path]:
    """Return the files of the manifest, oldest first."""
    folder = cache / MANIFEST_FOLDER
    return [file for file in listed(folder) if file.suffix == ".jsonl"]


def read_manifest(cache: Path) -> list[ManifestRow]:
    """Return the rows that stand, oldest first: the last one for each (name, path, recipe)."""
    rows: list[ManifestRow] = []
    for file in manifest_files(cache):
        rows.extend(ManifestRow(**record) for record in manifest_lines(file).records)
    rows.sort(key=lambda row: row.time)
    standing: dict[tuple[str, str, str], ManifestRow] = {}
    for row in rows:
        key = row.name, row.path, row.recipe
        standing.pop(key, None)  # a dict keeps the place of a key's first value
        standing[key] = row
    return list(standing.values())


def manifest_lines(file: Path) -> Lines:
    """Return the lines of one file of the manifest, sound and damaged."""
    lines = read_lines(read_bytes(file), MANIFEST_KINDS)
    # A forger's line: digests and recipes are parts of paths.
    forged = [r for r in lines.records if not (r["digest"] + r["recipe"]).isalnum()]
    if forged:
        lines.records = [record for record in lines.records if record not in forged]
        lines.damaged += [(0, record) for record in forged]
    return lines


def read_failures(cache: Path) -> list[FailureRow]:
    """Return the failures, oldest first: the last one for each (path, digest, recipe)."""
    return failures_of(read_bytes(cache / FAILURES_FILE))


def failures_of(text: bytes) -> list[FailureRow]:
    """Return the failures of a text, the last one for each (path, digest, recipe)."""
    rows = [FailureRow(**record) for record in read_lines(text, FAILURE_KINDS).records]
    return list({(row.path, row.digest, row.recipe): row for row in rows}.values())
