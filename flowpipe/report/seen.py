"""The pages of what classes like: one that names them, and one that lets a person guess.

Each picture is one PNG inside the page: its moments side by side, a film strip, which the page's
style plays as a clip. No script, and nothing outside the file.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.report.page import write_page

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SeenClip:
    """What one stream's class likes best at one speed.

    Attributes
    ----------
    stream, speed : str
    strip : array of H×(N·W)×3 uint8
        The N moments side by side; of a refused clip there is none.
    moments : int
        N.
    slice_HWC : array, optional
        The middle line over time: x to the right, t down.
    activation, noise : float
        The class's logit, and its mean for noise of the same strength.
    best_training : float, optional
        The highest logit of a training clip of the class, where the training videos are at hand.
    best_clip : str
        Which one.
    refusal : str
        Why there is no picture.
    """

    stream: str
    speed: str
    strip: Picture | None = None
    moments: int = 1
    slice_HWC: Picture | None = None
    activation: float | None = None
    noise: float | None = None
    best_training: float | None = None
    best_clip: str = ""
    refusal: str = ""

    def __post_init__(self) -> None:
        if (self.strip is None) == (not self.refusal):
            raise InvalidArgument(
                f"{self.stream} {self.speed} must have a strip of pictures or a reason why not"
            )
        if self.strip is not None and self.strip.shape[1] % self.moments:
            raise InvalidArgument(
                f"a strip {self.strip.shape[1]} px wide cannot hold {self.moments} moments"
            )

    @property
    def width(self) -> int:
        """Of one moment, in px."""
        return 0 if self.strip is None else self.strip.shape[1] // self.moments


@dataclass(frozen=True)
class SeenClass:
    """A class and what each stream likes of it."""

    name: str
    clips: Sequence[SeenClip]


def write_classes_page(path: Path, title: str, classes: Sequence[SeenClass]) -> Path:
    """Write what each class likes, side by side, with its activations."""
    refused = sum(bool(clip.refusal) for each in classes for clip in each.clips)
    who = "one class likes" if len(classes) == 1 else f"{len(classes)} classes like"
    notes = [f"{refused} refused: nothing better than noise was found."] if refused else []
    return write_page(
        path,
        "seen.html",
        title=title,
        headline=f"What {who} best",
        notes=notes,
        classes=[(each, _drawn(each)) for each in classes],
        is_quiz=False,
        names=[],
    )


def write_quiz_page(path: Path, title: str, classes: Sequence[SeenClass], *, seed: int = 0) -> Path:
    """Write the same pictures without names, in an order of chance; the answers are folded."""
    order = np.random.default_rng(seed).permutation(len(classes))
    shown = [classes[int(number)] for number in order]
    return write_page(
        path,
        "seen.html",
        title=title,
        headline="Can you guess the action?",
        notes=["What the networks like best of one class each. The answer is below the pictures."],
        classes=[(each, _drawn(each)) for each in shown if _drawn(each)],
        is_quiz=True,
        names=sorted(each.name for each in classes),
    )


def _drawn(each: SeenClass) -> list[tuple[SeenClip, str, str]]:
    """Return each clip that has a picture, and its strip and its slice as data."""
    return [
        (clip, _data(clip.strip), "" if clip.slice_HWC is None else _data(clip.slice_HWC))
        for clip in each.clips
        if clip.strip is not None
    ]


def _data(picture: Picture) -> str:
    _, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
