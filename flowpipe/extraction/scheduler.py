"""Run tasks on a Dask cluster, by Dask's own client.

Each task runs in a process of its own beside the Dask worker, so that a video which kills or
hangs its process costs itself only; when a Dask worker or its machine dies, Dask gives its tasks
to another, and what stood in the cache by then is found there.
"""

import atexit
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from flowpipe.errors import InvalidArgument
from flowpipe.extraction.processes import WorkerProcess
from flowpipe.extraction.tasks import Job, Outcome, Task

CONNECT_S = 20
WAITING_PER_THREAD = 3

_local = threading.local()


def run_on_scheduler(
    job: Job, tasks: Sequence[Task], address: str, limit_s: float
) -> Iterator[tuple[Task, Outcome]]:
    """Yield each task with its outcome as it comes, in any order.

    Parameters
    ----------
    job : Job
    tasks : sequence of Task
    address : str
        Of the scheduler, such as "tcp://10.0.0.1:8786".
    limit_s : float
        Seconds after which a video that gets no frame further is given up.

    Raises
    ------
    InvalidArgument
        If Dask is not installed, or no scheduler or worker answers.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"no Dask scheduler answers at {address} ({error}); dask scheduler starts one"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise InvalidArgument(
                f"the Dask scheduler at {address} has no worker; dask worker {address} starts one"
            ) from error
        room = WAITING_PER_THREAD * sum(client.nthreads().values())
        waiting = iter(tasks)
        sent = client.scatter(job, broadcast=True)
        running: dict[Any, Task] = {}

        def submit(count: int) -> list[Any]:
            """Send the next tasks; all at once would be slow, and too much for the scheduler."""
            new = {
                client.submit(do_task, sent, task, limit_s, pure=False): task
                for task in itertools.islice(waiting, count)
            }
            running.update(new)
            return list(new)

        coming = distributed.as_completed(submit(room))
        for future in coming:
            task = running.pop(future)
            yield task, _outcome(future, task, distributed)
            coming.update(submit(1))


def _outcome(future: Any, task: Task, distributed: Any) -> Outcome:
    try:
        outcome: Outcome = future.result()
    except distributed.KilledWorker as error:
        told = f"{task.path}: the Dask workers that were given it died one after another ({error})"
        return Outcome(failure=told)
    return outcome


def do_task(job: Job, task: Task, limit_s: float) -> Outcome:
    """Do a task in this thread's own process; runs on a Dask worker."""
    worker: WorkerProcess | None = getattr(_local, "worker", None)
    if worker is None:
        worker = _local.worker = WorkerProcess()
        atexit.register(worker.close)
    return worker.run(job, task, limit_s)


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            "a scheduler needs Dask, which is not installed: pip install flowpipe[dask]"
        ) from error
    return distributed
