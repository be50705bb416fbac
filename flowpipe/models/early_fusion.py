"""A 2D network whose first convolution sees all frames: B×(T·C)×H×W to B×K logits.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223, "early fusion".

The frames lie one behind the other in the channels (r0 g0 b0 r1 …); time is gone after the first
layer. The temporal network of a two-stream pair is the same thing with flow. The paper's network
was of AlexNet's kind; here it is any 2D network of the project, and the row is that network.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from flowpipe.models.layers import frame_backbone


def build(
    *,
    num_classes: int,
    in_channels: int = 30,
    backbone: str = "resnet18",
    backbone_parameters: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return the backbone with T·C input channels.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        T·C: 30 for ten RGB frames.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    """
    return frame_backbone(
        backbone, backbone_parameters, num_classes=num_classes, in_channels=in_channels
    )
