"""C2D, I3D and Slow with a ResNet-50: B×C×T×H×W to B×K logits; they differ in temporal kernels.

Wang, Girshick, Gupta, He: Non-local neural networks, CVPR 2018, doi:10.1109/CVPR.2018.00813 (C2D
and I3D); Feichtenhofer, Fan, Malik, He: SlowFast networks, ICCV 2019, doi:10.1109/ICCV.2019.00630
(Slow). Kernels as in the public code of the second paper:

    temporal extent      c2d-resnet50    i3d-resnet50    slow-r50
    conv1 t×7×7          1               5               1
    pool1 1×3×3          1               1               1
    res2, 3 blocks       1 1 1           3 3 3           1 1 1
    pool2 t×1×1/(t,1,1)  2               2               none
    res3, 4 blocks       1 1 1 1         3 1 3 1         1 1 1 1
    res4, 6 blocks       1 1 1 1 1 1     3 1 3 1 3 1     3 3 3 3 3 3
    res5, 3 blocks       1 1 1           1 3 1           3 3 3

8 frames of 224×224 (trained so; the published GMAC are at 256×256). A block is t×1×1 down, 1×3×3
with the spatial stride, 1×1×1 up. The first paper's C2D also pools time in pool1 and takes 32
frames. State-dict names are those of the 2D ResNet, whose weights
`flowpipe.models.weights.inflation` inflates. Non-local blocks may stand between the residual
blocks.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from flowpipe.models.layers import Bottleneck3d, check_choice, dropout_layer, init_he
from flowpipe.models.nonlocal_block import NonlocalInserter, Pairwise

# Stem, then the blocks of res2 to res5; a shorter list is repeated along a stage.
TEMPORAL: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "c2d": ((1,), (1,), (1,), (1,), (1,)),
    "i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
    "slow": ((1,), (1,), (1,), (3,), (3,)),
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
        Temporal kernels and pooling: "c2d", "i3d" or "slow", a column of the module's table.
    num_blocks
        Residual blocks of res2 to res5.
    width
        Planes of the stem.
    dropout
        Share of the pooled features dropped, in [0, 1).
    nonlocal_blocks, nonlocal_form, nonlocal_subsample
        Stage (res2 to res5) → number of non-local blocks, such as {"res3": 2, "res4": 3} (the
        paper's five; 7,358,464 parameters); their pairwise form ("embedded", "gaussian", "dot",
        "concatenation"), and whether they pool.
    """

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        temporal: str = "i3d",
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        dropout: float = 0.5,
        nonlocal_blocks: Mapping[str, int] | None = None,
        nonlocal_form: Pairwise = "embedded",
        nonlocal_subsample: bool = True,
    ) -> None:
        super().__init__()
        check_choice("temporal", temporal, TEMPORAL)
        extents = TEMPORAL[temporal]
        taps = extents[0][0]
        self.conv1 = nn.Conv3d(
            in_channels, width, (taps, 7, 7), (1, 2, 2), padding=(taps // 2, 3, 3), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

        insert = NonlocalInserter(nonlocal_blocks, form=nonlocal_form, subsample=nonlocal_subsample)

        def stage(number: int, in_planes: int, planes: int, stride: int) -> nn.Sequential:
            taps = [
                extents[number][i % len(extents[number])] for i in range(num_blocks[number - 1])
            ]
            first = Bottleneck3d(in_planes, planes, stride=stride, taps=taps[0])
            rest = [Bottleneck3d(4 * planes, planes, stride=1, taps=t) for t in taps[1:]]
            return insert(f"res{number + 1}", nn.Sequential(first, *rest), 4 * planes)

        self.layer1 = stage(1, width, width, 1)
        self.pool2 = nn.Identity() if temporal == "slow" else nn.MaxPool3d((2, 1, 1))
        self.layer2 = stage(2, 4 * width, 2 * width, 2)
        self.layer3 = stage(3, 8 * width, 4 * width, 2)
        self.layer4 = stage(4, 16 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(32 * width, num_classes)
        init_he(self, mode="fan_out")

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clip_BCTHW))))
        x = self.layer2(self.pool2(self.layer1(x)))
        x = self.avgpool(self.layer4(self.layer3(x))).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]
