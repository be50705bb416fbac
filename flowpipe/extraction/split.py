"""Long videos in ranges, so that a single one, or the last of many, keeps all workers busy.

Each range is a task like any other; when all of a video's are done, the parent process copies
their coded fields and frames into the entry, which is then the same, byte for byte, as that of
the video computed in one piece. Each range decodes from the beginning (seeking is not exact in
all containers), which costs little beside flow.
"""

import contextlib
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import IO

from flowpipe.cache import entry_path
from flowpipe.cache.part import create_locked
from flowpipe.errors import CacheError, FlowpipeError
from flowpipe.extraction.ranges import FrameRange, join
from flowpipe.extraction.worker import (
    Outcome,
    Task,
    entry_writer,
    expected_frames,
    finish_entry,
    present_entry,
    reader_of,
    reasoned,
)
from flowpipe.video import VideoInfo, content_digest, probe

PROBE_LIMIT_S = 60.0
LEAST_FRAMES = 100
"""Of a range: below, a process of its own costs more than it gains."""


class SplitVideo:
    """A video that is computed in ranges.

    Parameters
    ----------
    task : Task
        Of the whole video.
    digest : str
    starts : sequence of int
        First frames of the ranges, from 0.
    """

    def __init__(self, task: Task, digest: str, starts: Sequence[int]) -> None:
        self._task, self._digest = task, digest
        self._outcomes: dict[FrameRange, Outcome] = {}
        # Held open and locked until the ranges are joined: so no other run takes them for
        # abandoned, and if this process is killed, the next run removes them.
        self._files: list[IO[bytes]] = []
        self._ranges: list[FrameRange] = []
        folder = entry_path(task.cache, task.recipe.id, digest).parent
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for start, stop in zip(starts, [*starts[1:], None], strict=True):
                file = folder / f".{digest}.{token}-{start}.part"
                self._files.append(create_locked(file))
                self._ranges.append(FrameRange(start, stop, file))
        except OSError as error:
            self.close()
            raise CacheError(f"{folder} cannot be written: {error}") from error

    def tasks(self) -> list[Task]:
        """Give the tasks of the ranges."""
        count = len(self._ranges)
        size = self._task.num_bytes
        return [
            replace(
                self._task,
                frames=frames,
                num_bytes=size * (place + 1) // count - size * place // count,
            )
            for place, frames in enumerate(self._ranges)
        ]

    def take(self, task: Task, outcome: Outcome) -> Outcome | None:
        """Note the outcome of a range; give that of the video as soon as it is known, once."""
        if not self._files:
            return None  # given up already
        if outcome.failure or outcome.cache_failure:
            self.close()
            return replace(outcome, digest=self._digest)
        assert task.frames is not None
        self._outcomes[task.frames] = outcome
        if len(self._outcomes) < len(self._ranges):
            return None
        try:
            return self._joined()
        except (FlowpipeError, OSError) as error:
            return reasoned(self._task, self._digest, error)
        finally:
            self.close()

    def close(self) -> None:
        """Remove the range files; tasks that have not begun then end at once."""
        for file in self._files:
            file.close()
        for frames in self._ranges:
            with contextlib.suppress(OSError):
                frames.file.unlink(missing_ok=True)
        self._files = []

    def _joined(self) -> Outcome:
        started = time.perf_counter()
        task, outcomes = self._task, [self._outcomes[frames] for frames in self._ranges]
        reader = reader_of(task)
        with entry_writer(task, self._digest, reader) as writer:
            pts_s = join(self._ranges, writer)
            # The last range alone has seen the whole video.
            problem = outcomes[-1].problem
            outcome = finish_entry(task, self._digest, reader.info, writer, pts_s, problem)
        seconds = _total([outcome.seconds for outcome in outcomes])
        joining = time.perf_counter() - started
        seconds["compress"] += joining
        seconds["all"] += joining
        return replace(outcome, seconds=seconds)


def plan(tasks: Sequence[Task], workers: int) -> tuple[list[Task], dict[int, SplitVideo]]:
    """Split the videos that would keep one worker busy when the others have nothing left to do.

    Those are the long ones whose size is more than half of what one worker has to do; sizes in
    bytes are a fair guess, and known without opening each video.

    Returns
    -------
    tasks : list of Task
        The largest videos first.
    splits : dict
        `Task.source` → the video that its ranges belong to.
    """
    part = sum(task.num_bytes for task in tasks) / (2 * workers)
    planned: list[Task] = []
    splits: dict[int, SplitVideo] = {}
    apart = _Apart()
    try:
        for task in sorted(tasks, key=lambda task: -task.num_bytes):
            pieces = min(workers, math.ceil(task.num_bytes / part)) if part else 1
            split = _split(task, pieces, apart) if pieces > 1 else None
            if split is None:
                planned.append(task)
            else:
                splits[task.source] = split
                planned.extend(split.tasks())
    except BaseException:
        for split in splits.values():
            split.close()
        raise
    finally:
        apart.close()
    return planned, splits


class _Apart:
    """Probe videos in a process of its own: a decoder's fault here would end the whole run."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def probe(self, task: Task) -> VideoInfo | None:
        """Give what a video says of itself; None if the process dies or hangs on it."""
        if self._executor is None:
            self._executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        future = self._executor.submit(probe, task.path, max_pixels=task.max_pixels)
        try:
            return future.result(timeout=PROBE_LIMIT_S)
        except (BrokenProcessPool, TimeoutError):
            self.close()
            return None

    def close(self) -> None:
        """End the process."""
        if self._executor is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()
            self._executor.shutdown(cancel_futures=True)
        self._executor = None


def _split(task: Task, pieces: int, apart: "_Apart") -> SplitVideo | None:
    """Split a video; None for one that is short, there already, or of no use."""
    try:
        info = apart.probe(task)
        if info is None:
            return None  # it kills or hangs a decoder: the task of the whole video will find out
        expected = expected_frames(info, task.recipe.fps)
        pieces = min(pieces, expected // LEAST_FRAMES)
        if pieces < 2:
            return None
        digest = content_digest(task.path)
    except FlowpipeError:
        return None  # the task of the whole video will say why
    if digest in task.known_failures or present_entry(task, digest):
        return None
    return SplitVideo(task, digest, [expected * place // pieces for place in range(pieces)])


def _total(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: sum(table[stage] for table in tables) for stage in tables[0]}
