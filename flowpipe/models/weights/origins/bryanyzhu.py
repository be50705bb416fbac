"""two-stream-pytorch (Yi Zhu): VGG-16 and ResNets on pictures or ten flows of UCF101."""

from collections.abc import Iterable

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing, rename_by


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    vgg = any(name.startswith("features.") for name in names)
    rules = (
        (r"fc_action\.", "classifier.6." if vgg else "fc."),
        # DataParallel may stand around the convolutions alone.
        (r"features\.module\.", "features."),
        (r"(features|classifier|conv1|bn1|layer\d)\.", r"\1."),
    )
    return rename_by(rules, names)


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    stem = shapes.get("conv1.weight", shapes.get("features.0.weight", (0, 3)))
    if stem[1] == 3:
        return Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Preprocessing(
        input="flow",
        scale=40.0,
        std=(0.226,),
        resize=(256, 340),
        frames=stem[1] // 2,
        flow="tvl1",
        bound_px=20.0,
        remark="8-bit pictures in 0..1, minus 0.5, over 0.226: x, y, x, y, …",
    )


ORIGIN = Origin(
    name="bryanyzhu",
    title="two-stream-pytorch",
    url="https://github.com/bryanyzhu/two-stream-pytorch",
    rename=_rename,
    read=lambda shapes, where: families.resnet2d(shapes) or families.vgg(shapes),
    preprocessing=_preprocessing,
    signs=(r"fc_action\.weight$",),
)
