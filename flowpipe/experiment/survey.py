"""Look at a data set before anything is chosen: sizes, rates, lengths, and how much moves."""

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowpipe.datasets import Dataset, Video, folds
from flowpipe.errors import AnnotationError, FlowpipeError
from flowpipe.flow import create
from flowpipe.video import VideoReader, probe

PROBED_VIDEOS = 300
MEASURED_VIDEOS = 12
MEASURED_PAIRS = 8
SKIPPED_FRAMES = 4
# Videos are brought to the rate of the slowest twentieth: above it some would have to be doubled.
RATE_QUANTILE = 0.05
LARGEST_RATE = 15.0


@dataclass(frozen=True)
class Survey:
    """What a data set is like.

    Attributes
    ----------
    class_counts : dict of str to int
        Videos of each class.
    groups : int
        Groups that a split must keep together; 0 where no video names one.
    folds : tuple of str
        Folds that the annotations name.
    short_sides, aspects, rates, lengths_s : array of float
        One of each probed video: px, width / height, 1/s, seconds (nan where the header lies).
    motion_px : array of float
        Lengths of flow vectors at the chosen size and rate, a sample.
    rms_px : float
        Root of the mean square of a flow component there.
    unreadable : dict of str to str
        Probed videos that cannot be read, and why.
    """

    class_counts: dict[str, int]
    groups: int
    folds: tuple[str, ...]
    short_sides: NDArray[np.float64]
    aspects: NDArray[np.float64]
    rates: NDArray[np.float64]
    lengths_s: NDArray[np.float64]
    motion_px: NDArray[np.float64]
    rms_px: float
    short_side: int
    fps: float | None
    unreadable: dict[str, str]

    @property
    def videos(self) -> int:
        return sum(self.class_counts.values())

    @property
    def mean_length_s(self) -> float:
        known = self.lengths_s[np.isfinite(self.lengths_s)]
        return float(known.mean()) if known.size else 5.0


def survey(dataset: Dataset, *, largest_short_side: int = 128) -> Survey:
    """Probe some videos of every class, and measure the motion in a few of them.

    Raises
    ------
    AnnotationError
        If none of the probed videos can be read.
    """
    infos, unreadable = [], {}
    for video in _spread(dataset, PROBED_VIDEOS):
        try:
            infos.append(probe(video.path))
        except FlowpipeError as error:
            unreadable[video.id] = str(error)
    if not infos:
        first = next(iter(unreadable.values()))
        raise AnnotationError(f"none of {len(unreadable)} videos can be read; the first: {first}")
    sides = np.array([min(info.height, info.width) for info in infos], float)
    rates = np.array([info.average_fps or np.nan for info in infos], float)
    short_side = int(min(largest_short_side, np.median(sides)))
    fps = common_rate(rates)
    squares, lengths = [], []
    usable = [video for video in _spread(dataset, MEASURED_VIDEOS) if video.id not in unreadable]
    for video in usable:
        uv_THWC = measured_flow(video, short_side, fps)
        squares.append(uv_THWC.ravel() ** 2)
        lengths.append(np.linalg.norm(uv_THWC, axis=-1).ravel()[::7])
    moving = np.concatenate([*lengths, np.zeros(0)])
    moving = moving if moving.size else np.zeros(1)
    return Survey(
        class_counts=dict(Counter(str(video.label) for video in dataset.videos)),
        groups=len({video.group for video in dataset.videos} - {None}),
        folds=tuple(folds(dataset)),
        short_sides=sides,
        aspects=np.array([info.width / info.height for info in infos]),
        rates=rates,
        lengths_s=np.array([info.duration_s or np.nan for info in infos], float),
        motion_px=moving,
        rms_px=float(np.sqrt(np.concatenate(squares).mean()))
        if any(s.size for s in squares)
        else 0.0,
        short_side=short_side,
        fps=fps,
        unreadable=unreadable,
    )


def common_rate(rates: NDArray[np.float64]) -> float | None:
    """Return a rate that (nearly) all videos reach, a whole part of the usual one if it can be.

    ::

        all at 25         12.5        all at 30       15
        all at 10         10          30 and 15       15
        25, 30 and 29.97  12.5        unknown         None
    """
    known = rates[np.isfinite(rates)]
    if known.size == 0:
        return None
    slow = float(np.quantile(known, RATE_QUANTILE, method="lower"))
    parts = next(n for n in itertools.count(1) if slow / n <= LARGEST_RATE + 0.01)
    return round(slow / parts, 3)


def measured_flow(video: Video, short_side: int, fps: float | None) -> NDArray[np.float32]:
    """Return a few flow fields from the middle of a video's beginning, T×H×W×2 (T may be 0)."""
    method = create("dis")
    fields: list[NDArray[np.float32]] = []
    try:
        reader = VideoReader(video.path, short_side=short_side, fps=fps)
        frames = list(itertools.islice(reader, SKIPPED_FRAMES + MEASURED_PAIRS + 1))
        # Of a video that ends before that, the last there are.
        for first, second in itertools.pairwise(frames[-MEASURED_PAIRS - 1 :]):
            fields.append(method(first.grey_HW, second.grey_HW))
    except FlowpipeError:
        fields.clear()  # extraction will say what is wrong with it
    return np.stack(fields) if fields else np.zeros((0, 1, 1, 2), np.float32)


def _spread(dataset: Dataset, count: int) -> list[Video]:
    """Return up to `count` videos, of all classes in turn, spread over the list."""
    of_class: dict[str, list[Video]] = {}
    for video in dataset.videos:
        of_class.setdefault(str(video.label), []).append(video)
    share = max(1, count // len(of_class))
    chosen: list[Video] = []
    for videos in of_class.values():
        places = np.linspace(0, len(videos) - 1, min(share, len(videos))).round().astype(int)
        chosen.extend(videos[place] for place in dict.fromkeys(places.tolist()))
    return chosen[:count] if len(of_class) <= count else chosen[:: -(-len(chosen) // count)]
