"""The drawings of a report: their geometry; `templates/parts.html` draws them as SVG.

SVG and not matplotlib: the colors follow the page's style, light and dark, each cell of a confusion
matrix says its count under the pointer, and a page of thirty drawings is written in milliseconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Above this many classes the cells of a confusion matrix are too small for numbers.
MAX_NUMBERED_CLASSES = 25


def confusion_drawing(counts_KK: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Return what the macro `confusion` draws: rows truth, columns prediction."""
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    numbered = len(classes) <= MAX_NUMBERED_CLASSES
    cell, font = (26, 11) if numbered else (10, 8)
    labels = [label if len(label) <= 24 else f"{label[:23]}…" for label in classes]
    cells = [
        (
            *(int(row), int(column), int(counts_KK[row, column])),
            float(shares_KK[row, column]),
            f"{classes[row]} taken for {classes[column]}: {counts_KK[row, column]}",
        )
        for row, column in np.argwhere(counts_KK)
    ]
    return {
        "labels": labels,
        "cells": cells,
        "numbered": numbered,
        "cell": cell,
        "font": font,
        "margin": 10 + round(0.56 * font * max(map(len, labels))),
        "side": cell * len(classes),
    }


def curves_drawing(
    curves: Mapping[str, Sequence[tuple[float, float]]],
) -> dict[str, Any] | None:
    """Return what the macro `curves` draws of curves of (epoch, value); None without a number.

    Values that are not finite leave a gap.
    """
    width, height, left, top, bottom = 330, 210, 48, 24, 28
    right = width - 10
    finite = [point for points in curves.values() for point in points if math.isfinite(point[1])]
    if not finite:
        return None
    x_low, x_high = min(x for x, _ in finite), max(x for x, _ in finite)
    y_low, y_high = min(y for _, y in finite), max(y for _, y in finite)
    x_low, x_high = (x_low - 0.5, x_high + 0.5) if x_low == x_high else (x_low, x_high)
    pad = 0.05 * (y_high - y_low) or 0.05 * abs(y_high) or 0.5
    y_low, y_high = y_low - pad, y_high + pad

    def x_of(value: float) -> str:
        return f"{left + (value - x_low) / (x_high - x_low) * (right - left):.1f}"

    def y_of(value: float) -> str:
        return f"{top + (y_high - value) / (y_high - y_low) * (height - top - bottom):.1f}"

    drawn, key_x = [], float(left)
    for name, points in curves.items():
        runs: list[list[str]] = [[]]
        for x, y in points:
            if math.isfinite(y):
                runs[-1].append(f"{x_of(x)} {y_of(y)}")
            else:
                runs.append([])
        drawn.append((name, [run for run in runs if run], round(key_x)))
        key_x += 34 + 6.2 * len(name)
    return {
        "width": max(width, round(key_x)),
        "height": height,
        "left": left,
        "right": right,
        "y_ticks": [(y_of(y), f"{y:.4g}") for y in _ticks(y_low, y_high, whole=False)],
        "x_ticks": [(x_of(x), f"{x:.0f}") for x in _ticks(x_low, x_high, whole=True)],
        "curves": drawn,
    }


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Return about five round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
