"""Long videos in ranges, so that a single one, or the last of many, keeps all workers busy.

::

    frames      0  1  2  3  4 | 5  6  7  8 | 9 10 11
    fields       0  1  2  3 | 4  5  6  7 | 8  9 10
                 [0, 5)       [5, 9)       [9, end)

Range [start, stop) holds its frames, their times and the field that leads to each. The last
range is open, so that no frame count of a header needs to be true. Each range is a task like any
other, and writes coded fields and frames to a file of its own: records of `RECORD`, then as many
bytes as it says. When all of a video's are done, one more task copies them into the entry, which
is then the same, byte for byte, as that of the video computed in one piece. Each range decodes
from the beginning (seeking is not exact in all containers), which costs little beside flow.
"""

import contextlib
import math
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import entry_path
from flowpipe.cache.part import create_locked
from flowpipe.cache.write import EntryWriter, FieldCoder, StoredField, encode_jpeg
from flowpipe.errors import CacheError, VideoError
from flowpipe.extraction.tasks import FrameRange, Job, Joining, Outcome, Probing, Task

LEAST_FRAMES = 100
"""Of a range: below, a process of its own costs more than it gains."""

# Kind, number of bytes, and of a field: filter mask, clipped, zero, mean magnitude.
RECORD = struct.Struct("<cQIQQd")
FIELD, CUT, CONFIDENCE, FRAME, TIMES = b"F", b"C", b"K", b"J", b"T"


class SplitVideo:
    """A video that is computed in ranges.

    Parameters
    ----------
    job : Job
    task : Task
        Of the whole video.
    probed : Outcome
        Of its `Probing`.
    starts : sequence of int
        First frames of the ranges, from 0.
    """

    def __init__(self, job: Job, task: Task, probed: Outcome, starts: Sequence[int]) -> None:
        self._task, self._probed = task, probed
        self._problem, self._failed = "", False
        self._lock = threading.Lock()
        # Held open and locked until the ranges are joined: so no other run takes them for
        # abandoned, and if this process is killed, the next run removes them.
        self._files: list[IO[bytes]] = []
        self._ranges: list[FrameRange] = []
        digest = probed.digest
        folder = entry_path(job.cache, job.recipe.id, digest).parent
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for start, stop in zip(starts, [*starts[1:], None], strict=True):
                file = folder / f".{digest}.{token}-{start}.part"
                self._files.append(create_locked(file))
                self._ranges.append(FrameRange(start, stop, file, digest))
        except OSError as error:
            self.close()
            raise CacheError(f"{folder} cannot be written: {error}") from error
        self._left = len(self._ranges)

    @property
    def failed(self) -> bool:
        """Whether a range failed: the others need not begin."""
        return self._failed

    def tasks(self) -> list[Task]:
        """Return the tasks of the ranges."""
        count, size = len(self._ranges), self._task.num_bytes
        return [
            replace(
                self._task,
                part=frames,
                num_bytes=size * (place + 1) // count - size * place // count,
            )
            for place, frames in enumerate(self._ranges)
        ]

    def after(self, task: Task, outcome: Outcome) -> Task | None:
        """Note the outcome of a task; return the task of joining when all ranges are done."""
        with self._lock:
            if isinstance(task.part, Joining):
                self.close()
                return None
            self._left -= 1
            self._failed |= outcome.failed
            if task.part == self._ranges[-1]:
                self._problem = outcome.problem  # it alone has seen the whole video
            if self._left:
                return None
            if self._failed:
                self.close()
                return None
            probed = self._probed
            part = Joining(tuple(self._ranges), probed.digest, probed.seen, self._problem)
            return replace(self._task, part=part, num_bytes=0)

    def close(self) -> None:
        """Remove the range files."""
        for file in self._files:
            file.close()
        for frames in self._ranges:
            with contextlib.suppress(OSError):
                frames.file.unlink(missing_ok=True)
        self._files = []


def plan(
    job: Job,
    tasks: Sequence[Task],
    workers: int,
    run: Callable[[Sequence[Task]], Iterator[tuple[Task, Outcome]]],
) -> tuple[list[Task], dict[int, SplitVideo]]:
    """Split the videos that would keep one worker busy when the others have nothing left to do.

    Those are the long ones whose size is more than half of what one worker has to do; sizes in
    bytes are a fair guess, and known without opening each video.

    Parameters
    ----------
    job : Job
    tasks : sequence of Task
    workers : int
    run : callable
        Runs tasks in workers: a decoder's fault in this process would end the whole run.

    Returns
    -------
    tasks : list of Task
        The largest videos first.
    splits : dict
        `Task.index` → the video that its ranges belong to.
    """
    part = sum(task.num_bytes for task in tasks) / (2 * workers)
    pieces = {
        task.index: min(workers, math.ceil(task.num_bytes / part)) if part else 1 for task in tasks
    }
    large = [replace(task, part=Probing()) for task in tasks if pieces[task.index] > 1]
    splits: dict[int, SplitVideo] = {}
    planned: list[Task] = []
    try:
        for task, probed in run(large):
            # 0 where it is there already, or fails: the task of the whole video will say so.
            count = min(pieces[task.index], probed.expected // LEAST_FRAMES)
            if count > 1:
                starts = [probed.expected * place // count for place in range(count)]
                splits[task.index] = SplitVideo(job, replace(task, part=None), probed, starts)
        for task in sorted(tasks, key=lambda task: -task.num_bytes):
            planned.extend(splits[task.index].tasks() if task.index in splits else [task])
    except BaseException:
        for split in splits.values():
            split.close()
        raise
    return planned, splits


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

    def add_flow(self, uv_HWC: NDArray[np.float32], **marks: Any) -> None:
        """Append one field in px; `cut` and `confidence_hw` as `FieldCoder` takes them."""
        field = self._coder(uv_HWC, **marks)
        counts = (field.filter_mask, field.clipped, field.zero, field.magnitude_px)
        self._append(CUT if field.cut else FIELD, field.chunk, counts)
        if field.confidence is not None:
            chunk, mask = field.confidence
            self._append(CONFIDENCE, chunk, (mask, 0, 0, 0.0))
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
            if kind in (FIELD, CUT):
                writer.add_stored(replace(StoredField(data, *counts), cut=kind == CUT))
            elif kind == CONFIDENCE:
                writer.add_confidence(data, counts[0])
            elif kind == FRAME:
                writer.add_jpeg(data)
            elif data and len(times) != frames.start:
                raise VideoError(
                    f"its ranges hold {len(times)} frames before frame {frames.start}: it did not "
                    "decode twice alike, or was changed meanwhile; try again, with one worker"
                )
            else:
                times = np.concatenate([times, np.frombuffer(data, "<f8")])
    return times


def _records(path: Path) -> Iterator[tuple[bytes, bytes, tuple[Any, ...]]]:
    with path.open("rb") as file:
        while header := file.read(RECORD.size):
            kind, size, *counts = RECORD.unpack(header)
            yield kind, file.read(size), tuple(counts)
