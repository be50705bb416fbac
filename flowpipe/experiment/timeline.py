"""Scores over time: the networks of a run on windows of a long video, read once, never kept whole.

Flow is computed as frames come in and lives as long as a window needs it; memory does not grow with
the length of the video. Axes: T windows, K classes.
"""

import csv
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside
from flowpipe.datasets import Dataset, Video
from flowpipe.errors import FlowpipeError, InvalidArgument, VideoError
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import HISTOGRAMS
from flowpipe.flow import FlowMethod, create
from flowpipe.flow.quantise import Quantiser
from flowpipe.metrics.temporal import Segments
from flowpipe.notebook import html_table
from flowpipe.report.localisation import write_localisation_page
from flowpipe.scores import Scores
from flowpipe.training import TestOptions
from flowpipe.video.reader import Frame, VideoReader

WINDOWS_AT_ONCE = 16
SMOOTHED_WINDOWS = 3
# A whole-clip stream sees as much as its training clips were long; of clips, their span.
LEAST_WINDOW_S = 1.0
CLIPS_PER_WINDOW = 2


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label: [start_s, end_s), and the mean score of the label."""

    start_s: float
    end_s: float
    label: str
    score: float


@dataclass
class Timeline:
    """Scores of a video over time.

    Attributes
    ----------
    video : str
    classes : tuple of str
    starts_s, ends_s : list of float
        Of each window, [start, end) in seconds.
    scores_TK : list of array of K float
        Fused probabilities of each window (those of the only stream, of one).
    streams : dict of str to list of array
        Of each stream.
    every_s : float
        From window to window.
    """

    video: str
    classes: tuple[str, ...]
    every_s: float
    starts_s: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    scores_TK: list[NDArray[np.float64]] = field(default_factory=list)
    streams: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts_s)

    def __repr__(self) -> str:
        end = self.ends_s[-1] if self.ends_s else 0.0
        return f"Timeline({self.video!r}, {len(self)} windows, {end:.1f} s)"

    def _repr_html_(self) -> str:
        rows = [
            (f"{s.start_s:.2f}", f"{s.end_s:.2f}", s.label, f"{s.score:.2f}")
            for s in (self.segments() if len(self) else ())
        ]
        return html_table(repr(self), ("from s", "to s", "label", "score"), rows)

    def smoothed(self) -> NDArray[np.float64]:
        """Return the scores T×K, each the mean with its neighbours."""
        scores_TK = np.stack(self.scores_TK)
        half = SMOOTHED_WINDOWS // 2
        padded = np.pad(scores_TK, ((half, half), (0, 0)), mode="edge")
        shifted = [padded[i : i + len(scores_TK)] for i in range(SMOOTHED_WINDOWS)]
        return np.asarray(np.mean(shifted, axis=0), np.float64)

    def segments(self, *, least_s: float | None = None, threshold: float = 0.0) -> list[Segment]:
        """Return stretches of one label.

        A window speaks for the time around its middle. Stretches shorter than `least_s` (two
        windows by default) join the neighbour whose label they like best; those whose mean score
        is below `threshold` are left out.
        """
        if not len(self):
            return []
        least_s = 2 * self.every_s if least_s is None else least_s
        scores_TK = self.smoothed()
        middles = (np.array(self.starts_s) + np.array(self.ends_s)) / 2
        edges = [self.starts_s[0], *((middles[:-1] + middles[1:]) / 2), self.ends_s[-1]]
        runs = _runs(scores_TK.argmax(1))
        while len(runs) > 1:
            lengths = [edges[stop] - edges[start] for start, stop, _ in runs]
            shortest = int(np.argmin(lengths))
            if lengths[shortest] >= least_s - 1e-9:
                break
            start, stop, _ = runs[shortest]
            beside = [runs[i][2] for i in (shortest - 1, shortest + 1) if 0 <= i < len(runs)]
            label = max(beside, key=lambda k: scores_TK[start:stop, k].sum())
            labels = np.concatenate([np.full(b - a, k) for a, b, k in runs])
            labels[start:stop] = label
            runs = _runs(labels)
        found = [
            Segment(
                float(edges[start]),
                float(edges[stop]),
                self.classes[label],
                float(scores_TK[start:stop, label].mean()),
            )
            for start, stop, label in runs
        ]
        return [segment for segment in found if segment.score >= threshold]

    def rows(self) -> Iterator[tuple[str, float, float, str, float]]:
        """Give (video, start_s, end_s, label, score) of every window, its best class."""
        for start, end, scores_K in zip(self.starts_s, self.ends_s, self.scores_TK, strict=True):
            best = int(scores_K.argmax())
            yield self.video, start, end, self.classes[best], float(scores_K[best])

    def as_record(self, least_s: float | None = None) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "every_s": self.every_s,
            "windows": [
                {"start_s": start, "end_s": end, "label": label, "score": score}
                for _, start, end, label, score in self.rows()
            ],
            "segments": [vars(segment) for segment in self.segments(least_s=least_s)],
        }

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one line per window: video, start_s, end_s, label, score, then all classes."""
        target = Path(path)
        write_csv(target, [self])
        return target


