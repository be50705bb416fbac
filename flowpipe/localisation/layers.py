"""Layers over time that the localisation methods share. Axes: B batch, C channels, T steps."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument

# That a layer sees at once.
MOST_STEPS = 1000


def check_regularisation(dropout: float, input_noise: float) -> None:
    """Refuse shares of dropout and deviations of noise that nothing can be learnt under."""
    if not (0 <= dropout < 1 and 0 <= input_noise < math.inf):
        raise InvalidArgument(
            f"dropout {dropout} must be in [0, 1), input_noise {input_noise} ≥ 0 and finite"
        )


class Standardise(nn.Module):
    """Features less their mean, by their deviation, of the training set; noise in training.

    Parameters
    ----------
    num_features : int
    dropout : float
    noise : float
        Standard deviations.
    """

    def __init__(self, num_features: int, dropout: float, noise: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))
        self.dropout, self.noise = nn.Dropout(dropout), noise

    def fit(
        self, mean_D: npt.NDArray[np.floating[Any]], deviation_D: npt.NDArray[np.floating[Any]]
    ) -> None:
        """Take the mean and the deviation of the training set; still features stay as they are."""
        self.get_buffer("mean").copy_(torch.as_tensor(mean_D))
        deviation = torch.as_tensor(deviation_D)
        self.get_buffer("deviation").copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, features_TD: Tensor) -> Tensor:
        standard = (features_TD - self.get_buffer("mean")) / self.get_buffer("deviation")
        if self.training and self.noise:
            standard = standard + self.noise * torch.randn_like(standard)
        dropped: Tensor = self.dropout(standard)
        return dropped


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels at each step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        shape = (x_BCT.shape[1],)
        normed = functional.layer_norm(x_BCT.transpose(1, 2), shape, self.weight, self.bias)
        return normed.transpose(1, 2)


class ConvNorm(nn.Module):
    """A convolution over three steps, normalisation over channels, ReLU."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.norm = ChannelNorm(channels)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x_BCT)))


class LocalAttention(nn.Module):
    """Self-attention of each step to `window` steps around it, after depth-wise convolutions.

    With a stride the convolutions thin out the steps first.
    """

    def __init__(self, width: int, heads: int, window: int, stride: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        parts = ("query", "key", "value")
        self.convs = nn.ModuleDict(
            {
                part: nn.Conv1d(width, width, 3, stride, padding=1, groups=width, bias=False)
                for part in parts
            }
        )
        self.norms = nn.ModuleDict({part: ChannelNorm(width) for part in parts})
        self.maps = nn.ModuleDict({part: nn.Conv1d(width, width, 1) for part in parts})
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        query, key, value = (
            self.maps[part](self.norms[part](self.convs[part](x_BCT)))
            for part in ("query", "key", "value")
        )
        batch, width, steps = query.shape
        half = self.window // 2
        split = (batch, self.heads, width // self.heads, steps)
        query = query.view(split) * (width // self.heads) ** -0.5
        key, value = (
            functional.pad(part.view(split), (half, half)).unfold(3, self.window, 1)
            for part in (key, value)
        )
        logits = torch.einsum("bhct,bhctw->bhtw", query, key)
        place = torch.arange(steps, device=x_BCT.device)[:, None]
        seen = place + torch.arange(-half, half + 1, device=x_BCT.device)
        logits = logits.masked_fill((seen < 0) | (seen >= steps), -math.inf)
        mixed = torch.einsum("bhtw,bhctw->bhct", logits.softmax(-1), value)
        out: Tensor = self.out(mixed.reshape(batch, width, steps))
        return out


class AffineDropPath(nn.Module):
    """A scale for each channel, small at first, on a path that is left out now and then."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 1e-4))
        self.share = share

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.scale[:, None] * x_BCT
        if self.training and self.share:
            kept = torch.rand(len(x_BCT), 1, 1, device=x_BCT.device) >= self.share
            x_BCT = x_BCT * kept / (1 - self.share)
        return x_BCT


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss of each logit (Lin et al. 2017, doi:10.1109/ICCV.2017.324)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.exp(-entropy)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * (1 - right) ** gamma * entropy
