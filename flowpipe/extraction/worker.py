"""One video, or a range of a long one: decode, flow, compress, write; in a worker process.

Nothing large crosses processes: in comes a `Task`, out goes an `Outcome`.
"""

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import h5py
import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.cache import Entry, FlowRecipe, entry_path
from flowpipe.cache.part import is_abandoned
from flowpipe.cache.write import EntryWriter, FieldCoder
from flowpipe.errors import CacheError, DeviceError, EntryCorrupt, FlowpipeError, VideoError
from flowpipe.extraction.batched import Address, flows_from_server
from flowpipe.extraction.ranges import FrameRange, RangeWriter
from flowpipe.flow import FlowMethod, create
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import MAX_PIXELS, Frame, VideoInfo, VideoReader, content_digest

STARTED, FINISHED, TIMED_OUT = 1, 2, 3
WHOLE = 1_000_000
JOURNAL_COLUMNS = 4
"""The journal is an N×4 int64 file, for each task: state, flows so far, share done (millionths),
and the process that works on it."""


@dataclass(frozen=True)
class Task:
    """What a worker needs to know of one video, or of a range of it (`frames`).

    `index` is the task's row in the journal, `source` the video's place among the sources, and
    `num_bytes` what the task counts for in the progress. With `insist` the entry is computed even
    if another process is at it. `server` computes flow where it is given.
    """

    index: int
    source: int
    path: Path
    name: str
    cache: Path
    recipe: FlowRecipe
    codec: str
    journal: Path
    num_tasks: int
    num_bytes: int
    frames: FrameRange | None = None
    insist: bool = False
    max_pixels: int = MAX_PIXELS
    known_failures: Mapping[str, str] = field(default_factory=dict)
    import_path: tuple[str, ...] = ()
    server: Address | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task. `failure` and `cache_failure` are sentences, empty for none.

    `busy`: another process is computing this entry, and may have it done when it is asked again.
    """

    index: int
    digest: str = ""
    flows: int = 0
    computed: bool = False
    num_bytes: int = 0
    clipped_share: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    failure: str = ""
    known_failure: bool = False
    cache_failure: str = ""
    busy: bool = False


def open_journal(file: Path, num_tasks: int, mode: Literal["r", "r+", "w+"]) -> NDArray[np.int64]:
    """Map a journal into memory."""
    return np.memmap(file, np.int64, mode=mode, shape=(num_tasks, JOURNAL_COLUMNS))


def process_video(task: Task) -> Outcome:
    """Make the entry of one video, or say why there is none. Raises nothing."""
    journal = open_journal(task.journal, task.num_tasks, "r+")
    journal[task.index, 3] = os.getpid()
    journal[task.index, 0] = STARTED
    digest = ""
    try:
        if task.frames is not None:
            return _compute_range(task, task.frames, journal)
        digest = content_digest(task.path)
        if digest in task.known_failures:
            failure = task.known_failures[digest]
            return Outcome(task.index, digest, failure=failure, known_failure=True)
        present = present_entry(task, digest)
        if present is None and not task.insist and in_work(task, digest):
            return Outcome(task.index, digest, busy=True)
        return present or _compute(task, digest, journal)
    except Exception as error:
        return reasoned(task, digest, error)
    finally:
        journal[task.index, 0] = FINISHED


def reasoned(task: Task, digest: str, error: Exception) -> Outcome:
    """Give the outcome of a task that ended in an error."""
    if isinstance(error, CacheError | DeviceError):
        return Outcome(task.index, digest, cache_failure=str(error))
    if isinstance(error, FlowpipeError):
        return Outcome(task.index, digest, failure=_with_path(str(error), task.path))
    if isinstance(error, OSError):
        return Outcome(task.index, digest, cache_failure=f"cannot be written: {error}")
    # Of a plug-in, of OpenCV: it costs this video, and is reported.
    told = f"{type(error).__name__}: {error}".strip().replace("\n", " ")
    return Outcome(task.index, digest, failure=_with_path(told, task.path))


def present_entry(task: Task, digest: str) -> Outcome | None:
    """Give the outcome of an entry that is there and whole; None where it must be computed."""
    path = entry_path(task.cache, task.recipe.id, digest)
    if not path.is_file():
        return None
    try:
        entry = Entry(path)
    except EntryCorrupt:
        return None  # written over
    return Outcome(
        task.index,
        digest,
        flows=entry.num_flows,
        num_bytes=path.stat().st_size,
        clipped_share=float(entry.attributes["clipped_share"]),
        problem=str(entry.attributes["problem"]),
    )


def in_work(task: Task, digest: str) -> bool:
    """Whether another process is writing this entry now."""
    folder = entry_path(task.cache, task.recipe.id, digest).parent
    return any(not is_abandoned(path) for path in folder.glob(f".{digest}.*.part"))


def _compute(task: Task, digest: str, journal: NDArray[np.int64]) -> Outcome:
    started = time.perf_counter()
    reader = reader_of(task)
    with entry_writer(task, digest, reader) as writer:
        pts_s, seconds = _fill(task, reader, writer, journal)
        outcome = finish_entry(task, digest, reader.info, writer, pts_s, reader.problem or "")
    seconds["all"] = time.perf_counter() - started
    return replace(outcome, seconds=seconds)


def _compute_range(task: Task, frames: FrameRange, journal: NDArray[np.int64]) -> Outcome:
    started = time.perf_counter()
    reader = reader_of(task)
    coder = FieldCoder(quantiser_of(task.recipe), task.codec)
    with RangeWriter(frames.file, coder, task.recipe.rgb_quality) as writer:
        pts_s, seconds = _fill(task, reader, writer, journal, frames)
        writer.finish(pts_s)
    seconds["all"] = time.perf_counter() - started
    problem = reader.problem or ""
    return Outcome(
        task.index, flows=writer.num_flows, computed=True, seconds=seconds, problem=problem
    )


def _fill(
    task: Task,
    reader: VideoReader,
    writer: EntryWriter | RangeWriter,
    journal: NDArray[np.int64],
    frames: FrameRange | None = None,
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Write frames and the field that leads to each; give their times, and seconds of work."""
    start, stop = (0, None) if frames is None else (frames.start, frames.stop)
    expected = (stop or expected_frames(reader.info, task.recipe.fps)) - start
    seconds = {"decode": 0.0, "flow": 0.0, "compress": 0.0}
    pts_s: list[float] = []
    for frame, uv_HWC in _flows(task, reader.frames(max(0, start - 1), stop), seconds):
        clock = time.perf_counter()
        if uv_HWC is not None:
            writer.add_flow(uv_HWC)
        if frame.index >= start:
            pts_s.append(frame.pts_s)
            if frame.rgb_HWC is not None:
                writer.add_rgb(frame.rgb_HWC)
        share = min(1.0, len(pts_s) / expected) if expected > 0 else 0.0
        journal[task.index, 1:3] = writer.num_flows, share * WHOLE
        seconds["compress"] += time.perf_counter() - clock
    return np.array(pts_s), seconds


