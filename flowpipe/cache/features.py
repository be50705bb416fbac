"""Feature entries, the second level of the cache: what a network makes of a flow entry.

They are written and read like flow entries: one HDF5 file per (video content, recipe), aside and
renamed in, with a CRC-32 for every chunk and digests for the rest. A store of features is a cache
directory; `networks.jsonl` in it says which recipe a name such as "rgb" stands for. A name stands
for what was last computed under it, so that features of older weights, layers or flow are never
read, though they stay on disk.
"""

import difflib
import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import RECIPE_FILE, Entry, entry_path, recipe_files, schema
from flowpipe.cache.codec import ZSTD_LEVEL, decode_field, encode_field, filters_of
from flowpipe.cache.entry import FileReader, read_attributes, read_datasets, resolve_index
from flowpipe.cache.key import FeatureRecipe, read_recipe
from flowpipe.cache.manifest import ManifestRow, append_lines, objects_of, read_manifest
from flowpipe.cache.write import HdfWriter, content_sha256, create_chunked
from flowpipe.errors import CacheNotFound, EntryCorrupt, EntryNotFound, InvalidArgument
from flowpipe.video import content_digest

NETWORKS_FILE = "networks.jsonl"
CODEC = "zstd"
# A clip of a few snippets should not unpack a whole video, nor a video be a thousand chunks.
CHUNK_BYTES = 2**16
MAX_CHUNK_BYTES = 2**30
STORAGES: Mapping[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
# Times that differ by less are the same instant: containers count in ticks of about 1e-5 s.
SAME_INSTANT_S = 1e-6
WAY_OUT = "delete it, then give the features command again"


class FeatureWriter(HdfWriter):
    """Take the features of one video's snippets in order; `finish` makes the file appear.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        Of one snippet's features: (D,) or (D, H', W').
    storage : "f16" or "f32"

    Raises
    ------
    CacheError
        Also from its methods, if the file cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], storage: str) -> None:
        self._dtype = STORAGES[storage]
        row_bytes = math.prod(shape) * self._dtype.itemsize
        self._rows = max(1, CHUNK_BYTES // row_bytes)
        self._shape = shape
        self._waiting = np.zeros((self._rows, *shape), self._dtype)
        self._crcs: list[int] = []
        self.num_snippets = 0
        super().__init__(path)
        try:
            with self._writing():
                chunk = self._waiting.shape
                self._set = create_chunked(self._hdf, "features", chunk, CODEC, self._dtype)
        except BaseException:
            self.__exit__()
            raise

    def add(self, features_TD: NDArray[Any]) -> None:
        """Append the features of some snippets, T×D or T×D×H'×W'.

        Raises
        ------
        InvalidArgument
            If they have another shape, or are not finite in the stored precision.
        """
        if features_TD.shape[1:] != self._shape:
            raise InvalidArgument(f"features of {features_TD.shape[1:]} must be {self._shape}")
        with np.errstate(over="ignore"):
            stored = features_TD.astype(self._dtype)
        if not np.isfinite(stored).all():
            largest = float(np.abs(features_TD[np.isfinite(features_TD)]).max(initial=0.0))
            raise InvalidArgument(
                f"features are not finite in {self._dtype.name} (largest {largest:g}, f16 ends at "
                "65504); take f32, or another layer"
            )
        for row in stored:
            self._waiting[self.num_snippets % self._rows] = row
            self.num_snippets += 1
            if self.num_snippets % self._rows == 0:
                self._write_chunk()

    def finish(
        self,
        centre_s: NDArray[np.float64],
        span_s: NDArray[np.float64],
        attributes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Complete the file and rename it in; give all attributes as written.

        Parameters
        ----------
        centre_s : array of T float64
        span_s : array of T×2 float64
            Each snippet's [start, stop) in seconds.
        attributes : mapping
            recipe, source_name, source_sha256, source, fps, offset_frames, step_frames,
            snippet_frames, problem, software.
        """
        count = self.num_snippets
        if count < 1 or centre_s.shape != (count,) or span_s.shape != (count, 2):
            raise InvalidArgument(
                f"{count} snippets do not go with times of {centre_s.shape} and {span_s.shape}; "
                "each snippet has one centre and one span"
            )
        with self._writing():
            if count % self._rows:
                self._waiting[count % self._rows :] = 0
                self._write_chunk()
            own = {
                "format": schema.FEATURES_FORMAT,
                "format_version": schema.FEATURES_VERSION,
                "num_snippets": count,
                "chunk_snippets": self._rows,
                "codec": CODEC,
                "codec_level": ZSTD_LEVEL,
            }
            small: dict[str, NDArray[Any]] = {
                "features_crc32": np.array(self._crcs, np.uint32),
                "centre_s": np.ascontiguousarray(centre_s, np.float64),
                "span_s": np.ascontiguousarray(span_s, np.float64),
            }
            return self._complete(small, {**attributes, **own}, schema.FEATURES)

    def _write_chunk(self) -> None:
        chunk, mask = encode_field(self._waiting, CODEC, near=0)
        number = len(self._crcs)
        place = (number * self._rows,) + (0,) * len(self._shape)
        with self._writing():
            # Never beyond: to shrink into a chunk, HDF5 would need the filter to read it.
            self._set.resize(self.num_snippets, axis=0)
            self._set.id.write_direct_chunk(place, chunk, filter_mask=mask)
        self._crcs.append(zlib.crc32(chunk))


class FeatureEntry(FileReader):
    """One video's features as the store holds them.

    Attributes
    ----------
    attributes : dict
        Everything that the file says about itself; see cache/FORMAT.md.
    features : FeatureRows
        T×D or T×D×H'×W' float32, read by indexing.
    centre_s : array of T float64
        Middle of each snippet in seconds.
    span_s : array of T×2 float64
        Each snippet's [start, stop) in seconds.

    Raises
    ------
    EntryNotFound
        If there is no such file.
    EntryCorrupt
        If it is no feature entry, or one whose header is not what was written.
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "", label: str | None = None):
        super().__init__(Path(path))
        index = _read_index(self.path)
        self.attributes: dict[str, Any] = index["attributes"]
        self.recipe = FeatureRecipe.from_json(self.attributes["recipe"])
        self.name = name or str(self.attributes["source_name"])
        self.label = label
        self.centre_s: NDArray[np.float64] = index["centre_s"]
        self.span_s: NDArray[np.float64] = index["span_s"]
        self.num_snippets = int(self.attributes["num_snippets"])
        self.features = FeatureRows(self, index)

    def __repr__(self) -> str:
        return f"FeatureEntry({self.name!r}, {self.features.shape}, {self.recipe.describe()})"


class FeatureRows:
    """The features of an entry, indexed along time: an integer, a slice or integers."""

    def __init__(self, entry: FeatureEntry, index: Mapping[str, Any]) -> None:
        self._entry = entry
        self._chunks, self._crc32 = index["chunks"], index["features_crc32"]
        self._rows = int(entry.attributes["chunk_snippets"])
        self.shape: tuple[int, ...] = index["shape"]
        self.dtype: np.dtype[Any] = index["dtype"]

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"FeatureRows{self.shape}"

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Give features as float32, T×D or T×D×H'×W'; without T for an integer.

        Raises
        ------
        IndexError
            If a snippet is asked for that the entry has not.
        EntryCorrupt
            If stored bytes are not what was written.
        """
        rows, single = resolve_index(index, len(self), self._entry.name)
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        chunks = rows // self._rows
        for number in np.unique(chunks):
            here = chunks == number
            out[here] = self._chunk(int(number))[rows[here] % self._rows]
        return out[0] if single else out

    def _chunk(self, number: int) -> NDArray[Any]:
        entry = self._entry
        offset, size, mask = (int(value) for value in self._chunks[number])
        chunk = entry.read_at(offset, size)
        if zlib.crc32(chunk) != self._crc32[number]:
            raise EntryCorrupt(
                f"{entry.path} ({entry.name}): the bytes of chunk {number} of the features are "
                f"not what was written; {WAY_OUT}"
            )
        out = np.empty((self._rows, *self.shape[1:]), self.dtype)
        decode_field(chunk, CODEC, mask, out.reshape(self._rows, -1))
        return out


@dataclass(frozen=True)
class AlignedFeatures:
    """Features of several networks at the same instants of one video.

    Attributes
    ----------
    features_TD : array of T×D float32
        Side by side, in the order the networks were named. (T×D×H'×W' of maps.)
    centre_s : array of T float64
        On the grid of the network whose snippets are furthest apart.
    span_s : array of T×2 float64
    """

    features_TD: NDArray[np.float32]
    centre_s: NDArray[np.float64]
    span_s: NDArray[np.float64]


class NetworkFeatures:
    """The features that one network left in a store, by the names of videos.

    A name may be the video's name, its file name or its stem, with or without an extension,
    where that is unique.
    """

    def __init__(self, path: Path, name: str, recipe: FeatureRecipe, rows: list[ManifestRow]):
        self.path, self.name, self.recipe = path, name, recipe
        self._rows = {row.name: row for row in rows if row.recipe == recipe.id}
        self._short: dict[str, list[str]] = {}
        for full in self._rows:
            for short in {PurePosixPath(full).name, PurePosixPath(full).stem} - {full}:
                self._short.setdefault(short, []).append(full)

    def __repr__(self) -> str:
        return f"NetworkFeatures({self.name!r}, {len(self)} videos, {self.recipe.describe()})"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Give the names of the videos, sorted."""
        return sorted(self._rows)

    def row(self, name: str) -> ManifestRow:
        """Give the row of the manifest that a name stands for.

        Raises
        ------
        EntryNotFound
            For a name that no entry has, or several.
        """
        path = PurePosixPath(name)
        for form in (name, path.name, path.stem):
            if form in self._rows:
                return self._rows[form]
            found = self._short.get(form, [])
            if len(found) == 1:
                return self._rows[found[0]]
            if found:
                raise EntryNotFound(
                    f'"{name}" is the name of {len(found)} videos in {self.path}: '
                    f"{', '.join(sorted(found)[:8])}; give one of these"
                )
        near = difflib.get_close_matches(name, self._rows, n=1, cutoff=0.5)
        meant = f' (did you mean "{near[0]}"?)' if near else ""
        raise EntryNotFound(
            f'no features "{self.name}" of "{name}" in {self.path}{meant}; it has '
            f"{len(self)} videos by recipe {self.recipe.id}: flowpipe features computes what is "
            "missing"
        )

    def __getitem__(self, name: str) -> FeatureEntry:
        """Open the entry of a video; EntryNotFound where there is none."""
        row = self.row(name)
        return FeatureEntry(entry_path(self.path, row.recipe, row.digest), row.name, row.label)

    def check_current(self, name: str, video: Path) -> None:
        """Refuse features of a video whose file has changed since.

        Raises
        ------
        EntryNotFound
            If the file at `video` has other content than the one the features are of. A file
            that is gone, or features made elsewhere, cannot be compared.
        """
        row = self.row(name)
        if self.recipe.source == "import" or not video.is_file():
            return
        status = video.stat()
        if (status.st_size, status.st_mtime_ns) != (row.size, row.mtime_ns) and (
            content_digest(video) != row.digest
        ):
            raise EntryNotFound(
                f'{video} has changed since the features "{self.name}" of it were computed; '
                "extract it again, then give the features command again"
            )


class FeatureStore:
    """A directory of features of one or several networks.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    recipes : dict of str to FeatureRecipe
        By id; older ones are among them.
    networks : dict of str to str
        Name → id of the recipe it stands for.

    Raises
    ------
    CacheNotFound
        If there are no features at `path`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        way_out = "flowpipe features makes one"
        if not self.path.is_dir():
            raise CacheNotFound(f"no features at {self.path}; {way_out}")
        self.recipes = read_feature_recipes(self.path)
        if not self.recipes:
            raise CacheNotFound(f"{self.path} is a directory without features; {way_out}")
        self.networks = {
            name: identity
            for name, identity in read_networks(self.path).items()
            if identity in self.recipes
        }
        self._manifest = read_manifest(self.path)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, {', '.join(self.networks)})"

    def names(self) -> list[str]:
        """Give the names of the networks, sorted."""
        return sorted(self.networks)

    def rows(self) -> list[ManifestRow]:
        """Give the rows of the manifest that are of features, sorted by name and recipe."""
        rows = [row for row in self._manifest if row.recipe in self.recipes]
        return sorted(rows, key=lambda row: (row.name, row.recipe))

    def entry_path(self, row: ManifestRow) -> Path:
        """Give the file in which a row's entry stands."""
        return entry_path(self.path, row.recipe, row.digest)

    def __getitem__(self, name: str) -> NetworkFeatures:
        """Give the features of a network, by its name in the store.

        Raises
        ------
        EntryNotFound
            If no network has this name.
        """
        if name not in self.networks:
            raise EntryNotFound(
                f'no features "{name}" in {self.path}; there are: {", ".join(self.names())}'
            )
        return NetworkFeatures(self.path, name, self.recipes[self.networks[name]], self._manifest)

    def aligned(self, video: str, networks: Sequence[str]) -> AlignedFeatures:
        """Give the features of several networks at the same instants of one video.

        The grid is that of the network whose snippets are furthest apart (the first of equals);
        to each of its snippets belong, of every other network, the one whose centre is nearest
        and, of two equally near, the later. Instants for which some network has nothing within
        half its own step are left out, unless nothing would be left.
        """
        return align([self[name][video] for name in networks])


