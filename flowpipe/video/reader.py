"""`VideoReader`: the frames of a video one by one, with time, grey and RGB pictures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.format import Flags

from flowpipe.errors import InvalidArgument, VideoError
from flowpipe.video.decoding import (
    MAX_PIXELS,
    Damage,
    decoded_frames,
    duration_s_of,
    no_frame,
    open_container,
    positive,
    video_stream,
)
from flowpipe.video.files import existing_file
from flowpipe.video.pictures import Picture, fit, orientation_of, output_size, to_grey, to_rgb
from flowpipe.video.times import resample, with_times
from flowpipe.video.vectors import MotionVectors, VectorTracker

FALLBACK_FPS = 25.0

TS_DISCONT = Flags.ts_discont.value
"""Of a container: its timestamps may jump, as where broadcasts are cut or joined."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself and its first frame shows.

    `width` and `height` are those of the displayed picture in px, after `rotation` (degrees
    counterclockwise, a multiple of 90; of a `mirrored` picture, after left and right are
    exchanged). `average_fps` and `duration_s` come from the header,
    are None where it has none, and may be wrong.
    """

    path: Path
    width: int
    height: int
    rotation: int
    average_fps: float | None
    duration_s: float | None
    codec: str
    pixel_format: str
    mirrored: bool = False


@dataclass(frozen=True, repr=False)
class Frame:
    """One frame: its number in the output, its time in seconds, grey and maybe RGB picture.

    `vectors` are those of the codec, where the reader was asked for them.
    """

    index: int
    pts_s: float
    grey_HW: Picture
    rgb_HWC: Picture | None
    vectors: MotionVectors | None = None

    def __repr__(self) -> str:
        rgb = "no RGB" if self.rgb_HWC is None else f"rgb_HWC {self.rgb_HWC.shape}"
        return f"Frame({self.index}, {self.pts_s:.3f} s, grey_HW {self.grey_HW.shape}, {rgb})"


def probe(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Open a video, decode its first frame and tell what it is.

    Parameters
    ----------
    path
        A video file.
    max_pixels
        A video with more pixels in a frame is refused before it is decoded.

    Raises
    ------
    VideoNotFound
        If there is no such file.
    VideoError
        If it is no video, or no frame of it decodes.
    """
    source = existing_file(path)
    damage = Damage()
    with open_container(source, max_pixels, 1) as container:
        stream = video_stream(container)
        for frame in decoded_frames(container, damage, max_pixels, source):
            orientation, _ = orientation_of(frame)
            height, width = orientation.size(frame.height, frame.width)
            return VideoInfo(
                path=source,
                width=width,
                height=height,
                rotation=orientation.rotation,
                mirrored=orientation.mirrored,
                average_fps=positive(stream.average_rate),
                duration_s=duration_s_of(container),
                codec=str(stream.codec_context.name),
                pixel_format=str(frame.format.name),
            )
    raise VideoError(no_frame(source, damage))


