"""VGG-16: B×C×H×W to B×K logits.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR
2015, doi:10.48550/arXiv.1409.1556.

Thirteen 3×3 convolutions in five groups, each ended by a 2×2 pooling, then fc6 4096, fc7 4096,
fc8 K. As in torchvision, and with its state-dict names, so that its weights load; a pooling to 7×7
before fc6 lets other sizes than 224 px in. Initialised after He et al. 2015.

    pool1 … pool5    features.4, 9, 16, 23, 30       fc6, fc7, fc8    classifier.0, 3, 6
"""

from torch import Tensor, nn

from flowpipe.models.layers import dropout_layer, init_he

GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Vgg(nn.Module):
    """Five groups of convolutions, three fully connected layers; 138,357,544 parameters for 1000.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input.
    batch_norm
        Normalise behind every convolution (an addition of torchvision's).
    dropout
        Share of fc6 and fc7 dropped, in [0, 1).
    """

    input_layout = "CHW"
    stem_name = "features.0"
    classifier_name = "classifier.6"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_planes = in_channels
        for planes, count in GROUPS:
            for _ in range(count):
                normalisation = [nn.BatchNorm2d(planes)] if batch_norm else []
                conv = nn.Conv2d(in_planes, planes, 3, padding=1)
                layers += [conv, *normalisation, nn.ReLU(inplace=True)]
                in_planes = planes
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            dropout_layer(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            dropout_layer(dropout),
            nn.Linear(4096, num_classes),
        )
        init_he(self, linear=True)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.avgpool(self.features(clip_BCHW)).flatten(1)
        return self.classifier(x)  # type: ignore[no-any-return]
