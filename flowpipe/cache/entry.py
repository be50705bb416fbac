"""Read one entry: `entry.flow[10:20]`, `entry.rgb[5]`, `entry.pts_s`.

HDF5 is asked once, for the attributes and for where the chunks lie; fields are then read with
`pread` and decoded outside HDF5's lock, each after its CRC-32 has been compared. No HDF5 handle
stays open, so an entry may cross a fork, a pickle or a thread.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.codec import decode_field, filters_of
from flowpipe.cache.header import checked_chunks, checked_header, checked_offsets
from flowpipe.cache.recipe import FlowRecipe
from flowpipe.cache.write import from_stored, stored_dtype
from flowpipe.errors import EntryCorrupt, EntryNotFound, InvalidArgument
from flowpipe.flow.quantise import Quantiser

DAMAGED = "delete the file and extract the video again"
PACK_DAMAGED = "pack the cache again"


class FileReader:
    """A file read by `pread` through a descriptor of the process's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def close(self) -> None:
        """Give the file descriptor back; the next read opens the file again."""
        if self._descriptor is not None and self._descriptor[0] == os.getpid():
            os.close(self._descriptor[1])
        self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    def read_at(self, offset: int, size: int) -> bytes:
        """Read stored bytes; fewer, or none, where the file ends before."""
        if self._descriptor is None or self._descriptor[0] != os.getpid():
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            self._descriptor = (os.getpid(), os.open(self.path, flags))
        return os.pread(self._descriptor[1], size, offset)


class Entry(FileReader):
    """One video's flow (and frames) as the cache holds them.

    Parameters
    ----------
    path : Path
        An entry file.
    name, label : str
        As the manifest has them; the name the file was written under when absent.
    index : dict, optional
        What the file's header says, where it has been read already: by a pack, in which `path`
        holds many entries.

    Attributes
    ----------
    attributes : dict
        Everything that the file says about itself; see cache/FORMAT.md.
    small : dict of arrays
        `flow_crc32`, `pts_s`, and with RGB `rgb_offsets` and `rgb_crc32`; see cache/FORMAT.md.
    pts_s : array of N float64
        Times of the frames in seconds.
    flow : FlowFields
        F×H×W×2 float32 px, read by indexing.
    rgb : RgbFrames
        N×H×W×3 uint8, read by indexing.

    Raises
    ------
    EntryNotFound
        If there is no such file.
    EntryCorrupt
        If it is no entry, or one whose header is not what was written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str = "",
        label: str | None = None,
        *,
        index: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(Path(path))
        self.label = label
        self._way_out = DAMAGED if index is None else PACK_DAMAGED
        index = index or _read_index(self.path)
        self.attributes: dict[str, Any] = index["attributes"]
        self.name = name or str(self.attributes["source_name"])
        self.small: dict[str, NDArray[Any]] = index["small"]
        self.pts_s: NDArray[np.float64] = self.small["pts_s"]
        self.recipe: FlowRecipe = index["recipe"]
        self.quantiser: Quantiser = index["quantiser"]
        self.height = int(self.attributes["height"])
        self.width = int(self.attributes["width"])
        self.num_frames = int(self.attributes["num_frames"])
        self.num_flows = self.num_frames - 1
        self.flow = FlowFields(self, index["chunks"], self.small["flow_crc32"])
        self._rgb_index = index["rgb"]

    @cached_property
    def rgb(self) -> "RgbFrames":
        """The frames; EntryNotFound where the cache was made without them."""
        if self._rgb_index is None:
            raise EntryNotFound(
                f'"{self.name}" holds no RGB frames; extract again with --rgb into this cache'
            )
        return RgbFrames(self, **self._rgb_index)

    @property
    def has_rgb(self) -> bool:
        return self._rgb_index is not None

    @property
    def digest(self) -> str:
        """SHA-256 of the video's bytes."""
        return str(self.attributes["source_sha256"])

    @property
    def num_bytes(self) -> int:
        """Bytes that the flow and the frames take in the file."""
        frames = 0
        if self._rgb_index is not None:
            offsets = self._rgb_index["offsets"]
            frames = int(offsets[-1] - offsets[0])
        return self.flow.num_bytes + frames

    def __repr__(self) -> str:
        rgb = f", rgb {self.rgb.shape}" if self.has_rgb else ""
        return f"Entry({self.name!r}, flow {self.flow.shape}{rgb}, {self.recipe.describe()})"