def holds_features(path: Path) -> bool:
    """Whether a directory is a store of features, with no flow beside them."""
    if not path.is_dir():
        return False
    kinds = {type(read_recipe(file.read_text(encoding="utf-8"))) for file in recipe_files(path)}
    return kinds == {FeatureRecipe}


def open_entry(path: Path) -> Entry | FeatureEntry:
    """Open an entry file of either kind, by the recipe beside it."""
    recipe = path.parent.parent / RECIPE_FILE
    try:
        of_features = isinstance(read_recipe(recipe.read_text("utf-8")), FeatureRecipe)
    except (OSError, ValueError):
        of_features = False  # as verification says of it
    return FeatureEntry(path) if of_features else Entry(path)


def align(entries: Sequence[FeatureEntry]) -> AlignedFeatures:
    """Bring entries of one video onto one grid; see `FeatureStore.aligned`."""
    grid = max(entries, key=_step_s)
    chosen: list[NDArray[np.int64]] = []
    far_T = np.zeros(grid.num_snippets)
    for entry in entries:
        rows = nearest_rows(entry.centre_s, grid.centre_s)
        away = np.abs(entry.centre_s[rows] - grid.centre_s)
        far_T = np.maximum(far_T, away / max(_step_s(entry) / 2, SAME_INSTANT_S))
        chosen.append(rows)
    kept = np.flatnonzero(far_T <= 1 + 1e-3)
    if kept.size == 0:
        kept = np.array([int(far_T.argmin())])
    parts = [entry.features[rows[kept]] for entry, rows in zip(entries, chosen, strict=True)]
    shapes = {part.shape[2:] for part in parts}
    if len(shapes) > 1:
        told = ", ".join(f"{entry.features.shape[1:]}" for entry in entries)
        raise InvalidArgument(
            f"features of {told} do not stand side by side; take networks with maps of one size, "
            "or without --spatial"
        )
    return AlignedFeatures(np.concatenate(parts, axis=1), grid.centre_s[kept], grid.span_s[kept])


