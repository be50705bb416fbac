"""SqueezeNet 1.0: B×C×H×W to B×K logits with 1.2 million parameters.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters and <0.5MB model size, 2016, doi:10.48550/arXiv.1602.07360.

As in torchvision, and with its state-dict names, so that its weights load: pooling rounds up
(`ceil_mode`, Caffe's rule), and the classifier is a 1×1 convolution with a ReLU, averaged over
positions; logits are therefore never negative. Any input from 32 px up; 224 px is the usual size.
"""

import torch
from torch import Tensor, nn

from flowpipe.models.layers import dropout_layer


class Fire(nn.Module):
    """Squeeze by a 1×1 convolution, then expand by 1×1 and 3×3 side by side."""

    def __init__(self, in_planes: int, squeeze_planes: int, expand_planes: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_planes, squeeze_planes, 1)
        self.expand1x1 = nn.Conv2d(squeeze_planes, expand_planes, 1)
        self.expand3x3 = nn.Conv2d(squeeze_planes, expand_planes, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], dim=1)


class SqueezeNet(nn.Module):
    """Stem, eight fire modules with three poolings, 1×1 classifier, average over positions."""

    input_layout = "CHW"
    stem_name = "features.0"
    classifier_name = "classifier.1"

    def __init__(self, *, num_classes: int, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(512, 64, 256),
        )
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            dropout_layer(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                if layer is last:
                    nn.init.normal_(layer.weight, std=0.01)
                else:
                    nn.init.kaiming_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K, all >= 0."""
        return self.classifier(self.features(clip_BCHW)).flatten(1)  # type: ignore[no-any-return]
