"""Networks that map a clip to class logits; the table lists them, `build` makes one.

A network is an `nn.Module` with three string attributes beside its layers:

- `input_layout`: axes of one sample, "CHW", "CTHW" or "TCHW" (letters in `flowpipe.axes`);
- `stem_name`: dotted name of the first convolution, the layer that sees the input channels;
- `classifier_name`: dotted name of the last layer, the one whose outputs are the K classes.

A network of two pathways names the first convolutions of the others in `other_stem_names`.

By these names, `flowpipe.models.weights` fits weights to another number of channels or classes.
They are not called `stem` and `classifier`, because the latter is a *layer* in torchvision's
SqueezeNet, whose state-dict names are kept here.

A network that is made for one length or size of clips has parameters `frames` (T) and `size`
(height, width); `build_for_clip` gives it those of the stream.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.models.facts import FACTS, Facts, InputLayout
from flowpipe.registry import resolve

if TYPE_CHECKING:
    # The table and its facts are there without torch.
    from torch import nn

__all__ = [
    "FACTS",
    "INPUT_LAYOUTS",
    "MODELS",
    "Facts",
    "InputLayout",
    "build",
    "build_for_clip",
    "input_layout",
]

MODELS: Mapping[str, str] = {
    "resnet18": "flowpipe.models.resnet:resnet18",
    "resnet34": "flowpipe.models.resnet:resnet34",
    "resnet50": "flowpipe.models.resnet:resnet50",
    "resnet101": "flowpipe.models.resnet:resnet101",
    "squeezenet1_0": "flowpipe.models.squeezenet:squeezenet1_0",
    "cnn-m-2048": "flowpipe.models.cnn_m_2048:cnn_m_2048",
    "vgg16": "flowpipe.models.vgg:vgg16",
    "small-cnn": "flowpipe.models.small_cnn:small_cnn",
    "single-frame": "flowpipe.models.single_frame:single_frame",
    "single-frame-tiny": "flowpipe.models.single_frame:single_frame_tiny",
    "late-fusion-fc": "flowpipe.models.late_fusion:late_fusion_fc",
    "late-fusion-fc-tiny": "flowpipe.models.late_fusion:late_fusion_fc_tiny",
    "late-fusion-pool": "flowpipe.models.late_fusion:late_fusion_pool",
    "late-fusion-pool-tiny": "flowpipe.models.late_fusion:late_fusion_pool_tiny",
    "early-fusion": "flowpipe.models.early_fusion:early_fusion",
    "early-fusion-tiny": "flowpipe.models.early_fusion:early_fusion_tiny",
    "slow-fusion": "flowpipe.models.slow_fusion:slow_fusion",
    "slow-fusion-tiny": "flowpipe.models.slow_fusion:slow_fusion_tiny",
    "c3d": "flowpipe.models.c3d:c3d",
    "c3d-lecture": "flowpipe.models.c3d:c3d_lecture",
    "c3d-tiny": "flowpipe.models.c3d:c3d_tiny",
    "lecture-late": "flowpipe.models.lecture:lecture_late",
    "lecture-early": "flowpipe.models.lecture:lecture_early",
    "lecture-3d": "flowpipe.models.lecture:lecture_3d",
    "r3d-18": "flowpipe.models.r3d:r3d_18",
    "r3d-18-tiny": "flowpipe.models.r3d:r3d_18_tiny",
    "i3d": "flowpipe.models.i3d:i3d",
    "i3d-tiny": "flowpipe.models.i3d:i3d_tiny",
    "i3d-resnet50": "flowpipe.models.resnet3d:i3d_resnet50",
    "i3d-resnet50-tiny": "flowpipe.models.resnet3d:i3d_resnet50_tiny",
    "i3d-resnet50-nonlocal-tiny": "flowpipe.models.resnet3d:i3d_resnet50_nonlocal_tiny",
    "c2d-resnet50": "flowpipe.models.resnet3d:c2d_resnet50",
    "c2d-resnet50-tiny": "flowpipe.models.resnet3d:c2d_resnet50_tiny",
    "slow-r50": "flowpipe.models.resnet3d:slow_r50",
    "slow-r50-tiny": "flowpipe.models.resnet3d:slow_r50_tiny",
    "slowfast-4x16-r50": "flowpipe.models.slowfast:slowfast_4x16_r50",
    "slowfast-8x8-r50": "flowpipe.models.slowfast:slowfast_8x8_r50",
    "slowfast-tiny": "flowpipe.models.slowfast:slowfast_tiny",
    "cnn-lstm": "flowpipe.models.cnn_lstm:cnn_lstm",
    "cnn-lstm-tiny": "flowpipe.models.cnn_lstm:cnn_lstm_tiny",
    "lrcn": "flowpipe.models.lrcn:lrcn",
    "lrcn-tiny": "flowpipe.models.lrcn:lrcn_tiny",
    "cnn3d-lstm": "flowpipe.models.cnn3d_lstm:cnn3d_lstm",
    "cnn3d-lstm-tiny": "flowpipe.models.cnn3d_lstm:cnn3d_lstm_tiny",
    "convgru": "flowpipe.models.convgru:convgru",
    "convgru-tiny": "flowpipe.models.convgru:convgru_tiny",
}

INPUT_LAYOUTS = get_args(InputLayout)


def build(name: str, *, num_classes: int, in_channels: int = 3, **parameters: Any) -> "nn.Module":
    """Make a network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    name
        A name of `MODELS`, or your own as `package.module:callable`; the callable takes
        `num_classes`, `in_channels` and its own parameters by keyword.
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input: 3 for RGB, 2L for a stack of L flows.
    **parameters
        Keyword parameters of that network, such as `dropout`.

    Returns
    -------
    nn.Module
        With `input_layout`, `stem_name` and `classifier_name` (see the module's docstring).

    Raises
    ------
    UnknownName
        If no network has this name.
    InvalidArgument
        If the network has no such parameter, a value is outside its rule, or a network of your
        own lacks the three attributes.
    """
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidArgument(f"{argument} {value!r} must be a whole number >= 1")
    factory = resolve(MODELS, name, kind="model")
    _check_parameters(name, factory, parameters)
    network = factory(num_classes=num_classes, in_channels=in_channels, **parameters)
    _check_network(name, network)
    return network  # type: ignore[no-any-return]


def input_layout(name: str, **parameters: Any) -> InputLayout:
    """Give the axes of one sample of a network: "CHW", "CTHW" or "TCHW".

    For a name of `MODELS` this imports no torch; your own network is built to be asked.

    Raises
    ------
    UnknownName, InvalidArgument
        As `build`.
    """
    if name in FACTS:
        return FACTS[name].input_layout
    resolve(MODELS, name, kind="model")
    import torch

    with torch.random.fork_rng(devices=[]):
        layout: InputLayout = build(name, num_classes=2, **parameters).input_layout  # type: ignore[assignment]
    return layout


def build_for_clip(
    name: str, clip_CTHW: tuple[int, int, int, int], *, num_classes: int, **parameters: Any
) -> "nn.Module":
    """Make a network for clips of a shape, with fresh weights.

    Parameters
    ----------
    name
        As for `build`.
    clip_CTHW
        Channels (2 for flow, otherwise 3), frames, height and width. The layout of the network
        says what they mean for its first convolution: T·C channels for "CHW", C otherwise. A
        network with a parameter `frames` or `size` (height, width) is given those too.
    num_classes
        K, the number of logits.
    **parameters
        Keyword parameters of that network; they come before the shape.

    Raises
    ------
    UnknownName, InvalidArgument
        As `build`.
    """
    channels, frames, height, width = clip_CTHW
    shape = {"frames": frames, "size": (height, width)}
    wanted = _signature(resolve(MODELS, name, kind="model"))
    given = {key: value for key, value in shape.items() if key in wanted} | parameters
    layout = input_layout(name, **given)
    in_channels = channels * frames if layout == "CHW" else channels
    return build(name, num_classes=num_classes, in_channels=in_channels, **given)


def _signature(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some callables written in C have none; the call itself will tell
        return {}


def _check_parameters(
    name: str, factory: Callable[..., Any], parameters: Mapping[str, Any]
) -> None:
    signature = _signature(factory)
    if not signature or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values()):
        return
    known = signature.keys() - {"num_classes", "in_channels"}
    for given in parameters:
        if given not in known:
            raise InvalidArgument(
                f'model "{name}" has no parameter "{given}"{nearest_name(given, known)}; '
                f"it takes: {', '.join(sorted(known)) or 'none'}"
            )


def _check_network(name: str, network: object) -> None:
    from torch import nn

    if not isinstance(network, nn.Module):
        raise InvalidArgument(
            f'model "{name}" gave a {type(network).__name__}; it must return a torch.nn.Module'
        )
    layout = getattr(network, "input_layout", None)
    if layout not in INPUT_LAYOUTS:
        raise InvalidArgument(
            f'model "{name}": input_layout {layout!r} must be one of {", ".join(INPUT_LAYOUTS)}; '
            "set it as an attribute of the network"
        )
    layers = dict(network.named_modules())
    for attribute in ("stem_name", "classifier_name"):
        layer = getattr(network, attribute, None)
        if not isinstance(layer, str) or layer not in layers:
            raise InvalidArgument(
                f'model "{name}": {attribute} {layer!r} must be the dotted name of one of its '
                "layers; set it as an attribute of the network"
            )
