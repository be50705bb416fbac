"""A small 3D network whose features go into an LSTM: B×C×T×H×W to B×K, or B×(T−8)×K.

Baccouche, Mamalet, Wolf, Garcia, Baskurt: Sequential deep learning for human action recognition,
HBU 2011, doi:10.1007/978-3-642-25446-8_4.

    layer                                 C×T×H×W (from T×34×54)
    conv1 5×7×7, 7 planes, |·|, pool 2    7×(T−4)×14×24
    conv2 3×5×5, 35 planes, |·|, pool 2   35×(T−6)×5×10
    conv3 3×3×3, 5 planes                 5×(T−8)×3×8
    120 features a step, LSTM 50, classifier at each step

No convolution pads along time, so a step sees nine frames, as the paper's stacks of nine. Scores
of the steps are averaged (output "mean"); "last" and "frames" as in `cnn_lstm`. Frames of any size
from 28 px are averaged to the 3×8 positions. The paper's conv2 takes fixed pairs of planes and its
input is grey; it first trains the 3D part alone, here all is trained together.
"""

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import Steps, check_output, dropout_layer, join_steps

WINDOW = 9


class Rectify(nn.Module):
    """Absolute value."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Cnn3dLstm(nn.Module):
    """Three 3D convolutions, LSTM, classifier at every step.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    hidden
        Units of the LSTM.
    output
        "mean", "last" or "frames": see the module.
    dropout
        Share of the LSTM's state dropped before the classifier, in [0, 1).
    """

    input_layout = "CTHW"
    stem_name = "features.0"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        hidden: int = 50,
        output: Steps = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_output(output)
        self.output = output
        self.features = nn.Sequential(
            nn.Conv3d(in_channels, 7, (5, 7, 7)),
            Rectify(),
            nn.AvgPool3d((1, 2, 2)),
            nn.Conv3d(7, 35, (3, 5, 5)),
            Rectify(),
            nn.AvgPool3d((1, 2, 2)),
            nn.Conv3d(35, 5, 3),
            nn.AdaptiveAvgPool3d((None, 3, 8)),
        )
        self.lstm = nn.LSTM(120, hidden, batch_first=True)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K, or B×(T−8)×K for the output "frames".

        Raises
        ------
        InvalidArgument
            If the clip has fewer than nine frames, or frames under 28 px.
        """
        frames, height, width = clip_BCTHW.shape[2:]
        if frames < WINDOW or min(height, width) < 28:
            raise InvalidArgument(
                f"cnn3d-lstm takes {WINDOW} frames of 28×28 px or more, not {frames} of "
                f"{height}×{width}; set frames or crop_size"
            )
        features_BTD = self.features(clip_BCTHW).transpose(1, 2).flatten(2)
        states_BTD, _ = self.lstm(features_BTD)
        return join_steps(self.fc(self.dropout(states_BTD)), self.output)
