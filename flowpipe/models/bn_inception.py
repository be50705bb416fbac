"""BN-Inception: B×C×224×224 to B×K logits; the network of temporal segment networks (TSN).

Ioffe, Szegedy: Batch normalization: accelerating deep network training by reducing internal
covariate shift, ICML 2015, doi:10.48550/arXiv.1502.03167; Wang et al.: Temporal segment networks,
ECCV 2016, doi:10.1007/978-3-319-46484-8_2.

    conv1 7×7/2 64, pool/2; conv2 1×1 64, 3×3 192, pool/2; 3a 3b 3c/2; 4a 4b 4c 4d 4e/2; 5a 5b

As released for Caffe, with the names of the public PyTorch ports: convolutions have biases and a
normalisation after them, poolings round up, average poolings count the zeros around the map.
"""

import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer, init_he

# Planes of 1×1; 3×3 reduce, 3×3; double 3×3 reduce, double 3×3; pool projection. Modules without
# the first and the last halve the map.
INCEPTION = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


class BnInception(nn.Module):
    """Stem, ten inception modules, global average, classifier.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input: 3 for RGB, 2L for a stack of L flows.
    dropout
        Share of the pooled features dropped, in [0, 1).
    """

    input_layout = "CHW"
    stem_name = "conv1_7x7_s2"
    classifier_name = "fc"

    def __init__(self, *, num_classes: int, in_channels: int = 3, dropout: float = 0.8) -> None:
        super().__init__()
        self._convolution("conv1_7x7_s2", in_channels, 64, 7, stride=2)
        self._convolution("conv2_3x3_reduce", 64, 64, 1)
        self._convolution("conv2_3x3", 64, 192, 3)
        in_planes = 192
        for name, (one, reduce, three, double_reduce, double, pool) in INCEPTION.items():
            stride = 1 if one else 2
            prefix = f"inception_{name}"
            if one:
                self._convolution(f"{prefix}_1x1", in_planes, one, 1)
            self._convolution(f"{prefix}_3x3_reduce", in_planes, reduce, 1)
            self._convolution(f"{prefix}_3x3", reduce, three, 3, stride=stride)
            self._convolution(f"{prefix}_double_3x3_reduce", in_planes, double_reduce, 1)
            self._convolution(f"{prefix}_double_3x3_1", double_reduce, double, 3)
            self._convolution(f"{prefix}_double_3x3_2", double, double, 3, stride=stride)
            if pool:
                self._convolution(f"{prefix}_pool_proj", in_planes, pool, 1)
            in_planes = one + three + double + (pool or in_planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool_5b = nn.MaxPool2d(3, 1, padding=1)
        self.meanpool = nn.AvgPool2d(3, 1, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(in_planes, num_classes)
        init_he(self)

    def _convolution(
        self, name: str, in_planes: int, planes: int, kernel: int, *, stride: int = 1
    ) -> None:
        conv = nn.Conv2d(in_planes, planes, kernel, stride, padding=kernel // 2)
        self.add_module(name, conv)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(planes))

    def _run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))
        return x

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K.

        Raises
        ------
        InvalidArgument
            If height or width is no multiple of 32 px: poolings round up, convolutions down.
        """
        height, width = clip_BCHW.shape[-2:]
        if height % 32 or width % 32:
            raise InvalidArgument(
                f"bn-inception takes sizes that are multiples of 32 px, not {height}×{width}; set "
                "the crop to 224"
            )
        x = self.maxpool(self._run(clip_BCHW, "conv1_7x7_s2"))
        x = self.maxpool(self._run(x, "conv2_3x3_reduce", "conv2_3x3"))
        for name, (one, *_, pool) in INCEPTION.items():
            prefix = f"inception_{name}"
            branches = [self._run(x, f"{prefix}_1x1")] if one else []
            branches.append(self._run(x, f"{prefix}_3x3_reduce", f"{prefix}_3x3"))
            double = (f"{prefix}_double_3x3_{part}" for part in ("reduce", "1", "2"))
            branches.append(self._run(x, *double))
            if pool:
                pooled = self.maxpool_5b(x) if name == "5b" else self.meanpool(x)
                branches.append(self._run(pooled, f"{prefix}_pool_proj"))
            else:
                branches.append(self.maxpool(x))
            x = torch.cat(branches, 1)
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))  # type: ignore[no-any-return]
