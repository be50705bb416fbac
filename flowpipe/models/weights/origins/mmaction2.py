"""mmaction2 (OpenMMLab): TSN, TSM, C3D, I3D, SlowOnly, SlowFast, R(2+1)D, CSN.

Every convolution is a module whose convolution is `.conv` and whose normalisation is `.bn`, behind
"backbone."; the classifier is `cls_head.fc_cls`. I3D takes 32 frames and halves time in conv1 and
pool1; non-local blocks pool behind φ and g and do not scale; SlowFast's lateral connections are
convolutions alone, and its classifier takes the fast features before the slow ones.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing, Rule, rename_by

_LATERALS = {"conv1": "0", "layer1": "1", "layer2": "2", "layer3": "3"}
# In R(2+1)D's stem and blocks, what stands behind the name of a convolution.
_PAIR = {"conv_s": "0", "bn_s": "1", "conv_t": "3"}
_BLOCK = r"(?:backbone\.)?(?:(?P<path>slow|fast)_path\.)?layer(?P<stage>\d)\.(?P<block>\d+)\."


def _block(match: re.Match[str], rest: str) -> str:
    path = f"{match['path']}." if match["path"] else ""
    return f"{path}layer{match['stage']}.{match['block']}{rest}"


RULES: tuple[Rule, ...] = (
    (r"cls_head\.fc_cls\.", "fc."),
    # C3D
    (r"backbone\.(conv[12])a\.conv\.", r"\1."),
    (r"backbone\.(conv[345][ab])\.conv\.", r"\1."),
    (r"backbone\.(fc[67])\.", r"\1."),
    # R(2+1)D
    (r"backbone\.conv1\.conv\.(conv_s|bn_s|conv_t)\.", lambda m: f"stem.{_PAIR[m[1]]}."),
    (
        _BLOCK + r"(?P<conv>conv\d|downsample)\.conv\.(?P<part>conv_s|bn_s|conv_t)\.",
        lambda m: _block(m, f".{m['conv']}.0.{_PAIR[m['part']]}."),
    ),
    # SlowFast
    (
        r"backbone\.slow_path\.(conv1|layer[123])_lateral\.(conv|bn)\.",
        lambda m: f"lateral.{_LATERALS[m[1]]}.{'0' if m[2] == 'conv' else '1'}.",
    ),
    (r"backbone\.(slow|fast)_path\.conv1\.conv\.", r"\1.conv1."),
    (r"backbone\.(slow|fast)_path\.conv1\.bn\.", r"\1.bn1."),
    # X3D
    (r"backbone\.conv1_s\.conv\.", "conv1."),
    (r"backbone\.conv1_t\.conv\.", "conv1_t."),
    (r"backbone\.conv1_t\.bn\.", "bn1."),
    (r"backbone\.conv5\.conv\.", "conv5."),
    (r"backbone\.conv5\.bn\.", "bn5."),
    (r"cls_head\.fc1\.", "fc1."),
    (r"cls_head\.fc2\.", "fc."),
    (
        _BLOCK + r"se_module\.fc(?P<fc>\d)\.",
        lambda m: _block(m, f".weigh.{2 * int(m['fc']) - 1}."),
    ),
    # CSN's middle convolution stands in a sequence.
    (_BLOCK + r"conv2\.0\.conv\.", lambda m: _block(m, ".conv2.")),
    (_BLOCK + r"conv2\.0\.bn\.", lambda m: _block(m, ".bn2.")),
    # All
    (r"(?:backbone\.)?conv1\.conv\.", "conv1."),
    (r"(?:backbone\.)?conv1\.bn\.", "bn1."),
    (
        _BLOCK + r"non_local_block\.(?P<conv>g|phi|theta)(?:\.0)?\.conv\.",
        lambda m: _block(m, f"_nonlocal.{m['conv']}."),
    ),
    (_BLOCK + r"non_local_block\.conv_out\.conv\.", lambda m: _block(m, "_nonlocal.out.")),
    (_BLOCK + r"non_local_block\.conv_out\.bn\.", lambda m: _block(m, "_nonlocal.bn.")),
    # .net stands within TSM's shifts.
    (
        _BLOCK + r"conv(?P<conv>\d)\.conv\.(?:net\.)?",
        lambda m: _block(m, f".conv{m['conv']}."),
    ),
    (_BLOCK + r"conv(?P<conv>\d)\.bn\.", lambda m: _block(m, f".bn{m['conv']}.")),
    (_BLOCK + r"downsample\.conv\.", lambda m: _block(m, ".downsample.0.")),
    (_BLOCK + r"downsample\.bn\.", lambda m: _block(m, ".downsample.1.")),
)


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    if "conv1.weight" in names:
        return {name: f"renamed:{name}" for name in names}
    renamed = rename_by(RULES, names)
    if any(name.startswith("stem.") for name in renamed.values()):
        # Of a pair, the normalisation behind it is the second part of its sequence.
        for name, new in renamed.items():
            new = re.sub(r"^bn1\.", "stem.4.", new)
            renamed[name] = re.sub(r"\.bn(\d)\.", r".conv\1.1.", new)
    if any(name == "backbone.fc7.weight" for name in names):
        renamed = {old: re.sub(r"^fc\.", "fc8.", new) for old, new in renamed.items()}
    if any(".conv1.conv.net." in name for name in names):
        return {old: f"shifted:{new}" for old, new in renamed.items()}
    return renamed


def _read(shapes: Shapes, where: str) -> Network | None:
    if "renamed:conv1.weight" in shapes:
        # Its I3D under the 2D ResNet's names is told from others' by the person alone.
        shapes = {name.removeprefix("renamed:"): shape for name, shape in shapes.items()}
        network = _resnet3d(shapes, where)
        return network if network and network.parameters["temporal"] == "i3d" else None
    if "fc8.weight" in shapes:
        return Network("c3d:C3d")
    plain = {name.removeprefix("shifted:"): shape for name, shape in shapes.items()}
    image = families.resnet2d(plain)
    if image is not None:
        backbone = {"backbone": f"resnet{image.parameters['depth']}"}
        if plain.keys() != shapes.keys():
            return Network("tsm:Tsm", backbone, prefix="backbone.")
        return Network(
            "single_frame:SingleFrame",
            {**backbone, "average": "logits"},
            prefix="backbone.",
            note="taken as TSN; mmaction2's C2D has the same tensors",
        )
    small = families.x3d(shapes)
    if small is not None:
        return small.but(window=None)
    pairs = families.r3d(shapes)
    if pairs is not None:
        return pairs.but(bn_eps=1e-3, stem_pool="space")
    slowfast = families.slowfast(shapes)
    if slowfast is not None:
        alpha = 4 if slowfast.parameters["lateral_taps"] == 7 else 8
        return slowfast.but(alpha=alpha, nonlocal_variant="mmaction2")
    return _resnet3d(shapes, where)


def _resnet3d(shapes: Shapes, where: str) -> Network | None:
    network = families.resnet3d(shapes)
    if network is None:
        return None
    if network.parameters["middle"] == "depthwise":
        strides = ((1, 1), (2, 2), (2, 2), (2, 2))
        return network.but(pool2=False, strides=strides, bn_eps=1e-3)
    network = network.but(nonlocal_variant="mmaction2")
    if network.parameters["temporal"] == "i3d":
        network = network.but(stem_time_strides=(2, 2))
    else:
        network = network.but(pool2=False)
    if network.parameters.get("nonlocal_form") == "embedded":
        if "dot" in Path(where).stem.lower():
            return network.but(nonlocal_form="dot")
        note = "non-local blocks taken as embedded Gaussian; for dot products nonlocal_form = dot"
        return replace(network, note=note)
    return network


def _fast_last(weight: Tensor) -> Tensor:
    fast = weight.shape[1] // 9
    return torch.cat([weight[:, fast:], weight[:, :fast]], 1)


def _columns(network: Network) -> Mapping[str, Callable[[Tensor], Tensor]]:
    if network.callable == "x3d:X3d":
        return {"fc1.weight": lambda weight: weight[:, :, None, None, None]}
    return {"fc.weight": _fast_last} if network.callable == "slowfast:SlowFast" else {}


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    if network.callable == "c3d:C3d":
        return Preprocessing(
            order="RGB",
            scale=1.0,
            mean=(104.0, 117.0, 128.0),
            resize=(128, 171),
            crop=(112, 112),
            frames=16,
        )
    stem = shapes.get("conv1.weight", shapes.get("shifted:conv1.weight", (0, 3)))
    if len(stem) == 4 and stem[1] != 3:
        return Preprocessing(
            input="flow",
            scale=20.0,
            flow="tvl1",
            bound_px=20.0,
            frames=stem[1] // 2,
            remark="8-bit pictures minus 128, over 128: x, y, x, y, …",
        )
    frames, step = {
        "single_frame:SingleFrame": (1, 1),
        "tsm:Tsm": (8, 1),
        "slowfast:SlowFast": (32, 2),
        "r3d:R3d": (8, 8),
    }.get(network.callable, (8, 8))
    if (
        network.parameters.get("stem_time_strides")
        or network.parameters.get("middle") == "depthwise"
    ):
        frames, step = 32, 2
    return Preprocessing(
        scale=1.0,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        frames=frames,
        frame_step=step,
        remark="one frame from each of three segments" if frames == 1 else "",
    )


ORIGIN = Origin(
    name="mmaction2",
    title="mmaction2",
    url="https://mmaction2.readthedocs.io/en/latest/model_zoo/recognition.html",
    rename=_rename,
    read=_read,
    preprocessing=_preprocessing,
    signs=(r"(backbone\.)?(slow_path\.)?conv1(a|_s)?\.conv\.|conv1\.weight$",),
    columns=_columns,
)
