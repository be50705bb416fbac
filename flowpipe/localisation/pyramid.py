"""`pyramid`: a feature pyramid over time whose every point says what happens and from when to when.

One stage, without anchors: ActionFormer [1]_ and TriDet [2]_ as choices of one network, with their
exact parameter counts, and small convolutional blocks for little data (the default). Features T×D
become levels of T, T/2, T/4, … points; each point gives a probability of each class, and its
distance to start and end, in units of its level's stride::

    level 0   · · · · · · · · · · · · · · · ·     short instances
    level 1   ·   ·   ·   ·   ·   ·   ·   ·
    level 2   ·       ·       ·       ·           long ones

A point is positive for an instance if it lies inside, within 1.5 strides of its centre, and its
larger distance is in its level's range; of several the shortest instance. Focal loss for classes,
DIoU for ends. Which ranges there are follows from the lengths in the training data. What differs:
there is no padding to a fixed length and no mask, a level has ⌈T/stride⌉ points.

Axes: D features, C channels, T points (of all levels: P), K classes, M instances.

References
----------
.. [1] C. Zhang, J. Wu, Y. Li, "ActionFormer: localizing moments of actions with transformers",
   ECCV 2022. https://doi.org/10.1007/978-3-031-19772-7_29
.. [2] D. Shi et al., "TriDet: temporal action detection with relative boundary modeling", CVPR
   2023. https://doi.org/10.1109/CVPR52729.2023.01808
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.localisation.layers import (
    MOST_STEPS,
    AffineDropPath,
    ChannelNorm,
    ConvNorm,
    LocalAttention,
    Standardise,
    check_regularisation,
    focal_loss,
)

# A level's points answer for instances whose larger distance is below this many of its strides …
FIRST_RANGE = 4.0
CENTER_RADIUS = 1.5
# … and these are the most levels that are made of the data's lengths.
MAX_LEVELS = 8
MOST_LAYERS = 100
CLASS_PRIOR = 0.01
# Segments shorter than this many steps are dropped.
SHORTEST_STEPS = 0.05
CANDIDATES_PER_LEVEL = 2000
MIN_PROBABILITY = 0.001


@dataclass(frozen=True)
class PyramidOptions:
    """The choices of a pyramid.

    Attributes
    ----------
    width : int
        Channels.
    block : "conv", "attention" or "sgp"
        Pairs of convolutions; ActionFormer's local attention; TriDet's scalable granularity.
    levels : int, optional
        How many; None: as the lengths of the training instances ask for.
    embedding : int
        Convolutions before the levels.
    stem : int
        Blocks at full resolution before the levels.
    head_layers : int
        Convolutions of a head, the last one included.
    boundary : "distance" or "bins"
        Distances as such, or TriDet's expected distance over bins.
    bins : int
        Of TriDet's head.
    window : int
        Steps that local attention sees; of "sgp" the width of its smaller window.
    attention_heads : int
    hidden : int
        Channels inside a block's perceptron; 0: four times the width.
    growth : float
        How much wider the larger window of "sgp" is.
    drop_path : float
        Share of blocks that are left out in training ("attention", "sgp").
    dropout : float
        Of the input features, in training.
    input_noise : float
        Standard deviations of noise on the standardised features, in training.
    boundary_weight : float
        Of the loss of ends against that of classes.
    """

    width: int = 128
    block: Literal["conv", "attention", "sgp"] = "conv"
    levels: int | None = None
    embedding: int = 2
    stem: int = 0
    head_layers: int = 3
    boundary: Literal["distance", "bins"] = "distance"
    bins: int = 16
    window: int = 19
    attention_heads: int = 4
    hidden: int = 0
    growth: float = 5.0
    drop_path: float = 0.1
    dropout: float = 0.3
    input_noise: float = 0.3
    boundary_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.block not in ("conv", "attention", "sgp"):
            raise InvalidArgument(f'block "{self.block}" must be conv, attention or sgp')
        if self.boundary not in ("distance", "bins"):
            raise InvalidArgument(f'boundary "{self.boundary}" must be distance or bins')
        if self.levels is not None and not 1 <= self.levels <= MAX_LEVELS:
            raise InvalidArgument(f"levels {self.levels} must be 1 to {MAX_LEVELS}")
        counts = self.width, self.head_layers, self.bins, self.window, self.attention_heads
        if min(counts) < 1 or min(self.embedding, self.stem, self.hidden) < 0:
            raise InvalidArgument(
                "width, head_layers, bins, window and attention_heads must be ≥ 1, embedding, stem "
                "and hidden ≥ 0"
            )
        if max(self.head_layers, self.embedding, self.stem) > MOST_LAYERS:
            raise InvalidArgument(f"head_layers, embedding and stem must be ≤ {MOST_LAYERS}")
        if self.window > MOST_STEPS:
            raise InvalidArgument(f"window {self.window} must be ≤ {MOST_STEPS}; 19 is usual")
        if not (0 < self.growth < math.inf and 0 <= self.boundary_weight < math.inf):
            raise InvalidArgument(
                f"growth {self.growth} must be > 0, boundary_weight {self.boundary_weight} ≥ 0, "
                "both finite"
            )
        if self.window % 2 == 0 or self.width % self.attention_heads:
            raise InvalidArgument(
                f"window {self.window} must be odd and width {self.width} a multiple of "
                f"attention_heads {self.attention_heads}"
            )
        if not 0 <= self.drop_path < 1:
            raise InvalidArgument(f"drop_path {self.drop_path} must be in [0, 1)")
        check_regularisation(self.dropout, self.input_noise)


class Pyramid(nn.Module):
    """The network.

    Parameters
    ----------
    num_features : int
        D.
    num_classes : int
        K.
    lengths : array of M
        Lengths of the training instances in steps, from which the number of levels follows.
    options : PyramidOptions, optional
    """

    Options = PyramidOptions

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        lengths: npt.ArrayLike = (),
        options: PyramidOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = chosen = options or PyramidOptions()
        self.num_levels = chosen.levels or levels_for(lengths)
        self.num_classes, width = num_classes, chosen.width
        self.standardise = Standardise(num_features, chosen.dropout, chosen.input_noise)
        self.embedding = nn.Sequential(
            *(
                ConvNorm(width if place else num_features, width)
                for place in range(chosen.embedding)
            )
        )
        # TriDet drops no path of its stem.
        stem_path = 0.0 if chosen.block == "sgp" else chosen.drop_path
        self.stem = nn.Sequential(*(_block(chosen, 1, stem_path) for _ in range(chosen.stem)))
        # Without a stem the first level is a block of its own, at full resolution.
        strides = [1 if level == 0 else 2 for level in range(self.num_levels)]
        branch = strides if chosen.stem == 0 else strides[1:]
        self.branch = nn.ModuleList(_block(chosen, stride, chosen.drop_path) for stride in branch)
        normed = chosen.block != "conv"
        self.necks = nn.ModuleList(
            ChannelNorm(width) if normed else nn.Identity() for _ in range(self.num_levels)
        )
        self.class_head = _head(chosen, num_classes)
        nn.init.constant_(_bias(self.class_head), -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
        if chosen.boundary == "bins":
            self.boundary_head = _head(chosen, 2 * (chosen.bins + 1))
            self.start_head = _head(chosen, num_classes)
            self.end_head = _head(chosen, num_classes)
        else:
            self.boundary_head = _head(chosen, 2)
            nn.init.constant_(_bias(self.boundary_head), 1.0)
        self.level_scale = nn.Parameter(torch.ones(self.num_levels))
        # The number of positive points, averaged over updates: by it the loss is divided.
        self.usual_positives: Tensor
        self.register_buffer("usual_positives", torch.zeros(()))

    def forward(self, features_TD: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return of each level the logits T×K and distances T×K×2 (or T×1×2), in strides."""
        x_1CT = self.stem(self.embedding(self.standardise(features_TD).T[None]))
        levels = [] if self.options.stem == 0 else [x_1CT]
        for block in self.branch:
            x_1CT = block(x_1CT)
            levels.append(x_1CT)
        outputs = []
        for level, (neck, x) in enumerate(zip(self.necks, levels, strict=True)):
            x = neck(x)
            logits_TK = self.class_head(x)[0].T
            outputs.append((logits_TK, self._distances(x, level)))
        return outputs

    def _distances(self, x_1CT: Tensor, level: int) -> Tensor:
        raw = self.boundary_head(x_1CT)[0].T * self.level_scale[level]
        if self.options.boundary == "distance":
            return functional.relu(raw)[:, None]
        bins = self.options.bins
        detached = x_1CT.detach()
        start_KT, end_KT = self.start_head(detached)[0], self.end_head(detached)[0]
        # For a point t the bins are t − B … t to the start, and t … t + B to the end.
        before = functional.pad(start_KT, (bins, 0)).unfold(1, bins + 1, 1)
        after = functional.pad(end_KT, (0, bins)).unfold(1, bins + 1, 1)
        own_T2B = raw.view(len(raw), 2, bins + 1)
        steps = torch.arange(bins + 1, dtype=raw.dtype, device=raw.device)
        left_KT = (before + own_T2B[:, 0]).softmax(-1) @ steps.flip(0)
        right_KT = (after + own_T2B[:, 1]).softmax(-1) @ steps
        return torch.stack((left_KT.T, right_KT.T), dim=-1)

    def loss(self, features_TD: Tensor, segments_M2: Tensor, labels_M: Tensor) -> Tensor:
        """Return the loss of one window.

        Parameters
        ----------
        features_TD : Tensor
        segments_M2 : Tensor
            Instances in steps of the window, M may be 0.
        labels_M : Tensor of int64
        """
        outputs = self(features_TD)
        logits_PK = torch.cat([logits for logits, _ in outputs])
        points = [len(logits) for logits, _ in outputs]
        targets_PK, distances_P2 = assign(points, segments_M2, labels_M, self.num_classes)
        positive_P = targets_PK.any(dim=1)
        count = positive_P.sum().float()
        with torch.no_grad():
            usual = self.usual_positives
            usual.copy_(0.9 * usual + 0.1 * count if usual > 0 else count.clamp(min=1.0))
        classes = focal_loss(logits_PK, targets_PK.float()).sum()
        if positive_P.any():
            offsets = torch.cat([distances for _, distances in outputs])[positive_P]
            one = targets_PK[positive_P].float().argmax(1) if offsets.shape[1] > 1 else 0
            offsets_N2 = offsets[torch.arange(len(offsets)), one]
            ends = distance_iou_loss(offsets_N2, distances_P2[positive_P]).sum()
        else:
            ends = logits_PK.new_zeros(())
        return (classes + self.options.boundary_weight * ends) / usual.clamp(min=1.0)

    @staticmethod
    @torch.no_grad()
    def localise(
        networks: Sequence["Pyramid"], features: Sequence[Tensor]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return segments in steps, scores and labels, before any suppression.

        Several networks, each with its own features of the same steps, are fused late:
        probabilities and distances are averaged.
        """
        runs = [network(x) for network, x in zip(networks, features, strict=True)]
        found = []
        for level, parts in enumerate(zip(*runs, strict=True)):
            probability_TK = torch.stack([logits.sigmoid() for logits, _ in parts]).mean(0)
            distance_TK2 = torch.stack([distances for _, distances in parts]).mean(0)
            found.append(_decode(probability_TK, distance_TK2, 2**level))
        segments, scores, labels = (torch.cat(column) for column in zip(*found, strict=True))
        return segments.double().cpu().numpy(), scores.double().cpu().numpy(), labels.cpu().numpy()

    def reach(self) -> int:
        """Return how many steps to each side of a point may change what it says."""
        per_block = self.options.window // 2 + 1 if self.options.block == "attention" else 2
        if self.options.block == "sgp":
            per_block = math.ceil((self.options.window + 1) * self.options.growth)
        blocks = self.options.stem + sum(2**level * per_block for level in range(self.num_levels))
        heads = self.options.head_layers + (
            self.options.bins if self.options.boundary == "bins" else 0
        )
        return int(self.options.embedding + blocks + heads * self.alignment())

    def alignment(self) -> int:
        """Return by how many steps a window may be moved without moving the points."""
        return 1 << (self.num_levels - 1)


def levels_for(lengths: npt.ArrayLike) -> int:
    """Return how many levels instances of these lengths, in steps, ask for.

    So many that half the longest length is within the last level's range, and one more, whose
    points see further around; between 3 and 8.
    """
    longest = float(np.max(np.asarray(lengths, np.float64), initial=1.0)) / 2
    needed = math.ceil(math.log2(max(longest / FIRST_RANGE, 1.0))) + 1
    return min(max(needed + 1, 3), MAX_LEVELS)


def ranges(num_levels: int) -> list[tuple[float, float]]:
    """Return of each level which larger distances, in steps, it answers for: [low, high)."""
    bounds = [0.0, *(FIRST_RANGE * 2**level for level in range(num_levels - 1)), math.inf]
    return list(itertools.pairwise(bounds))


def assign(
    points: Sequence[int], segments_M2: Tensor, labels_M: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return which classes each point is positive for, P×K bool, and its distances, P×2 strides."""
    targets, distances = [], []
    for level, (count, (low, high)) in enumerate(zip(points, ranges(len(points)), strict=True)):
        stride = 2**level
        places_T1 = torch.arange(count, dtype=torch.float32, device=segments_M2.device)[:, None]
        places_T1 = places_T1 * stride
        left_TM, right_TM = places_T1 - segments_M2[:, 0], segments_M2[:, 1] - places_T1
        center_M = segments_M2.mean(dim=1)
        near = (places_T1 - center_M).abs() <= CENTER_RADIUS * stride
        larger = torch.maximum(left_TM, right_TM)
        inside = torch.minimum(left_TM, right_TM) > 0
        fits = near & inside & (larger >= low) & (larger < high)
        target_TK = torch.zeros(count, num_classes, dtype=torch.bool, device=segments_M2.device)
        distance_T2 = torch.zeros(count, 2, device=segments_M2.device)
        if len(segments_M2):
            length_M = segments_M2[:, 1] - segments_M2[:, 0]
            length_TM = torch.where(fits, length_M, math.inf)
            shortest_T, first_T = length_TM.min(dim=1)
            # Instances of one length, such as two labels of the same stretch, all count.
            chosen_TM = fits & (length_TM <= shortest_T[:, None] + 1e-3)
            point, instance = chosen_TM.nonzero(as_tuple=True)
            target_TK[point, labels_M[instance]] = True
            rows = torch.arange(count, device=segments_M2.device)
            distance_T2 = torch.stack((left_TM[rows, first_T], right_TM[rows, first_T]), 1) / stride
        targets.append(target_TK)
        distances.append(distance_T2)
    return torch.cat(targets), torch.cat(distances)


def distance_iou_loss(predicted_N2: Tensor, true_N2: Tensor) -> Tensor:
    """1 − IoU + (distance of centres / covering length)², of (left, right) distances of a point."""
    (left, right), (true_left, true_right) = predicted_N2.unbind(1), true_N2.unbind(1)
    shared = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    union = left + right + true_left + true_right - shared
    covering = torch.maximum(left, true_left) + torch.maximum(right, true_right)
    apart = 0.5 * (right - left - true_right + true_left)
    return 1 - shared / union.clamp(min=1e-8) + (apart / covering.clamp(min=1e-8)) ** 2


def _decode(
    probability_TK: Tensor, distance_TK2: Tensor, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    probability = probability_TK.flatten()
    kept = (probability > MIN_PROBABILITY).nonzero()[:, 0]
    best = probability[kept].topk(min(CANDIDATES_PER_LEVEL, len(kept))).indices
    kept = kept[best]
    num_classes = probability_TK.shape[1]
    point, label = kept // num_classes, kept % num_classes
    distance_N2 = distance_TK2[point, label if distance_TK2.shape[1] > 1 else 0] * stride
    places = point.float() * stride
    segments = torch.stack((places - distance_N2[:, 0], places + distance_N2[:, 1]), dim=1)
    long_enough = segments[:, 1] - segments[:, 0] > SHORTEST_STEPS
    return segments[long_enough], probability[kept][long_enough], label[long_enough]


class ConvPair(nn.Module):
    """Two convolutions beside a skip, which is max-pooled where the block has a stride."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width, stride=stride)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norm = ChannelNorm(width)
        self.skip = nn.MaxPool1d(3, stride, 1) if stride > 1 else nn.Identity()

    def forward(self, x_BCT: Tensor) -> Tensor:
        changed = self.norm(self.second(self.first(x_BCT)))
        return functional.relu(self.skip(x_BCT) + changed)


class AttentionBlock(nn.Module):
    """ActionFormer's block: local attention and a perceptron, each beside a skip."""

    def __init__(self, options: PyramidOptions, stride: int, drop_path: float) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        self.norm = ChannelNorm(width)
        self.attention = LocalAttention(width, options.attention_heads, options.window, stride)
        self.skip = nn.MaxPool1d(3, stride, 1) if stride > 1 else nn.Identity()
        self.norm_out = ChannelNorm(width)
        self.perceptron = nn.Sequential(
            nn.Conv1d(width, hidden, 1), nn.GELU(), nn.Conv1d(hidden, width, 1)
        )
        self.path = AffineDropPath(width, drop_path)
        self.path_out = AffineDropPath(width, drop_path)

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.skip(x_BCT) + self.path(self.attention(self.norm(x_BCT)))
        changed: Tensor = x_BCT + self.path_out(self.perceptron(self.norm_out(x_BCT)))
        return changed


class GranularityBlock(nn.Module):
    """TriDet's scalable-granularity perception: two windows gated, and the whole video's mean."""

    def __init__(self, options: PyramidOptions, stride: int, drop_path: float) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        wide = round((options.window + 1) * options.growth)
        wide += wide % 2 == 0
        self.pool = nn.MaxPool1d(3, stride, 1) if stride > 1 else nn.Identity()
        self.norm, self.group_norm = ChannelNorm(width), nn.GroupNorm(16, width)

        def depthwise(kernel: int) -> nn.Conv1d:
            conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
            nn.init.normal_(conv.weight, std=1.0)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            return conv

        self.gate, self.narrow = depthwise(options.window), depthwise(options.window)
        self.wide, self.instant, self.whole = depthwise(wide), depthwise(1), depthwise(1)
        self.perceptron = nn.Sequential(
            nn.Conv1d(width, hidden, 1), nn.GELU(), nn.Conv1d(hidden, width, 1)
        )
        self.path = AffineDropPath(width, drop_path) if drop_path else nn.Identity()
        self.path_out = AffineDropPath(width, drop_path) if drop_path else nn.Identity()

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.pool(x_BCT)
        y = self.norm(x_BCT)
        whole = functional.relu(self.whole(y.mean(dim=-1, keepdim=True)))
        y = self.instant(y) * whole + (self.narrow(y) + self.wide(y)) * self.gate(y) + y
        x_BCT = x_BCT + self.path(y)
        changed: Tensor = x_BCT + self.path_out(self.perceptron(self.group_norm(x_BCT)))
        return changed


def _block(options: PyramidOptions, stride: int, drop_path: float) -> nn.Module:
    if options.block == "attention":
        return AttentionBlock(options, stride, drop_path)
    if options.block == "sgp":
        return GranularityBlock(options, stride, drop_path)
    return ConvPair(options.width, stride)


def _head(options: PyramidOptions, channels: int) -> nn.Sequential:
    layers = [ConvNorm(options.width, options.width) for _ in range(options.head_layers - 1)]
    return nn.Sequential(*layers, nn.Conv1d(options.width, channels, 3, padding=1))


def _bias(head: nn.Sequential) -> Tensor:
    bias: Tensor = head[-1].bias  # type: ignore[assignment]
    return bias
