"""A convolutional GRU over cached maps: B×T×C×H×W to B×K, or B×T×K.

Ballas, Yao, Pal, Courville: Delving deeper into convolutional networks for learning video
representations, ICLR 2016, doi:10.48550/arXiv.1511.06432. The cell is that of the network
`convgru`; here there is one tap, the layer whose maps were cached.
"""

import torch
from torch import Tensor, nn

from flowpipe.models.layers import ConvGru, Steps, check_output, dropout_layer, join_steps


class ConvGruHead(nn.Module):
    """A GRU in one or both directions, spatial mean, classifier.

    Its cell has 27·C·hidden + 27·hidden² parameters.

    Parameters
    ----------
    num_classes, num_features
        K, and C of the maps.
    hidden
        Planes of the state.
    bidirectional
        A second GRU runs from the last step to the first.
    output
        "last" (many to one), "mean" (probabilities averaged over the steps) or "frames".
    dropout
        Share of the pooled state dropped before the classifier, in [0, 1); 0.7 is the paper's.
    """

    input_layout = "TCHW"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        num_features: int,
        hidden: int = 256,
        bidirectional: bool = False,
        output: Steps = "last",
        dropout: float = 0.7,
    ) -> None:
        super().__init__()
        check_output(output)
        self.output = output
        self.gru = ConvGru(num_features, hidden)
        self.backward_gru = ConvGru(num_features, hidden) if bidirectional else None
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def forward(self, maps_BTCHW: Tensor) -> Tensor:
        """Return logits B×K, or B×T×K for the output "frames"."""
        states_BTD = self.gru(maps_BTCHW).mean((3, 4))
        if self.backward_gru is not None:
            backward_BTD = self.backward_gru(maps_BTCHW.flip(1)).flip(1).mean((3, 4))
            if self.output == "last":
                states_BTD, backward_BTD = states_BTD[:, -1:], backward_BTD[:, :1]
            states_BTD = torch.cat([states_BTD, backward_BTD], 2)
        return join_steps(self.fc(self.dropout(states_BTD)), self.output)
