"""ResNet-18, -34, -50 and -101: B×C×H×W to B×K logits.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016,
doi:10.1109/CVPR.2016.90.

As in torchvision, and with its state-dict names, so that its weights load: the bottleneck's
stride lies on the 3×3 convolution ("v1.5"; the paper puts it on the first 1×1), and a shortcut
that changes shape is a 1×1 convolution with batch normalisation (the paper's option B).
Initialised after He et al. 2015 (doi:10.1109/ICCV.2015.123), normal, by fan-out. Dropout before
the classifier is an addition, off by default. Any input from 32 px up; 224 px is the usual size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flowpipe.models.layers import dropout_layer


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


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average pooling, classifier."""

    input_layout = "CHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
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
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Give logits B×K."""
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


def resnet18(*, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> ResNet:
    """ResNet-18; 11,689,512 parameters for 3 channels and 1000 classes.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input.
    dropout
        Share of the pooled features dropped before the classifier, in [0, 1).
    """
    return ResNet(
        BasicBlock, (2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels, dropout=dropout
    )


def resnet34(*, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> ResNet:
    """ResNet-34; 21,797,672 parameters for 3 channels and 1000 classes. See `resnet18`."""
    return ResNet(
        BasicBlock, (3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels, dropout=dropout
    )


def resnet50(*, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> ResNet:
    """ResNet-50; 25,557,032 parameters for 3 channels and 1000 classes. See `resnet18`."""
    return ResNet(
        Bottleneck, (3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels, dropout=dropout
    )


def resnet101(*, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> ResNet:
    """ResNet-101; 44,549,160 parameters for 3 channels and 1000 classes. See `resnet18`."""
    return ResNet(
        Bottleneck, (3, 4, 23, 3), num_classes=num_classes, in_channels=in_channels, dropout=dropout
    )
