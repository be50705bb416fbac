"""The report of a run: tables, curves, sample frames beside their flow, versions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowpipe.cache import open_cache
from flowpipe.errors import ConfigError, FlowpipeError
from flowpipe.experiment.data import load_annotations
from flowpipe.experiment.results import (
    RESULTS_FILE,
    SCORES_FOLDER,
    SETTINGS_FILE,
    fused_file,
    read_history,
)
from flowpipe.experiment.settings import Settings, settings_from
from flowpipe.extraction.worker import software_versions
from flowpipe.flow.color import flow_to_color
from flowpipe.report import Sample, write_report
from flowpipe.scores import load_scores

REPORT_FILE = "report.html"
NUM_SAMPLES = 6


def load_run(out: Path) -> tuple[Settings, dict[str, Any]]:
    """Give the settings and the results of a run.

    Raises
    ------
    ConfigError
        If there is no finished run at `out`.
    """
    try:
        table = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
        results = json.loads((out / RESULTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no finished run at {out}; flowpipe train makes one") from error
    except ValueError as error:
        raise ConfigError(f"the run at {out} is damaged ({error}); train again") from error
    return settings_from(_without_none(table), where=str(out / SETTINGS_FILE), folder=out), results


def report_run(out: Path, *, path: Path | None = None, notes: tuple[str, ...] = ()) -> Path:
    """Write report.html of a finished run and give its path."""
    settings, results = load_run(out)
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
        samples=_samples(settings, out),
        folds=results["folds"] if several else None,
        notes=notes,
        factors=results.get("factors"),
        networks=results.get("networks"),
    )


def _samples(settings: Settings, out: Path) -> list[Sample]:
    """One video of each of the first classes: a frame from its middle, and the flow there."""
    annotations = load_annotations(settings)
    first = {record.label: record for record in reversed(annotations.videos)}
    chosen = [first[label] for label in annotations.classes[:NUM_SAMPLES] if label in first]
    try:
        cache = open_cache(settings.data.cache or out / "cache")
        samples = []
        for record in chosen:
            entry = cache[record.id]
            middle = entry.num_flows // 2
            uv_HWC = entry.flow[middle]
            scale_px = max(1.0, float(np.percentile(np.hypot(*uv_HWC.transpose(2, 0, 1)), 99)))
            samples.append(
                Sample(
                    title=str(record.label),
                    rgb_HWC=entry.rgb[middle],
                    flow_rgb_HWC=flow_to_color(uv_HWC, scale_px),
                    caption=f"{record.id}, frame {middle}; full colour at {scale_px:.1f} px",
                )
            )
    except FlowpipeError:
        return []  # the cache has gone since; the numbers still make a report
    return samples


def _without_none(table: Any) -> Any:
    """TOML has no null: a key that is absent stands for None."""
    if isinstance(table, dict):
        return {key: _without_none(value) for key, value in table.items() if value is not None}
    return table
