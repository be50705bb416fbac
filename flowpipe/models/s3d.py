"""S3D: Inception-v1 over clips with convolutions split in space and time; B×C×T×H×W to B×K logits.

Xie, Sun, Huang, Tu, Murphy: Rethinking spatiotemporal feature learning, ECCV 2018,
doi:10.1007/978-3-030-01267-0_19.

The layers of I3D (`flowpipe.models.i3d`), each 7×7×7 and 3×3×3 as 1×k×k and t×1×1, with a
normalisation and a ReLU after both. As in torchvision, and with its state-dict names: padding is
symmetric where the paper's network pads as TensorFlow does, and the last average goes over
windows of 2×7×7 one step at a time, so that over 224 px the middle of the map weighs more.
64 frames (at least 14) of 224×224.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.models.layers import dropout_layer, init_he, set_bn_eps

# Planes of branch0; branch1; branch2; branch3.
MIXED = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
WINDOW = (2, 7, 7)


class _Unit(nn.Sequential):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self,
        in_planes: int,
        planes: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        before_t, before_h, before_w = (k // 2 for k in kernel)
        super().__init__(
            nn.Conv3d(
                in_planes,
                planes,
                kernel,
                stride,
                padding=(before_t, before_h, before_w),
                bias=False,
            ),
            nn.BatchNorm3d(planes),
            nn.ReLU(inplace=True),
        )


def _split(in_planes: int, planes: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _Unit(in_planes, planes, (1, kernel, kernel), (1, stride, stride)),
        _Unit(planes, planes, (kernel, 1, 1), (stride, 1, 1)),
    )


class _Inception(nn.Module):
    def __init__(self, in_planes: int, planes: tuple[int, ...]) -> None:
        super().__init__()
        self.branch0 = _Unit(in_planes, planes[0])
        self.branch1 = nn.Sequential(_Unit(in_planes, planes[1]), _split(planes[1], planes[2], 3))
        self.branch2 = nn.Sequential(_Unit(in_planes, planes[3]), _split(planes[3], planes[4], 3))
        self.branch3 = nn.Sequential(
            nn.MaxPool3d(3, 1, padding=(1, 1, 1)), _Unit(in_planes, planes[5])
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class S3d(nn.Module):
    """Stem, nine inception modules, classifier at each window, mean; 8,320,048 parameters.

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
    """

    input_layout = "CTHW"
    stem_name = "features.0.0.0"
    classifier_name = "classifier.1"

    def __init__(
        self, *, num_classes: int, in_channels: int = 3, width: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _split(in_channels, width, 7, 2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
            _Unit(width, width),
            _split(width, 3 * width, 3),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
        ]
        in_planes = 3 * width
        for number, published in enumerate(MIXED):
            if number == 2:
                layers.append(nn.MaxPool3d(3, 2, padding=(1, 1, 1)))
            elif number == 7:
                layers.append(nn.MaxPool3d(2, 2))
            planes = tuple(n * width // 64 for n in published)
            layers.append(_Inception(in_planes, planes))
            in_planes = planes[0] + planes[2] + planes[4] + planes[5]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            dropout_layer(dropout), nn.Conv3d(in_planes, num_classes, 1)
        )
        init_he(self)
        set_bn_eps(self, 1e-3)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.features(clip_BCTHW)
        times, rows, columns = (min(n, w) for n, w in zip(x.shape[2:], WINDOW, strict=True))
        x = functional.avg_pool3d(x, (times, rows, columns), stride=1)
        return self.classifier(x).mean((2, 3, 4))  # type: ignore[no-any-return]
