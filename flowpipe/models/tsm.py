"""TSM: a 2D ResNet over frames that hands a part of its channels on in time; B×T×C×H×W to B×K.

Lin, Gan, Han: TSM: temporal shift module for efficient video understanding, ICCV 2019,
doi:10.1109/ICCV.2019.00718.

Before the first convolution of every residual block an eighth of the channels comes from the next
frame, another eighth from the frame before; zeros at the ends. Logits are averaged over frames.
No parameters beyond the ResNet's, whose names stand behind "backbone.".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowpipe.models.layers import FrameFeatures, find_layer, frame_backbone


def shift(x_BTCHW: Tensor, share: int) -> Tensor:
    """Move 1/share of the channels one frame back, 1/share one frame on.

    ::

        frames          a b c d
        first channels  b c d 0
        next channels   0 a b c
        others          a b c d
    """
    fold = x_BTCHW.shape[2] // share
    back, on, rest = x_BTCHW[:, :, :fold], x_BTCHW[:, :, fold : 2 * fold], x_BTCHW[:, :, 2 * fold :]
    nothing = torch.zeros_like(back[:, :1])
    back = torch.cat([back[:, 1:], nothing], 1)
    return torch.cat([back, torch.cat([nothing, on[:, :-1]], 1), rest], 2)


class ShiftedConv(nn.Conv2d):
    """A convolution on B·T frames, behind the shift."""

    frames = 1
    share = 8

    def forward(self, x_NCHW: Tensor) -> Tensor:
        clips = x_NCHW.reshape(-1, self.frames, *x_NCHW.shape[1:])
        return super().forward(shift(clips, self.share).flatten(0, 1))


class Tsm(FrameFeatures):
    """ResNet with shifts, mean of the logits; as many parameters as the ResNet.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A ResNet of the table, and its parameters.
    share
        One of so many channels goes each way.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet50",
        backbone_parameters: Mapping[str, Any] | None = None,
        share: int = 8,
    ) -> None:
        super().__init__(
            frame_backbone(
                backbone, backbone_parameters, num_classes=num_classes, in_channels=in_channels
            )
        )
        self.classifier_name = f"backbone.{self.backbone.classifier_name}"
        for number in range(1, 5):
            stage = find_layer(self.backbone, f"layer{number}", name=backbone)
            assert isinstance(stage, nn.Sequential)
            # As released: networks of 101 layers and more shift in every other block.
            step = 2 if len(self.backbone.get_submodule("layer3")._modules) >= 23 else 1
            for block in list(stage)[::step]:
                conv = block.conv1
                assert isinstance(conv, nn.Conv2d)
                conv.__class__ = ShiftedConv
        self.shifted = [m for m in self.backbone.modules() if isinstance(m, ShiftedConv)]
        for conv in self.shifted:
            conv.share = share

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        for conv in self.shifted:
            conv.frames = clip_BTCHW.shape[1]
        logits_NK = self.backbone(clip_BTCHW.flatten(0, 1))
        return logits_NK.unflatten(0, clip_BTCHW.shape[:2]).mean(1)  # type: ignore[no-any-return]
