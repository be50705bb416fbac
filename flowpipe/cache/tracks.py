"""The tracks of an entry along time: flow, RGB frames, features; read by indexing.

Each is indexed by an integer, a slice or a sequence of integers. A chunk or frame is decoded only
after its CRC-32 has been compared.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache.codec import decode_field, from_stored
from flowpipe.cache.header import Index, TrackShape
from flowpipe.errors import EntryCorrupt, InvalidArgument
from flowpipe.flow.confidence import spread
from flowpipe.flow.quantise import Quantiser

if TYPE_CHECKING:
    from flowpipe.cache.entry import Entry


class Track(ABC):
    """What all tracks share: a length, a shape, and bytes that are checked."""

    unit = ""
    shape: tuple[int, ...]

    def __init__(self, entry: "Entry", crc32: NDArray[np.uint32]) -> None:
        self._entry, self._crc32 = entry, crc32

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape}"

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes that the track takes in the file."""

    @abstractmethod
    def check(self) -> None:
        """Decode all of it; EntryCorrupt where bytes are not what was written."""

    def _checked(self, number: int, data: bytes | memoryview) -> bytes | memoryview:
        if zlib.crc32(data) != self._crc32[number]:
            raise self._damaged(number, "its bytes are not what was written")
        return data

    def _damaged(self, number: int, problem: str) -> EntryCorrupt:
        entry = self._entry
        return EntryCorrupt(
            f"{entry.path} ({entry.name}): {self.unit} {number}: {problem}; {entry.way_out}"
        )


class ChunkedTrack(Track):
    """A track in compressed chunks."""

    def __init__(self, entry: "Entry", index: Index, crc32: NDArray[np.uint32]) -> None:
        super().__init__(entry, crc32)
        self.chunks, self.stored_as = index.chunks, index.shape

    @property
    def num_bytes(self) -> int:
        return int(self.chunks[:, 1].sum())

    def stored(self) -> Iterable[tuple[bytes, int]]:
        """Yield each chunk as it stands in the file, checked, and its filter mask."""
        for number, mask in enumerate(self.chunks[:, 2].tolist()):
            (chunk,) = self._read(np.array([number]))
            yield bytes(self._checked(number, chunk)), mask

    def check(self) -> None:
        """Decode all of it; EntryCorrupt where bytes are not what was written."""
        out = np.empty(self.stored_as.chunk, self.stored_as.dtype)
        for number in range(len(self.chunks)):
            self._decode(number, self._read(np.array([number]))[0], out)

    def _decode(self, number: int, chunk: bytes | memoryview, out: NDArray[Any]) -> None:
        self._checked(number, chunk)
        mask = int(self.chunks[number, 2])
        try:
            decode_field(chunk, self.stored_as.codec, mask, out.reshape(-1, out.shape[-1]))
        except EntryCorrupt as error:
            raise self._damaged(number, str(error)) from error

    def _read(self, numbers: NDArray[np.int64]) -> list[bytes | memoryview]:
        """Read chunks; a run of neighbours in the file is one read."""
        offsets, sizes = self.chunks[numbers, 0], self.chunks[numbers, 1]
        pieces: list[bytes | memoryview] = []
        start = 0
        while start < len(numbers):
            stop = start + 1
            while stop < len(numbers) and offsets[stop] == offsets[stop - 1] + sizes[stop - 1]:
                stop += 1
            total = int(sizes[start:stop].sum())
            block = memoryview(self._entry.read_at(int(offsets[start]), total))
            place = 0
            for size in sizes[start:stop].tolist():
                pieces.append(block[place : place + size])
                place += size
            start = stop
        return pieces