class VideoReader:
    """The frames of a video, in presentation order.

    Each iteration opens the file anew, so a reader can be iterated several times.

    Parameters
    ----------
    path
        A video file.
    short_side, size
        The size of the frames, see `output_size`; applied after rotation.
    fps
        Resample to this rate by timestamp: output k has the time t0 + k/fps, where t0 is the
        first timestamp, and is the frame on show then (the last one with a timestamp
        ≤ t + 1 ms, or less where frames are closer, see `times.resample`). The
        last output is the last instant that is not behind the last timestamp.
        Frames repeat where the video is slower::

            source at 8 fps    0   1   2   3   4   5   6
            fps=4              0       2       4       6
            fps=16             0 0 1 1 2 2 3 3 4 4 5 5 6
    rgb
        Whether frames carry `rgb_HWC` too.
    vectors
        Whether frames carry the codec's motion vectors too.
    pictures
        False: only vectors are wanted; `grey_HW` stays empty, which is a third faster with H.264.
    max_pixels
        A frame, before or after the change of size, may not have more pixels.
    decode_threads
        Threads of the decoder. One is right when several videos are decoded at a time.

    Attributes
    ----------
    info : VideoInfo
    problem : str or None
        After an iteration has come to its end: why the frames may not be all there was, or not
        what there was. None for a sound video. Bits flipped inside a frame are mostly not
        noticed by a decoder.

    Raises
    ------
    InvalidArgument
        If `fps`, `short_side` or `size` is out of its range.
    VideoNotFound
        If there is no such file.
    VideoError
        If it is no video, or no frame of it decodes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        short_side: int | None = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        rgb: bool = False,
        vectors: bool = False,
        pictures: bool = True,
        max_pixels: int = MAX_PIXELS,
        decode_threads: int = 1,
    ) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise InvalidArgument(f"fps {fps} must be > 0; None keeps the frames as they are")
        if decode_threads < 1:
            raise InvalidArgument(f"decode_threads {decode_threads} must be >= 1")
        if rgb and not pictures:
            raise InvalidArgument("rgb needs pictures: leave pictures at True")
        output_size(1, 1, short_side=short_side, size=size)
        self.info = probe(path, max_pixels=max_pixels)
        self.problem: str | None = None
        self.output_size = output_size(
            self.info.height, self.info.width, short_side=short_side, size=size
        )
        if math.prod(self.output_size) > max_pixels:
            height, width = self.output_size
            raise VideoError(
                f"{self.info.path} would be brought to {height} × {width} px, more than "
                f"max_pixels {max_pixels}; give a smaller short_side or an exact size"
            )
        self._fps = fps
        self._rgb, self._vectors, self._with_pictures = rgb, vectors, pictures
        self._max_pixels = max_pixels
        self._decode_threads = decode_threads

    def __repr__(self) -> str:
        height, width = self.output_size
        return f"VideoReader({str(self.info.path)!r}, {height} × {width} px)"

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Give the frames [start, stop) of the sequence that iteration gives.

        The frames before `start` are decoded too, since only decoding tells how many there are,
        but not converted. `problem` is known only where `stop` is None.
        """
        source = self.info.path
        damage = Damage()
        self.problem = None
        with open_container(
            source,
            self._max_pixels,
            self._decode_threads,
            vectors=self._vectors,
            pictures=self._with_pictures,
        ) as container:
            tracker = VectorTracker() if self._vectors else None
            decoded = decoded_frames(container, damage, self._max_pixels, source, tracker)
            timed = with_times(
                decoded,
                self.info.average_fps or FALLBACK_FPS,
                damage,
                stores_no_pts=container.format.name == "avi",
                is_broadcast=bool(container.format.flags & TS_DISCONT),
            )
            if self._fps is not None:
                timed = resample(timed, self._fps)
            last: Any = None
            grey_HW, rgb_HWC = np.empty((0, 0), np.uint8), None
            index = 0
            for frame, pts_s in timed:
                if index == stop:
                    return
                self._note_geometry(frame, damage)
                if index >= start:
                    if frame is not last and self._with_pictures:
                        grey_HW, rgb_HWC = self._pictures(frame)
                        last = frame
                    vectors = self._vectors_of(frame) if self._vectors else None
                    yield Frame(index, pts_s, grey_HW, rgb_HWC, vectors)
                index += 1
            if index == 0:
                raise VideoError(no_frame(source, damage))
            damage.check_end(container)
        self.problem = damage.reason()

    def _note_geometry(self, frame: Any, damage: Damage) -> None:
        orientation, strange = orientation_of(frame)
        if strange is not None:
            damage.strange_rotation = strange
        height, width = orientation.size(frame.height, frame.width)
        if (height, width) != (self.info.height, self.info.width):
            damage.other_size = f"{height} × {width}"

    def _vectors_of(self, frame: Any) -> MotionVectors:
        shown = frame.opaque
        orientation, _ = orientation_of(frame)
        return MotionVectors(
            shown.number,
            shown.blocks,
            shown.distance,
            frame.height,
            frame.width,
            orientation,
            self.output_size,
        )

    def _pictures(self, frame: Any) -> tuple[Picture, Picture | None]:
        orientation, _ = orientation_of(frame)
        rgb_HWC = to_rgb(frame) if self._rgb else None
        grey_HW = fit(to_grey(frame, rgb_HWC), orientation, self.output_size)
        return grey_HW, None if rgb_HWC is None else fit(rgb_HWC, orientation, self.output_size)
