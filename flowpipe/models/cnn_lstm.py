"""A 2D network on every frame, then an LSTM over time: B×T×C×H×W to B×K, or B×T×K.

Yue-Hei Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga, Toderici: Beyond short snippets, CVPR
2015, doi:10.1109/CVPR.2015.7299101; with one layer of 512 units also the "ConvNet+LSTM" to which
I3D is compared.

    output     the network gives
    last       many to one: the scores of the last step
    mean       many to one: class probabilities averaged over the steps (their logarithm)
    frames     many to many: scores B×T×K; a step sees its own and earlier frames only

The backbone is any 2D network of the project, trained with the rest or frozen.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flowpipe.models.layers import (
    FrameFeatures,
    Steps,
    check_output,
    dropout_layer,
    feature_backbone,
    join_steps,
)


class CnnLstm(FrameFeatures):
    """Backbone, LSTM, classifier at every step."""

    classifier_name = "fc"

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        num_classes: int,
        hidden: int,
        num_layers: int,
        output: Steps,
        frozen: bool,
        dropout: float,
    ) -> None:
        super().__init__(backbone, frozen=frozen)
        check_output(output)
        self.output = output
        self.lstm = nn.LSTM(num_features, hidden, num_layers, batch_first=True)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give logits B×K, or B×T×K for the output "frames"."""
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1))
        features_BTD = features_ND.unflatten(0, clip_BTCHW.shape[:2])
        states_BTD, _ = self.lstm(features_BTD)
        return join_steps(self.fc(self.dropout(states_BTD)), self.output)


def cnn_lstm(
    *,
    num_classes: int,
    in_channels: int = 3,
    backbone: str = "resnet50",
    backbone_parameters: Mapping[str, Any] | None = None,
    hidden: int = 512,
    num_layers: int = 1,
    output: Steps = "last",
    frozen: bool = False,
    dropout: float = 0.5,
) -> CnnLstm:
    """CNN + LSTM; on ResNet-50 the LSTM and classifier have 5,298,789 parameters for 101 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    hidden, num_layers
        Units and layers of the LSTM.
    output
        "last", "mean" or "frames": see the module.
    frozen
        Leave the backbone as its weights are.
    dropout
        Share of the LSTM's state dropped before the classifier, in [0, 1).
    """
    body, num_features = feature_backbone(backbone, backbone_parameters, in_channels=in_channels)
    return CnnLstm(
        body,
        num_features,
        num_classes=num_classes,
        hidden=hidden,
        num_layers=num_layers,
        output=output,
        frozen=frozen,
        dropout=dropout,
    )


def cnn_lstm_tiny(
    *, num_classes: int, in_channels: int = 3, output: Steps = "last", frozen: bool = False
) -> CnnLstm:
    """`cnn_lstm` on `small-cnn` of width 8, for tests."""
    return cnn_lstm(
        num_classes=num_classes,
        in_channels=in_channels,
        backbone="small-cnn",
        backbone_parameters={"width": 8, "dropout": 0.0},
        hidden=32,
        output=output,
        frozen=frozen,
        dropout=0.0,
    )
