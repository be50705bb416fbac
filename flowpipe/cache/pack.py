"""A cache directory ↔ one HDF5 file: chunks are copied as they stand, nothing is compressed anew.

Fields of one form (size, codec, type) share a data set of the pack, so that HDF5 sees few objects
however many videos there are; tables tell which fields are whose. See FORMAT.md.
"""

import json
import os
import secrets
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import fsync_folder
from flowpipe.cache import Cache, entry_path, schema, write_recipe
from flowpipe.cache.aside import Aside, write_errors
from flowpipe.cache.entry import Entry
from flowpipe.cache.manifest import FAILURES_FILE, ManifestRow, ManifestWriter, read_manifest
from flowpipe.cache.write import (
    EntryWriter,
    StoredField,
    append_trailer,
    create_flow,
    create_hdf,
    fixed_text,
    stored_dtype,
)
from flowpipe.errors import CacheError, InvalidArgument

FORM_ATTRIBUTES = ("height", "width", "codec", "code_zero", "code_step_px")
COPY_BYTES = 8 * 2**20
LEAST_GROWTH = 256

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Packed:
    """What `pack` or `unpack` did; `missing` names have no entry file in the directory."""

    entries: int
    flows: int
    num_bytes: int
    missing: tuple[str, ...] = ()


def pack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    overwrite: bool = False,
    on_progress: Report | None = None,
) -> Packed:
    """Join a cache directory into one HDF5 file, which `open_cache` reads like the directory.

    Parameters
    ----------
    source : path
        The directory; left as it is.
    target : path
        The file, `.h5`; it appears when it is complete.
    recipe : str, optional
        Id (or its first digits) of the only recipe to take.
    overwrite : bool
        Replace a file at `target`.
    on_progress : callable, optional
        Called with (share done, name of a video).

    Raises
    ------
    InvalidArgument
        If `target` exists or is no `.h5`, or `source` is a pack.
    EntryCorrupt
        If an entry is not what was written; a pack holds sound entries only.
    CacheError
        If the file cannot be written.
    """
    path = Path(target)
    cache = Cache(source, recipe)
    if cache.path.is_file():
        raise InvalidArgument(f"{cache.path} is a pack already; flowpipe cache unpack undoes it")
    if path.suffix != schema.PACK_SUFFIX:
        raise InvalidArgument(f'a pack must be called *{schema.PACK_SUFFIX}, not "{path.name}"')
    if path.exists() and not overwrite:
        raise InvalidArgument(f"{path} exists; give another name, or --overwrite")
    rows, files, missing = _entries_of(cache)
    flows = 0
    with _PackWriter(path) as writer:
        for number, (file, name) in enumerate(files.items()):
            if on_progress is not None:
                on_progress(0.9 * number / len(files), name)
            entry = Entry(file, name)
            writer.add(entry)
            flows += entry.num_flows
        numbers = {file: number for number, file in enumerate(files)}
        writer.finish(
            [recipe.to_json() for recipe in cache.recipes.values()],
            cache.failures_text(),
            (
                json.dumps(vars(row) | {"entry": numbers[cache.entry_path(row)]}).encode()
                for row in rows
            ),
        )
    return Packed(len(files), flows, path.stat().st_size, tuple(missing))


def unpack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    on_progress: Report | None = None,
) -> Packed:
    """Make a cache directory of a packed file; entries that are there already are left alone.

    Raises
    ------
    InvalidArgument
        If `source` is a directory or `target` a file.
    EntryCorrupt
        If an entry is not what was packed.
    CacheError
        If the directory cannot be written.
    """
    cache, folder = Cache(source), Path(target)
    if cache.path.is_dir():
        raise InvalidArgument(f"{cache.path} is a directory already; unpack takes a packed file")
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file; a cache is a directory")
    for recipe in cache.recipes.values():
        write_recipe(folder, recipe)
    rows = cache.rows()
    done: set[Path] = set()
    flows = num_bytes = 0
    for position, row in enumerate(rows):
        if on_progress is not None:
            on_progress(position / len(rows), row.name)
        file = entry_path(folder, row.recipe, row.digest)
        if file not in done:
            done.add(file)
            if not file.exists():
                _write_entry(file, cache.entry_of(row))
            flows += Entry(file).num_flows
            num_bytes += file.stat().st_size
    with write_errors(folder):
        there = {(row.name, row.path, row.recipe, row.digest) for row in read_manifest(folder)}
        ManifestWriter(folder).add_all(
            row for row in rows if (row.name, row.path, row.recipe, row.digest) not in there
        )
        if (failures := cache.failures_text()) and not (folder / FAILURES_FILE).exists():
            (folder / FAILURES_FILE).write_bytes(failures)
    return Packed(len(done), flows, num_bytes)


