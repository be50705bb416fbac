"""The bookkeeping of a run over many videos into a cache: what is done, skipped and failed.

`extract` keeps it for each direction of flow, features for each network.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from flowpipe.cache.manifest import (
    FailureRow,
    ManifestRow,
    ManifestWriter,
    add_failure,
    read_failures,
    read_manifest,
)
from flowpipe.cache.part import write_errors

REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class Failure:
    """A video without an entry, and why. `earlier`: it failed in an earlier run too."""

    name: str
    path: Path
    reason: str
    earlier: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    videos, finished, failed : int
        All; with a result of any kind; without an entry.
    items : int
        Fields of flow, or snippets, computed so far.
    share : float
        Of the work, 0 to 1; of a video in work the share that is done counts.
    seconds : float
        Since the run began.
    """

    videos: int
    finished: int
    failed: int
    items: int
    share: float
    seconds: float

    @property
    def flows(self) -> int:
        """`items` of an extraction."""
        return self.items


@dataclass
class RunResult:
    """What a run did.

    Attributes
    ----------
    recipe : str
        Id of the recipe.
    videos, done, skipped, failed : int
        All, computed now, already there, without an entry.
    items, items_total : int
        Fields of flow, or snippets, computed now, and in the cache for these videos.
    seconds, items_per_s : float
        Wall clock; items computed now per second.
    bytes : int
        Size of the entries of these videos.
    failures : list of Failure
    notes : dict
        Name → what was wrong with a video that nevertheless has an entry.
    stage_seconds : dict
        Stage → time of all workers in it, over what was computed now.
    to_do : int
        Of a dry run: videos that a run would look at.
    """

    recipe: str
    videos: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    items: int = 0
    items_total: int = 0
    seconds: float = 0.0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    to_do: int = 0

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds if self.items else 0.0

    @property
    def finished(self) -> int:
        """Videos with a result of any kind."""
        return self.done + self.skipped + self.failed

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of stages."""
        for stage, value in seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + value


AnyResult = TypeVar("AnyResult", bound=RunResult)


class Run(Generic[AnyResult]):
    """Keep `result`, the manifest and the failures of one run, for videos of one recipe.

    Parameters
    ----------
    cache : Path
        Its directory; need not exist yet.
    result : RunResult
        With its recipe; counted up as the run goes.

    Attributes
    ----------
    known : dict
        (path, name) → the row that the manifest has of a video for this recipe.
    failed_before : dict
        Digest of a video → why it failed in an earlier run.
    """

    def __init__(self, cache: Path, result: AnyResult) -> None:
        self.cache, self.result = cache, result
        self._started = time.perf_counter()
        self._manifest = ManifestWriter(cache)
        rows = read_manifest(cache) if cache.is_dir() else []
        self.known = {(row.path, row.name): row for row in rows if row.recipe == result.recipe}
        # A source without labels, as the videos to be judged are, takes none away.
        self._labels = {(row.name, row.digest): row.label for row in self.known.values()}
        self.failed_before = {
            row.digest: row.reason
            for row in (read_failures(cache) if cache.is_dir() else [])
            if row.recipe == result.recipe and row.digest
        }

    def add(
        self, row: ManifestRow, *, computed: bool, items: int, num_bytes: int, problem: str = ""
    ) -> None:
        """Count a video that has an entry, and note its name where the manifest has it not.

        Raises
        ------
        CacheError
            If the manifest cannot be written.
        """
        result = self.result
        result.done += computed
        result.skipped += not computed
        result.items += items if computed else 0
        result.items_total += items
        result.bytes += num_bytes
        if problem:
            result.notes[row.name] = problem
        if row.label is None:
            row = replace(row, label=self._labels.get((row.name, row.digest)))
        known = self.known.get((row.path, row.name))
        if known is None or _without_time(known) != _without_time(row):
            with write_errors(self.cache):
                self._manifest.add(row)

    def fail(self, row: ManifestRow, reason: str, *, earlier: bool = False) -> None:
        """Count a video that has no entry; remember why unless it is known, or has no digest.

        Raises
        ------
        CacheError
            If the failure cannot be written.
        """
        self.result.failed += 1
        self.result.failures.append(Failure(row.name, Path(row.path), reason, earlier))
        if not earlier and row.digest:
            failure = FailureRow(row.name, row.path, row.digest, row.recipe, reason, time.time())
            with write_errors(self.cache):
                add_failure(self.cache, failure)

    def progress(self, items: int | None = None, share: float | None = None) -> Progress:
        """Return how far the run is; by default by what is finished."""
        result = self.result
        if share is None:
            share = result.finished / result.videos if result.videos else 1.0
        items = result.items if items is None else items
        return Progress(
            result.videos,
            result.finished,
            result.failed,
            items,
            share,
            time.perf_counter() - self._started,
        )

    def finish(self) -> AnyResult:
        """Return the result, with its time and its failures in the order of their names."""
        self.result.seconds = time.perf_counter() - self._started
        self.result.failures.sort(key=lambda failure: failure.name)
        return self.result


@contextmanager
def reporting(
    progress: Callable[[], Progress], on_progress: Callable[[Progress], None] | None
) -> Iterator[None]:
    """Call `on_progress` about four times a second from a thread, and once at the end."""
    if on_progress is None:
        yield
        return
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(REPORT_EVERY_S):
            on_progress(progress())

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        on_progress(progress())


def _without_time(row: ManifestRow) -> tuple[object, ...]:
    return row.name, row.label, row.digest, row.recipe, row.path, row.size, row.mtime_ns
