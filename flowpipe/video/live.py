"""Frames of a stream that cannot be opened twice: a pipe, a camera."""

import math
from collections.abc import Iterator
from typing import Any

import av

from flowpipe.errors import VideoError
from flowpipe.video.decoding import MAX_PIXELS, Damage, decoded_frames
from flowpipe.video.pictures import fit, orientation_of, output_size, to_grey, to_rgb
from flowpipe.video.reader import FALLBACK_FPS, Frame
from flowpipe.video.times import resample, with_times


def live_frames(
    source: Any,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    max_pixels: int = MAX_PIXELS,
    damage: Damage | None = None,
) -> Iterator[Frame]:
    """Give the frames of a stream as they come, with RGB pictures.

    Parameters
    ----------
    source : binary file or str
        A pipe opened for reading, in a form that needs no seeking (Matroska, MPEG-TS, AVI), or
        the path of a video4linux device.
    short_side, size, fps, max_pixels
        As for `VideoReader`.
    damage : Damage, optional
        Is told what goes wrong on the way.

    Raises
    ------
    VideoError
        If no video comes.
    """
    device = isinstance(source, str)
    try:
        container: Any = av.open(
            source, format="v4l2" if device else None, metadata_errors="ignore"
        )
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"no video comes from {source}: {error}") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"what comes from {source} has no video stream")
        damage = damage or Damage()
        rate = container.streams.video[0].average_rate
        timed = with_times(
            decoded_frames(container, damage, max_pixels, source),
            float(rate) if rate and math.isfinite(rate) else FALLBACK_FPS,
            damage,
            stores_no_pts=container.format.name == "avi",
        )
        if fps is not None:
            timed = resample(timed, fps)
        index = -1
        for index, (frame, pts_s) in enumerate(timed):
            orientation, _ = orientation_of(frame)
            rgb_HWC = to_rgb(frame)
            shape = orientation.size(frame.height, frame.width)
            wanted = output_size(*shape, short_side=short_side, size=size)
            grey_HW = fit(to_grey(frame, rgb_HWC), orientation, wanted)
            yield Frame(index, pts_s, grey_HW, fit(rgb_HWC, orientation, wanted))
        if index < 0:
            raise VideoError(f"no frame of what comes from {source} decodes")
