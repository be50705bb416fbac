"""One task in a worker process: decode, flow, compress, write."""

import contextlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
import cv2
import h5py
import numpy as np
import zstandard
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.cache import entry_path
from flowpipe.cache.part import is_abandoned
from flowpipe.cache.store import open_entry
from flowpipe.cache.write import EntryWriter, FieldCoder
from flowpipe.errors import (
    CacheError,
    DeviceError,
    EntryCorrupt,
    EntryNotFound,
    FlowError,
    FlowpipeError,
    VideoError,
    VideoNotFound,
)
from flowpipe.extraction.ranges import RangeWriter, join
from flowpipe.extraction.tasks import FrameRange, Job, Joining, Outcome, Probing, Task
from flowpipe.flow import FlowMethod, create, create_batched
from flowpipe.flow.confidence import confidence_codes
from flowpipe.flow.cuts import LOOK, find_cuts
from flowpipe.flow.method import input_of, takes
from flowpipe.video import Frame, VideoInfo, VideoReader, content_digest

OnStep: TypeAlias = Callable[[int, float], None]
"""Receives the fields computed so far and the share of the task that is done."""

Field: TypeAlias = tuple[NDArray[np.float32], NDArray[np.uint8] | None]
"""Flow, and its confidence where that is wanted."""


class FileState(NamedTuple):
    """What tells a file from one that takes its place."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def memo(self) -> tuple[int, int]:
        """What the manifest keeps of it."""
        return self.size, self.mtime_ns


def process_task(job: Job, task: Task, on_step: OnStep) -> Outcome:
    """Do a task, or say why it cannot be done; raises nothing."""
    part = task.part
    digest = part.digest if isinstance(part, FrameRange | Joining) else ""
    try:
        if isinstance(part, FrameRange):
            return _compute_range(job, task, part, on_step)
        if isinstance(part, Joining):
            return _join(job, task, part)
        seen = _stat(task.path)
        digest = content_digest(task.path)
        found = Outcome(digest, seen.memo)
        if digest in job.known_failures:
            return replace(found, failure=job.known_failures[digest], known_failure=True)
        if (present := present_entry(job, digest)) is not None:
            return replace(present, seen=seen.memo)
        if not task.insist and in_work(job, digest):
            return replace(found, busy=True)
        if isinstance(part, Probing):
            return replace(found, expected=expected_frames(_reader(job, task).info, job.recipe.fps))
        return _compute(job, task, digest, seen, on_step)
    except Exception as error:
        return failed(task, digest, error)


def failed(task: Task, digest: str, error: Exception) -> Outcome:
    """Return the outcome of a task that ended in an error."""
    if isinstance(error, CacheError | DeviceError):
        return Outcome(digest, cache_failure=str(error))
    if isinstance(error, VideoError | VideoNotFound) and not _holds(task.path, digest):
        digest = ""  # of what is no longer there, or cannot be read now: nothing to remember
    if isinstance(error, FlowpipeError):
        return Outcome(digest, failure=_with_path(str(error), task.path))
    # Of a plug-in, of OpenCV: it costs this video, and is reported.
    message = f"{type(error).__name__}: {error}".strip().replace("\n", " ")
    return Outcome(digest, failure=_with_path(message, task.path))


class ChangedVideo(VideoError):
    """A video's file was replaced while its entry was computed."""


def present_entry(job: Job, digest: str) -> Outcome | None:
    """Return the outcome of an entry that is there and whole; None where it must be computed."""
    try:
        entry = open_entry(job.cache, job.recipe.id, digest)
    except (EntryNotFound, EntryCorrupt):
        return None  # written, or written over
    return _outcome(entry.path, digest, entry.num_flows, entry.attributes)


def in_work(job: Job, digest: str) -> bool:
    """Whether another process is writing this entry now."""
    folder = entry_path(job.cache, job.recipe.id, digest).parent
    return any(not is_abandoned(path) for path in folder.glob(f".{digest}.*.part"))


def _compute(job: Job, task: Task, digest: str, seen: FileState, on_step: OnStep) -> Outcome:
    started = time.perf_counter()
    reader = _reader(job, task)
    with _writer(job, digest, reader) as writer:
        pts_s, seconds = _fill(job, reader, writer, on_step)
        problem = reader.problem or ""
        _check_unchanged(task.path, seen, digest, problem)
        outcome = _finish(job, task, digest, reader.info, writer, pts_s, problem)
    seconds["all"] = time.perf_counter() - started
    return replace(outcome, seen=seen.memo, seconds=seconds)


