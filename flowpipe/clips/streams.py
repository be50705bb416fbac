"""What one network looks at, and how a clip of it is cut from an entry.

A stream of pictures is a `StreamInput`, one of cached features a `FeatureInput`. Both answer the
same questions, so that a data set need not know which it has: where clips may be centred
(`centres`), under which views (`draw_view`, `test_views`), and the clip itself (`clips`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flowpipe.clips import sampling, transforms
from flowpipe.clips.transforms import Layout, View
from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.confidence import TRUSTED

# TSN divides 8-bit flow (±20 px on 255 levels) by 0.226 · 255 levels; in pixels that is 9.
FLOW_SCALE_PX = 9.0
INPUTS = ("rgb", "flow", "rgbdiff", "rgb+flow")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of a crop, and of all items of a clip.
MAX_PIXELS, MAX_CLIP_PIXELS = 2**26, 2**28
RESERVED_KEYS = frozenset({"label", "index", "clip"})


@dataclass(frozen=True)
class PixelValues:
    """How a network sees 8-bit pixels: (pixel / scale − mean) / deviation.

    Attributes
    ----------
    scale : float
        255 for values in 0..1.
    mean, deviation : tuple of float
        After the scale; one for each channel as the network takes them, or one for all.
    order : "RGB" or "BGR"
        Of the channels, as the network takes them.
    """

    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        lengths = {len(self.mean), len(self.deviation)}
        if not lengths <= {1, 3} or not self.scale > 0 or min(self.deviation) <= 0:
            raise InvalidArgument(
                f"mean {self.mean} and deviation {self.deviation} must be of one value or three, "
                f"scale {self.scale} and deviations > 0"
            )
        if self.order not in ("RGB", "BGR"):
            raise InvalidArgument(f'order "{self.order}" must be "RGB" or "BGR"')

    def __str__(self) -> str:
        mean, deviation = (
            ", ".join(f"{v:g}" for v in each) for each in (self.mean, self.deviation)
        )
        return f"({self.order} / {self.scale:g} - ({mean})) / ({deviation})"


RGB_RANGES = {
    "imagenet": PixelValues(255.0, IMAGENET_MEAN, IMAGENET_STD),
    "symmetric": PixelValues(127.5, (1.0,)),
}


class QuantiserLike(Protocol):
    """How codes turn into pixels; fulfilled by `flowpipe.flow.quantise.Quantiser`."""

    @property
    def storage(self) -> Any: ...
    def decode(self, codes: NDArray[Any], /) -> NDArray[np.float32]: ...
    def encode(self, flow_px: Any, /) -> NDArray[Any]: ...


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
    @property
    def cuts(self) -> NDArray[np.int64]: ...
    @property
    def confidence(self) -> FramesLike: ...


class CacheLike(Protocol):
    """Video ids to entries; must be picklable for workers."""

    def __getitem__(self, name: str, /) -> Any: ...


class FeaturesLike(Protocol):
    """Features of a video along time, as an entry of a feature cache or `features.align` has."""

    @property
    def features(self) -> Any: ...
    @property
    def centre_s(self) -> NDArray[np.float64]: ...


# Opens the backward flow of the video in hand.
Backward = Callable[[], EntryLike]


@dataclass(frozen=True)
class StreamInput:
    """What one network looks at: frames, flow, or both.

    Attributes
    ----------
    name : str
        Key of the stream in samples and score files.
    input : {"rgb", "flow", "rgbdiff", "rgb+flow"}
        "rgbdiff" k is frame k+1 minus frame k, and stands at the same index as flow k. "rgb+flow"
        has the channels of frame k before those of flow k, for networks of two pathways.
    frames : int
        Flow fields (L), frames or differences in a clip.
    frame_step : int
        Items from one to the next within a clip.
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
        Take the items by timestamp at this rate in place of `frame_step`.
    flow_scale_px : float
        Flow is divided by this many pixels. 9 is TSN's normalisation; 20 gives I3D's −1..1.
    rgb_range : {"imagenet", "symmetric"} or PixelValues
        ImageNet's mean and deviation, or −1..1 (I3D), or what else a network was trained with.
    untrusted : {"keep", "zero"}
        "zero": flow is zero where the confidence of the entry is below `confidence.TRUSTED`.
    """

    name: str
    input: Literal["rgb", "flow", "rgbdiff", "rgb+flow"]
    frames: int
    frame_step: int = 1
    crop_size: tuple[int, int] = (224, 224)
    layout: Layout = "CHW"
    stacking: Literal["plain", "bidirectional", "trajectory"] = "plain"
    mean_subtraction: bool = False
    fps: float | None = None
    flow_scale_px: float = FLOW_SCALE_PX
    rgb_range: Literal["imagenet", "symmetric"] | PixelValues = "imagenet"
    untrusted: Literal["keep", "zero"] = "keep"

    def __post_init__(self) -> None:
        _check_stream(self.name, self.frames, self.frame_step)
        self._check_choice("input", self.input, INPUTS)
        self._check_choice("layout", self.layout, ("CHW", "CTHW", "TCHW"))
        if not isinstance(self.rgb_range, PixelValues):
            self._check_choice("rgb_range", self.rgb_range, tuple(RGB_RANGES))
        object.__setattr__(self, "crop_size", tuple(self.crop_size))
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise InvalidArgument(
                f'stream "{self.name}": crop_size {self.crop_size} must be (height, width) in '
                "pixels, like (224, 224)"
            )
        height, width = self.crop_size
        if height * width > MAX_PIXELS or height * width * self.frames > MAX_CLIP_PIXELS:
            raise InvalidArgument(
                f'stream "{self.name}": {self.frames} items of {height}×{width} px are more than '
                "memory holds; take a smaller crop_size or fewer frames"
            )
        if self.mean_subtraction and self.input != "flow":
            raise InvalidArgument(
                f'stream "{self.name}": mean_subtraction is for flow, not for {self.input}'
            )
        if self.fps is not None and (self.frame_step != 1 or not 0 < self.fps < 10_000):
            raise InvalidArgument(
                f'stream "{self.name}": fps {self.fps} must be > 0 and < 10000 and takes the '
                f"place of frame_step (here {self.frame_step}); give one of them"
            )
        self._check_choice("stacking", self.stacking, ("plain", "bidirectional", "trajectory"))
        if self.stacking != "plain" and (
            self.input != "flow" or self.frame_step != 1 or self.fps is not None
        ):
            raise InvalidArgument(
                f'stream "{self.name}": stacking {self.stacking} is for consecutive fields of flow '
                f"(here {self.input}, frame_step {self.frame_step}, fps {self.fps})"
            )
        if self.stacking == "bidirectional" and self.frames % 2:
            raise InvalidArgument(
                f'stream "{self.name}": bidirectional stacking needs an even number of fields, not '
                f"{self.frames}; half of them are backward"
            )
        self._check_choice("untrusted", self.untrusted, ("keep", "zero"))
        if self.untrusted == "zero" and (not self.has_flow or self.stacking == "bidirectional"):
            raise InvalidArgument(
                f'stream "{self.name}": untrusted "zero" is for forward flow (here {self.input}, '
                f"stacking {self.stacking}); backward flow has no confidence"
            )
        if not 0 < self.flow_scale_px < np.inf:
            raise InvalidArgument(
                f'stream "{self.name}": flow_scale_px {self.flow_scale_px} must be > 0 and finite; '
                f"{FLOW_SCALE_PX:g} is the usual choice"
            )

    def _check_choice(self, field: str, value: str, choices: Sequence[str]) -> None:
        if value not in choices:
            raise InvalidArgument(
                f'stream "{self.name}": {field} "{value}" must be one of {", ".join(choices)}'
                f"{nearest_name(value, choices)}"
            )

    @property
    def pixel_values(self) -> PixelValues:
        """How 8-bit pixels become the network's values."""
        named = not isinstance(self.rgb_range, PixelValues)
        return RGB_RANGES[self.rgb_range] if named else self.rgb_range  # type: ignore[index,return-value]

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
        return (replace(self, input="rgb", untrusted="keep"), replace(self, input="flow"))

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
        if self.layout == "CHW":
            return (self.in_channels, *self.crop_size)
        pair = (self.channels, self.frames)
        return (*(pair if self.layout == "CTHW" else pair[::-1]), *self.crop_size)

    @property
    def protocol(self) -> dict[str, Any]:
        """What stands beside scores of this stream."""
        return {
            "input": self.input,
            "frames": self.frames,
            "stride": self.frame_step,
            "crop_size": list(self.crop_size),
        }

    def length(self, entry: EntryLike) -> int:
        """Return how many items there are: N frames, or N − 1 flows or differences."""
        length = int(entry.num_frames if self.input == "rgb" else entry.num_flows)
        if length < 1:
            raise InvalidArgument(
                f'stream "{self.name}": a video of {entry.num_frames} frame(s) has no '
                f"{self.input}; take it off the list"
            )
        return length

    def centres(self, entry: EntryLike) -> tuple[int, int]:
        """Return `[first, stop)` of the centres at which a clip lies inside the video."""
        length = self.length(entry)
        if self.fps is None:
            return sampling.centre_range(self.frames, self.frame_step, length)
        return sampling.low_rate_centre_range(entry.pts_s[:length], self.frames, self.fps)

    def indices(self, entry: EntryLike, centre: int, short: sampling.ShortRule) -> sampling.Indices:
        """Return the items of the clip centred on `centre`."""
        length = self.length(entry)
        if self.fps is None:
            return sampling.centred_indices(centre, self.frames, self.frame_step, length, short)
        pts_s = entry.pts_s[:length]
        return sampling.low_rate_centred_indices(pts_s, centre, self.frames, self.fps)

    def draw_view(
        self, entry: EntryLike | None, rng: np.random.Generator, **options: Any
    ) -> View | None:
        """Draw a training view of an entry (None: of any), see `transforms.draw_view`."""
        size = self.crop_size if entry is None else (entry.height, entry.width)
        return transforms.draw_view(size, self.crop_size, rng, **options)

    def test_views(self, entry: EntryLike | None, **options: Any) -> Sequence[View | None]:
        """Return the test views of an entry (None: of any), see `transforms.make_test_views`."""
        size = self.crop_size if entry is None else (entry.height, entry.width)
        return transforms.make_test_views(size, self.crop_size, **options)

    def clips(
        self,
        entry: EntryLike,
        centre: int,
        views: Sequence[View],
        short: sampling.ShortRule,
        backward: Backward,
    ) -> NDArray[Any]:
        """Return one clip under several views, V × `input_shape`, read once; codes as stored."""
        if self.input == "rgb+flow":
            # Frames and flow may be stored in different types; float32 holds either's codes.
            parts = [p.clips(entry, centre, views, short, backward) for p in self.parts]
            return np.concatenate([part.astype(np.float32) for part in parts], self.channel_axis)
        indices = self.indices(entry, centre, short)
        if self.stacking == "bidirectional":
            half = self.frames // 2
            past = backward().flow.codes(indices[:half])
            codes_TCHW = np.concatenate([past, entry.flow.codes(indices[half:])])
        else:
            codes_TCHW = self.items(entry, indices)
        seen = (transforms.apply_view(codes_TCHW, v, self.crop_size, self.input) for v in views)
        return np.stack([transforms.to_layout(view_TCHW, self.layout) for view_TCHW in seen])

    def items(self, entry: EntryLike, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Read items of a video, T×C×H×W: codes of flow, frames, or their differences.

        Indices may repeat, as those of a short clip do; each item is read once.
        """
        wanted = np.union1d(indices, indices + 1) if self.input == "rgbdiff" else indices
        unique = np.unique(wanted)
        place = np.searchsorted(unique, indices)
        if self.input == "flow":
            codes_TCHW = entry.flow.codes(unique)
            if self.untrusted == "zero":
                trusted_THW = entry.confidence[unique] >= TRUSTED
                zero = entry.quantiser.encode(0.0)
                codes_TCHW = np.where(trusted_THW[:, None], codes_TCHW, zero)
            return codes_TCHW[place]
        rgb_TCHW = entry.rgb[unique].transpose(0, 3, 1, 2)
        if self.input == "rgb":
            return rgb_TCHW[place]
        following = np.searchsorted(unique, indices + 1)
        return rgb_TCHW[following].astype(np.int16) - rgb_TCHW[place].astype(np.int16)


@dataclass(frozen=True)
class FeatureInput:
    """What a head on cached features looks at: snippets, in a row or some apart.

    Attributes
    ----------
    name : str
        Key of the stream in samples and score files.
    frames : int
        Snippets in a clip.
    feature_shape : tuple of int
        Of one snippet: (D,), or (D, H', W') of maps.
    frame_step : int
        Snippets from one to the next within a clip.
    """

    name: str
    frames: int
    feature_shape: tuple[int, ...]
    frame_step: int = 1

    input: ClassVar[str] = "features"
    has_flow: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_stream(self.name, self.frames, self.frame_step)
        if len(self.feature_shape) not in (1, 3):
            raise InvalidArgument(
                f'stream "{self.name}": feature_shape {self.feature_shape} must be (D,), or '
                "(D, H, W) of maps"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one clip, without the batch."""
        return (self.frames, *self.feature_shape)

    @property
    def protocol(self) -> dict[str, Any]:
        """What stands beside scores of this stream."""
        return {"input": self.input, "frames": self.frames, "stride": self.frame_step}

    def centres(self, entry: FeaturesLike) -> tuple[int, int]:
        """Return `[first, stop)` of the centres at which a clip lies inside the video."""
        return sampling.centre_range(self.frames, self.frame_step, len(entry.centre_s))

    def draw_view(self, entry: FeaturesLike | None, rng: np.random.Generator, **_: Any) -> None:
        """Return None: features have no pixels to crop."""

    def test_views(self, entry: FeaturesLike | None, **_: Any) -> Sequence[View | None]:
        """Return one view, of everything."""
        return (None,)

    def clips(
        self,
        entry: FeaturesLike,
        centre: int,
        views: Sequence[object],
        short: sampling.ShortRule,
        backward: Backward,
    ) -> NDArray[Any]:
        """Return one clip, 1 × `input_shape` float32."""
        length = len(entry.centre_s)
        rows = sampling.centred_indices(centre, self.frames, self.frame_step, length, short)
        return np.asarray(entry.features[rows])[None]


AnyInput = StreamInput | FeatureInput


def _check_stream(name: str, frames: int, frame_step: int) -> None:
    if not name or name in RESERVED_KEYS:
        raise InvalidArgument(
            f'stream name "{name}" must not be empty or one of '
            f"{', '.join(sorted(RESERVED_KEYS))}; call it by its input"
        )
    if frames < 1 or frame_step < 1:
        raise InvalidArgument(
            f'stream "{name}": frames {frames} and frame_step {frame_step} must be ≥ 1'
        )
