"""A cache directory ↔ one HDF5 file: chunks are copied as they stand, nothing is compressed anew.

Fields of one form (size, codec, type) share a data set of the pack, so that HDF5 sees few objects
however many videos there are; tables tell which fields are whose. See FORMAT.md.
"""

import itertools
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import make_folder, write_aside
from flowpipe.cache import schema
from flowpipe.cache.cache import Cache
from flowpipe.cache.entry import Entry
from flowpipe.cache.hdf import (
    append_trailer,
    chunk_table,
    create_chunked,
    create_hdf,
    write_attributes,
)
from flowpipe.cache.header import TrackShape
from flowpipe.cache.manifest import FAILURES_FILE, ManifestRow, ManifestWriter, read_manifest
from flowpipe.cache.part import PartFile, remove_abandoned, write_errors
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe
from flowpipe.cache.store import NETWORKS_FILE, entry_path, write_recipe
from flowpipe.cache.tracks import ChunkedTrack, FeatureRows
from flowpipe.cache.write import EntryWriter, FeatureWriter, StoredField
from flowpipe.errors import CacheError, InvalidArgument

FORM_ATTRIBUTES = ("height", "width", "codec", "code_zero", "code_step_px")
COPY_BYTES = 8 * 2**20
LEAST_GROWTH = 256
NO_PLACE = -1

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Packed:
    """What `pack` or `unpack` did; `missing` names have no entry file in the directory."""

    entries: int
    flows: int
    num_bytes: int
    missing: tuple[str, ...] = ()
    snippets: int = 0


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
        raise InvalidArgument(
            f"{path} exists; give another name, or overwrite it", parameter="overwrite"
        )
    if recipe is None:
        cache.refuse_unread_recipes()
    rows, files, missing = _entries_of(cache)
    flows = snippets = 0
    with _PackWriter(path, _version_of(cache, rows)) as writer:
        for number, row in enumerate(files.values()):
            if on_progress is not None:
                on_progress(0.9 * number / len(files), row.name)
            entry = cache.entry_of(row)
            writer.add(entry)
            flows += entry.num_flows
            snippets += entry.num_snippets
        texts = {
            "recipes": "".join(f"{r.to_json()}\n" for r in cache.recipes.values()).encode(),
            "failures": cache.failures_text(),
            "networks": cache.networks_text(),
        }
        writer.finish(texts, ((row, cache.entry_path(row)) for row in rows))
    return Packed(len(files), flows, path.stat().st_size, tuple(missing), snippets)


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
    flows = snippets = num_bytes = 0
    for position, row in enumerate(rows):
        if on_progress is not None:
            on_progress(position / len(rows), row.name)
        file = entry_path(folder, row.recipe, row.digest)
        if file not in done:
            done.add(file)
            if not file.exists():
                _write_entry(file, cache.entry_of(row))
            entry = Entry(file)
            flows, snippets = flows + entry.num_flows, snippets + entry.num_snippets
            num_bytes += file.stat().st_size
    with write_errors(folder):
        there = {(row.name, row.path, row.recipe, row.digest) for row in read_manifest(folder)}
        ManifestWriter(folder).add_all(
            row for row in rows if (row.name, row.path, row.recipe, row.digest) not in there
        )
        for name, text in (
            (FAILURES_FILE, cache.failures_text()),
            (NETWORKS_FILE, cache.networks_text()),
        ):
            if text and not (folder / name).exists():
                with write_aside(folder / name) as out:
                    out.write(text)
    return Packed(len(done), flows, num_bytes, snippets=snippets)


def _entries_of(cache: Cache) -> tuple[list[ManifestRow], dict[Path, ManifestRow], list[str]]:
    """Return the rows whose entries are there, file → row in order, and the names of the rest."""
    rows, missing = [], []
    files: dict[Path, ManifestRow] = {}
    for row in cache.rows():
        file = cache.entry_path(row)
        if file in files or file.is_file():
            rows.append(row)
            files.setdefault(file, row)
        else:
            missing.append(row.name)
    if not rows:
        raise CacheError(f"{cache.path} holds no entry that has a name; there is nothing to pack")
    return rows, files, missing


def _version_of(cache: Cache, rows: Sequence[ManifestRow]) -> int:
    recipes = [cache.recipes[recipe] for recipe in {row.recipe for row in rows}]
    if any(isinstance(r, FlowRecipe) and (r.cuts or r.confidence) for r in recipes):
        return schema.PACK_MARKS_VERSION
    if any(isinstance(recipe, FeatureRecipe) for recipe in recipes):
        return schema.PACK_FEATURES_VERSION
    return schema.PACK_VERSION