class FlowFields:
    """The flow of an entry, indexed along time: an integer, a slice or a sequence of integers."""

    def __init__(self, entry: Entry, chunks: NDArray[np.int64], crc32: NDArray[np.uint32]) -> None:
        self._entry, self._chunks, self._crc32 = entry, chunks, crc32
        self.shape = (entry.num_flows, entry.height, entry.width, 2)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"FlowFields{self.shape}"

    @property
    def num_bytes(self) -> int:
        return int(self._chunks[:, 1].sum())

    def stored(self, row: int) -> tuple[bytes, int]:
        """Give the chunk of one field as it stands in the file, and its filter mask.

        Raises
        ------
        EntryCorrupt
            If the bytes are not what was written.
        """
        chunk = bytes(self._checked(row, self._stored(np.array([row]))[0]))
        return chunk, int(self._chunks[row, 2])

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Give fields as float32 px, T×H×W×2; H×W×2 for an integer."""
        rows, single = resolve_index(index, len(self), self._entry.name)
        uv_THWC = self._entry.quantiser.decode(self.codes(rows)).transpose(0, 2, 3, 1)
        uv_THWC = np.ascontiguousarray(uv_THWC)
        return uv_THWC[0] if single else uv_THWC

    def codes(self, indices: Iterable[int]) -> NDArray[Any]:
        """Give the codes of fields, T×2×H×W in uint8, int16 or float16.

        Raises
        ------
        IndexError
            If a field is asked for that the entry has not.
        EntryCorrupt
            If stored bytes are not what was written.
        """
        entry = self._entry
        rows, _ = resolve_index(list(indices), len(self), entry.name)
        dtype = stored_dtype(entry.quantiser)
        out = np.empty((len(rows), 2 * entry.height, entry.width), dtype)
        done: dict[int, int] = {}
        for position, (row, chunk) in enumerate(zip(rows, self._stored(rows), strict=True)):
            if row in done:  # a clip longer than its video repeats its last field
                out[position] = out[done[row]]
                continue
            done[int(row)] = position
            self._checked(row, chunk)
            codec, mask = str(entry.attributes["codec"]), int(self._chunks[row, 2])
            try:
                decode_field(chunk, codec, mask, out[position])
            except EntryCorrupt as error:
                told = f"{entry.path} ({entry.name}): flow {row}: {error}; {entry._way_out}"
                raise EntryCorrupt(told) from error
        return from_stored(out).reshape(len(rows), 2, entry.height, entry.width)

    def _checked(self, row: int, chunk: bytes | memoryview) -> bytes | memoryview:
        if zlib.crc32(chunk) != self._crc32[row]:
            entry = self._entry
            raise EntryCorrupt(
                f"{entry.path} ({entry.name}): the bytes of flow {row} are not what was "
                f"written; {entry._way_out}"
            )
        return chunk

    def _stored(self, rows: NDArray[np.int64]) -> list[bytes | memoryview]:
        """Read chunks; a run of neighbours in the file is one read."""
        offsets, sizes = self._chunks[rows, 0], self._chunks[rows, 1]
        found: list[bytes | memoryview] = []
        start = 0
        while start < len(rows):
            stop = start + 1
            while stop < len(rows) and offsets[stop] == offsets[stop - 1] + sizes[stop - 1]:
                stop += 1
            total = int(sizes[start:stop].sum())
            block = memoryview(self._entry.read_at(int(offsets[start]), total))
            place = 0
            for size in sizes[start:stop].tolist():
                found.append(block[place : place + size])
                place += size
            start = stop
        return found


class RgbFrames:
    """The frames of an entry, indexed along time like `FlowFields`."""

    def __init__(
        self, entry: Entry, base: int, offsets: NDArray[np.int64], crc32: NDArray[np.uint32]
    ) -> None:
        self._entry, self._base, self._offsets, self._crc32 = entry, base, offsets, crc32
        self.shape = (entry.num_frames, entry.height, entry.width, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"RgbFrames{self.shape}"

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Give frames as uint8 R, G, B: T×H×W×3; H×W×3 for an integer."""
        rows, single = resolve_index(index, len(self), self._entry.name)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for position, row in enumerate(rows):
            out[position] = self._decoded(int(row))
        return out[0] if single else out

    def jpeg(self, row: int) -> bytes:
        """Give the JPEG bytes of one frame.

        Raises
        ------
        EntryCorrupt
            If they are not what was written.
        """
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        text = self._entry.read_at(self._base + start, stop - start)
        if zlib.crc32(text) != self._crc32[row]:
            raise EntryCorrupt(
                f"{self._entry.path} ({self._entry.name}): the bytes of RGB frame {row} are not "
                f"what was written; {self._entry._way_out}"
            )
        return text

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        jpeg = self.jpeg(row)
        picture = None
        # A JPEG of a few bytes may claim 65535² px, for which OpenCV would take 12 GB.
        if jpeg_size(jpeg) == self.shape[1:3]:
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None or picture.shape != self.shape[1:]:
            raise EntryCorrupt(f"{self._entry.path}: RGB frame {row} is no JPEG of {self.shape}")
        frame_HWC: NDArray[np.uint8] = picture.astype(np.uint8, copy=False)
        return frame_HWC


