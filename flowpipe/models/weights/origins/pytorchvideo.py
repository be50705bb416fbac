"""pytorchvideo's hub (FAIR): Slow, C2D, I3D, SlowFast, CSN, R(2+1)D and X3D.

Blocks are numbered as they run, poolings among them. Computed as PySlowFast does; windows' logits
are averaged, but R(2+1)D's probabilities.
"""

import re
from collections.abc import Iterable

from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Rule, rename_by
from flowpipe.models.weights.origins.pyslowfast import (
    fair_resnet3d,
    fair_slowfast,
    one_pathway,
    preprocessing,
    x3d,
)


def _path(match: re.Match[str], rest: str) -> str:
    return ("fast." if match["path"] == "1" else "slow.") + rest


def _block(match: re.Match[str], rest: str) -> str:
    return _path(match, f"layer{match['stage']}.{match['block']}{rest}")


_CONVS = {"a": "1", "b": "2", "c": "3"}
_PATH = r"(?:multipathway_blocks\.(?P<path>\d)\.)?"
_BLOCK = r"blocks\.(?P<stage>\d)\." + _PATH + r"res_blocks\.(?P<block>\d+)\."
RULES: tuple[Rule, ...] = (
    (r"blocks\.0\.conv\.conv_t\.", "slow.conv1."),
    (r"blocks\.0\.conv\.conv_xy\.", "slow.conv1_t."),
    (r"blocks\.0\." + _PATH + r"conv\.", lambda m: _path(m, "conv1.")),
    (r"blocks\.0\." + _PATH + r"norm\.", lambda m: _path(m, "bn1.")),
    (r"blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow\.", r"lateral.\1.0."),
    (r"blocks\.(\d)\.multipathway_fusion\.norm\.", r"lateral.\1.1."),
    (_BLOCK + r"branch1_conv\.", lambda m: _block(m, ".downsample.0.")),
    (_BLOCK + r"branch1_norm\.", lambda m: _block(m, ".downsample.1.")),
    (_BLOCK + r"branch2\.conv_b\.conv_t\.", lambda m: _block(m, ".conv2.0.")),
    (_BLOCK + r"branch2\.conv_b\.norm\.", lambda m: _block(m, ".conv2.1.")),
    (_BLOCK + r"branch2\.conv_b\.conv_xy\.", lambda m: _block(m, ".conv2.3.")),
    (_BLOCK + r"branch2\.norm_b\.0\.", lambda m: _block(m, ".bn2.")),
    (
        _BLOCK + r"branch2\.norm_b\.1\.block\.(?P<fc>\d)\.",
        lambda m: _block(m, f".weigh.{int(m['fc']) + 1}."),
    ),
    (
        _BLOCK + r"branch2\.conv_(?P<conv>[abc])\.",
        lambda m: _block(m, f".conv{_CONVS[m['conv']]}."),
    ),
    (
        _BLOCK + r"branch2\.norm_(?P<conv>[abc])\.",
        lambda m: _block(m, f".bn{_CONVS[m['conv']]}."),
    ),
    (r"blocks\.\d\.pool\.pre_conv\.", "conv5."),
    (r"blocks\.\d\.pool\.pre_norm\.", "bn5."),
    (r"blocks\.\d\.pool\.post_conv\.", "fc1."),
    (r"blocks\.\d\.proj\.", "fc."),
)


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    stages = sorted(
        {m[1] for name in names if (m := re.match(r"blocks\.(\d)\..*res_blocks", name))}
    )
    numbers = {stage: str(place) for place, stage in enumerate(stages, 1)}

    def numbered(name: str) -> str:
        # Poolings have numbers too: what follows them is counted as a stage.
        m = re.match(r"blocks\.(\d)\.(?=.*res_blocks)", name)
        return f"blocks.{numbers[m[1]]}.{name[m.end() :]}" if m else name

    by_number = {numbered(name): name for name in names}
    return one_pathway({by_number[n]: new for n, new in rename_by(RULES, by_number).items()})


def _read(shapes: Shapes, where: str) -> Network | None:
    network = fair_slowfast(shapes) or x3d(shapes, where) or fair_resnet3d(shapes)
    if network is None:
        return None
    middle = network.parameters.get("middle")
    if middle == "depthwise":
        return network.but(pool2=False, strides=((1, 1), (2, 2), (2, 2), (2, 2)))
    if middle == "temporal-spatial":
        strides = ((1, 2), (1, 2), (2, 2), (2, 2))
        return network.but(pool1=False, pool2=False, strides=strides)
    # The hub's SlowFast networks are 8×8, whatever their taps.
    return network.but(alpha=4) if network.callable == "slowfast:SlowFast" else network


ORIGIN = Origin(
    name="pytorchvideo",
    title="pytorchvideo",
    url="https://pytorchvideo.readthedocs.io/en/latest/model_zoo.html",
    rename=_rename,
    read=_read,
    preprocessing=preprocessing,
    signs=(r"blocks\.0\.", r"blocks\.\d\.proj\."),
)
