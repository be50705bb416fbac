"""Write one entry: aside, digested, fsynced, renamed in. A file exists only when it is complete."""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import fsync_folder
from flowpipe.cache import schema
from flowpipe.cache.aside import Aside, write_errors
from flowpipe.cache.codec import ZSTD_LEVEL, encode_field, filters_of
from flowpipe.errors import InvalidArgument
from flowpipe.flow.quantise import Quantiser

GROW_FIELDS = 256
JPEG_LARGEST_SIDE = 65_500  # OpenCV's libjpeg
RGB_SPOOL_BYTES = 32 * 2**20
# HDF5 keeps more attributes than this in a heap without checksums, on which it can hang when a
# bit is wrong; in the header of the group they are under its checksum.
MOST_COMPACT_ATTRIBUTES = 1024


@dataclass(frozen=True)
class StoredField:
    """A flow field as it stands in the file, and what is counted of it before it is coded."""

    chunk: bytes
    filter_mask: int
    clipped: int
    zero: int
    magnitude_px: float


class FieldCoder:
    """Displacements → `StoredField`, in one form and codec."""

    def __init__(self, quantiser: Quantiser, codec: str, level: int = ZSTD_LEVEL) -> None:
        check_codec(quantiser, codec)
        self._quantiser, self._codec, self._level = quantiser, codec, level
        self._code_of_zero = quantiser.encode(0.0)

    def __call__(self, uv_HWC: NDArray[np.float32]) -> StoredField:
        components = np.ascontiguousarray(uv_HWC.transpose(2, 0, 1))
        _, height, width = components.shape
        codes = self._quantiser.encode(components)
        chunk, mask = encode_field(
            to_stored(codes).reshape(2 * height, width),
            self._codec,
            near=self._quantiser.near if self._codec == "jpegls" else 0,
            level=self._level,
        )
        return StoredField(
            chunk,
            mask,
            clipped=self._quantiser.clipped(components),
            zero=int(np.count_nonzero((codes == self._code_of_zero).all(axis=0))),
            magnitude_px=cv2.mean(cv2.magnitude(*components))[0],
        )


