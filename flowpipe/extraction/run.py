"""`extract`: plan, skip what is there, hand tasks to workers, collect what becomes of them."""

import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowpipe.cache import FlowRecipe, write_recipe
from flowpipe.cache.codec import check_codec
from flowpipe.cache.manifest import ManifestRow
from flowpipe.cache.part import remove_abandoned
from flowpipe.datasets import Dataset, Video, videos_of
from flowpipe.datasets.paths import Given, part_of
from flowpipe.errors import CacheError, InvalidArgument, VideoError, nearest_name
from flowpipe.extraction.processes import ProcessPool
from flowpipe.extraction.ranges import plan
from flowpipe.extraction.scheduler import run_on_scheduler
from flowpipe.extraction.tasks import FrameRange, Job, Outcome, Task
from flowpipe.extraction.worker import present_entry
from flowpipe.flow import device as devices
from flowpipe.runs import Progress, Run, RunResult, reporting
from flowpipe.video import MAX_PIXELS, content_digest
from flowpipe.video.files import left_out

DEFAULT_TIMEOUT_S = 600.0
MOST_WORKERS = 1024

TORCH_DEVICE = "cuda"
"""On which recipes of a GPU are computed; tests have it on the CPU."""

BATCH_PIXELS, BATCH_PIXEL_BYTES = 16_000_000, 120
"""Of a batch of pairs, at most; and what the solver needs for each pixel."""

LEAST_BATCH_PIXELS = 2_000_000
GPU_CONTEXT_BYTES = 600_000_000
GPU_SHARE = 0.8
"""Memory of a GPU that each worker needs beside its batch; what all may take together."""


@dataclass
class ExtractionResult(RunResult):
    """What an extraction did: a `RunResult` whose items are fields of flow.

    Attributes
    ----------
    flows, flows_total : int
        Fields computed now, and in the cache for these sources.
    flows_per_s : float
        Fields computed now per second.
    clipped_share : float
        Share of displacement components beyond the bound, over these sources.
    stage_seconds : dict
        Worker time in decode, flow, compress (with writing) and all, over what was computed now.
    """

    clipped_weight: float = field(default=0.0, repr=False)

    @property
    def flows(self) -> int:
        return self.items

    @property
    def flows_total(self) -> int:
        return self.items_total

    @property
    def flows_per_s(self) -> float:
        return self.items_per_s

    @property
    def clipped_share(self) -> float:
        return self.clipped_weight / max(1, self.items_total)

    def add_backward(self, other: "ExtractionResult") -> None:
        """Add the other direction; a video is done if either was computed now."""
        self.done = max(self.done, other.done)
        self.failed += other.failed
        self.to_do = max(self.to_do, other.to_do)
        self.skipped = self.videos - self.done - self.failed - self.to_do
        self.items += other.items
        self.items_total += other.items_total
        self.seconds += other.seconds
        self.bytes += other.bytes
        self.clipped_weight += other.clipped_weight
        self.failures = sorted([*self.failures, *other.failures], key=lambda f: f.name)
        self.notes = {**other.notes, **self.notes}
        self.add_seconds(other.stage_seconds)


