"""The time of each frame, and resampling to a frame rate by these times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowpipe.video.decoding import Damage

FPS_RULE = "frame-on-show-1"
"""At t0 + k/fps the frame on show then: the last one with a timestamp ≤ t + 1 ms."""

FPS_SLACK_S = 1e-3
MAX_GAP_S = 600.0


@dataclass
class _PtsOrDts:
    """Take a frame's pts or its packet's dts, whichever has run backwards less often.

    It is libavcodec's `guess_correct_pts`. XviD with packed B frames in an AVI (which stores no
    presentation times) has frames with pts 3 5 4 6 8 7 and dts 3 4 5 6 7 8.
    """

    pts_faults: int = 0
    dts_faults: int = 0
    last_pts: int | None = None
    last_dts: int | None = None

    def choose(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self.dts_faults += self.last_dts is not None and dts <= self.last_dts
            self.last_dts = dts
        if pts is not None:
            self.pts_faults += self.last_pts is not None and pts <= self.last_pts
            self.last_pts = pts
        if self.last_dts is None or self.pts_faults <= self.dts_faults:
            return pts if pts is not None else dts
        return dts


def with_times(
    frames: Iterator[Any], average_fps: float, damage: Damage, *, stores_no_pts: bool = False
) -> Iterator[tuple[Any, float]]:
    """Give each frame a time that is later than the one before it."""
    step_s = 1 / average_fps
    previous_s: float | None = None
    pts_or_dts = _PtsOrDts(pts_faults=int(stores_no_pts))
    for frame in frames:
        ticks = pts_or_dts.choose(frame.pts, frame.dts)
        stored = None if ticks is None else float(ticks * frame.time_base)
        if previous_s is None:
            pts_s = stored if stored is not None else 0.0
            damage.first_pts_s = pts_s
        elif stored is None:
            pts_s = previous_s + step_s
        elif stored <= previous_s:
            # Half a step, so that one repeated timestamp does not push on all that follow.
            pts_s = previous_s + step_s / 2
            damage.moved_times += 1
        else:
            pts_s = stored
        shown_s = float(frame.duration * frame.time_base) if frame.duration else step_s
        damage.end_s = pts_s + shown_s
        previous_s = pts_s
        yield frame, pts_s


def resample(
    timed: Iterator[tuple[Any, float]], fps: float, damage: Damage
) -> Iterator[tuple[Any, float]]:
    """Give (frame on show, instant) for the instants t0 + k/fps, as `VideoReader` draws them."""
    first_s: float | None = None
    on_show: Any = None
    last_s = 0.0
    k = 0
    for frame, pts_s in timed:
        if first_s is None:
            first_s = pts_s
        elif pts_s - last_s > MAX_GAP_S:
            # One damaged timestamp would otherwise repeat a frame millions of times.
            damage.jump = f"timestamps jump from {last_s:.1f} s to {pts_s:.1f} s; ended there"
            break
        while on_show is not None and first_s + k / fps + FPS_SLACK_S < pts_s:
            yield on_show, first_s + k / fps
            k += 1
        on_show, last_s = frame, pts_s
    while first_s is not None and first_s + k / fps <= last_s + FPS_SLACK_S:
        yield on_show, first_s + k / fps
        k += 1
