"""Write one entry: aside, digested, fsynced, renamed in. A file exists only when it is complete."""

import contextlib
import math
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import make_folder
from flowpipe.cache import schema
from flowpipe.cache.codec import (
    ZSTD_LEVEL,
    check_codec,
    code_rule,
    encode_field,
    stored_dtype,
    to_stored,
)
from flowpipe.cache.hdf import append_trailer, create_chunked, create_hdf, write_attributes
from flowpipe.cache.hdf import fixed_text as fixed_text  # for scripts that make entries by hand
from flowpipe.cache.header import FEATURE_CODEC, STORAGES, content_sha256
from flowpipe.cache.part import PartFile, write_errors
from flowpipe.errors import InvalidArgument
from flowpipe.flow.confidence import cells
from flowpipe.flow.quantise import Quantiser

GROW_FIELDS = 256
JPEG_LARGEST_SIDE = 65_500  # OpenCV's libjpeg
RGB_SPOOL_BYTES = 32 * 2**20
# A clip of a few snippets should not unpack a whole video, nor a video be a thousand chunks.
CHUNK_BYTES = 2**16


@dataclass(frozen=True)
class StoredField:
    """A flow field as it stands in the file, and what is counted of it before it is coded.

    `cut`: it leads over a cut, and is zero. `confidence`: chunk and filter mask of its codes.
    """

    chunk: bytes
    filter_mask: int
    clipped: int = 0
    zero: int = 0
    magnitude_px: float = 0.0
    cut: bool = False
    confidence: tuple[bytes, int] | None = None


class FieldCoder:
    """Displacements → `StoredField`, in one form and codec."""

    def __init__(self, quantiser: Quantiser, codec: str, level: int = ZSTD_LEVEL) -> None:
        check_codec(quantiser, codec)
        self._quantiser, self._codec, self._level = quantiser, codec, level
        self._code_of_zero = quantiser.encode(0.0)

    def __call__(
        self,
        uv_HWC: NDArray[np.float32],
        *,
        cut: bool = False,
        confidence_hw: NDArray[np.uint8] | None = None,
    ) -> StoredField:
        """Code a field and its confidence; over a cut, zeros of their sizes."""
        if cut:
            uv_HWC = np.zeros_like(uv_HWC)
            confidence_hw = None if confidence_hw is None else np.zeros_like(confidence_hw)
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
            cut=cut,
            confidence=None
            if confidence_hw is None
            else encode_field(confidence_hw, self._codec, near=0, level=self._level),
        )


