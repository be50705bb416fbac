"""video → flow → cache, in parallel; failures are collected, and what is there is not redone."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import FlowRecipe, entry_path, write_recipe
from flowpipe.cache.codec import check_codec
from flowpipe.cache.manifest import (
    FailureRow,
    ManifestRow,
    ManifestWriter,
    add_failure,
    read_failures,
    read_manifest,
)
from flowpipe.cache.part import remove_abandoned
from flowpipe.datasets import Dataset, Video, videos_of
from flowpipe.datasets.paths import Given, part_of
from flowpipe.errors import CacheError, InvalidArgument
from flowpipe.extraction.batched import batched_method, choose_device, serving
from flowpipe.extraction.pool import kill_workers, run_tasks
from flowpipe.extraction.results import ExtractionResult, Failure, Progress, both_ways
from flowpipe.extraction.scheduler import run_on_scheduler
from flowpipe.extraction.split import plan
from flowpipe.extraction.worker import (
    WHOLE,
    Outcome,
    Task,
    open_journal,
    present_entry,
    process_video,
)
from flowpipe.flow import FlowMethod, create
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import FPS_RULE, GREY_RULE, MAX_PIXELS, RESIZE_RULE, output_size

REPORT_EVERY_S = 0.25
DEFAULT_BOUND_PX = 20.0
DEFAULT_RGB_QUALITY = 95
DEFAULT_TIMEOUT_S = 600.0


def extract(
    sources: Given | Sequence[Given],
    out: str | os.PathLike[str],
    *,
    flow: str = "tvl1",
    flow_parameters: Mapping[str, Any] | None = None,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    rgb: bool = True,
    rgb_quality: int = DEFAULT_RGB_QUALITY,
    storage: str = "u8",
    codec: str | None = None,
    bound_px: float | None = None,
    tolerance_px: float = 0.0,
    backward: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    retry_failed: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractionResult:
    """Compute the flow of videos into a cache; what is already there is left alone.

    Parameters
    ----------
    sources : path or sequence of paths
        Videos, directories (class folders give labels), CSV or TXT lists, `Video` records or a
        `Dataset`; see `flowpipe.datasets.videos_of`.
    out : path
        The cache's directory; made when missing. Several runs may fill it at once.
    flow, flow_parameters
        Method and its parameters, see `flowpipe.flow.create`.
    short_side, size, fps
        Size in px (`size` is (height, width)) and rate in 1/s of the frames; by default as they
        are. Applied before flow.
    rgb, rgb_quality
        Whether to keep the frames too, and their JPEG quality, 1–100.
    storage, codec, bound_px, tolerance_px
        Form of the flow, see `flowpipe.flow.quantise.Quantiser`: u8 (±`bound_px`, 20 by
        default), i16 or f16; jpegls (default, not for f16) or zstd.
    backward : bool
        Compute the backward flow too: field i from frame i + 1 back to frame i. It becomes an
        entry of its own, which `Cache.backward` gives.
    device : "cpu", "cuda" or "auto"
        Who computes flow. On a GPU one process computes for all workers, in batches; values are
        the CPU's within rounding, but entries of their own. `flowpipe.flow.BATCHED` has the
        methods that can; "auto" takes the GPU where there is one and the method can.
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
        raise InvalidArgument("no source given; name videos, directories or lists")
    recipe, codec = make_recipe(
        device=choose_device(flow, device)[0],
        flow=flow,
        flow_parameters=flow_parameters,
        short_side=short_side,
        size=size,
        fps=fps,
        rgb=rgb,
        rgb_quality=rgb_quality,
        storage=storage,
        codec=codec,
        bound_px=bound_px,
        tolerance_px=tolerance_px,
    )
    num_workers = _num_workers(workers)
    if not timeout_s > 0:
        raise InvalidArgument(
            f"timeout {timeout_s:g} s must be > 0; {DEFAULT_TIMEOUT_S:g} is usual"
        )
    if max_pixels < 1:
        raise InvalidArgument(f"max_pixels {max_pixels} must be >= 1; {MAX_PIXELS} is the default")
    if scheduler is not None and recipe.device != "cpu":
        raise InvalidArgument(
            f"scheduler {scheduler} takes flow of the CPU only; on a machine with a GPU, give "
            "--device without --scheduler"
        )
    cache = Path(out).absolute()
    if cache.exists() and not cache.is_dir():
        raise InvalidArgument(f"{cache} is a file; a cache is a directory: give another --out")
    found, empty = videos_of(sources)
    if shard is not None:
        found, empty = part_of(found, *shard), empty if shard[0] == 1 else []
    run = _Run(cache, recipe, codec, found, retry_failed, max_pixels)
    for path in empty:
        run.fail(path.name, path, "", f"{path} holds no video; is it the right directory?")
    run.skip_present(dry_run=dry_run)
    if not dry_run:
        run.compute(num_workers, on_progress, timeout_s, scheduler)
    result = run.finished()
    if backward:
        failed = {failure.path for failure in result.failures}
        whole = [source for source in found if source.path not in failed]
        second = _Run(cache, recipe.turned(), codec, whole, retry_failed, max_pixels)
        second.skip_present(dry_run=dry_run)
        if not dry_run:
            second.compute(num_workers, on_progress, timeout_s, scheduler)
        result = both_ways(result, second.finished())
    return result


