"""A 2D network on every frame by itself: B×T×C×H×W to B×K.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223, "single frame".

The class probabilities of the frames are averaged. The output is the logarithm of that mean, so
that it serves as logits: its softmax is the mean itself, and the loss is that of the mean.
The paper's network was of AlexNet's kind; here it is any 2D network of the project.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flowpipe.models.layers import frame_backbone, log_mean_softmax


class SingleFrame(nn.Module):
    """Backbone with its classifier on each frame, mean of the probabilities."""

    input_layout = "TCHW"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.stem_name = f"backbone.{backbone.stem_name}"
        self.classifier_name = f"backbone.{backbone.classifier_name}"

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give the logarithm of the mean probabilities B×K."""
        logits_NK = self.backbone(clip_BTCHW.flatten(0, 1))
        return log_mean_softmax(logits_NK.unflatten(0, clip_BTCHW.shape[:2]))


def single_frame(
    *,
    num_classes: int,
    in_channels: int = 3,
    backbone: str = "resnet18",
    backbone_parameters: Mapping[str, Any] | None = None,
) -> SingleFrame:
    """Single frame; as many parameters as its backbone.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone
        A 2D network of the table, or your own.
    backbone_parameters
        Its parameters.
    """
    return SingleFrame(
        frame_backbone(
            backbone, backbone_parameters, num_classes=num_classes, in_channels=in_channels
        )
    )


def single_frame_tiny(*, num_classes: int, in_channels: int = 3) -> SingleFrame:
    """`single_frame` on `small-cnn` of width 8, for tests."""
    return single_frame(
        num_classes=num_classes,
        in_channels=in_channels,
        backbone="small-cnn",
        backbone_parameters={"width": 8, "dropout": 0.0},
    )
