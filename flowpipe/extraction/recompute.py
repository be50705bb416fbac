"""Compute some entries of a cache anew from their videos, and compare: the proof that it holds."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowpipe.cache import Cache, Entry, entry_path
from flowpipe.cache.manifest import ManifestRow
from flowpipe.errors import FlowpipeError, InvalidArgument
from flowpipe.extraction.processes import WorkerProcess
from flowpipe.extraction.tasks import Job, Task
from flowpipe.flow import create
from flowpipe.registry import refuse_foreign_code
from flowpipe.video import content_digest

TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class Recomputed:
    """What became of one entry: `problem` where it differs, `note` where it cannot be computed."""

    name: str
    problem: str = ""
    note: str = ""


def recompute(
    cache: Cache,
    count: int,
    *,
    seed: int | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> Iterator[Recomputed]:
    """Compute `count` entries anew, drawn at random, and compare every code and time.

    Entries whose video is gone or changed, or whose method is of another version here, are told
    in a note and others drawn in their place.

    Raises
    ------
    InvalidArgument
        If `count` < 1.
    """
    if count < 1:
        raise InvalidArgument(f"recompute {count} must be >= 1")
    rows = cache.rows()
    done = 0
    with tempfile.TemporaryDirectory(prefix="flowpipe-") as folder, WorkerProcess() as worker:
        for number in np.random.default_rng(seed).permutation(len(rows)):
            if done == count:
                return
            row = rows[number]
            if on_progress is not None:
                on_progress(done / count, row.name)
            try:
                entry = cache.entry_of(row)
                note = _obstacle(row, entry)
                problem = "" if note else _difference(row, entry, worker, Path(folder))
            except FlowpipeError as error:
                note, problem = "", str(error)
            done += not note
            yield Recomputed(row.name, problem, note)


def _obstacle(row: ManifestRow, entry: Entry) -> str:
    """Say why an entry cannot be computed here; empty if it can."""
    try:
        if content_digest(row.path) != row.digest:
            return f"{row.path} is another video now"
        recipe = entry.flow_recipe
        refuse_foreign_code(recipe.flow, f"the recipe of {entry.name}")
        if recipe.device != "cpu":
            return f"it was computed on {recipe.device}"
        method = create(recipe.flow, **recipe.flow_parameters)
    except FlowpipeError as error:
        return str(error)
    here = (method.version, dict(method.libraries))
    if here != (recipe.flow_version, dict(recipe.libraries)):
        then = f"version {recipe.flow_version} with {_told(recipe.libraries)}"
        return f"{recipe.flow} was of {then}; here it is {here[0]} with {_told(here[1])}"
    return ""


def _told(libraries: object) -> str:
    return str(libraries).strip("{}").replace("'", "") or "no library"


def _difference(row: ManifestRow, entry: Entry, worker: WorkerProcess, folder: Path) -> str:
    """Say in what the computed entry differs; empty for nothing."""
    codec, recipe = str(entry.attributes["codec"]), entry.flow_recipe
    job = Job(folder, recipe, codec)
    outcome = worker.run(job, Task(0, Path(row.path), entry.name, row.size), TIME_LIMIT_S)
    if outcome.failure or outcome.cache_failure:
        return f"it could not be computed again: {outcome.failure or outcome.cache_failure}"
    path = entry_path(folder, recipe.id, row.digest)
    again = Entry(path)
    try:
        if again.flow.shape != entry.flow.shape:
            return f"its flow is {entry.flow.shape}, computed again {again.flow.shape}"
        if not np.array_equal(again.pts_s, entry.pts_s):
            return "its times are others than those computed again"
        for index in range(entry.num_flows):
            if not np.array_equal(again.flow.codes([index]), entry.flow.codes([index])):
                apart_px = float(np.abs(again.flow[index] - entry.flow[index]).max())
                return f"flow {index} differs from the computed one by up to {apart_px:.3f} px"
        return ""
    finally:
        again.close()
        path.unlink()