def encode_jpeg(rgb_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """Give a frame as JPEG.

    Raises
    ------
    InvalidArgument
        If a side is longer than JPEG can hold.
    """
    height, width = rgb_HWC.shape[:2]
    if max(height, width) > JPEG_LARGEST_SIDE:
        raise InvalidArgument(
            f"a frame of {height}×{width} px is too large for a JPEG, which ends at "
            f"{JPEG_LARGEST_SIDE} px; give a smaller size or leave RGB out"
        )
    bgr_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


class HdfWriter:
    """An HDF5 file that appears at `path` when it is complete: what all kinds of entries share.

    A context manager: left without `_complete`, it leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Same folder, so that the rename stays inside one file system.
        self._aside = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._file: Aside | None = None
        self._hdf: Any = None
        try:
            with self._writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = Aside(self._aside)
                self._hdf = create_hdf(self._file)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is None:
            return
        try:
            self._file.abandon()
            if self._hdf:
                self._hdf.close()
        finally:
            with contextlib.suppress(OSError):  # its buffer, which nobody wants any more
                self._file.close()
            self._aside.unlink(missing_ok=True)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return write_errors(self._path, self._file)

    def _complete(
        self,
        small: Mapping[str, NDArray[Any]],
        attributes: Mapping[str, Any],
        layout: schema.Layout = schema.FLOW,
    ) -> dict[str, Any]:
        """Write the small data sets and the attributes, close, digest, fsync, rename in."""
        for name, values in small.items():
            self._hdf.create_dataset(name, data=values)
        written = dict(attributes)
        missing = set(layout.attributes) - set(written) - {"content_sha256"}
        if missing:
            raise InvalidArgument(f"an entry needs the attributes {', '.join(sorted(missing))}")
        written["content_sha256"] = content_sha256(written, small, layout)
        for name in layout.attributes:
            value = written[name]
            self._hdf.attrs[name] = fixed_text(value) if isinstance(value, str) else value
        self._hdf.close()
        append_trailer(self._file)
        self._aside.replace(self._path)
        fsync_folder(self._path.parent)
        return written


class EntryWriter(HdfWriter):
    """Take the fields and frames of one video, in order; `finish` makes the file appear.

    A context manager: left without `finish`, it leaves nothing behind.

    Parameters
    ----------
    path : Path
        Where the file is to appear; the folder is made.
    quantiser : Quantiser
    codec : "jpegls" or "zstd"
    height, width : int
        Of the fields, in px.
    rgb_quality : int
        JPEG quality 1–100; 0 keeps no RGB.
    level : int
        Of zstd.

    Raises
    ------
    CacheError
        Also from its methods, if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        quantiser: Quantiser,
        codec: str,
        height: int,
        width: int,
        rgb_quality: int = 0,
        level: int = ZSTD_LEVEL,
    ) -> None:
        self._coder = FieldCoder(quantiser, codec, level)
        self._path, self._quantiser, self._codec = path, quantiser, codec
        self._height, self._width = height, width
        self._rgb_quality, self._level = rgb_quality, level
        self._dtype = stored_dtype(quantiser)
        self._crcs: list[int] = []
        self._rgb_crcs: list[int] = []
        self._rgb_offsets = [0]
        self._clipped = self._zero = 0
        self._magnitude = 0.0
        self._rgb: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 — closed in __exit__
            max_size=RGB_SPOOL_BYTES, dir=str(path.parent)
        )
        super().__init__(path)
        try:
            with self._writing():
                shape = (2 * height, width)
                self._flow = create_flow(self._hdf, "flow", shape, codec, self._dtype)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self._rgb.close()
        super().__exit__()

    @property
    def num_flows(self) -> int:
        return len(self._crcs)

    def add_flow(self, uv_HWC: NDArray[np.float32]) -> None:
        """Append one field in px."""
        self.add_stored(self._coder(uv_HWC))

    def add_stored(self, field: StoredField) -> None:
        """Append one field that is coded already, in this writer's form."""
        index = len(self._crcs)
        if index == self._flow.shape[0]:
            with self._writing():
                self._flow.resize(index + GROW_FIELDS, axis=0)
        with self._writing():
            self._flow.id.write_direct_chunk(
                (index, 0, 0), field.chunk, filter_mask=field.filter_mask
            )
        self._crcs.append(zlib.crc32(field.chunk))
        self._clipped += field.clipped
        self._zero += field.zero
        self._magnitude += field.magnitude_px

    def add_rgb(self, rgb_HWC: NDArray[np.uint8]) -> None:
        """Append one frame as JPEG."""
        self.add_jpeg(encode_jpeg(rgb_HWC, self._rgb_quality))

    def add_jpeg(self, jpeg: bytes) -> None:
        """Append one frame that is a JPEG already."""
        with self._writing():
            self._rgb.write(jpeg)
        self._rgb_crcs.append(zlib.crc32(jpeg))
        self._rgb_offsets.append(self._rgb_offsets[-1] + len(jpeg))

    def finish(self, pts_s: NDArray[np.float64], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the file and rename it in.

        Parameters
        ----------
        pts_s : array of N float64
            Times of the frames, one more than fields.
        attributes : mapping
            What the caller knows: recipe, source_name, source_sha256, source, problem, software;
            of a copied entry all of them.

        Returns
        -------
        dict
            All attributes as written.
        """
        num_flows = self.num_flows
        if len(pts_s) != num_flows + 1 or len(self._rgb_crcs) not in (0, len(pts_s)):
            raise InvalidArgument(
                f"{num_flows} fields and {len(self._rgb_crcs)} RGB frames do not go with "
                f"{len(pts_s)} times; N frames have N − 1 fields"
            )
        with self._writing():
            return self._finish(np.ascontiguousarray(pts_s, np.float64), attributes)

    def _finish(self, pts_s: NDArray[np.float64], attributes: Mapping[str, Any]) -> dict[str, Any]:
        num_flows = self.num_flows
        self._flow.resize(num_flows, axis=0)
        small: dict[str, NDArray[Any]] = {
            "flow_crc32": np.array(self._crcs, np.uint32),
            "pts_s": pts_s,
        }
        if self._rgb_quality:
            small["rgb_offsets"] = np.array(self._rgb_offsets, np.uint64)
            small["rgb_crc32"] = np.array(self._rgb_crcs, np.uint32)
            self._write_rgb()
        return self._complete(small, {**self._own_attributes(num_flows), **attributes})

    def _write_rgb(self) -> None:
        target = self._hdf.create_dataset("rgb_jpeg", (self._rgb_offsets[-1],), np.uint8)
        self._rgb.seek(0)
        start = 0
        while block := self._rgb.read(8 * 2**20):
            target[start : start + len(block)] = np.frombuffer(block, np.uint8)
            start += len(block)

    def _own_attributes(self, num_flows: int) -> dict[str, Any]:
        pixels = max(1, num_flows * self._height * self._width)
        quantiser = self._quantiser
        zero, step_px = code_rule(quantiser)
        return {
            "format": schema.FORMAT,
            "format_version": schema.FORMAT_VERSION,
            "num_frames": num_flows + 1,
            "height": self._height,
            "width": self._width,
            "codec": self._codec,
            "codec_level": quantiser.near if self._codec == "jpegls" else self._level,
            "code_zero": zero,
            "code_step_px": step_px,
            "bound_px": float(quantiser.bound_px or 0.0),
            "rounding": quantiser.rounding,
            "clipped_share": self._clipped / (2 * pixels),
            "zero_share": self._zero / pixels,
            # Rounded: OpenCV's sums differ in the last bits with the place in memory.
            "mean_magnitude_px": round(self._magnitude / max(1, num_flows), 6),
        }


def create_hdf(file: Aside) -> Any:
    """Give an empty HDF5 file (h5py.File) written through a Python file.

    So a full disk is an OSError; written by HDF5 itself it ends in a segfault.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, file)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_attr_phase_change(MOST_COMPACT_ATTRIBUTES, 0)
    creation.set_obj_track_times(False)  # so that the same entry has the same bytes
    return h5py.File(h5py.h5f.create(b"entry", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def jpegls_parameters(shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Give what HDF5's JPEG-LS filter keeps beside a data set, without which it cannot read it.

    It writes them by itself where it is registered when the data set is made; ours need not be.
    """
    images = components = 1
    return dtype.itemsize, images, *shape, 8 * dtype.itemsize, components, *(0,) * 7


def create_flow(
    parent: Any, name: str, shape: tuple[int, int], codec: str, dtype: np.dtype[Any]
) -> Any:
    """Give an empty data set of fields (2H, W), one chunk each, that grows along time."""
    return create_chunked(parent, name, (1, *shape), codec, dtype)


def create_chunked(
    parent: Any, name: str, chunk: tuple[int, ...], codec: str, dtype: np.dtype[Any]
) -> Any:
    """Give an empty data set that grows along its first axis; its chunks are compressed by us."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    plist.set_obj_track_times(False)  # so that the same entry has the same bytes
    for number in filters_of(codec, dtype.itemsize):
        if number == schema.FILTER_SHUFFLE:
            plist.set_shuffle()
        else:
            told: tuple[int, ...] = ()
            if number == schema.FILTER_JPEGLS:
                told = jpegls_parameters((chunk[1], chunk[2]), dtype)
            # Optional, so that writing needs no plugin.
            plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, told)
    space = h5py.h5s.create_simple((0, *chunk[1:]), (h5py.h5s.UNLIMITED, *chunk[1:]))
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(parent.id, name.encode(), kind, space, dcpl=plist))


def append_trailer(file: Any) -> None:
    """Put the digest of the HDF5 image behind it; HDF5 does not mind bytes after its end."""
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0, os.SEEK_END)
    file.write(schema.TRAILER_MAGIC + digest)
    file.flush()
    os.fsync(file.fileno())