class FlowFields(ChunkedTrack):
    """The flow of an entry, F×H×W×2 float32 px."""

    unit = "flow"

    def __init__(self, entry: "Entry", index: Index, quantiser: Quantiser) -> None:
        super().__init__(entry, index, index.small["flow_crc32"])
        self._quantiser = quantiser
        double_height, width = index.shape.row
        self.shape = (index.shape.length, double_height // 2, width, 2)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return fields as float32 px, T×H×W×2; H×W×2 for an integer."""
        rows, single = resolve_index(index, len(self), self._entry.name)
        uv_THWC = self._quantiser.decode(self.codes(rows)).transpose(0, 2, 3, 1)
        uv_THWC = np.ascontiguousarray(uv_THWC)
        return uv_THWC[0] if single else uv_THWC

    def codes(self, indices: Iterable[int]) -> NDArray[Any]:
        """Return the codes of fields, T×2×H×W in uint8, int16 or float16.

        Raises
        ------
        IndexError
            If a field is asked for that the entry has not.
        EntryCorrupt
            If stored bytes are not what was written.
        """
        rows, _ = resolve_index(list(indices), len(self), self._entry.name)
        out = np.empty((len(rows), *self.stored_as.row), self.stored_as.dtype)
        done: dict[int, int] = {}
        for position, (row, chunk) in enumerate(zip(rows.tolist(), self._read(rows), strict=True)):
            if row in done:  # a clip longer than its video repeats its last field
                out[position] = out[done[row]]
                continue
            done[row] = position
            self._decode(row, chunk, out[position])
        _, height, width, _ = self.shape
        return from_stored(out).reshape(len(rows), 2, height, width)


class Confidence(ChunkedTrack):
    """How far the flow of an entry may be trusted, F×H×W uint8: 0 (least) to 15."""

    unit = "confidence of flow"

    def __init__(
        self,
        entry: "Entry",
        shape: TrackShape,
        chunks: NDArray[np.int64],
        crc32: NDArray[np.uint32],
    ) -> None:
        self._entry, self._crc32 = entry, crc32
        self.chunks, self.stored_as = chunks, shape
        self.shape = (shape.length, entry.height, entry.width)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return codes of pixels, T×H×W; H×W for an integer. See `flowpipe.flow.confidence`."""
        rows, single = resolve_index(index, len(self), self._entry.name)
        out = np.empty((len(rows), *self.stored_as.row), np.uint8)
        for position, (row, chunk) in enumerate(zip(rows.tolist(), self._read(rows), strict=True)):
            self._decode(row, chunk, out[position])
        codes_THW = spread(out, *self.shape[1:])
        return codes_THW[0] if single else codes_THW


class FeatureRows(ChunkedTrack):
    """The features of an entry, T×D or T×D×H'×W' float32."""

    unit = "chunk of features"

    def __init__(self, entry: "Entry", index: Index) -> None:
        super().__init__(entry, index, index.small["features_crc32"])
        self.shape = (index.shape.length, *index.shape.row)
        self.dtype = index.shape.dtype

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return features as float32, T×D or T×D×H'×W'; without T for an integer.

        Raises
        ------
        IndexError
            If a snippet is asked for that the entry has not.
        EntryCorrupt
            If stored bytes are not what was written.
        """
        rows, single = resolve_index(index, len(self), self._entry.name)
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        chunk_rows = self.stored_as.chunk_rows
        numbers = rows // chunk_rows
        wanted = np.unique(numbers)
        values = np.empty(self.stored_as.chunk, self.dtype)
        for number, chunk in zip(wanted.tolist(), self._read(wanted), strict=True):
            self._decode(number, chunk, values)
            here = numbers == number
            out[here] = values[rows[here] % chunk_rows]
        return out[0] if single else out


class RgbFrames(Track):
    """The frames of an entry, N×H×W×3 uint8."""

    unit = "RGB frame"

    def __init__(self, entry: "Entry", index: Index) -> None:
        super().__init__(entry, index.small["rgb_crc32"])
        self.start = index.rgb_start or 0
        self._offsets = index.small["rgb_offsets"].astype(np.int64)
        self.shape = (entry.num_frames, entry.height, entry.width, 3)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return frames as uint8 R, G, B: T×H×W×3; H×W×3 for an integer."""
        rows, single = resolve_index(index, len(self), self._entry.name)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for position, row in enumerate(rows.tolist()):
            out[position] = self._decoded(row)
        return out[0] if single else out

    @property
    def num_bytes(self) -> int:
        return int(self._offsets[-1] - self._offsets[0])

    def check(self) -> None:
        """Decode all of it; EntryCorrupt where bytes are not what was written."""
        for row in range(len(self)):
            self._decoded(row)

    def jpeg(self, row: int) -> bytes:
        """Return the JPEG bytes of one frame.

        Raises
        ------
        EntryCorrupt
            If they are not what was written.
        """
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        return bytes(self._checked(row, self._entry.read_at(self.start + start, stop - start)))

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        jpeg = self.jpeg(row)
        picture = None
        # A JPEG of a few bytes may claim 65535² px, for which OpenCV would take 12 GB.
        if jpeg_size(jpeg) == self.shape[1:3]:
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None or picture.shape != self.shape[1:]:
            raise self._damaged(row, f"it is no JPEG of {self.shape}")
        frame_HWC: NDArray[np.uint8] = picture.astype(np.uint8, copy=False)
        return frame_HWC


def resolve_index(index: Any, length: int, name: str) -> tuple[NDArray[np.int64], bool]:
    """Return (rows, whether one was asked for) for an integer, a slice or integers."""
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
    """Return (height, width) in px as a JPEG's header has them; None where it has none."""
    place = 2
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        # SOF0 … SOF15, without the tables DHT, JPG and DAC that lie between their numbers
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", jpeg, place + 5)
            return height, width
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return None
