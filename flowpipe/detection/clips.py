"""What a network sees of a key frame: a clip around it, and its boxes on that clip."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowpipe.clips import sampling, transforms
from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.parts import shot_around
from flowpipe.clips.streams import FLOW_SCALE_PX, StreamInput
from flowpipe.clips.transforms import View
from flowpipe.detection.histogram import HistogramNetwork
from flowpipe.detection.network import (
    HISTOGRAM,
    PERSON,
    PersonNetwork,
    RoiNetwork,
    build_network,
)
from flowpipe.detection.person_cut import PersonCut
from flowpipe.errors import InvalidArgument
from flowpipe.models import build_for_clip
from flowpipe.models.weights import load_weights

Network = RoiNetwork | PersonNetwork | HistogramNetwork
Floats = npt.NDArray[np.float64]
MOST_FRAMES = 10_000
# The middle of a person's box, as shares of its sides, and how much of that the body fills.
TORSO_X, TORSO_Y, TORSO_SHARE = (0.25, 0.75), (0.1, 0.7), 0.8


@dataclass(frozen=True)
class DetectStream:
    """One stream of a detector: what its network sees; the table `[streams.NAME]`.

    Attributes
    ----------
    input : "flow", "rgb", "rgbdiff" or "rgb+flow"
    model : str
        person, a small network that learns from few videos; flow-histogram, a linear classifier of
        histograms of flow; or a 2D or 3D row of the table of networks under the detection head.
    parameters : dict
        Of the network: context, size, width, dropout of person; lags, directions of flow-histogram;
        context, dilated, dropout, roi_size and the row's own of others.
    weights : Path, optional
        State dict of a row to start from; public checkpoints are recognised.
    weights_origin : str, optional
        Whose checkpoint it is, where two origins share names and shapes.
    frames : int
        Fields or frames of a clip, whose middle is the key frame.
    stride : int
        Items from one to the next.
    fps : float, optional
        Take the items at this rate by timestamp, in place of `stride`.
    short_side : int, optional
        Shorter side of the frames that the network sees; by default that of the cache.
    flow_scale_px : float
        Flow is divided by this; person and flow-histogram have their own rule.
    rgb_range : "imagenet" or "symmetric"
        ImageNet's mean and deviation, or −1 to 1.
    """

    input: Literal["flow", "rgb", "rgbdiff", "rgb+flow"] = "flow"
    model: str = PERSON
    parameters: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_origin: str | None = None
    frames: int = 16
    stride: int = 2
    fps: float | None = None
    short_side: int | None = None
    flow_scale_px: float = FLOW_SCALE_PX
    rgb_range: Literal["imagenet", "symmetric"] = "imagenet"

    def __post_init__(self) -> None:
        if self.frames > MOST_FRAMES:
            raise InvalidArgument(f"frames {self.frames} must be ≤ {MOST_FRAMES}; 16 is usual")
        if self.short_side is not None and self.short_side < 16:
            raise InvalidArgument(f"short_side {self.short_side} must be ≥ 16; 256 is usual")
        if self.weights is not None and self.model in (PERSON, HISTOGRAM):
            raise InvalidArgument(
                f"model {self.model} has no published weights; choose a row of the table of "
                "networks"
            )
        self.clip_input("stream", (64, 64))

    def clip_input(self, name: str, size: tuple[int, int]) -> StreamInput:
        """Return the stream at a (height, width)."""
        return StreamInput(
            name,
            self.input,
            self.frames,
            frame_step=1 if self.fps is not None else self.stride,
            crop_size=size,
            layout="CTHW",
            fps=self.fps,
            flow_scale_px=1.0 if self.model in (PERSON, HISTOGRAM) else self.flow_scale_px,
            rgb_range=self.rgb_range,
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) at which frames are seen."""
        if self.short_side is None:
            return height, width
        scale = self.short_side / min(height, width)
        return round(height * scale), round(width * scale)

    def network(self, num_classes: int, size: tuple[int, int], seed: int) -> Network:
        """Return the network as its training begins, without weights of a file."""
        clip_CTHW = self.clip_input("stream", self.size_of(*size)).clip_CTHW
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_network(self.model, clip_CTHW, num_classes=num_classes, **self.parameters)

    def load(self, network: Network, num_classes: int, size: tuple[int, int]) -> str:
        """Load the stream's weights into a fresh network; return what became of them."""
        if self.weights is None or not isinstance(network, RoiNetwork):
            return ""
        clip_CTHW = self.clip_input("stream", self.size_of(*size)).clip_CTHW
        own = ("dilated", "context", "dropout", "roi_size")
        others = {name: value for name, value in self.parameters.items() if name not in own}
        with torch.random.fork_rng(devices=[]):
            whole = build_for_clip(self.model, clip_CTHW, num_classes=num_classes, **others)
            report = load_weights(whole, self.weights, origin=self.weights_origin)
        classifier = whole.get_submodule(str(whole.classifier_name))
        state = network.trunk.state_dict()
        network.trunk.load_state_dict({n: v for n, v in whole.state_dict().items() if n in state})
        if (
            isinstance(classifier, torch.nn.Linear)
            and classifier.weight.shape == network.fc.weight.shape
        ):
            # Of a network that was trained under this very head.
            network.fc.load_state_dict(classifier.state_dict())
        return str(report)


