"""ResNet-18 to -152: B×C×H×W to B×K logits.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016,
doi:10.1109/CVPR.2016.90.

As in torchvision, and with its state-dict names, so that its weights load: the bottleneck's
stride lies on the 3×3 convolution ("v1.5"; the paper puts it on the first 1×1), and a shortcut
that changes shape is a 1×1 convolution with batch normalisation (the paper's option B).
Initialised after He et al. 2015 (doi:10.1109/ICCV.2015.123), normal, by fan-out. Dropout before
the classifier is an addition, off by default. Any input from 32 px up; 224 px is the usual size.
"""

from torch import Tensor, nn

from flowpipe.models.layers import check_choice, dropout_layer, init_he


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_planes, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1 down, 3×3 with the stride, 1×1 up to four times the width, around a shortcut."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        out_planes = planes * self.expansion
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_planes, out_planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


def _shortcut(in_planes: int, out_planes: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_planes == out_planes:
        return None
    return nn.Sequential(
        nn.Conv2d(in_planes, out_planes, 1, stride, bias=False), nn.BatchNorm2d(out_planes)
    )


# Depth → block, and how many of them in the four stages.
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average pooling, classifier.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input.
    depth
        18, 34, 50, 101 or 152 layers.
    dropout
        Share of the pooled features dropped before the classifier, in [0, 1).
    """

    input_layout = "CHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self, *, num_classes: int, in_channels: int = 3, depth: int = 50, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("depth", depth, DEPTHS)
        block, num_blocks = DEPTHS[depth]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        width = 64 * block.expansion
        self.layer1 = _stage(block, 64, 64, num_blocks[0], stride=1)
        self.layer2 = _stage(block, width, 128, num_blocks[1], stride=2)
        self.layer3 = _stage(block, 2 * width, 256, num_blocks[2], stride=2)
        self.layer4 = _stage(block, 4 * width, 512, num_blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        init_he(self, mode="fan_out")

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clip_BCHW))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_planes: int,
    planes: int,
    num_blocks: int,
    *,
    stride: int,
) -> nn.Sequential:
    first = block(in_planes, planes, stride)
    rest = [block(planes * block.expansion, planes, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)
