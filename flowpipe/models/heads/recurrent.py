"""LSTM and GRU over cached features: B×T×D to B×K, or B×T×K.

Yue-Hei Ng et al.: Beyond short snippets, CVPR 2015, doi:10.1109/CVPR.2015.7299101; Donahue et
al.: Long-term recurrent convolutional networks, CVPR 2015, doi:10.1109/CVPR.2015.7298878.

    output     the head gives
    last       many to one: the scores of the last step (of both ends, if bi-directional)
    mean       many to one: class probabilities averaged over the steps (their logarithm)
    max        many to one: the scores of the largest of each state over the steps
    frames     many to many: scores B×T×K

With one direction, `lstm` has the layers of `cnn-lstm` behind its backbone, and their names.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.models.layers import dropout_layer, join_steps

Output = Literal["last", "mean", "max", "frames"]


class Recurrent(nn.Module):
    """A recurrent layer, dropout, classifier.

    Parameters
    ----------
    num_classes, num_features
        K and D.
    hidden, num_layers
        Units and layers.
    bidirectional
        A second one runs from the last step to the first.
    output
        "last", "mean", "max" or "frames": see the module.
    dropout
        Share of the state dropped before the classifier, in [0, 1).
    """

    input_layout = "TD"
    classifier_name = "fc"
    cell: type[nn.LSTM] | type[nn.GRU]
    cell_name: str

    def __init__(
        self,
        *,
        num_classes: int,
        num_features: int,
        hidden: int = 512,
        num_layers: int = 1,
        bidirectional: bool = False,
        output: Output = "last",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if hidden < 1 or num_layers < 1:
            raise InvalidArgument(f"hidden {hidden} and num_layers {num_layers} must be >= 1")
        if output not in get_args(Output):
            raise InvalidArgument(
                f'output "{output}"{nearest_name(output, get_args(Output))} must be one of '
                f"{', '.join(get_args(Output))}"
            )
        layer = self.cell(
            num_features, hidden, num_layers, batch_first=True, bidirectional=bidirectional
        )
        self.add_module(self.cell_name, layer)
        self.output, self.bidirectional = output, bidirectional
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return logits B×K, or B×T×K for the output "frames"."""
        states_BTD, _ = self.get_submodule(self.cell_name)(features_BTD)
        if self.output == "max":
            states_BTD = states_BTD.amax(1, keepdim=True)
        if self.output == "last" and self.bidirectional:
            forward, backward = states_BTD.chunk(2, 2)
            states_BTD = torch.cat([forward[:, -1:], backward[:, :1]], 2)
        logits_BTK = self.fc(self.dropout(states_BTD))
        return join_steps(logits_BTK, "last" if self.output == "max" else self.output)


class Lstm(Recurrent):
    """LSTM; 5,298,789 parameters for 2048 features, 512 units and 101 classes."""

    cell, cell_name = nn.LSTM, "lstm"


class Gru(Recurrent):
    """GRU."""

    cell, cell_name = nn.GRU, "gru"
