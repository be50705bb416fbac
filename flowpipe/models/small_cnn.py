"""A small network for small data sets: B×C×H×W to B×K logits, trained from scratch.

Made for this project, after no paper: five convolutions with batch normalisation
(Ioffe and Szegedy 2015, doi:10.48550/arXiv.1502.03167), four times halved, then the mean and the
maximum of every feature over all positions, side by side. The maximum sees a small moving part
that the mean would drown in a still background. About half a million parameters at width 32.

    conv 5×5/2 w → conv 3×3 2w, pool → conv 3×3 4w, pool → conv 3×3 4w, pool → conv 3×3 8w
    → mean ‖ max → dropout → linear

For 64 px the last map is 4×4, for 224 px 14×14; any input from 16 px up.
"""

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer, init_he


def _conv(in_planes: int, planes: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_planes, planes, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(planes),
        nn.ReLU(inplace=True),
    ]


class SmallCnn(nn.Module):
    """Five convolutions, mean and maximum over positions, classifier.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input: 3 for RGB, 2L for a stack of L flows.
    width
        Planes of the first convolution; the last has eight times as many. Must be >= 1; the
        number of parameters grows with its square.
    dropout
        Share of the pooled features dropped before the classifier, in [0, 1).

    Raises
    ------
    InvalidArgument
        If `width` < 1 or `dropout` is not in [0, 1).
    """

    input_layout = "CHW"
    stem_name = "features.0"
    classifier_name = "fc"

    def __init__(
        self, *, num_classes: int, in_channels: int = 3, width: int = 32, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if width < 1:
            raise InvalidArgument(f"width {width!r} must be >= 1; 32 is the usual choice")
        self.features = nn.Sequential(
            *_conv(in_channels, width, 5, stride=2),
            *_conv(width, 2 * width, 3),
            nn.MaxPool2d(2),
            *_conv(2 * width, 4 * width, 3),
            nn.MaxPool2d(2),
            *_conv(4 * width, 4 * width, 3),
            nn.MaxPool2d(2),
            *_conv(4 * width, 8 * width, 3),
        )
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(2 * 8 * width, num_classes)
        init_he(self)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.features(clip_BCHW)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return self.fc(self.dropout(pooled))  # type: ignore[no-any-return]
