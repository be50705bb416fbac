"""Worker processes that may die or hang: each costs its own task only, and is replaced.

A `WorkerProcess` is a Python that receives pickled tasks on its standard input and answers with
pickled messages: (fields, share done) as it goes on, then the `Outcome`. A `ProcessPool` is N of
them under joblib's threads.
"""

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from joblib import Parallel, delayed

from flowpipe.errors import FlowpipeError
from flowpipe.extraction.tasks import FrameRange, Job, Joining, Outcome, Task
from flowpipe.video import content_digest

DEATH = (
    "{path}: the process that worked on it died twice ({how}: out of memory, or a fault in the "
    "decoder); convert the video, or give a smaller size"
)
TIME_LIMIT = (
    "{path}: no frame was finished for {limit_s:g} s (its decoder hangs, or the time limit is too "
    "short); convert the video, or give a longer timeout"
)
NO_START = "a worker process ends before it begins ({how}); what it wrote above says why"

# Of a parent that is gone before it has said where modules are, nothing is to be said.
START = (
    "import pickle, sys\n"
    "try: sys.path[:] = pickle.load(sys.stdin.buffer)\n"
    "except (EOFError, pickle.UnpicklingError): sys.exit(1)"
)
SERVE = "from flowpipe.extraction.processes import serve; serve()"
START_LIMIT_S = 300.0
TURNS_PER_LIMIT = 20
LONGEST_TURN_S = 1.0
STEP_EVERY_S = 0.1
TRIES = 2
PR_SET_PDEATHSIG = 1

OnStep: TypeAlias = Callable[[Task, int, float], None]


class WorkerDied(Exception):
    """The process ended in the middle of a task."""


class WorkerProcess:
    """A process that does tasks one after the other, and is replaced when it dies or hangs.

    Parameters
    ----------
    on_step : callable, optional
        Receives (task, fields so far, share done) while a task is done.
    """

    def __init__(self, on_step: OnStep | None = None) -> None:
        self._on_step = on_step
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._job: Job | None = None
        self._has_begun = self._closed = False

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    def run(self, job: Job, task: Task, limit_s: float) -> Outcome:
        """Do a task.

        A process that dies may have been killed from outside, or by what an earlier video left:
        the task is tried once more in a fresh one. Dying twice, or going on for `limit_s` without
        a frame, is a failure of the video.

        Raises
        ------
        FlowpipeError
            If no process can be started.
        """
        how = ""
        for _ in range(TRIES):
            try:
                return self._ask(job, task, limit_s)
            except WorkerDied as death:
                how = str(death)
            except TimeoutError:
                self._end()
                return _given_up(task, TIME_LIMIT.format(path=task.path, limit_s=limit_s))
            if self._closed:
                return Outcome(cache_failure="the run was ended")
        return _given_up(task, DEATH.format(path=task.path, how=how))

    def close(self) -> None:
        """End the process at once, also while it works for another thread."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # what was not sent
                process.stdin.close()
        self._process = None

    def _ask(self, job: Job, task: Task, limit_s: float) -> Outcome:
        if self._closed:
            raise WorkerDied("it was ended")
        self.start()
        self._wait_for_start()
        if job is not self._job:
            self._send(job)
            self._job = job
        self._send(task)
        while not isinstance(message := self._receive(limit_s), Outcome):
            if self._on_step is not None:
                self._on_step(task, *message)
        return message

    def start(self) -> None:
        """Start a process where there is none, without waiting for it."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        process, messages = _started(), queue.SimpleQueue[Any]()
        threading.Thread(target=_listen, args=(process, messages), daemon=True).start()
        self._process, self._messages = process, messages
        self._job, self._has_begun = None, False
        if self._closed:  # meanwhile, by another thread
            self._end()
            raise WorkerDied("it was ended")
        with contextlib.suppress(WorkerDied):  # which is noticed when its answer is awaited
            self._send(sys.path)

    def _wait_for_start(self) -> None:
        if self._has_begun:
            return
        try:
            self._receive(START_LIMIT_S)
        except (WorkerDied, TimeoutError) as error:
            if not self._closed:
                raise FlowpipeError(NO_START.format(how=error)) from error
            raise WorkerDied(str(error)) from error
        self._has_begun = True

    def _send(self, record: Any) -> None:
        process = self._process
        if process is None:
            raise WorkerDied("it was ended")
        assert process.stdin is not None
        try:
            pickle.dump(record, process.stdin)
            process.stdin.flush()
        except OSError as error:
            raise WorkerDied(self._how_it_ended()) from error

    def _receive(self, limit_s: float) -> Any:
        """Return the next message; TimeoutError where none comes for `limit_s`.

        Only time in which this process runs too is counted: a stopped or frozen group of
        processes (Ctrl-Z) is no hanging decoder.
        """
        turn_s = min(LONGEST_TURN_S, limit_s / TURNS_PER_LIMIT)
        waited_s = 0.0
        while waited_s < limit_s:
            started = time.monotonic()
            try:
                message = self._messages.get(timeout=turn_s)
            except queue.Empty:
                waited_s += min(time.monotonic() - started, 2 * turn_s)
                continue
            if message is None:
                raise WorkerDied(self._how_it_ended())
            return message
        raise TimeoutError(f"no answer for {limit_s:g} s")

    def _how_it_ended(self) -> str:
        process = self._process
        if process is None:
            return "it was ended"
        status = process.wait()
        if status >= 0:
            return f"exit status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"


