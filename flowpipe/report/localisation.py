"""The page of a localisation: per video its timeline, the video itself and a table of findings.

Unlike the pages of runs this one carries a script of a few lines: a click on a stretch shows it in
the video. Everything is inside the file, the videos too, small and as H.264.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.errors import FlowpipeError
from flowpipe.localisation.annotations import Annotations
from flowpipe.metrics.temporal import Segments
from flowpipe.report.annotated import encode, even
from flowpipe.report.page import write_page
from flowpipe.video import VideoReader, probe

MOST_VIDEOS = 40
MOST_ROWS = 60
# Findings below this share of their video's best score are not drawn.
FAINTEST = 0.1
VIDEO_SHORT_SIDE = 240
MOST_VIDEO_BYTES = 40_000_000
NUM_COLORS = 5


@dataclass(frozen=True)
class Stretch:
    """A bar of a timeline: per mille of the video's length from the left, and how wide."""

    left: float
    width: float
    start_s: float
    end_s: float
    label: str
    score: float | None


@dataclass(frozen=True)
class TimelineRow:
    """One class of one video: what is true, and what was found."""

    label: str
    color: int
    truth: list[Stretch]
    found: list[Stretch]


def write_localisation_page(
    path: Path,
    title: str,
    detections: Segments,
    *,
    truth: Annotations | None = None,
    durations_s: Mapping[str, float] | None = None,
    paths: Mapping[str, Path] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Write what was found as one HTML file, whole or not at all.

    Parameters
    ----------
    path : Path
    title : str
    detections : Segments
    truth : Annotations, optional
        Drawn above what was found.
    durations_s : mapping, optional
        Length of each video; by default the last end.
    paths : mapping, optional
        The file of each video, to be carried in the page.
    record : mapping, optional
        results.json of a run: mAP, errors, lengths.
    """
    names = list(truth.videos) if truth is not None else list(durations_s or {})
    names = names or list(dict.fromkeys(detections.videos))
    labels = sorted(
        {*detections.labels, *(() if truth is None else truth.segments.labels)}, key=str
    )
    colors = {label: place % NUM_COLORS for place, label in enumerate(labels)}
    room = MOST_VIDEO_BYTES
    cards = []
    for name in names[:MOST_VIDEOS]:
        found = detections[np.array(detections.videos == name, bool)]
        true = None
        if truth is not None:
            true = truth.segments[np.array(truth.segments.videos == name, bool)]
        known = (durations_s or {}).get(name, 0.0)
        if truth is not None:
            known = max(known, truth.durations_s.get(name, 0.0))
        ends = [
            part.times_s[:, 1].max() for part in (found, true) if part is not None and len(part)
        ]
        length_s = known or max(ends, default=1.0)
        video = ""
        if paths and name in paths and room > 0:
            video = small_video(paths[name])
            room -= len(video)
        cards.append(
            {
                "name": name,
                "length_s": length_s,
                "rows": _rows(found, true, length_s, colors),
                "table": _table(found, length_s),
                "video": video,
                "ticks": ticks(length_s),
            }
        )
    record = record or {}
    notes = []
    if len(names) > MOST_VIDEOS:
        notes.append(f"The first {MOST_VIDEOS} of {len(names)} videos are shown.")
    videos = "1 video" if len(names) == 1 else f"{len(names)} videos"
    headline = f"{len(detections)} segments found in {videos}"
    if "average" in record:
        thresholds = list(record["mAP"])
        headline = (
            f"mAP {record['average']:.3f}, average over tIoU {thresholds[0]} to {thresholds[-1]}"
        )
    return write_page(
        path,
        "localisation.html",
        title=title,
        headline=headline,
        notes=notes,
        cards=cards,
        results=_results(record),
        classes=[[name, f"{value:.3f}"] for name, value in record.get("AP", {}).items()],
        errors=[[name, str(count)] for name, count in record.get("errors", {}).items()],
        lengths=[
            [
                f"{group['shortest_s']:.1f} to {group['longest_s']:.1f} s",
                str(group["instances"]),
                str(group["found"]),
                f"{group['mean_ap']:.3f}",
            ]
            for group in record.get("lengths", [])
        ],
    )


def small_video(path: Path) -> str:
    """Return a video as a data URI of H.264, at most 240 px high; "" where it cannot be read."""
    target = io.BytesIO()
    try:
        info = probe(path)
        short_side = min(VIDEO_SHORT_SIDE, info.width, info.height)
        frames = VideoReader(path, short_side=short_side, rgb=True)
        encode(target, ((f.pts_s, even(f.rgb_HWC)) for f in frames if f.rgb_HWC is not None), 28)
    except (OSError, ValueError, FlowpipeError):
        return ""
    return "data:video/mp4;base64," + base64.b64encode(target.getvalue()).decode()


def _rows(
    found: Segments, true: Segments | None, length_s: float, colors: Mapping[str, int]
) -> list[TimelineRow]:
    best = 0.0 if found.scores is None or not len(found) else float(found.scores.max())
    shown = [s for s in _stretches(found, length_s) if (s.score or 0.0) >= FAINTEST * best]
    known = [] if true is None else _stretches(true, length_s)
    labels = sorted({s.label for s in (*shown, *known)})
    return [
        TimelineRow(
            label,
            colors[label],
            [s for s in known if s.label == label],
            sorted((s for s in shown if s.label == label), key=lambda s: s.score or 0.0),
        )
        for label in labels
    ]


def _stretches(segments: Segments, length_s: float) -> list[Stretch]:
    scores = [None] * len(segments) if segments.scores is None else segments.scores.tolist()
    return [
        Stretch(
            1000 * start / length_s,
            max(1000 * (end - start) / length_s, 1.0),
            start,
            end,
            label,
            score,
        )
        for (start, end), label, score in zip(
            segments.times_s.tolist(), segments.labels, scores, strict=True
        )
    ]


def _table(found: Segments, length_s: float) -> list[Stretch]:
    ranked = sorted(_stretches(found, length_s), key=lambda s: -(s.score or 0.0))
    best = ranked[0].score if ranked else None
    shown = [s for s in ranked[:MOST_ROWS] if (s.score or 0.0) >= FAINTEST * (best or 0.0)]
    return sorted(shown, key=lambda s: s.start_s)


def ticks(length_s: float) -> list[tuple[float, str]]:
    """Return (per mille, text) of round times, about eight."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)
    step = next((s for s in steps if length_s / s <= 9), steps[-1])
    times = np.arange(0, length_s * 0.97, step)
    return [(1000 * t / length_s, _clock(float(t), step)) for t in times]


def _clock(time_s: float, step: float) -> str:
    if step >= 60:
        return f"{int(time_s) // 3600}:{int(time_s) // 60 % 60:02}"
    return f"{time_s:.1f} s" if step < 1 else f"{time_s:.0f} s"


def _results(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    if "mAP" not in record:
        return None
    keys = [*record["mAP"], "average"]
    rows = [["measured", *(f"{v:.3f}" for v in (*record["mAP"].values(), record["average"]))]]
    for name, published in record.get("expected", {}).items():
        cells = (published.get(key) for key in keys)
        rows.append([name, *("–" if cell is None else f"{cell:.3f}" for cell in cells)])
    return ["tIoU", *keys], rows