def resolve_index(index: Any, length: int, name: str) -> tuple[NDArray[np.int64], bool]:
    """Give (rows, whether one was asked for) for an integer, a slice or integers."""
    if isinstance(index, slice):
        return np.arange(*index.indices(length)), False
    rows = np.asarray(index)
    if rows.ndim > 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise InvalidArgument(
            f"index {index!r:.60} must be a whole number, a slice or a list of whole numbers"
        )
    single = rows.ndim == 0
    rows = np.atleast_1d(rows).astype(np.int64)
    if rows.size and (rows.min() < -length or rows.max() >= length):
        wrong = int(rows.max() if rows.max() >= length else rows.min())
        # IndexError also ends Python's old-style iteration over the fields.
        raise IndexError(f'index {wrong} is outside the {length} of "{name}"')
    return np.where(rows < 0, rows + length, rows), single


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Give (height, width) in px as a JPEG's header has them; None where it has none."""
    place = 2
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        # SOF0 … SOF15, without the tables DHT, JPG and DAC that lie between their numbers
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", jpeg, place + 5)
            return height, width
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return None


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise EntryNotFound(f"no entry at {path}; it was removed after the cache was opened")
    try:
        with h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
            return _checked_index(file, path)
    except EntryCorrupt:
        raise
    # What HDF5 and h5py raise on a malformed file is of many kinds.
    except (OSError, LookupError, RuntimeError, ValueError, TypeError) as error:
        raise EntryCorrupt(
            f"{path} is not an entry of a flowpipe cache, or a damaged one ({error}); "
            "delete it and extract the video again"
        ) from error


def _checked_index(file: Any, path: Path) -> dict[str, Any]:
    attributes = read_attributes(file)
    if attributes.get("format") != schema.FORMAT:
        raise EntryCorrupt(f"{path} is an HDF5 file, but no entry of a flowpipe cache")
    if attributes.get("format_version") != schema.FORMAT_VERSION:
        raise EntryCorrupt(
            f"{path} has format {attributes.get('format_version')}; this flowpipe reads "
            f"{schema.FORMAT_VERSION}"
        )
    found = read_datasets(file, path, schema.FLOW, "flow")
    small = {name: found[name][()] for name in schema.SMALL_DATASETS if name in found}
    recipe, quantiser = checked_header(attributes, small, str(path))
    chunks = _chunk_table(found["flow"], attributes, quantiser, path)
    rgb = None
    if "rgb_jpeg" in found:
        frames = found["rgb_jpeg"]
        offsets = checked_offsets(small["rgb_offsets"], len(frames), str(path))
        rgb = {
            "base": int(frames.id.get_offset() or 0),
            "offsets": offsets,
            "crc32": small["rgb_crc32"],
        }
    return {
        "attributes": attributes,
        "recipe": recipe,
        "quantiser": quantiser,
        "small": small,
        "chunks": chunks,
        "rgb": rgb,
    }


