"""Settings for a folder of videos that nobody has written settings for.

What is chosen follows from a survey of the data and from how fast this machine trains; each
choice has a sentence that says why. Which streams count, and how much, is decided later by
held-out videos.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.datasets import Dataset
from flowpipe.experiment.mirror import named_pair
from flowpipe.experiment.survey import Survey, survey
from flowpipe.flow import create

# A field of u8 knows steps of 0.16 px: below this motion they would be most of what it holds.
FINE_MOTION_PX = 1.0
BOUND_PX = 20.0
STEADY_UPDATES = 700
CLIPS_PER_VIDEO = 3
DEFAULT_MINUTES = 30.0
# Ten flows that lie over a step, a stroke or a wave; of short videos a part is left to move in.
NUM_FLOWS, SPAN_S, LARGEST_SHARE = 10, 1.6, 0.6
VALIDATION = 0.2
# The fastest of so many steps counts: what else runs now will not run all the time.
MEASURED_STEPS = 6


@dataclass
class Plan:
    """Settings, why they are so, and what they cost.

    Attributes
    ----------
    table : dict
        The configuration, as `settings_from` takes it.
    reasons : list of str
        A sentence for each choice.
    fold : str
        The fold to train, or "all".
    flows : int
        Flow fields to compute, about.
    megabytes, minutes : float
        Of the cache; of this machine, about.
    extraction_share : float
        Of the minutes, those of the extraction.
    given : str
        What the person asked for, as a comment.
    """

    table: dict[str, Any]
    reasons: list[str] = field(default_factory=list)
    fold: str = "all"
    flows: int = 0
    megabytes: float = 0.0
    minutes: float = 0.0
    extraction_share: float = 0.0
    given: str = ""


def choose(
    dataset: Dataset,
    data: Mapping[str, Any],
    *,
    minutes: float = DEFAULT_MINUTES,
    num_folds: int | None = None,
    workers: int = 1,
    seen: Survey | None = None,
) -> Plan:
    """Choose settings for a data set.

    Parameters
    ----------
    dataset : Dataset
    data : mapping
        The table `[data]` that it was read by.
    minutes : float
        About how long training may take here; less of it is done where it would take longer.
    num_folds : int, optional
        Folds to make where the data names none.
    workers : int
        Processes of the extraction.
    seen : Survey, optional
        In place of a survey made now.
    """
    facts = seen or survey(dataset)
    plan = Plan({"data": {**data, "skip_missing": True}})
    smallest = min(facts.class_counts.values())
    _choose_folds(plan, facts, num_folds, smallest)
    _choose_extraction(plan, facts)
    if pair := named_pair(facts.class_counts):
        plan.table["data"]["flip"] = False
        plan.reasons.append(f"no mirrored clips: {' and '.join(pair)} are mirror images")
    height = max(48, min(96, round(facts.short_side * 0.55 / 8) * 8))
    aspect = float(np.clip(np.median(facts.aspects), 0.5, 2.0))
    crop = (
        [height, round(height * aspect / 8) * 8]
        if aspect >= 1
        else [
            round(height / aspect / 8) * 8,
            height,
        ]
    )
    scale = round(max(0.05, facts.rms_px), 2)
    rate = facts.fps or 25.0
    span = rate * min(SPAN_S, LARGEST_SHARE * facts.mean_length_s)
    stride = max(1, round(span / NUM_FLOWS))
    num_flows = int(np.clip(round(span / stride), 2, NUM_FLOWS))
    plan.table["streams"] = {
        "motion": {
            "input": "flow",
            "frames": num_flows,
            "stride": stride,
            "crop_size": crop,
            "flow_scale_px": scale,
            "model_parameters": {"width": 16, "dropout": 0.2},
        },
        "still": {"input": "frame-histogram"},
        "whole-clip": {"input": "flow-histogram"},
    }
    plan.reasons += [
        f"motion: {num_flows} flows of {stride * num_flows / rate:.1f} s, divided by {scale:g} px, "
        "their root mean square",
        "still: histograms of edges, colours and textures of twelve frames, SVMs",
        "whole-clip: histograms of the flow of all of a clip, SVMs",
    ]
    _choose_training(plan, facts, minutes, crop, num_flows)
    if facts.unreadable:
        plan.reasons.append(f"{len(facts.unreadable)} videos cannot be read and are left out")
    _add_cost(plan, facts, workers)
    return plan


def _choose_folds(plan: Plan, facts: Survey, num_folds: int | None, smallest: int) -> None:
    if facts.folds and num_folds is None:
        plan.reasons.append(f"folds: those of the annotations ({', '.join(facts.folds)})")
        return
    count = num_folds or max(2, min(5, smallest, facts.groups or smallest))
    plan.table["data"]["folds"] = count
    kept = f"{facts.groups} groups are kept together" if facts.groups else "no groups are known"
    plan.reasons.append(f"folds: {count} at random; {kept}")


def _choose_extraction(plan: Plan, facts: Survey) -> None:
    fast = float(np.quantile(facts.motion_px, 0.999))
    typical = float(np.quantile(facts.motion_px, 0.95))
    table: dict[str, Any] = {"flow": "dis+tvl1", "short_side": facts.short_side}
    if facts.fps is not None:
        table["fps"] = facts.fps
    if typical < FINE_MOTION_PX or fast > BOUND_PX:
        table |= {"storage": "i16", "tolerance_px": 0.02}
        why = "fine" if typical < FINE_MOTION_PX else f"up to {fast:.0f} px"
    else:
        why = f"up to {fast:.0f} px"
    plan.table["extract"] = table
    rate = "" if facts.fps is None else f" at {facts.fps:g} frames/s"
    plan.reasons.append(
        f"flow: dis+tvl1, short side {facts.short_side} px{rate}; motion is {why}, 95 % of it "
        f"below {typical:.1f} px: stored as {table.get('storage', 'u8')}"
    )


def _choose_training(
    plan: Plan, facts: Survey, minutes: float, crop: list[int], num_flows: int
) -> None:
    num_folds = plan.table["data"].get("folds") or max(1, len(facts.folds))
    training = max(2, round(facts.videos * (1 - 1 / max(4, num_folds))))
    batch = 32 if training >= 96 else 16
    clips = CLIPS_PER_VIDEO
    epochs = int(np.clip(round(STEADY_UPDATES * batch / (training * clips)), 12, 60))
    # Twice, without the held-out videos and with them.
    trained = (2 - VALIDATION) * num_folds * training
    clips_per_s = _training_speed(crop, num_flows, len(facts.class_counts))
    seconds = trained * clips * epochs / clips_per_s
    if seconds > 60 * minutes:
        share = 60 * minutes / seconds
        clips = max(1, round(clips * max(share, 1 / clips)))
        left = share * CLIPS_PER_VIDEO / clips
        epochs = max(6, round(epochs * min(1.0, left)))
        plan.reasons.append(f"training is shortened to fit into {minutes:g} min")
    seconds = trained * clips * epochs / clips_per_s
    counts = facts.class_counts.values()
    balanced = max(counts) > 1.5 * min(counts)
    plan.table["train"] = {
        "epochs": epochs,
        "batch_size": batch,
        "optimiser": "adamw",
        "learning_rate": 0.004,
        "weight_decay": 0.05,
        "clips_per_video": clips,
        "scales": [1.0, 0.875],
        "balanced": balanced,
        "validation": VALIDATION,
        "keep": "refit",
    }
    plan.table["fuse"] = {"headline": "validated", "methods": ["validated"], "training_clips": 0}
    plan.reasons.append(
        f"training: AdamW, {epochs} epochs of {clips} clips a video"
        + (", classes balanced" if balanced else "")
        + "; first without a fifth of the training videos, by which the streams are weighed, then "
        "with all"
    )
    plan.minutes = seconds / 60


def _training_speed(crop: list[int], num_flows: int, num_classes: int) -> float:
    """Measure clips per second of a training step of the motion stream on this machine."""
    import torch

    from flowpipe.models import build
    from flowpipe.training.devices import choose_device

    device = choose_device("auto")
    with torch.random.fork_rng(devices=[]):
        model = build("small-cnn", num_classes=num_classes, in_channels=2 * num_flows, width=16)
        model = model.to(device)
        clips = torch.zeros(32, 2 * num_flows, *crop, device=device)
        seconds = _fastest(lambda: model(clips).sum().backward())
    # Clips have to be cut as well: about a third more.
    return 32 / (1.33 * seconds)


def _fastest(step: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of some steps; the first warms up."""
    step()
    seconds = []
    for _ in range(MEASURED_STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _add_cost(plan: Plan, facts: Survey, workers: int) -> None:
    rate = facts.fps or 25.0
    plan.flows = round(facts.videos * facts.mean_length_s * rate)
    side, aspect = facts.short_side, float(np.median(facts.aspects))
    height, width = (side, round(side * aspect)) if aspect >= 1 else (round(side / aspect), side)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    first = np.kron(first, np.ones((8, 8), np.uint8))[:height, :width]
    method = create("dis+tvl1")
    seconds = _fastest(lambda: method(first, np.roll(first, 2, 1)))
    extraction = 1.3 * plan.flows * seconds / max(1, workers) / 60
    plan.minutes += extraction
    plan.extraction_share = extraction / plan.minutes
    # Measured on short sides of 128 px: 1.2 bytes a pixel of flow and frame together.
    plan.megabytes = plan.flows * height * width * 0.6 / 1e6


def run_folder(parent: Path, name: str) -> Path:
    """Return the first of NAME, NAME-2, NAME-3 … in a folder that is not there yet."""
    clean = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    folder, number = parent / clean, 1
    while folder.exists():
        number += 1
        folder = parent / f"{clean}-{number}"
    return folder
