"""One feature entry: written aside and renamed in, read with its checksums, as a flow entry is."""

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.codec import ZSTD_LEVEL, decode_field, encode_field, filters_of
from flowpipe.cache.entry import FileReader, read_attributes, read_datasets, resolve_index
from flowpipe.cache.recipe import FeatureRecipe
from flowpipe.cache.write import HdfWriter, content_sha256, create_chunked
from flowpipe.errors import EntryCorrupt, EntryNotFound, InvalidArgument

CODEC = "zstd"
# A clip of a few snippets should not unpack a whole video, nor a video be a thousand chunks.
CHUNK_BYTES = 2**16
MAX_CHUNK_BYTES = 2**30
STORAGES: Mapping[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
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