def write_csv(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write the windows of several videos into one CSV file."""
    classes = timelines[0].classes if timelines else ()
    with write_aside(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start_s", "end_s", "label", "score", *classes])
        for timeline in timelines:
            for row, scores_K in zip(timeline.rows(), timeline.scores_TK, strict=True):
                video, start, end, label, score = row
                shown = [f"{start:.3f}", f"{end:.3f}", label, f"{score:.4f}"]
                writer.writerow([video, *shown, *(f"{s:.4f}" for s in scores_K)])


def write_segments(path: Path, timelines: Sequence[Timeline], **options: Any) -> None:
    """Write the segments of several videos: video, start_s, end_s, label, score."""
    with write_aside(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start_s", "end_s", "label", "score"])
        for timeline in timelines:
            for s in timeline.segments(**options):
                shown = (f"{s.start_s:.3f}", f"{s.end_s:.3f}", s.label, f"{s.score:.4f}")
                writer.writerow([timeline.video, *shown])


def write_page(
    path: Path,
    timelines: Sequence[Timeline],
    *,
    paths: Mapping[str, Path] | None = None,
    least_s: float | None = None,
    title: str = "Over time",
) -> Path:
    """Write one HTML file with the timeline, a table and, by `paths`, the video of each."""
    rows = [(t.video, s) for t in timelines for s in t.segments(least_s=least_s)]
    found = Segments(
        np.array([video for video, _ in rows], object),
        np.array([s.label for _, s in rows], object),
        np.array([[s.start_s, s.end_s] for _, s in rows], float).reshape(-1, 2),
        np.array([s.score for _, s in rows], float),
    )
    lengths = {t.video: t.ends_s[-1] for t in timelines if len(t)}
    return write_localisation_page(path, title, found, durations_s=lengths, paths=paths)


def _runs(labels: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return (start, stop, label) of each run of equal labels."""
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(a, b, int(labels[a])) for a, b in pairwise(borders)]


def _forget(kept: deque[Frame], codes: deque[NDArray[Any]], start_s: float) -> None:
    """Drop frames before a window, and their flow; the newest stays."""
    while len(kept) > 1 and kept[0].pts_s < start_s - 1e-9:
        kept.popleft()
        codes.popleft()


class _Fields:
    """The flow of a window, as streams ask for it."""

    def __init__(self, codes: Sequence[NDArray[Any]], quantiser: Quantiser) -> None:
        self._codes, self._quantiser = codes, quantiser

    def codes(self, indices: Any) -> NDArray[Any]:
        """Return codes T×2×H×W."""
        return np.stack([self._codes[int(i)] for i in np.atleast_1d(indices)])

    def __getitem__(self, wanted: slice) -> NDArray[np.float32]:
        codes = self.codes(np.arange(len(self._codes))[wanted])
        return self._quantiser.decode(codes).transpose(0, 2, 3, 1)


class _Frames:
    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def __getitem__(self, indices: Any) -> NDArray[np.uint8]:
        chosen = [self._frames[int(i)].rgb_HWC for i in np.atleast_1d(indices)]
        return np.stack([picture for picture in chosen if picture is not None])