def extract(
    sources: Given | Sequence[Given],
    out: str | os.PathLike[str],
    recipe: FlowRecipe | None = None,
    *,
    backward: bool = False,
    codec: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> ExtractionResult:
    """Compute the flow of videos into a cache; what is already there is left alone.

    Parameters
    ----------
    sources : path or sequence of paths
        Videos, directories (class folders give labels), CSV or TXT lists, `Video` records or a
        `Dataset`; see `flowpipe.datasets.videos_of`.
    out : path
        The cache's directory; made when missing. Several runs may fill it at once.
    recipe : FlowRecipe, optional
        What to compute. By default it is made of the further keywords, such as `flow="dis"` or
        `short_side=256`: see `FlowRecipe.make`.
    backward : bool
        Compute the backward flow too: field i from frame i + 1 back to frame i. It becomes an
        entry of its own, which `Cache.backward` gives.
    codec : "jpegls" or "zstd", optional
        How the flow is compressed: jpegls is smallest (default; not for f16), zstd fastest to read.
    workers : int, optional
        Processes, each with one thread; by default one per core.
    retry_failed : bool
        Try again the videos that failed in an earlier run.
    timeout_s : float
        Seconds after which a video that gets no frame further is given up, as a failure.
    max_pixels : int
        A video with more pixels in a frame is a failure, before it is decoded.
    shard : (int, int), optional
        (i, n): only the i-th of n parts of the sources, 1 ≤ i ≤ n. Parts go by content, so that
        they stay when videos are renamed or others are added.
    scheduler : str, optional
        Address of a Dask scheduler whose workers are to compute, instead of `workers` here; they
        must see sources and cache under the same paths.
    dry_run : bool
        Only say what there is to do.
    on_progress : callable, optional
        Called with a `Progress` about four times a second, from another thread.
    **options
        Of `FlowRecipe.make`, where no recipe is given.

    Returns
    -------
    ExtractionResult

    Raises
    ------
    InvalidArgument
        For arguments outside their rules.
    CacheError
        If the cache cannot be written: a full disk ends the run, with what was done kept.
    """
    if not isinstance(sources, str | os.PathLike | Video | Dataset) and not list(sources):
        raise InvalidArgument(
            "no source given; name videos, directories or lists", parameter="sources"
        )
    recipe = _recipe_of(recipe, options)
    codec = codec or ("zstd" if recipe.storage == "f16" else "jpegls")
    check_codec(recipe.quantiser, codec)
    if not timeout_s > 0:
        raise InvalidArgument(
            f"timeout_s {timeout_s:g} must be > 0; {DEFAULT_TIMEOUT_S:g} is usual",
            parameter="timeout_s",
        )
    if max_pixels < 1:
        raise InvalidArgument(
            f"max_pixels {max_pixels} must be >= 1; {MAX_PIXELS} is the default",
            parameter="max_pixels",
        )
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise InvalidArgument(
            f"workers {workers} must be in [1, {MOST_WORKERS}]; None takes one per core",
            parameter="workers",
        )
    if scheduler is not None and recipe.device != "cpu":
        raise InvalidArgument(
            f"scheduler {scheduler} takes flow of the CPU only; on a machine with a GPU, leave "
            "the scheduler out",
            parameter=("scheduler", "device"),
        )
    cache = Path(out).absolute()
    if cache.exists() and not cache.is_dir():
        raise InvalidArgument(
            f"{cache} is a file; a cache is a directory: give another", parameter="out"
        )
    videos, empty = videos_of(sources)
    if shard is not None:
        videos, empty = part_of(videos, *shard), empty if shard[0] == 1 else []
    machine = _Machine(recipe, workers, timeout_s, scheduler)
    job = Job(cache, recipe, codec, max_pixels, torch_device=TORCH_DEVICE)
    run = _Extraction(job, videos, retry_failed)
    for path in empty:
        reason = f"{path} holds no video; is it the right directory?"
        name = path.name or str(path)
        run.fail(ManifestRow(name, None, "", recipe.id, str(path), 0, 0, time.time()), reason)
    run.refuse_taken_names()
    run.result.notes |= _left_out(sources)
    result = run.result if dry_run else run.compute(machine, on_progress)
    if backward:
        failed = {failure.path for failure in result.failures}
        whole = [video for video in videos if video.path not in failed]
        second = _Extraction(replace(job, recipe=recipe.turned()), whole, retry_failed)
        result.add_backward(second.result if dry_run else second.compute(machine, on_progress))
    return result


def _left_out(sources: Given | Sequence[Given]) -> dict[str, str]:
    """Return folder → what was left out of it, of the folders among sources."""
    items = [sources] if isinstance(sources, str | os.PathLike | Video | Dataset) else sources
    folders = [
        Path(item)
        for item in items
        if not isinstance(item, Video | Dataset) and Path(item).is_dir()
    ]
    notes = {str(folder): left_out(folder) for folder in folders}
    return {folder: note for folder, note in notes.items() if note}


def _recipe_of(recipe: FlowRecipe | None, options: dict[str, Any]) -> FlowRecipe:
    if recipe is not None:
        if options:
            raise InvalidArgument(
                f"a recipe and {', '.join(options)} cannot both be given; make the recipe with "
                "FlowRecipe.make(…)"
            )
        return recipe
    known = inspect.signature(FlowRecipe.make).parameters
    if unknown := [name for name in options if name not in known]:
        raise InvalidArgument(
            f'extract has no option "{unknown[0]}"{nearest_name(unknown[0], known)}; of the '
            f"recipe there are {', '.join(known)}"
        )
    return FlowRecipe.make(**options)


class _Machine:
    """Where tasks run: worker processes here, or a Dask cluster."""

    def __init__(
        self, recipe: FlowRecipe, workers: int | None, timeout_s: float, scheduler: str | None
    ) -> None:
        self.timeout_s, self.scheduler = timeout_s, scheduler
        self.workers, self.batch_pixels = workers or _cores(), BATCH_PIXELS
        if recipe.device != "cpu":
            self._share_gpu(workers)

    def _share_gpu(self, wanted: int | None) -> None:
        room = GPU_SHARE * devices.gpu_bytes()
        least = GPU_CONTEXT_BYTES + LEAST_BATCH_PIXELS * BATCH_PIXEL_BYTES
        most = max(1, int(room / least))
        if wanted is not None and wanted > most:
            raise InvalidArgument(
                f"workers {wanted} must be ≤ {most}: the GPU's memory has no room for more",
                parameter="workers",
            )
        self.workers = min(self.workers, most)
        own = room / self.workers - GPU_CONTEXT_BYTES
        self.batch_pixels = min(BATCH_PIXELS, max(1, int(own / BATCH_PIXEL_BYTES)))


class _Extraction(Run[ExtractionResult]):
    """One direction of flow over all videos."""

    def __init__(self, job: Job, videos: list[Video], retry_failed: bool) -> None:
        super().__init__(job.cache, ExtractionResult(job.recipe.id, videos=len(videos)))
        self.videos = videos
        self.tasks: list[Task] = []
        known_failures = {} if retry_failed else self.failed_before
        plugin = tuple(sys.path) if ":" in job.recipe.flow else ()
        self.job = replace(job, known_failures=known_failures, import_path=plugin)
        self._bytes_all = self._bytes_finished = self._flows_finished = 0
        self._in_work: dict[Task, tuple[int, float]] = {}
        self._given_up: set[int] = set()
        self._skip_present()

    def row_of(self, video: Video, outcome: Outcome) -> ManifestRow:
        size, mtime_ns = outcome.seen
        return ManifestRow(
            video.id,
            video.label,
            outcome.digest,
            self.job.recipe.id,
            str(video.path),
            size,
            mtime_ns,
            time.time(),
        )

    def fail(self, row: ManifestRow, reason: str, *, earlier: bool = False) -> None:
        super().fail(row, reason, earlier=earlier)
        self.result.videos = max(self.result.videos, self.result.finished)

    def refuse_taken_names(self) -> None:
        """Refuse a video whose name in the cache another one has, which is still there.

        Neither could be read by that name. A data set that was moved, or a video whose content has
        changed, takes its name along.

        Raises
        ------
        InvalidArgument
            With the ways out.
        """
        by_name: dict[str, list[ManifestRow]] = {}
        for row in self.known.values():
            by_name.setdefault(row.name, []).append(row)
        for task in self.tasks:
            for row in by_name.get(task.name, ()):
                other = Path(row.path)
                if other == task.path or not other.is_file() or not task.path.is_file():
                    continue
                with contextlib.suppress(VideoError):
                    if content_digest(task.path) != row.digest == content_digest(other):
                        raise InvalidArgument(
                            f'{task.path} would be called "{task.name}" in {self.cache}, as '
                            f"{other} is; extract the folder above both at once, so that the names "
                            "differ, or into another cache",
                            parameter="out",
                        )

    def _skip_present(self) -> None:
        """Count the videos whose entries the manifest knows; the others become tasks."""
        for index, video in enumerate(self.videos):
            seen = _stat(video.path)
            task = Task(index, video.path, video.id, num_bytes=seen[0])
            self._bytes_all += task.num_bytes
            row = self.known.get((str(video.path), video.id))
            outcome = None
            if row is not None and (row.size, row.mtime_ns) == seen:
                outcome = present_entry(self.job, row.digest)
            if outcome is not None:
                self._take(task, replace(outcome, seen=seen))
            else:
                self.tasks.append(task)
        self.result.to_do = len(self.tasks)

    def compute(
        self, machine: _Machine, on_progress: Callable[[Progress], None] | None
    ) -> ExtractionResult:
        """Do the tasks; what other processes were at is looked at again when all else is done."""
        self.result.to_do = 0
        if not self.tasks:
            return self.finish()
        job = replace(self.job, batch_pixels=machine.batch_pixels)
        folder = job.cache / job.recipe.id
        write_recipe(job.cache, job.recipe)
        remove_abandoned(folder)
        try:
            with reporting(self._progress, on_progress):
                later = self._run(job, self.tasks, machine)
                if later:
                    self._run(job, [replace(task, insist=True) for task in later], machine)
        finally:
            remove_abandoned(folder)
        return self.finish()

    def _run(self, job: Job, tasks: Sequence[Task], machine: _Machine) -> list[Task]:
        """Take the outcomes of tasks as they come; return the tasks that others are at."""
        later: list[Task] = []
        with contextlib.closing(self._outcomes(job, tasks, machine)) as outcomes:
            for task, outcome in outcomes:
                if outcome.busy:
                    later.append(task)
                else:
                    self._take(task, outcome)
        return later

    def _outcomes(
        self, job: Job, tasks: Sequence[Task], machine: _Machine
    ) -> Generator[tuple[Task, Outcome], None, None]:
        if machine.scheduler is not None:
            # No video is split: the workers need not see the files of a range.
            yield from run_on_scheduler(job, tasks, machine.scheduler, machine.timeout_s)
            return
        with ProcessPool(job, machine.workers, machine.timeout_s, self._step) as pool:

            def probe(long: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
                if long:
                    pool.start()
                yield from pool.run(long)

            planned, splits = plan(job, tasks, machine.workers, probe)

            def after(task: Task, outcome: Outcome) -> Task | None:
                split = splits.get(task.index)
                return None if split is None else split.after(task, outcome)

            def needless(task: Task) -> bool:
                return task.index in splits and splits[task.index].failed

            try:
                with contextlib.closing(pool.run(planned, after, needless)) as outcomes:
                    yield from outcomes
            finally:
                for split in splits.values():
                    split.close()

    def _take(self, task: Task, outcome: Outcome) -> None:
        result = self.result
        self._in_work.pop(task, None)
        self._bytes_finished += task.num_bytes
        if task.index in self._given_up:
            return
        if outcome.cache_failure:
            raise CacheError(f"{self.cache}: {outcome.cache_failure}; what was done is kept")
        row = self.row_of(self.videos[task.index], outcome)
        if outcome.failure:
            self._given_up.add(task.index)
            self.fail(row, outcome.failure, earlier=outcome.known_failure)
            return
        result.add_seconds(outcome.seconds)
        if isinstance(task.part, FrameRange):
            self._flows_finished += outcome.flows
            return
        if outcome.computed and task.part is None:
            self._flows_finished += outcome.flows
        result.clipped_weight += outcome.clipped_share * outcome.flows
        self.add(
            row,
            computed=outcome.computed,
            items=outcome.flows,
            num_bytes=outcome.num_bytes,
            problem=outcome.problem,
        )

    def _step(self, task: Task, flows: int, share: float) -> None:
        self._in_work[task] = flows, share

    def _progress(self) -> Progress:
        in_work = list(self._in_work.copy().items())
        done = self._bytes_finished + sum(share * task.num_bytes for task, (_, share) in in_work)
        flows = self._flows_finished + sum(flows for _, (flows, _) in in_work)
        return self.progress(flows, done / self._bytes_all if self._bytes_all else 0.0)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return 0, 0
    return found.st_size, found.st_mtime_ns
