"""X3D: a small image network expanded step by step to video; B×C×T×H×W to B×K logits.

Feichtenhofer: X3D: expanding architectures for efficient video recognition, CVPR 2020,
doi:10.1109/CVPR42600.2020.00028.

    layer                                   planes          X3D-S from 13×160×160
    conv1 1×3×3/(1,2,2), 5×1×1 by channel   24              13×80×80
    res2, 3 blocks                          24 (54 inside)  13×40×40
    res3, 5                                 48 (108)        13×20×20
    res4, 11                                96 (216)        13×10×10
    res5, 7                                 192 (432)       13×5×5
    conv5 432, average, fc1 2048, fc K

A block is 1×1×1, 3×3×3 by channel with the stride, 1×1×1, around a shortcut; every other one
weighs its channels (squeeze and excitation); the activation in its middle is x·σ(x). As in
PySlowFast and pytorchvideo, the head averages windows of the published map one step at a time and
classifies each: 5×5 for X3D-XS and -S (160 px), 7×7 for -M (224), 10×10 for -L (312).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from flowpipe.models.layers import WindowAverage, dropout_layer, init_he


def _squeezed(planes: int) -> int:
    """Return a sixteenth of the planes, in eights, at least eight and 0.9 of it."""
    wanted = planes / 16
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class Block(nn.Module):
    """1×1×1, 3×3×3 by channel, 1×1×1, around a shortcut."""

    def __init__(
        self,
        in_planes: int,
        inner: int,
        planes: int,
        *,
        stride: int,
        weighing: bool,
        normalised_shortcut: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_planes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(
            inner, inner, 3, (1, stride, stride), padding=1, groups=inner, bias=False
        )
        self.bn2 = nn.BatchNorm3d(inner)
        self.weigh: nn.Sequential | None = None
        if weighing:
            self.weigh = nn.Sequential(
                nn.AdaptiveAvgPool3d(1),
                nn.Conv3d(inner, _squeezed(inner), 1),
                nn.ReLU(inplace=True),
                nn.Conv3d(_squeezed(inner), inner, 1),
                nn.Sigmoid(),
            )
        self.conv3 = nn.Conv3d(inner, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_planes != planes:
            layers: list[nn.Module] = [
                nn.Conv3d(in_planes, planes, 1, (1, stride, stride), bias=False)
            ]
            if normalised_shortcut or in_planes != planes:
                layers.append(nn.BatchNorm3d(planes))
            self.downsample = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.weigh is not None:
            y = y * self.weigh(y)
        y = self.bn3(self.conv3(functional.silu(y)))
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


class X3d(nn.Module):
    """Stem, four stages, head; X3D-S and -M: 3,794,274 parameters for 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    num_blocks
        Blocks of res2 to res5; (5, 10, 25, 15) for X3D-L.
    width
        Planes of the stem.
    window
        Side of the map at the published size; None: the whole map (mmaction2).
    normalised_shortcuts
        Normalise the first shortcut too, where only the size changes; pytorchvideo does not.
    dropout
        Share of the features dropped before the classifier, in [0, 1).
    """

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        num_blocks: Sequence[int] = (3, 5, 11, 7),
        width: int = 24,
        window: int | None = 5,
        normalised_shortcuts: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(
            in_channels, width, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), bias=False
        )
        self.conv1_t = nn.Conv3d(
            width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        in_planes = width
        for number, count in enumerate(num_blocks):
            planes = width * 2**number
            inner = planes * 9 // 4
            stage = nn.Sequential()
            for place in range(count):
                stage.append(
                    Block(
                        in_planes,
                        inner,
                        planes,
                        stride=2 if place == 0 else 1,
                        weighing=place % 2 == 0,
                        normalised_shortcut=normalised_shortcuts,
                    )
                )
                in_planes = planes
            self.add_module(f"layer{number + 1}", stage)
        self.conv5 = nn.Conv3d(in_planes, inner, 1, bias=False)
        self.bn5 = nn.BatchNorm3d(inner)
        self.avgpool = (
            nn.AdaptiveAvgPool3d(1) if window is None else WindowAverage(window, joined=False)
        )
        self.fc1 = nn.Conv3d(inner, 2048, 1, bias=False)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(2048, num_classes)
        init_he(self, mode="fan_out")

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.relu(self.bn1(self.conv1_t(self.conv1(clip_BCTHW))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        x = self.avgpool(self.relu(self.bn5(self.conv5(x))))
        # The classifier is linear: the mean over windows of what it gives is what it gives to
        # the mean.
        features = self.relu(self.fc1(x)).mean((2, 3, 4))
        return self.fc(self.dropout(features))  # type: ignore[no-any-return]
