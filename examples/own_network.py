"""A network of one's own as a stream: this file and `model = "examples.own_network:build"`.

What flowpipe asks for: a function `build(*, num_classes, in_channels, …)` that gives an
`nn.Module` with three attributes: `input_layout` (here B×C×T×H×W, "CTHW"), and the dotted names of
its first convolution and of its last layer, by which pre-trained weights are fitted. Further
keywords of `build` are set by `model_parameters` of the stream. See it layer by layer with
`flowpipe describe examples.own_network:build --input 2,10,64,64`.
"""

import torch
from torch import Tensor, nn


def block(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    """Look at each frame, then along time: a convolution in two steps."""
    return nn.Sequential(
        nn.Conv3d(in_planes, planes, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(planes),
        nn.ReLU(inplace=True),
        nn.Conv3d(planes, planes, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(planes),
        nn.ReLU(inplace=True),
    )


class OwnNetwork(nn.Module):
    """Four blocks, the maximum over the clip, a classifier."""

    input_layout = "CTHW"
    stem_name = "body.0.0"
    classifier_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(in_channels, width, 2),
            block(width, 2 * width, 2),
            block(2 * width, 4 * width, 2),
            block(4 * width, 4 * width, 1),
        )
        self.classifier = nn.Linear(2 * 4 * width, num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        x = self.body(clip_BCTHW)
        pooled = torch.cat([x.mean((2, 3, 4)), x.amax((2, 3, 4))], dim=1)
        return self.classifier(pooled)


def build(*, num_classes: int, in_channels: int = 3, width: int = 16) -> OwnNetwork:
    """Make the network; `model_parameters = {width = 32}` in the configuration widens it."""
    return OwnNetwork(num_classes, in_channels, width)
