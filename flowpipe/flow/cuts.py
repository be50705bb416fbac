"""Where a video cuts from one shot to another: no motion leads over it.

Frames go through small and grey (48×64 px). Two frames differ by what of their blocks (12×12 px)
correlates with no place of the other frame within 4 px, which is 20 px of 240×320 (light and
contrast may change, and the camera move), and a little by their histograms. A frame begins a shot
if it differs so from the one before, clearly more than neighbours differ for some frames around
(fast motion), and if no frame shortly before is like one shortly after (flashes, broken frames).
Fades and dissolves are no cuts: each of their steps is small. Every decision sees `LOOK` frames
before and after, no more, so that parts of a video are decided as the whole.

The use of block matching for this is old: B. Shahraray, "Scene change detection and content-based
sampling of video sequences", SPIE 2419, 1995, https://doi.org/10.1117/12.206359; the thresholds are
those of `benchmarks/cuts.py`.
"""

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.video import Frame

LOOK = 6
"""Frames before and after that a decision sees."""

HEIGHT, WIDTH = 48, 64
BLOCK, REACH = 12, 4
BINS, BINS_WEIGHT = 32, 0.4
LEAST_CHANGE, LEAST_MISMATCH = 0.36, 0.2
OF_NEIGHBOURS, OF_MISMATCH, MARGIN = 1.5, 0.6, 0.1
LONGEST_FLASH = 3


@dataclass(frozen=True)
class _Seen:
    """A frame, and how it differs from the one before (None of the first)."""

    frame: Frame
    small_HW: NDArray[np.float32]
    bins: NDArray[np.float64]
    mismatch: float | None
    change: float | None


def find_cuts(frames: Iterable[Frame], cuts: set[int]) -> Iterator[Frame]:
    """Pass frames on, `LOOK` frames later, noting which of them begin a shot.

    Parameters
    ----------
    frames : iterable of Frame
        Consecutive ones. Of a part of a video, only those are decided as in the whole that have
        `LOOK` + 1 frames before and `LOOK` after them here.
    cuts : set of int
        Receives the `index` of each frame that begins a shot, before the frame is passed on. The
        first frame of all begins none.
    """
    window: deque[_Seen | None] = deque([None] * (2 * LOOK + 1), maxlen=2 * LOOK + 1)
    for frame in itertools.chain(frames, [None] * LOOK):
        window.append(None if frame is None else _seen(frame, window[-1]))
        middle = window[LOOK]
        if middle is not None:
            if _begins_shot(window):
                cuts.add(middle.frame.index)
            yield middle.frame


def _seen(frame: Frame, before: _Seen | None) -> _Seen:
    small = cv2.resize(frame.grey_HW, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    bins = np.bincount(small.ravel() // (256 // BINS), minlength=BINS) / small.size
    small_HW = small.astype(np.float32) - np.float32(128)
    if before is None:
        return _Seen(frame, small_HW, bins, None, None)
    mismatch = _mismatch(before.small_HW, small_HW)
    change = mismatch + BINS_WEIGHT * 0.5 * float(np.abs(bins - before.bins).sum())
    return _Seen(frame, small_HW, bins, mismatch, change)


def _begins_shot(window: "deque[_Seen | None]") -> bool:
    middle = window[LOOK]
    assert middle is not None
    if middle.change is None or middle.mismatch is None or middle.change < LEAST_CHANGE:
        return False
    neighbours = sorted(
        seen.mismatch
        for place, seen in enumerate(window)
        if seen is not None and seen.mismatch is not None and place != LOOK
    )
    # One neighbour may be a cut itself.
    usual = neighbours[-2] if len(neighbours) > 1 else 0.0
    if middle.change <= OF_NEIGHBOURS * usual + MARGIN:
        return False
    least = max(LEAST_MISMATCH, OF_MISMATCH * middle.mismatch)
    return all(
        _mismatch(before.small_HW, after.small_HW) > least
        for before, after in _pairs_across(window)
    )


def _pairs_across(window: "deque[_Seen | None]") -> Iterator[tuple[_Seen, _Seen]]:
    """Yield the pairs of a frame before and one from the middle on that a flash may lie between."""
    for back in range(1, LONGEST_FLASH + 2):
        for on in range(min(LONGEST_FLASH + 1, LONGEST_FLASH + 3 - back)):
            before, after = window[LOOK - back], window[LOOK + on]
            if before is not None and after is not None:
                yield before, after


def _mismatch(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return how little of one frame is found in the other: 0 all of it, 1 nothing."""
    return float(_kernel()(one, other))


@functools.cache
def _kernel() -> Any:
    from flowpipe.flow.compiling import compiled  # numba takes longer to import than all the rest

    return compiled(_unfound)


def _unfound(one: Any, other: Any) -> Any:
    rows, columns = one.shape
    count = np.float32(BLOCK * BLOCK)
    noise = np.float32(64.0) * count  # what is as weak as this looks alike
    total, weights = np.float32(0.0), np.float32(0.0)
    for top in range(0, rows - BLOCK + 1, BLOCK):
        for left in range(0, columns - BLOCK + 1, BLOCK):
            sum_one, square_one = np.float32(0.0), np.float32(0.0)
            for y in range(top, top + BLOCK):
                for x in range(left, left + BLOCK):
                    sum_one += one[y, x]
                    square_one += one[y, x] * one[y, x]
            spread_one = square_one - sum_one * sum_one / count
            best, spread_here = np.float32(-1.0), np.float32(0.0)
            for step in range((2 * REACH + 1) ** 2):
                # From the middle outwards would be faster still; the middle first is most of it.
                place = (step + 2 * REACH * (REACH + 1)) % ((2 * REACH + 1) ** 2)
                y0 = top + place // (2 * REACH + 1) - REACH
                x0 = left + place % (2 * REACH + 1) - REACH
                if y0 < 0 or x0 < 0 or y0 + BLOCK > rows or x0 + BLOCK > columns:
                    continue
                total_other, square, product = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                for y in range(BLOCK):
                    for x in range(BLOCK):
                        value = other[y0 + y, x0 + x]
                        total_other += value
                        square += value * value
                        product += value * one[top + y, left + x]
                spread = square - total_other * total_other / count
                if step == 0:
                    spread_here = spread
                alike = (product - sum_one * total_other / count + noise) / np.sqrt(
                    (spread_one + noise) * (spread + noise)
                )
                best = max(best, alike)
                if best > np.float32(0.98):
                    break
            weight = min(
                np.sqrt(max(max(spread_one, spread_here), np.float32(0.0)) / count), np.float32(30)
            ) + np.float32(0.5)
            total += weight * (np.float32(1.0) - best)
            weights += max(weight, np.float32(16.0))
    return total / weights