def _entries_of(cache: Cache) -> tuple[list[ManifestRow], dict[Path, str], list[str]]:
    """Give the rows whose entries are there, file → name in the order of writing, and the rest."""
    rows, missing = [], []
    files: dict[Path, str] = {}
    for row in cache.rows():
        file = cache.entry_path(row)
        if file in files or file.is_file():
            rows.append(row)
            files.setdefault(file, row.name)
        else:
            missing.append(row.name)
    if not rows:
        raise CacheError(f"{cache.path} holds no entry that has a name; there is nothing to pack")
    return rows, files, missing


def _write_entry(file: Path, entry: Entry) -> None:
    """Write an entry's stored bytes as a file of its own."""
    with EntryWriter(
        file,
        quantiser=entry.quantiser,
        codec=str(entry.attributes["codec"]),
        height=entry.height,
        width=entry.width,
        rgb_quality=entry.recipe.rgb_quality,
    ) as writer:
        for row in range(entry.num_flows):
            chunk, mask = entry.flow.stored(row)
            writer.add_stored(StoredField(chunk, mask, 0, 0, 0.0))
        for row in range(entry.num_frames if entry.has_rgb else 0):
            writer.add_jpeg(entry.rgb.jpeg(row))
        writer.finish(entry.pts_s, entry.attributes)


