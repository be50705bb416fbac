"""`snippets`: each snippet is classified by itself, and runs above a threshold are instances.

The baseline that the other methods must beat, and the fallback where there is little data: it
knows nothing of what comes before and after. A run's score is the mean probability inside it less
that just outside (AutoLoc's contrast [1]_), so that of runs within each other, at several
thresholds, the one with the clearest ends is the best.

References
----------
.. [1] Z. Shou et al., "AutoLoc: weakly-supervised temporal action localization in untrimmed
   videos", ECCV 2018. https://doi.org/10.1007/978-3-030-01270-0_10
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.localisation.layers import MOST_STEPS, Standardise, check_regularisation


@dataclass(frozen=True)
class SnippetOptions:
    """The choices of the snippet classifier.

    Attributes
    ----------
    hidden : int
        Units between features and classes; 0: a linear classifier.
    dropout : float
        Of the features, in training.
    input_noise : float
        Standard deviations of noise on the standardised features, in training.
    smoothing : int
        Steps over which probabilities are averaged; odd.
    thresholds : tuple of float
        Of the probability of a class.
    """

    hidden: int = 256
    dropout: float = 0.3
    input_noise: float = 0.3
    smoothing: int = 3
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        check_regularisation(self.dropout, self.input_noise)
        if not 1 <= self.smoothing <= MOST_STEPS or self.smoothing % 2 == 0 or self.hidden < 0:
            raise InvalidArgument(
                f"smoothing {self.smoothing} must be odd and ≤ {MOST_STEPS}, hidden {self.hidden} "
                "≥ 0; 3 and 256 are usual"
            )
        if not self.thresholds or not all(0 < value < 1 for value in self.thresholds):
            raise InvalidArgument(f"thresholds {self.thresholds} must lie in (0, 1)")


class Snippets(nn.Module):
    """The classifier; class K is the background.

    Parameters
    ----------
    num_features, num_classes : int
    lengths : array
        Not used.
    options : SnippetOptions, optional
    """

    Options = SnippetOptions

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        lengths: npt.ArrayLike = (),
        options: SnippetOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = chosen = options or SnippetOptions()
        self.num_classes = num_classes
        self.standardise = Standardise(num_features, chosen.dropout, chosen.input_noise)
        layers: list[nn.Module] = []
        if chosen.hidden:
            layers = [nn.Linear(num_features, chosen.hidden), nn.ReLU(), nn.Dropout(0.5)]
        self.classifier = nn.Sequential(
            *layers, nn.Linear(chosen.hidden or num_features, num_classes + 1)
        )

    def forward(self, features_TD: Tensor) -> Tensor:
        """Return logits T×(K + 1)."""
        logits: Tensor = self.classifier(self.standardise(features_TD))
        return logits

    def loss(self, features_TD: Tensor, segments_M2: Tensor, labels_M: Tensor) -> Tensor:
        """Return the mean cross-entropy; a snippet in several instances has a share of each."""
        targets = torch.zeros(len(features_TD), self.num_classes + 1, device=features_TD.device)
        places_T1 = torch.arange(len(features_TD), device=features_TD.device)[:, None]
        inside_TM = (places_T1 >= segments_M2[:, 0]) & (places_T1 < segments_M2[:, 1])
        step, instance = inside_TM.nonzero(as_tuple=True)
        targets[step, labels_M[instance]] = 1.0
        targets[:, -1] = (targets.sum(1) == 0).float()
        return functional.cross_entropy(self(features_TD), targets / targets.sum(1, keepdim=True))

    @staticmethod
    @torch.no_grad()
    def localise(
        networks: Sequence["Snippets"], features: Sequence[Tensor]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return segments in steps, scores and labels, before any suppression.

        Several networks are fused late: probabilities are averaged.
        """
        options = networks[0].options
        each = [network(x).softmax(1) for network, x in zip(networks, features, strict=True)]
        mean_TK = torch.stack(each).mean(0)[:, :-1].double().cpu().numpy()
        kernel = np.ones(options.smoothing)
        ones = np.convolve(np.ones(len(mean_TK)), kernel, "same")[: len(mean_TK)]
        segments, scores, labels = [], [], []
        for label, raw in enumerate(mean_TK.T):
            padded = np.pad(raw, options.smoothing // 2)
            probability = np.convolve(padded, kernel, "valid") / ones
            total = np.concatenate(([0.0], np.cumsum(probability)))
            for threshold in options.thresholds:
                edges = np.diff(np.pad((probability >= threshold).astype(np.int8), 1))
                starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
                segments.append(np.stack((starts - 0.5, stops - 0.5), axis=1))
                scores.append(_contrast(total, starts, stops))
                labels.append(np.full(len(starts), label))
        return np.concatenate(segments), np.concatenate(scores), np.concatenate(labels)

    def reach(self) -> int:
        """Return how many steps to each side of a point may change what it says."""
        return self.options.smoothing // 2

    def alignment(self) -> int:
        """Return by how many steps a window may be moved without moving the points."""
        return 1


def _contrast(
    total: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the mean inside [start, stop) less the mean of a quarter of it to both sides."""
    steps = len(total) - 1
    lengths = stops - starts
    margin = np.maximum(lengths // 4, 1)
    low, high = np.maximum(starts - margin, 0), np.minimum(stops + margin, steps)
    inside = total[stops] - total[starts]
    outside = total[high] - total[low] - inside
    around = np.maximum(high - low - lengths, 1)
    return np.asarray(np.maximum(inside / np.maximum(lengths, 1) - outside / around, 0.0))
