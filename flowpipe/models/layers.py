"""Layers and helpers that three or more networks share."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.models import build


def dropout_layer(dropout: float) -> nn.Dropout:
    """Dropout by the probability that a value is **dropped** (not kept).

    Raises
    ------
    InvalidArgument
        If `dropout` is not in [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise InvalidArgument(
            f"dropout {dropout!r} must be in [0, 1): it is the share of values that are dropped; "
            "0 turns dropout off"
        )
    return nn.Dropout(dropout)


def check_choice(parameter: str, value: object, choices: Collection[object]) -> None:
    """Refuse a value that is not one of some, with InvalidArgument."""
    if value not in choices:
        names = list(map(str, choices))
        raise InvalidArgument(
            f"{parameter} {value!r}{nearest_name(str(value), names)} must be one of "
            f"{', '.join(names)}"
        )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after an axis in TensorFlow's "same" rule.

    The output has ⌈size / stride⌉ positions; of the zeros that this takes, the odd one is behind.

    ::

        size 224, kernel 7, stride 2     2 before, 3 after
        size 225, kernel 7, stride 2     3 before, 3 after
    """
    positions = -(-size // stride)
    total = max((positions - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad the last axes, as many as there are kernels, with zeros by `same_padding`."""
    pairs = [
        same_padding(size, k, s)
        for size, k, s in zip(x.shape[-len(kernel) :], kernel, stride, strict=True)
    ]
    # functional.pad takes the last axis first.
    flat = [zeros for pair in reversed(pairs) for zeros in pair]
    return functional.pad(x, flat) if any(flat) else x


def init_he(
    network: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_in", linear: bool = False
) -> None:
    """Draw the weights of all convolutions after He et al. 2015 (doi:10.1109/ICCV.2015.123).

    Parameters
    ----------
    mode
        "fan_in" keeps the variance of the outputs, "fan_out" that of the gradients.
    linear
        Draw fully connected layers too, and let all biases start at zero.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d) or (linear and isinstance(layer, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if linear and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Undrawn(TorchFunctionMode):
    """Leave weights on the meta device undrawn: to draw them, torch imports its compiler (5 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            weights = args[0] if args else kwargs["tensor"]
            if weights.is_meta:
                return weights
        return func(*args, **kwargs)


def log_mean_softmax(logits_BTK: Tensor) -> Tensor:
    """Return log of the mean over T of the softmax, B×K: its own softmax is that mean."""
    return logits_BTK.log_softmax(-1).logsumexp(1) - math.log(logits_BTK.shape[1])


def frame_backbone(
    name: str, parameters: Mapping[str, Any] | None, *, num_classes: int, in_channels: int
) -> nn.Module:
    """Build a 2D network by name, to be run on single frames.

    Raises
    ------
    UnknownName
        If no network has this name.
    InvalidArgument
        If it takes more than one frame at a time, or a parameter is not its own.
    """
    network = build(name, num_classes=num_classes, in_channels=in_channels, **(parameters or {}))
    if network.input_layout != "CHW":
        raise InvalidArgument(
            f'backbone "{name}" takes clips ({network.input_layout}); a backbone must take single '
            "frames (CHW), such as resnet18"
        )
    return network


def feature_backbone(
    name: str, parameters: Mapping[str, Any] | None, *, in_channels: int, layer: str | None = None
) -> tuple[nn.Module, int]:
    """Build a 2D network without its classifier; return it and D, the features per frame.

    Parameters
    ----------
    name, parameters, in_channels
        As for `frame_backbone`.
    layer
        Dotted name of a linear layer whose outputs are the features; None takes what the network
        gives to its own classifier.

    Raises
    ------
    UnknownName, InvalidArgument
        As `frame_backbone`, and if the network has no such layer.
    """
    network = frame_backbone(name, parameters, num_classes=1, in_channels=in_channels)
    if layer is not None:
        cut_after(network, layer, name=name)
        return network, int(network.get_submodule(layer).weight.shape[0])  # type: ignore[index]
    last = network.get_submodule(str(network.classifier_name))
    weight = last.weight
    assert isinstance(weight, Tensor)
    network.set_submodule(str(network.classifier_name), nn.Identity())
    return network, weight.shape[1]


def find_layer(network: nn.Module, layer: str, *, name: str) -> nn.Module:
    """Return a layer by its dotted name; InvalidArgument if there is none."""
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if layer not in layers:
        raise InvalidArgument(
            f'backbone "{name}" has no layer "{layer}"{nearest_name(layer, layers)}; take a dotted '
            "name of its state dict"
        )
    return layers[layer]


def cut_after(network: nn.Module, layer: str, *, name: str) -> None:
    """Make every layer with weights behind `layer` an identity.

    Layers must be registered in the order in which they run, as in all 2D networks here.

    Raises
    ------
    InvalidArgument
        If the network has no such layer.
    """
    find_layer(network, layer, name=name)
    behind = False
    for other, module in list(network.named_modules()):
        inside = other == layer or other.startswith(f"{layer}.")
        behind = behind or inside
        if behind and not inside and any(True for _ in module.parameters(recurse=False)):
            network.set_submodule(other, nn.Identity())
        elif behind and isinstance(module, nn.ReLU):
            # With nothing between two of them, the second would overwrite what the first's
            # gradient needs.
            module.inplace = False


Steps = Literal["last", "mean", "frames"]


def join_steps(logits_BTK: Tensor, output: Steps) -> Tensor:
    """Return the last step's logits, the log of the mean probabilities, or all steps."""
    if output == "last":
        return logits_BTK[:, -1]
    return log_mean_softmax(logits_BTK) if output == "mean" else logits_BTK


class FrameFeatures(nn.Module):
    """What networks with a 2D backbone on each frame share: names, and a backbone left frozen.

    Parameters
    ----------
    backbone
        Applied to B·T frames.
    frozen
        Its weights get no gradient, and its normalisation and dropout stay as in testing.
    """

    input_layout = "TCHW"

    def __init__(self, backbone: nn.Module, *, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen = frozen
        self.stem_name = f"backbone.{backbone.stem_name}"
        backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "FrameFeatures":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def check_output(output: str) -> None:
    """Refuse an output other than last, mean and frames, with InvalidArgument."""
    if output not in get_args(Steps):
        raise InvalidArgument(
            f'output "{output}"{nearest_name(output, get_args(Steps))} must be last (many to one), '
            "mean (probabilities averaged over the steps) or frames (many to many)"
        )


Head = Literal["global", "windows", "windows-softmax"]


class WindowAverage(nn.Module):
    """Means over all time and over windows of a map, which go one step at a time.

    B×C×T×H×W to B×C×1×H'×W'; one position where the window is the map.

    Parameters
    ----------
    window
        Side of the window; a smaller map is a window by itself.
    joined
        Average over the windows too: one position.
    """

    def __init__(self, window: int, *, joined: bool) -> None:
        super().__init__()
        self.window, self.joined = window, joined

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        height, width = (min(side, self.window) for side in x_BCTHW.shape[-2:])
        means = functional.avg_pool3d(x_BCTHW.mean(2, keepdim=True), (1, height, width), stride=1)
        return means.mean((3, 4), keepdim=True) if self.joined else means


def head_average(head: Head, window: int = 7) -> nn.Module:
    """Return the pooling of a head.

    Parameters
    ----------
    head
        "global": the mean over the map. "windows": means over windows of the published size,
        averaged, which at a larger size weighs the middle of the map more (pytorchvideo).
        "windows-softmax": each window is classified and their probabilities are averaged (what
        PySlowFast returns in testing); the logarithm serves as logits.
    window
        Side of the map at the published size.
    """
    check_choice("head", head, get_args(Head))
    if head == "global":
        return nn.AdaptiveAvgPool3d(1)
    return WindowAverage(window, joined=head == "windows")


def classify(pooled_BCPQR: Tensor, classifier: Callable[[Tensor], Tensor]) -> Tensor:
    """Return logits B×K of pooled maps; of several positions the log of the mean softmax."""
    if pooled_BCPQR[0, 0].numel() == 1:
        return classifier(pooled_BCPQR.flatten(1))
    return log_mean_softmax(classifier(pooled_BCPQR.flatten(2).transpose(1, 2)))


def set_bn_eps(network: nn.Module, eps: float) -> None:
    """Set ε of every batch normalisation; part of what weights were trained with."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.eps = eps


Middle = Literal["spatial", "temporal-spatial", "depthwise"]


class Bottleneck3d(nn.Module):
    """t×1×1 down, a middle convolution with the strides, 1×1×1 up, around a shortcut.

    Names are those of the 2D bottleneck of `flowpipe.models.resnet`.

    Parameters
    ----------
    stride, time_stride
        Of the middle convolution and the shortcut.
    taps
        t.
    middle
        "spatial": 1×3×3. "temporal-spatial": 3×1×1, normalisation, ReLU, 1×3×3. "depthwise":
        3×3×3, every channel by itself.
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        *,
        stride: int,
        taps: int,
        time_stride: int = 1,
        middle: Middle = "spatial",
    ) -> None:
        super().__init__()
        out_planes = planes * 4
        strides = (time_stride, stride, stride)
        self.conv1 = nn.Conv3d(
            in_planes, planes, (taps, 1, 1), padding=(taps // 2, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(planes)
        spatial = (1, stride, stride)
        if middle == "depthwise":
            self.conv2: nn.Module = nn.Conv3d(
                planes, planes, 3, strides, padding=1, groups=planes, bias=False
            )
        elif middle == "temporal-spatial":
            self.conv2 = nn.Sequential(
                nn.Conv3d(
                    planes, planes, (3, 1, 1), (time_stride, 1, 1), padding=(1, 0, 0), bias=False
                ),
                nn.BatchNorm3d(planes),
                nn.ReLU(inplace=True),
                nn.Conv3d(planes, planes, (1, 3, 3), spatial, padding=(0, 1, 1), bias=False),
            )
        else:
            self.conv2 = nn.Conv3d(
                planes, planes, (1, 3, 3), strides, padding=(0, 1, 1), bias=False
            )
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, out_planes, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if strides != (1, 1, 1) or in_planes != out_planes:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_planes, out_planes, 1, strides, bias=False),
                nn.BatchNorm3d(out_planes),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)  # type: ignore[no-any-return]


class ConvGru(nn.Module):
    """One layer over time: maps B×T×C×H×W to states B×T×D×H×W."""

    def __init__(self, in_planes: int, planes: int, kernel: int = 3) -> None:
        super().__init__()
        padding = kernel // 2
        # Of all three gates; the input's part needs no loop over time.
        self.input = nn.Conv2d(in_planes, 3 * planes, kernel, padding=padding, bias=False)
        self.gates = nn.Conv2d(planes, 2 * planes, kernel, padding=padding, bias=False)
        self.candidate = nn.Conv2d(planes, planes, kernel, padding=padding, bias=False)
        self.planes = planes

    def forward(self, x_BTCHW: Tensor, *, truncate: int | None = None) -> Tensor:
        """Run over time; every `truncate` steps the state is cut from its past's gradient."""
        inputs = self.input(x_BTCHW.flatten(0, 1)).unflatten(0, x_BTCHW.shape[:2])
        state = torch.zeros_like(inputs[:, 0, : self.planes])
        states = []
        for step, at_step in enumerate(inputs.unbind(1)):
            if truncate is not None and step and step % truncate == 0:
                state = state.detach()
            update_in, reset_in, candidate_in = at_step.chunk(3, 1)
            update_of, reset_of = self.gates(state).chunk(2, 1)
            update = (update_in + update_of).sigmoid()
            reset = (reset_in + reset_of).sigmoid()
            candidate = (candidate_in + self.candidate(reset * state)).tanh()
            state = update * state + (1 - update) * candidate
            states.append(state)
        return torch.stack(states, 1)
