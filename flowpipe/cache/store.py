"""Where the entries of a cache lie: in a directory, or in one packed file. Names → rows → entries.

A directory has one file per (video content, recipe), see FORMAT.md. Opening a pack asks HDF5
where its tables lie, and no more; names, headers and places of chunks are then read from the
mapped file as they are asked for, so that a pack of any size opens at once.
"""

import bisect
import json
import mmap
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import make_folder, write_aside
from flowpipe.cache import schema
from flowpipe.cache.entry import Entry, unreadable
from flowpipe.cache.hdf import MALFORMED, PACK_DAMAGED
from flowpipe.cache.header import (
    Index,
    check_offsets,
    checked_chunks,
    checked_header,
    confidence_shape,
    shape_of,
)
from flowpipe.cache.manifest import FAILURES_FILE, ManifestRow, read_manifest
from flowpipe.cache.part import write_errors
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe, read_recipe, recipe_id
from flowpipe.errors import CacheNotFound, EntryCorrupt, FlowpipeError, InvalidArgument, NewerFormat
from flowpipe.sealed import (
    Kind,
    append_lines,
    listed,
    read_bytes,
    read_lines,
    read_table,
    write_table,
)

RECIPE_FILE = "recipe.json"
NETWORKS_FILE = "networks.jsonl"
WEIGHTS_FILE = "weights.json"
NETWORK_KINDS: dict[str, Kind] = {"name": str, "recipe": str, "time": (int, float)}
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

Recipe = FlowRecipe | FeatureRecipe


class Store(Protocol):
    """What `Cache` needs of the place where entries lie."""

    path: Path
    recipes: dict[str, Recipe]
    problems: dict[str, FlowpipeError]

    def rows(self, recipe: str | None) -> Mapping[str, list[ManifestRow]]:
        """Return name → rows of the manifest, oldest first, of one recipe or of all."""
        ...

    def entry(self, row: ManifestRow) -> Entry:
        """Open the entry of a row."""
        ...

    def entry_path(self, row: ManifestRow) -> Path:
        """Return the file in which a row's entry lies."""
        ...

    def text(self, name: str) -> bytes:
        """Return "failures" or "networks", JSON lines."""
        ...


def open_store(path: Path) -> "DirectoryStore | PackStore":
    """Open a cache directory or a packed file; CacheNotFound where there is neither."""
    try:
        return PackStore(path) if path.is_file() else DirectoryStore(path)
    except PermissionError as error:
        raise unreadable(path, error) from error


class DirectoryStore:
    """A cache directory, opened for reading.

    Attributes
    ----------
    recipes : dict of str to FlowRecipe or FeatureRecipe
        By id.
    problems : dict of str to FlowpipeError
        Folder of a recipe whose recipe.json cannot be read → why.

    Raises
    ------
    CacheNotFound
        If there is no directory, or one without a recipe.
    EntryCorrupt
        If no recipe.json is what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise CacheNotFound(f"no cache at {path}; flowpipe extract makes one")
        self.recipes: dict[str, Recipe] = {}
        self.problems: dict[str, FlowpipeError] = {}
        for file in recipe_files(path):
            try:
                self.recipes[file.parent.name] = read_recipe_file(file)
            except FlowpipeError as error:
                self.problems[file.parent.name] = error
        if not self.recipes:
            for problem in self.problems.values():
                raise problem
            raise CacheNotFound(f"{path} is a directory but no cache; flowpipe extract makes one")

    def rows(self, recipe: str | None) -> dict[str, list[ManifestRow]]:
        """Return name → rows of the manifest, oldest first, of one recipe or of all."""
        rows: dict[str, list[ManifestRow]] = {}
        for row in read_manifest(self.path):
            if row.recipe in self.recipes and recipe in (None, row.recipe):
                rows.setdefault(row.name, []).append(row)
        return rows

    def entry(self, row: ManifestRow) -> Entry:
        """Open the entry of a row."""
        return open_entry(self.path, row.recipe, row.digest, row.name, row.label)

    def entry_path(self, row: ManifestRow) -> Path:
        """Return the file in which a row's entry lies."""
        return entry_path(self.path, row.recipe, row.digest)

    def text(self, name: str) -> bytes:
        """Return "failures" or "networks", JSON lines."""
        return read_bytes(self.path / {"failures": FAILURES_FILE, "networks": NETWORKS_FILE}[name])


