"""Generated videos whose class is a texture and a motion: the quickstart's data.

Nine classes, 3 textures × 3 motions. A soft-edged round patch of texture moves to and fro over
a static background. One frame shows the texture and says nothing of the motion: each clip has a
place, a turn and a scale, of which its motion changes one while the others stand still, and all
three have the same distribution in every frame of every clip. The flow shows the motion and
little of the texture: speed and turning points are drawn alike, and each texture carries the
same weak noise, so that no texture slides along itself unseen. So appearance alone or motion
alone can get a third right, and both together can get all.

Held-out clips have speeds, and in the middle of the motion patch sizes, positions, wavelengths
and orientations, that lie in gaps between those of training; no clip shares its colours, phases,
noise or background with another::

    speed, px/frame    train 0.8─1.1     1.4─1.7       test     1.15─1.35      1.75─1.95
    patch radius, px   train  18─20       23─25        test       20.8─22.2
    wavelength, px     train  7─8        9.5─10.5      test       8.2─9.3
    orientation        train  0─15° 30─45° …           test  15─30° 45─60° …
    position           train  right below, left above  test  left below, right above

Each picture is computed from the texture's formula at the moved coordinates; no pixels are
copied, so that motion is exact to sub-pixel parts.
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flowpipe.atomic import write_aside
from flowpipe.errors import InvalidArgument

TEXTURES = ("checks", "stripes", "blobs")
MOTIONS = ("translate", "rotate", "zoom")
SIZE_PX = 96
NUM_FRAMES = 24
FPS = 25
FORMAT = 1

_ANNOTATIONS = "annotations.csv"
_SETTINGS = "settings.json"
_TEST_SHARE = 3 / 11
_EDGE_PX = 1.5

Array = NDArray[np.float32]


def write_videos(
    folder: str | Path,
    *,
    clips: int = 297,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the videos and their list, or find them written already.

    Parameters
    ----------
    folder
        Where to: `<folder>/<texture>-<motion>/<texture>-<motion>-000.mp4` and so on, H.264,
        96 × 96 px, 24 frames at 25 fps. Made if absent.
    clips
        Number of videos, spread evenly over the nine classes; 3 of 11 are for testing.
    seed
        The same seed gives the same pictures and annotations.
    on_progress
        Called with (videos done, videos in all) after each.

    Returns
    -------
    Path
        `<folder>/annotations.csv` with the columns video (path relative to the folder), label,
        texture, motion and split ("train" or "test"). It is written last: where it stands with
        the same clips and seed, and all its videos, nothing is written again.

    Raises
    ------
    InvalidArgument
        If `clips` is below 18, `seed` is negative, or the folder holds videos of other
        settings.
    """
    classes = [(texture, motion) for texture in TEXTURES for motion in MOTIONS]
    if clips < 2 * len(classes):
        raise InvalidArgument(
            f"clips {clips} must be >= {2 * len(classes)}, one to train and one to test for each "
            "class; 297 is the usual choice"
        )
    if seed < 0:
        raise InvalidArgument(f"seed {seed} must be >= 0; 0 is the usual choice")
    root = Path(folder)
    settings = {"format": FORMAT, "clips": clips, "seed": seed}
    if is_written(root, settings):
        return root / _ANNOTATIONS
    root.mkdir(parents=True, exist_ok=True)
    _write_text(root / _SETTINGS, json.dumps(settings) + "\n")
    rows = []
    for number, (texture, motion) in enumerate(classes):
        count = clips // len(classes) + (number < clips % len(classes))
        num_test = max(1, round(count * _TEST_SHARE))
        (root / f"{texture}-{motion}").mkdir(exist_ok=True)
        for k in range(count):
            split = "test" if k >= count - num_test else "train"
            label = f"{texture}-{motion}"
            video = f"{label}/{label}-{k:03d}.mp4"
            rng = np.random.default_rng([seed, number, k])
            scene = _draw_scene(rng, texture, motion, split)
            _write_video(root / video, [scene.picture(t) for t in range(NUM_FRAMES)])
            rows.append((video, label, texture, motion, split))
            if on_progress is not None:
                on_progress(len(rows), clips)
    header = ("video", "label", "texture", "motion", "split")
    lines = [",".join(row) for row in (header, *rows)]
    _write_text(root / _ANNOTATIONS, "\n".join(lines) + "\n")
    return root / _ANNOTATIONS


