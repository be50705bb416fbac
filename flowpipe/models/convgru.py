"""GRU-RCN: convolutional GRUs on maps of a 2D network at several depths; B×T×C×H×W to B×K, B×T×K.

Ballas, Yao, Pal, Courville: Delving deeper into convolutional networks for learning video
representations, ICLR 2016, doi:10.48550/arXiv.1511.06432.

    z = σ(W_z ∗ x_t + U_z ∗ h)        r = σ(W_r ∗ x_t + U_r ∗ h)
    h̃ = tanh(W ∗ x_t + U ∗ (r ⊙ h))   h_t = z ⊙ h + (1 − z) ⊙ h̃

∗ is a 3×3 convolution without bias (1×1 on vectors), h starts at zero. The reset gate acts before
the recurrent convolution; torch.nn.GRU applies it after the product. The paper has z and 1 − z the
other way round. Each tapped layer has its GRU and its classifier on the spatial mean of its state;
class probabilities are averaged over the taps. As in the paper: VGG-16, taps pool2 to pool5 and
fc7, 64, 128, 256, 256, 512 units. `stacked` also feeds the state of the tap before, max-pooled to
the size of the next. Not in the paper: both directions, and truncated back-propagation.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import (
    ConvGru,
    FrameFeatures,
    Steps,
    check_output,
    cut_after,
    dropout_layer,
    find_layer,
    frame_backbone,
    join_steps,
    log_mean_softmax,
)

# VGG-16's pool2, pool3, pool4, pool5 and fc7 (after its ReLU).
VGG16_TAPS = ("features.9", "features.16", "features.23", "features.30", "classifier.4")


class ConvGruNetwork(FrameFeatures):
    """Backbone, a GRU and a classifier at each tap, mean of the probabilities.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    taps
        Dotted names of its layers whose outputs feed a GRU, from shallow to deep.
    hidden
        Planes of the state at each tap.
    bidirectional
        A second GRU runs from the last frame to the first; a score then sees all frames.
    stacked
        A GRU also sees the state at the tap before.
    truncate
        Steps after which the gradient is cut (truncated back-propagation); None: never.
    output
        "last" (many to one), "mean" (probabilities averaged over the steps) or "frames".
    frozen
        Leave the backbone as its weights are.
    dropout
        Share of the pooled states dropped before the classifiers, in [0, 1); 0.7 is the paper's.

    Raises
    ------
    InvalidArgument
        If taps and hidden differ in number, a tap is no layer, or truncate < 1.
    """

    classifier_name = "heads"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "vgg16",
        backbone_parameters: Mapping[str, Any] | None = None,
        taps: Sequence[str] = VGG16_TAPS,
        hidden: Sequence[int] = (64, 128, 256, 256, 512),
        bidirectional: bool = False,
        stacked: bool = False,
        truncate: int | None = None,
        output: Steps = "last",
        frozen: bool = False,
        dropout: float = 0.7,
    ) -> None:
        if not taps or len(taps) != len(hidden):
            raise InvalidArgument(
                f"convgru: {len(taps)} taps and {len(hidden)} numbers in hidden must be as many; "
                "give each tap the planes of its state"
            )
        if truncate is not None and truncate < 1:
            raise InvalidArgument(f"truncate {truncate} must be >= 1 steps, or absent for none")
        check_output(output)
        body = frame_backbone(backbone, backbone_parameters, num_classes=1, in_channels=in_channels)
        for tap in taps:
            find_layer(body, tap, name=backbone)
        cut_after(body, taps[-1], name=backbone)
        with torch.device("meta"):
            # The shapes at the taps are found on a network without values.
            probe = frame_backbone(
                backbone, backbone_parameters, num_classes=1, in_channels=in_channels
            )
            maps = tapped(probe.eval(), taps, torch.empty(1, in_channels, 224, 224))
        areas = [m[0, 0].numel() for m in maps]
        if any(later > earlier for earlier, later in pairwise(areas)):
            raise InvalidArgument(f"taps {', '.join(taps)} must go from shallow to deep layers")
        super().__init__(body, frozen=frozen)
        self.taps, self.stacked, self.truncate, self.output = tuple(taps), stacked, truncate, output
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        sizes = []
        below = 0
        for at_tap, planes in zip(maps, hidden, strict=True):
            sizes.append((at_tap.shape[1] + below, planes, 3 if at_tap.ndim == 4 else 1))
            below = directions * planes if stacked else 0
        self.grus = nn.ModuleList(ConvGru(*size) for size in sizes)
        self.backward_grus = nn.ModuleList(ConvGru(*size) for size in sizes if bidirectional)
        self.dropout = dropout_layer(dropout)
        self.heads = nn.ModuleList(nn.Linear(directions * n, num_classes) for n in hidden)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K, or B×T×K for the output "frames"."""
        batch, num_frames = clip_BTCHW.shape[:2]
        below: Tensor | None = None
        logits_BTPK = []
        for number, maps_NCHW in enumerate(self._maps(clip_BTCHW.flatten(0, 1))):
            maps = maps_NCHW
            if below is not None:
                pooled = functional.adaptive_max_pool2d(below.flatten(0, 1), maps.shape[-2:])
                maps = torch.cat([maps, pooled], 1)
            states = self._states(number, maps.reshape(batch, num_frames, *maps.shape[1:]))
            below = states if self.stacked else None
            logits_BTPK.append(self.heads[number](self.dropout(self._pooled(states))))
        logits = torch.stack(logits_BTPK, 2)
        if logits.shape[2] > 1:
            # Mean over the taps, at each step.
            logits = log_mean_softmax(logits.flatten(0, 1)).reshape(batch, -1, logits.shape[-1])
        else:
            logits = logits[:, :, 0]
        return join_steps(logits, self.output)

    def _states(self, number: int, maps_BTCHW: Tensor) -> Tensor:
        states = self.grus[number](maps_BTCHW, truncate=self.truncate)
        if not self.bidirectional:
            return states  # type: ignore[no-any-return]
        backward = self.backward_grus[number](maps_BTCHW.flip(1), truncate=self.truncate)
        return torch.cat([states, backward.flip(1)], 2)

    def _pooled(self, states_BTCHW: Tensor) -> Tensor:
        """Return the spatial means, B×T×D; for the output "last" those of each direction's end."""
        if self.output != "last":
            return states_BTCHW.mean((3, 4))
        ends = states_BTCHW[:, -1:]
        if self.bidirectional:
            forward, backward = states_BTCHW.chunk(2, 2)
            ends = torch.cat([forward[:, -1:], backward[:, :1]], 2)
        return ends.mean((3, 4))

    def _maps(self, frames_NCHW: Tensor) -> list[Tensor]:
        return [
            maps if maps.ndim == 4 else maps[:, :, None, None]
            for maps in tapped(self.backbone, self.taps, frames_NCHW)
        ]


def tapped(network: nn.Module, taps: Sequence[str], frames_NCHW: Tensor) -> list[Tensor]:
    """Run a network and return the outputs of some of its layers."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in taps]
    try:
        network(frames_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in taps]
