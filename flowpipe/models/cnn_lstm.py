"""A 2D network on every frame, then an LSTM over time: B×T×C×H×W to B×K, or B×T×K.

`cnn-lstm`: Yue-Hei Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga, Toderici: Beyond short
snippets, CVPR 2015, doi:10.1109/CVPR.2015.7299101; with one layer of 512 units also the
"ConvNet+LSTM" to which I3D is compared.
`lrcn`: Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko, Darrell: Long-term recurrent
convolutional networks for visual recognition and description, CVPR 2015,
doi:10.1109/CVPR.2015.7298878: 16 frames; fc6 (4096, after its ReLU), dropout, LSTM of 256 units,
predictions averaged in testing. The paper's body was a hybrid of CaffeNet and Zeiler and Fergus'
network; here it is CNN-M-2048, without its own dropout.

    output     the network gives
    last       many to one: the scores of the last step
    mean       many to one: class probabilities averaged over the steps (their logarithm)
    frames     many to many: scores B×T×K; a step sees its own and earlier frames only

The backbone is any 2D network of the project, trained with the rest or frozen.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from flowpipe.models.layers import (
    FrameFeatures,
    Steps,
    check_choice,
    check_output,
    dropout_layer,
    feature_backbone,
    join_steps,
)


class CnnLstm(FrameFeatures):
    """Backbone, LSTM, classifier at every step.

    On ResNet-50 the LSTM and classifier have 5,298,789 parameters for 101 classes; those of
    `lrcn` have 4,484,453.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    backbone, backbone_parameters
        A 2D network of the table or your own, and its parameters.
    feature_layer
        Its linear layer whose outputs, after a ReLU, are the features; None takes what its
        classifier takes.
    hidden, num_layers
        Units and layers of the LSTM.
    output
        "last", "mean" or "frames": see the module.
    frozen
        Leave the backbone as its weights are.
    dropout
        Share dropped, in [0, 1).
    drop
        Of what: the LSTM's "states" before the classifier, or the "features" before the LSTM, in
        place of the backbone's own dropout.
    """

    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet50",
        backbone_parameters: Mapping[str, Any] | None = None,
        feature_layer: str | None = None,
        hidden: int = 512,
        num_layers: int = 1,
        output: Steps = "last",
        frozen: bool = False,
        dropout: float = 0.5,
        drop: Literal["states", "features"] = "states",
    ) -> None:
        check_output(output)
        check_choice("drop", drop, ("states", "features"))
        body, num_features = feature_backbone(
            backbone,
            ({"dropout": 0.0} if drop == "features" else {}) | dict(backbone_parameters or {}),
            in_channels=in_channels,
            layer=feature_layer,
        )
        super().__init__(body, frozen=frozen)
        self.output, self.drop, self.rectify = output, drop, feature_layer is not None
        self.lstm = nn.LSTM(num_features, hidden, num_layers, batch_first=True)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K, or B×T×K for the output "frames"."""
        features_ND = self.backbone(clip_BTCHW.flatten(0, 1))
        if self.rectify:
            # Not all networks have a ReLU behind that layer; a second one changes nothing.
            features_ND = features_ND.relu()
        features_BTD = features_ND.unflatten(0, clip_BTCHW.shape[:2])
        if self.drop == "features":
            return join_steps(self.fc(self.lstm(self.dropout(features_BTD))[0]), self.output)
        return join_steps(self.fc(self.dropout(self.lstm(features_BTD)[0])), self.output)
