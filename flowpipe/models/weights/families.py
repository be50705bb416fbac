"""What a network is, read off the shapes of its tensors under the names that it has here.

Each function returns the class and its keyword parameters, or None if the shapes are of another
architecture. Shapes do not tell everything (strides, poolings, heads): an origin adds that.
"""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flowpipe.models.r3d import DEPTHS, middle_planes
from flowpipe.models.resnet import DEPTHS as DEPTHS_2D
from flowpipe.models.resnet import Bottleneck
from flowpipe.models.resnet3d import TEMPORAL
from flowpipe.models.slowfast import FAST, SLOW
from flowpipe.models.table import TABLE

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A class and its keyword parameters.

    Attributes
    ----------
    callable
        As in the rows of the table.
    parameters
        Those that shapes or the origin tell.
    prefix
        Stands before every name in the network.
    note
        What could not be seen and was taken for granted.
    """

    callable: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    note: str = ""

    def but(self, **parameters: Any) -> "Network":
        """Return it with further parameters; those of non-local blocks only where it has some."""
        if "nonlocal_blocks" not in self.parameters:
            parameters = {k: v for k, v in parameters.items() if not k.startswith("nonlocal")}
        return replace(self, parameters={**self.parameters, **parameters})

    @property
    def depth(self) -> int:
        """Layers of a 3D ResNet of bottlenecks, by its blocks."""
        blocks = self.parameters.get("num_blocks", (3, 4, 6, 3))
        return 3 * int(sum(blocks)) + 2


def match_row(network: Network) -> tuple[str, dict[str, Any]]:
    """Return the row of the table that a network is nearest to, and the parameters that differ."""
    best: tuple[str, dict[str, Any]] | None = None
    defaults = default_parameters(network.callable)
    for name, row in TABLE.items():
        if row.callable != network.callable or name.endswith("-tiny"):
            continue
        has = {**defaults, **row.parameters}
        wanted = {**defaults, **network.parameters}
        differing = {
            key: wanted[key] for key in wanted if plain(wanted[key]) != plain(has.get(key))
        }
        if best is None or len(differing) < len(best[1]):
            best = name, differing
    assert best is not None, network.callable
    return best


def default_parameters(target: str) -> dict[str, Any]:
    """Return the keyword parameters of a class of `flowpipe.models` that have defaults."""
    module, _, name = target.partition(":")
    signature = inspect.signature(
        getattr(importlib.import_module(f"flowpipe.models.{module}"), name)
    )
    return {
        key: parameter.default
        for key, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty and key not in ("in_channels", "dropout")
    }


def plain(value: Any) -> Any:
    """Return a value whose lists are tuples, so that it compares with one from a file."""
    if isinstance(value, list | tuple):
        return tuple(plain(part) for part in value)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def _blocks(shapes: Shapes, before: str = "") -> list[int]:
    """Return how many blocks each of the four stages has."""
    counts = []
    for stage in range(1, 5):
        pattern = rf"{re.escape(before)}layer{stage}\.(\d+)\."
        counts.append(len({m[1] for name in shapes if (m := re.match(pattern, name))}))
    return counts


def resnet2d(shapes: Shapes) -> Network | None:
    """A 2D ResNet."""
    if len(shapes.get("conv1.weight", ())) != 4 or "layer1.0.conv1.weight" not in shapes:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    for depth, (block, blocks) in DEPTHS_2D.items():
        if (block is Bottleneck) == bottleneck and list(blocks) == _blocks(shapes):
            return Network("resnet:ResNet", {"depth": depth})
    return None


def vgg(shapes: Shapes) -> Network | None:
    """VGG-16, with or without normalisation."""
    if shapes.get("features.0.weight", ())[2:] != (3, 3) or "classifier.6.weight" not in shapes:
        return None
    return Network("vgg:Vgg", {"batch_norm": "features.1.running_mean" in shapes})


def resnet3d(shapes: Shapes) -> Network | None:
    """A 3D ResNet whose bottlenecks have 1×3×3, split or depth-wise convolutions."""
    conv1 = shapes.get("conv1.weight", ())
    if len(conv1) != 5 or "layer1.0.conv3.weight" not in shapes:
        return None
    if "layer1.0.conv2.3.weight" in shapes:
        middle = "temporal-spatial"
    else:
        kernel = shapes.get("layer1.0.conv2.weight", ())
        if kernel[1:] == (1, 3, 3, 3):
            middle = "depthwise"
        elif kernel[2:] == (1, 3, 3):
            middle = "spatial"
        else:
            return None
    parameters: dict[str, Any] = {
        "temporal": _named_temporal(shapes),
        "middle": middle,
        "num_blocks": tuple(_blocks(shapes)),
        "width": conv1[0],
    }
    return Network("resnet3d:ResNet3d", {**parameters, **_nonlocal_blocks(shapes, "")})


def _named_temporal(shapes: Shapes) -> Any:
    """Return temporal extents by stage, or their name."""
    extents = _temporal(shapes, "")
    for name, published in TEMPORAL.items():
        if _repeats(published, extents):
            return name
    return extents


def _repeats(short: Any, extents: tuple[tuple[int, ...], ...]) -> bool:
    """Whether extents are those of shorter lists, repeated along each stage."""
    return all(
        taps == tuple(row[i % len(row)] for i in range(len(taps)))
        for row, taps in zip(short, extents, strict=True)
    )


def _temporal(shapes: Shapes, before: str) -> tuple[tuple[int, ...], ...]:
    """Return the temporal extents of the stem and of the blocks of each stage."""
    extents: list[tuple[int, ...]] = [(shapes[f"{before}conv1.weight"][2],)]
    for stage, count in enumerate(_blocks(shapes, before), 1):
        taps = [shapes[f"{before}layer{stage}.{i}.conv1.weight"][2] for i in range(count)]
        extents.append(tuple(taps))
    return tuple(extents)


def _nonlocal_blocks(shapes: Shapes, before: str) -> dict[str, Any]:
    """Return parameters of non-local blocks; none where there are none."""
    places: dict[str, list[int]] = {}
    forms = set()
    for name in shapes:
        if m := re.match(rf"{re.escape(before)}layer(\d)\.(\d+)_nonlocal\.(\w+)\.weight", name):
            forms.add(m[3])
            places.setdefault(f"res{int(m[1]) + 1}", [])
            if int(m[2]) not in places[f"res{int(m[1]) + 1}"]:
                places[f"res{int(m[1]) + 1}"].append(int(m[2]))
    if not places:
        return {}
    form = "concatenation" if "pair" in forms else "embedded" if "theta" in forms else "gaussian"
    return {
        "nonlocal_blocks": {stage: tuple(sorted(found)) for stage, found in places.items()},
        "nonlocal_form": form,
    }


def slowfast(shapes: Shapes) -> Network | None:
    """A SlowFast network."""
    if "slow.conv1.weight" not in shapes or "lateral.0.0.weight" not in shapes:
        return None
    parameters: dict[str, Any] = {
        "num_blocks": tuple(_blocks(shapes, "slow.")),
        "width": shapes["slow.conv1.weight"][0],
        "lateral_taps": shapes["lateral.0.0.weight"][2],
        "lateral_norm": "lateral.0.1.weight" in shapes,
    }
    if _blocks(shapes, "fast.") != _blocks(shapes, "slow."):
        parameters["fast_num_blocks"] = tuple(_blocks(shapes, "fast."))
    for path, published in (("slow", SLOW), ("fast", FAST)):
        extents = _temporal(shapes, f"{path}.")
        if not _repeats(published, extents):
            parameters[f"{path}_temporal"] = extents
    return Network("slowfast:SlowFast", {**parameters, **_nonlocal_blocks(shapes, "slow.")})


def r3d(shapes: Shapes) -> Network | None:
    """A video ResNet of 3×3×3, mixed or split convolutions."""
    stem = shapes.get("stem.0.weight", ())
    if len(stem) != 5 or stem[3:] != (7, 7):
        return None
    bottleneck = any(name.startswith("layer1.0.conv3.") for name in shapes)
    depths = [d for d, (b, n) in DEPTHS.items() if b == bottleneck and list(n) == _blocks(shapes)]
    if not depths:
        return None
    over_time = 2 if bottleneck else 1
    parameters: dict[str, Any] = {"depth": depths[0]}
    if f"layer1.0.conv{over_time}.0.0.weight" in shapes:
        width = shapes["stem.3.weight"][0]
        taps = shapes["stem.3.weight"][2]
        by_rule = middle_planes(stem[1], width, kernel=7, taps=taps)
        second = shapes.get("layer2.0.conv2.0.0.weight", (0,))[0]
        parameters |= {
            "convolution": "2plus1d",
            "stem_taps": taps,
            "stem_middle": None if stem[0] == by_rule else stem[0],
            "one_middle": second != middle_planes(2 * width, 2 * width),
        }
    else:
        width = stem[0]
        mixed = shapes[f"layer2.0.conv{over_time}.0.weight"][2] == 1
        parameters |= {"convolution": "mixed" if mixed else "3d", "stem_taps": stem[2]}
    if "layer2.0.downsample.0.0.weight" in shapes:
        parameters["shortcut"] = "pair"
    elif "layer2.0.downsample.0.weight" not in shapes:
        parameters["shortcut"] = "padding"
    return Network("r3d:R3d", {**parameters, "width": width})


def x3d(shapes: Shapes) -> Network | None:
    """An X3D network."""
    if "conv1_t.weight" not in shapes or "fc1.weight" not in shapes:
        return None
    parameters = {
        "num_blocks": tuple(_blocks(shapes)),
        "width": shapes["conv1.weight"][0],
        "normalised_shortcuts": "layer1.0.downsample.1.weight" in shapes,
    }
    return Network("x3d:X3d", parameters)


def named(target: str, sign: str, **parameters: Any) -> Any:
    """Return a reading for an architecture of one form, known by one of its tensors."""

    def read(shapes: Shapes) -> Network | None:
        return Network(target, parameters) if sign in shapes else None

    return read