def nearest_rows(centre_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give for each instant the row of the nearest centre; of two equally near, the later.

    ::

        centres    0   1   2         wanted 0.4 → 0     0.5 → 1     9 → 2
    """
    after = np.clip(np.searchsorted(centre_s, wanted_s), 0, len(centre_s) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = wanted_s - centre_s[before] < np.abs(centre_s[after] - wanted_s) - (
        SAME_INSTANT_S
    )
    return np.where(nearer_before, before, after).astype(np.int64)


def _step_s(entry: FeatureEntry) -> float:
    """From centre to centre; of a single snippet, its length."""
    if entry.num_snippets > 1:
        return float(np.median(np.diff(entry.centre_s)))
    return float(entry.span_s[0, 1] - entry.span_s[0, 0])


def read_feature_recipes(store: Path) -> dict[str, FeatureRecipe]:
    """Give the recipes of features in a directory, by id."""
    found = {}
    for file in recipe_files(store):
        recipe = read_recipe(file.read_text(encoding="utf-8"))
        if isinstance(recipe, FeatureRecipe) and recipe.id == file.parent.name:
            found[recipe.id] = recipe
    return found


def read_networks(store: Path) -> dict[str, str]:
    """Give name → recipe id: the last line for each name."""
    file = store / NETWORKS_FILE
    text = file.read_bytes() if file.is_file() else b""
    return {str(row.get("name")): str(row.get("recipe")) for row in objects_of(text)}


def name_network(store: Path, name: str, recipe: FeatureRecipe) -> None:
    """Let a name stand for a recipe from now on."""
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidArgument(f'name "{name}" must be of letters, digits, . - and _, like rgb')
    if read_networks(store).get(name) != recipe.id:
        line = {"name": name, "recipe": recipe.id, "time": time.time()}
        append_lines(store / NETWORKS_FILE, [line])


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise EntryNotFound(f"no features at {path}; they were removed after the store was opened")
    try:
        with h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
            return _checked_index(file, path)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, EntryCorrupt):
            raise
        raise EntryCorrupt(
            f"{path} is no feature entry of flowpipe, or a damaged one ({error}); {WAY_OUT}"
        ) from error


def _checked_index(file: Any, path: Path) -> dict[str, Any]:
    attributes = read_attributes(file)
    if attributes.get("format") != schema.FEATURES_FORMAT:
        raise EntryCorrupt(f"{path} is an HDF5 file, but no feature entry of flowpipe")
    if attributes.get("format_version") != schema.FEATURES_VERSION:
        raise EntryCorrupt(
            f"{path} has format {attributes.get('format_version')}; this flowpipe reads "
            f"{schema.FEATURES_VERSION}"
        )
    found = read_datasets(file, path, schema.FEATURES, "features")
    small = {name: found[name][()] for name in ("features_crc32", "centre_s", "span_s")}
    missing = set(schema.FEATURES_ATTRIBUTES) - set(attributes)
    digest = "" if missing else content_sha256(attributes, small, schema.FEATURES)
    if missing or digest != attributes["content_sha256"]:
        raise EntryCorrupt(f"{path}: its header is not what was written; {WAY_OUT}")
    data = found["features"]
    count, rows = int(attributes["num_snippets"]), int(attributes["chunk_snippets"])
    plist = data.id.get_create_plist()
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    shape, dtype = tuple(map(int, data.shape)), data.dtype
    num_chunks = -(-count // rows) if rows > 0 else 0
    whole = (
        count > 0
        and shape[0] == count
        and len(shape) in (2, 4)
        and data.chunks == (rows, *shape[1:])
        and dtype in STORAGES.values()
        and math.prod(data.chunks) * dtype.itemsize <= MAX_CHUNK_BYTES
        and filters == filters_of(CODEC, dtype.itemsize)
        and small["features_crc32"].shape == (num_chunks,)
        and small["centre_s"].shape == (count,)
        and small["span_s"].shape == (count, 2)
    )
    if not whole:
        raise EntryCorrupt(
            f"{path}: features of {shape} {dtype} in chunks of {data.chunks} do not go with its "
            f"header; {WAY_OUT}"
        )
    chunks = np.full((num_chunks, 3), -1, np.int64)

    def take(info: Any) -> None:
        number = info.chunk_offset[0] // rows
        if number < num_chunks:
            chunks[number] = info.byte_offset, info.size, info.filter_mask

    data.id.chunk_iter(take)
    if (chunks < 0).any():
        raise EntryCorrupt(f"{path}: chunks of the features are missing; {WAY_OUT}")
    return {"attributes": attributes, **small, "chunks": chunks, "shape": shape, "dtype": dtype}


def source_facts(entry: FeatureEntry) -> dict[str, Any]:
    """Give what an entry was computed from, as it was recorded."""
    return dict(json.loads(str(entry.attributes["source"])))
