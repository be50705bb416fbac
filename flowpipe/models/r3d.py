"""R3D-18: ResNet-18 with 3×3×3 convolutions, B×C×16×112×112 to B×K logits.

Tran, Wang, Torresani, Ray, LeCun, Paluri: A closer look at spatiotemporal convolutions for action
recognition, CVPR 2018, doi:10.1109/CVPR.2018.00675.

    layer                        C×T×H×W
    stem 3×7×7/(1,2,2)           64×16×56×56
    layer1 (res2), 2 blocks      64×16×56×56
    layer2 (res3)                128×8×28×28
    layer3 (res4)                256×4×14×14
    layer4 (res5)                512×2×7×7

As in torchvision (`r3d_18`), and with its state-dict names, so that its weights load. Non-local
blocks (`flowpipe.models.nonlocal_block`) may stand between the residual blocks.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from flowpipe.models.layers import dropout_layer, init_he
from flowpipe.models.nonlocal_block import NonlocalInserter, Pairwise


def _conv_bn(in_planes: int, planes: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv3d(in_planes, planes, 3, stride, padding=1, bias=False),
        nn.BatchNorm3d(planes),
    ]


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions around a shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_conv_bn(in_planes, planes, stride), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(*_conv_bn(planes, planes, 1))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_planes != planes:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm3d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)  # type: ignore[no-any-return]


class R3d(nn.Module):
    """Stem, four stages, global average, classifier; 33,371,472 parameters for 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    width
        Planes of the first stage.
    dropout
        Share of the pooled features dropped, in [0, 1).
    nonlocal_blocks, nonlocal_form, nonlocal_subsample
        Stage (res2 to res5) → number of non-local blocks, such as {"res3": 1}; their pairwise
        form ("embedded", "gaussian", "dot", "concatenation"), and whether they pool.
    """

    input_layout = "CTHW"
    stem_name = "stem.0"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        dropout: float = 0.0,
        nonlocal_blocks: Mapping[str, int] | None = None,
        nonlocal_form: Pairwise = "embedded",
        nonlocal_subsample: bool = True,
    ) -> None:
        super().__init__()
        insert = NonlocalInserter(nonlocal_blocks, form=nonlocal_form, subsample=nonlocal_subsample)
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, width, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )

        def stage(name: str, in_planes: int, planes: int, stride: int) -> nn.Sequential:
            blocks = nn.Sequential(
                BasicBlock(in_planes, planes, stride), BasicBlock(planes, planes, 1)
            )
            return insert(name, blocks, planes)

        self.layer1 = stage("res2", width, width, 1)
        self.layer2 = stage("res3", width, 2 * width, 2)
        self.layer3 = stage("res4", 2 * width, 4 * width, 2)
        self.layer4 = stage("res5", 4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        init_he(self, mode="fan_out")

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.layer2(self.layer1(self.stem(clip_BCTHW)))
        x = self.avgpool(self.layer4(self.layer3(x))).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]
