"""The report of a run: tables, curves, sample frames beside their flow, versions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowpipe.cache import open_cache
from flowpipe.clips.parts import PartCache
from flowpipe.datasets.video import video_of_id
from flowpipe.errors import FlowpipeError
from flowpipe.experiment.results import SCORES_FOLDER, fused_file, read_history
from flowpipe.experiment.settings import Settings
from flowpipe.extraction.worker import software_versions
from flowpipe.flow.color import flow_to_color
from flowpipe.report import Sample, write_report
from flowpipe.report.page import worst_mistakes
from flowpipe.report.results import Result
from flowpipe.scores import Scores, load_scores

REPORT_FILE = "report.html"
NUM_SAMPLES = 6


def write_page(
    settings: Settings,
    results: Mapping[str, Any],
    out: Path,
    cache: Path,
    *,
    path: Path | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the page of the run in `out` and return its path.

    Read are its settings, results and scores, and of the cache the flow of a few videos; no video
    is touched.
    """
    folder = out / SCORES_FOLDER
    streams = [load_scores(folder / f"{name}.npz") for name in settings.streams]
    fused = {name: load_scores(fused_file(out, name)) for name in results["fusions"]}
    fold = str(results["folds"][0]["fold"])
    own = results["accuracy"]
    best = own.get("fused", next(iter(own.values())))
    method = f" fused by {results['headline']}" if fused else ""
    several = len(results["folds"]) > 1
    mean = f", mean of {len(results['folds'])} folds" if several else ""
    return write_report(
        path or out / REPORT_FILE,
        title=settings.title or "Two-stream action recognition",
        headline=f"{best:.1%}{method}, top-1 of {results['videos']} videos{mean}",
        streams=streams,
        fused=fused,
        history={
            f"{name} (fold {fold})": read_history(out, fold, name) for name in settings.streams
        },
        protocol=json.loads(settings.to_json()),
        versions={**software_versions(), "torch": torch.__version__},
        samples=_samples(streams[0], cache),
        mistaken=_mistaken(next(iter(fused.values()), streams[0]), cache),
        published=asdict(settings.published),
        folds=[_without_weights(row) for row in results["folds"]] if several else None,
        notes=[*notes, *results.get("notes", ())],
        factors=results.get("factors"),
        networks=results.get("networks"),
        table=[Result(**row) for row in results.get("table", ())] or None,
    )


def _without_weights(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "weights"}


def _samples(scores: Scores, path: Path) -> list[Sample]:
    """One tested video of each of the first classes: its middle frame, and the flow there."""
    labelled = [(i, label) for i, label in zip(scores.ids, scores.labels_N, strict=True)]
    first = {int(label): video for video, label in reversed(labelled)}
    classes = range(min(NUM_SAMPLES, len(scores.classes)))
    return _pictures([(scores.classes[k], first[k]) for k in classes if k in first], path)


def _mistaken(scores: Scores, path: Path) -> list[Sample]:
    """The videos whose true class was least probable."""
    names = scores.classes
    return _pictures(
        [
            (
                f"{names[scores.labels_N[row]]}, taken for {names[scores.predictions_N[row]]}",
                scores.ids[row],
            )
            for row in worst_mistakes(scores)[:NUM_SAMPLES]
        ],
        path,
    )


def _pictures(named: Sequence[tuple[str, str]], path: Path) -> list[Sample]:
    """The middle of videos of a cache, given as (title, video)."""
    try:
        cache = PartCache(open_cache(path), [video_of_id(video) for _, video in named])
        return [_sample(title, video, cache[video]) for title, video in named]
    except FlowpipeError:
        return []  # the cache has gone since; the numbers still make a report


def _sample(label: str, video: str, entry: Any) -> Sample:
    middle = entry.num_flows // 2
    uv_HWC = entry.flow[middle]
    scale_px = max(1.0, float(np.percentile(np.hypot(*uv_HWC.transpose(2, 0, 1)), 99)))
    return Sample(
        title=label,
        rgb_HWC=entry.rgb[middle],
        flow_rgb_HWC=flow_to_color(uv_HWC, scale_px),
        caption=f"{video}, frame {middle}; full color at {scale_px:.1f} px",
    )