def entry_path(cache: Path, recipe_id: str, digest: str) -> Path:
    """Return the place of an entry file in a directory."""
    if not digest.isalnum():
        raise EntryCorrupt(f'"{digest}" is no digest of a video')
    return cache / recipe_id / digest[:2] / f"{digest}.h5"


def open_entry(
    cache: Path, recipe_id: str, digest: str, name: str = "", label: str | None = None
) -> Entry:
    """Open the entry of a video and recipe in a directory; see `Entry` for the errors.

    Raises
    ------
    EntryCorrupt
        Also if the file holds another entry.
    """
    entry = Entry(entry_path(cache, recipe_id, digest), name, label)
    check_identity(entry, recipe_id, digest)
    return entry


def check_identity(entry: Entry, recipe_id: str, digest: str) -> None:
    """Refuse an entry of another video or recipe, which a copy gone wrong leaves."""
    if (entry.recipe.id, entry.digest) != (recipe_id, digest):
        raise EntryCorrupt(
            f"{entry.path} holds another entry, of {entry.attributes['source_name']} by recipe "
            f"{entry.recipe.id}; {entry.way_out}"
        )


def write_recipe(cache: Path, recipe: Recipe) -> None:
    """Leave recipe.json in the recipe's folder."""
    file = cache / recipe.id / RECIPE_FILE
    text = recipe.to_json() + "\n"
    with write_errors(file):
        if read_bytes(file) == text.encode():
            return
        make_folder(file.parent)
        with write_aside(file, "w") as out:
            out.write(text)


def read_recipe_file(file: Path) -> Recipe:
    """Read recipe.json.

    Raises
    ------
    EntryCorrupt
        If it is not what was written.
    CacheError
        If it cannot be read now, or a later flowpipe wrote it.
    """
    way_out = "delete it, and the next run by this recipe writes it again"
    try:
        text = file.read_text(encoding="utf-8")
        recipe = read_recipe(text)
    except NewerFormat as error:
        raise NewerFormat(f"{file}: {error}") from error
    except (EntryCorrupt, UnicodeDecodeError) as error:
        raise EntryCorrupt(f"{file}: {error}; {way_out}") from error
    except OSError as error:
        raise unreadable(file, error) from error
    if recipe_id(text.removesuffix("\n")) != file.parent.name:
        raise EntryCorrupt(f"{file}: its id is not the name of its folder; {way_out}")
    return recipe


