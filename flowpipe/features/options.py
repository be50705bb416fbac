"""What is computed of a frozen network, as a record."""

from dataclasses import dataclass, replace
from typing import Literal

from flowpipe.clips.streams import StreamInput
from flowpipe.clips.transforms import TestCrops
from flowpipe.errors import InvalidArgument

Storage = Literal["f16", "f32"]


@dataclass(frozen=True)
class FeatureOptions:
    """Which snippets and boxes a network sees, and what is kept; None: as the network has it.

    Attributes
    ----------
    frames : int, optional
        Items of a snippet. [default: what the network takes]
    clip_step : int, optional
        Items from the start of a snippet to that of the next. [default: no gap, no overlap]
    fps : float, optional
        Take items at this many per second, by timestamp.
    crops : {"center", "three", "five", "ten"}
        Boxes of each frame; the mean over several is kept.
    crop_size : (int, int), optional
        The network's input (height, width) in px. [default: the network's]
    crop_scale : float, optional
        Box, as a share of the largest that fits. [default: the network's]
    spatial : bool
        Keep maps, T×D×H×W, not their mean.
    storage : "f16" or "f32"
        Precision in the store.
    """

    frames: int | None = None
    clip_step: int | None = None
    fps: float | None = None
    crops: TestCrops = "center"
    crop_size: tuple[int, int] | None = None
    crop_scale: float | None = None
    spatial: bool = False
    storage: Storage = "f16"

    def __post_init__(self) -> None:
        for name in ("frames", "clip_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} {value} must be ≥ 1", parameter=name)
        if self.storage not in ("f16", "f32"):
            raise InvalidArgument(
                f'storage "{self.storage}" must be one of f16, f32', parameter="storage"
            )
        if self.spatial and self.crops != "center":
            raise InvalidArgument(
                f'maps of "{self.crops}" crops have no mean; spatial needs "center"',
                parameter=("spatial", "crops"),
            )

    def stream_of(self, stream: StreamInput) -> StreamInput:
        """Return what a network looks at under these options; its `frames` stay."""
        if self.fps is not None:
            stream = replace(stream, fps=self.fps, frame_step=1)
        if self.crop_size is not None:
            stream = replace(stream, crop_size=self.crop_size)
        return stream
