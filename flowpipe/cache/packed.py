"""Read a packed cache: one HDF5 file that `pack` wrote, whose entries are found without HDF5.

Opening asks HDF5 where the tables lie, and no more; names, headers and places of chunks are then
read from the mapped file as they are asked for, so that a pack of any size opens at once.
"""

import bisect
import json
import mmap
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.entry import PACK_DAMAGED, Entry
from flowpipe.cache.header import checked_chunks, checked_header, checked_offsets
from flowpipe.cache.manifest import ManifestRow
from flowpipe.cache.recipe import FlowRecipe, recipe_id
from flowpipe.errors import CacheError, CacheNotFound, EntryCorrupt

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class PackFile:
    """A packed cache, opened for reading.

    Parameters
    ----------
    path : Path
        A file that `flowpipe.cache.pack.pack` wrote.

    Attributes
    ----------
    recipes : dict of str to FlowRecipe
    num_entries : int

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
        except PermissionError as error:
            raise CacheError(f"{path} cannot be read: {error.strerror}") from error
        except (EntryCorrupt, CacheNotFound):
            raise
        except (OSError, LookupError, RuntimeError, ValueError, TypeError) as error:
            raise EntryCorrupt(f"{path} is no packed cache, or a damaged one ({error})") from error
        self._tables = {name: self._table(name, *place) for name, place in places.items()}
        self.num_entries = len(self._tables["entries"])
        self.recipes: dict[str, FlowRecipe] = {}
        for line in self.text("recipes").decode("utf-8", "replace").splitlines():
            try:
                self.recipes[recipe_id(line)] = FlowRecipe.from_json(line)
            except EntryCorrupt as error:
                raise EntryCorrupt(f"{path}: {error}; {PACK_DAMAGED}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return PackFile, (self.path,)

    def rows(self, recipe: str | None) -> "PackedRows":
        """Give name → rows of the manifest, of one recipe or of all."""
        return PackedRows(self, recipe)

    @property
    def num_rows(self) -> int:
        return len(self._tables["rows"])

    def row(self, number: int) -> tuple[ManifestRow, int]:
        """Give one row of the manifest, in the order of names, and the number of its entry."""
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
        return row, entry

    def text(self, name: str) -> bytes:
        """Give "recipes" or "failures", JSON lines as a cache directory has them."""
        return self._tables[name].tobytes()

    def entry(self, number: int, name: str = "", label: str | None = None) -> Entry:
        """Open one entry.

        Raises
        ------
        EntryCorrupt
            If its header is not what was written.
        """
        try:
            index = self._index(self._tables["entries"][number])
        except (LookupError, ValueError, TypeError, OverflowError) as error:
            if isinstance(error, EntryCorrupt):
                raise
            raise EntryCorrupt(
                f"{self.path}: the header of entry {number} is damaged ({error}); {PACK_DAMAGED}"
            ) from error
        return Entry(self.path, name, label, index=index)

    def _places(self, file: Any) -> dict[str, tuple[int, int, np.dtype[Any]]]:
        """Give (offset, length, type) of each table; nothing may lead into another file."""
        if file.attrs.get("format") != schema.PACK_FORMAT.encode():
            raise EntryCorrupt(f"{self.path} is an HDF5 file, but no packed cache")
        version = file.attrs.get("format_version")
        if version != schema.PACK_VERSION:
            raise EntryCorrupt(
                f"{self.path} has pack format {version}; this flowpipe reads {schema.PACK_VERSION}"
            )
        places = {}
        for name, (kind, _) in schema.PACK_TABLES.items():
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

    def _index(self, record: Any) -> dict[str, Any]:
        """Give what `Entry` needs, its header checked."""
        place = dict(zip(record.dtype.names, record.tolist(), strict=True))
        num_frames = place["num_frames"]
        num_flows = num_frames - 1
        text = self._cut("headers", place["header_start"], place["header_bytes"])
        attributes = json.loads(text.tobytes())
        small = {
            "flow_crc32": self._cut("flow_crc32", place["field_start"], num_flows),
            "pts_s": self._cut("pts_s", place["frame_start"], num_frames),
        }
        start = place["rgb_offset_start"]
        if start >= 0:  # as many checksums as offsets, one more than frames: the last is unused
            small["rgb_offsets"] = self._cut("rgb_offsets", start, num_frames + 1)
            small["rgb_crc32"] = self._cut("rgb_crc32", start, num_frames + 1)[:-1]
        where = f"{self.path} ({attributes['source_name']})"
        recipe, quantiser = checked_header(attributes, small, where)
        chunks = self._cut("chunks", place["field_start"], num_flows)
        table = np.stack([chunks[key] for key in ("offset", "bytes", "filter_mask")], axis=1)
        rgb = None
        if start >= 0:
            if place["rgb_start"] < 0:
                raise EntryCorrupt(f"{where}: its frames begin nowhere; {PACK_DAMAGED}")
            num_bytes = len(self._tables["rgb_jpeg"]) - place["rgb_start"]
            rgb = {
                "base": self._base_of_frames + place["rgb_start"],
                "offsets": checked_offsets(small["rgb_offsets"], num_bytes, where),
                "crc32": small["rgb_crc32"],
            }
        return {
            "attributes": attributes,
            "recipe": recipe,
            "quantiser": quantiser,
            "small": small,
            "chunks": checked_chunks(table, attributes, quantiser, where),
            "rgb": rgb,
        }

    @cached_property
    def _base_of_frames(self) -> int:
        """Where the JPEGs begin in the file."""
        whole = np.frombuffer(self._bytes, np.uint8)
        return int(self._tables["rgb_jpeg"].ctypes.data - whole.ctypes.data)


class PackedRows(Mapping[str, list[ManifestRow]]):
    """Name → rows of the manifest: found by bisection, read only when all are asked for."""

    def __init__(self, pack: PackFile, recipe: str | None) -> None:
        self._pack, self._recipe = pack, recipe
        self._numbers: dict[tuple[str, str], int] = {}

    def __getitem__(self, name: str) -> list[ManifestRow]:
        if "_all" in self.__dict__:
            return self._all[name]
        first = bisect.bisect_left(
            range(self._pack.num_rows), name, key=lambda number: self._pack.row(number)[0].name
        )
        found = []
        for number in range(first, self._pack.num_rows):
            row, entry = self._pack.row(number)
            if row.name != name:
                break
            if self._recipe in (None, row.recipe):
                self._numbers[row.recipe, row.digest] = entry
                found.append(row)
        if not found:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def entry(self, row: ManifestRow) -> Entry:
        """Open the entry of one of these rows."""
        return self._pack.entry(self._numbers[row.recipe, row.digest], row.name, row.label)

    @cached_property
    def _all(self) -> dict[str, list[ManifestRow]]:
        found: dict[str, list[ManifestRow]] = {}
        for number in range(self._pack.num_rows):
            row, entry = self._pack.row(number)
            if self._recipe in (None, row.recipe):
                self._numbers[row.recipe, row.digest] = entry
                found.setdefault(row.name, []).append(row)
        return found
