"""Every way around HDF5, in one place.

- Fields are read by `pread` and decoded by us: HDF5 has one lock for all threads of a process,
  and its handles cross neither a fork nor a pickle. HDF5 is asked once, where the chunks lie.
- Chunks are compressed by us and written directly, so that writing needs no plugin.
- HDF5 writes through a Python file: on a full disk its own writing ends in a segfault.
- Attributes are texts of fixed length in the object's header: the heap of HDF5's variable-length
  texts has no checksum, and one wrong bit there can hang it.
- A CRC-32 for every chunk and a SHA-256 behind the image: HDF5 has checksums for neither.
- What may crash or hang HDF5 is opened in a process of its own: see `flowpipe.cache.verify`.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.codec import filters_of
from flowpipe.cache.part import PartFile
from flowpipe.errors import EntryCorrupt

DAMAGED = "delete it, then give the extract or features command again"
PACK_DAMAGED = "pack the cache again"

# HDF5 keeps more attributes than this in a heap without checksums.
MOST_COMPACT_ATTRIBUTES = 1024
# What h5py and HDF5 raise on a malformed file is of many kinds.
MALFORMED = (OSError, LookupError, RuntimeError, ValueError, TypeError)


class FileReader:
    """A file read by `pread` through a descriptor of the process's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def close(self) -> None:
        """Return the file descriptor; the next read opens the file again."""
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


def read_attributes(file: Any) -> dict[str, Any]:
    """Read all attributes; by h5py's low-level functions, in half the time."""
    names: list[bytes] = []
    h5py.h5a.iterate(file.id, names.append)
    attributes = {}
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
            # Elements of variable length may all be the same megabyte; no entry has a list.
            whole = attribute.shape in ((), None) or not _of_variable_length(kind)
            attributes[text] = _plain(file.attrs[text]) if whole else None
            continue
        value = np.empty((), dtype)
        attribute.read(value, kind)
        attributes[text] = _plain(value.item())
    return attributes


def read_datasets(file: Any, path: Path, layout: schema.Layout) -> dict[str, Any]:
    """Return the data sets, after a check that they are those of an entry, and in this file."""
    datasets = {}
    file_bytes = path.stat().st_size
    for name in file:
        link = file.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if name not in layout.datasets or link.type != h5py.h5l.TYPE_HARD:
            raise EntryCorrupt(f'{path}: "{name}" has no place in an entry')
        data = datasets[name] = file[name]
        if not isinstance(data, h5py.Dataset):
            raise EntryCorrupt(f'{path}: "{name}" is a group; an entry has none')
        plist = data.id.get_create_plist()
        storage = plist.get_layout()
        if storage == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise EntryCorrupt(f'{path}: "{name}" points into another file')
        if name == layout.track or name in layout.more_tracks:
            continue
        if storage == h5py.h5d.CHUNKED or data.nbytes > file_bytes:
            raise EntryCorrupt(f'{path}: "{name}" of {data.shape} is larger than the file')
        if name in layout.small and data.dtype != np.dtype(layout.small[name]):
            raise EntryCorrupt(f'{path}: "{name}" is of {data.dtype}, not {layout.small[name]}')
    # Their recipe says whether these must be there.
    wanted = {*layout.datasets} - {"confidence", "confidence_crc32", "cuts"}
    rgb = {name for name in wanted if name.startswith("rgb_")}
    wanted -= rgb if not any(name in datasets for name in rgb) else set()
    if missing := wanted - set(datasets):
        raise EntryCorrupt(f"{path}: {', '.join(sorted(missing))} missing; {DAMAGED}")
    return datasets


def chunk_table(data: Any, count: int) -> NDArray[np.int64]:
    """Return (offset, bytes, filter mask) of the chunks along time; −1 where one is missing."""
    table = np.full((count, 3), -1, np.int64)
    rows = data.chunks[0]

    def take(info: Any) -> None:
        number = info.chunk_offset[0] // rows
        if number < count:
            table[number] = info.byte_offset, info.size, info.filter_mask

    if count:
        data.id.chunk_iter(take)
    return table


def filters_in(data: Any) -> tuple[int, ...]:
    """Return the filter pipeline of a data set."""
    plist = data.id.get_create_plist()
    return tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))


def create_hdf(file: PartFile) -> Any:
    """Return an empty HDF5 file (h5py.File) written through a Python file."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, file)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_attr_phase_change(MOST_COMPACT_ATTRIBUTES, 0)
    creation.set_obj_track_times(False)  # so that the same entry has the same bytes
    return h5py.File(h5py.h5f.create(b"entry", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def create_chunked(
    parent: Any, name: str, chunk: tuple[int, ...], codec: str, dtype: np.dtype[Any]
) -> Any:
    """Return an empty data set that grows along its first axis; we compress its chunks."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    plist.set_obj_track_times(False)  # so that the same entry has the same bytes
    for number in filters_of(codec, dtype.itemsize):
        if number == schema.FILTER_SHUFFLE:
            plist.set_shuffle()
        else:
            values: tuple[int, ...] = ()
            if number == schema.FILTER_JPEGLS:
                values = _jpegls_parameters((chunk[1], chunk[2]), dtype)
            # Optional, so that writing needs no plugin.
            plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
    space = h5py.h5s.create_simple((0, *chunk[1:]), (h5py.h5s.UNLIMITED, *chunk[1:]))
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(parent.id, name.encode(), kind, space, dcpl=plist))


def write_attributes(group: Any, attributes: dict[str, Any]) -> None:
    """Write attributes; texts as fixed-length UTF-8."""
    for name, value in attributes.items():
        group.attrs[name] = fixed_text(value) if isinstance(value, str) else value


def fixed_text(text: str) -> NDArray[Any]:
    """Return a text as HDF5's fixed-length UTF-8: its variable-length form lies in a heap."""
    data = text.encode("utf-8", "surrogateescape")
    return np.array(data, h5py.string_dtype("utf-8", max(1, len(data))))


def append_trailer(file: Any) -> None:
    """Put the digest of the HDF5 image behind it; HDF5 does not mind bytes after its end."""
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0, os.SEEK_END)
    file.write(schema.TRAILER_MAGIC + digest)


def check_trailer(path: Path) -> None:
    """Compare the digest behind the HDF5 image; EntryCorrupt where it is another."""
    size = path.stat().st_size - schema.TRAILER_BYTES
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while size > 0 and (block := file.read(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
        if file.read() != schema.TRAILER_MAGIC + digest.digest():
            raise EntryCorrupt(f"{path}: the file is not what was written; compute it again")


def _jpegls_parameters(shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return what HDF5's JPEG-LS filter keeps beside a data set, without which it cannot read it.

    It writes them by itself where it is registered when the data set is made; ours need not be.
    """
    images = components = 1
    return dtype.itemsize, images, *shape, 8 * dtype.itemsize, components, *(0,) * 7


def _of_variable_length(kind: Any) -> bool:
    if isinstance(kind, h5py.h5t.TypeStringID):
        return bool(kind.is_variable_str())
    return not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value.item() if isinstance(value, np.generic) else value
