"""Features of all videos of a cache → a cache of features, resumable.

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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.cache import Cache, Entry, FeatureRecipe, FlowRecipe, entry_path, write_recipe
from flowpipe.cache.manifest import ManifestRow
from flowpipe.cache.part import remove_abandoned
from flowpipe.cache.store import name_network, note_weights
from flowpipe.cache.write import FeatureWriter
from flowpipe.clips import sampling
from flowpipe.errors import CacheError, EntryCorrupt, EntryNotFound, FlowpipeError, InvalidArgument
from flowpipe.features.extractor import Extractor
from flowpipe.features.snippets import Snippets
from flowpipe.runs import Progress, Run, RunResult, reporting


@dataclass
class FeaturesResult(RunResult):
    """What a computation of features did; its items are snippets.

    Attributes
    ----------
    name : str
        What the features are called in their cache.
    shape : tuple of int
        Of one snippet's features.
    """

    name: str = ""
    shape: tuple[int, ...] = ()


def compute_features(
    extractor: Extractor,
    cache: Cache,
    out: str | os.PathLike[str],
    *,
    name: str,
    batch_size: int | None = None,
    readers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> FeaturesResult:
    """Compute the features of all videos of a cache; what is already there is left alone.

    Parameters
    ----------
    extractor : Extractor
        A `FeatureExtractor` or a `FlowHistogram`.
    cache : Cache
        Of flow, by one recipe.
    out : path
        Directory of the features; made when missing. Other networks' may lie in it.
    name : str
        What the features are called in it, such as "rgb".
    batch_size : int, optional
        Units at a time; by default the extractor's choice.
    readers : int, optional
        Threads that read ahead; by default the extractor's choice.
    on_progress : callable, optional
        Called with a `Progress` about four times a second.

    Returns
    -------
    FeaturesResult

    Raises
    ------
    InvalidArgument
        For arguments outside their rules, a cache of several recipes, or of input that the
        network does not know.
    CacheError
        If the features cannot be written; what was done is kept.
    """
    cache = only_flow(cache)
    for argument, number in (("batch_size", batch_size), ("readers", readers)):
        if number is not None and number < 1:
            raise InvalidArgument(f"{argument} {number} must be ≥ 1", parameter=argument)
    store = Path(out).absolute()
    if store.exists() and not store.is_dir():
        raise CacheError(
            f"{store} is a file; a cache of features is a directory: choose another place",
            parameter="out",
        )
    extractor.wanted.check(f'the network of "{name}"', _flow_recipe(cache))
    recipe = extractor.recipe(str(cache.recipe))
    write_recipe(store, recipe)
    name_network(store, name, recipe)
    note_weights(store, recipe, extractor.weights)
    remove_abandoned(store / recipe.id)
    result = FeaturesResult(recipe.id, name=name, shape=extractor.shape)
    result.stage_seconds = {"read": 0.0, "network": 0.0}
    work = _Work(extractor, cache, recipe, Run(store, result))
    with reporting(work.run.progress, on_progress):
        work.compute(batch_size or extractor.batch_size, readers or extractor.readers)
    return work.run.finish()


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
    if not sources:
        raise InvalidArgument(f"{cache.path} holds no flow or frames; name a cache of those")
    if len(sources) != 1:
        raise InvalidArgument(
            f"{cache.path} holds videos of {len(sources)} recipes of flow; name the one to read",
            parameter="recipe",
        )
    return cache.select(sources.pop())


def _flow_recipe(cache: Cache) -> FlowRecipe:
    recipe = cache.recipes[str(cache.recipe)]
    assert isinstance(recipe, FlowRecipe)
    return recipe


@dataclass(eq=False)
class _Video:
    """A video in work: its rows in the manifest, and where its snippets lie."""

    rows: list[ManifestRow]
    entry: Entry
    snippets: Snippets
    units_UF: NDArray[np.int64]


@dataclass(eq=False)
class _Unopened:
    """A video that cannot be opened, and why."""

    rows: list[ManifestRow]
    reason: str


@dataclass
class _Batch:
    """Units [start, stop) of a video, and their codes as they come from a reader."""

    video: _Video | _Unopened
    start: int = 0
    stop: int = 0
    codes: "Future[tuple[Any, float]] | None" = None


class _Work:
    """One call of `compute_features`."""

    def __init__(
        self, extractor: Extractor, cache: Cache, recipe: FeatureRecipe, run: Run[FeaturesResult]
    ) -> None:
        self.extractor, self.cache, self.recipe, self.run = extractor, cache, recipe, run

    def compute(self, batch_size: int, readers: int) -> None:
        """Compute the videos that have no features yet."""
        pipeline = _Pipeline(self._batches, self._missing(), batch_size, readers)
        try:
            # What a failed video leaves of its batches is passed over by groupby.
            for video, batches in groupby(pipeline, key=lambda batch: batch.video):
                if isinstance(video, _Unopened):
                    self._fail(video.rows, video.reason)
                    continue
                try:
                    snippets = self._write(video, batches)
                except CacheError:
                    raise
                except (FlowpipeError, OSError) as error:
                    self._fail(video.rows, str(error))
                else:
                    self._add(video.rows, snippets, computed=True)
        finally:
            pipeline.close()

    def _missing(self) -> list[list[ManifestRow]]:
        """Return the rows, by content, that have no features; count the others."""
        rows = [replace(row, recipe=self.recipe.id, time=time.time()) for row in self.cache.rows()]
        self.run.result.videos = len(rows)
        by_content: dict[str, list[ManifestRow]] = {}
        for row in rows:
            by_content.setdefault(row.digest, []).append(row)
        missing = []
        for same in by_content.values():
            try:
                snippets = Entry(self._path(same[0])).num_snippets
            except (EntryCorrupt, EntryNotFound):
                missing.append(same)
            else:
                self._add(same, snippets, computed=False)
        return missing

    def _batches(
        self, rows: list[ManifestRow], batch_size: int, readers: ThreadPoolExecutor
    ) -> Iterator[_Batch]:
        """Open a video and have its units read; in a thread."""
        try:
            entry = self.cache[rows[0].name]
            if self.extractor.input != "flow":
                _ = entry.rgb  # says what to do where there is none
            snippets = self.extractor.snippets(entry)
            video = _Video(rows, entry, snippets, self.extractor.units(snippets))
        except (FlowpipeError, OSError) as error:
            yield _Batch(_Unopened(rows, str(error)))
            return
        for start in range(0, len(video.units_UF), batch_size):
            stop = min(start + batch_size, len(video.units_UF))
            yield _Batch(video, start, stop, readers.submit(self._read, video, start, stop))

    def _read(self, video: _Video, start: int, stop: int) -> tuple[Any, float]:
        """Read units of a video, in a reader's thread; return codes and seconds."""
        clock = time.perf_counter()
        codes = self.extractor.read(video.entry, video.units_UF[start:stop])
        return codes, time.perf_counter() - clock

    def _write(self, video: _Video, batches: Iterable[_Batch]) -> int:
        """Compute the batches of a video into its entry; return how many snippets there are."""
        path = self._path(video.rows[0])
        with FeatureWriter(path, self.extractor.shape, self.recipe.storage) as writer:
            snippets = video.snippets
            computed = map(self._compute, batches)
            for features in self.extractor.rows(video.entry, snippets, computed):
                writer.add(features)
            writer.finish(snippets.centre_s, snippets.span_s, self._attributes(video))
            return writer.num_snippets

    def _compute(self, batch: _Batch) -> NDArray[np.float32]:
        assert batch.codes is not None
        assert isinstance(batch.video, _Video)
        codes, read_s = batch.codes.result()
        clock = time.perf_counter()
        features = self.extractor.compute(codes, batch.video.entry)
        self.run.result.add_seconds({"read": read_s, "network": time.perf_counter() - clock})
        return features

    def _attributes(self, video: _Video) -> dict[str, Any]:
        """Return what an entry says of its making."""
        recipe, entry = self.recipe, video.entry
        length = sampling.span(video.snippets.rows_TF.shape[1], recipe.stride)
        return {
            "recipe": recipe.to_json(),
            "source_name": video.rows[0].name,
            "source_sha256": video.rows[0].digest,
            "source": json.dumps(
                {
                    "video": json.loads(entry.attributes["source"]),
                    "recipe": json.loads(entry.recipe.to_json()),
                    "num_frames": entry.num_frames,
                },
                sort_keys=True,
            ),
            "fps": video.snippets.fps,
            "offset_frames": length / 2,
            "step_frames": float(recipe.step or length),
            "snippet_frames": float(length),
            "problem": str(entry.attributes["problem"]),
            "software": json.dumps(
                {
                    "flowpipe": __version__,
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "h5py": h5py.__version__,
                    **self.extractor.software(),
                },
                sort_keys=True,
            ),
        }

    def _path(self, row: ManifestRow) -> Path:
        return entry_path(self.run.cache, self.recipe.id, row.digest)

    def _add(self, rows: list[ManifestRow], snippets: int, *, computed: bool) -> None:
        """Count the videos of one content, of which the first was computed or none."""
        for number, row in enumerate(rows):
            self.run.add(
                row,
                computed=computed and number == 0,
                items=snippets,
                num_bytes=self._path(row).stat().st_size,
            )

    def _fail(self, rows: list[ManifestRow], reason: str) -> None:
        for row in rows:
            self.run.fail(row, reason)


Batches = Callable[[list[ManifestRow], int, ThreadPoolExecutor], Iterator[_Batch]]


class _Pipeline:
    """Batches in order, while threads open and read the ones that follow."""

    def __init__(
        self, batches: Batches, missing: list[list[ManifestRow]], batch_size: int, readers: int
    ) -> None:
        self._batches, self._missing, self._batch_size = batches, missing, batch_size
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="flowpipe-read")
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=readers + 1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_Batch]:
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
            for rows in self._missing:
                for batch in self._batches(rows, self._batch_size, self._readers):
                    if not self._put(batch):
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