def _flows(
    task: Task, frames: Iterator[Frame], seconds: dict[str, float]
) -> Iterator[tuple[Frame, NDArray[np.float32] | None]]:
    """Give each frame with the field that leads to it; add up the time to decode and compute."""
    if task.server is not None:
        yield from flows_from_server(task.server, frames, seconds)
        return
    recipe = task.recipe
    method = _method(recipe.flow, json.dumps(dict(recipe.flow_parameters), sort_keys=True))
    previous_HW: NDArray[np.uint8] | None = None
    clock = time.perf_counter()
    for frame in frames:
        decoded = time.perf_counter()
        uv_HWC = None
        if previous_HW is not None:
            pair = (previous_HW, frame.grey_HW)
            uv_HWC = method(*(reversed(pair) if recipe.backward else pair))
        previous_HW = frame.grey_HW
        seconds["decode"] += decoded - clock
        seconds["flow"] += time.perf_counter() - decoded
        yield frame, uv_HWC
        clock = time.perf_counter()
    seconds["decode"] += time.perf_counter() - clock


def expected_frames(info: VideoInfo, fps: float | None) -> int:
    """Give how many frames a video's header promises; 0 where it says nothing.

    Good for plans and progress, never for results: headers lie.
    """
    return int((info.duration_s or 0.0) * (fps or info.average_fps or 0.0))


def reader_of(task: Task) -> VideoReader:
    """Open the video of a task as its recipe has it."""
    recipe = task.recipe
    return VideoReader(
        task.path,
        short_side=recipe.short_side,
        size=recipe.size,
        fps=recipe.fps,
        rgb=recipe.rgb,
        max_pixels=task.max_pixels,
    )


def entry_writer(task: Task, digest: str, reader: VideoReader) -> EntryWriter:
    """Begin the entry of a task."""
    height, width = reader.output_size
    return EntryWriter(
        entry_path(task.cache, task.recipe.id, digest),
        quantiser=quantiser_of(task.recipe),
        codec=task.codec,
        height=height,
        width=width,
        rgb_quality=task.recipe.rgb_quality,
    )


def finish_entry(
    task: Task,
    digest: str,
    info: VideoInfo,
    writer: EntryWriter,
    pts_s: NDArray[np.float64],
    problem: str,
) -> Outcome:
    """Complete the entry of a task.

    Raises
    ------
    VideoError
        If there is one frame only.
    """
    if len(pts_s) < 2:
        raise VideoError(f"{task.path} has one frame only; flow needs two: leave it out")
    attributes = writer.finish(
        pts_s,
        {
            "recipe": task.recipe.to_json(),
            "source_name": task.name,
            "source_sha256": digest,
            "source": json.dumps(_source_facts(info)),
            "problem": problem,
            "software": json.dumps(
                {**software_versions(), **(task.server.software if task.server else {})},
                sort_keys=True,
            ),
        },
    )
    return Outcome(
        task.index,
        digest,
        flows=writer.num_flows,
        computed=True,
        num_bytes=entry_path(task.cache, task.recipe.id, digest).stat().st_size,
        clipped_share=float(attributes["clipped_share"]),
        problem=problem,
    )


def quantiser_of(recipe: FlowRecipe) -> Quantiser:
    """Give the quantiser that a recipe names."""
    return Quantiser(
        recipe.storage,  # type: ignore[arg-type]
        bound_px=recipe.bound_px,
        tolerance_px=recipe.tolerance_px,
    )


def software_versions() -> dict[str, str]:
    """Versions of what takes part in an extraction."""
    return {
        "flowpipe": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pyav": av.__version__,
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "zstandard": zstandard.__version__,
        "imagecodecs": imagecodecs.__version__,
    }


def _source_facts(info: VideoInfo) -> dict[str, Any]:
    return {
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "height": info.height,
        "width": info.width,
        "rotation": info.rotation,
        "average_fps": info.average_fps,
        "duration_s": info.duration_s,
    }


@lru_cache(maxsize=4)
def _method(name: str, parameters: str) -> FlowMethod:
    return create(name, **json.loads(parameters))


def process_in_worker(task: Task) -> Outcome:
    """`process_video` with one thread for each process; the parent alone answers Ctrl-C."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker may be older than the path on which a method of the person's own stands.
    sys.path.extend(place for place in task.import_path if place not in sys.path)
    return process_video(task)


def _with_path(reason: str, path: Path) -> str:
    return reason if str(path) in reason else f"{path}: {reason}"
