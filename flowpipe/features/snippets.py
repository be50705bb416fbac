"""Which snippets of a video are looked at, and when.

A *snippet* is T items (frames or flows), `frame_step` apart; the next one starts `clip_step` items
later. Only snippets that lie inside the video are taken; a video shorter than one snippet gives
one, its last item repeated::

    frames 4, clip_step 2, video of 9 items      ffff.....   ..ffff...   ....ffff.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Entry
from flowpipe.clips import sampling
from flowpipe.clips.streams import StreamInput

USUAL_FRAME_S = 0.04


@dataclass(frozen=True)
class Snippets:
    """Where the snippets of a video lie: rows of items, and seconds.

    Attributes
    ----------
    rows_TF : array of T×F int64
        The items of each snippet.
    span_s : array of T×2 float64
        Each snippet's [start, stop).
    fps : float
        Items per second.
    """

    rows_TF: NDArray[np.int64]
    span_s: NDArray[np.float64]
    fps: float

    @property
    def centre_s(self) -> NDArray[np.float64]:
        """Middle of each snippet in seconds."""
        return self.span_s.mean(axis=1)  # type: ignore[no-any-return]


def cut_snippets(
    entry: Entry, stream: StreamInput, frames: int | None, clip_step: int | None = None
) -> Snippets:
    """Cut a video into snippets of what a stream looks at.

    Parameters
    ----------
    entry : Entry
    stream : StreamInput
        Its input, `frame_step` and `fps` count; its own `frames` do not.
    frames : int or None
        Items of a snippet; None: all of the video's.
    clip_step : int, optional
        Items from start to start; by default what a snippet covers.
    """
    length = stream.length(entry)
    pts_s = entry.pts_s
    steps_s = np.diff(pts_s)
    usual_s = float(np.median(steps_s)) if steps_s.size else USUAL_FRAME_S
    if stream.fps is None:
        items = np.arange(length)
        # Flow i ends where frame i + 1 is shown; the last frame is shown as long as others.
        bounds_s = np.append(pts_s, pts_s[-1] + usual_s)[: length + 1]
        fps = round(1 / usual_s, 6)
    else:
        fps = stream.fps
        last_s = float(pts_s[length - 1] - pts_s[0])
        count = int((last_s + sampling.TIME_SLACK_S) * fps) + 1
        items = sampling.low_rate_indices(pts_s[:length], float(pts_s[0]), count, fps)
        bounds_s = pts_s[0] + np.arange(count + 1) / fps
    frames = len(items) if frames is None else frames
    covers = sampling.span(frames, stream.frame_step)
    starts = sampling.dense_starts(len(items), covers, clip_step or covers)
    rows = [
        sampling.clip_indices(int(start), frames, stream.frame_step, len(items)) for start in starts
    ]
    stops = np.minimum(starts + covers, len(items))
    span_s = np.stack([bounds_s[starts], bounds_s[stops]], axis=1)
    return Snippets(items[np.stack(rows)], span_s, fps)
