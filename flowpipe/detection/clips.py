"""What a network sees of a key frame: a clip around it, and its boxes on that clip."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowpipe.clips import sampling, transforms
from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.streams import FLOW_SCALE_PX, StreamInput
from flowpipe.clips.transforms import View
from flowpipe.detection.network import PERSON, PersonNetwork, RoiNetwork, build_network
from flowpipe.errors import InvalidArgument
from flowpipe.models import build_for_clip
from flowpipe.models.weights import load_weights

Network = RoiNetwork | PersonNetwork
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectStream:
    """One stream of a detector: what its network sees; the table `[streams.NAME]`.

    Attributes
    ----------
    input : "flow", "rgb", "rgbdiff" or "rgb+flow"
    model : str
        person, a small network that learns from few videos; or a 2D or 3D row of the table of
        networks under the detection head.
    parameters : dict
        Of the network: context, size, width, dropout of person; context, dilated, dropout, roi_size
        and the row's own of others.
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
        Flow is divided by this; person has its own rule.
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
        if self.short_side is not None and self.short_side < 16:
            raise InvalidArgument(f"short_side {self.short_side} must be ≥ 16; 256 is usual")
        if self.weights is not None and self.model == PERSON:
            raise InvalidArgument(
                "model person has no published weights; choose a row of the table of networks"
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
            flow_scale_px=1.0 if self.model == PERSON else self.flow_scale_px,
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
    """

    flip: bool = False
    scale: float = 1.0


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
    if isinstance(network, PersonNetwork):
        view = _around(boxes_N4, network.context, height, width)
    else:
        view = View(0, 0, height, width)
    whole = stream.size_of(height, width)
    scale = np.array([whole[1] / width, whole[0] / height]) * look.scale
    size = (max(1, round(view.height * scale[1])), max(1, round(view.width * scale[0])))
    exact = np.array([size[1] / view.width, size[0] / view.height])
    clip = read_clip(stream.clip_input("seen", size), entry, frame, replace(view, flip=look.flip))
    seen = to_network_input(
        {"seen": torch.from_numpy(clip).to(device)},
        stream.clip_input("seen", size),
        entry.quantiser,
    )
    moved = (boxes_N4 - np.tile((view.left, view.top), 2)) * np.tile(exact, 2)
    if look.flip:
        moved = moved[:, [2, 1, 0, 3]]
        moved[:, [0, 2]] = size[1] - moved[:, [0, 2]]
    return seen, torch.from_numpy(moved.astype(np.float32)).to(device)


def read_clip(stream: StreamInput, entry: Any, frame: int, view: View) -> npt.NDArray[Any]:
    """Return the codes of the clip around a frame, C×T×H×W.

    Beyond the ends of the video its first and last items stand, so that every frame has a clip::

        6 items, frames 4, step 1, frame 0     0 0 0 1
    """
    parts = []
    for part in stream.parts:
        length = part.length(entry)
        if part.fps is None:
            offsets = (np.arange(part.frames) - part.frames // 2) * part.frame_step
            indices = np.clip(frame + offsets, 0, length - 1)
        else:
            start_s = float(entry.pts_s[frame]) - (part.frames // 2) / part.fps
            indices = sampling.low_rate_indices(
                entry.pts_s[:length], start_s, part.frames, part.fps
            )
        codes_TCHW = part.items(entry, indices)
        parts.append(
            transforms.to_layout(
                transforms.apply_view(codes_TCHW, view, part.crop_size, part.input),  # type: ignore[arg-type]
                "CTHW",
            )
        )
    # Frames and flow may be stored in different types; float32 holds either's codes.
    return parts[0] if len(parts) == 1 else np.concatenate([p.astype(np.float32) for p in parts])


def _around(boxes_N4: Floats, context: float, height: int, width: int) -> View:
    """Return the part of the frame that holds the squares around all boxes."""
    half = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(axis=1, keepdims=True) * context / 2
    middle = (boxes_N4[:, 2:] + boxes_N4[:, :2]) / 2
    # Two px more: what is read between two of them needs both.
    left, top = np.floor((middle - half).min(axis=0)).astype(int) - 2
    right, bottom = np.ceil((middle + half).max(axis=0)).astype(int) + 2
    left, top = (min(max(int(v), 0), end - 1) for v, end in ((left, width), (top, height)))
    return View(
        top, left, max(min(int(bottom), height) - top, 1), max(min(int(right), width) - left, 1)
    )


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
