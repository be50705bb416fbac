"""A 2D network on every frame by itself: B×T×C×H×W to B×K.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223, "single frame".

The class probabilities of the frames are averaged. The output is the logarithm of that mean, so
that it serves as logits: its softmax is the mean itself, and the loss is that of the mean.
The paper's network was of AlexNet's kind; here it is any 2D network of the project.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flowpipe.models.layers import FrameFeatures, frame_backbone, log_mean_softmax


class SingleFrame(FrameFeatures):
    """Backbone with its classifier on each frame, mean of the probabilities.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet18",
        backbone_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            frame_backbone(
                backbone, backbone_parameters, num_classes=num_classes, in_channels=in_channels
            )
        )
        self.classifier_name = f"backbone.{self.backbone.classifier_name}"

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities B×K."""
        logits_NK = self.backbone(clip_BTCHW.flatten(0, 1))
        return log_mean_softmax(logits_NK.unflatten(0, clip_BTCHW.shape[:2]))
