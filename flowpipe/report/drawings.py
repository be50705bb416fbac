"""The drawings of a report as SVG whose colours come from the page's style."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flowpipe.report.results import Result

# Above this many classes the cells of a confusion matrix are too small for numbers.
MAX_NUMBERED_CLASSES = 25

Place: TypeAlias = Callable[[float, float], tuple[float, float]]


def interval_svg(result: Result) -> str:
    """Draw top-1 as a dot and its 95 % interval as a bar on a line from 0 to 100 %."""
    if result.top_1 is None or result.low is None or result.high is None:
        return "–"
    low, middle, high = (4 + 152 * share for share in (result.low, result.top_1, result.high))
    return (
        '<svg class="interval" width="160" height="14" role="img" aria-label="interval">'
        '<path class="axis" d="M4 7H156M4 4V10M156 4V10"/>'
        f'<path class="bar" d="M{low:.1f} 7H{high:.1f}"/>'
        f'<circle class="dot" cx="{middle:.1f}" cy="7" r="3.5"/></svg>'
    )


def confusion_svg(counts_KK: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw a confusion matrix: rows truth, columns prediction, depth the share of the row."""
    num_classes = len(classes)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    numbered = num_classes <= MAX_NUMBERED_CLASSES
    cell, font = (26, 11) if numbered else (10, 8)
    labels = [label if len(label) <= 24 else f"{label[:23]}…" for label in classes]
    margin = 10 + round(0.56 * font * max(map(len, labels)))
    parts = []
    for row, label in enumerate(labels):
        middle = (row + 0.5) * cell
        text = escape(label)
        parts.append(f'<text x="-5" y="{middle:.1f}" class="row">{text}</text>')
        parts.append(f'<text transform="translate({middle:.1f} -5) rotate(-90)">{text}</text>')
    for row, column in np.argwhere(counts_KK):
        count, share = counts_KK[row, column], shares_KK[row, column]
        tip = f"{classes[row]} taken for {classes[column]}: {count}"
        kind = "right" if row == column else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{column * cell}" y="{row * cell}" width="{cell - 1}" '
            f'height="{cell - 1}" fill-opacity="{0.15 + 0.85 * share:.2f}">'
            f"<title>{escape(tip)}</title></rect>"
        )
        if numbered:
            x, y = (column + 0.5) * cell - 0.5, (row + 0.5) * cell
            strong = " on" if share > 0.5 else ""
            parts.append(f'<text class="count{strong}" x="{x:.1f}" y="{y:.1f}">{count}</text>')
    side = cell * num_classes
    parts.append(f'<rect class="frame" x="-0.5" y="-0.5" width="{side}" height="{side}"/>')
    return (
        f'<svg width="{margin + side + 2}" height="{margin + side + 2}" font-size="{font}" '
        f'role="img" aria-label="confusion matrix"><g transform="translate({margin} {margin})">'
        f"{''.join(parts)}</g></svg>"
    )


def curves_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw curves of (epoch, value) in one panel; values that are not finite leave a gap."""
    width, height, left, top, right, bottom = 330, 210, 48, 24, 10, 28
    drawn = {
        name: [point if math.isfinite(point[1]) else None for point in points]
        for name, points in curves.items()
    }
    finite = [point for points in drawn.values() for point in points if point is not None]
    if not finite:
        return '<p class="small">no finite value</p>'
    x_low, x_high = min(x for x, _ in finite), max(x for x, _ in finite)
    y_low, y_high = min(y for _, y in finite), max(y for _, y in finite)
    x_low, x_high = (x_low - 0.5, x_high + 0.5) if x_low == x_high else (x_low, x_high)
    pad = 0.05 * (y_high - y_low) or 0.05 * abs(y_high) or 0.5
    y_low, y_high = y_low - pad, y_high + pad

    def place(x: float, y: float) -> tuple[float, float]:
        along = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        return along, top + (y_high - y) / (y_high - y_low) * (height - top - bottom)

    parts = []
    for tick in _ticks(y_low, y_high, whole=False):
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(f'<text class="y" x="{left - 6}" y="{y:.1f}">{tick:.4g}</text>')
    for tick in _ticks(x_low, x_high, whole=True):
        x, _ = place(tick, y_low)
        parts.append(f'<text class="x" x="{x:.1f}" y="{height - 14}">{tick:.0f}</text>')
    parts.append(f'<text class="x" x="{width - right - 18}" y="{height - 2}">epoch</text>')
    legend_x = float(left)
    for number, (name, points) in enumerate(drawn.items()):
        colour = f"curve c{number % 5}"
        parts.extend(_line(points, place, colour))
        parts.append(f'<path class="{colour}" d="M{legend_x:.0f} 10h14"/>')
        parts.append(f'<text class="key" x="{legend_x + 18:.0f}" y="10">{escape(name)}</text>')
        legend_x += 34 + 6.2 * len(name)
    return (
        f'<svg class="curves" viewBox="0 0 {max(width, legend_x):.0f} {height}" '
        f'width="{max(width, legend_x):.0f}" role="img" aria-label="curves">{"".join(parts)}</svg>'
    )


def _line(points: Sequence[tuple[float, float] | None], place: Place, colour: str) -> list[str]:
    """Draw the runs between gaps; a run of one point as a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(place(*point))
    parts = []
    for run in filter(None, runs):
        if len(run) == 1:
            parts.append(f'<path class="{colour} dot" d="M{run[0][0]:.1f} {run[0][1]:.1f}h0"/>')
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in run)
            parts.append(f'<path class="{colour}" d="M{path}"/>')
    return parts


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Give about five round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
