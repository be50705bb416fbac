"""3D ResNets of bottlenecks: B×C×T×H×W to B×K logits; they differ in temporal kernels.

Wang, Girshick, Gupta, He: Non-local neural networks, CVPR 2018, doi:10.1109/CVPR.2018.00813 (C2D
and I3D); Feichtenhofer, Fan, Malik, He: SlowFast networks, ICCV 2019, doi:10.1109/ICCV.2019.00630
(Slow); Tran, Wang, Torresani, Feiszli: Video classification with channel-separated convolutional
networks, ICCV 2019, doi:10.1109/ICCV.2019.00565 (CSN); R(2+1)D with bottlenecks as in pytorchvideo.
Kernels as in the public code:

    temporal extent      c2d       i3d            slow           csn       r2plus1d
    conv1 t×7×7          1         5              1              3         1
    pool1 1×3×3          1         1              1              1         none
    res2, 3 blocks       1 1 1     3 3 3          1 1 1          1 1 1     1 1 1
    pool2 t×1×1/(t,1,1)  2         2              none           none      none
    res3, 4 blocks       1 1 1 1   3 1 3 1        1 1 1 1        1 …       1 …
    res4, 6 blocks       1 …       3 1 3 1 3 1    3 3 3 3 3 3    1 …       1 …
    res5, 3 blocks       1 1 1     1 3 1          3 3 3          1 1 1     1 1 1
    middle               1×3×3     1×3×3          1×3×3          3×3×3     3×1×1, 1×3×3
    strides of time      1         1              1              1 2 2 2   1 1 2 2

8 frames of 224×224 (trained so; the published GMAC are at 256×256), CSN 32, R(2+1)D 16. A block is
t×1×1 down, the middle convolution with the strides (of CSN every channel by itself), 1×1×1 up.
The first paper's C2D also pools time in pool1 and takes 32 frames. mmaction2's I3D takes 32 frames
and halves time in conv1 and pool1. State-dict names are those of the 2D ResNet, whose weights
`flowpipe.models.weights.inflation` inflates. Non-local blocks may stand between the residual
blocks.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from torch import Tensor, nn

from flowpipe.models.layers import (
    Bottleneck3d,
    Head,
    Middle,
    check_choice,
    classify,
    dropout_layer,
    head_average,
    init_he,
    set_bn_eps,
)
from flowpipe.models.nonlocal_block import NonlocalInserter, Pairwise

# Stem, then the blocks of res2 to res5; a shorter list is repeated along a stage.
TEMPORAL: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "c2d": ((1,), (1,), (1,), (1,), (1,)),
    "i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
    "slow": ((1,), (1,), (1,), (3,), (3,)),
    "csn": ((3,), (1,), (1,), (1,), (1,)),
}


class ResNet3d(nn.Module):
    """Stem, four stages of bottlenecks, global average, classifier.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    temporal
        Temporal kernels: "c2d", "i3d", "slow" or "csn", columns of the module's table, or those
        of conv1 and of the blocks of each stage.
    middle
        The middle convolution of a block: "spatial", "temporal-spatial" or "depthwise".
    num_blocks
        Residual blocks of res2 to res5.
    stem_time_strides
        Strides of time in conv1 and pool1.
    pool1, pool2
        Whether there are such poolings.
    strides
        Strides of time and of space in res2 to res5.
    width
        Planes of the stem.
    dropout
        Share of the pooled features dropped, in [0, 1).
    nonlocal_blocks, nonlocal_form, nonlocal_subsample
        Stage (res2 to res5) → number of non-local blocks, such as {"res3": 2, "res4": 3} (the
        paper's five; 7,358,464 parameters); their pairwise form ("embedded", "gaussian", "dot",
        "concatenation"), and whether they pool.
    nonlocal_variant
        "paper", "scaled" (the authors' code) or "mmaction2"; see `nonlocal_block`.
    head
        "global", "windows" or "windows-softmax", which differ over 224 px; see
        `flowpipe.models.layers.head_average`.
    bn_eps
        ε of the normalisations.
    """

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        temporal: str | Sequence[Sequence[int]] = "i3d",
        middle: Middle = "spatial",
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        stem_time_strides: tuple[int, int] = (1, 1),
        pool1: bool = True,
        pool2: bool = True,
        strides: Sequence[tuple[int, int]] = ((1, 1), (1, 2), (1, 2), (1, 2)),
        width: int = 64,
        dropout: float = 0.5,
        nonlocal_blocks: Mapping[str, int | Sequence[int]] | None = None,
        nonlocal_form: Pairwise = "embedded",
        nonlocal_subsample: bool = True,
        nonlocal_variant: str = "paper",
        head: Head = "global",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_choice("middle", middle, get_args(Middle))
        if isinstance(temporal, str):
            check_choice("temporal", temporal, TEMPORAL)
            temporal = TEMPORAL[temporal]
        extents = temporal
        taps = extents[0][0]
        self.conv1 = nn.Conv3d(
            in_channels,
            width,
            (taps, 7, 7),
            (stem_time_strides[0], 2, 2),
            padding=(taps // 2, 3, 3),
            bias=False,
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = (
            nn.MaxPool3d((1, 3, 3), stride=(stem_time_strides[1], 2, 2), padding=(0, 1, 1))
            if pool1
            else nn.Identity()
        )

        insert = NonlocalInserter(
            nonlocal_blocks,
            form=nonlocal_form,
            subsample=nonlocal_subsample,
            variant=nonlocal_variant,
        )

        def stage(number: int, in_planes: int, planes: int) -> nn.Sequential:
            taps = [
                extents[number][i % len(extents[number])] for i in range(num_blocks[number - 1])
            ]
            time_stride, stride = strides[number - 1]
            first = Bottleneck3d(
                in_planes,
                planes,
                stride=stride,
                taps=taps[0],
                time_stride=time_stride,
                middle=middle,
            )
            rest = [
                Bottleneck3d(4 * planes, planes, stride=1, taps=t, middle=middle) for t in taps[1:]
            ]
            return insert(f"res{number + 1}", nn.Sequential(first, *rest), 4 * planes)

        self.layer1 = stage(1, width, width)
        self.pool2 = nn.MaxPool3d((2, 1, 1)) if pool2 else nn.Identity()
        self.layer2 = stage(2, 4 * width, 2 * width)
        self.layer3 = stage(3, 8 * width, 4 * width)
        self.layer4 = stage(4, 16 * width, 8 * width)
        self.avgpool = head_average(head)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(32 * width, num_classes)
        init_he(self, mode="fan_out")
        set_bn_eps(self, bn_eps)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clip_BCTHW))))
        x = self.layer2(self.pool2(self.layer1(x)))
        x = self.avgpool(self.layer4(self.layer3(x)))
        return classify(x, lambda pooled: self.fc(self.dropout(pooled)))
