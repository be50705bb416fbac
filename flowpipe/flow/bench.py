"""Flow methods side by side on the same pairs of frames, one thread each, in one run."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import VideoError
from flowpipe.flow import create
from flowpipe.flow.evaluation import flow_difference
from flowpipe.flow.method import FlowMethod
from flowpipe.video import VideoReader

REFERENCE = "opencv-tvl1"

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class BenchRow:
    """One method over all pairs.

    Attributes
    ----------
    method : str
    ms_per_pair : float
        Median over pairs of the best of a few calls.
    ratio : float
        Median over pairs of the reference's time divided by this method's, pair by pair.
    mean_difference_px, percentile_99_px : float
        To the reference's flow; means over pairs.
    share_within_tenth : float
        Share of pixels within 0.1 px of the reference; mean over pairs.
    ns_per_pixel_iteration : float, optional
        Whole time divided by inner iterations times pixels; for TV-L1 alone. OpenCV does not
        tell its iterations: its time is divided by those of `tvl1`, the same algorithm.
    """

    method: str
    ms_per_pair: float
    ratio: float
    mean_difference_px: float
    percentile_99_px: float
    share_within_tenth: float
    ns_per_pixel_iteration: float | None


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread for a while."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def read_pairs(
    video: str | Path, *, count: int = 1, short_side: int | None = None, start: int = 20
) -> list[Pair]:
    """Give `count` pairs of neighbouring grey frames, one every `start` frames (or where it ends).

    Raises
    ------
    VideoError
        If the video has only one frame.
    """
    frames = [
        frame.grey_HW.copy()
        for frame in islice(VideoReader(Path(video), short_side=short_side), (count + 1) * start)
    ]
    if len(frames) < 2:
        raise VideoError(f"{video} has one frame only; flow needs two")
    places = {min(start * (n + 1), len(frames) - 2) for n in range(count)}
    return [(frames[place], frames[place + 1]) for place in sorted(places)]


def bench(
    pairs: Sequence[Pair],
    methods: Sequence[str],
    *,
    repeats: int = 3,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[BenchRow]:
    """Run methods on pairs, one thread each; `opencv-tvl1` is the reference, run once a pair.

    Parameters
    ----------
    pairs : sequence of (H×W uint8, H×W uint8)
    methods : sequence of str
        Names of `FLOWS`, or `package.module:callable`.
    repeats : int
        Calls of each other method, of which the fastest counts.
    on_progress : callable
        Called with (pairs done, pairs in all).
    """
    made = {name: create(name) for name in dict.fromkeys((REFERENCE, *methods))}
    counter: Any = create("tvl1")
    cells: dict[str, list[tuple[float, float, Any, float]]] = {name: [] for name in made}
    with one_thread():
        for number, pair in enumerate(pairs):
            on_progress(number, len(pairs))
            reference_s, reference = _timed(made[REFERENCE], pair, 1)
            plain = counter.pixel_iterations(*pair)
            for name, method in made.items():
                seconds, uv_HWC = reference_s, reference
                work = plain
                if name != REFERENCE:
                    method(*pair)  # compile, allocate
                    seconds, uv_HWC = _timed(method, pair, repeats)
                    count = getattr(method, "pixel_iterations", None)
                    work = count(*pair) if count else float("nan")
                difference = flow_difference(uv_HWC, reference)
                cells[name].append((seconds, reference_s / seconds, difference, work))
        on_progress(len(pairs), len(pairs))
    return [_row(name, cells[name]) for name in made if name in methods or name == REFERENCE]


def _row(name: str, cells: list[tuple[float, float, Any, float]]) -> BenchRow:
    seconds = np.array([cell[0] for cell in cells])
    work = np.array([cell[3] for cell in cells])
    per_iteration = float(np.median(seconds / work * 1e9))
    return BenchRow(
        method=name,
        ms_per_pair=float(np.median(seconds) * 1e3),
        ratio=float(np.median([cell[1] for cell in cells])),
        mean_difference_px=float(np.mean([cell[2].mean_px for cell in cells])),
        percentile_99_px=float(np.mean([cell[2].percentile_99_px for cell in cells])),
        share_within_tenth=float(np.mean([cell[2].share_within_tenth for cell in cells])),
        ns_per_pixel_iteration=per_iteration if np.isfinite(per_iteration) else None,
    )


def _timed(method: FlowMethod, pair: Pair, repeats: int) -> tuple[float, NDArray[np.float32]]:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        uv_HWC = method(*pair)
        best = min(best, time.perf_counter() - started)
    return best, uv_HWC
