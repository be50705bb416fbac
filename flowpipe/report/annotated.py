"""A video with what was seen in its picture or written under it, as H.264 that plays anywhere."""

import bisect
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside
from flowpipe.detection.tracks import Track, labels_of
from flowpipe.video import VideoReader, probe

LETTERS_PX = 14  # of texts beyond ASCII
STRIP_PX = 30
TICKS_PER_S = 90_000
INK, PAPER, BAR = (240, 240, 240), (24, 24, 28), (90, 150, 230)
# Colors of persons, apart from each other for most color-blind people too (Okabe, Ito 2008).
PERSON_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
# Below this short side a picture with boxes is enlarged, so that their labels can be read.
LEAST_BOXED_SIDE = 360


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
    starts = [segment.start_s for segment in segments]

    def pictures() -> Iterable[tuple[float, NDArray[np.uint8]]]:
        for frame in VideoReader(video, short_side=short_side, rgb=True):
            assert frame.rgb_HWC is not None
            place = bisect.bisect_right(starts, frame.pts_s) - 1
            now = segments[place] if place >= 0 and frame.pts_s < segments[place].end_s else None
            yield frame.pts_s, _with_strip(frame.rgb_HWC, frame.pts_s, now)

    with write_aside(out) as file:
        encode(file, pictures())
    return out


def write_boxes(
    video: Path,
    out: Path,
    tracks: Sequence[Track],
    classes: Sequence[str],
    *,
    min_score: float = 0.3,
    short_side: int | None = None,
) -> Path:
    """Write a video with a box about each person, in the person's color, and what they do.

    Parameters
    ----------
    video : Path
    out : Path
        An .mp4.
    tracks : sequence of Track
    classes : sequence of str
        Those of the tracks' scores.
    min_score : float
        Of an action that is written beside the best one.
    short_side : int, optional
        Of the picture in px; as it is by default, but 360 at least.
    """
    info = probe(video)
    short_side = short_side or max(min(info.width, info.height), LEAST_BOXED_SIDE)

    def pictures() -> Iterable[tuple[float, NDArray[np.uint8]]]:
        first_s: float | None = None
        for frame in VideoReader(video, short_side=short_side, rgb=True):
            assert frame.rgb_HWC is not None
            first_s = frame.pts_s if first_s is None else first_s
            picture = frame.rgb_HWC.copy()
            scale = picture.shape[1] / info.width, picture.shape[0] / info.height
            draw_persons(
                picture, tracks, classes, frame.pts_s - first_s, scale=scale, min_score=min_score
            )
            yield frame.pts_s, _with_strip(picture, frame.pts_s - first_s, None)

    with write_aside(out) as file:
        encode(file, pictures())
    return out


def draw_persons(
    picture_HWC: NDArray[np.uint8],
    tracks: Sequence[Track],
    classes: Sequence[str],
    time_s: float,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    min_score: float = 0.3,
) -> None:
    """Draw the persons of a moment into a picture; `scale` is its px per px of the boxes."""
    height, width = picture_HWC.shape[:2]
    taken: list[tuple[int, int, int, int]] = []
    for track in tracks:
        box_4 = track.box_at(time_s)
        if box_4 is None:
            continue
        color = PERSON_COLORS[track.number % len(PERSON_COLORS)]
        x1, y1, x2, y2 = np.rint(box_4 * np.tile(scale, 2)).astype(int).tolist()
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            continue
        cv2.rectangle(picture_HWC, (x1, y1), (x2 - 1, y2 - 1), color, 2)
        labels = labels_of(track.scores_at(time_s), classes, min_score=min_score)
        lines = [f"{label} {score:.2f}" for label, score in labels]
        lines[0] = f"{track.number}: {lines[0]}"
        _plate(picture_HWC, lines, (x1, y1, x2, y2), color, (width, height), taken)


def _plate(
    picture_HWC: NDArray[np.uint8],
    lines: Sequence[str],
    box: tuple[int, int, int, int],
    color: tuple[int, int, int],
    size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write lines on a plate above the box, else below, else where no other plate is."""
    wide = max(_text_px(line) for line in lines) + 8
    high = 16 * len(lines) + 4
    x = max(0, min(box[0], size[0] - wide))
    places = [box[1] - high, box[3], box[1] + 2, *range(0, size[1] - high, 6)]
    free = [y for y in places if 0 <= y <= size[1] - high]
    apart = [
        y
        for y in free
        if all(
            x >= other[2] or x + wide <= other[0] or y >= other[3] or y + high <= other[1]
            for other in taken
        )
    ]
    y = (apart or free or [0])[0]
    taken.append((x, y, x + wide, y + high))
    cv2.rectangle(picture_HWC, (x, y), (x + wide - 1, y + high - 1), color, cv2.FILLED)
    for number, line in enumerate(lines):
        _write(picture_HWC, line, x + 4, y + 14 + 16 * number, ink=PAPER)


def encode(file: Any, pictures: Iterable[tuple[float, NDArray[np.uint8]]], crf: int = 23) -> None:
    """Write pictures of even sides, each with its time in seconds, as H.264 in an mp4 file."""
    first_s: float | None = None
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(30))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "preset": "veryfast"}
        stream.time_base = Fraction(1, TICKS_PER_S)
        stream.codec_context.time_base = stream.time_base
        last_pts = -1
        for time_s, picture in pictures:
            if first_s is None:
                first_s = time_s
                stream.height, stream.width = picture.shape[:2]
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            last_pts = max(last_pts + 1, round((time_s - first_s) * TICKS_PER_S))
            shown.pts, shown.time_base = last_pts, stream.time_base
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))


def even(picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with sides that H.264 takes: odd ones repeat their last row or column."""
    height, width = picture_HWC.shape[:2]
    padded = np.pad(picture_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)


def _with_strip(
    rgb_HWC: NDArray[np.uint8], time_s: float, segment: SegmentLike | None
) -> NDArray[np.uint8]:
    """Return the picture over a strip with label, score and time."""
    width = rgb_HWC.shape[1]
    strip = np.full((STRIP_PX, width, 3), PAPER, np.uint8)
    if segment is not None:
        strip[-4:, : max(1, round(width * segment.score))] = BAR
        _write(strip, f"{segment.label} {segment.score:.2f}", 6, 18)
    clock = f"{int(time_s) // 60}:{time_s % 60:04.1f}"
    _write(strip, clock, width - 8 * len(clock) - 6, 18)
    return even(np.concatenate([rgb_HWC, strip]))


def _text_px(text: str) -> int:
    if not _needs_letters(text):
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])
    place = cv2.getTextSize((10_000, 100), text, (0, 50), cv2.FontFace("sans"), LETTERS_PX)
    return int(place[2])


def _write(
    picture: NDArray[np.uint8], text: str, x: int, y: int, ink: tuple[int, int, int] = INK
) -> None:
    if _needs_letters(text):
        cv2.putText(picture, text, (x, y), ink, cv2.FontFace("sans"), LETTERS_PX)
    else:
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, 1, cv2.LINE_AA)


def _needs_letters(text: str) -> bool:
    """Return whether a text has letters that only the fonts of OpenCV 5 have."""
    return not text.isascii() and hasattr(cv2, "FontFace")
