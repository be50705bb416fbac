"""One video → one entry, in a worker process: decode, flow, compress, write.

Nothing large crosses processes: in comes a `Task`, out goes an `Outcome`.
"""

import json
import platform
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray

from flowpipe import __version__
from flowpipe.cache import Entry, Recipe, entry_path
from flowpipe.cache.write import EntryWriter
from flowpipe.errors import CacheError, EntryCorrupt, FlowpipeError, VideoError
from flowpipe.flow import FlowMethod, create
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import VideoReader, content_digest

STARTED, FINISHED = 1, 2
"""States of a task in the journal, an N×2 int64 file: (state, flows so far)."""


@dataclass(frozen=True)
class Task:
    """What a worker needs to know of one video."""

    index: int
    path: Path
    name: str
    cache: Path
    recipe: Recipe
    codec: str
    journal: Path
    num_tasks: int
    known_failures: Mapping[str, str] = field(default_factory=dict)
    import_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one video. `failure` and `cache_failure` are sentences, empty for none."""

    index: int
    digest: str = ""
    flows: int = 0
    computed: bool = False
    num_bytes: int = 0
    clipped_share: float = 0.0
    height: int = 0
    width: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    failure: str = ""
    known_failure: bool = False
    cache_failure: str = ""


def process_video(task: Task) -> Outcome:
    """Make the entry of one video, or say why there is none. Raises nothing."""
    journal: NDArray[np.int64] = np.memmap(
        task.journal, np.int64, mode="r+", shape=(task.num_tasks, 2)
    )
    journal[task.index, 0] = STARTED
    digest = ""
    try:
        digest = content_digest(task.path)
        if digest in task.known_failures:
            failure = task.known_failures[digest]
            return Outcome(task.index, digest, failure=failure, known_failure=True)
        return present_entry(task, digest) or _compute(task, digest, journal)
    except CacheError as error:
        return Outcome(task.index, digest, cache_failure=str(error))
    except FlowpipeError as error:
        return Outcome(task.index, digest, failure=_with_path(str(error), task.path))
    except OSError as error:
        return Outcome(task.index, digest, cache_failure=f"cannot be written: {error}")
    except Exception as error:  # of a plug-in, of OpenCV: it costs this video, and is reported
        told = f"{type(error).__name__}: {error}".strip().replace("\n", " ")
        return Outcome(task.index, digest, failure=_with_path(told, task.path))
    finally:
        journal[task.index, 0] = FINISHED


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
        height=entry.height,
        width=entry.width,
        problem=str(entry.attributes["problem"]),
    )


def _compute(task: Task, digest: str, journal: NDArray[np.int64]) -> Outcome:
    recipe = task.recipe
    started = time.perf_counter()
    reader = VideoReader(
        task.path,
        short_side=recipe.short_side,
        size=recipe.size,
        fps=recipe.fps,
        rgb=recipe.rgb,
    )
    method = _method(recipe.flow, json.dumps(dict(recipe.flow_parameters), sort_keys=True))
    height, width = reader.output_size
    target = entry_path(task.cache, recipe.id, digest)
    seconds = {"decode": 0.0, "flow": 0.0, "compress": 0.0}
    pts_s: list[float] = []
    previous_HW: NDArray[np.uint8] | None = None
    with EntryWriter(
        target,
        quantiser=quantiser_of(recipe),
        codec=task.codec,
        height=height,
        width=width,
        rgb_quality=recipe.rgb_quality,
    ) as writer:
        clock = time.perf_counter()
        for frame in reader:
            decoded = time.perf_counter()
            seconds["decode"] += decoded - clock
            pts_s.append(frame.pts_s)
            computed = decoded
            if previous_HW is not None:
                uv_HWC = method(previous_HW, frame.grey_HW)
                computed = time.perf_counter()
                writer.add_flow(uv_HWC)
                journal[task.index, 1] = writer.num_flows
            previous_HW = frame.grey_HW
            if frame.rgb_HWC is not None:
                writer.add_rgb(frame.rgb_HWC)
            clock = time.perf_counter()
            seconds["flow"] += computed - decoded
            seconds["compress"] += clock - computed
        if len(pts_s) < 2:
            raise VideoError(f"{task.path} has one frame only; flow needs two: leave it out")
        attributes = writer.finish(
            np.array(pts_s),
            {
                "recipe": recipe.to_json(),
                "source_name": task.name,
                "source_sha256": digest,
                "source": json.dumps(_source_facts(reader)),
                "problem": reader.problem or "",
                "software": json.dumps(software_versions(), sort_keys=True),
            },
        )
        flows = writer.num_flows
    seconds["all"] = time.perf_counter() - started
    return Outcome(
        task.index,
        digest,
        flows=flows,
        computed=True,
        num_bytes=target.stat().st_size,
        clipped_share=float(attributes["clipped_share"]),
        height=height,
        width=width,
        seconds=seconds,
        problem=reader.problem or "",
    )


def quantiser_of(recipe: Recipe) -> Quantiser:
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


def _source_facts(reader: VideoReader) -> dict[str, Any]:
    info = reader.info
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
