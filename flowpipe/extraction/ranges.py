"""A range of a long video: coded fields and frames in a file of their own, to be joined.

::

    frames      0  1  2  3  4 | 5  6  7  8 | 9 10 11
    fields       0  1  2  3 | 4  5  6  7 | 8  9 10
                 [0, 5)       [5, 9)       [9, end)

Range [start, stop) holds its frames, their times and the field that leads to each. The last
range is open, so that no frame count of a header needs to be true. A range file is a sequence
of records: `RECORD`, then as many bytes as it says.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache.write import EntryWriter, FieldCoder, StoredField, encode_jpeg
from flowpipe.errors import CacheError, VideoError

# Kind, number of bytes, and of a field: filter mask, clipped, zero, mean magnitude.
RECORD = struct.Struct("<cQIQQd")
FIELD, FRAME, TIMES = b"F", b"J", b"T"


@dataclass(frozen=True)
class FrameRange:
    """The frames [start, stop) of a video, to the end where `stop` is None; and their file."""

    start: int
    stop: int | None
    file: Path


class RangeWriter:
    """What `EntryWriter` is for a whole video: takes fields and frames in order, then `finish`.

    The file must be there; it belongs to the process that joins.
    """

    def __init__(self, path: Path, coder: FieldCoder, rgb_quality: int) -> None:
        self._path, self._coder, self._rgb_quality = path, coder, rgb_quality
        self.num_flows = 0
        try:
            self._file: IO[bytes] = path.open("rb+")
            self._file.truncate()  # of an earlier try
        except OSError as error:
            raise CacheError(f"{path} cannot be written: {error}") from error

    def __enter__(self) -> "RangeWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add_flow(self, uv_HWC: NDArray[np.float32]) -> None:
        """Append one field in px."""
        field = self._coder(uv_HWC)
        counts = (field.filter_mask, field.clipped, field.zero, field.magnitude_px)
        self._append(FIELD, field.chunk, counts)
        self.num_flows += 1

    def add_rgb(self, rgb_HWC: NDArray[np.uint8]) -> None:
        """Append one frame as JPEG."""
        self._append(FRAME, encode_jpeg(rgb_HWC, self._rgb_quality))

    def finish(self, pts_s: NDArray[np.float64]) -> None:
        """Append the times of the range's frames."""
        self._append(TIMES, pts_s.astype("<f8").tobytes())
        try:
            self._file.flush()
        except OSError as error:
            raise CacheError(f"{self._path} cannot be written: {error}") from error

    def _append(self, kind: bytes, data: bytes, counts: tuple[Any, ...] = (0, 0, 0, 0.0)) -> None:
        try:
            self._file.write(RECORD.pack(kind, len(data), *counts))
            self._file.write(data)
        except OSError as error:
            raise CacheError(f"{self._path} cannot be written: {error}") from error


def join(ranges: Sequence[FrameRange], writer: EntryWriter) -> NDArray[np.float64]:
    """Copy the fields and frames of all ranges of a video, coded as they are.

    Returns
    -------
    array of N float64
        The times of the frames in s.

    Raises
    ------
    VideoError
        If the ranges do not meet: the video did not decode alike in all of them.
    """
    times = np.empty(0)
    for frames in ranges:
        for kind, data, counts in _records(frames.file):
            if kind == FIELD:
                writer.add_stored(StoredField(data, *counts))
            elif kind == FRAME:
                writer.add_jpeg(data)
            elif data and len(times) != frames.start:
                raise VideoError(
                    f"its ranges hold {len(times)} frames before frame {frames.start}: it did not "
                    "decode twice alike, or was changed meanwhile; try again, with --workers 1"
                )
            else:
                times = np.concatenate([times, np.frombuffer(data, "<f8")])
    return times


def _records(path: Path) -> Iterator[tuple[bytes, bytes, tuple[Any, ...]]]:
    with path.open("rb") as file:
        while header := file.read(RECORD.size):
            kind, size, *counts = RECORD.unpack(header)
            yield kind, file.read(size), tuple(counts)