@dataclass(frozen=True)
class _Waves:
    """Sum of plane waves of random direction and phase, of unit variance."""

    frequencies_K2: Array
    phases_K: Array

    def __call__(self, x: Array, y: Array) -> Array:
        total = np.zeros_like(x)
        for (fx, fy), phase in zip(self.frequencies_K2, self.phases_K, strict=True):
            total += np.cos(fx * x + fy * y + phase)
        return total * np.float32(math.sqrt(2 / len(self.phases_K)))


@dataclass(frozen=True)
class _Scene:
    """One clip: a texture, its patch, its motion and what lies behind."""

    texture: str
    motion: str
    speed: float
    travel_px: float
    phases_px: tuple[float, ...]
    direction: float
    radius_px: float
    centre_xy: tuple[float, float]
    wavelength_px: float
    orientation: float
    shift_xy: tuple[float, float]
    blobs: _Waves
    noise: _Waves
    colours_2C: Array
    background_HWC: Array

    def displacement_px(self, motion: str, t: float) -> float:
        """Give how far one of the three motions stands from its middle at frame t.

        That of the clip's motion is a triangle wave of slope ± `speed`; the others stand still
        where the same wave may be, so that one frame has the same distribution in all.
        """
        travelled = self.speed * t if motion == self.motion else 0.0
        along = (self.phases_px[MOTIONS.index(motion)] + travelled) % (2 * self.travel_px)
        return abs(along - self.travel_px) - self.travel_px / 2

    def to_texture(self, x: Array, y: Array, t: float) -> tuple[Array, Array]:
        """Give the patch coordinates (px, origin in its centre) seen at picture coordinates."""
        moved_px = self.displacement_px("translate", t)
        # The mean of |position| over a disc is 2/3 of its radius: with 1.5 the mean speeds of
        # the three motions agree.
        angle = 1.5 * self.displacement_px("rotate", t) / self.radius_px
        shrink = math.exp(-1.5 * self.displacement_px("zoom", t) / self.radius_px)
        x = x - self.centre_xy[0] - moved_px * math.cos(self.direction)
        y = y - self.centre_xy[1] - moved_px * math.sin(self.direction)
        cos, sin = shrink * math.cos(angle), shrink * math.sin(angle)
        return cos * x + sin * y, cos * y - sin * x

    def value(self, x: Array, y: Array) -> Array:
        """Give the texture in about [0, 1] at patch coordinates in px."""
        cos, sin = math.cos(self.orientation), math.sin(self.orientation)
        wave_number = 2 * math.pi / self.wavelength_px
        along = np.sin(wave_number * (cos * x + sin * y + self.shift_xy[0]))
        if self.texture == "stripes":
            main = np.tanh(3 * along)
        elif self.texture == "checks":
            across = np.sin(wave_number * (cos * y - sin * x + self.shift_xy[1]))
            main = np.tanh(3 * along) * np.tanh(3 * across)
        else:
            main = np.tanh(1.5 * self.blobs(x, y))
        return np.asarray(0.5 + 0.38 * main + 0.12 * np.tanh(self.noise(x, y)), dtype=np.float32)

    def picture(self, t: float) -> NDArray[np.uint8]:
        """Give frame t, rgb_HWC."""
        y, x = np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float32)
        u, v = self.to_texture(x, y, t)
        distance = self.radius_px - np.hypot(u, v)
        cover = np.clip(distance / _EDGE_PX + 0.5, 0, 1)
        inside = cover > 0
        value = self.value(u[inside], v[inside])[:, None]
        patch = self.colours_2C[0] + value * (self.colours_2C[1] - self.colours_2C[0])
        picture = self.background_HWC.copy()
        weight = cover[inside][:, None]
        picture[inside] = weight * patch + (1 - weight) * picture[inside]
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


# (low, high) ranges of training and of testing, disjoint.
_RANGES: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "speed": {"train": ((0.8, 1.1), (1.4, 1.7)), "test": ((1.15, 1.35), (1.75, 1.95))},
    "radius": {"train": ((18.0, 20.0), (23.0, 25.0)), "test": ((20.8, 22.2),)},
    "wavelength": {"train": ((7.0, 8.0), (9.5, 10.5)), "test": ((8.2, 9.3),)},
}
_ORIENTATION_BINS = 12  # of 15°; the even ones are for training


