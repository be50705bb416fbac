"""LRCN: an LSTM on fc6 of a 2D network, a prediction at every frame; B×T×C×H×W to B×K or B×T×K.

Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko, Darrell: Long-term recurrent
convolutional networks for visual recognition and description, CVPR 2015,
doi:10.1109/CVPR.2015.7298878.

16 frames; fc6 (4096, after its ReLU), LSTM of 256 units, classifier at each step. In testing the
predictions are averaged, which is the output "mean" (its logarithm); "frames" gives them one by
one, and training then takes the mean of their losses, as in the paper. The paper's body was a
hybrid of CaffeNet and Zeiler and Fergus' network; here it is CNN-M-2048, or any 2D network.
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


class Lrcn(FrameFeatures):
    """Backbone up to fc6, LSTM, classifier at every step."""

    classifier_name = "fc"

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        num_classes: int,
        hidden: int,
        output: Steps,
        frozen: bool,
        dropout: float,
    ) -> None:
        super().__init__(backbone, frozen=frozen)
        check_output(output)
        self.output = output
        self.dropout = dropout_layer(dropout)
        self.lstm = nn.LSTM(num_features, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give logits B×K, or B×T×K for the output "frames"."""
        # Backbones without a ReLU behind fc6 get one here; a second one changes nothing.
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1)).relu()
        features_BTD = features_ND.unflatten(0, clip_BTCHW.shape[:2])
        states_BTD, _ = self.lstm(self.dropout(features_BTD))
        return join_steps(self.fc(states_BTD), self.output)


def lrcn(
    *,
    num_classes: int,
    in_channels: int = 3,
    backbone: str = "cnn-m-2048",
    backbone_parameters: Mapping[str, Any] | None = None,
    feature_layer: str | None = "fc6",
    hidden: int = 256,
    output: Steps = "mean",
    frozen: bool = False,
    dropout: float = 0.9,
) -> Lrcn:
    """LRCN; the LSTM on 4096 features and the classifier have 4,484,453 parameters, 101 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    feature_layer
        Its linear layer whose outputs are the features; None takes what its classifier takes.
    hidden
        Units of the LSTM.
    output
        "mean", "frames" or "last": see the module.
    frozen
        Leave the backbone as its weights are.
    dropout
        Share of the features dropped, in [0, 1); 0.9 is the paper's.
    """
    # Dropout stands here, once, in place of the backbone's own.
    parameters = {"dropout": 0.0, **(backbone_parameters or {})}
    body, num_features = feature_backbone(
        backbone, parameters, in_channels=in_channels, layer=feature_layer
    )
    return Lrcn(
        body,
        num_features,
        num_classes=num_classes,
        hidden=hidden,
        output=output,
        frozen=frozen,
        dropout=dropout,
    )


def lrcn_tiny(*, num_classes: int, in_channels: int = 3, output: Steps = "mean") -> Lrcn:
    """`lrcn` on `small-cnn` of width 8, for tests."""
    return lrcn(
        num_classes=num_classes,
        in_channels=in_channels,
        backbone="small-cnn",
        backbone_parameters={"width": 8},
        feature_layer=None,
        hidden=32,
        output=output,
        dropout=0.0,
    )