def make_recipe(
    *,
    device: str = "cpu",
    flow: str,
    flow_parameters: Mapping[str, Any] | None,
    short_side: int | None,
    size: tuple[int, int] | None,
    fps: float | None,
    rgb: bool,
    rgb_quality: int,
    storage: str,
    codec: str | None,
    bound_px: float | None,
    tolerance_px: float,
) -> tuple[FlowRecipe, str]:
    """Check the arguments of `extract` and give (recipe, codec)."""
    if storage == "u8" and bound_px is None:
        bound_px = DEFAULT_BOUND_PX
    quantiser = Quantiser(storage, bound_px=bound_px, tolerance_px=tolerance_px)  # type: ignore[arg-type]
    codec = codec or ("zstd" if storage == "f16" else "jpegls")
    check_codec(quantiser, codec)
    output_size(1, 1, short_side=short_side, size=size)
    if fps is not None and not 0 < fps < 10_000:
        raise InvalidArgument(f"fps {fps} must be > 0; leave it out to keep every frame")
    if rgb and not 1 <= rgb_quality <= 100:
        raise InvalidArgument(f"rgb quality {rgb_quality} must be 1 to 100; 95 is the default")
    method: FlowMethod
    if device == "cpu":
        method = create(flow, **(flow_parameters or {}))
    else:
        method = batched_method(flow, device, **(flow_parameters or {}))
    recipe = FlowRecipe(
        flow=flow,
        flow_version=method.version,
        flow_parameters=dict(method.parameters),
        libraries=dict(method.libraries),
        storage=storage,
        bound_px=None if bound_px is None else float(bound_px),
        tolerance_px=float(tolerance_px),
        short_side=short_side,
        size=None if size is None else (int(size[0]), int(size[1])),
        fps=None if fps is None else float(fps),
        rgb=rgb,
        rgb_quality=rgb_quality if rgb else 0,
        grey_rule=GREY_RULE,
        resize_rule=RESIZE_RULE,
        fps_rule=FPS_RULE,
        device=device,
    )
    return recipe, codec


