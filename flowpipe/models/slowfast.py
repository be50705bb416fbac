"""SlowFast with a ResNet-50: two pathways from one clip, B×C×T×H×W to B×K logits.

Feichtenhofer, Fan, Malik, He: SlowFast networks for video recognition, ICCV 2019,
doi:10.1109/ICCV.2019.00630.

    stage      slow, T/α frames              fast, T frames, β = 1/8 of the width
    conv1      1×7×7/(1,2,2) 64              5×7×7/(1,2,2) 8
    pool1      1×3×3/(1,2,2)                 the same
    res2 ×3    1×1×1 64,  1×3×3, 1×1×1 256   3×1×1 8,  1×3×3, 1×1×1 32
    res3 ×4    1×1×1 128, 1×3×3, 1×1×1 512   3×1×1 16, 1×3×3, 1×1×1 64
    res4 ×6    3×1×1 256, 1×3×3, 1×1×1 1024  3×1×1 32, 1×3×3, 1×1×1 128
    res5 ×3    3×1×1 512, 1×3×3, 1×1×1 2048  3×1×1 64, 1×3×3, 1×1×1 256

After pool1, res2, res3 and res4 the fast pathway goes into the slow one: a convolution over time
with stride α to twice its channels, batch normalisation, ReLU, concatenated. Both pathways are
averaged over space and time, concatenated, dropped out, classified.

    4×16: T = 32 (stride 2 in the video), α = 8, 5 taps      8×8: T = 32, α = 4, 7 taps

The slow pathway takes frames 0, α, 2α, … of the clip, as the paper says; the authors' public code
spreads them from the first frame to the last: 0, 10, 20, 31 of 32. The 7 taps of 8×8 are the public
code's, too. mmaction2's lateral connections are convolutions alone. With
`fast_channels` the last channels of the clip (flow) go into the fast pathway and the others (RGB)
into the slow one; the paper reports that flow there scores lower than RGB.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import (
    Bottleneck3d,
    Head,
    check_choice,
    classify,
    dropout_layer,
    head_average,
    init_he,
)
from flowpipe.models.nonlocal_block import NonlocalInserter, Pairwise

# Temporal extents of the stem and of the blocks of res2 to res5; a shorter list is repeated.
SLOW = ((1,), (1,), (1,), (3,), (3,))
FAST = ((5,), (3,), (3,), (3,), (3,))


class Lateral(nn.Sequential):
    """From the fast pathway to the slow one: every α-th instant, twice the channels."""

    def __init__(self, planes: int, *, taps: int, alpha: int, normalised: bool) -> None:
        then = [nn.BatchNorm3d(2 * planes), nn.ReLU(inplace=True)] if normalised else []
        super().__init__(
            nn.Conv3d(
                planes,
                2 * planes,
                (taps, 1, 1),
                (alpha, 1, 1),
                padding=(taps // 2, 0, 0),
                bias=False,
            ),
            *then,
        )


class Pathway(nn.Module):
    """Stem and four stages, whose inputs have room for twice `lateral_width` more planes."""

    def __init__(
        self,
        temporal: Sequence[Sequence[int]],
        *,
        in_channels: int,
        width: int,
        lateral_width: int,
        num_blocks: Sequence[int],
    ) -> None:
        super().__init__()
        taps = temporal[0][0]
        self.conv1 = nn.Conv3d(
            in_channels, width, (taps, 7, 7), (1, 2, 2), padding=(taps // 2, 3, 3), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        in_planes = width + 2 * lateral_width
        for number, count in enumerate(num_blocks):
            planes = width * 2**number
            blocks = [
                Bottleneck3d(
                    in_planes if i == 0 else 4 * planes,
                    planes,
                    stride=2 if i == 0 and number > 0 else 1,
                    taps=temporal[number + 1][i % len(temporal[number + 1])],
                )
                for i in range(count)
            ]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            in_planes = 4 * planes + 2 * 4 * lateral_width * 2**number

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]


class SlowFast(nn.Module):
    """Two pathways, lateral connections, classifier; 4×16: 34,480,216 parameters, 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame of the clip: 3 for RGB, 2 for flow, 5 for both.
    alpha
        α, how many times as many frames the fast pathway sees.
    lateral_taps, lateral_norm
        Temporal extent of the lateral connections; whether normalisation and ReLU follow.
    slow_frames
        "every": each α-th frame; "spread": from the first frame to the last, cut off to whole
        numbers.
    num_blocks, fast_num_blocks
        Residual blocks of res2 to res5, and those of the fast pathway where they are others.
    slow_temporal, fast_temporal
        Temporal extents of the stem and of the blocks of each stage.
    width
        Planes of the slow stem, a multiple of 8; the fast pathway has an eighth (β).
    fast_channels
        The last so many channels are seen by the fast pathway alone, the others by the slow one
        alone: 2 for an input of RGB and flow. None: both see the whole clip.
    dropout
        Share of the pooled features dropped, in [0, 1).
    nonlocal_blocks, nonlocal_form, nonlocal_subsample
        Non-local blocks of the slow pathway: stage (res2 to res5) → how many, such as
        {"res4": 3}; their pairwise form, and whether they pool.
    nonlocal_variant
        "paper", "scaled" (the authors' code) or "mmaction2"; see `nonlocal_block`.
    head
        "global", "windows" or "windows-softmax", which differ over 224 px; see
        `flowpipe.models.layers.head_average`.
    """

    input_layout = "CTHW"
    stem_name = "slow.conv1"
    other_stem_names = ("fast.conv1",)
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        alpha: int = 8,
        lateral_taps: int = 5,
        lateral_norm: bool = True,
        slow_frames: Literal["every", "spread"] = "every",
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        fast_num_blocks: Sequence[int] | None = None,
        slow_temporal: Sequence[Sequence[int]] = SLOW,
        fast_temporal: Sequence[Sequence[int]] = FAST,
        width: int = 64,
        fast_channels: int | None = None,
        dropout: float = 0.5,
        nonlocal_blocks: Mapping[str, int | Sequence[int]] | None = None,
        nonlocal_form: Pairwise = "embedded",
        nonlocal_subsample: bool = True,
        nonlocal_variant: str = "paper",
        head: Head = "global",
    ) -> None:
        super().__init__()
        check_choice("slow_frames", slow_frames, ("every", "spread"))
        insert = NonlocalInserter(
            nonlocal_blocks,
            form=nonlocal_form,
            subsample=nonlocal_subsample,
            variant=nonlocal_variant,
        )
        if fast_channels is not None and not 1 <= fast_channels < in_channels:
            raise InvalidArgument(
                f"fast_channels {fast_channels} must be from 1 to {in_channels - 1}, less than the "
                f"clip's {in_channels} channels; 2 of 5 where the input is rgb+flow"
            )
        self.alpha, self.fast_channels, self.slow_frames = alpha, fast_channels, slow_frames
        slow_channels = in_channels - (fast_channels or 0)
        fast_width = width // 8
        self.slow = Pathway(
            slow_temporal,
            in_channels=slow_channels,
            width=width,
            lateral_width=fast_width,
            num_blocks=num_blocks,
        )
        self.fast = Pathway(
            fast_temporal,
            in_channels=fast_channels or in_channels,
            width=fast_width,
            lateral_width=0,
            num_blocks=fast_num_blocks or num_blocks,
        )
        for number in range(4):
            stage = self.slow.get_submodule(f"layer{number + 1}")
            assert isinstance(stage, nn.Sequential)
            inserted = insert(f"res{number + 2}", stage, 4 * width * 2**number)
            self.slow.set_submodule(f"layer{number + 1}", inserted)
        planes = [fast_width, *(4 * fast_width * 2**number for number in range(3))]
        self.lateral = nn.ModuleList(
            Lateral(p, taps=lateral_taps, alpha=alpha, normalised=lateral_norm) for p in planes
        )
        self.avgpool = head_average(head)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(32 * (width + fast_width), num_classes)
        init_he(self, mode="fan_out")

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K.

        Raises
        ------
        InvalidArgument
            If T is no multiple of α.
        """
        channels, frames = clip_BCTHW.shape[1:3]
        if frames % self.alpha:
            raise InvalidArgument(
                f"slowfast: a clip of {frames} frames must be a multiple of {self.alpha} frames; "
                "the published clips have 32"
            )
        slow = fast = clip_BCTHW
        if self.fast_channels is not None:
            border = channels - self.fast_channels
            slow, fast = clip_BCTHW[:, :border], clip_BCTHW[:, border:]
        if self.slow_frames == "every":
            slow = slow[:, :, :: self.alpha]
        else:
            slow = slow[:, :, spread_frames(frames, frames // self.alpha)]
        slow, fast = self.slow.stem(slow), self.fast.stem(fast)
        for number, lateral in enumerate(self.lateral):
            slow = torch.cat([slow, lateral(fast)], 1)
            slow = self.slow.get_submodule(f"layer{number + 1}")(slow)
            fast = self.fast.get_submodule(f"layer{number + 1}")(fast)
        pooled = torch.cat([self.avgpool(x) for x in (slow, fast)], 1)
        return classify(pooled, lambda values: self.fc(self.dropout(values)))


def spread_frames(frames: int, count: int) -> list[int]:
    """Return `count` indices from the first frame to the last, cut off to whole numbers.

    ::

        32 frames, 4     0 10 20 31
        32 frames, 8     0 4 8 13 17 22 26 31
    """
    if count == 1:
        return [0]
    return [number * (frames - 1) // (count - 1) for number in range(count)]