def _compute_range(job: Job, task: Task, frames: FrameRange, on_step: OnStep) -> Outcome:
    started = time.perf_counter()
    reader = _reader(job, task)
    coder = FieldCoder(job.recipe.quantiser, job.codec)
    with RangeWriter(frames.file, coder, job.recipe.rgb_quality) as writer:
        pts_s, seconds = _fill(job, reader, writer, on_step, frames.start, frames.stop)
        writer.finish(pts_s)
    seconds["all"] = time.perf_counter() - started
    return Outcome(
        frames.digest, flows=writer.num_flows, problem=reader.problem or "", seconds=seconds
    )


def _join(job: Job, task: Task, part: Joining) -> Outcome:
    started = time.perf_counter()
    reader = _reader(job, task)
    with _writer(job, part.digest, reader) as writer:
        pts_s = join(part.ranges, writer)
        _check_unchanged(task.path, part.seen, part.digest, part.problem)
        outcome = _finish(job, task, part.digest, reader.info, writer, pts_s, part.problem)
    joining_s = time.perf_counter() - started
    return replace(outcome, seen=part.seen, seconds={"compress": joining_s, "all": joining_s})


def _fill(
    job: Job,
    reader: VideoReader,
    writer: EntryWriter | RangeWriter,
    on_step: OnStep,
    start: int = 0,
    stop: int | None = None,
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Write frames and the field that leads to each; return their times, and seconds of work."""
    expected = (stop or expected_frames(reader.info, job.recipe.fps)) - start
    seconds = {"decode": 0.0, "flow": 0.0, "compress": 0.0}
    pts_s: list[float] = []
    cuts: set[int] = set()
    for frame, field in _flows(job, _frames(job, reader, start, stop, cuts), seconds):
        clock = time.perf_counter()
        if field is not None:
            uv_HWC, confidence_hw = field
            writer.add_flow(uv_HWC, cut=frame.index in cuts, confidence_hw=confidence_hw)
        if frame.index >= start:
            pts_s.append(frame.pts_s)
            if frame.rgb_HWC is not None and job.recipe.rgb:
                writer.add_rgb(frame.rgb_HWC)
        on_step(writer.num_flows, min(1.0, len(pts_s) / expected) if expected > 0 else 0.0)
        seconds["compress"] += time.perf_counter() - clock
    return np.array(pts_s), seconds


def _frames(
    job: Job, reader: VideoReader, start: int, stop: int | None, cuts: set[int]
) -> Iterator[Frame]:
    """Yield the frame before a range and those of it; note in `cuts` which begin a shot."""
    first = max(0, start - 1)
    if not job.recipe.cuts:
        return reader.frames(first, stop)
    around = reader.frames(max(0, first - LOOK), None if stop is None else stop + LOOK)
    inside = (frame for frame in find_cuts(around, cuts) if frame.index >= first)
    return itertools.takewhile(lambda frame: stop is None or frame.index < stop, inside)


def _flows(
    job: Job, frames: Iterator[Frame], seconds: dict[str, float]
) -> Iterator[tuple[Frame, Field | None]]:
    """Yield each frame with the field that leads to it; add up the time to decode and compute."""
    method = _method_of(job)
    run: list[Frame] = []
    clock = time.perf_counter()
    for frame in itertools.chain(frames, (None,)):
        decoded = time.perf_counter()
        seconds["decode"] += decoded - clock
        if frame is not None:
            run.append(frame)
            if len(run) == 1:
                yield frame, None
        if len(run) > 1 and (frame is None or len(run) > _pairs_at_once(job, frame)):
            fields = _fields(job, method, run)
            seconds["flow"] += time.perf_counter() - decoded
            yield from zip(run[1:], fields, strict=True)
            run = run[-1:]  # the last frame of a run is the first of the next
        clock = time.perf_counter()


def _pairs_at_once(job: Job, frame: Frame) -> int:
    if job.recipe.device == "cpu":
        return 1
    return max(1, job.batch_pixels // frame.grey_HW.size)


def _fields(job: Job, method: Any, run: list[Frame]) -> Iterator[Field]:
    """Compute the fields between consecutive frames of a run."""
    pictures = [input_of(method, frame) for frame in run]
    recipe = job.recipe
    if recipe.device == "cpu":
        first, second = pictures[::-1] if recipe.backward else pictures
        uv_HWC = method(first, second)
        back_HWC = method(second, first) if recipe.confidence else None
        return iter([_with_confidence(uv_HWC, back_HWC)])
    earlier_BHW, later_BHW = np.stack(pictures[:-1]), np.stack(pictures[1:])
    pairs = (later_BHW, earlier_BHW) if recipe.backward else (earlier_BHW, later_BHW)
    try:
        uv_BHWC = method.batch(*pairs)
        back_BHWC = method.batch(*pairs[::-1]) if recipe.confidence else [None] * len(uv_BHWC)
        return map(_with_confidence, uv_BHWC, back_BHWC)
    except FlowError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise DeviceError(f"flow on the GPU failed: {message}") from error


def _with_confidence(uv_HWC: NDArray[np.float32], back_HWC: NDArray[np.float32] | None) -> Field:
    return uv_HWC, None if back_HWC is None else confidence_codes(uv_HWC, back_HWC)


def expected_frames(info: VideoInfo, fps: float | None) -> int:
    """Return how many frames a video's header promises; 0 where it says nothing.

    Good for plans and progress, never for results: headers lie.
    """
    return int((info.duration_s or 0.0) * (fps or info.average_fps or 0.0))


def _reader(job: Job, task: Task) -> VideoReader:
    recipe, kind = job.recipe, takes(_method_of(job))
    return VideoReader(
        task.path,
        short_side=recipe.short_side,
        size=recipe.size,
        fps=recipe.fps,
        rgb=recipe.rgb or kind == "rgb",
        vectors=kind in ("frame", "vectors"),
        pictures=recipe.rgb or recipe.cuts or kind != "vectors",
        max_pixels=job.max_pixels,
    )


def _writer(job: Job, digest: str, reader: VideoReader) -> EntryWriter:
    height, width = reader.output_size
    return EntryWriter(
        entry_path(job.cache, job.recipe.id, digest),
        quantiser=job.recipe.quantiser,
        codec=job.codec,
        height=height,
        width=width,
        rgb_quality=job.recipe.rgb_quality,
        cuts=job.recipe.cuts,
        confidence=job.recipe.confidence,
    )


def _finish(
    job: Job,
    task: Task,
    digest: str,
    info: VideoInfo,
    writer: EntryWriter,
    pts_s: NDArray[np.float64],
    problem: str,
) -> Outcome:
    if len(pts_s) < 2:
        raise VideoError(f"{task.path} has one frame only; flow needs two: leave it out")
    software = {**software_versions(), **getattr(_method_of(job), "software", {})}
    attributes = writer.finish(
        pts_s,
        {
            "recipe": job.recipe.to_json(),
            "source_name": task.name,
            "source_sha256": digest,
            "source": json.dumps(_source_facts(info)),
            "problem": problem,
            "software": json.dumps(software, sort_keys=True),
        },
    )
    path = entry_path(job.cache, job.recipe.id, digest)
    return replace(_outcome(path, digest, writer.num_flows, attributes), computed=True)


def _outcome(path: Path, digest: str, flows: int, attributes: Any) -> Outcome:
    return Outcome(
        digest,
        flows=flows,
        num_bytes=path.stat().st_size,
        clipped_share=float(attributes["clipped_share"]),
        problem=str(attributes["problem"]),
    )


def _stat(path: Path) -> FileState:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise VideoNotFound(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}") from error
    return FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _check_unchanged(path: Path, seen: tuple[int, ...], digest: str, problem: str) -> None:
    """Refuse to store frames under the digest of a file that they may not be of.

    Where the video seems damaged its bytes are read again, too: what the disk did not give looks
    the same to a decoder.
    """
    try:
        same = (not problem and _stat(path)[: len(seen)] == seen) or _holds(path, digest)
    except VideoError:
        same = False
    if not same:
        raise ChangedVideo(
            f"{path} was changed or removed, or could not be read, while it was computed; run the "
            "same command again"
        )


def _holds(path: Path, digest: str) -> bool:
    try:
        return content_digest(path) == digest
    except (VideoError, VideoNotFound):
        return False


def software_versions() -> dict[str, str]:
    """Return the versions of what takes part in an extraction."""
    versions = {
        "flowpipe": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pyav": av.__version__,
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "zstandard": zstandard.__version__,
    }
    with contextlib.suppress(metadata.PackageNotFoundError):  # needed for JPEG-LS only
        versions["imagecodecs"] = metadata.version("imagecodecs")
    return versions


def _source_facts(info: VideoInfo) -> dict[str, Any]:
    return {
        **({"mirrored": True} if info.mirrored else {}),
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "height": info.height,
        "width": info.width,
        "rotation": info.rotation,
        "average_fps": info.average_fps,
        "duration_s": info.duration_s,
    }


def _method_of(job: Job) -> FlowMethod:
    recipe = job.recipe
    parameters = json.dumps(dict(recipe.flow_parameters), sort_keys=True)
    device = "" if recipe.device == "cpu" else job.torch_device
    return _made_method(recipe.flow, parameters, device)


@lru_cache(maxsize=4)
def _made_method(name: str, parameters: str, device: str) -> FlowMethod:
    if device:
        return create_batched(name, device, **json.loads(parameters))
    return create(name, **json.loads(parameters))


def _with_path(reason: str, path: Path) -> str:
    return reason if str(path) in reason else f"{path}: {reason}"
