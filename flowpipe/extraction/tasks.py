"""The records that go to worker processes and come back: nothing large crosses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from flowpipe.cache import FlowRecipe
from flowpipe.video import MAX_PIXELS


@dataclass(frozen=True)
class Job:
    """What all tasks of a run have in common; a worker receives it once.

    Attributes
    ----------
    cache, recipe, codec, max_pixels
        As in `extract`.
    known_failures : mapping
        Digest of a video → why it failed in an earlier run.
    import_path : tuple of str
        Folders that hold a flow method of one's own.
    torch_device : str
        Where a recipe that is not of the CPU is computed.
    batch_pixels : int
        Pixels of a batch of pairs on such a device.
    """

    cache: Path
    recipe: FlowRecipe
    codec: str
    max_pixels: int = MAX_PIXELS
    known_failures: Mapping[str, str] = field(default_factory=dict)
    import_path: tuple[str, ...] = ()
    torch_device: str = "cuda"
    batch_pixels: int = 16_000_000


@dataclass(frozen=True)
class FrameRange:
    """Compute the frames [start, stop), to the end where `stop` is None, into `file`."""

    start: int
    stop: int | None
    file: Path
    digest: str


@dataclass(frozen=True)
class Joining:
    """Join the ranges of a video to its entry; `seen` and `problem` are what was seen of it."""

    ranges: tuple[FrameRange, ...]
    digest: str
    seen: tuple[int, int]
    problem: str


@dataclass(frozen=True)
class Probing:
    """Say how many frames the header promises, if the entry is to be computed at all."""


Part: TypeAlias = FrameRange | Joining | Probing


@dataclass(frozen=True)
class Task:
    """One video, or a part of the work on it.

    Attributes
    ----------
    index : int
        The video's place among the sources.
    path, name
    num_bytes : int
        What the task counts for in the progress.
    insist : bool
        Compute the entry even if another process is at it.
    part : FrameRange, Joining, Probing or None
        None for the whole video.
    """

    index: int
    path: Path
    name: str
    num_bytes: int
    insist: bool = False
    part: Part | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    digest : str
        Of the video; empty where it could not be read, or is not to be remembered.
    seen : (int, int)
        Size in bytes and time of change (ns) of the file whose digest this is.
    flows, num_bytes, clipped_share, problem
        Of the entry.
    computed : bool
        Whether the entry was computed now.
    seconds : mapping
        Stage → time.
    expected : int
        Frames that the header promises; only of `Probing`.
    failure, cache_failure : str
        Why there is no entry: of the video, or of the cache or device, which ends the run.
    known_failure : bool
        The failure is one of an earlier run.
    busy : bool
        Another process is computing this entry, and may have it done when it is asked again.
    """

    digest: str = ""
    seen: tuple[int, int] = (0, 0)
    flows: int = 0
    num_bytes: int = 0
    clipped_share: float = 0.0
    problem: str = ""
    computed: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    expected: int = 0
    failure: str = ""
    cache_failure: str = ""
    known_failure: bool = False
    busy: bool = False

    @property
    def failed(self) -> bool:
        return bool(self.failure or self.cache_failure)