def _draw(rng: np.random.Generator, name: str, split: str) -> float:
    ranges = _RANGES[name][split]
    low, high = ranges[rng.integers(len(ranges))]
    return float(rng.uniform(low, high))


def _draw_scene(rng: np.random.Generator, texture: str, motion: str, split: str) -> _Scene:
    odd = int(split == "test")
    width = math.pi / _ORIENTATION_BINS
    orientation = (2 * rng.integers(_ORIENTATION_BINS // 2) + odd + rng.uniform(0.05, 0.95)) * width
    side = rng.choice((-1.0, 1.0))
    right, below = side * rng.uniform(1, 5), side * rng.uniform(1, 5) * (-1 if odd else 1)
    middle = (SIZE_PX - 1) / 2
    wavelength_px = _draw(rng, "wavelength", split)
    travel_px = float(rng.uniform(8, 11))
    return _Scene(
        texture=texture,
        motion=motion,
        speed=_draw(rng, "speed", split),
        travel_px=travel_px,
        phases_px=tuple(rng.uniform(0, 2 * travel_px, len(MOTIONS)).tolist()),
        direction=float(rng.uniform(0, 2 * math.pi)),
        radius_px=_draw(rng, "radius", split),
        centre_xy=(middle + right, middle + below),
        wavelength_px=wavelength_px,
        orientation=float(orientation),
        shift_xy=(float(rng.uniform(0, 50)), float(rng.uniform(0, 50))),
        blobs=_draw_waves(rng, 7, 0.9 * wavelength_px, 1.4 * wavelength_px),
        noise=_draw_waves(rng, 6, 7.0, 14.0),
        colours_2C=_draw_colours(rng, contrast=rng.uniform(100, 160)),
        background_HWC=_draw_background(rng),
    )


def _draw_waves(rng: np.random.Generator, count: int, shortest: float, longest: float) -> _Waves:
    angles = rng.uniform(0, 2 * math.pi) + np.arange(count) * (math.pi * (3 - math.sqrt(5)))
    wave_numbers = 2 * math.pi / rng.uniform(shortest, longest, count)
    frequencies = wave_numbers[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    phases = rng.uniform(0, 2 * math.pi, count)
    return _Waves(frequencies.astype(np.float32), phases.astype(np.float32))


def _draw_colours(rng: np.random.Generator, *, contrast: float) -> Array:
    """Draw two colours whose brightness differs by `contrast`, the tint of each at random."""
    low = rng.uniform(20, 235 - contrast)
    brightness = np.array([low, low + contrast])[rng.permutation(2)]
    return (brightness[:, None] + rng.uniform(-20, 20, (2, 3))).astype(np.float32)


def _draw_background(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float32)
    cloud = np.tanh(_draw_waves(rng, 8, 12.0, 40.0)(x, y))[:, :, None]
    colours = _draw_colours(rng, contrast=rng.uniform(20, 60))
    grain = rng.normal(0, 5, (SIZE_PX, SIZE_PX, 1))
    picture = colours.mean(axis=0) + 0.5 * cloud * (colours[1] - colours[0]) + grain
    return np.asarray(picture, dtype=np.float32)


def _write_video(path: Path, pictures: list[NDArray[np.uint8]]) -> None:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with write_aside(path) as file, av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = NUM_FRAMES
        stream.options = {"crf": "17", "preset": "veryfast"} if codec == "libx264" else {}
        if codec == "mpeg4":
            stream.bit_rate = 1_000_000
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_text(path: Path, text: str) -> None:
    with write_aside(path, "w") as file:
        file.write(text)


def is_written(root: Path, settings: dict[str, int]) -> bool:
    """Return whether generated videos of these settings are all there; refuse those of others."""
    if not (root / _SETTINGS).is_file():
        if (root / _ANNOTATIONS).exists():
            raise InvalidArgument(
                f"{root} holds an {_ANNOTATIONS} that is not of generated videos; "
                "give another folder"
            )
        return False
    found = json.loads((root / _SETTINGS).read_text(encoding="utf-8"))
    if found != settings:
        raise InvalidArgument(
            f"{root} holds generated videos of the settings {found}, not {settings}; "
            "give another folder"
        )
    if not (root / _ANNOTATIONS).is_file():
        return False
    with (root / _ANNOTATIONS).open(encoding="utf-8", newline="") as stream:
        return all((root / row["video"]).is_file() for row in csv.DictReader(stream))
