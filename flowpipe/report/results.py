"""The table of results: one row per stream and per fusion, as records and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flowpipe.metrics import accuracy_interval, hit_at_k, mean_class_accuracy, top_k_accuracy
from flowpipe.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table of results; numbers are None where no video is labelled.

    `top_5` is None for five classes or fewer, too. `videos` counts the labelled videos;
    `low` and `high` are the 95 % interval of `top_1`. With several labels for a video `top_1`
    and `top_5` are hit@1 and hit@5, and there is no `mean_class`.
    """

    name: str
    fused: bool
    top_1: float | None
    top_5: float | None
    mean_class: float | None
    low: float | None
    high: float | None
    videos: int
    several_labels: bool = False


def results_table(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> list[Result]:
    """Give one row per stream, then one per fusion (by the name of its method).

    Accuracies are of the labelled videos; those of unknown class are left out.
    """
    rows = [_result(scores, scores.stream, False) for scores in streams]
    return rows + [_result(scores, name, True) for name, scores in fused.items()]


def mean_result(parts: Sequence[Result], videos: int) -> Result:
    """Return the means over folds of one row; the interval is that of the mean on `videos`."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    top_1 = mean([part.top_1 for part in parts])
    low, high = (None, None) if top_1 is None else accuracy_interval(top_1, videos)
    return replace(
        parts[0],
        top_1=top_1,
        top_5=mean([part.top_5 for part in parts]),
        mean_class=mean([part.mean_class for part in parts]),
        low=low,
        high=high,
        videos=videos,
    )


def summary_text(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> str:
    """Give the table of results as plain text, columns aligned, ends of lines trimmed."""
    results = results_table(streams, fused)
    rows = [header_cells(results), *(row_cells(result, results) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def header_cells(results: Sequence[Result]) -> list[str]:
    """Names of the columns; top-5 only where a row has it."""
    name = "hit@" if any(result.several_labels for result in results) else "top-"
    top_5 = [f"{name}5 %"] if any(result.top_5 is not None for result in results) else []
    return ["scores", f"{name}1 %", *top_5, "mean class %", "95 % interval", "videos"]


def row_cells(result: Result, results: Sequence[Result]) -> list[str]:
    """One row as text, in the columns that `header_cells` names for all of them."""
    has_top_5 = any(other.top_5 is not None for other in results)
    interval = "–"
    if result.low is not None and result.high is not None:
        interval = f"{100 * result.low:.1f}–{100 * result.high:.1f}"
    return [
        f"fused: {result.name}" if result.fused else result.name,
        _percent(result.top_1),
        *([_percent(result.top_5)] if has_top_5 else []),
        _percent(result.mean_class),
        interval,
        str(result.videos),
    ]


NETWORK_COLUMNS = ("model", "input", "parameters", "GMAC", "clip %", "video %", "seconds")


def network_cells(row: Mapping[str, Any]) -> list[str]:
    """What a stream's network is and what it reached, in the columns `NETWORK_COLUMNS`.

    `clip %` counts single clips, `video %` whole videos, whose clips are averaged.
    """
    seconds = row["seconds"]
    return [
        row["model"],
        row["input"],
        "–" if row["parameters"] is None else f"{row['parameters']:,}",
        "–" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}",
        _percent(row["clip_accuracy"]),
        _percent(row["video_accuracy"]),
        "–" if seconds is None else f"{seconds:.0f}",
    ]


def _result(scores: Scores, name: str, fused: bool) -> Result:
    known_N = scores.labels_N >= 0
    videos = int(np.count_nonzero(known_N))
    if not videos:
        return Result(
            name=name, fused=fused, top_1=None, top_5=None, mean_class=None, low=None, high=None,
            videos=0,
        )  # fmt: skip
    probabilities_NK, labels_N = scores.probabilities_NK[known_N], scores.labels_N[known_N]
    targets_NK = None if scores.targets_NK is None else scores.targets_NK[known_N]

    def accuracy(k: int) -> float:
        if targets_NK is None:
            return top_k_accuracy(probabilities_NK, labels_N, k)
        return hit_at_k(probabilities_NK, targets_NK, k)

    top_1 = accuracy(1)
    low, high = accuracy_interval(top_1, videos)
    return Result(
        name=name,
        fused=fused,
        top_1=top_1,
        top_5=accuracy(5) if len(scores.classes) > 5 else None,
        mean_class=mean_class_accuracy(probabilities_NK, labels_N) if targets_NK is None else None,
        low=low,
        high=high,
        videos=videos,
        several_labels=targets_NK is not None,
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
