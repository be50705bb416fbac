"""tsn-pytorch (Yuanjun Xiong) and temporal-shift-module (Ji Lin): BN-Inception and ResNets.

The body is `base_model`, the classifier `new_fc`; logits are averaged over segments. A network
with shifts has its first convolutions within `.net`. Without `base_model.` it is the BN-Inception
of ImageNet.
"""

from collections.abc import Iterable

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing, Rule, rename_by

RULES: tuple[Rule, ...] = (
    (r"base_model\.(layer\d\.\d+\.conv1)\.net\.", r"shifted:\1."),
    (r"base_model\.", ""),
    (r"new_fc\.", "fc."),
    (r"(conv\d|inception_)", r"\1"),
    (r"(fc|last_linear)\.", "fc."),
)


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    renamed = rename_by(RULES, names)
    if not any(name.startswith("base_model.") for name in names):
        return {old: f"bare:{new}" for old, new in renamed.items()}
    if any(new.startswith("shifted:") for new in renamed.values()):
        return {old: f"shifted:{new.removeprefix('shifted:')}" for old, new in renamed.items()}
    return renamed


def _read(shapes: Shapes, where: str) -> Network | None:
    if "bare:conv1_7x7_s2.weight" in shapes:
        return Network("bn_inception:BnInception")
    if "conv1_7x7_s2.weight" in shapes:
        return Network(
            "single_frame:SingleFrame",
            {"backbone": "bn-inception", "average": "logits"},
            prefix="backbone.",
        )
    plain = {name.removeprefix("shifted:"): shape for name, shape in shapes.items()}
    image = families.resnet2d(plain)
    if image is None:
        return None
    backbone = {"backbone": f"resnet{image.parameters['depth']}"}
    if plain.keys() != shapes.keys():
        return Network("tsm:Tsm", backbone, prefix="backbone.")
    return Network(
        "single_frame:SingleFrame", {**backbone, "average": "logits"}, prefix="backbone."
    )


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    (stem,) = (
        shape
        for name, shape in shapes.items()
        if name.endswith(("conv1_7x7_s2.weight", "conv1.weight")) and "layer" not in name
    )
    inception = network.parameters.get("backbone", "bn-inception") == "bn-inception"
    if stem[1] != 3:
        return Preprocessing(
            input="flow",
            # 8-bit pictures have 255 levels for ±20 px.
            scale=40.0 / 255.0 if inception else 40.0,
            std=(1.0,) if inception else (0.226,),
            resize=(256, 340),
            frames=stem[1] // 2,
            flow="tvl1",
            bound_px=20.0,
            remark="8-bit pictures minus 128" if inception else "8-bit pictures in 0..1",
        )
    if inception:
        return Preprocessing(order="BGR", scale=1.0, mean=(104.0, 117.0, 128.0), resize=(256, 340))
    return Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=(256, 340))


ORIGIN = Origin(
    name="tsn",
    title="tsn-pytorch",
    url="https://github.com/yjxiong/tsn-pytorch",
    rename=_rename,
    read=_read,
    preprocessing=_preprocessing,
    signs=(r"base_model\.(conv1|layer1)|conv1_7x7_s2\.",),
)