def read_attributes(file: Any) -> dict[str, Any]:
    """Read all attributes; by h5py's low-level functions, in half the time."""
    names: list[bytes] = []
    h5py.h5a.iterate(file.id, names.append)
    found = {}
    for name in names:
        attribute = h5py.h5a.open(file.id, name)
        kind = attribute.get_type()
        text = name.decode("utf-8", "surrogateescape")
        dtype: Any = None
        if attribute.shape == ():
            if isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str():
                dtype = f"S{kind.get_size()}"
            elif isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID):
                dtype = kind.dtype
        if dtype is None:  # texts of variable length, as older files have them; a foreign file's
            found[text] = _plain(file.attrs[text])
            continue
        value = np.empty((), dtype)
        attribute.read(value, kind)
        found[text] = _plain(value.item())
    return found


def read_datasets(file: Any, path: Path, layout: schema.Layout, chunked: str) -> dict[str, Any]:
    """Give the data sets, after a check that they are those of an entry, and in this file."""
    found = {}
    file_bytes = path.stat().st_size
    for name in file:
        link = file.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if name not in layout.datasets or link.type != h5py.h5l.TYPE_HARD:
            raise EntryCorrupt(f'{path}: "{name}" has no place in an entry')
        data = found[name] = file[name]
        if not isinstance(data, h5py.Dataset):
            raise EntryCorrupt(f'{path}: "{name}" is a group; an entry has none')
        plist = data.id.get_create_plist()
        form = plist.get_layout()
        if form == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise EntryCorrupt(f'{path}: "{name}" points into another file')
        if name != chunked and (form == h5py.h5d.CHUNKED or data.nbytes > file_bytes):
            raise EntryCorrupt(f'{path}: "{name}" of {data.shape} is larger than the file')
    rgb = [name for name in layout.datasets if name.startswith("rgb_")]
    wanted = {*layout.datasets} - ({*rgb} if not any(name in found for name in rgb) else set())
    if missing := wanted - set(found):
        raise EntryCorrupt(f"{path}: {', '.join(sorted(missing))} missing; {DAMAGED}")
    return found


def _chunk_table(
    flow: Any, attributes: Mapping[str, Any], quantiser: Quantiser, path: Path
) -> NDArray[np.int64]:
    """Give (offset, size, filter mask) of each field's chunk."""
    height, width = int(attributes["height"]), int(attributes["width"])
    shape = (int(attributes["num_frames"]) - 1, 2 * height, width)
    dtype = stored_dtype(quantiser)
    if flow.shape != shape or flow.dtype != dtype or flow.chunks != (1, *shape[1:]):
        raise EntryCorrupt(
            f"{path}: flow of shape {flow.shape} {flow.dtype} does not go with its header"
        )
    plist = flow.id.get_create_plist()
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    if filters != filters_of(str(attributes["codec"]), dtype.itemsize):
        raise EntryCorrupt(f"{path}: filters {filters} are not those of {attributes['codec']}")
    table = np.full((shape[0], 3), -1, np.int64)

    def take(info: Any) -> None:
        row = info.chunk_offset[0]
        if row < shape[0]:
            table[row] = info.byte_offset, info.size, info.filter_mask

    if shape[0]:
        flow.id.chunk_iter(take)
    return checked_chunks(table, attributes, quantiser, str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value.item() if isinstance(value, np.generic) else value
