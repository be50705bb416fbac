"""I3D: Inception-v1 inflated to three dimensions, B×C×64×224×224 to B×K logits.

Carreira, Zisserman: Quo vadis, action recognition?, CVPR 2017, doi:10.1109/CVPR.2017.502.

    unit                              C×T×H×W (from 64×224×224)
    Conv3d_1a_7x7 /2                  64×32×112×112
    MaxPool3d_2a_3x3 1×3×3/(1,2,2)    64×32×56×56
    Conv3d_2b_1x1, Conv3d_2c_3x3      192×32×56×56
    MaxPool3d_3a_3x3 1×3×3/(1,2,2)    192×32×28×28
    Mixed_3b, 3c                      480×32×28×28
    MaxPool3d_4a_3x3 3×3×3/2          480×16×14×14
    Mixed_4b … 4f                     832×16×14×14
    MaxPool3d_5a_2x2 2×2×2/2          832×8×7×7
    Mixed_5b, 5c                      1024×8×7×7
    average 2×7×7, dropout, logits    K×7, averaged over time

Padding is TensorFlow's "same" (`same_padding`). Unit names are those of the public PyTorch ports,
whose weights load; like them, and unlike the original, batch normalisation has a scale γ. The
average covers the whole map in space, so that other sizes than 224 px work. Inputs are in −1..1:
RGB, or flow cut off at ±20 px and divided by 20.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.models.layers import dropout_layer, init_he, pad_same

# Planes of b0; b1a, b1b; b2a, b2b; b3b.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def steady_padding(kernel: Sequence[int], stride: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the "same" padding where no size changes it: odd kernels that go in steps of one.

    The layer itself can then pad, which spares a copy of its input.
    """
    if set(stride) != {1} or not all(k % 2 for k in kernel):
        return None
    before_t, before_h, before_w = (k // 2 for k in kernel)
    return before_t, before_h, before_w


class MaxPoolSame(nn.MaxPool3d):
    """Max pooling with "same" padding; zeros do no harm, as inputs come from a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        steady = steady_padding(kernel, stride)
        super().__init__(kernel, stride, steady or 0)
        self.kernel, self.strides, self.steady = kernel, stride, steady is not None

    def forward(self, x: Tensor) -> Tensor:
        padded = x if self.steady else pad_same(x, self.kernel, self.strides)
        return super().forward(padded)  # type: ignore[no-any-return]


class Unit3D(nn.Module):
    """Convolution with "same" padding, then batch normalisation and ReLU (not in logits)."""

    def __init__(
        self, in_planes: int, planes: int, kernel: int, stride: int = 1, *, last: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.strides = (kernel,) * 3, (stride,) * 3
        steady = steady_padding(self.kernel, self.strides)
        self.steady = steady is not None
        self.conv3d = nn.Conv3d(in_planes, planes, kernel, stride, steady or 0, bias=last)
        self.bn = None if last else nn.BatchNorm3d(planes, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(x if self.steady else pad_same(x, self.kernel, self.strides))
        return x if self.bn is None else self.bn(x).relu()


class InceptionModule(nn.Module):
    """1×1×1; 1×1×1 → 3×3×3; 1×1×1 → 3×3×3; pool → 1×1×1, side by side."""

    def __init__(self, in_planes: int, planes: Sequence[int]) -> None:
        super().__init__()
        self.b0 = Unit3D(in_planes, planes[0], 1)
        self.b1a = Unit3D(in_planes, planes[1], 1)
        self.b1b = Unit3D(planes[1], planes[2], 3)
        self.b2a = Unit3D(in_planes, planes[3], 1)
        self.b2b = Unit3D(planes[3], planes[4], 3)
        self.b3a = MaxPoolSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_planes, planes[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, 1)


class I3d(nn.Module):
    """Stem, nine inception modules, classifier at each instant, mean over time.

    12,697,264 parameters for RGB, 12,675,312 for flow, with 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    width
        Planes of the stem; all others in proportion.
    dropout
        Share of the pooled features dropped, in [0, 1).
    bn_momentum
        Share of each batch in the statistics that testing uses. The published 0.01 takes several
        hundred steps to follow the weights; a short training needs 0.1.
    """

    input_layout = "CTHW"
    stem_name = "Conv3d_1a_7x7.conv3d"
    classifier_name = "logits.conv3d"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        dropout: float = 0.5,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(in_channels, width, 7, 2)
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(width, width, 1)
        self.Conv3d_2c_3x3 = Unit3D(width, 3 * width, 3)
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
        in_planes = 3 * width
        for name, published in MIXED.items():
            planes = [number * width // 64 for number in published]
            self.add_module(name, InceptionModule(in_planes, planes))
            in_planes = planes[0] + planes[2] + planes[4] + planes[5]
        self.dropout = dropout_layer(dropout)
        self.logits = Unit3D(in_planes, num_classes, 1, last=True)
        init_he(self)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = bn_momentum

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.MaxPool3d_2a_3x3(self.Conv3d_1a_7x7(clip_BCTHW))
        x = self.MaxPool3d_3a_3x3(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)))
        for name in MIXED:
            if name == "Mixed_4b":
                x = self.MaxPool3d_4a_3x3(x)
            elif name == "Mixed_5b":
                x = self.MaxPool3d_5a_2x2(x)
            x = self.get_submodule(name)(x)
        x = x.mean((3, 4), keepdim=True)
        x = functional.avg_pool3d(x, (min(2, x.shape[2]), 1, 1), stride=1)
        return self.logits(self.dropout(x)).mean((2, 3, 4))  # type: ignore[no-any-return]
