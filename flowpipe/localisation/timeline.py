"""Seconds ↔ steps of a video's features, by the stored times of its snippets; examples.

A step is a place between snippets: snippet i is step i, halfway to the next is i + .5. Nothing
here knows a stride or a frame rate, so that variable ones need no care.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument
from flowpipe.features.align import AlignedFeatures
from flowpipe.localisation.annotations import Annotations


@dataclass(frozen=True)
class Sample:
    """A video as the localisation methods see it.

    Attributes
    ----------
    video : str
    features : array of T×D float32
    centre_s : array of T float64
        The middle of each snippet, ascending.
    step_s : float
        Usual time from one to the next; of a single snippet its length.
    end_s : float
        Where the video ends.
    """

    video: str
    features: npt.NDArray[np.float32]
    centre_s: npt.NDArray[np.float64]
    step_s: float
    end_s: float

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.centre_s) or not len(self):
            raise InvalidArgument(
                f"features of {self.video} of shape {self.features.shape} with "
                f"{len(self.centre_s)} times must be T×D, one time for each; maps are no features "
                "of a snippet, take their mean"
            )

    def __len__(self) -> int:
        return len(self.centre_s)

    @classmethod
    def of(cls, video: str, aligned: AlignedFeatures, end_s: float | None = None) -> "Sample":
        """Return the sample of a video's features; without `end_s` the video ends with them."""
        span_s = aligned.span_s
        step_s = float(span_s[0, 1] - span_s[0, 0])
        if len(aligned.centre_s) > 1:
            step_s = float(np.median(np.diff(aligned.centre_s)))
        end = float(span_s[:, 1].max()) if end_s is None else end_s
        return cls(video, aligned.features, aligned.centre_s, step_s, end)

    def to_steps(self, seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the steps of moments, beyond the ends at the usual step."""
        moments, last = np.asarray(seconds, np.float64), len(self) - 1
        steps = np.interp(moments, self.centre_s, np.arange(len(self)))
        before, after = moments - self.centre_s[0], moments - self.centre_s[-1]
        steps = np.where(before < 0, before / self.step_s, steps)
        return np.where(after > 0, last + after / self.step_s, steps)

    def to_seconds(self, steps: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the moments of steps, within the video."""
        places, last = np.asarray(steps, np.float64), len(self) - 1
        moments = np.interp(places, np.arange(len(self)), self.centre_s)
        moments = np.where(places < 0, self.centre_s[0] + places * self.step_s, moments)
        beyond = self.centre_s[-1] + (places - last) * self.step_s
        return np.where(places > last, beyond, moments).clip(0.0, self.end_s)


@dataclass(frozen=True)
class Example:
    """A video with its instances in steps.

    Attributes
    ----------
    sample : Sample
    segments : array of M×2 float32
    labels : array of M int64
    """

    sample: Sample
    segments: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def examples_of(
    samples: Sequence[Sample], annotations: Annotations, classes: Sequence[str]
) -> list[Example]:
    """Join samples with their instances; instances of other classes are left out."""
    number = {name: place for place, name in enumerate(classes)}
    rows: dict[str, list[int]] = {}
    for row, (video, label) in enumerate(
        zip(annotations.segments.videos, annotations.segments.labels, strict=True)
    ):
        if label in number:
            rows.setdefault(video, []).append(row)
    joined = []
    for sample in samples:
        own = rows.get(sample.video, [])
        steps = sample.to_steps(annotations.segments.times_s[own].reshape(-1, 2))
        labels = np.array([number[annotations.segments.labels[row]] for row in own], np.int64)
        joined.append(Example(sample, steps.astype(np.float32), labels))
    return joined


def standard_of(samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return mean and standard deviation of each feature over all snippets of all videos."""
    count = sum(map(len, samples))
    mean = sum(sample.features.sum(0, dtype=np.float64) for sample in samples) / count
    square = sum(((sample.features - mean) ** 2).sum(0, dtype=np.float64) for sample in samples)
    return np.asarray(mean), np.sqrt(square / count)