class _Run:
    """One call of `extract`: the books of what is done, skipped and failed."""

    def __init__(
        self,
        cache: Path,
        recipe: FlowRecipe,
        codec: str,
        sources: list[Video],
        retry_failed: bool,
        max_pixels: int,
    ) -> None:
        self.cache, self.recipe, self.codec = cache, recipe, codec
        self.sources, self.max_pixels = sources, max_pixels
        self.result = ExtractionResult(recipe.id, videos=len(sources))
        self.started = time.perf_counter()
        self.tasks: list[Task] = []
        self._manifest = ManifestWriter(cache)
        rows = read_manifest(cache) if cache.is_dir() else []
        self._known = {(row.path, row.name): row for row in rows if row.recipe == recipe.id}
        self._failed_before = {
            row.digest: row.reason
            for row in (read_failures(cache) if not retry_failed else [])
            if row.recipe == recipe.id and row.digest
        }
        self._bytes_skipped = 0

    def skip_present(self, *, dry_run: bool) -> None:
        """Take out the videos whose entries the manifest knows; the others become tasks."""
        for index, source in enumerate(self.sources):
            task = Task(
                index,
                index,
                source.path,
                source.id,
                self.cache,
                self.recipe,
                self.codec,
                journal=Path(),
                num_tasks=len(self.sources),
                num_bytes=_size(source.path),
                max_pixels=self.max_pixels,
                known_failures=self._failed_before,
                import_path=tuple(sys.path) if ":" in self.recipe.flow else (),
            )
            row = self._known.get((str(source.path), source.id))
            outcome = None
            if row is not None and (row.size, row.mtime_ns) == _stat(source.path):
                outcome = present_entry(task, row.digest)
            if outcome is not None:
                self._take(source, outcome, row)
                self._bytes_skipped += task.num_bytes
            else:
                self.tasks.append(task)
        self.result.to_do = len(self.tasks) if dry_run else 0

    def compute(
        self,
        workers: int,
        on_progress: Callable[[Progress], None] | None,
        timeout_s: float,
        scheduler: str | None,
    ) -> None:
        """Run the tasks."""
        if not self.tasks:
            return
        write_recipe(self.cache, self.recipe)
        remove_abandoned(self.cache / self.recipe.id)
        # With one worker no video is split: Dask's need not see the files of a range.
        planned, splits = plan(self.tasks, workers if scheduler is None else 1)
        with (
            tempfile.TemporaryDirectory(prefix="flowpipe-") as folder,
            serving(self.recipe) as server,
        ):
            journal, address = Path(folder) / "journal", server.address if server else None
            tasks = [
                replace(task, index=index, journal=journal, num_tasks=len(planned), server=address)
                for index, task in enumerate(planned)
            ]
            try:
                with self._reporting(tasks, on_progress) as taken:
                    for outcome in _outcomes(tasks, workers, timeout_s, scheduler):
                        if server:
                            server.check()
                        task = tasks[outcome.index]
                        split = splits.get(task.source)
                        told = outcome if split is None else split.take(task, outcome)
                        taken[task.index] = True
                        if told is not None:
                            self._take(self.sources[task.source], told, None)
                if server:
                    self.result.stage_seconds["gpu"] = server.busy_s
            except BaseException:
                kill_workers()
                raise
            finally:
                for split in splits.values():
                    split.close()
                remove_abandoned(self.cache / self.recipe.id)

    def fail(
        self, name: str, path: Path, digest: str, reason: str, *, earlier: bool = False
    ) -> None:
        """Note a failure, in the result and, unless it stands there, in failures.jsonl."""
        self.result.failed += 1
        self.result.failures.append(Failure(name, path, reason, earlier))
        if not earlier and digest:
            row = FailureRow(name, str(path), digest, self.recipe.id, reason, time.time())
            add_failure(self.cache, row)

    def finished(self) -> ExtractionResult:
        """Close the books."""
        result = self.result
        result.seconds = time.perf_counter() - self.started
        result.flows_per_s = result.flows / result.seconds if result.flows else 0.0
        result.clipped_share = result.clipped_weight / max(1, result.flows_total)
        result.videos = result.done + result.skipped + result.failed + result.to_do
        result.failures.sort(key=lambda failure: failure.name)
        return result

    def _take(self, source: Video, outcome: Outcome, row: ManifestRow | None) -> None:
        result = self.result
        if outcome.cache_failure:
            raise CacheError(f"{self.cache}: {outcome.cache_failure}; what was done is kept")
        if outcome.failure:
            self.fail(
                source.id,
                source.path,
                outcome.digest,
                outcome.failure,
                earlier=outcome.known_failure,
            )
            return
        result.done += outcome.computed
        result.skipped += not outcome.computed
        result.flows += outcome.flows if outcome.computed else 0
        result.flows_total += outcome.flows
        result.bytes += outcome.num_bytes
        result.clipped_weight += outcome.clipped_share * outcome.flows
        if outcome.problem:
            result.notes[source.id] = outcome.problem
        for stage, seconds in outcome.seconds.items():
            result.stage_seconds[stage] = result.stage_seconds.get(stage, 0.0) + seconds
        self._note_name(source, outcome, row)

    def _note_name(self, source: Video, outcome: Outcome, row: ManifestRow | None) -> None:
        size, mtime_ns = _stat(source.path)
        new = ManifestRow(
            source.id,
            source.label,
            outcome.digest,
            self.recipe.id,
            str(source.path),
            size,
            mtime_ns,
            time.time(),
        )
        if row is None or (row.label, row.digest) != (new.label, new.digest):
            self._manifest.add(new)

    @contextmanager
    def _reporting(
        self, tasks: Sequence[Task], on_progress: Callable[[Progress], None] | None
    ) -> Iterator[NDArray[np.bool_]]:
        """Report from the journal until the end, from a thread; tasks taken are to be noted."""
        journal = open_journal(tasks[0].journal, len(tasks), "w+")
        sizes = np.array([task.num_bytes for task in tasks])
        taken = np.zeros(len(tasks), bool)
        ended = threading.Event()

        def report() -> None:
            result = self.result
            shares = np.where(taken, 1.0, journal[:, 2] / WHOLE)
            progress = Progress(
                len(self.sources),
                result.done + result.skipped + result.failed,
                result.failed,
                int(journal[:, 1].sum()),
                self._bytes_skipped + round(float((shares * sizes).sum())),
                self._bytes_skipped + int(sizes.sum()),
                time.perf_counter() - self.started,
            )
            if on_progress is not None:
                on_progress(progress)

        def repeat() -> None:
            while not ended.wait(REPORT_EVERY_S):
                report()

        thread = threading.Thread(target=repeat, daemon=True)
        if on_progress is not None:
            thread.start()
        try:
            yield taken
        finally:
            ended.set()
            if on_progress is not None:
                thread.join()
                report()


def _outcomes(
    tasks: Sequence[Task], workers: int, timeout_s: float, scheduler: str | None
) -> Iterator[Outcome]:
    """Give the outcomes; what other processes were at is looked at again when all else is done."""

    def run(some: Sequence[Task]) -> Iterator[Outcome]:
        if scheduler is None:
            return run_tasks(some, min(workers, len(some)), timeout_s)
        return run_on_scheduler(some, scheduler, timeout_s)

    later = []
    for outcome in run(tasks):
        if outcome.busy:
            later.append(replace(tasks[outcome.index], insist=True))
        else:
            yield outcome
    if later:
        yield from run(later)


def _num_workers(workers: int | None) -> int:
    if workers is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if workers < 1:
        raise InvalidArgument(f"workers {workers} must be >= 1; leave it out for one per core")
    return workers


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _size(path: Path) -> int:
    return _stat(path)[0]


__all__ = [
    "ExtractionResult",
    "Failure",
    "Progress",
    "choose_device",
    "entry_path",
    "extract",
    "make_recipe",
    "process_video",
]