def encode_jpeg(rgb_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """Return a frame as JPEG.

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


class TrackWriter:
    """An entry whose main track grows by chunks; the file appears at `path` when it is complete.

    A context manager: left without `finish`, it leaves nothing behind.
    """

    layout: schema.Layout

    def __init__(
        self,
        path: Path,
        chunk: tuple[int, ...],
        codec: str,
        dtype: np.dtype[Any],
        *,
        spare_rows: int = 0,
    ) -> None:
        self._path, self._chunk, self._spare_rows = path, chunk, spare_rows
        self.length = 0
        self._crcs: list[int] = []
        self._part: PartFile | None = None
        self._hdf: Any = None
        try:
            with self._writing():
                make_folder(path.parent)
                self._part = PartFile(path)
                self._hdf = create_hdf(self._part)
                self._track = create_chunked(self._hdf, self.layout.track, chunk, codec, dtype)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the writing; nothing is left of an entry that is not finished."""
        if self._part is not None:
            self._part.discard(self._hdf)

    def add_chunk(self, chunk: bytes, filter_mask: int, rows: int | None = None) -> None:
        """Append one chunk that is compressed already, in this writer's form.

        `rows` are those that count, of a last chunk that is not full.
        """
        place = (self.length,) + (0,) * (len(self._chunk) - 1)
        with self._writing():
            self.length += self._chunk[0] if rows is None else rows
            if self.length > self._track.shape[0]:
                # Of chunks of several rows never beyond: to shrink into a chunk, HDF5 would need
                # the filter to read it.
                self._track.resize(self.length + self._spare_rows, axis=0)
            self._track.id.write_direct_chunk(place, chunk, filter_mask=filter_mask)
        self._crcs.append(zlib.crc32(chunk))

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return write_errors(self._path, self._part)

    def _complete(
        self, small: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the small data sets and the attributes, close, digest, fsync, rename in."""
        assert self._part is not None
        self._track.resize(self.length, axis=0)
        for name, values in small.items():
            self._hdf.create_dataset(name, data=values)
        written = {**attributes, "format": self.layout.format}
        written["format_version"] = self.layout.version
        missing = set(self.layout.attributes) - set(written) - {"content_sha256"}
        if missing:
            raise InvalidArgument(f"an entry needs the attributes {', '.join(sorted(missing))}")
        written["content_sha256"] = content_sha256(written, small, self.layout)
        write_attributes(self._hdf, {name: written[name] for name in self.layout.attributes})
        self._hdf.close()
        append_trailer(self._part)
        self._part.move_in()
        return written


class EntryWriter(TrackWriter):
    """Take the fields and frames of one video, in order; `finish` makes the file appear.

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
    cuts : bool
        Whether the file says which fields lead over cuts.
    confidence : bool
        Whether the file has the confidence of each field.
    level : int
        Of zstd.

    Raises
    ------
    CacheError
        Also from its methods, if the file cannot be written.
    """

    layout = schema.FLOW

    def __init__(
        self,
        path: Path,
        *,
        quantiser: Quantiser,
        codec: str,
        height: int,
        width: int,
        rgb_quality: int = 0,
        cuts: bool = False,
        confidence: bool = False,
        level: int = ZSTD_LEVEL,
    ) -> None:
        self._cuts: list[bool] | None = [] if cuts else None
        self._coder = FieldCoder(quantiser, codec, level)
        self._quantiser, self._codec = quantiser, codec
        self._height, self._width = height, width
        self._rgb_quality, self._level = rgb_quality, level
        self._rgb_crcs: list[int] = []
        self._rgb_offsets = [0]
        self._clipped = self._zero = 0
        self._magnitude = 0.0
        self._rgb: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 — closed by close()
            max_size=RGB_SPOOL_BYTES, dir=str(path.parent)
        )
        chunk = (1, 2 * height, width)
        super().__init__(path, chunk, codec, stored_dtype(quantiser), spare_rows=GROW_FIELDS - 1)
        self._confidence: Any = None
        self._confidence_crcs: list[int] = []
        if confidence:
            kind = np.dtype(np.uint8)
            with self._writing():
                self._confidence = create_chunked(
                    self._hdf, "confidence", (1, *cells(height, width)), codec, kind
                )

    def close(self) -> None:
        """End the writing; nothing is left of an entry that is not finished."""
        self._rgb.close()
        super().close()

    @property
    def num_flows(self) -> int:
        return self.length

    def add_flow(self, uv_HWC: NDArray[np.float32], **marks: Any) -> None:
        """Append one field in px; `cut` and `confidence_hw` as `FieldCoder` takes them."""
        self.add_stored(self._coder(uv_HWC, **marks))

    def add_stored(self, field: StoredField) -> None:
        """Append one field that is coded already, in this writer's form."""
        self.add_chunk(field.chunk, field.filter_mask)
        self._clipped += field.clipped
        self._zero += field.zero
        self._magnitude += field.magnitude_px
        if self._cuts is not None:
            self._cuts.append(field.cut)
        if field.confidence is not None:
            self.add_confidence(*field.confidence)

    def add_confidence(self, chunk: bytes, filter_mask: int) -> None:
        """Append the confidence of the field that was added last, coded already."""
        row = len(self._confidence_crcs)
        with self._writing():
            if row >= self._confidence.shape[0]:
                self._confidence.resize(row + GROW_FIELDS, axis=0)
            self._confidence.id.write_direct_chunk((row, 0, 0), chunk, filter_mask=filter_mask)
        self._confidence_crcs.append(zlib.crc32(chunk))

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
        small: dict[str, NDArray[Any]] = {
            "flow_crc32": np.array(self._crcs, np.uint32),
            "pts_s": np.ascontiguousarray(pts_s, np.float64),
        }
        if self._cuts is not None:
            small["cuts"] = np.array(self._cuts, np.uint8)
        if self._confidence is not None:
            if len(self._confidence_crcs) != num_flows:
                raise InvalidArgument(
                    f"{num_flows} fields do not go with the confidence of "
                    f"{len(self._confidence_crcs)}"
                )
            small["confidence_crc32"] = np.array(self._confidence_crcs, np.uint32)
        with self._writing():
            if self._confidence is not None:
                self._confidence.resize(num_flows, axis=0)
            if self._rgb_quality:
                small["rgb_offsets"] = np.array(self._rgb_offsets, np.uint64)
                small["rgb_crc32"] = np.array(self._rgb_crcs, np.uint32)
                self._write_rgb()
            return self._complete(small, {**self._own_attributes(), **attributes})

    def _write_rgb(self) -> None:
        target = self._hdf.create_dataset("rgb_jpeg", (self._rgb_offsets[-1],), np.uint8)
        self._rgb.seek(0)
        start = 0
        while block := self._rgb.read(8 * 2**20):
            target[start : start + len(block)] = np.frombuffer(block, np.uint8)
            start += len(block)

    def _own_attributes(self) -> dict[str, Any]:
        num_flows, quantiser = self.num_flows, self._quantiser
        pixels = max(1, num_flows * self._height * self._width)
        zero, step_px = code_rule(quantiser)
        return {
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


class FeatureWriter(TrackWriter):
    """Take the features of one video's snippets in order; `finish` makes the file appear.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        Of one snippet's features: (D,) or (D, H', W').
    storage : "f16" or "f32"
    chunk_snippets : int, optional
        By default as many as make 64 KiB.

    Raises
    ------
    CacheError
        Also from its methods, if the file cannot be written.
    """

    layout = schema.FEATURES

    def __init__(
        self, path: Path, shape: tuple[int, ...], storage: str, chunk_snippets: int | None = None
    ) -> None:
        self._dtype = STORAGES[storage]
        row_bytes = math.prod(shape) * self._dtype.itemsize
        self._rows = chunk_snippets or max(1, CHUNK_BYTES // row_bytes)
        self._shape = shape
        self._waiting = np.zeros((self._rows, *shape), self._dtype)
        self._filled = 0
        super().__init__(path, self._waiting.shape, FEATURE_CODEC, self._dtype)

    @property
    def num_snippets(self) -> int:
        return self.length + self._filled

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
            self._waiting[self._filled] = row
            self._filled += 1
            if self._filled == self._rows:
                self._write_waiting()

    def finish(
        self,
        centre_s: NDArray[np.float64],
        span_s: NDArray[np.float64],
        attributes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Complete the file and rename it in; return all attributes as written.

        Parameters
        ----------
        centre_s : array of T float64
        span_s : array of T×2 float64
            Each snippet's [start, stop) in seconds.
        attributes : mapping
            recipe, source_name, source_sha256, source, fps, offset_frames, step_frames,
            snippet_frames, problem, software; of a copied entry all of them.
        """
        count = self.num_snippets
        if count < 1 or centre_s.shape != (count,) or span_s.shape != (count, 2):
            raise InvalidArgument(
                f"{count} snippets do not go with times of {centre_s.shape} and {span_s.shape}; "
                "each snippet has one centre and one span"
            )
        if self._filled:
            self._waiting[self._filled :] = 0
            self._write_waiting()
        own = {
            "num_snippets": count,
            "chunk_snippets": self._rows,
            "codec": FEATURE_CODEC,
            "codec_level": ZSTD_LEVEL,
        }
        small: dict[str, NDArray[Any]] = {
            "features_crc32": np.array(self._crcs, np.uint32),
            "centre_s": np.ascontiguousarray(centre_s, np.float64),
            "span_s": np.ascontiguousarray(span_s, np.float64),
        }
        with self._writing():
            return self._complete(small, {**own, **attributes})

    def _write_waiting(self) -> None:
        self.add_chunk(*encode_field(self._waiting, FEATURE_CODEC, near=0), self._filled)
        self._filled = 0