class _Column:
    """A table being written: its values wait in a file, however many they are."""

    def __init__(self, folder: Path, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 — closed by __exit__
        self.length = 0

    def __enter__(self) -> "_Column":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, values: Any) -> int:
        """Append values; give where they begin."""
        array: NDArray[Any] = np.ascontiguousarray(values, self.dtype).reshape(-1)
        self._file.write(array.tobytes())
        start, self.length = self.length, self.length + len(array)
        return start

    def add_bytes(self, text: bytes) -> int:
        return self.add(np.frombuffer(text, np.uint8))

    def blocks(self) -> Iterator[NDArray[Any]]:
        self._file.seek(0)
        while block := self._file.read(COPY_BYTES // self.dtype.itemsize * self.dtype.itemsize):
            yield np.frombuffer(block, self.dtype)


class _Form:
    """One data set of fields that share size, type and codec."""

    def __init__(self, group: Any, number: int, entry: Entry) -> None:
        self.number, self.length, self._room = number, 0, 0
        codec = str(entry.attributes["codec"])
        shape = (2 * entry.height, entry.width)
        self._data = create_flow(group, str(number), shape, codec, stored_dtype(entry.quantiser))
        for name in FORM_ATTRIBUTES:
            value = entry.attributes[name]
            self._data.attrs[name] = fixed_text(value) if isinstance(value, str) else value

    def add(self, chunk: bytes, mask: int) -> None:
        if self.length == self._room:
            self._room += max(LEAST_GROWTH, self.length // 2)
            self._data.resize(self._room, axis=0)
        self._data.id.write_direct_chunk((self.length, 0, 0), chunk, filter_mask=mask)
        self.length += 1

    def places(self) -> NDArray[Any]:
        """Give where the chunks lie; ends the writing."""
        self._data.resize(self.length, axis=0)
        found = np.zeros(self.length, schema.PACK_TABLES["chunks"][0])

        def take(info: Any) -> None:
            found[info.chunk_offset[0]] = info.byte_offset, info.size, info.filter_mask

        if self.length:
            self._data.id.chunk_iter(take)
        return found


class _PackWriter:
    """Write a pack aside; left without `finish`, it leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._forms: dict[tuple[Any, ...], _Form] = {}
        self._with_frames: list[Path] = []
        self._frame_bytes = 0
        self._hdf: Any = None
        self._stack = ExitStack()
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._aside = Aside(self._part)
        self._stack.callback(self._end)
        try:
            with write_errors(path, self._aside):
                self._hdf = create_hdf(self._aside)
                self._group = self._hdf.create_group("flow")
                self._columns = {
                    name: self._stack.enter_context(_Column(path.parent, dtype))
                    for name, (dtype, _) in schema.PACK_TABLES.items()
                }
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "_PackWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        try:
            self._aside.abandon()
            if self._hdf:
                self._hdf.close()
        finally:
            with suppress(OSError):  # its buffer, which nobody wants any more
                self._aside.close()
            self._part.unlink(missing_ok=True)

    def add(self, entry: Entry) -> None:
        """Copy the fields and the header of an entry; its frames follow in `finish`."""
        with write_errors(self._path, self._aside):
            form = self._form(entry)
            form_start = form.length
            for row in range(entry.num_flows):
                form.add(*entry.flow.stored(row))
            header = json.dumps(entry.attributes).encode()
            place = {
                "header_start": self._columns["headers"].add_bytes(header),
                "header_bytes": len(header),
                "num_frames": entry.num_frames,
                "form": form.number,
                "form_start": form_start,
                "field_start": self._columns["flow_crc32"].add(entry.small["flow_crc32"]),
                "frame_start": self._columns["pts_s"].add(entry.pts_s),
                "rgb_offset_start": -1,
                "rgb_start": -1,
            }
            if entry.has_rgb:
                offsets = entry.small["rgb_offsets"]
                place["rgb_offset_start"] = self._columns["rgb_offsets"].add(offsets)
                self._columns["rgb_crc32"].add([*entry.small["rgb_crc32"], 0])
                place["rgb_start"] = self._frame_bytes
                self._frame_bytes += int(offsets[-1])
                self._with_frames.append(entry.path)
            dtype = self._columns["entries"].dtype
            self._columns["entries"].add(
                np.array([tuple(place[name] for name in dtype.names or ())], dtype)
            )

    def finish(self, recipes: Sequence[str], failures: bytes, rows: Iterable[bytes]) -> None:
        """Write the frames and the tables, and rename the file in."""
        columns = self._columns
        columns["recipes"].add_bytes("".join(f"{recipe}\n" for recipe in recipes).encode())
        columns["failures"].add_bytes(failures)
        for text in rows:
            start = columns["row_text"].add_bytes(text)
            dtype = columns["rows"].dtype
            columns["rows"].add(np.array([(start, len(text), zlib.crc32(text))], dtype))
        with write_errors(self._path, self._aside):
            frames = self._hdf.create_dataset("rgb_jpeg", (self._frame_bytes,), np.uint8)
            _fill(frames, _blocks(self._frames()))
            places = [form.places() for form in self._forms.values()]
            for block in columns["entries"].blocks():
                for place in block:
                    start, count = int(place["form_start"]), int(place["num_frames"]) - 1
                    columns["chunks"].add(places[place["form"]][start : start + count])
            for name, column in columns.items():
                if name != "rgb_jpeg":
                    data = self._hdf.create_dataset(name, (column.length,), column.dtype)
                    _fill(data, column.blocks())
            self._hdf.attrs["format"] = fixed_text(schema.PACK_FORMAT)
            self._hdf.attrs["format_version"] = schema.PACK_VERSION
            self._hdf.close()
            append_trailer(self._aside)
            self._part.replace(self._path)
            fsync_folder(self._path.parent)

    def _form(self, entry: Entry) -> _Form:
        key = entry.recipe.id, *(entry.attributes[name] for name in FORM_ATTRIBUTES)
        if key not in self._forms:
            self._forms[key] = _Form(self._group, len(self._forms), entry)
        return self._forms[key]

    def _frames(self) -> Iterator[bytes]:
        """Give the JPEGs of all entries, each checked."""
        for path in self._with_frames:
            entry = Entry(path)
            for row in range(entry.num_frames):
                yield entry.rgb.jpeg(row)


def _blocks(pieces: Iterable[bytes]) -> Iterator[NDArray[np.uint8]]:
    """Join small pieces to blocks that are worth a call."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= COPY_BYTES:
            yield np.frombuffer(b"".join(waiting), np.uint8)
            waiting, size = [], 0
    if size:
        yield np.frombuffer(b"".join(waiting), np.uint8)


def _fill(data: Any, blocks: Iterable[NDArray[Any]]) -> None:
    start = 0
    for block in blocks:
        data[start : start + len(block)] = block
        start += len(block)
