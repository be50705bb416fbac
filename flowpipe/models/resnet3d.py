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
frames. State-dict names are those of the 2D ResNet, whose weights `flowpipe.models.inflation`
inflates. Non-local blocks may stand between the residual blocks.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from flowpipe.models.layers import Bottleneck3d, dropout_layer
from flowpipe.models.nonlocal_block import Pairwise, check_nonlocal_blocks, insert_nonlocal

# Stem, then the blocks of res2 to res5; a shorter list is repeated along a stage.
C2D = ((1,), (1,), (1,), (1,), (1,))
I3D = ((5,), (3,), (3, 1), (3, 1), (1, 3))
SLOW = ((1,), (1,), (1,), (3,), (3,))
NUM_BLOCKS = (3, 4, 6, 3)


class ResNet3d(nn.Module):
    """Stem, four stages of bottlenecks, global average, classifier."""

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self,
        temporal: Sequence[Sequence[int]],
        *,
        num_classes: int,
        in_channels: int,
        num_blocks: Sequence[int],
        width: int,
        temporal_pool: bool,
        dropout: float,
        nonlocal_blocks: Mapping[str, int],
        nonlocal_form: Pairwise,
        nonlocal_subsample: bool,
    ) -> None:
        super().__init__()
        check_nonlocal_blocks(nonlocal_blocks)
        taps = temporal[0][0]
        self.conv1 = nn.Conv3d(
            in_channels, width, (taps, 7, 7), (1, 2, 2), padding=(taps // 2, 3, 3), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

        def stage(number: int, in_planes: int, planes: int, stride: int) -> nn.Sequential:
            extents = [
                temporal[number][i % len(temporal[number])] for i in range(num_blocks[number - 1])
            ]
            first = Bottleneck3d(in_planes, planes, stride=stride, taps=extents[0])
            rest = [Bottleneck3d(4 * planes, planes, stride=1, taps=t) for t in extents[1:]]
            return insert_nonlocal(
                nn.Sequential(first, *rest),
                nonlocal_blocks.get(f"res{number + 1}", 0),
                4 * planes,
                form=nonlocal_form,
                subsample=nonlocal_subsample,
            )

        self.layer1 = stage(1, width, width, 1)
        self.pool2 = nn.MaxPool3d((2, 1, 1)) if temporal_pool else nn.Identity()
        self.layer2 = stage(2, 4 * width, 2 * width, 2)
        self.layer3 = stage(3, 8 * width, 4 * width, 2)
        self.layer4 = stage(4, 16 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(32 * width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Give logits B×K."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clip_BCTHW))))
        x = self.layer2(self.pool2(self.layer1(x)))
        x = self.avgpool(self.layer4(self.layer3(x))).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]


def i3d_resnet50(
    *,
    num_classes: int,
    in_channels: int = 3,
    num_blocks: Sequence[int] = NUM_BLOCKS,
    width: int = 64,
    dropout: float = 0.5,
    nonlocal_blocks: Mapping[str, int] | None = None,
    nonlocal_form: Pairwise = "embedded",
    nonlocal_subsample: bool = True,
) -> ResNet3d:
    """I3D on ResNet-50: 28,043,472 parameters for RGB and 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
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
    return ResNet3d(
        I3D,
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=num_blocks,
        width=width,
        temporal_pool=True,
        dropout=dropout,
        nonlocal_blocks=nonlocal_blocks or {},
        nonlocal_form=nonlocal_form,
        nonlocal_subsample=nonlocal_subsample,
    )


def c2d_resnet50(
    *,
    num_classes: int,
    in_channels: int = 3,
    num_blocks: Sequence[int] = NUM_BLOCKS,
    width: int = 64,
    dropout: float = 0.5,
    nonlocal_blocks: Mapping[str, int] | None = None,
    nonlocal_form: Pairwise = "embedded",
    nonlocal_subsample: bool = True,
) -> ResNet3d:
    """C2D, time only pooled: 24,327,632 parameters for 400 classes. See `i3d_resnet50`."""
    return ResNet3d(
        C2D,
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=num_blocks,
        width=width,
        temporal_pool=True,
        dropout=dropout,
        nonlocal_blocks=nonlocal_blocks or {},
        nonlocal_form=nonlocal_form,
        nonlocal_subsample=nonlocal_subsample,
    )


def slow_r50(
    *,
    num_classes: int,
    in_channels: int = 3,
    num_blocks: Sequence[int] = NUM_BLOCKS,
    width: int = 64,
    dropout: float = 0.5,
    nonlocal_blocks: Mapping[str, int] | None = None,
    nonlocal_form: Pairwise = "embedded",
    nonlocal_subsample: bool = True,
) -> ResNet3d:
    """SlowFast's slow pathway alone: 32,454,096 parameters, 400 classes. See `i3d_resnet50`."""
    return ResNet3d(
        SLOW,
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=num_blocks,
        width=width,
        temporal_pool=False,
        dropout=dropout,
        nonlocal_blocks=nonlocal_blocks or {},
        nonlocal_form=nonlocal_form,
        nonlocal_subsample=nonlocal_subsample,
    )


def i3d_resnet50_tiny(
    *,
    num_classes: int,
    in_channels: int = 3,
    dropout: float = 0.0,
    nonlocal_blocks: Mapping[str, int] | None = None,
    nonlocal_form: Pairwise = "embedded",
    nonlocal_subsample: bool = True,
) -> ResNet3d:
    """`i3d_resnet50` with one or two blocks a stage and an eighth of the width, for tests."""
    return i3d_resnet50(
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=(1, 2, 1, 2),
        width=8,
        dropout=dropout,
        nonlocal_blocks=nonlocal_blocks,
        nonlocal_form=nonlocal_form,
        nonlocal_subsample=nonlocal_subsample,
    )


def i3d_resnet50_nonlocal_tiny(*, num_classes: int, in_channels: int = 3) -> ResNet3d:
    """`i3d_resnet50_tiny` with a non-local block in res3, for tests."""
    return i3d_resnet50_tiny(
        num_classes=num_classes, in_channels=in_channels, nonlocal_blocks={"res3": 1}
    )


def c2d_resnet50_tiny(*, num_classes: int, in_channels: int = 3) -> ResNet3d:
    """`c2d_resnet50` with one or two blocks a stage and an eighth of the width, for tests."""
    return c2d_resnet50(
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=(1, 2, 1, 2),
        width=8,
        dropout=0.0,
    )


def slow_r50_tiny(*, num_classes: int, in_channels: int = 3) -> ResNet3d:
    """`slow_r50` with one or two blocks a stage and an eighth of the width, for tests."""
    return slow_r50(
        num_classes=num_classes,
        in_channels=in_channels,
        num_blocks=(1, 2, 1, 2),
        width=8,
        dropout=0.0,
    )