def fixed_text(text: str) -> NDArray[Any]:
    """Give a text as HDF5's fixed-length UTF-8: its variable-length form lies in a heap."""
    data = text.encode("utf-8", "surrogateescape")
    return np.array(data, h5py.string_dtype("utf-8", max(1, len(data))))


def check_codec(quantiser: Quantiser, codec: str) -> None:
    """Refuse combinations of storage and codec that make no sense.

    Raises
    ------
    InvalidArgument
    """
    if codec not in schema.CODECS:
        raise InvalidArgument(f'codec "{codec}" must be one of {", ".join(schema.CODECS)}')
    if codec == "jpegls" and quantiser.storage == "f16":
        raise InvalidArgument(
            "storage f16 cannot be JPEG-LS, which knows whole numbers only; use codec zstd"
        )
    if codec == "zstd" and quantiser.tolerance_px:
        raise InvalidArgument(
            f"tolerance {quantiser.tolerance_px:g} px needs codec jpegls; zstd is lossless and "
            "would not get smaller by it"
        )


def stored_dtype(quantiser: Quantiser) -> np.dtype[Any]:
    """Type in the file: i16 codes stand as unsigned 16 bit with zero at 32768 (JPEG-LS)."""
    return np.dtype({"u8": "u1", "i16": "<u2", "f16": "<f2"}[quantiser.storage])


def to_stored(codes: NDArray[Any]) -> NDArray[Any]:
    """Signed 16-bit codes → offset binary; others as they are."""
    if codes.dtype != np.int16:
        return codes
    return codes.view(np.uint16) ^ np.uint16(0x8000)


def from_stored(stored: NDArray[Any]) -> NDArray[Any]:
    """Undo `to_stored`, in place: a second array of a clip's size would go back to the system at
    once, and its pages cost more than the decoding."""
    if stored.dtype != np.uint16:
        return stored
    stored ^= np.uint16(0x8000)
    return stored.view(np.int16)


def code_rule(quantiser: Quantiser) -> tuple[int, float]:
    """Give (code of zero, px per code) as they stand in the file."""
    if quantiser.storage == "u8":
        return 128, float(quantiser.bound_px or 0.0) / 127
    return (32768, 1 / 64) if quantiser.storage == "i16" else (0, 0.0)


def content_sha256(
    attributes: Mapping[str, Any],
    small: Mapping[str, NDArray[Any]],
    layout: schema.Layout = schema.FLOW,
) -> str:
    """Digest of all attributes but itself, and of the small data sets in the schema's order."""
    told = {name: attributes[name] for name in layout.attributes if name != "content_sha256"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())
    for name in layout.datasets:
        if name in small:
            digest.update(np.ascontiguousarray(small[name]).tobytes())
    return digest.hexdigest()
