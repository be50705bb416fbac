"""Non-local block: every position of a clip sees every other, B×C×T×H×W to the same.

Wang, Girshick, Gupta, He: Non-local neural networks, CVPR 2018, doi:10.1109/CVPR.2018.00813.

    y_i = Σ_j f(x_i, x_j) g(x_j) / N(x)      z_i = x_i + BN(W y_i)

    form            f(x_i, x_j)                          N
    embedded        exp(θ(x_i)ᵀ φ(x_j))                  Σ_j f (softmax over j)
    gaussian        exp(x_iᵀ x_j)                        Σ_j f (softmax over j)
    dot             θ(x_i)ᵀ φ(x_j)                       number of positions j
    concatenation   ReLU(w · [θ(x_i), φ(x_j)])           number of positions j

θ, φ, g are 1×1×1 convolutions to half the channels, with bias. The scale of the last batch
normalisation starts at zero: at insertion the block is the identity, so that it can be added to
a trained network. Sub-sampling pools φ and g (or x_j) 2×2 in space: a quarter of the products.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.models.layers import check_choice

Pairwise = Literal["embedded", "gaussian", "dot", "concatenation"]

STAGES = ("res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Variant:
    """Where implementations of the block part.

    Attributes
    ----------
    scaled
        Products are divided by √D before the softmax (D: channels of θ and φ), in the forms that
        take one.
    pooled_first
        Sub-sampling comes before the convolutions φ and g, not after them.
    out_bias
        The last convolution has a bias.
    """

    scaled: bool
    pooled_first: bool
    out_bias: bool


VARIANTS: Mapping[str, Variant] = {
    "paper": Variant(scaled=False, pooled_first=True, out_bias=True),
    # The authors' own code (Caffe2, PySlowFast) scales, which the paper's formula does not.
    "scaled": Variant(scaled=True, pooled_first=True, out_bias=True),
    "mmaction2": Variant(scaled=False, pooled_first=False, out_bias=False),
}


class NonlocalBlock(nn.Module):
    """One block of C channels; C = 512: 526,592 parameters in the embedded form."""

    def __init__(
        self,
        channels: int,
        *,
        form: Pairwise = "embedded",
        subsample: bool = True,
        variant: str = "paper",
    ):
        super().__init__()
        if form not in get_args(Pairwise):
            raise InvalidArgument(
                f'nonlocal_form "{form}"{nearest_name(str(form), get_args(Pairwise))} must be '
                f"one of {', '.join(get_args(Pairwise))}; embedded is the paper's default"
            )
        check_choice("nonlocal_variant", variant, VARIANTS)
        self.form, self.variant = form, VARIANTS[variant]
        half = channels // 2
        self.g = nn.Conv3d(channels, half, 1)
        if form != "gaussian":
            self.theta = nn.Conv3d(channels, half, 1)
            self.phi = nn.Conv3d(channels, half, 1)
        if form == "concatenation":
            self.pair = nn.Linear(2 * half, 1, bias=False)
        self.pool = nn.MaxPool3d((1, 2, 2)) if subsample else nn.Identity()
        self.out = nn.Conv3d(half, channels, 1, bias=self.variant.out_bias)
        self.bn = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        values_BJD = self._pooled(x_BCTHW, self.g).flatten(2).transpose(1, 2)
        y_BID = self._weights(x_BCTHW) @ values_BJD
        y = y_BID.transpose(1, 2).reshape(x_BCTHW.shape[0], -1, *x_BCTHW.shape[2:])
        return x_BCTHW + self.bn(self.out(y))  # type: ignore[no-any-return]

    def _pooled(self, x_BCTHW: Tensor, layer: nn.Module) -> Tensor:
        """Apply a layer and the sub-sampling, in the variant's order."""
        if min(x_BCTHW.shape[-2:]) == 1:  # maps of one row or column cannot be pooled
            return layer(x_BCTHW)  # type: ignore[no-any-return]
        if self.variant.pooled_first:
            return layer(self.pool(x_BCTHW))  # type: ignore[no-any-return]
        return self.pool(layer(x_BCTHW))  # type: ignore[no-any-return]

    def _weights(self, x_BCTHW: Tensor) -> Tensor:
        """Return f(x_i, x_j) / N(x), B×I×J."""
        gaussian = self.form == "gaussian"
        queries = x_BCTHW if gaussian else self.theta(x_BCTHW)
        keys = self._pooled(x_BCTHW, nn.Identity() if gaussian else self.phi)
        queries_BID, keys_BDJ = queries.flatten(2).transpose(1, 2), keys.flatten(2)
        if self.form == "concatenation":
            # w · [θ, φ] is a part of θ plus a part of φ; no pair is ever stored.
            of_theta, of_phi = self.pair.weight[0].chunk(2)
            sums = (queries_BID @ of_theta)[:, :, None] + (of_phi @ keys_BDJ)[:, None, :]
            return torch.relu(sums) / keys_BDJ.shape[2]
        products_BIJ = queries_BID @ keys_BDJ
        if self.form == "dot":
            return products_BIJ / keys_BDJ.shape[2]
        if self.variant.scaled:
            products_BIJ = products_BIJ * keys_BDJ.shape[1] ** -0.5
        return products_BIJ.softmax(-1)


class NonlocalInserter:
    """Puts non-local blocks into the stages of a network.

    Parameters
    ----------
    blocks
        Stage (res2 to res5) → number of non-local blocks, or numbers of the residual blocks that
        one follows.
    form, subsample, variant
        Of each block.

    Raises
    ------
    InvalidArgument
        For another stage.
    """

    def __init__(
        self,
        blocks: Mapping[str, int | Sequence[int]] | None,
        *,
        form: Pairwise,
        subsample: bool,
        variant: str = "paper",
    ):
        self.blocks, self.form, self.subsample = blocks or {}, form, subsample
        self.variant = variant
        for stage in self.blocks:
            if stage not in STAGES:
                raise InvalidArgument(
                    f'nonlocal_blocks: stage "{stage}"{nearest_name(stage, STAGES)} must be one of '
                    f"{', '.join(STAGES)}; the paper's five blocks are {{res3 = 2, res4 = 3}}"
                )

    def __call__(self, name: str, stage: nn.Sequential, channels: int) -> nn.Sequential:
        """Put the blocks between the residual blocks of a stage, evenly, one after the last.

        ::

            4 residual blocks, 2 non-local     r r N r r N
            6 residual blocks, 3 non-local     r r N r r N r r N     (every other, as in the paper)

        The residual blocks keep their names 0, 1, …; a non-local block is called `1_nonlocal`
        after the residual block that it follows.
        """
        after = self.blocks.get(name, 0)
        if isinstance(after, int):
            if not 0 <= after <= len(stage):
                raise InvalidArgument(
                    f"nonlocal_blocks: {after} must be from 0 to the {len(stage)} residual blocks "
                    "of the stage"
                )
            after = [(number + 1) * len(stage) // after - 1 for number in range(after)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, block in enumerate(stage):
            layers[str(number)] = block
            if number in after:
                layers[f"{number}_nonlocal"] = NonlocalBlock(
                    channels, form=self.form, subsample=self.subsample, variant=self.variant
                )
        return nn.Sequential(layers)
