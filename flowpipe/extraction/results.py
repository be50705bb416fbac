"""What an extraction tells: how far it is, what it did, what failed."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Failure:
    """A video without an entry, and why. `earlier`: it failed in an earlier run too."""

    name: str
    path: Path
    reason: str
    earlier: bool = False


@dataclass(frozen=True)
class Progress:
    """How far an extraction is.

    Bytes are those of the videos, the best guess of what is left; of a video in work, the share
    that is done counts.
    """

    videos: int
    finished: int
    failed: int
    flows: int
    bytes_finished: int
    bytes_all: int
    seconds: float


@dataclass
class ExtractionResult:
    """What an extraction did.

    Attributes
    ----------
    videos, done, skipped, failed : int
        All, computed now, already there, without an entry.
    flows, flows_total : int
        Fields computed now, and in the cache for these sources.
    seconds, flows_per_s : float
        Wall clock; fields computed now per second.
    bytes : int
        Size of the entries of these sources.
    clipped_share : float
        Share of displacement components beyond the bound, over these sources.
    failures : list of Failure
    notes : dict
        Name → what was wrong with a video that nevertheless has an entry.
    recipe : str
        Id of the recipe.
    stage_seconds : dict
        Worker time in decode, flow (with waiting for the GPU), compress (with writing) and all,
        over what was computed now; "gpu": the time in which the GPU had work.
    to_do : int
        With `dry_run`: videos that a run would look at.
    """

    recipe: str
    videos: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    flows: int = 0
    flows_total: int = 0
    seconds: float = 0.0
    flows_per_s: float = 0.0
    bytes: int = 0
    clipped_share: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    to_do: int = 0
    clipped_weight: float = field(default=0.0, repr=False)


def both_ways(forward: ExtractionResult, backward: ExtractionResult) -> ExtractionResult:
    """Add up the two directions; a video is done if either was computed now."""
    flows_total = forward.flows_total + backward.flows_total
    weight = forward.clipped_weight + backward.clipped_weight
    seconds = forward.seconds + backward.seconds
    flows = forward.flows + backward.flows
    done = max(forward.done, backward.done)
    failed = forward.failed + backward.failed
    to_do = max(forward.to_do, backward.to_do)
    stages = {*forward.stage_seconds, *backward.stage_seconds}
    return ExtractionResult(
        forward.recipe,
        videos=forward.videos,
        done=done,
        skipped=forward.videos - done - failed - to_do,
        failed=failed,
        flows=flows,
        flows_total=flows_total,
        seconds=seconds,
        flows_per_s=flows / seconds if flows else 0.0,
        bytes=forward.bytes + backward.bytes,
        clipped_share=weight / max(1, flows_total),
        failures=sorted([*forward.failures, *backward.failures], key=lambda f: f.name),
        notes={**backward.notes, **forward.notes},
        stage_seconds={
            stage: forward.stage_seconds.get(stage, 0.0) + backward.stage_seconds.get(stage, 0.0)
            for stage in sorted(stages)
        },
        to_do=to_do,
        clipped_weight=weight,
    )
