"""From a file to decoded frames (libavcodec), and a record of what went wrong on the way."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from flowpipe.errors import VideoError
from flowpipe.video.vectors import EXPORT, UNFILTERED, VectorTracker

MAX_PIXELS = 8192 * 8192


# Forms of texts that name other files, whose content their own digest does not tell.
SCRIPTS = frozenset(("concat", "dash", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest"))


@dataclass
class Damage:
    """What went wrong during one pass over a video."""

    failed_packets: int = 0
    first_failure: str = ""
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    moved_times: int = 0
    restarts: int = 0
    other_size: str = ""
    strange_rotation: float | None = None
    early_end: str = ""
    num_frames: int = 0
    first_pts_s: float = 0.0
    end_s: float = 0.0

    def failure(self, error: Exception) -> None:
        self.failed_packets += 1
        self.first_failure = self.first_failure or str(getattr(error, "strerror", "") or error)

    def check_end(self, container: Any) -> None:
        """Compare what was there with what the header promises."""
        stream, duration_s = video_stream(container), duration_s_of(container)
        if container.format.name == "avi":
            # The duration is made of what is there; the count is the header's.
            promised, rate = stream.frames, positive(stream.average_rate) or 25.0
            if promised - self.num_frames > max(2, 0.5 * rate, 0.05 * promised):
                self.early_end = f"partial: {self.num_frames} of {promised} frames"
                return
        if duration_s is None or self.restarts:
            return
        # A header's duration counts from zero (Matroska) or from the first frame (MPEG-TS).
        end_s = max(self.end_s, self.end_s - self.first_pts_s)
        if end_s < duration_s - max(0.5, 0.05 * duration_s):
            self.early_end = f"partial: ends at {end_s:.1f} s of {duration_s:.1f} s"

    def reason(self) -> str | None:
        said = [self.early_end] if self.early_end else []
        if self.failed_packets:
            said.append(f"{self.failed_packets} packets failed to decode ({self.first_failure})")
        if self.corrupt_packets:
            said.append(f"{self.corrupt_packets} packets are damaged or parts before them lost")
        if self.corrupt_frames:
            said.append(f"{self.corrupt_frames} frames marked as corrupt by the decoder")
        if self.moved_times:
            said.append(f"{self.moved_times} timestamps did not increase and were moved")
        if self.restarts:
            said.append(
                f"timestamps begin anew or jump at {self.restarts} places, as in files that were "
                "joined; each part was put behind the one before it"
            )
        if self.other_size:
            said.append(f"the frame size changes to {self.other_size} px; brought to the first")
        if self.strange_rotation is not None:
            said.append(f"a rotation of {self.strange_rotation:g}° is left out")
        return "; ".join(said) or None


def open_container(
    source: Path,
    max_pixels: int,
    decode_threads: int,
    *,
    vectors: bool = False,
    pictures: bool = True,
) -> Any:
    if source.stat().st_size == 0:
        raise VideoError(f"{source} has no bytes; copy or download it again")
    try:
        # An absolute path, so that no name reads as an option or a protocol ("a:b.mp4").
        container = av.open(
            str(source.absolute()),
            options={"protocol_whitelist": "file"},
            metadata_errors="ignore",
        )
    except av.FFmpegError as error:
        raise VideoError(
            f"{source} cannot be opened as a video: {error.strerror}; "
            "check that it is one, and whole"
        ) from error
    problem = None
    stream = video_stream(container)
    if SCRIPTS.intersection(container.format.name.split(",")):
        problem = f"is a text ({container.format.name}) that names other files; give those"
    elif stream is None:
        problem = "has no video stream; leave it out"
    else:
        context: Any = stream.codec_context
        if context is None:
            problem = "has a video codec that libavcodec does not know; convert it, e.g. to H.264"
        elif context.width * context.height > max_pixels:
            problem = (
                f"has frames of {context.height} × {context.width} px, more than max_pixels "
                f"{max_pixels}; raise max_pixels if the video is meant"
            )
        else:
            context.thread_count = decode_threads
            context.thread_type = "AUTO" if decode_threads > 1 else "NONE"
            context.options = {
                "max_pixels": str(max_pixels),
                **(EXPORT if vectors else {}),
                **({} if pictures else UNFILTERED),
            }
    if problem is not None:
        container.close()
        raise VideoError(f"{source} {problem}")
    return container


def video_stream(container: Any) -> Any:
    """Return the stream that players show; None where there is none.

    It is libavformat's best stream, by its disposition, then by frames and bit rate; a cover
    picture is taken only where there is nothing else.
    """
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    moving = [stream for stream in streams if not stream.disposition & pictures]
    best = container.streams.best("video")
    if best in (moving or streams) or not streams:
        return best
    return max(
        moving or streams,
        key=lambda stream: (
            bool(stream.disposition & Disposition.default),
            stream.frames,
            stream.codec_context.width * stream.codec_context.height,
        ),
    )


def decoded_frames(
    container: Any,
    damage: Damage,
    max_pixels: int,
    source: Path,
    tracker: VectorTracker | None = None,
) -> Iterator[Any]:
    """Yield the frames that decode, with their vectors if a tracker is there to follow them.

    Packets that fail are passed over.
    """
    packets = _packets(container, damage)
    if tracker is not None:
        noted = tracker.note_packets(packets)
        yield from tracker.follow(_decoded(noted, damage, max_pixels, source))
    else:
        yield from _decoded(packets, damage, max_pixels, source)


def _decoded(
    packets: Iterator[Any], damage: Damage, max_pixels: int, source: Path
) -> Iterator[Any]:
    for packet in packets:
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            damage.failure(error)
            continue
        for frame in frames:
            if frame.width * frame.height > max_pixels:
                raise VideoError(
                    f"{source} has a frame of {frame.height} × {frame.width} px, more than "
                    f"max_pixels {max_pixels}; raise max_pixels if the video is meant"
                )
            damage.corrupt_frames += bool(frame.is_corrupt)
            damage.num_frames += 1
            yield frame


def _packets(container: Any, damage: Damage) -> Iterator[Any]:
    """Yield the packets of the video stream, last the empty one that flushes the decoder."""
    stream = video_stream(container)
    failures_in_a_row = 0
    while True:
        try:
            for packet in container.demux(stream):
                failures_in_a_row = 0
                damage.corrupt_packets += bool(packet.is_corrupt)
                yield packet
            return
        except av.FFmpegError as error:
            damage.failure(error)
            failures_in_a_row += 1
            if failures_in_a_row > 3:
                return


def duration_s_of(container: Any) -> float | None:
    """Return the duration of the video stream by its header, else that of the container."""
    stream = video_stream(container)
    if stream.duration is not None and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    written = dict(stream.metadata).get("DURATION", "")  # Matroska, "00:00:10.400000000"
    try:
        hours, minutes, seconds = (float(part) for part in written.split(":"))
        return positive(3600 * hours + 60 * minutes + seconds)
    except ValueError:
        return positive(container.duration / av.time_base if container.duration else None)


def positive(value: Any) -> float | None:
    """Return a number of a header as float; None where it is none that can be."""
    return float(value) if value is not None and 0 < value < math.inf else None


def no_frame(source: Path, damage: Damage) -> str:
    cause = f" ({damage.first_failure})" if damage.first_failure else ""
    return (
        f"{source}: no frame of the video stream can be decoded{cause}; "
        "copy or convert it again, or leave it out"
    )
