"""`two-stage`: proposals by anchors of many scales, then a classifier of each (TAL-Net).

First stage: at each step anchors of several scales; each scale has its own tower, whose receptive
field grows with the anchor (max-pooling and dilated convolutions), doubled for context. Second
stage: the proposal, extended by half its length on both sides, is pooled into a fixed number of
bins and classified, with ends corrected for each class. Networks of several streams are fused
late, at both stages, as in the paper [1]_.

What differs: the scales follow from the lengths in the training data, and pooling interpolates
between steps (RoIAlign along time), so that it is differentiable in the features everywhere.

Axes: T steps, S scales, A = T·S anchors, N proposals, C channels, K classes.

References
----------
.. [1] Y.-W. Chao et al., "Rethinking the Faster R-CNN architecture for temporal action
   localization", CVPR 2018. https://doi.org/10.1109/CVPR.2018.00124
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.localisation.layers import ConvNorm, Standardise, check_regularisation
from flowpipe.localisation.nms import Suppression, suppress

SAMPLES_PER_BIN = 4
# A tower's two dilated convolutions see six of these (without context).
PARTS_OF_AN_ANCHOR = 6


@dataclass(frozen=True)
class TwoStageOptions:
    """The choices of the two stages.

    Attributes
    ----------
    width : int
        Channels.
    scales : int
        Anchors at each step, of geometric lengths between the shortest and the longest instance.
    context : bool
        Double the receptive field of each tower.
    bins : int
        Into which a proposal is pooled.
    hidden : int
        Units of the second stage.
    proposals : int
        Kept for the second stage, the best.
    proposal_iou : float
        Of two proposals that overlap by this much one is kept.
    positive_iou, negative_iou : float
        Anchors from and below which they count as positive and negative.
    match_iou : float
        From which a proposal counts as its instance in the second stage.
    sampled : int
        Anchors, and proposals, of a video that a training step looks at.
    dropout : float
        Of the input features and of the second stage, in training.
    input_noise : float
        Standard deviations of noise on the standardised features, in training.
    """

    width: int = 128
    scales: int = 8
    context: bool = True
    bins: int = 7
    hidden: int = 256
    proposals: int = 300
    proposal_iou: float = 0.7
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    match_iou: float = 0.5
    sampled: int = 128
    dropout: float = 0.3
    input_noise: float = 0.3

    def __post_init__(self) -> None:
        check_regularisation(self.dropout, self.input_noise)
        if min(self.width, self.scales, self.bins, self.hidden, self.proposals, self.sampled) < 1:
            raise InvalidArgument("width, scales, bins, hidden, proposals and sampled must be ≥ 1")
        if not (0 <= self.proposal_iou <= 1 and 0 < self.match_iou <= 1):
            raise InvalidArgument(
                f"proposal_iou {self.proposal_iou} must be in [0, 1], match_iou {self.match_iou} "
                "in (0, 1]; .7 and .5 are usual"
            )
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise InvalidArgument(
                f"negative_iou {self.negative_iou} must be > 0 and at most positive_iou "
                f"{self.positive_iou}; .3 and .7 are usual"
            )


class TwoStage(nn.Module):
    """The network of one stream.

    Parameters
    ----------
    num_features, num_classes : int
    lengths : array of M
        Lengths of the training instances in steps, between which the anchors lie.
    options : TwoStageOptions, optional
    """

    Options = TwoStageOptions

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        lengths: npt.ArrayLike = (),
        options: TwoStageOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = chosen = options or TwoStageOptions()
        self.num_classes, width = num_classes, chosen.width
        self.standardise = Standardise(num_features, chosen.dropout, chosen.input_noise)
        self.embedding = nn.Sequential(ConvNorm(num_features, width), ConvNorm(width, width))
        self.anchors = anchor_lengths(lengths, chosen.scales)
        self.towers = nn.ModuleList(
            _tower(width, length, chosen.context) for length in self.anchors
        )
        self.classifier = nn.Sequential(
            nn.Linear(width * chosen.bins, chosen.hidden), nn.ReLU(), nn.Dropout(chosen.dropout)
        )
        self.class_logits = nn.Linear(chosen.hidden, num_classes + 1)
        self.corrections = nn.Linear(chosen.hidden, 2 * num_classes)

    def propose(self, features_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features C×T, objectness A and corrections A×2 of the anchors."""
        x_1CT = self.embedding(self.standardise(features_TD).T[None])
        outputs_S3T = torch.cat([tower(x_1CT) for tower in self.towers])
        flat_A3 = outputs_S3T.permute(2, 0, 1).reshape(-1, 3)
        return x_1CT[0], flat_A3[:, 0], flat_A3[:, 1:]

    def anchors_of(self, steps: int, device: torch.device) -> Tensor:
        """Return the anchors A×2 of a video, by step, then scale."""
        center = torch.arange(steps, dtype=torch.float32, device=device)[:, None]
        half = torch.tensor(self.anchors, dtype=torch.float32, device=device)[None] / 2
        return torch.stack((center - half, center + half), dim=-1).reshape(-1, 2)

    def classify(self, x_CT: Tensor, proposals_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits N×(K + 1), the last for background, and corrections N×K×2."""
        length_N = proposals_N2[:, 1] - proposals_N2[:, 0]
        extended = proposals_N2 + torch.stack((-length_N / 2, length_N / 2), dim=1)
        pooled_NCB = pool_segments(x_CT, extended, self.options.bins)
        hidden = self.classifier(pooled_NCB.flatten(1))
        corrections: Tensor = self.corrections(hidden).view(-1, self.num_classes, 2)
        return self.class_logits(hidden), corrections

    def loss(self, features_TD: Tensor, segments_M2: Tensor, labels_M: Tensor) -> Tensor:
        """Return the loss of both stages on one window."""
        chosen = self.options
        x_CT, objectness_A, corrections_A2 = self.propose(features_TD)
        anchors_A2 = self.anchors_of(len(features_TD), features_TD.device)
        iou_A, instance_A = _best_overlap(anchors_A2, segments_M2)
        positive_A = iou_A >= chosen.positive_iou
        if len(segments_M2):
            # The best anchor of each instance is positive, however little it overlaps.
            positive_A[_overlaps(anchors_A2, segments_M2).argmax(0)] = True
        rows = _balanced(positive_A, (iou_A < chosen.negative_iou) & ~positive_A, chosen.sampled)
        total = functional.binary_cross_entropy_with_logits(
            objectness_A[rows], positive_A[rows].float()
        )
        own = rows[positive_A[rows]]
        if len(own):
            wanted = encode_ends(segments_M2[instance_A[own]], anchors_A2[own])
            total = total + functional.smooth_l1_loss(corrections_A2[own], wanted)
        with torch.no_grad():
            proposals_N2 = self._best(anchors_A2, objectness_A, corrections_A2)
            # The instances themselves too: early proposals are poor.
            proposals_N2 = torch.cat((proposals_N2, segments_M2))
            iou_N, instance_N = _best_overlap(proposals_N2, segments_M2)
            match_N = iou_N >= chosen.match_iou
            rows = _balanced(match_N, ~match_N, chosen.sampled)
        logits, ends = self.classify(x_CT, proposals_N2[rows])
        match = match_N[rows]
        classes = torch.full((len(rows),), self.num_classes, device=features_TD.device)
        if len(segments_M2):
            classes[match] = labels_M[instance_N[rows][match]]
        total = total + functional.cross_entropy(logits, classes)
        if match.any():
            wanted = encode_ends(segments_M2[instance_N[rows][match]], proposals_N2[rows][match])
            own_ends = ends[match, classes[match]]
            total = total + functional.smooth_l1_loss(own_ends, wanted)
        return total

    def _best(self, anchors_A2: Tensor, objectness_A: Tensor, corrections_A2: Tensor) -> Tensor:
        ends = decode_ends(corrections_A2, anchors_A2)
        few = objectness_A.topk(min(10 * self.options.proposals, len(objectness_A))).indices
        options = Suppression(
            "hard", iou=self.options.proposal_iou, keep=self.options.proposals, min_score=0.0
        )
        kept, _, _ = suppress(
            ends[few].cpu().numpy(),
            objectness_A[few].sigmoid().cpu().numpy(),
            np.zeros(len(few), np.int64),
            options,
        )
        return torch.as_tensor(kept, dtype=torch.float32, device=anchors_A2.device)

    @staticmethod
    @torch.no_grad()
    def localise(
        networks: Sequence["TwoStage"], features: Sequence[Tensor]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return segments in steps, scores and labels, before any suppression."""
        first = [network.propose(x) for network, x in zip(networks, features, strict=True)]
        objectness = torch.stack([part[1] for part in first]).mean(0)
        corrections = torch.stack([part[2] for part in first]).mean(0)
        anchors = networks[0].anchors_of(len(features[0]), features[0].device)
        proposals = networks[0]._best(anchors, objectness, corrections)
        second = [
            network.classify(part[0], proposals)
            for network, part in zip(networks, first, strict=True)
        ]
        probability_NK = torch.stack([part[0] for part in second]).mean(0).softmax(1)[:, :-1]
        ends_NK2 = torch.stack([part[1] for part in second]).mean(0)
        row, label = (probability_NK > 0.001).nonzero(as_tuple=True)
        segments = decode_ends(ends_NK2[row, label], proposals[row])
        scores = probability_NK[row, label]
        return segments.double().cpu().numpy(), scores.double().cpu().numpy(), label.cpu().numpy()

    def reach(self) -> int:
        """Return how many steps to each side of a point may change what it says."""
        return int(4 * max(self.anchors)) + 4

    def alignment(self) -> int:
        """Return by how many steps a window may be moved without moving the points."""
        return 1


def anchor_lengths(lengths: npt.ArrayLike, scales: int) -> list[float]:
    """Return geometric lengths from the shortest to the longest instance (5 % left out each)."""
    known = np.asarray(lengths, np.float64)
    low, high = np.quantile(known, (0.05, 0.95)) if known.size else (4.0, 64.0)
    low = max(float(low), 1.0)
    return [float(value) for value in np.geomspace(low, max(float(high), low), scales)]


def pool_segments(x_CT: Tensor, segments_N2: Tensor, bins: int) -> Tensor:
    """Return the largest of several interpolated samples in each of equal parts, N×C×bins.

    Samples lie at the middle of equal pieces, as RoIAlign's; outside of the video they are 0.
    """
    steps = x_CT.shape[1]
    share = (torch.arange(bins * SAMPLES_PER_BIN, device=x_CT.device) + 0.5) / (
        bins * SAMPLES_PER_BIN
    )
    start, length = segments_N2[:, :1], segments_N2[:, 1:] - segments_N2[:, :1]
    places_NP = start + share * length
    inside = (places_NP >= -0.5) & (places_NP <= steps - 0.5)
    clamped = places_NP.clamp(0, steps - 1)
    low = clamped.floor().long()
    high = (low + 1).clamp(max=steps - 1)
    part = clamped - low
    sampled_CNP = x_CT[:, low] * (1 - part) + x_CT[:, high] * part
    parts_CNBS = (sampled_CNP * inside).view(len(x_CT), -1, bins, SAMPLES_PER_BIN)
    return parts_CNBS.amax(3).transpose(0, 1)


def encode_ends(segments_N2: Tensor, anchors_N2: Tensor) -> Tensor:
    """Return (Δcentre / length, log ratio of lengths) of segments against anchors."""
    length = anchors_N2[:, 1] - anchors_N2[:, 0]
    moved = (segments_N2.mean(1) - anchors_N2.mean(1)) / length
    grown = ((segments_N2[:, 1] - segments_N2[:, 0]).clamp(min=1e-3) / length).log()
    return torch.stack((moved, grown), dim=1)


def decode_ends(corrections_N2: Tensor, anchors_N2: Tensor) -> Tensor:
    """Return the segments of corrections; the inverse of `encode_ends`."""
    length = anchors_N2[:, 1] - anchors_N2[:, 0]
    center = anchors_N2.mean(1) + corrections_N2[:, 0] * length
    half = corrections_N2[:, 1].clamp(max=4.0).exp() * length / 2
    return torch.stack((center - half, center + half), dim=1)


def _tower(width: int, length: float, context: bool) -> nn.Sequential:
    part = max(1, round(length / PARTS_OF_AN_ANCHOR))
    rate = 2 * part if context else part
    return nn.Sequential(
        nn.MaxPool1d(part + (part % 2 == 0), 1, part // 2),
        ConvNorm(width, width, dilation=rate),
        ConvNorm(width, width, dilation=2 * rate),
        nn.Conv1d(width, 3, 1),
    )


def _overlaps(segments_N2: Tensor, others_M2: Tensor) -> Tensor:
    low = torch.maximum(segments_N2[:, None, 0], others_M2[:, 0])
    high = torch.minimum(segments_N2[:, None, 1], others_M2[:, 1])
    shared = (high - low).clamp(min=0)
    lengths = segments_N2[:, 1] - segments_N2[:, 0], others_M2[:, 1] - others_M2[:, 0]
    return shared / (lengths[0][:, None] + lengths[1] - shared).clamp(min=1e-6)


def _best_overlap(segments_N2: Tensor, instances_M2: Tensor) -> tuple[Tensor, Tensor]:
    if not len(instances_M2):
        zeros = torch.zeros(len(segments_N2), device=segments_N2.device)
        return zeros, zeros.long()
    best = _overlaps(segments_N2, instances_M2).max(dim=1)
    return best.values, best.indices


def _balanced(positive: Tensor, negative: Tensor, count: int) -> Tensor:
    """Draw rows, half of them positive where there are so many."""
    rows = []
    left = count // 2
    for mask in (positive, negative):
        chosen = mask.nonzero()[:, 0]
        chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[:left]]
        rows.append(chosen)
        left = count - len(chosen)
    return torch.cat(rows)
