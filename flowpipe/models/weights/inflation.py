"""Inflation: a 2D network becomes a 3D one whose filters are copied along time.

Carreira, Zisserman: Quo vadis, action recognition?, CVPR 2017, doi:10.1109/CVPR.2017.502.

A filter of Kh×Kw becomes Kt copies of itself, each divided by Kt. On a still video every instant
then gives what the 2D network gives for the picture, except where zeros padded in time reach.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models import TABLE, build

# Error of a still video, as a share of the largest logit.
TOLERANCE = 1e-5


def inflate_filter(weight: Tensor, kt: int) -> Tensor:
    """Return D×C×Kt×Kh×Kw from D×C×Kh×Kw: Kt copies, each divided by Kt."""
    return weight.unsqueeze(2).repeat(1, 1, kt, 1, 1) / kt


class InflatedConv(nn.Conv3d):
    """A 2D convolution inflated over time; takes and gives B·T frames, as the 2D one did."""

    frames = 1

    def __init__(self, conv: nn.Conv2d, kt: int) -> None:
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise InvalidArgument(
                f"inflate: padding {conv.padding!r} of mode {conv.padding_mode} must be numbers "
                "of zeros"
            )
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (kt, *conv.kernel_size),  # type: ignore[arg-type]
            (1, *conv.stride),  # type: ignore[arg-type]
            (kt // 2, *conv.padding),  # type: ignore[arg-type]
            (1, *conv.dilation),  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        with torch.no_grad():
            self.weight.copy_(inflate_filter(conv.weight, kt))
            if self.bias is not None and conv.bias is not None:
                self.bias.copy_(conv.bias)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        shape = frames_NCHW.shape
        clip_BCTHW = frames_NCHW.reshape(-1, self.frames, *shape[1:]).transpose(1, 2)
        return super().forward(clip_BCTHW).transpose(1, 2).flatten(0, 1)


class Inflated(nn.Module):
    """A 2D network over clips: B×C×T×H×W to B×K logits, averaged over time.

    All layers but the convolutions treat the frames one by one, as 1×k×k layers do; batch
    normalisation takes its statistics over all frames. State-dict names are those of the 2D
    network behind "body.".

    Attributes
    ----------
    reach
        Frames from the ends of a clip up to which zeros padded in time are felt, at most.
    """

    input_layout = "CTHW"

    def __init__(self, network: nn.Module, *, kt: int) -> None:
        super().__init__()
        self.body = copy.deepcopy(network)
        self.stem_name = f"body.{network.stem_name}"
        self.classifier_name = f"body.{network.classifier_name}"
        for name, layer in list(self.body.named_modules()):
            if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
                self.body.set_submodule(name, InflatedConv(layer, kt))
        self.inflated = [m for m in self.body.modules() if isinstance(m, InflatedConv)]
        self.reach = len(self.inflated) * (kt // 2)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        return self.at_each_instant(clip_BCTHW).mean(1)

    def at_each_instant(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×T×K."""
        batch, _, frames = clip_BCTHW.shape[:3]
        for layer in self.inflated:
            layer.frames = frames
        logits: Tensor = self.body(clip_BCTHW.transpose(1, 2).flatten(0, 1))
        return logits.reshape(batch, frames, -1)


def inflate(model2d: nn.Module, kt: int = 3) -> Inflated:
    """Make a 3D network of a 2D one; the 2D one stays as it is.

    Parameters
    ----------
    model2d
        Any network that takes single frames ("CHW"), your own included.
    kt
        Temporal extent of every convolution larger than 1×1; odd.

    Raises
    ------
    InvalidArgument
        If the network takes clips, kt is even or < 1, or a convolution pads in another way.
    """
    if kt < 1 or kt % 2 == 0:
        raise InvalidArgument(f"kt {kt} must be odd and >= 1; 3 is usual")
    if getattr(model2d, "input_layout", None) != "CHW":
        raise InvalidArgument(
            f"inflate takes a network of single frames (CHW), not "
            f"{getattr(model2d, 'input_layout', None)}; take its 2D sibling, such as resnet50"
        )
    return Inflated(model2d, kt=kt)


@dataclass(frozen=True)
class InflationCheck:
    """What a still video gave.

    Attributes
    ----------
    model, kt
        The 2D network and the temporal extent.
    frames, interior
        Frames of the still video, and how many of them no padding in time reaches.
    error
        Largest difference from the 2D logits at the interior frames, as a share of the largest
        logit.
    edge_error
        The same at all frames.
    """

    model: str
    kt: int
    frames: int
    interior: int
    error: float
    edge_error: float

    @property
    def passed(self) -> bool:
        return self.error < TOLERANCE


def check_inflation(
    name: str,
    *,
    kt: int = 3,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    **parameters: Any,
) -> InflationCheck:
    """Compare an inflated network on a still video with the 2D network on its picture.

    Parameters
    ----------
    name
        A 2D network of the table or your own; weights and statistics of its normalisation are
        drawn from `seed`.
    kt
        As for `inflate`.
    size
        (height, width) of the picture; the published size, or 224×224 px.
    **parameters
        Keyword parameters of the network.

    Raises
    ------
    UnknownName, InvalidArgument
        As `build` and `inflate`.
    """
    height, width = size or (TABLE[name].clip_CTHW[2:] if name in TABLE else (224, 224))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        network = build(name, num_classes=10, **parameters).eval()
        for layer in network.modules():
            # Statistics as after training, so that an error in them would show.
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        inflated = inflate(network, kt).eval()
        picture_BCHW = torch.randn(1, 3, height, width)
        frames = 2 * inflated.reach + 2
        still = picture_BCHW[:, :, None].expand(-1, -1, frames, -1, -1)
        logits_TK = inflated.at_each_instant(still)[0]
        expected_K = network(picture_BCHW)[0]
    errors_T = (logits_TK - expected_K).abs().amax(1) / expected_K.abs().max()
    inside_T = errors_T[inflated.reach : frames - inflated.reach]
    return InflationCheck(
        name, kt, frames, len(inside_T), float(inside_T.max()), float(errors_T.max())
    )
