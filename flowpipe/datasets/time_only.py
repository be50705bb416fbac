"""Generated videos that only time tells apart: every frame, for itself, is noise.

A word or a shape is drawn by motion alone. Inside its outline noise moves one way, outside the
other; both are the same noise, so that a frame has no outline, edge or texture. People read 98 % of
such videos, video-language models none (SpookyBench, CVPR 2026). Four kinds::

    noise      speed, px/frame      each grain one px, or smoothed over about three
    raw           1    2
    blurred       1    3

Smoothing comes after the two noises are put together, and the encoding is lossless: neither a
seam nor an encoder's saving shows where the outline is. Held-out clips differ in noise, place,
size, direction and kind from those of training as these differ among themselves.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside
from flowpipe.datasets.synthetic import is_written
from flowpipe.errors import InvalidArgument

SHAPES = ("circle", "square", "triangle", "cross", "ring")
WORDS = ("GO", "NO", "UP", "HI", "OK")
CLASSES = (*SHAPES, *(word.lower() for word in WORDS))
KINDS = (("raw", 1), ("raw", 2), ("blurred", 1), ("blurred", 3))
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))

SIZE_PX = 112
NUM_FRAMES = 8
FPS = 25
FORMAT = 1
TEST_SHARE = 0.25
BLUR_SIGMA_PX = 1.0
BLACK, WHITE = 16, 235
"""Of video: what the decoder stretches to 0..255."""

_ANNOTATIONS = "annotations.csv"
_SETTINGS = "settings.json"


def write_videos(
    folder: str | Path,
    *,
    clips: int = 800,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the videos and their list, or find them written already.

    Parameters
    ----------
    folder
        Where to: `<folder>/<class>/<class>-000.mp4` and so on, lossless H.264, 112 × 112 px, 8
        frames. Made if absent.
    clips
        Number of videos, spread evenly over the ten classes; a quarter is for testing.
    seed
        The same seed gives the same videos.
    on_progress
        Called with (videos done, videos in all) after each.

    Returns
    -------
    Path
        `<folder>/annotations.csv` with the columns video, label, noise, speed_px and split.

    Raises
    ------
    InvalidArgument
        If `clips` is below 80, `seed` is negative, or the folder holds other files.
    """
    if clips < 8 * len(CLASSES) or seed < 0:
        raise InvalidArgument(
            f"clips {clips} must be >= {8 * len(CLASSES)} and seed {seed} >= 0; 800 and 0 are usual"
        )
    root = Path(folder)
    settings = {"format": FORMAT, "time_only_clips": clips, "seed": seed}
    if is_written(root, settings):
        return root / _ANNOTATIONS
    root.mkdir(parents=True, exist_ok=True)
    with write_aside(root / _SETTINGS, "w") as file:
        file.write(json.dumps(settings) + "\n")
    rows = []
    for number in range(clips):
        label, k = CLASSES[number % len(CLASSES)], number // len(CLASSES)
        count = len(range(number % len(CLASSES), clips, len(CLASSES)))
        split = "test" if k >= count - max(1, round(count * TEST_SHARE)) else "train"
        noise, speed = KINDS[k % len(KINDS)]
        (root / label).mkdir(exist_ok=True)
        video = f"{label}/{label}-{k:03d}.mp4"
        rng = np.random.default_rng([seed, number])
        write_video(root / video, frames(rng, label, noise, speed))
        rows.append((video, label, noise, str(speed), split))
        if on_progress is not None:
            on_progress(number + 1, clips)
    with write_aside(root / _ANNOTATIONS, "w") as file:
        for row in (("video", "label", "noise", "speed_px", "split"), *rows):
            file.write(",".join(row) + "\n")
    return root / _ANNOTATIONS


def frames(
    rng: np.random.Generator, label: str, noise: str, speed_px: int
) -> list[NDArray[np.uint8]]:
    """Draw the grey frames of one clip, 0..255."""
    inside = outline(rng, label)
    dx, dy = DIRECTIONS[rng.integers(len(DIRECTIONS))]
    reach = speed_px * NUM_FRAMES
    figure, ground = rng.random((2, SIZE_PX + 2 * reach, SIZE_PX + 2 * reach)).astype(np.float32)
    pictures = []
    for t in range(NUM_FRAMES):
        parts = []
        for grains, sign in ((figure, 1), (ground, -1)):
            top, left = reach - sign * dy * speed_px * t, reach - sign * dx * speed_px * t
            parts.append(grains[top : top + SIZE_PX, left : left + SIZE_PX])
        picture = np.where(inside, *parts)
        if noise == "blurred":
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), BLUR_SIGMA_PX), np.float32)
            # Smoothing takes contrast, which is given back.
            picture = np.clip(0.5 + (picture - 0.5) * (2 * np.sqrt(np.pi) * BLUR_SIGMA_PX), 0, 1)
        pictures.append(np.rint(255 * picture).astype(np.uint8))
    return pictures


def outline(rng: np.random.Generator, label: str) -> NDArray[np.bool_]:
    """Draw where a word or shape is: H×W, its size and place at random."""
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    x, y = (int(SIZE_PX // 2 + rng.integers(-10, 11)) for _ in range(2))
    r = int(rng.integers(24, 33))
    if label == "circle":
        cv2.circle(mask, (x, y), r, 1, -1)
    elif label == "ring":
        cv2.circle(mask, (x, y), r, 1, r // 2)
    elif label == "square":
        cv2.rectangle(mask, (x - r, y - r), (x + r, y + r), 1, -1)
    elif label == "cross":
        arm = r // 3
        cv2.rectangle(mask, (x - r, y - arm), (x + r, y + arm), 1, -1)
        cv2.rectangle(mask, (x - arm, y - r), (x + arm, y + r), 1, -1)
    elif label == "triangle":
        corners = np.array([(x, y - r), (x - r, y + r), (x + r, y + r)], np.int32)
        cv2.fillPoly(mask, [corners], 1)
    else:
        font, scale, thick = cv2.FONT_HERSHEY_SIMPLEX, r / 15, 11
        (width, height), _ = cv2.getTextSize(label.upper(), font, scale, thick)
        left, base = x - width // 2, y + height // 2
        cv2.putText(mask, label.upper(), (left, base), font, scale, 1, thick)
    return mask.astype(bool)


def write_video(path: Path, pictures: list[NDArray[np.uint8]]) -> None:
    """Write grey pictures as lossless H.264."""
    aside = path.with_name(f".{path.name}.part")
    with av.open(str(aside), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"qp": "0", "preset": "veryfast"}
        for number, picture in enumerate(pictures):
            planes = np.full((SIZE_PX * 3 // 2, SIZE_PX), 128, np.uint8)
            planes[:SIZE_PX] = np.rint(BLACK + picture * ((WHITE - BLACK) / 255))
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    aside.replace(path)