class _Window:
    """A window of a video that looks like an entry of a cache."""

    def __init__(
        self, frames: Sequence[Frame], codes: Sequence[NDArray[Any]], quantiser: Quantiser
    ) -> None:
        self.num_frames, self.num_flows = len(frames), len(frames) - 1
        self.height, self.width = frames[0].grey_HW.shape
        self.pts_s = np.array([frame.pts_s for frame in frames])
        self.quantiser = quantiser
        self.flow, self.rgb = _Fields(codes, quantiser), _Frames(frames)


class TimelineReader:
    """The networks of one fold of a run, made ready to score windows.

    Parameters
    ----------
    experiment : Experiment
        Of a finished run.
    every_s : float
        From window to window.
    window_s : float, optional
        Length of a window; by default what the streams' clips span, and at least one second.
    fold : str, optional
        Whose networks; the run's first by default.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        every_s: float,
        window_s: float | None = None,
        fold: str | None = None,
    ) -> None:
        if not 0 < every_s < math.inf:
            raise InvalidArgument(f"every {every_s} s must be > 0; 0.5 is usual", parameter="every")
        if window_s is not None and not window_s > 0:
            raise InvalidArgument(f"window {window_s} s must be > 0", parameter="window")
        experiment.refuse_features()
        self.experiment, self.every_s = experiment, every_s
        self.fold = experiment.fold_name(fold)
        settings = experiment.settings
        self.classes = tuple(experiment.results["classes"])
        self.streams = {name: experiment.stream(name, self.fold) for name in settings.streams}
        self.models = {
            name: experiment.trained(stream, self.fold, len(self.classes))
            for name, stream in self.streams.items()
        }
        extract = settings.extract
        self.method: FlowMethod = create(extract.flow, **extract.flow_parameters)
        bound_px = extract.bound_px
        if extract.storage == "u8" and bound_px is None:
            bound_px = 20.0
        self.quantiser = Quantiser(
            extract.storage, bound_px=bound_px, tolerance_px=extract.tolerance_px
        )
        self.window_s = window_s or self._natural_window_s()

    def geometry(self) -> dict[str, Any]:
        """Return the size and rate that frames must be brought to."""
        extract = self.experiment.settings.extract
        size = None if extract.size is None else (extract.size[0], extract.size[-1])
        return {"short_side": extract.short_side, "size": size, "fps": extract.fps}

    def frames(self, video: Path) -> VideoReader:
        """Return the frames of a video file as `read` wants them.

        Raises
        ------
        VideoError
            If it cannot be read, or is of a frame rate that the run cannot judge.
        """
        if fault := self.experiment.rate_fault(video):
            raise VideoError(fault)
        return VideoReader(video, rgb=True, **self.geometry())

    def _natural_window_s(self) -> float:
        rate = self.experiment.settings.extract.fps or 25.0
        spans = [LEAST_WINDOW_S, 2 * self.every_s]
        for settings in self.experiment.settings.streams.values():
            if settings.input not in HISTOGRAMS:
                items = settings.frames * settings.stride
                spans.append(items / (settings.fps or rate) + 2 / rate)
        return max(spans)

    def windows(self, frames: Iterable[Frame]) -> Iterator[tuple[float, float, _Window]]:
        """Give (start, end, window) for every window of a sequence of frames."""
        self.too_short = 0  # windows with fewer than two frames
        kept: deque[Frame] = deque()
        codes: deque[NDArray[Any]] = deque()  # of flow from frame i to i + 1
        start_s: float | None = None
        for frame in frames:
            if kept:
                uv_HWC = self.method(*(self._seen(f) for f in (kept[-1], frame)))
                codes.append(self.quantiser.encode(uv_HWC.transpose(2, 0, 1)[None])[0])
            kept.append(frame)
            start_s = kept[0].pts_s if start_s is None else start_s
            _forget(kept, codes, start_s)
            while frame.pts_s >= start_s + self.window_s:
                window = self._cut(kept, codes, start_s)
                self.too_short += window is None
                if window is not None:
                    yield start_s, start_s + self.window_s, window
                start_s += self.every_s
                _forget(kept, codes, start_s)
        # What is left at the end, if it is more than half a window, or all there was.
        if start_s is not None and kept and len(kept) > 1:
            rest_s = kept[-1].pts_s - start_s
            if rest_s > self.window_s / 2 or kept[0].index == 0:
                yield (
                    start_s,
                    float(kept[-1].pts_s),
                    _Window(list(kept), list(codes), self.quantiser),
                )

    def _seen(self, frame: Frame) -> Any:
        return frame.rgb_HWC if getattr(self.method, "takes", "grey") == "rgb" else frame.grey_HW

    def _cut(
        self, kept: Sequence[Frame], codes: Sequence[NDArray[Any]], start_s: float
    ) -> _Window | None:
        count = sum(frame.pts_s < start_s + self.window_s for frame in kept)
        if count < 2:
            return None
        return _Window(list(islice(kept, count)), list(islice(codes, count - 1)), self.quantiser)

    def score(self, windows: Sequence[_Window]) -> list[Scores]:
        """Return the scores of windows of each stream, and fused behind them."""
        cache = {f"w{number}": window for number, window in enumerate(windows)}
        videos = tuple(Video(name, Path(name)) for name in cache)
        data = Dataset(videos, self.classes)
        options = TestOptions(clips=CLIPS_PER_WINDOW)
        scores = [
            stream.on(cache).predict(self.models[name], data, options)
            for name, stream in self.streams.items()
        ]
        if len(scores) > 1:
            method = self.experiment.settings.fuse.headline
            scores.append(self.experiment.fuse_scores(scores, self.fold, method))
        return scores

    def read(
        self,
        video: str,
        frames: Iterable[Frame],
        *,
        at_once: int = WINDOWS_AT_ONCE,
        on_window: Callable[[Timeline], None] | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> Timeline:
        """Return the scores of a video over time.

        Parameters
        ----------
        video : str
            Its name.
        frames : iterable of Frame
            As `geometry()` wants them.
        at_once : int
            Windows that are scored together; 1 for the least delay.
        on_window : callable, optional
            Called with the timeline so far, after each scoring.
        on_fault : callable, optional
            Called with what ends the frames early, an interrupt too: windows before it are
            returned. Without it, or without a window, it is raised.

        Raises
        ------
        VideoError
            If the video, or most windows of it, have fewer than two frames.
        """
        timeline = Timeline(video, self.classes, self.every_s)
        batch: list[tuple[float, float, _Window]] = []

        def flush() -> None:
            if not batch:
                return
            scores = self.score([window for _, _, window in batch])
            for row, (start, end, _) in enumerate(batch):
                timeline.starts_s.append(start)
                timeline.ends_s.append(end)
                timeline.scores_TK.append(scores[-1].probabilities_NK[row])
                for own in scores:
                    timeline.streams.setdefault(own.stream, []).append(own.probabilities_NK[row])
            batch.clear()
            if on_window is not None:
                on_window(timeline)

        try:
            for item in self.windows(frames):
                batch.append(item)
                if len(batch) >= at_once:
                    flush()
        except (FlowpipeError, OSError, KeyboardInterrupt) as error:
            if on_fault is None or not (batch or len(timeline)):
                raise
            on_fault(error)
        flush()
        if self.too_short > len(timeline):
            raise VideoError(
                f"{self.too_short} windows of {self.window_s:g} s hold fewer than two frames; "
                "take longer windows"
            )
        if not len(timeline):
            raise VideoError("ends before a second frame, at the rate that the run looks at")
        return timeline


class Pace:
    """How a live source is kept up with: frames per second, and how far behind."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.frames = 0
        self.last_pts_s = 0.0
        self.first_pts_s: float | None = None

    def counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on, and count them."""
        for frame in frames:
            if self.first_pts_s is None:
                self.first_pts_s, self.started = frame.pts_s, time.perf_counter()
            self.frames += 1
            self.last_pts_s = frame.pts_s
            yield frame

    @property
    def frames_per_s(self) -> float:
        return self.frames / max(1e-9, time.perf_counter() - self.started)

    @property
    def behind_s(self) -> float:
        """Seconds of real time since the newest frame, had the first come at the start."""
        shown = self.last_pts_s - (self.first_pts_s or 0.0)
        return max(0.0, time.perf_counter() - self.started - shown)
