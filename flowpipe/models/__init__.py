"""Networks that map a clip to class logits; the table lists them, `build` makes one.

A network is an `nn.Module` with three string attributes beside its layers:

- `input_layout`: axes of one sample, "CHW", "CTHW" or "TCHW" (letters in `flowpipe.axes`);
- `stem_name`: dotted name of the first convolution, the layer that sees the input channels;
- `classifier_name`: dotted name of the last layer, the one whose outputs are the K classes.

By the two names, `flowpipe.models.weights` fits weights to another number of channels or classes.
They are not called `stem` and `classifier`, because the latter is a *layer* in torchvision's
SqueezeNet, whose state-dict names are kept here.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.registry import resolve

__all__ = ["INPUT_LAYOUTS", "MODELS", "build"]

MODELS: Mapping[str, str] = {
    "resnet18": "flowpipe.models.resnet:resnet18",
    "resnet34": "flowpipe.models.resnet:resnet34",
    "resnet50": "flowpipe.models.resnet:resnet50",
    "squeezenet1_0": "flowpipe.models.squeezenet:squeezenet1_0",
    "cnn-m-2048": "flowpipe.models.cnn_m_2048:cnn_m_2048",
    "small-cnn": "flowpipe.models.small_cnn:small_cnn",
}

INPUT_LAYOUTS = ("CHW", "CTHW", "TCHW")


def build(name: str, *, num_classes: int, in_channels: int = 3, **parameters: Any) -> nn.Module:
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


def _check_parameters(
    name: str, factory: Callable[..., Any], parameters: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(factory).parameters.values()
    except ValueError:  # some callables written in C have none; the call itself will tell
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature):
        return
    known = {parameter.name for parameter in signature} - {"num_classes", "in_channels"}
    for given in parameters:
        if given not in known:
            raise InvalidArgument(
                f'model "{name}" has no parameter "{given}"{nearest_name(given, known)}; '
                f"it takes: {', '.join(sorted(known)) or 'none'}"
            )


def _check_network(name: str, network: object) -> None:
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
