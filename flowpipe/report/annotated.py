"""A video with what was seen written under its picture, as H.264 that plays anywhere."""

import bisect
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside
from flowpipe.video import VideoReader

STRIP_PX = 30
TICKS_PER_S = 90_000
INK, PAPER, BAR = (240, 240, 240), (24, 24, 28), (90, 150, 230)


class SegmentLike(Protocol):
    """A stretch of a video with one label."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...


def write_annotated(
    video: Path, out: Path, segments: Sequence[SegmentLike], *, short_side: int | None = None
) -> Path:
    """Write a video with the label of each moment, its score as a bar, and the time below it.

    Parameters
    ----------
    video : Path
    out : Path
        An .mp4.
    segments : sequence
        In the order of time, not overlapping.
    short_side : int, optional
        Of the picture in px; as it is by default.
    """
    reader = VideoReader(video, short_side=short_side, rgb=True)
    starts = [segment.start_s for segment in segments]
    first_s: float | None = None
    with write_aside(out) as file, av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(30))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "23", "preset": "veryfast"}
        stream.time_base = Fraction(1, TICKS_PER_S)
        stream.codec_context.time_base = stream.time_base
        last_pts = -1
        for frame in reader:
            assert frame.rgb_HWC is not None
            place = bisect.bisect_right(starts, frame.pts_s) - 1
            now = segments[place] if place >= 0 and frame.pts_s < segments[place].end_s else None
            picture = _with_strip(frame.rgb_HWC, frame.pts_s, now)
            if first_s is None:
                first_s = frame.pts_s
                stream.height, stream.width = picture.shape[:2]
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            last_pts = max(last_pts + 1, round((frame.pts_s - first_s) * TICKS_PER_S))
            shown.pts, shown.time_base = last_pts, stream.time_base
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    return out


def _with_strip(
    rgb_HWC: NDArray[np.uint8], time_s: float, segment: SegmentLike | None
) -> NDArray[np.uint8]:
    """Return the picture over a strip with label, score and time; even sides, as H.264 wants."""
    width = rgb_HWC.shape[1]
    strip = np.full((STRIP_PX, width, 3), PAPER, np.uint8)
    if segment is not None:
        strip[-4:, : max(1, round(width * segment.score))] = BAR
        _write(strip, f"{segment.label} {segment.score:.2f}", 6)
    clock = f"{int(time_s) // 60}:{time_s % 60:04.1f}"
    _write(strip, clock, width - 8 * len(clock) - 6)
    whole = np.concatenate([rgb_HWC, strip])
    return np.ascontiguousarray(
        np.pad(whole, ((0, whole.shape[0] % 2), (0, width % 2), (0, 0)), mode="edge")
    )


def _write(strip: NDArray[np.uint8], text: str, x: int) -> None:
    cv2.putText(strip, text, (x, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
