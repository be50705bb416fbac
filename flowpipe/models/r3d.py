"""Video ResNets whose blocks look along time: R3D, MC3, R(2+1)D; B×C×16×112×112 to B×K logits.

Tran, Wang, Torresani, Ray, LeCun, Paluri: A closer look at spatiotemporal convolutions for action
recognition, CVPR 2018, doi:10.1109/CVPR.2018.00675; Hara, Kataoka, Satoh: Can spatiotemporal 3D
CNNs retrace the history of 2D CNNs and ImageNet?, CVPR 2018, doi:10.1109/CVPR.2018.00685.

    layer                        r3d-18, r2plus1d-18     mc3-18            Hara's resnet18
    stem 3×7×7/(1,2,2)           64×16×56×56             64×16×56×56       7×7×7: 64×16×56×56
    max pooling                  none                    none              3×3×3/2: 64×8×28×28
    layer1 (res2), 2 blocks      64×16×56×56             64×16×56×56       64×8×28×28
    layer2 (res3)                128×8×28×28             128×16×28×28      128×4×14×14
    layer3 (res4)                256×4×14×14             256×16×14×14      256×2×7×7
    layer4 (res5)                512×2×7×7               512×16×7×7        512×1×4×4

R3D: 3×3×3. MC3: 3×3×3 in the stem and layer1, then 1×3×3. R(2+1)D: 1×3×3, normalisation, ReLU,
3×1×1, with so many planes between that the parameters are those of 3×3×3. As in torchvision
(`r3d_18`, `mc3_18`, `r2plus1d_18`), and with its state-dict names, so that its weights load.
Elsewhere the planes between are counted for each convolution anew (the paper's rule) rather than
once for a block; mmaction2 also splits the shortcuts in two. Non-local blocks
(`flowpipe.models.nonlocal_block`) may stand between the residual blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from flowpipe.models.layers import check_choice, dropout_layer, init_he, set_bn_eps
from flowpipe.models.nonlocal_block import NonlocalInserter, Pairwise

Convolution = Literal["3d", "mixed", "2plus1d"]
Shortcut = Literal["convolution", "pair", "padding"]
Pool = Literal["none", "space", "all"]

# Depth → whether blocks are bottlenecks, and how many of them in the four stages.
DEPTHS = {
    10: (False, (1, 1, 1, 1)),
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}


def middle_planes(in_planes: int, planes: int, *, kernel: int = 3, taps: int = 3) -> int:
    """Return the planes between that give a pair the parameters of one convolution in 3D."""
    area = kernel * kernel
    return taps * in_planes * planes * area // (in_planes * area + taps * planes)


class Pair(nn.Sequential):
    """1×k×k, normalisation, ReLU, t×1×1; strides of time and space."""

    def __init__(
        self,
        in_planes: int,
        planes: int,
        middle: int,
        *,
        kernel: int,
        taps: int,
        stride: tuple[int, int],
    ) -> None:
        time_stride, space_stride = stride
        super().__init__(
            nn.Conv3d(
                in_planes,
                middle,
                (1, kernel, kernel),
                (1, space_stride, space_stride),
                padding=(0, kernel // 2, kernel // 2),
                bias=False,
            ),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(
                middle,
                planes,
                (taps, 1, 1),
                (time_stride, 1, 1),
                padding=(taps // 2, 0, 0),
                bias=False,
            ),
        )


class PaddedShortcut(nn.Module):
    """Every n-th position, further channels of zeros (He et al.'s option A)."""

    def __init__(self, planes: int, stride: int) -> None:
        super().__init__()
        self.planes, self.stride = planes, stride

    def forward(self, x: Tensor) -> Tensor:
        n = self.stride
        picked = x[:, :, ::n, ::n, ::n]
        return functional.pad(picked, (0, 0, 0, 0, 0, 0, 0, self.planes - picked.shape[1]))


class Block(nn.Module):
    """Two convolutions over time and space, or one between 1×1×1 ones, around a shortcut."""

    def __init__(
        self,
        in_planes: int,
        planes: int,
        stride: int,
        *,
        convolution: Convolution,
        bottleneck: bool,
        one_middle: bool,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        out_planes = planes * (4 if bottleneck else 1)
        flat = convolution == "mixed"
        strides = (1, stride, stride) if flat else (stride,) * 3
        of_block = middle_planes(in_planes, planes)

        def over_time(source: int, step: int) -> list[nn.Module]:
            if convolution == "2plus1d":
                middle = of_block if one_middle else middle_planes(source, planes)
                pair = Pair(source, planes, middle, kernel=3, taps=3, stride=(step, step))
                return [pair, nn.BatchNorm3d(planes)]
            kernel, padding = ((1, 3, 3), (0, 1, 1)) if flat else ((3, 3, 3), (1, 1, 1))
            steps = (1, step, step) if flat else (step,) * 3
            conv = nn.Conv3d(source, planes, kernel, steps, padding=padding, bias=False)
            return [conv, nn.BatchNorm3d(planes)]

        def pointwise(source: int, target: int) -> list[nn.Module]:
            return [nn.Conv3d(source, target, 1, bias=False), nn.BatchNorm3d(target)]

        if bottleneck:
            layers = [
                pointwise(in_planes, planes),
                over_time(planes, stride),
                pointwise(planes, out_planes),
            ]
        else:
            layers = [over_time(in_planes, stride), over_time(planes, 1)]
        for number, layer in enumerate(layers, 1):
            if number < len(layers):
                layer.append(nn.ReLU(inplace=True))
            self.add_module(f"conv{number}", nn.Sequential(*layer))
        self.count = len(layers)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != out_planes:
            self.downsample = self._shortcut(in_planes, out_planes, strides, shortcut)

    @staticmethod
    def _shortcut(
        in_planes: int, planes: int, strides: tuple[int, ...], kind: Shortcut
    ) -> nn.Module:
        if kind == "padding":
            return PaddedShortcut(planes, strides[1])
        if kind == "pair":
            conv: nn.Module = Pair(
                in_planes,
                planes,
                middle_planes(in_planes, planes, kernel=1),
                kernel=1,
                taps=1,
                stride=(strides[0], strides[1]),
            )
        else:
            conv = nn.Conv3d(in_planes, planes, 1, strides, bias=False)  # type: ignore[arg-type]
        return nn.Sequential(conv, nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = self.get_submodule(f"conv{number}")(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


class R3d(nn.Module):
    """Stem, four stages, global average, classifier; r3d-18: 33,371,472 parameters, 400 classes.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    depth
        10, 18, 34 (blocks of two), 50, 101, 152 or 200 (bottlenecks).
    convolution
        "3d", "mixed" (MC3) or "2plus1d".
    one_middle
        R(2+1)D: the planes between are counted once for a block, not for each convolution.
    stem_taps, stem_middle
        Temporal extent of the stem; the planes between its halves in R(2+1)D, by the rule if None.
    stem_pool
        "none", "space" (1×3×3) or "all" (3×3×3, which halves time too).
    shortcut
        Where the shape changes: a 1×1×1 "convolution", a "pair" of them, or "padding" (no
        parameters).
    width
        Planes of the first stage.
    dropout
        Share of the pooled features dropped, in [0, 1).
    bn_eps
        ε of the normalisations, but for those within a pair (mmaction2 leaves them at 1e-5).
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
        depth: int = 18,
        convolution: Convolution = "3d",
        one_middle: bool = True,
        stem_taps: int = 3,
        stem_middle: int | None = None,
        stem_pool: Pool = "none",
        shortcut: Shortcut = "convolution",
        width: int = 64,
        dropout: float = 0.0,
        bn_eps: float = 1e-5,
        nonlocal_blocks: Mapping[str, int | Sequence[int]] | None = None,
        nonlocal_form: Pairwise = "embedded",
        nonlocal_subsample: bool = True,
    ) -> None:
        super().__init__()
        check_choice("depth", depth, DEPTHS)
        check_choice("convolution", convolution, get_args(Convolution))
        check_choice("shortcut", shortcut, get_args(Shortcut))
        check_choice("stem_pool", stem_pool, get_args(Pool))
        insert = NonlocalInserter(nonlocal_blocks, form=nonlocal_form, subsample=nonlocal_subsample)
        bottleneck, num_blocks = DEPTHS[depth]
        if convolution == "2plus1d":
            # Those of RGB for every input, so that weights fit with another first convolution only.
            middle = stem_middle or middle_planes(3, width, kernel=7, taps=stem_taps)
            pair = Pair(in_channels, width, middle, kernel=7, taps=stem_taps, stride=(1, 2))
            stem = list(pair)
        else:
            padding = (stem_taps // 2, 3, 3)
            kernel = (stem_taps, 7, 7)
            stem = [nn.Conv3d(in_channels, width, kernel, (1, 2, 2), padding=padding, bias=False)]
        self.stem = nn.Sequential(*stem, nn.BatchNorm3d(width), nn.ReLU(inplace=True))
        if stem_pool == "none":
            self.maxpool: nn.Module = nn.Identity()
        elif stem_pool == "space":
            self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
        else:
            self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        in_planes = width
        for number, count in enumerate(num_blocks):
            planes = width * 2**number
            blocks = []
            for place in range(count):
                block = Block(
                    in_planes,
                    planes,
                    2 if number > 0 and place == 0 else 1,
                    convolution="3d" if convolution == "mixed" and number == 0 else convolution,
                    bottleneck=bottleneck,
                    one_middle=one_middle,
                    shortcut=shortcut,
                )
                in_planes = planes * (4 if bottleneck else 1)
                blocks.append(block)
            stage = insert(f"res{number + 2}", nn.Sequential(*blocks), in_planes)
            self.add_module(f"layer{number + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(in_planes, num_classes)
        init_he(self, mode="fan_out")
        set_bn_eps(self, bn_eps)
        for layer in self.modules():
            if isinstance(layer, Pair):
                set_bn_eps(layer, 1e-5)
        if convolution == "2plus1d":
            set_bn_eps(self.stem[1], 1e-5)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K."""
        x = self.maxpool(self.stem(clip_BCTHW))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))  # type: ignore[no-any-return]