@dataclass(frozen=True)
class Look:
    """How a key frame is seen.

    Attributes
    ----------
    flip : bool
        In the mirror.
    scale : float
        Of the frames; of `short_side` where the stream has it.
    shift : int
        So many items of the clip more lie before the key frame, and fewer behind it.
    """

    flip: bool = False
    scale: float = 1.0
    shift: int = 0


def see(
    stream: DetectStream,
    entry: Any,
    frame: int,
    boxes_N4: Floats,
    network: Network,
    device: torch.device,
    look: Look | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the clip around a frame (C×T×H×W, the network's values) and the boxes on it.

    The clip of a network that cuts persons out holds no more of the frames than it reads.
    """
    look = look or Look()
    height, width = entry.height, entry.width
    rows, columns = stream.size_of(height, width)
    size = (max(1, round(rows * look.scale)), max(1, round(columns * look.scale)))
    middle = stream.frames // 2 + look.shift
    indices = indices_around(stream.clip_input("seen", size), entry, frame, middle)
    view = View(0, 0, height, width, look.flip)
    codes_CTHW = read_clip(stream.clip_input("seen", size), entry, indices, view)
    seen_N4 = boxes_N4 * np.tile((size[1] / width, size[0] / height), 2)
    if look.flip:
        seen_N4 = seen_N4[:, [2, 1, 0, 3]]
        seen_N4[:, [0, 2]] = size[1] - seen_N4[:, [0, 2]]
    seen_NT4 = np.repeat(seen_N4[:, None], stream.frames, 1)
    if isinstance(network, PersonCut):
        if network.follow and stream.input in ("flow", "rgb+flow"):
            decode = entry.quantiser.decode
            seen_NT4 = follow(codes_CTHW[-2:], decode, indices, middle, seen_N4)
        left, top, right, bottom = _around(seen_NT4.reshape(-1, 4), network.context, size)
        codes_CTHW = np.ascontiguousarray(codes_CTHW[..., top:bottom, left:right])
        seen_NT4 = seen_NT4 - np.tile((left, top), 2)
        size = (bottom - top, right - left)
    seen = to_network_input(
        {"seen": torch.from_numpy(codes_CTHW).to(device)},
        stream.clip_input("seen", size),
        entry.quantiser,
    )
    return seen, torch.from_numpy(seen_NT4.astype(np.float32)).to(device)


def follow(
    codes_2THW: npt.NDArray[Any],
    decode: Any,
    indices: npt.NDArray[np.int64],
    middle: int,
    boxes_N4: Floats,
) -> Floats:
    """Return where the boxes of the middle are at each time of a clip, N×T×4.

    A box moves by the mean flow of its torso; the legs and arms go to and fro.
    """
    count, (height, width) = codes_2THW.shape[1], codes_2THW.shape[-2:]
    boxes_NT4 = np.repeat(boxes_N4[:, None], count, 1)
    for track_T4 in boxes_NT4:
        for step in (1, -1):
            box = track_T4[middle].copy()
            now = middle
            while 0 <= now + step < count:
                # The field at `now` goes on to the next; back in time, that of the earlier one.
                field = now if step == 1 else now - 1
                gap = abs(int(indices[now + step] - indices[now]))
                sides = box[2:] - box[:2]
                x1, x2 = box[0] + np.array(TORSO_X) * sides[0]
                y1, y2 = box[1] + np.array(TORSO_Y) * sides[1]
                rows = slice(int(np.clip(y1, 0, height - 1)), int(np.clip(y2, 1, height)) + 1)
                columns = slice(int(np.clip(x1, 0, width - 1)), int(np.clip(x2, 1, width)) + 1)
                torso = decode(codes_2THW[:, field, rows, columns])
                box = box + step * gap * np.tile(torso.reshape(2, -1).mean(1), 2) / TORSO_SHARE
                now += step
                track_T4[now] = box
    return boxes_NT4


def indices_around(
    stream: StreamInput, entry: Any, frame: int, middle: int
) -> npt.NDArray[np.int64]:
    """Return the items of the clip whose item number `middle` is the frame.

    Beyond the ends of its shot the first and last items stand, so that every frame has a clip::

        6 items, frames 4, step 1, frame 0, middle 2     0 0 0 1
    """
    lacking = entry.num_frames - min(part.length(entry) for part in stream.parts)
    first, stop = 0, entry.num_frames
    if len(entry.cuts):
        first, stop = shot_around(frame, entry.num_frames, entry.cuts)
    # Of flow there is one less than of the frames of a shot.
    stop -= lacking
    if stream.fps is None:
        offsets = (np.arange(stream.frames) - middle) * stream.frame_step
        return np.clip(frame + offsets, first, stop - 1)
    start_s = float(entry.pts_s[frame]) - middle / stream.fps
    times_s = entry.pts_s[first:stop]
    return first + sampling.low_rate_indices(times_s, start_s, stream.frames, stream.fps)


def read_clip(
    stream: StreamInput, entry: Any, indices: npt.NDArray[np.int64], view: View
) -> npt.NDArray[Any]:
    """Return the codes of items, C×T×H×W."""
    parts = []
    for part in stream.parts:
        codes_TCHW = part.items(entry, indices)
        parts.append(
            transforms.to_layout(
                transforms.apply_view(codes_TCHW, view, part.crop_size, part.input),  # type: ignore[arg-type]
                "CTHW",
            )
        )
    # Frames and flow may be stored in different types; float32 holds either's codes.
    return parts[0] if len(parts) == 1 else np.concatenate([p.astype(np.float32) for p in parts])


def _around(boxes_N4: Floats, context: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the part of a frame that holds squares around boxes."""
    height, width = size
    half = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(axis=1, keepdims=True) * context / 2
    middle = (boxes_N4[:, 2:] + boxes_N4[:, :2]) / 2
    # Two px more: what is read between two of them needs both.
    low = np.floor((middle - half).min(axis=0)).astype(int) - 2
    high = np.ceil((middle + half).max(axis=0)).astype(int) + 2
    left, top = min(max(int(low[0]), 0), width - 1), min(max(int(low[1]), 0), height - 1)
    right, bottom = min(max(int(high[0]), left + 1), width), min(max(int(high[1]), top + 1), height)
    return left, top, right, bottom


def jittered(boxes_N4: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """Return boxes moved and scaled at random, as those of a detector of persons are."""
    sides = boxes_N4[:, 2:] - boxes_N4[:, :2]
    middle = (boxes_N4[:, 2:] + boxes_N4[:, :2]) / 2
    middle = middle + rng.normal(0, amount / 2, middle.shape) * sides
    half = sides * np.exp(rng.normal(0, amount, (len(sides), 1))) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return clips and boxes as a network takes them."""
    return [clip for clip, _ in parts], [boxes for _, boxes in parts]
