"""What one network looks at, and which items of a video a clip of it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flowpipe.clips import sampling
from flowpipe.clips.transforms import Layout
from flowpipe.errors import InvalidArgument, nearest_name

# TSN divides 8-bit flow (±20 px on 255 levels) by 0.226 · 255 levels; in pixels that is 9.
FLOW_SCALE_PX = 9.0
INPUTS = ("rgb", "flow", "rgbdiff", "rgb+flow", "features")
RESERVED_KEYS = frozenset({"label", "index", "clip"})


class QuantiserLike(Protocol):
    """How codes turn into pixels; fulfilled by `flowpipe.flow.quantise.Quantiser`."""

    @property
    def storage(self) -> Any: ...
    def decode(self, codes: NDArray[Any], /) -> NDArray[np.float32]: ...


class FlowLike(Protocol):
    """The flow of an entry: T indices give T×2×H×W codes as they are stored."""

    def codes(self, indices: Any, /) -> NDArray[Any]: ...


class FramesLike(Protocol):
    """The RGB frames of an entry: T indices give T×H×W×3."""

    def __getitem__(self, indices: Any, /) -> NDArray[np.uint8]: ...


class EntryLike(Protocol):
    """The part of `flowpipe.cache.entry.Entry` that clips are cut from."""

    @property
    def num_flows(self) -> int: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def pts_s(self) -> NDArray[np.float64]: ...
    @property
    def flow(self) -> FlowLike: ...
    @property
    def rgb(self) -> FramesLike: ...
    @property
    def quantiser(self) -> QuantiserLike: ...


class CacheLike(Protocol):
    """Video ids to entries; must be picklable for workers."""

    def __getitem__(self, name: str, /) -> EntryLike: ...
    def backward(self, name: str, /) -> EntryLike:
        """Needed for bi-directional stacking only."""
        ...


@dataclass(frozen=True)
class StreamInput:
    """What one network looks at.

    Attributes
    ----------
    name : str
        Key of the stream in samples and score files.
    input : {"rgb", "flow", "rgbdiff", "rgb+flow", "features"}
        "rgbdiff" k is frame k+1 minus frame k, and stands at the same index as flow k. "rgb+flow"
        has the channels of frame k before those of flow k, for networks of two pathways. Items of
        "features" are snippets of a feature store.
    frames : int
        Flow fields (L), frames or differences in a clip.
    stride : int
        Step between them.
    crop_size : (int, int)
        (height, width) of the network's input.
    layout : {"CHW", "CTHW", "TCHW"}
        How the network takes a clip; see `transforms.to_layout`.
    stacking : {"plain", "bidirectional", "trajectory"}
        Flow only. "bidirectional": of L fields the earlier half are backward ones, from the
        centre's frame to the past, and the later half forward ones. "trajectory": each field is
        read where the fields before it have moved a point to (`dataset.follow_trajectories`).
    mean_subtraction : bool
        Flow only: subtract each field's mean displacement.
    fps : float, optional
        Take the items by timestamp at this rate in place of `stride`.
    flow_scale_px : float
        Flow is divided by this many pixels. 9 is TSN's normalisation; 20 gives I3D's −1..1.
    rgb_range : {"imagenet", "symmetric"}
        ImageNet's mean and deviation, or −1..1 (I3D).
    feature_shape : tuple of int
        Features only: (D,), or (D, H', W') of maps.
    """

    name: str
    input: Literal["rgb", "flow", "rgbdiff", "rgb+flow", "features"]
    frames: int
    stride: int = 1
    crop_size: tuple[int, int] = (224, 224)
    layout: Layout = "CHW"
    stacking: Literal["plain", "bidirectional", "trajectory"] = "plain"
    mean_subtraction: bool = False
    fps: float | None = None
    flow_scale_px: float = FLOW_SCALE_PX
    rgb_range: Literal["imagenet", "symmetric"] = "imagenet"
    feature_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.name in RESERVED_KEYS:
            raise InvalidArgument(
                f'stream name "{self.name}" must not be empty or one of '
                f"{', '.join(sorted(RESERVED_KEYS))}; call it by its input"
            )
        self._check_choice("input", self.input, INPUTS)
        if (self.input == "features") != bool(self.feature_shape):
            raise InvalidArgument(
                f'stream "{self.name}": feature_shape {self.feature_shape} goes with features, and '
                f"here the input is {self.input}"
            )
        self._check_choice("layout", self.layout, ("CHW", "CTHW", "TCHW"))
        self._check_choice("rgb_range", self.rgb_range, ("imagenet", "symmetric"))
        if self.frames < 1 or self.stride < 1:
            raise InvalidArgument(
                f'stream "{self.name}": frames {self.frames} and stride {self.stride} must be ≥ 1'
            )
        object.__setattr__(self, "crop_size", tuple(self.crop_size))
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise InvalidArgument(
                f'stream "{self.name}": crop_size {self.crop_size} must be (height, width) in '
                "pixels, like (224, 224)"
            )
        if self.mean_subtraction and self.input != "flow":
            raise InvalidArgument(
                f'stream "{self.name}": mean_subtraction is for flow, not for {self.input}'
            )
        if self.fps is not None and (self.stride != 1 or not self.fps > 0):
            raise InvalidArgument(
                f'stream "{self.name}": fps {self.fps} must be > 0 and takes the place of stride '
                f"(here {self.stride}); give one of them"
            )
        self._check_choice("stacking", self.stacking, ("plain", "bidirectional", "trajectory"))
        if self.stacking != "plain" and (
            self.input != "flow" or self.stride != 1 or self.fps is not None
        ):
            raise InvalidArgument(
                f'stream "{self.name}": stacking {self.stacking} is for consecutive fields of flow '
                f"(here {self.input}, stride {self.stride}, fps {self.fps})"
            )
        if self.stacking == "bidirectional" and self.frames % 2:
            raise InvalidArgument(
                f'stream "{self.name}": bidirectional stacking needs an even number of fields, not '
                f"{self.frames}; half of them are backward"
            )
        if not self.flow_scale_px > 0:
            raise InvalidArgument(
                f'stream "{self.name}": flow_scale_px {self.flow_scale_px} must be > 0; '
                f"{FLOW_SCALE_PX:g} is the usual choice"
            )

    def _check_choice(self, field: str, value: str, choices: Sequence[str]) -> None:
        if value not in choices:
            raise InvalidArgument(
                f'stream "{self.name}": {field} "{value}" must be one of {", ".join(choices)}'
                f"{nearest_name(value, choices)}"
            )

    @property
    def channels(self) -> int:
        """Channels per item: 2 of flow, 5 of both, else 3."""
        return {"flow": 2, "rgb+flow": 5}.get(self.input, 3)

    @property
    def has_flow(self) -> bool:
        """Whether its codes need a quantiser."""
        return self.input in ("flow", "rgb+flow")

    @property
    def parts(self) -> tuple["StreamInput", ...]:
        """The inputs whose channels lie one behind the other: two for "rgb+flow"."""
        if self.input != "rgb+flow":
            return (self,)
        return (replace(self, input="rgb"), replace(self, input="flow"))

    @property
    def channel_axis(self) -> int:
        """Axis of the channels, from the end."""
        return -4 if self.layout == "CTHW" else -3

    @property
    def clip_CTHW(self) -> tuple[int, int, int, int]:
        """Channels per item, items, height and width, whatever the layout."""
        return (self.channels, self.frames, *self.crop_size)

    @property
    def in_channels(self) -> int:
        """Channels that the network's first convolution sees."""
        return self.channels * (self.frames if self.layout == "CHW" else 1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one clip, without the batch."""
        if self.input == "features":
            return (self.frames, *self.feature_shape)
        if self.layout == "CHW":
            return (self.in_channels, *self.crop_size)
        pair = (self.channels, self.frames)
        return (*(pair if self.layout == "CTHW" else pair[::-1]), *self.crop_size)


def stream_length(stream: StreamInput, entry: EntryLike) -> int:
    """Items there are: N frames, or N − 1 flows or differences."""
    length = int(entry.num_frames if stream.input == "rgb" else entry.num_flows)
    if length < 1:
        raise InvalidArgument(
            f'stream "{stream.name}": a video of {entry.num_frames} frame(s) has no {stream.input};'
            " take it off the list"
        )
    return length


def stream_centres(stream: StreamInput, entry: EntryLike) -> tuple[int, int]:
    length = stream_length(stream, entry)
    if stream.fps is None:
        return sampling.centre_range(stream.frames, stream.stride, length)
    return sampling.low_rate_centre_range(entry.pts_s[:length], stream.frames, stream.fps)


def stream_indices(
    stream: StreamInput, entry: EntryLike, centre: int, short: sampling.ShortRule
) -> sampling.Indices:
    length = stream_length(stream, entry)
    if stream.fps is None:
        return sampling.centred_indices(centre, stream.frames, stream.stride, length, short)
    pts_s = entry.pts_s[:length]
    return sampling.low_rate_centred_indices(pts_s, centre, stream.frames, stream.fps)
