"""PySlowFast (FAIR): Slow, C2D, I3D, non-local, SlowFast and X3D networks.

Stages are s1 (stem) to s5, pathway0 the slow and pathway1 the fast one. The head classifies
windows of 7×7 one step at a time; the slow pathway takes frames spread from the first to the last;
non-local blocks scale their products. Published accuracies average the windows' probabilities
(head "windows-softmax").
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing, Rule, rename_by


def _path(match: re.Match[str], rest: str) -> str:
    return ("slow." if match["path"] == "0" else "fast.") + rest


def _block(match: re.Match[str], rest: str) -> str:
    return _path(match, f"layer{int(match['stage']) - 1}.{match['block']}{rest}")


_STAGE = r"s(?P<stage>\d)\.pathway(?P<path>\d)_"
_CONVS = {"a": "1", "b": "2", "c": "3"}
RULES: tuple[Rule, ...] = (
    (r"s1\.pathway(?P<path>\d)_stem\.conv_xy\.", lambda m: _path(m, "conv1.")),
    (r"s1\.pathway(?P<path>\d)_stem\.(?P<kind>conv|bn)\.", lambda m: _path(m, f"{m['kind']}1.")),
    (r"s(\d)_fuse\.conv_f2s\.", lambda m: f"lateral.{int(m[1]) - 1}.0."),
    (r"s(\d)_fuse\.bn\.", lambda m: f"lateral.{int(m[1]) - 1}.1."),
    (_STAGE + r"res(?P<block>\d+)\.branch1\.", lambda m: _block(m, ".downsample.0.")),
    (_STAGE + r"res(?P<block>\d+)\.branch1_bn\.", lambda m: _block(m, ".downsample.1.")),
    (
        _STAGE + r"res(?P<block>\d+)\.branch2\.se\.fc(?P<fc>\d)\.",
        lambda m: _block(m, f".weigh.{2 * int(m['fc']) - 1}."),
    ),
    (
        _STAGE + r"res(?P<block>\d+)\.branch2\.(?P<conv>[abc])\.",
        lambda m: _block(m, f".conv{_CONVS[m['conv']]}."),
    ),
    (
        _STAGE + r"res(?P<block>\d+)\.branch2\.(?P<conv>[abc])_bn\.",
        lambda m: _block(m, f".bn{_CONVS[m['conv']]}."),
    ),
    (
        _STAGE + r"nonlocal(?P<block>\d+)\.conv_(?P<conv>theta|phi|g|out)\.",
        lambda m: _block(m, f"_nonlocal.{m['conv']}."),
    ),
    (_STAGE + r"nonlocal(?P<block>\d+)\.bn\.", lambda m: _block(m, "_nonlocal.bn.")),
    (r"head\.projection\.", "fc."),
    (r"head\.conv_5\.", "conv5."),
    (r"head\.conv_5_bn\.", "bn5."),
    (r"head\.lin_5\.", "fc1."),
)


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    renamed = rename_by(RULES, names)
    if "s1.pathway0_stem.conv_xy.weight" in names:  # X3D's stem is a pair
        renamed["s1.pathway0_stem.conv.weight"] = "slow.conv1_t.weight"
    return one_pathway(renamed)


def one_pathway(names: dict[str, str]) -> dict[str, str]:
    """Take "slow." off where there is no fast pathway."""
    if any(name.startswith("fast.") for name in names.values()):
        return names
    return {old: new.removeprefix("slow.") for old, new in names.items()}


def fair_slowfast(shapes: Shapes) -> Network | None:
    """SlowFast as FAIR computes it; α by the taps: 7 (8×8), 5 (4×16, but 8×8 of 101 layers)."""
    network = families.slowfast(shapes)
    if network is None:
        return None
    alpha = 8 if network.parameters["lateral_taps"] == 5 and network.depth == 50 else 4
    return network.but(alpha=alpha, slow_frames="spread", head="windows", nonlocal_variant="scaled")


def fair_resnet3d(shapes: Shapes) -> Network | None:
    """C2D, I3D and Slow as FAIR computes them."""
    network = families.resnet3d(shapes)
    if network is None:
        return None
    pool2 = network.parameters["temporal"] in ("c2d", "i3d")
    return network.but(head="windows", pool2=pool2, nonlocal_variant="scaled")


def x3d(shapes: Shapes, where: str) -> Network | None:
    """X3D; the window of its head by the network's size, which shapes do not tell."""
    network = families.x3d(shapes)
    if network is None:
        return None
    if sum(network.parameters["num_blocks"]) > 26:
        return network.but(window=10)
    size = re.search(r"x3d[_-]?(xs|s|m)\b", Path(where).stem.lower().replace("_", "-"))
    if size is None:
        note = (
            "X3D-XS, -S and -M have the same tensors; taken as X3D-S (160 px): for X3D-M give "
            "window = 7"
        )
        return replace(network.but(window=5), note=note)
    return network.but(window=7 if size[1] == "m" else 5)


def read(shapes: Shapes, where: str) -> Network | None:
    """Read FAIR's networks off their shapes."""
    network = fair_slowfast(shapes) or x3d(shapes, where) or fair_resnet3d(shapes)
    if network is None or network.parameters.get("temporal") != "c2d":
        return network
    if "nopool" in where.lower():
        return network.but(pool2=False)
    note = "C2D taken as with pooling of time; the zoo's C2D_NOPOOL is pool2 = false"
    return replace(network, note=note)


def preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    """Return Kinetics' of FAIR: pixels in 0..1, minus 0.45, over 0.225."""
    frames, step = {"slowfast:SlowFast": (32, 2), "x3d:X3d": (13, 6)}.get(network.callable, (8, 8))
    size = 224
    if network.callable == "x3d:X3d":
        size = {5: 160, 7: 224, 10: 312}[network.parameters["window"]]
        frames, step = (13, 6) if size == 160 else (16, 5)
    elif network.parameters.get("middle") == "depthwise":
        frames, step = 32, 2
    elif network.parameters.get("middle") == "temporal-spatial":
        frames, step = 16, 4
    return Preprocessing(
        mean=(0.45,),
        std=(0.225,),
        crop=(size, size),
        frames=frames,
        frame_step=step,
        remark="published accuracies are on ten clips of three larger crops, short side 256",
    )


ORIGIN = Origin(
    name="pyslowfast",
    title="PySlowFast",
    url="https://github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md",
    rename=_rename,
    read=read,
    preprocessing=preprocessing,
    signs=(r"s1\.pathway0_stem\.",),
)
