"""A 2D network on every frame, fused at the end: B×T×C×H×W to B×K logits.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223, "late fusion".

    late-fusion-pool    features → mean over space and time → linear
    late-fusion-fc      features of the T frames side by side → hidden layer, ReLU → linear

Features are what the backbone gives to its own classifier, D per frame. The paper fuses two
frames 15 apart by fully connected layers; here all T frames take part, and the network is any 2D
network of the project.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flowpipe.models.layers import FrameFeatures, dropout_layer, feature_backbone


class LateFusionPool(FrameFeatures):
    """Backbone, mean over the frames, classifier; as many parameters as its backbone.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    dropout
        Share of the fused features dropped, in [0, 1).
    """

    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet18",
        backbone_parameters: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        body, num_features = feature_backbone(
            backbone, backbone_parameters, in_channels=in_channels
        )
        super().__init__(body)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(num_features, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        features_BTD = self.backbone(clip_BTCHW.flatten(0, 1)).unflatten(0, clip_BTCHW.shape[:2])
        return self.fc(self.dropout(features_BTD.mean(1)))  # type: ignore[no-any-return]


class LateFusionFc(FrameFeatures):
    """Backbone, features of all frames side by side, two fully connected layers.

    Parameters
    ----------
    num_classes, in_channels, backbone, backbone_parameters
        As of `LateFusionPool`.
    frames
        T, frames in a clip.
    hidden
        Units of the hidden layer.
    dropout
        Share of the hidden layer dropped, in [0, 1).
    """

    classifier_name = "fc2"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        frames: int = 10,
        backbone: str = "resnet18",
        backbone_parameters: Mapping[str, Any] | None = None,
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        body, num_features = feature_backbone(
            backbone, backbone_parameters, in_channels=in_channels
        )
        super().__init__(body)
        self.fc1 = nn.Linear(frames * num_features, hidden)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout_layer(dropout)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K; T must be the `frames` the network was built for."""
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1))
        features_BF = features_ND.unflatten(0, clip_BTCHW.shape[:2]).flatten(1)
        return self.fc2(self.dropout(self.relu(self.fc1(features_BF))))  # type: ignore[no-any-return]