def _write_entry(file: Path, entry: Entry) -> None:
    """Write an entry's stored bytes as a file of its own."""
    if "features" in entry.tracks:
        _write_features(file, entry)
        return
    with EntryWriter(
        file,
        quantiser=entry.quantiser,
        codec=str(entry.attributes["codec"]),
        height=entry.height,
        width=entry.width,
        rgb_quality=entry.flow_recipe.rgb_quality,
        cuts=entry.flow_recipe.cuts,
        confidence=entry.flow_recipe.confidence,
    ) as writer:
        cuts = set(entry.cuts.tolist())
        beside: Iterable[Any] = itertools.repeat(None)
        if "confidence" in entry.tracks:
            beside = entry.confidence.stored()
        fields = zip(entry.flow.stored(), beside, strict=False)
        for row, ((chunk, mask), confidence) in enumerate(fields):
            field = StoredField(chunk, mask, cut=row in cuts, confidence=confidence)
            writer.add_stored(field)
        for row in range(entry.num_frames if entry.has_rgb else 0):
            writer.add_jpeg(entry.rgb.jpeg(row))
        writer.finish(entry.pts_s, entry.attributes)


def _write_features(file: Path, entry: Entry) -> None:
    features = entry.features
    rows = features.stored_as.chunk_rows
    with FeatureWriter(file, features.shape[1:], entry.recipe.storage, rows) as writer:
        for chunk, mask in features.stored():
            writer.add_chunk(chunk, mask, min(rows, entry.num_snippets - writer.length))
        writer.finish(entry.centre_s, entry.span_s, entry.attributes)


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
    """One data set of the chunks of all entries whose tracks are stored alike."""

    def __init__(self, group: Any, number: int, shape: TrackShape) -> None:
        self.number, self.num_chunks, self._room = number, 0, 0
        self._rows, self._chunk_ndim = shape.chunk_rows, len(shape.chunk)
        self.data = create_chunked(group, str(number), shape.chunk, shape.codec, shape.dtype)

    def add(self, chunk: bytes, mask: int) -> None:
        if self.num_chunks == self._room:
            self._room += max(LEAST_GROWTH, self.num_chunks // 2)
            self.data.resize(self._room * self._rows, axis=0)
        place = (self.num_chunks * self._rows,) + (0,) * (self._chunk_ndim - 1)
        self.data.id.write_direct_chunk(place, chunk, filter_mask=mask)
        self.num_chunks += 1

    def places(self) -> NDArray[Any]:
        """Return where the chunks lie; ends the writing."""
        self.data.resize(self.num_chunks * self._rows, axis=0)
        places = np.zeros(self.num_chunks, schema.PACK_TABLES["chunks"][0])
        table = chunk_table(self.data, self.num_chunks)
        for column, name in enumerate(("offset", "bytes", "filter_mask")):
            places[name] = table[:, column]
        return places


class _Kind:
    """The entries of one kind in a pack, flow or features: their forms and their tables."""

    def __init__(self, group: Any, columns: dict[str, _Column], prefix: str) -> None:
        self._group, self.columns = group, columns
        self.entries, self.chunks = columns[f"{prefix}entries"], columns[f"{prefix}chunks"]
        self._forms: dict[tuple[Any, ...], _Form] = {}
        self._spans: list[tuple[_Form, int, int]] = []

    def add(self, entry: Entry, track: ChunkedTrack, key: tuple[Any, ...]) -> dict[str, int]:
        """Copy the chunks and the header of an entry; return the place of both."""
        if key not in self._forms:
            self._forms[key] = _Form(self._group, len(self._forms), track.stored_as)
            if entry.height:
                named = {name: entry.attributes[name] for name in FORM_ATTRIBUTES}
                write_attributes(self._forms[key].data, named)
        form = self._forms[key]
        start = form.num_chunks
        for chunk, mask in track.stored():
            form.add(chunk, mask)
        self._spans.append((form, start, form.num_chunks))
        header = json.dumps(entry.attributes).encode()
        return {
            "header_start": self.columns["headers"].add_bytes(header),
            "header_bytes": len(header),
            "form": form.number,
            "form_start": start * track.stored_as.chunk_rows,
        }

    def add_entry(self, place: dict[str, int]) -> int:
        """Append a row to the table of entries; return its number."""
        dtype = self.entries.dtype
        row = np.array([tuple(place[name] for name in dtype.names or ())], dtype)
        return self.entries.add(row)

    def finish(self) -> None:
        """Note where all chunks lie."""
        places = {form.number: form.places() for form in self._forms.values()}
        for form, start, stop in self._spans:
            self.chunks.add(places[form.number][start:stop])


class _PackWriter:
    """Write a pack aside; left without `finish`, it leaves nothing behind."""

    def __init__(self, path: Path, version: int) -> None:
        self._path, self._version = path, version
        self._with_features = version >= schema.PACK_FEATURES_VERSION
        self._with_frames: list[Path] = []
        self._numbers: dict[Path, int] = {}
        self._frame_bytes = 0
        self._confidence: dict[tuple[Any, ...], _Form] = {}
        self._confidence_spans: list[tuple[_Form | None, int, int]] = []
        self._hdf: Any = None
        self._stack = ExitStack()
        with write_errors(path):
            make_folder(path.parent)
            remove_abandoned(path.parent, f".{path.name}.*.part")
            self._part = PartFile(path, path.name)
        self._stack.callback(lambda: self._part.discard(self._hdf))
        try:
            with write_errors(path, self._part):
                self._hdf = create_hdf(self._part)
                group = self._hdf.create_group("flow")
                self._columns = {
                    name: self._stack.enter_context(_Column(path.parent, dtype))
                    for name, (dtype, _) in schema.pack_tables(version).items()
                }
                self._flow = _Kind(group, self._columns, "")
                if self._with_features:
                    group = self._hdf.create_group("features")
                    self._features = _Kind(group, self._columns, "feature_")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "_PackWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """Copy the chunks and the header of an entry; its frames follow in `finish`."""
        with write_errors(self._path, self._part):
            if "features" in entry.tracks:
                number = self._add_features(entry, entry.features)
            else:
                number = self._add_flow(entry)
        self._numbers[entry.path] = number

    def _add_flow(self, entry: Entry) -> int:
        columns = self._columns
        key = entry.recipe.id, *(entry.attributes[name] for name in FORM_ATTRIBUTES)
        place = self._flow.add(entry, entry.flow, key) | {
            "num_frames": entry.num_frames,
            "field_start": columns["flow_crc32"].add(entry.small["flow_crc32"]),
            "frame_start": columns["pts_s"].add(entry.pts_s),
            "rgb_offset_start": NO_PLACE,
            "rgb_start": NO_PLACE,
        }
        if self._version >= schema.PACK_MARKS_VERSION:
            none = np.zeros(entry.num_flows)
            for name in ("cuts", "confidence_crc32"):
                columns[name].add(entry.small.get(name, none))
            self._add_confidence(entry)
        if entry.has_rgb:
            offsets = entry.small["rgb_offsets"]
            place["rgb_offset_start"] = columns["rgb_offsets"].add(offsets)
            columns["rgb_crc32"].add([*entry.small["rgb_crc32"], 0])
            place["rgb_start"] = self._frame_bytes
            self._frame_bytes += int(offsets[-1])
            self._with_frames.append(entry.path)
        return self._flow.add_entry(place)

    def _add_confidence(self, entry: Entry) -> None:
        form, start = None, 0
        if "confidence" in entry.tracks:
            shape = entry.confidence.stored_as
            key = shape.row, shape.codec
            if key not in self._confidence:
                group = self._hdf.require_group("confidence")
                self._confidence[key] = _Form(group, len(self._confidence), shape)
            form = self._confidence[key]
            start = form.num_chunks
            for chunk, mask in entry.confidence.stored():
                form.add(chunk, mask)
        self._confidence_spans.append((form, start, entry.num_flows))

    def _finish_confidence(self) -> None:
        """Note where the chunks of confidence lie, as many as fields."""
        column = self._columns["confidence_chunks"]
        places = {form.number: form.places() for form in self._confidence.values()}
        for form, start, count in self._confidence_spans:
            column.add(
                np.zeros(count, column.dtype)
                if form is None
                else places[form.number][start : start + count]
            )

    def _add_features(self, entry: Entry, features: FeatureRows) -> int:
        columns = self._columns
        stored_as = features.stored_as
        channels, rows, width = (*stored_as.row, 0, 0)[:3]
        place = self._features.add(entry, features, (entry.recipe.id, stored_as.chunk))
        place |= {
            "num_snippets": entry.num_snippets,
            "chunk_start": columns["features_crc32"].add(entry.small["features_crc32"]),
            "snippet_start": columns["centre_s"].add(entry.centre_s),
            "channels": channels,
            "rows": rows,
            "columns": width,
        }
        columns["span_s"].add(entry.span_s)
        return self._features.add_entry(place)

    def finish(self, texts: dict[str, bytes], rows: Iterable[tuple[ManifestRow, Path]]) -> None:
        """Write the frames and the tables, and rename the file in.

        Parameters
        ----------
        texts : dict
            "recipes", "failures" and "networks", JSON lines.
        rows : iterable
            Rows of the manifest, and the file of the entry of each.
        """
        columns = self._columns
        for name, text in texts.items():
            if name in columns:
                columns[name].add_bytes(text)
        for row, file in rows:
            text = json.dumps(vars(row) | {"entry": self._numbers[file]}).encode()
            start = columns["row_text"].add_bytes(text)
            columns["rows"].add(
                np.array([(start, len(text), zlib.crc32(text))], columns["rows"].dtype)
            )
        with write_errors(self._path, self._part):
            frames = self._hdf.create_dataset("rgb_jpeg", (self._frame_bytes,), np.uint8)
            _fill(frames, _blocks(self._frames()))
            self._flow.finish()
            if self._with_features:
                self._features.finish()
            if self._version >= schema.PACK_MARKS_VERSION:
                self._finish_confidence()
            for name, column in columns.items():
                if name != "rgb_jpeg":
                    data = self._hdf.create_dataset(name, (column.length,), column.dtype)
                    _fill(data, column.blocks())
            attributes = {"format": schema.PACK_FORMAT, "format_version": self._version}
            write_attributes(self._hdf, attributes)
            self._hdf.close()
            append_trailer(self._part)
            self._part.move_in()

    def _frames(self) -> Iterator[bytes]:
        """Yield the JPEGs of all entries, each checked."""
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
