"""Run tasks in joblib's loky processes, so that a worker that dies costs its own video only.

One dead worker ends a whole joblib run. A journal (a small shared file with the state of each
task) tells which videos were in work then; these suspects are tried again one by one, each in a
process of its own, and only the one that kills its process is given up.
"""

import contextlib
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context, resource_tracker

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError

from flowpipe.errors import FlowpipeError
from flowpipe.extraction.worker import STARTED, Outcome, Task, open_journal, process_in_worker
from flowpipe.video import content_digest

DEATH = (
    "{path}: the process that worked on it died (out of memory, or a fault in the decoder); "
    "convert the video, or give it a smaller --short-side"
)
NO_START = (
    "the worker processes end before they begin; what they wrote above says why. A script that "
    'calls flowpipe.extract must do so under if __name__ == "__main__":'
)


def run_tasks(tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    """Give the outcome of each task as it comes, in any order."""
    waiting = {task.index: task for task in tasks}
    while waiting:
        if workers == 1:
            yield from _one_by_one(list(waiting.values()))
            return
        try:
            for outcome in _in_parallel(list(waiting.values()), workers):
                task = waiting.pop(outcome.index)
                yield _as_computed(outcome, task)
            return
        except (TerminatedWorkerError, BrokenProcessPool):
            suspects = [task for task in waiting.values() if _state(task) == STARTED]
            # Nobody in work, and a worker died: no video is at fault; go on one by one.
            for outcome in _one_by_one(suspects or list(waiting.values())):
                del waiting[outcome.index]
                yield outcome


def kill_workers() -> None:
    """End the workers at once; their unfinished files are of no use to anyone."""
    with contextlib.suppress(RuntimeError):
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _in_parallel(tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    parallel = Parallel(
        n_jobs=workers,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,
        # As many as loky's own queue takes: with more its thread fails when workers are killed.
        pre_dispatch="2*n_jobs",
    )
    with _interrupts_held():
        outcomes = parallel(delayed(process_in_worker)(task) for task in tasks)
    try:
        # `yield from` would close it before `finally` is reached.
        for outcome in outcomes:  # noqa: UP028
            yield outcome
    finally:
        with warnings.catch_warnings():
            # That tasks were left undone is no news to who ended the run.
            warnings.simplefilter("ignore", UserWarning)
            outcomes.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, from their first instruction on.

    It goes to the whole group of processes, and one that is still importing would print a
    traceback. They inherit the mask; the parent gets its own signal when this ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Their start would end the mask.
    resource_tracker.ensure_running()
    loky_resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_by_one(tasks: Sequence[Task]) -> Iterator[Outcome]:
    executor = _single()
    try:
        for task in tasks:
            _set_state(task, 0)
            try:
                with _interrupts_held():
                    outcome = executor.submit(process_in_worker, task)
                yield _as_computed(outcome.result(), task)
            except BrokenProcessPool:
                executor.shutdown()
                if _state(task) != STARTED:
                    raise FlowpipeError(NO_START) from None
                executor = _single()
                yield _dead(task)
    except (KeyboardInterrupt, GeneratorExit):
        for process in list((getattr(executor, "_processes", None) or {}).values()):
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _as_computed(outcome: Outcome, task: Task) -> Outcome:
    """Count an entry as computed whose first outcome was lost when another worker died."""
    journal = open_journal(task.journal, task.num_tasks, "r")
    lost = not outcome.computed and not outcome.failure and journal[task.index, 1] > 0
    return replace(outcome, computed=True) if lost else outcome


def _dead(task: Task) -> Outcome:
    """The outcome of a video that killed its process; with its digest, to be remembered."""
    digest = ""
    with contextlib.suppress(FlowpipeError):
        digest = content_digest(task.path)
    return Outcome(task.index, digest, failure=DEATH.format(path=task.path))


def _single() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _state(task: Task) -> int:
    journal = open_journal(task.journal, task.num_tasks, "r")
    return int(journal[task.index, 0])


def _set_state(task: Task, state: int) -> None:
    journal = open_journal(task.journal, task.num_tasks, "r+")
    journal[task.index, 0] = state
