"""Which frames of a video make a clip: index arithmetic only, no pixels.

A *clip* of a stream is `frames` indices into the stream's flows (or RGB frames), `frame_step`
apart. In the drawings `f` is taken, `x` is skipped, `.` is outside of the clip::

    frames 3, frame_step 3, start 0     fxxfxxf
    frames 3, frame_step 2, start 1     .fxfxf
    frames 4, frame_step 1, start 2     ..ffff

Flow k moves frame k to frame k+1. All streams of a sample are centred on one instant: the
*centre* c is a frame index, and a stream takes c as its item number `frames // 2`::

    index                    0123456789.
    10 flows                 ffffffffff      centre 5
    1 RGB frame                   f          the start of the centre flow
    4 RGB, frame_step 2       f f f f        items 1, 3, 5, 7

An index past the end is replaced by the last one (`short="repeat-last"`) or starts over
(`short="loop"`)::

    4 items of a video of 2     repeat-last: 0 1 1 1     loop: 0 1 0 1

Where the cuts of a video are known, a clip is cut from one shot as if that were the video: the shot
of the centre that was drawn, which moves as little as needed. A shot shorter than the clip is a
short video; one of a single frame has no flow, and the nearest longer one takes its place::

    shots 0–2, 3–9; 4 frames, centre 5     ...ffff...
    the same, centre 3                     ...ffff...      moved: item 2 is frame 5
    the same, centre 1                     fff             repeat-last 0 1 2 2
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument

Indices = NDArray[np.int64]
ShortRule = Literal["repeat-last", "loop"]

# Timestamps are rounded to the ticks of the container; a frame this little late counts as shown.
TIME_SLACK_S = 1e-3


def span(frames: int, frame_step: int = 1) -> int:
    """Return how many consecutive items a clip covers, from its first to its last.

    `fxxfxxf` (3 frames, frame_step 3) covers 7; one frame covers 1 at any frame_step.
    """
    _check_positive(frames=frames, frame_step=frame_step)
    return (frames - 1) * frame_step + 1


def clip_indices(
    start: int, frames: int, frame_step: int, length: int, short: ShortRule = "repeat-last"
) -> Indices:
    """Return the indices of the clip that begins at `start`, all inside `[0, length)`.

    ::

        start 0, frames 3, frame_step 3, length 7     fxxfxxf
        start 1, frames 3, frame_step 2, length 6     .fxfxf
        start 2, frames 4, frame_step 1, length 4     ..ff      repeat-last 2 3 3 3, loop 2 3 0 1

    Parameters
    ----------
    start : int
        First index, ≥ 0.
    frames, frame_step, length : int
        Items in the clip, the step between them, items in the video.
    short : {"repeat-last", "loop"}
        What stands for an index past the end.

    Raises
    ------
    InvalidArgument
        If an argument is outside of its rule.
    """
    _check_positive(frames=frames, frame_step=frame_step, length=length)
    if start < 0:
        raise InvalidArgument(f"start {start} must be ≥ 0; clips begin inside the video")
    indices = start + frame_step * np.arange(frames, dtype=np.int64)
    if short == "loop":
        return indices % length
    if short != "repeat-last":
        raise InvalidArgument(f'short "{short}" must be "repeat-last" or "loop"')
    return np.minimum(indices, length - 1)


def test_starts(length: int, clip_span: int, clips: int) -> Indices:
    """Return `clips` equally spaced starts, the first at 0 and the last at `length - clip_span`.

    A single clip stands in the middle. Where the video has fewer positions than clips are
    asked for, starts repeat, so that every video has the same number of clips::

        length 9, clip_span 1, clips 3     fxxxfxxxf
        length 9, clip_span 1, clips 1     xxxxfxxxx
        length 2, clip_span 5, clips 3     0 0 0

    Reference: Simonyan and Zisserman (2014), section 5, arXiv:1406.2199 (25 positions).
    """
    _check_positive(length=length, clip_span=clip_span, clips=clips)
    last = max(length - clip_span, 0)
    if clips == 1:
        return np.array([last // 2], dtype=np.int64)
    numbers = np.arange(clips, dtype=np.int64)
    return (2 * numbers * last + clips - 1) // (2 * (clips - 1))


def dense_starts(length: int, clip_span: int, step: int = 1) -> Indices:
    """Return every `step`-th start at which the clip fits, and 0 if none fits.

    `length 7, clip_span 3, step 2` gives 0, 2, 4.
    """
    _check_positive(length=length, clip_span=clip_span, step=step)
    return np.arange(0, max(length - clip_span, 0) + 1, step, dtype=np.int64)


def segment_starts(
    length: int, clip_span: int, segments: int, rng: np.random.Generator | None = None
) -> Indices:
    """Return one start from each of `segments` equal parts of a video, in rising order.

    The positions `[0, length - clip_span]` are cut into equal parts. With a generator one
    position is drawn from each part, without one its middle is taken::

        length 9, clip_span 1, segments 3     xfxxfxxfx
        length 2, clip_span 1, segments 4     0 0 1 1

    Reference: Wang et al. (2016), Temporal Segment Networks, doi:10.1007/978-3-319-46484-8_2.
    """
    _check_positive(length=length, clip_span=clip_span, segments=segments)
    positions = max(length - clip_span, 0) + 1
    borders = np.arange(segments + 1, dtype=np.int64) * positions
    first = borders[:-1] // segments
    last = np.maximum(-(-borders[1:] // segments) - 1, first)
    if rng is None:
        return (first + last) // 2
    return np.sort(rng.integers(first, last + 1))


def low_rate_indices(
    pts_s: NDArray[np.float64], start_s: float, frames: int, fps: float
) -> Indices:
    """Return the frames shown at `start_s`, `start_s + 1/fps`, …: low-rate clips by timestamp.

    The frame shown at an instant is the last whose timestamp is not after it. Before the first
    frame the first is taken, after the last the last (repeat-last). Sixteen frames at 5 per
    second from a video at 25 per second are `fxxxxfxxxxf…`; from a video of varying rate they
    are still 0.2 s apart.

    Parameters
    ----------
    pts_s : (N,) float64
        Timestamps of the frames in seconds, rising.
    start_s : float
        Instant of the first frame, on the same clock.
    frames : int
        Frames in the clip (16 in the lecture).
    fps : float
        Frames per second of the clip (5 in the lecture).

    Raises
    ------
    InvalidArgument
        If there are no timestamps, or they fall, or a number is not positive.
    """
    _check_positive(frames=frames)
    times = np.asarray(pts_s, dtype=np.float64)
    if not (fps > 0 and np.isfinite(fps)):
        raise InvalidArgument(f"fps {fps} must be > 0; 5 is the lecture's choice")
    if times.ndim != 1 or times.size == 0 or bool(np.any(np.diff(times) < 0)):
        raise InvalidArgument(
            f"pts_s of shape {times.shape} must be a rising list of seconds; take Entry.pts_s"
        )
    wanted = start_s + np.arange(frames, dtype=np.float64) / fps
    shown = np.searchsorted(times, wanted + TIME_SLACK_S, side="right") - 1
    return np.clip(shown, 0, times.size - 1).astype(np.int64)


def centre_range(frames: int, frame_step: int, length: int) -> tuple[int, int]:
    """Return `[first, stop)` of the centres at which a clip lies inside the video.

    A clip centred on c takes c as its item number `frames // 2`. The range is empty
    (`stop <= first`) if the video is shorter than the clip; `first` is then the centre of the
    clip that begins at 0::

        frames 3, frame_step 3, length 7     fxxCxxf     [3, 4)
        frames 4, frame_step 1, length 6     ffCf..      [2, 5)
    """
    _check_positive(length=length)
    before = frame_step * (frames // 2)
    return before, length - (span(frames, frame_step) - 1 - before)


def centred_indices(
    centre: int, frames: int, frame_step: int, length: int, short: ShortRule = "repeat-last"
) -> Indices:
    """Return the indices of the clip whose item number `frames // 2` is `centre`.

    Raises
    ------
    InvalidArgument
        If the clip would begin before the video.
    """
    return clip_indices(centre - frame_step * (frames // 2), frames, frame_step, length, short)


def low_rate_centre_range(pts_s: NDArray[np.float64], frames: int, fps: float) -> tuple[int, int]:
    """Return `[first, stop)` of the centres at which a low-rate clip lies inside the video."""
    before_s = (frames // 2) / fps
    after_s = (frames - 1 - frames // 2) / fps
    first = np.searchsorted(pts_s, pts_s[0] + before_s - TIME_SLACK_S, side="left")
    stop = np.searchsorted(pts_s, pts_s[-1] - after_s + TIME_SLACK_S, side="right")
    return int(first), int(stop)


def low_rate_centred_indices(
    pts_s: NDArray[np.float64], centre: int, frames: int, fps: float
) -> Indices:
    """Return the low-rate clip whose item number `frames // 2` is the frame `centre`.

    A clip that would begin before the first frame begins at it.
    """
    centre_s = pts_s[min(centre, len(pts_s) - 1)]
    start_s = max(float(centre_s) - (frames // 2) / fps, float(pts_s[0]))
    return low_rate_indices(pts_s, start_s, frames, fps)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InvalidArgument(f"{name} {number} must be ≥ 1")