def recipe_files(cache: Path) -> list[Path]:
    """Return the recipe.json of each recipe of a directory."""
    found = []
    for folder in listed(cache):
        file = folder / RECIPE_FILE
        try:
            if stat.S_ISREG(file.stat().st_mode):
                found.append(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # reading it says why
            found.append(file)
    return found


def name_network(cache: Path, name: str, recipe: FeatureRecipe) -> None:
    """Let a name stand for a recipe of features from now on.

    Features of older weights, layers or flow are then read no more, though they stay on disk.
    """
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidArgument(f'name "{name}" must be of letters, digits, . - and _, like rgb')
    file = cache / NETWORKS_FILE
    with write_errors(file):
        if networks_of(read_bytes(file)).get(name) != recipe.id:
            append_lines(file, [{"name": name, "recipe": recipe.id, "time": time.time()}])


def networks_of(text: bytes) -> dict[str, str]:
    """Return name → recipe id of networks.jsonl: the last line of each name."""
    return {
        str(row.get("name")): str(row.get("recipe"))
        for row in read_lines(text, NETWORK_KINDS).records
    }


def note_weights(cache: Path, recipe: FeatureRecipe, weights: str | None) -> None:
    """Note where the weights of a recipe come from; None: they are random numbers."""
    file = cache / recipe.id / WEIGHTS_FILE
    with write_errors(file):
        try:
            noted = read_weights(cache, recipe.id)
        except EntryCorrupt:  # it is written anew
            noted = {}
        if noted != {"weights": weights}:
            write_table(file, {"weights": weights})


def read_weights(cache: Path, recipe: str) -> dict[str, str | None]:
    """Return {"weights": what `note_weights` was given}; empty where nothing was noted."""
    file = cache / recipe / WEIGHTS_FILE
    return read_table(file) if file.is_file() else {}


class PackStore:
    """A packed cache, opened for reading.

    Parameters
    ----------
    path : Path
        A file that `flowpipe.cache.pack.pack` wrote.

    Attributes
    ----------
    recipes : dict of str to FlowRecipe or FeatureRecipe

    Raises
    ------
    CacheNotFound
        If the file is no HDF5.
    CacheError
        If it may not be read.
    EntryCorrupt
        If it is no pack, of another version, or not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as plain:
                if plain.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                    raise CacheNotFound(
                        f"no cache at {path}: it is neither a directory nor a packed cache"
                    )
            with h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
                places = self._places(file)
            with path.open("rb") as plain:
                self._bytes = mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ)
        except FlowpipeError:
            raise
        except MALFORMED as error:
            if isinstance(error, OSError) and error.errno:
                raise unreadable(path, error) from error
            raise EntryCorrupt(f"{path} is no packed cache, or a damaged one ({error})") from error
        self._tables = {name: self._table(name, *place) for name, place in places.items()}
        self.recipes: dict[str, Recipe] = {}
        for line in self.text("recipes").decode("utf-8", "replace").splitlines():
            try:
                self.recipes[recipe_id(line)] = read_recipe(line)
            except EntryCorrupt as error:
                raise EntryCorrupt(f"{path}: {error}; {PACK_DAMAGED}") from error
        self.problems: dict[str, FlowpipeError] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PackStore, (self.path,)

    def rows(self, recipe: str | None) -> "PackedRows":
        """Return name → rows of the manifest, oldest first, of one recipe or of all."""
        return PackedRows(self, recipe)

    def entry(self, row: ManifestRow) -> Entry:
        """Open the entry of a row."""
        if (row.recipe, row.digest) not in self._numbers:
            self.rows(None)[row.name]
        number = self._numbers[row.recipe, row.digest]
        try:
            recipe = self.recipes[row.recipe]
            if isinstance(recipe, FeatureRecipe):
                index = self._feature_index(number)
            else:
                index = self._flow_index(number, recipe)
        except (LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, EntryCorrupt):
                raise
            raise EntryCorrupt(
                f"{self.path}: the header of entry {number} is damaged ({error}); {PACK_DAMAGED}"
            ) from error
        entry = Entry(self.path, row.name, row.label, index=index)
        check_identity(entry, row.recipe, row.digest)
        return entry

    def entry_path(self, row: ManifestRow) -> Path:
        """Return the file in which a row's entry lies."""
        return self.path

    def text(self, name: str) -> bytes:
        """Return "recipes", "failures" or "networks", JSON lines as a directory has them."""
        return self._tables[name].tobytes() if name in self._tables else b""

    @property
    def num_rows(self) -> int:
        return len(self._tables["rows"])

    def row(self, number: int) -> ManifestRow:
        """Return one row of the manifest, in the order of names; its entry can then be opened."""
        place = self._tables["rows"][number]
        text = self._cut("row_text", int(place["start"]), int(place["bytes"])).tobytes()
        if zlib.crc32(text) != place["crc32"]:
            raise EntryCorrupt(f"{self.path}: its list of names is damaged; {PACK_DAMAGED}")
        try:
            record = json.loads(text)
            entry = int(record.pop("entry"))
            row = ManifestRow(**record)
            # A forger's row: what names are searched by, and entries found by.
            if not all(isinstance(v, str) for v in (row.name, row.recipe, row.digest, row.path)):
                raise TypeError("a name is no text")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise EntryCorrupt(
                f"{self.path}: row {number} is no row ({error}); {PACK_DAMAGED}"
            ) from error
        if row.recipe not in self.recipes:  # one of the two is not what was packed
            raise EntryCorrupt(
                f"{self.path}: row {number} is of a recipe that is not there; {PACK_DAMAGED}"
            )
        self._numbers[row.recipe, row.digest] = entry
        return row

    def _places(self, file: Any) -> dict[str, tuple[int, int, np.dtype[Any]]]:
        """Return (offset, length, type) of each table; nothing may lead into another file."""
        if file.attrs.get("format") != schema.PACK_FORMAT.encode():
            raise EntryCorrupt(f"{self.path} is an HDF5 file, but no packed cache")
        version = file.attrs.get("format_version")
        if version is not None and version > max(schema.PACK_VERSIONS):
            raise NewerFormat(
                f"{self.path} has pack format {version}; this flowpipe reads up to "
                f"{max(schema.PACK_VERSIONS)}: update flowpipe"
            )
        if version not in schema.PACK_VERSIONS:
            raise EntryCorrupt(
                f"{self.path} has pack format {version}; this flowpipe reads "
                f"{', '.join(map(str, schema.PACK_VERSIONS))}"
            )
        places = {}
        for name, (kind, _) in schema.pack_tables(int(version)).items():
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise EntryCorrupt(f'{self.path}: the table "{name}" is missing; {PACK_DAMAGED}')
            data = file[name]
            if data.ndim != 1 or data.dtype != np.dtype(kind) or data.chunks is not None:
                raise EntryCorrupt(
                    f'{self.path}: the table "{name}" is of {data.shape} {data.dtype}'
                )
            if data.is_virtual or data.external:
                raise EntryCorrupt(f'{self.path}: the table "{name}" points into another file')
            places[name] = int(data.id.get_offset() or 0), len(data), data.dtype
        return places

    def _table(self, name: str, offset: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        if offset + length * dtype.itemsize > len(self._bytes):
            raise EntryCorrupt(f'{self.path}: the table "{name}" is cut off; {PACK_DAMAGED}')
        return np.frombuffer(self._bytes, dtype, length, offset)

    def _cut(self, name: str, start: int, count: int) -> NDArray[Any]:
        part = self._tables[name][max(0, start) : start + count]
        if start < 0 or len(part) != count:
            raise EntryCorrupt(f"{self.path}: its tables do not fit together; {PACK_DAMAGED}")
        return part

    def _record(self, table: str, number: int) -> tuple[dict[str, int], dict[str, Any], str]:
        """Return a row of "entries" or "feature_entries", the header, and what to call it."""
        record = self._tables[table][number]
        place = dict(zip(record.dtype.names, record.tolist(), strict=True))
        text = self._cut("headers", place["header_start"], place["header_bytes"])
        attributes = json.loads(text.tobytes())
        return place, attributes, f"{self.path} ({attributes['source_name']})"

    def _flow_index(self, number: int, expected: FlowRecipe) -> Index:
        place, attributes, where = self._record("entries", number)
        num_frames = place["num_frames"]
        small = {
            "flow_crc32": self._cut("flow_crc32", place["field_start"], num_frames - 1),
            "pts_s": self._cut("pts_s", place["frame_start"], num_frames),
        }
        if expected.confidence:
            small["confidence_crc32"] = self._cut(
                "confidence_crc32", place["field_start"], num_frames - 1
            )
        if expected.cuts:
            small["cuts"] = self._cut("cuts", place["field_start"], num_frames - 1)
        start = place["rgb_offset_start"]
        if start >= 0:  # as many checksums as offsets, one more than frames: the last is unused
            small["rgb_offsets"] = self._cut("rgb_offsets", start, num_frames + 1)
            small["rgb_crc32"] = self._cut("rgb_crc32", start, num_frames + 1)[:-1]
        recipe = checked_header(attributes, small, where)
        shape = shape_of(attributes, recipe, (), where)
        chunks = self._chunks("chunks", place["field_start"], shape.num_chunks)
        rgb_start = None
        if start >= 0:
            if place["rgb_start"] < 0:
                raise EntryCorrupt(f"{where}: its frames begin nowhere; {PACK_DAMAGED}")
            num_bytes = len(self._tables["rgb_jpeg"]) - place["rgb_start"]
            check_offsets(small["rgb_offsets"], num_bytes, where)
            rgb_start = self._base_of_frames + place["rgb_start"]
        checked = checked_chunks(chunks, shape, where)
        confidence = None
        if expected.confidence:
            own = confidence_shape(shape)
            places = self._chunks("confidence_chunks", place["field_start"], own.num_chunks)
            confidence = own, checked_chunks(places, own, where)
        return Index(attributes, small, recipe, shape, checked, rgb_start, confidence)

    def _feature_index(self, number: int) -> Index:
        place, attributes, where = self._record("feature_entries", number)
        count = place["num_snippets"]
        num_chunks = -(-count // max(1, int(attributes["chunk_snippets"])))
        spans = self._cut("span_s", 2 * place["snippet_start"], 2 * count)
        small = {
            "features_crc32": self._cut("features_crc32", place["chunk_start"], num_chunks),
            "centre_s": self._cut("centre_s", place["snippet_start"], count),
            "span_s": spans.reshape(-1, 2),
        }
        recipe = checked_header(attributes, small, where)
        row = (place["channels"], place["rows"], place["columns"])
        shape = shape_of(attributes, recipe, row if row[1] else row[:1], where)
        chunks = self._chunks("feature_chunks", place["chunk_start"], shape.num_chunks)
        return Index(attributes, small, recipe, shape, checked_chunks(chunks, shape, where))

    def _chunks(self, table: str, start: int, count: int) -> NDArray[np.int64]:
        part = self._cut(table, start, count)
        return np.stack([part[key] for key in ("offset", "bytes", "filter_mask")], axis=1)

    @cached_property
    def _base_of_frames(self) -> int:
        """Where the JPEGs begin in the file."""
        whole = np.frombuffer(self._bytes, np.uint8)
        return int(self._tables["rgb_jpeg"].ctypes.data - whole.ctypes.data)


class PackedRows(Mapping[str, list[ManifestRow]]):
    """Name → rows of the manifest: found by bisection, read only when all are asked for."""

    def __init__(self, pack: PackStore, recipe: str | None) -> None:
        self._pack, self._recipe = pack, recipe

    def __getitem__(self, name: str) -> list[ManifestRow]:
        if "_all" in self.__dict__:
            return self._all[name]
        first = bisect.bisect_left(
            range(self._pack.num_rows), name, key=lambda number: self._pack.row(number).name
        )
        rows = []
        for number in range(first, self._pack.num_rows):
            row = self._pack.row(number)
            if row.name != name:
                break
            if self._recipe in (None, row.recipe):
                rows.append(row)
        if not rows:
            raise KeyError(name)
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @cached_property
    def _all(self) -> dict[str, list[ManifestRow]]:
        rows: dict[str, list[ManifestRow]] = {}
        for row in map(self._pack.row, range(self._pack.num_rows)):
            if self._recipe in (None, row.recipe):
                rows.setdefault(row.name, []).append(row)
        return rows
