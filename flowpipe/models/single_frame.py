"""A 2D network on every frame by itself: B×T×C×H×W to B×K.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223, "single frame".

The class probabilities of the frames are averaged. The output is the logarithm of that mean, so
that it serves as logits: its softmax is the mean itself, and the loss is that of the mean.
The paper's network was of AlexNet's kind; here it is any 2D network of the project. With the mean
of the logits it is the consensus of temporal segment networks (TSN, Wang et al., ECCV 2016,
doi:10.1007/978-3-319-46484-8_2), a frame or a stack of flows for each segment.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from flowpipe.models.layers import FrameFeatures, check_choice, frame_backbone, log_mean_softmax


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
    average
        Of the "probabilities", or of the "logits", as temporal segment networks have it.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet18",
        backbone_parameters: Mapping[str, Any] | None = None,
        average: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        check_choice("average", average, ("probabilities", "logits"))
        super().__init__(
            frame_backbone(
                backbone, backbone_parameters, num_classes=num_classes, in_channels=in_channels
            )
        )
        self.average = average
        self.classifier_name = f"backbone.{self.backbone.classifier_name}"

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities, or the mean logits, B×K."""
        logits_NK = self.backbone(clip_BTCHW.flatten(0, 1))
        logits_BTK = logits_NK.unflatten(0, clip_BTCHW.shape[:2])
        return logits_BTK.mean(1) if self.average == "logits" else log_mean_softmax(logits_BTK)
