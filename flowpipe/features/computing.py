"""A frozen network over the entries of a cache → feature entries, resumable.

While the network runs, other threads read and decode what follows; the features of a video are
written as they come, so that memory does not grow with its length. Batches never cross videos:
a video's features do not depend on which others are computed with it.
"""

import json
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.cache import Cache, Entry, FeatureRecipe, FlowRecipe, entry_path, write_recipe
from flowpipe.cache.manifest import (
    FailureRow,
    ManifestRow,
    ManifestWriter,
    add_failure,
    read_manifest,
)
from flowpipe.cache.part import remove_abandoned
from flowpipe.cache.store import name_network
from flowpipe.cache.write import FeatureWriter
from flowpipe.clips import sampling
from flowpipe.errors import CacheError, EntryCorrupt, EntryNotFound, FlowpipeError, InvalidArgument
from flowpipe.features.extractor import FeatureExtractor, Snippets
from flowpipe.features.results import FeatureFailure, FeaturesProgress, FeaturesResult

# Items that one batch holds by default; sixteen frames at 224² are 2.4 MB of codes.
BATCH_ITEMS = 64
MOST_IN_BATCH = 16
REPORT_EVERY_S = 0.25


def compute_features(
    extractor: FeatureExtractor,
    cache: Cache,
    out: str | os.PathLike[str],
    *,
    name: str,
    batch_size: int | None = None,
    readers: int | None = None,
    on_progress: Callable[[FeaturesProgress], None] | None = None,
) -> FeaturesResult:
    """Compute the features of all videos of a cache; what is already there is left alone.

    Parameters
    ----------
    extractor : FeatureExtractor
    cache : Cache
        Of one recipe.
    out : path
        The store's directory; made when missing. Other networks may stand in it.
    name : str
        What the network is called in the store, such as "rgb".
    batch_size : int, optional
        Units at a time; by default 64 items, and 16 units at most.
    readers : int, optional
        Threads that read; by default one for a CPU, and one per core for a GPU.
    on_progress : callable, optional

    Returns
    -------
    FeaturesResult

    Raises
    ------
    InvalidArgument
        For arguments outside their rules, or a cache of several recipes.
    CacheError
        If the store cannot be written; what was done is kept.
    """
    cache = only_flow(cache)
    if batch_size is not None and batch_size < 1:
        raise InvalidArgument(f"batch_size {batch_size} must be ≥ 1")
    if readers is not None and readers < 1:
        raise InvalidArgument(f"readers {readers} must be ≥ 1")
    store = Path(out).absolute()
    if store.exists() and not store.is_dir():
        raise InvalidArgument(f"{store} is a file; a store is a directory: give another --out")
    recipe = extractor.recipe(str(cache.recipe))
    write_recipe(store, recipe)
    name_network(store, name, recipe)
    remove_abandoned(store / recipe.id)
    if batch_size is None:
        stream = extractor.stream
        items = BATCH_ITEMS // stream.frames
        if stream.layout == "CHW":  # stacks that overlap share most of their items
            covers = sampling.span(stream.frames, stream.frame_step)
            items = max(items, (BATCH_ITEMS - covers) // extractor.step + 1)
        batch_size = max(1, min(MOST_IN_BATCH, items))
    if readers is None:
        readers = (os.cpu_count() or 1) if extractor.device.type == "cuda" else 1
    run = _Run(extractor, cache, store, FeaturesResult(name, recipe.id), recipe)
    run.compute(batch_size, readers, on_progress)
    return run.finished()


def only_flow(cache: Cache) -> Cache:
    """Return the cache of the one recipe of flow that a cache holds.

    Raises
    ------
    InvalidArgument
        If it holds none, or several.
    """
    sources = {
        row.recipe for row in cache.rows() if isinstance(cache.recipes[row.recipe], FlowRecipe)
    }
    if len(sources) != 1:
        raise InvalidArgument(
            f"{cache.path} holds videos of {len(sources)} recipes of flow; name the one to read"
        )
    return cache.select(sources.pop())


@dataclass
class _Video:
    """A video in work: where its snippets lie, and what has been computed of them."""

    row: ManifestRow
    entry: Entry
    snippets: Snippets
    units_UF: NDArray[np.int64]
    writer: FeatureWriter | None = None
    waiting: dict[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass
class _Batch:
    """Some units of a video, [start, stop), and their codes as they come from a reader."""

    video: _Video
    start: int
    stop: int
    codes: "Future[tuple[torch.Tensor, float]]"


class _Run:
    """One call of `compute_features`: the books of what is done, skipped and failed."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        cache: Cache,
        store: Path,
        result: FeaturesResult,
        recipe: FeatureRecipe,
    ) -> None:
        self.extractor, self.cache, self.store = extractor, cache, store
        self.result, self.recipe = result, recipe
        result.shape = extractor.shape
        self._started = time.perf_counter()
        self._manifest = ManifestWriter(store)
        self._known = {
            (row.name, row.path): (row.digest, row.label)
            for row in read_manifest(store)
            if row.recipe == recipe.id
        }

    def compute(
        self,
        batch_size: int,
        readers: int,
        on_progress: Callable[[FeaturesProgress], None] | None,
    ) -> None:
        """Take out the videos that are there, compute the others."""
        rows = self._missing()
        told_s = 0.0
        video: _Video | None = None
        pipeline = _Pipeline(self, rows, batch_size, readers)
        try:
            for batch in pipeline:
                if isinstance(batch, tuple):
                    self._fail(*batch)
                elif batch.video.row is not self._failed_row:
                    video = batch.video
                    self._take(batch)
                now_s = time.perf_counter()
                if on_progress is not None and now_s - told_s > REPORT_EVERY_S:
                    told_s = now_s
                    on_progress(self.progress())
        finally:
            pipeline.close()
            if video is not None and video.writer is not None:
                video.writer.close()
        if on_progress is not None:
            on_progress(self.progress())

    def open_video(self, row: ManifestRow) -> _Video:
        """Open the flow entry of a row and lay out its snippets."""
        entry = self.cache[row.name]
        if self.extractor.stream.input != "flow":
            _ = entry.rgb  # says what to do where there is none
        snippets = self.extractor.snippets(entry)
        return _Video(row, entry, snippets, self.extractor.units(snippets))

    def read(self, video: _Video, start: int, stop: int) -> tuple[torch.Tensor, float]:
        """Read units of a video, in a reader's thread; give codes and seconds."""
        clock = time.perf_counter()
        codes = self.extractor.read(video.entry, video.units_UF[start:stop])
        if self.extractor.device.type == "cuda":
            codes = codes.pin_memory()
        return codes, time.perf_counter() - clock

    def progress(self) -> FeaturesProgress:
        result = self.result
        return FeaturesProgress(
            result.videos,
            result.done + result.skipped + result.failed,
            result.failed,
            result.snippets,
            time.perf_counter() - self._started,
        )

    def finished(self) -> FeaturesResult:
        """Close the books."""
        result = self.result
        result.seconds = time.perf_counter() - self._started
        result.snippets_per_s = result.snippets / result.seconds if result.snippets else 0.0
        result.failures.sort(key=lambda failure: failure.name)
        return result

    _failed_row: ManifestRow | None = None

    def _missing(self) -> list[ManifestRow]:
        """Give the rows without an entry; note the names of the others."""
        rows = self.cache.rows()
        self.result.videos = len(rows)
        found: dict[str, list[ManifestRow]] = {}
        for row in rows:
            found.setdefault(row.digest, []).append(row)
        missing = []
        self._others: dict[str, list[ManifestRow]] = {}
        for digest, same in found.items():
            path = entry_path(self.store, self.recipe.id, digest)
            try:
                entry = Entry(path)
            except (EntryCorrupt, EntryNotFound):
                missing.append(same[0])
                self._others[digest] = same[1:]
                continue
            for row in same:
                self.result.skipped += 1
                self._note(row, entry.num_snippets, path)
        return missing

    def _take(self, batch: _Batch) -> None:
        """Compute a batch and add it to its video's entry."""
        video = batch.video
        try:
            codes, read_s = batch.codes.result()
            clock = time.perf_counter()
            features = self.extractor.compute(codes, video.entry)
            stages = self.result.stage_seconds
            stages["read"] += read_s
            stages["network"] += time.perf_counter() - clock
            if video.writer is None:
                path = entry_path(self.store, self.recipe.id, video.row.digest)
                video.writer = FeatureWriter(path, self.extractor.shape, self.recipe.storage)
            self._add(video, batch, features)
            if batch.stop == len(video.units_UF):
                self._finish(video)
        except CacheError:
            raise
        except (FlowpipeError, OSError) as error:
            if video.writer is not None:
                video.writer.close()
                video.writer = None
            self._failed_row = video.row
            self._fail(video.row, str(error))

    def _add(self, video: _Video, batch: _Batch, features: NDArray[np.float32]) -> None:
        """Write what is complete: the units themselves, or means over the items of snippets."""
        writer = video.writer
        assert writer is not None
        if not self.extractor.pooled:
            writer.add(features)
            return
        for item, values in zip(video.units_UF[batch.start : batch.stop, 0], features, strict=True):
            video.waiting[int(item)] = values
        last = int(video.units_UF[batch.stop - 1, 0])
        rows_TF = video.snippets.rows_TF
        while writer.num_snippets < len(rows_TF) and rows_TF[writer.num_snippets, -1] <= last:
            snippet = rows_TF[writer.num_snippets]
            mean = np.mean([video.waiting[int(item)] for item in snippet], axis=0)
            writer.add(mean[None])
        if writer.num_snippets < len(rows_TF):
            needed = int(rows_TF[writer.num_snippets, 0])
            for item in [item for item in video.waiting if item < needed]:
                del video.waiting[item]

    def _finish(self, video: _Video) -> None:
        writer, row, snippets = video.writer, video.row, video.snippets
        assert writer is not None
        extractor = self.extractor
        length = (extractor.frames - 1) * extractor.stream.frame_step + 1
        with writer:
            writer.finish(
                snippets.centre_s,
                snippets.span_s,
                {
                    "recipe": self.recipe.to_json(),
                    "source_name": row.name,
                    "source_sha256": row.digest,
                    "source": json.dumps(
                        {
                            "video": json.loads(video.entry.attributes["source"]),
                            "recipe": json.loads(video.entry.recipe.to_json()),
                            "num_frames": video.entry.num_frames,
                        },
                        sort_keys=True,
                    ),
                    "fps": snippets.fps,
                    "offset_frames": length / 2,
                    "step_frames": float(extractor.step),
                    "snippet_frames": float(length),
                    "problem": str(video.entry.attributes["problem"]),
                    "software": json.dumps(software_versions(extractor.device), sort_keys=True),
                },
            )
        video.writer = None
        count = writer.num_snippets
        self.result.snippets += count
        path = entry_path(self.store, self.recipe.id, row.digest)
        self.result.done += 1
        self._note(row, count, path)
        for other in self._others[row.digest]:
            self.result.skipped += 1
            self._note(other, count, path)

    def _note(self, row: ManifestRow, snippets: int, path: Path) -> None:
        """Count an entry, and let the video's name stand for it."""
        self.result.snippets_total += snippets
        self.result.bytes += path.stat().st_size
        if self._known.get((row.name, row.path)) != (row.digest, row.label):
            new = ManifestRow(
                row.name,
                row.label,
                row.digest,
                self.recipe.id,
                row.path,
                row.size,
                row.mtime_ns,
                time.time(),
            )
            self._manifest.add(new)

    def _fail(self, row: ManifestRow, reason: str) -> None:
        for same in (row, *self._others[row.digest]):
            self.result.failed += 1
            self.result.failures.append(FeatureFailure(same.name, reason))
            failure = FailureRow(
                same.name, same.path, same.digest, self.recipe.id, reason, time.time()
            )
            add_failure(self.store, failure)


class _Pipeline:
    """Give batches in order, while threads open and read the ones that follow.

    A video that cannot be opened comes as (row, reason).
    """

    def __init__(self, run: _Run, rows: list[ManifestRow], batch_size: int, readers: int) -> None:
        self._run, self._rows, self._batch_size = run, rows, batch_size
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="flowpipe-read")
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=readers + 1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_Batch | tuple[ManifestRow, str]]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def close(self) -> None:
        """End the threads; what was read and not taken is thrown away."""
        self._ended.set()
        self._thread.join()
        self._readers.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        try:
            for found in self._batches():
                if not self._put(found):
                    return
            self._put(None)
        except BaseException as error:  # raised where the batches are taken
            self._put(error)

    def _put(self, found: Any) -> bool:
        while not self._ended.is_set():
            try:
                self._queue.put(found, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _batches(self) -> Iterator[_Batch | tuple[ManifestRow, str]]:
        for row in self._rows:
            try:
                video = self._run.open_video(row)
            except (FlowpipeError, OSError) as error:
                yield row, str(error)
                continue
            for start in range(0, len(video.units_UF), self._batch_size):
                stop = min(start + self._batch_size, len(video.units_UF))
                codes = self._readers.submit(self._run.read, video, start, stop)
                yield _Batch(video, start, stop, codes)


def software_versions(device: torch.device) -> dict[str, str]:
    """Versions of what takes part in computing features, and the device."""
    found = {
        "flowpipe": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "h5py": h5py.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
