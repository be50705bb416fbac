"""Networks of inverted residuals: MobileNetV2 and EfficientNet-Lite0; B×C×H×W to B×K logits.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: inverted residuals and linear bottlenecks, CVPR
2018, doi:10.1109/CVPR.2018.00474; Tan, Le: EfficientNet, ICML 2019,
doi:10.48550/arXiv.1905.11946, whose Lite variants have neither squeeze and excitation nor swish.

    rows of a table: expansion, planes, blocks, stride of the first, kernel

A block is 1×1 up, k×k by channel, 1×1 down, around a shortcut where the shape stays; ReLU6. As in
torchvision (MobileNetV2), and as in TensorFlow (EfficientNet-Lite: "same" padding, whose odd zero
lies behind; ε 1e-3).
"""

from torch import Tensor, nn

from flowpipe.models.layers import (
    check_choice,
    dropout_layer,
    init_he,
    pad_same,
    set_bn_eps,
)

VARIANTS = {
    "mobilenet-v2": (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    ),
    "efficientnet-lite0": (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ),
}


class Unit(nn.Module):
    """Convolution, normalisation, ReLU6 (not in the last of a block)."""

    def __init__(
        self,
        in_planes: int,
        planes: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        same: bool,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.same = same and stride > 1
        self.kernel, self.stride = (kernel,) * 2, (stride,) * 2
        padding = 0 if self.same else kernel // 2
        self.conv = nn.Conv2d(in_planes, planes, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(planes)
        self.act = nn.Identity() if linear else nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_same(x, self.kernel, self.stride) if self.same else x
        return self.act(self.bn(self.conv(padded)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """1×1 up, k×k by channel, 1×1 down, around a shortcut where the shape stays."""

    def __init__(
        self, in_planes: int, planes: int, *, expansion: int, kernel: int, stride: int, same: bool
    ) -> None:
        super().__init__()
        inner = in_planes * expansion
        self.expand = Unit(in_planes, inner, same=same) if expansion > 1 else nn.Identity()
        self.depthwise = Unit(inner, inner, kernel, stride, groups=inner, same=same)
        self.project = Unit(inner, planes, same=same, linear=True)
        self.residual = stride == 1 and in_planes == planes

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class MobileNet(nn.Module):
    """Stem, inverted residuals, 1×1 to 1280 planes, global average, classifier.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input.
    variant
        "mobilenet-v2" or "efficientnet-lite0".
    dropout
        Share of the pooled features dropped, in [0, 1).
    """

    input_layout = "CHW"
    stem_name = "stem.conv"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        variant: str = "mobilenet-v2",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        lite = variant == "efficientnet-lite0"
        self.stem = Unit(in_channels, 32, 3, 2, same=lite)
        in_planes = 32
        self.blocks = nn.Sequential()
        for expansion, planes, count, stride, kernel in VARIANTS[variant]:
            for place in range(count):
                self.blocks.append(
                    Block(
                        in_planes,
                        planes,
                        expansion=expansion,
                        kernel=kernel,
                        stride=stride if place == 0 else 1,
                        same=lite,
                    )
                )
                in_planes = planes
        self.head = Unit(in_planes, 1280, same=lite)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(1280, num_classes)
        init_he(self, mode="fan_out")
        set_bn_eps(self, 1e-3 if lite else 1e-5)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.avgpool(self.head(self.blocks(self.stem(clip_BCHW)))).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]
