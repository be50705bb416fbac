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

from flowpipe.models.layers import dropout_layer, feature_backbone


class LateFusionPool(nn.Module):
    """Backbone, mean over the frames, classifier."""

    input_layout = "TCHW"
    classifier_name = "fc"

    def __init__(
        self, backbone: nn.Module, num_features: int, *, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.stem_name = f"backbone.{backbone.stem_name}"
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(num_features, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give logits B×K."""
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1))
        features_BTD = features_ND.unflatten(0, clip_BTCHW.shape[:2])
        return self.fc(self.dropout(features_BTD.mean(1)))  # type: ignore[no-any-return]


def late_fusion_pool(
    *,
    num_classes: int,
    in_channels: int = 3,
    backbone: str = "resnet18",
    backbone_parameters: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
) -> LateFusionPool:
    """Late fusion by pooling; as many parameters as its backbone.

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
    dropout
        Share of the fused features dropped, in [0, 1).
    """
    body, num_features = feature_backbone(backbone, backbone_parameters, in_channels=in_channels)
    return LateFusionPool(body, num_features, num_classes=num_classes, dropout=dropout)


def late_fusion_pool_tiny(*, num_classes: int, in_channels: int = 3) -> LateFusionPool:
    """`late_fusion_pool` on `small-cnn` of width 8, for tests."""
    return late_fusion_pool(
        num_classes=num_classes,
        in_channels=in_channels,
        backbone="small-cnn",
        backbone_parameters={"width": 8, "dropout": 0.0},
    )


class LateFusionFc(nn.Module):
    """Backbone, features of all frames side by side, two fully connected layers."""

    input_layout = "TCHW"
    classifier_name = "fc2"

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        num_classes: int,
        frames: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.stem_name = f"backbone.{backbone.stem_name}"
        self.fc1 = nn.Linear(frames * num_features, hidden)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout_layer(dropout)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give logits B×K; T must be the `frames` the network was built for."""
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1))
        features_BF = features_ND.unflatten(0, clip_BTCHW.shape[:2]).flatten(1)
        hidden = self.dropout(self.relu(self.fc1(features_BF)))
        return self.fc2(hidden)  # type: ignore[no-any-return]


def late_fusion_fc(
    *,
    num_classes: int,
    in_channels: int = 3,
    frames: int = 10,
    backbone: str = "resnet18",
    backbone_parameters: Mapping[str, Any] | None = None,
    hidden: int = 512,
    dropout: float = 0.5,
) -> LateFusionFc:
    """Late fusion by fully connected layers.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    frames
        T, frames in a clip.
    backbone
        A 2D network of the table, or your own.
    backbone_parameters
        Its parameters.
    hidden
        Units of the hidden layer.
    dropout
        Share of the hidden layer dropped, in [0, 1).
    """
    body, num_features = feature_backbone(backbone, backbone_parameters, in_channels=in_channels)
    return LateFusionFc(
        body, num_features, num_classes=num_classes, frames=frames, hidden=hidden, dropout=dropout
    )


def late_fusion_fc_tiny(*, num_classes: int, in_channels: int = 3, frames: int = 8) -> LateFusionFc:
    """`late_fusion_fc` on `small-cnn` of width 8, for tests."""
    return late_fusion_fc(
        num_classes=num_classes,
        in_channels=in_channels,
        frames=frames,
        backbone="small-cnn",
        backbone_parameters={"width": 8, "dropout": 0.0},
        hidden=32,
        dropout=0.0,
    )
