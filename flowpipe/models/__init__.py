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
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from flowpipe.errors import InvalidArgument
from flowpipe.models.table import TABLE, InputLayout, Row
from flowpipe.registry import create, resolve

if TYPE_CHECKING:
    # The table is there without torch.
    from torch import nn

__all__ = [
    "INPUT_LAYOUTS",
    "TABLE",
    "InputLayout",
    "Row",
    "build",
    "build_for_clip",
    "input_layout",
    "names",
]

INPUT_LAYOUTS = get_args(InputLayout)
_TARGETS = {name: row.target for name, row in TABLE.items()}


def names() -> tuple[str, ...]:
    """Return the names of all networks of the table."""
    return tuple(TABLE)


def build(name: str, *, num_classes: int, in_channels: int = 3, **parameters: Any) -> "nn.Module":
    """Make a network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    name
        A name of `TABLE`, or your own as `package.module:callable`; the callable takes
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
    network = create(
        _TARGETS,
        name,
        {**(TABLE[name].parameters if name in TABLE else {}), **parameters},
        kind="model",
        given={"num_classes": num_classes, "in_channels": in_channels},
    )
    _check_network(name, network)
    network.build_parameters = {
        **(TABLE[name].parameters if name in TABLE else {}),
        **parameters,
    }
    return network  # type: ignore[no-any-return]


def input_layout(name: str, **parameters: Any) -> InputLayout:
    """Return the axes of one sample of a network: "CHW", "CTHW" or "TCHW".

    For a name of `TABLE` this imports no torch; your own network is built to be asked.

    Raises
    ------
    UnknownName, InvalidArgument
        As `build`.
    """
    if name in TABLE:
        return TABLE[name].input_layout
    resolve(_TARGETS, name, kind="model")
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
    factory = resolve(_TARGETS, name, kind="model")
    try:
        known = inspect.signature(factory).parameters
    except ValueError:  # some callables written in C have none; the call itself will tell
        known = MappingProxyType({})
    given = {key: value for key, value in shape.items() if key in known} | parameters
    layout = input_layout(name, **given)
    in_channels = channels * frames if layout == "CHW" else channels
    return build(name, num_classes=num_classes, in_channels=in_channels, **given)


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
