"""The time of each frame, and resampling to a frame rate by these times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowpipe.errors import VideoError
from flowpipe.video.decoding import Damage

FPS_RULE = "frame-on-show-1"
"""At t0 + k/fps the frame on show then: the last one with a timestamp ≤ t + 1 ms."""

CLOSE_FPS_RULE = "frame-on-show-2"
"""The same, with less than 1 ms; where fps is above `CLOSE_FPS`, so that caches of lower rates keep
their keys, whose values are the same but for videos of more than 250 frames/s."""

CLOSE_FPS = 250.0


def fps_rule(fps: float | None) -> str:
    """Return the name of the rule for a rate, as recipes have it."""
    return FPS_RULE if fps is None or fps <= CLOSE_FPS else CLOSE_FPS_RULE


FPS_SLACK_S = 1e-3
RESTART_STEPS = 5
"""Timestamps that run back farther, and go on from there, begin anew."""

JUMP_S = 10.0
"""A step ahead that is looked at twice; libavformat's own limit for broadcasts."""

MOST_REPEATS = 500_000


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
    frames: Iterator[Any],
    average_fps: float,
    damage: Damage,
    *,
    stores_no_pts: bool = False,
    is_broadcast: bool = False,
) -> Iterator[tuple[Any, float]]:
    """Yield each frame with a time that is later than the one before it.

    ::

        stored   0 1 2 2 3 4      one runs back: it is put half a step behind the one before it
        stored   0 1 2 900 4 5    one runs ahead, and the next is before it: as if it had none
        stored   6 7 8 0 1 2      they begin anew: all that follow are moved on, 6 7 8 9 10 11
        stored   0 1 2 900 901    a long still; in a broadcast, times that jump: 0 1 2 3 4
    """
    step_s = 1 / average_fps
    previous_s: float | None = None
    offset_s = 0.0
    for frame, stored_s, next_s in _with_next(_stored_times(frames, stores_no_pts)):
        if previous_s is None:
            pts_s = damage.first_pts_s = stored_s or 0.0
        elif stored_s is None:
            pts_s = previous_s + step_s
        else:
            pts_s = stored_s + offset_s
            following_s = None if next_s is None else next_s + offset_s
            back_s = previous_s - pts_s
            if back_s >= 0:
                goes_on = following_s is not None and pts_s < following_s <= previous_s
                restarts = goes_on and back_s > RESTART_STEPS * step_s
                # Half a step, so that one repeated timestamp does not push on all that follow.
                wanted_s = previous_s + (step_s if restarts else step_s / 2)
            elif -back_s > JUMP_S:
                runs_ahead = following_s is not None and following_s < pts_s
                restarts = is_broadcast and not runs_ahead
                wanted_s = previous_s + step_s if restarts or runs_ahead else pts_s
            else:
                restarts, wanted_s = False, pts_s
            if restarts:
                offset_s += wanted_s - pts_s
                damage.restarts += 1
            else:
                damage.moved_times += wanted_s != pts_s
            pts_s = wanted_s
        shown_s = float(frame.duration * frame.time_base) if frame.duration else step_s
        damage.end_s = pts_s + shown_s
        previous_s = pts_s
        yield frame, pts_s


def _stored_times(frames: Iterator[Any], stores_no_pts: bool) -> Iterator[tuple[Any, float | None]]:
    pts_or_dts = _PtsOrDts(pts_faults=int(stores_no_pts))
    for frame in frames:
        ticks = pts_or_dts.choose(frame.pts, frame.dts)
        yield frame, None if ticks is None else float(ticks * frame.time_base)


def _with_next(
    timed: Iterator[tuple[Any, float | None]],
) -> Iterator[tuple[Any, float | None, float | None]]:
    """Yield (frame, its time, the time of the next)."""
    waiting: tuple[Any, float | None] | None = None
    for frame, time_s in timed:
        if waiting is not None:
            yield *waiting, time_s
        waiting = frame, time_s
    if waiting is not None:
        yield *waiting, None


def resample(timed: Iterator[tuple[Any, float]], fps: float) -> Iterator[tuple[Any, float]]:
    """Yield (frame on show, instant) for the instants t0 + k/fps, as `VideoReader` draws them.

    Timestamps are rounded, to 1 ms in many containers: a frame counts as shown a little early, by
    1 ms or a quarter of the time between two frames or two instants, whichever is least.

    Raises
    ------
    VideoError
        If a frame would be repeated more than `MOST_REPEATS` times.
    """
    first_s: float | None = None
    on_show: Any = None
    last_s = slack_s = 0.0
    k = 0
    for frame, pts_s in timed:
        if first_s is None:
            first_s = pts_s
        else:
            slack_s = min(FPS_SLACK_S, (pts_s - last_s) / 4, 1 / (4 * fps))
            if (pts_s - last_s) * fps > MOST_REPEATS:
                raise VideoError(
                    f"its timestamps jump from {last_s:.1f} s to {pts_s:.1f} s: at {fps:g} "
                    f"frames/s one frame would be there more than {MOST_REPEATS} times; leave fps "
                    "out, or cut the video"
                )
        while on_show is not None and first_s + k / fps + slack_s < pts_s:
            yield on_show, first_s + k / fps
            k += 1
        on_show, last_s = frame, pts_s
    while first_s is not None and first_s + k / fps <= last_s + slack_s:
        yield on_show, first_s + k / fps
        k += 1
