"""A watchdog over worker processes: one that gets no frame further for too long is ended.

It reads the journal, to which each worker writes its process id and how far it is. joblib's own
time limit ends the whole run instead.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowpipe.extraction.worker import JOURNAL_COLUMNS, STARTED, TIMED_OUT, Task, open_journal

TIME_LIMIT = (
    "{path}: no frame was finished for {limit_s:g} s (its decoder hangs, or the time limit is too "
    "short); convert the video, or give a longer --timeout"
)
LOOKS_PER_LIMIT = 20


def time_limit(path: Path, limit_s: float) -> str:
    """Give the reason of a video that took too long."""
    return TIME_LIMIT.format(path=path, limit_s=limit_s)


@contextlib.contextmanager
def watched(tasks: Sequence[Task], limit_s: float) -> Iterator[None]:
    """End workers of these tasks that get no further for `limit_s`, until the context ends."""
    ended = threading.Event()
    if not tasks:
        yield
        return
    thread = threading.Thread(target=_watch, args=(tasks[0], limit_s, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(task: Task, limit_s: float, ended: threading.Event) -> None:
    journal = open_journal(task.journal, task.num_tasks, "r+")
    last: dict[int, tuple[tuple[int, ...], float]] = {}
    while not ended.wait(min(1.0, limit_s / LOOKS_PER_LIMIT)):
        now = time.monotonic()
        working = set((journal[:, 0] == STARTED).nonzero()[0].tolist())
        last = {index: seen for index, seen in last.items() if index in working}
        for index in working:
            state = tuple(journal[index].tolist())
            assert len(state) == JOURNAL_COLUMNS
            if index not in last or last[index][0] != state:
                last[index] = state, now
            elif now - last[index][1] > limit_s:
                del last[index]
                # First the state: the death of the worker is then understood.
                journal[index, 0] = TIMED_OUT
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state[3], signal.SIGKILL)
