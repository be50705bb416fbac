"""Heads on the temporal average: B×T×D to B×K.

The mean over time of a network's features is the plain baseline of action recognition. `linear`
and `mlp` are trained like any network; `svm` is fitted at once, as in Tran et al.: Learning
spatiotemporal features with 3D convolutional networks, ICCV 2015, doi:10.1109/ICCV.2015.510, whose
C3D features are classified by a linear SVM.
"""

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer


class Pooled(nn.Module):
    """Mean over time, then some layers, the last of which is the classifier `fc`."""

    input_layout = "TD"
    classifier_name = "fc"

    def __init__(self, body: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.fc = nn.Linear(num_features, num_classes)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return logits B×K."""
        return self.fc(self.body(features_BTD.mean(1)))  # type: ignore[no-any-return]


class StandardisedLinear(nn.Module):
    """A linear SVM on the standardised temporal average; fitted at once, not trained by steps."""

    input_layout = "TD"
    classifier_name = "fc"

    mean: Tensor
    scale: Tensor

    def __init__(self, *, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.fc = nn.Linear(num_features, num_classes)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return decision values B×K."""
        values = (features_BTD.mean(1) - self.mean) / self.scale
        return self.fc(values)  # type: ignore[no-any-return]


def linear(*, num_classes: int, num_features: int, dropout: float = 0.5) -> Pooled:
    """One linear layer on the temporal average.

    Parameters
    ----------
    num_classes, num_features
        K and D.
    dropout
        Share of the averaged features dropped, in [0, 1).
    """
    return Pooled(nn.Sequential(dropout_layer(dropout)), num_features, num_classes)


def mlp(*, num_classes: int, num_features: int, hidden: int = 512, dropout: float = 0.5) -> Pooled:
    """Two linear layers with a ReLU between, on the temporal average.

    Parameters
    ----------
    num_classes, num_features
        K and D.
    hidden
        Units between, >= 1.
    dropout
        Share of these units dropped, in [0, 1).
    """
    if hidden < 1:
        raise InvalidArgument(f"hidden {hidden!r} must be >= 1; 512 is the usual choice")
    body = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), dropout_layer(dropout))
    return Pooled(body, hidden, num_classes)
