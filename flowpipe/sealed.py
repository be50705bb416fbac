"""Checksums of the texts that flowpipe writes: lines and tables of JSON.

A line ends in `, "crc32": N}` where N is the CRC-32 of the line without that part; a table in a
file of its own has a key "crc32", of the rest in canonical form (keys sorted, no spaces), and a
key "sealed", which says so should a wrong bit hide the other. Both are compared at every read.
Texts of older versions have none, and are read as they are.
"""

import json
import os
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowpipe.atomic import fsync_folder, make_folder, write_aside
from flowpipe.errors import CacheError, EntryCorrupt

Kind = type | tuple[type, ...]

CHECKSUM = "crc32"
SEALED = "sealed"
# The table of a run, and its key of the checksums of files beside it.
RESULTS, FILES = "results.json", "files"
_MARK = f', "{CHECKSUM}": '.encode()


@dataclass
class Lines:
    """The records of a text of JSON lines, and the lines that hold none.

    Attributes
    ----------
    records : list of dict
    damaged : list of (int, dict)
        Number of each line that is not what was written, and what can still be read of it.
    cut : list of int
        Numbers of the lines that a kill, a full disk or a power cut has cut short.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


def sealed_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of JSON that ends in its checksum."""
    text = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return text[:-1] + _MARK + str(zlib.crc32(text)).encode() + b"}\n"


def read_lines(text: bytes, kinds: Mapping[str, Kind] | None) -> Lines:
    """Read JSON lines, with and without checksums.

    Each must have these keys and no others, of these kinds. Where they are not known (None), a
    line with a checksum must have the key "sealed", too.
    """
    lines, right = Lines(), set[Any]()
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line or line.isspace():
            continue
        record = _object(line)
        checksum = record.pop(CHECKSUM, None)
        if kinds is None:
            known = bool(record) and (record.pop(SEALED, None) is None) == (checksum is None)
        else:
            # Lines are alike: what was looked at once is looked up.
            form = (*record, *map(type, record.values()))
            known = form in right or _is_of(record, kinds)
            if known:
                right.add(form)
        if known and (checksum is None or _fits(line, checksum)):
            lines.records.append(record)
        elif not record and not line.rstrip().endswith(b"}"):
            lines.cut.append(number)
        else:
            lines.damaged.append((number, record))
    return lines


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records as sealed lines and force them to the disk; the folder is made.

    What another writer was kept from finishing does not swallow them: they begin on a line of
    their own.

    Raises
    ------
    OSError
        If they cannot be written whole.
    """
    data = b"".join(map(sealed_line, records))
    make_folder(path.parent)
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        while data:  # a disk that fills up takes a part, and says so at the next
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        fsync_folder(path.parent)


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a file; none where there is no file, or a pipe.

    Raises
    ------
    CacheError
        If it cannot be read.
    """
    try:
        return file.read_bytes() if stat.S_ISREG(file.stat().st_mode) else b""
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error.strerror}") from error


def listed(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted; nothing where there is no folder.

    Raises
    ------
    CacheError
        If it may not be listed: `Path.glob` takes it for empty.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"{folder} cannot be read: {error.strerror}") from error


def write_table(path: Path, table: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Write a table as a file of JSON with its checksum, whole or not at all.

    `free` are keys, "table.key" inside of others, that may be changed by hand: places that move.
    """
    sealed = {**table, SEALED: CHECKSUM}
    sealed[CHECKSUM] = _crc32_of(sealed, free)
    with write_aside(path, "w") as file:
        file.write(json.dumps(sealed, indent=2, ensure_ascii=False) + "\n")


def read_table(path: Path, free: Collection[str] = ()) -> dict[str, Any]:
    """Read what `write_table` wrote, or a file of JSON without a checksum.

    Raises
    ------
    EntryCorrupt
        If the file holds no table of JSON, or another than was written.
    OSError
        If there is no file, or it cannot be read.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__}")
    except (ValueError, RecursionError) as error:
        raise EntryCorrupt(f"{path} is no table of JSON ({error})") from error
    checksum = table.pop(CHECKSUM, None)
    if _is_changed(table, checksum, free):
        raise EntryCorrupt(
            f"{path} is not what was written; if you have changed it yourself, delete its lines "
            f'"{SEALED}" and "{CHECKSUM}"'
        )
    table.pop(SEALED, None)
    return table


def _is_changed(table: Mapping[str, Any], checksum: Any, free: Collection[str]) -> bool:
    if checksum is None and SEALED not in table:
        return False  # of an older version
    return bool(checksum != _crc32_of(table, free))


def _crc32_of(table: Mapping[str, Any], free: Collection[str]) -> int:
    canonical = json.dumps(_without(table, free), sort_keys=True, separators=(",", ":"))
    return zlib.crc32(canonical.encode())


def _without(table: Mapping[str, Any], free: Collection[str], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without(value, free, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in table.items()
        if f"{prefix}{key}" not in free
    }


def checksums_of(folder: Path, files: Iterable[Path]) -> dict[str, int]:
    """Return the CRC-32 of files by their names in a folder: what a table says of its neighbours.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    checksums = {}
    for path in files:
        checksum = 0
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                checksum = zlib.crc32(part, checksum)
        checksums[path.relative_to(folder).as_posix()] = checksum
    return checksums


def check_listed(path: Path) -> None:
    """Compare a file with the checksum that the results of a run beside it list, if they do.

    Raises
    ------
    EntryCorrupt
        If it is another than the run wrote.
    """
    try:
        wanted = read_table(path.parent / RESULTS)[FILES][path.name]
        found = checksums_of(path.parent, [path])[path.name]
    except (EntryCorrupt, OSError, KeyError, TypeError):
        return  # of no run, or of one whose damage is told where it is read
    if found != wanted:
        raise EntryCorrupt(
            f"{path} is not what the run wrote; if you have changed it yourself, copy it to "
            "another folder"
        )


def check_zip(path: Path) -> None:
    """Compare the checksums of a zip file, as torch and numpy write; other files have none.

    Raises
    ------
    EntryCorrupt
        If a member is not what was written.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise EntryCorrupt(f"{path} is damaged ({error})") from error
    if damaged is not None:
        raise EntryCorrupt(f"{path} is damaged: {damaged} is not what was written")


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_of(record: Mapping[str, Any], kinds: Mapping[str, Kind]) -> bool:
    return record.keys() == kinds.keys() and all(
        isinstance(value, kinds[key]) for key, value in record.items()
    )


def _fits(line: bytes, checksum: Any) -> bool:
    place = line.rfind(_MARK)
    return bool(zlib.crc32(b"}", zlib.crc32(memoryview(line)[:place])) == checksum)