class ProcessPool:
    """N worker processes under joblib's threads; a context manager.

    Parameters
    ----------
    job : Job
    workers : int
    limit_s : float
        Seconds without a frame after which a video is given up.
    on_step : callable
        As of `WorkerProcess`; called from several threads.
    """

    def __init__(self, job: Job, workers: int, limit_s: float, on_step: OnStep) -> None:
        self._job, self._limit_s = job, limit_s
        self._workers = [WorkerProcess(on_step) for _ in range(workers)]
        self._free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.close()

    def start(self) -> None:
        """Start all workers at once, where it is known that all will be needed."""
        for worker in self._workers:
            worker.start()

    def run(
        self,
        tasks: Sequence[Task],
        after: Callable[[Task, Outcome], Task | None] = lambda task, outcome: None,
        needless: Callable[[Task], bool] = lambda task: False,
    ) -> Generator[tuple[Task, Outcome], None, None]:
        """Yield each task with its outcome as it comes, in any order.

        Parameters
        ----------
        tasks : sequence of Task
        after : callable
            Returns the task that the same worker is to do next, if any.
        needless : callable
            Whether a task that has not begun need not be done.
        """

        def work(task: Task) -> list[tuple[Task, Outcome]]:
            worker = self._free.get()
            done = []
            waiting: Task | None = task
            try:
                while waiting is not None:
                    now = waiting
                    outcome = (
                        Outcome() if needless(now) else worker.run(self._job, now, self._limit_s)
                    )
                    done.append((now, outcome))
                    waiting = after(now, outcome)
            finally:
                self._free.put(worker)
            return done

        if not tasks:
            return
        parallel = Parallel(
            n_jobs=min(len(self._workers), len(tasks)),
            require="sharedmem",
            return_as="generator_unordered",
            batch_size=1,
        )
        outcomes = parallel(delayed(work)(task) for task in tasks)
        try:
            for done in outcomes:
                yield from done
        except BaseException:
            self.__exit__()  # the threads wait for their workers
            raise
        finally:
            outcomes.close()


def _given_up(task: Task, reason: str) -> Outcome:
    """Return the outcome of a video that killed its process; with its digest, to be remembered."""
    digest = ""
    if isinstance(task.part, FrameRange | Joining):
        digest = task.part.digest
    else:
        with contextlib.suppress(FlowpipeError):
            digest = content_digest(task.path)
    return Outcome(digest, failure=reason)


_starter: ThreadPoolExecutor | None = None


def _started() -> "subprocess.Popen[bytes]":
    """Start a worker process, from a thread that lives as long as this process.

    Linux ends a worker with the *thread* that started it. The thread holds back Ctrl-C, which goes
    to the whole group of processes, and its children inherit that from their first instruction on:
    one that is still importing would print a traceback.
    """
    global _starter
    if _starter is None:
        _starter = ThreadPoolExecutor(1, "flowpipe-start", initializer=_hold_interrupts)
    try:
        return _starter.submit(_start).result()
    except OSError as error:
        raise FlowpipeError(f"no worker process can be started: {error}") from error


def _start() -> "subprocess.Popen[bytes]":
    # Without the current folder: a module beside the data must not be imported.
    words = [sys.executable, "-P", "-c", f"{START}\n{SERVE}"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _hold_interrupts() -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _forget_starter() -> None:
    global _starter
    _starter = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_starter)


def _listen(process: "subprocess.Popen[bytes]", messages: "queue.SimpleQueue[Any]") -> None:
    """Pass on what a process says; None at its end."""
    assert process.stdout is not None
    try:
        with process.stdout, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                messages.put(pickle.load(process.stdout))
    finally:
        messages.put(None)


def serve() -> None:
    """Do the tasks of the standard input until its end; the program of a worker process."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    # What a decoder or a plug-in prints must not stand between the answers.
    os.dup2(2 if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY), 1)
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(received,), daemon=True).start()

    def answer(message: Any) -> None:
        pickle.dump(message, answers)
        answers.flush()

    process_task = _prepared()
    answer((0, 0.0))
    job: Any = None
    while True:
        record = received.get()
        if isinstance(record, Job):
            job = record
            # A worker may be older than the path on which a method of one's own stands.
            sys.path.extend(place for place in job.import_path if place not in sys.path)
            continue
        last_s = 0.0

        def on_step(flows: int, share: float) -> None:
            nonlocal last_s
            if time.monotonic() - last_s > STEP_EVERY_S:
                last_s = time.monotonic()
                answer((flows, share))

        answer(process_task(job, record, on_step))


def _prepared() -> Callable[..., Outcome]:
    """Import what tasks need, with one thread for each process."""
    import cv2

    from flowpipe.extraction.worker import process_task

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone answers Ctrl-C
    return process_task


def _read(received: "queue.SimpleQueue[Any]") -> None:
    """Read tasks; end this process with its parent, whatever it is doing."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            received.put(pickle.load(sys.stdin.buffer))
    os._exit(0)


def _die_with_parent() -> None:
    """Have Linux kill this process with its parent, even while a decoder holds the interpreter."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
