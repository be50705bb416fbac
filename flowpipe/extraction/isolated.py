"""One video in a process of its own, wherever a caller stands that must not die with it.

`IsolatedWorker` starts a Python that takes pickled tasks on its standard input and gives pickled
outcomes. The processes of a Dask worker are such callers.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

from flowpipe.errors import FlowpipeError
from flowpipe.extraction.watch import time_limit, watched
from flowpipe.extraction.worker import (
    JOURNAL_COLUMNS,
    TIMED_OUT,
    Outcome,
    Task,
    open_journal,
    process_in_worker,
)
from flowpipe.video import content_digest

DEATH = (
    "{path}: the process that worked on it died (out of memory, or a fault in the decoder); "
    "convert the video, or give it a smaller --short-side"
)


SERVE = "from flowpipe.extraction.isolated import serve; serve()"


def dead(task: Task, reason: str) -> Outcome:
    """The outcome of a video that killed its process; with its digest, to be remembered."""
    digest = ""
    with contextlib.suppress(FlowpipeError):
        digest = content_digest(task.path)
    return Outcome(task.index, digest, failure=reason)


class IsolatedWorker:
    """A process that works off tasks one after the other, and is replaced when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedWorker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, task: Task, limit_s: float) -> Outcome:
        """Give the outcome of a task; a process that dies or hangs is that of its video."""
        with tempfile.TemporaryDirectory(prefix="flowpipe-") as folder:
            journal = Path(folder) / "journal"
            journal.write_bytes(bytes(8 * JOURNAL_COLUMNS))
            alone = replace(task, index=0, journal=journal, num_tasks=1)
            with watched([alone], limit_s):
                outcome = self._ask(alone)
            if outcome is not None:
                return replace(outcome, index=task.index)
            self.close()
            timed_out = open_journal(journal, 1, "r")[0, 0] == TIMED_OUT
            reason = time_limit(task.path, limit_s) if timed_out else DEATH.format(path=task.path)
            return dead(task, reason)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _ask(self, task: Task) -> Outcome | None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
            outcome: Outcome = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return None
        return outcome


def _serve(work: Callable[[Task], Outcome], tasks: IO[bytes], outcomes: IO[bytes]) -> None:
    while True:
        try:
            task: Task = pickle.load(tasks)
        except EOFError:
            return
        pickle.dump(work(task), outcomes)
        outcomes.flush()


def serve() -> None:
    """Work off the tasks of the standard input until its end."""
    # What a decoder or a plug-in prints must not stand between the outcomes.
    outcomes = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(process_in_worker, sys.stdin.buffer, outcomes)
