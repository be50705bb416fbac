"""3D-ResNets-PyTorch (Kensho Hara): 3D ResNets and R(2+1)D with names of the 2D ResNet.

Stem of seven taps, max pooling over time too. Shortcuts of type A have no tensors.
"""

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing, Rule, rename_by

_BLOCK = r"(layer\d\.\d+)\."
RULES: tuple[Rule, ...] = (
    (r"conv1_s\.", "stem.0."),
    (r"bn1_s\.", "stem.1."),
    (r"conv1_t\.", "stem.3."),
    (r"bn1_t\.", "stem.4."),
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
    (_BLOCK + r"conv(\d)_s\.", r"\1.conv\2.0.0."),
    (_BLOCK + r"bn(\d)_s\.", r"\1.conv\2.0.1."),
    (_BLOCK + r"conv(\d)_t\.", r"\1.conv\2.0.3."),
    (_BLOCK + r"bn(\d)_t\.", r"\1.conv\2.1."),
    (_BLOCK + r"conv(\d)\.", r"\1.conv\2.0."),
    (_BLOCK + r"bn(\d)\.", r"\1.conv\2.1."),
    (_BLOCK + r"downsample\.", r"\1.downsample."),
    (r"fc\.", "fc."),
)


def _read(shapes: Shapes, where: str) -> Network | None:
    # Bottlenecks with other middle convolutions are others'.
    middle = shapes.get("layer1.0.conv2.0.weight", ())
    whole = len(middle) == 5 and middle[1] > 1 and middle[2:] == (3, 3, 3)
    if not whole and "stem.3.weight" not in shapes:
        return None
    network = families.r3d(shapes)
    return None if network is None else network.but(stem_pool="all")


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    return Preprocessing(
        mean=(0.4345, 0.4051, 0.3775),
        std=(0.2768, 0.2713, 0.2737),
        resize=112,
        crop=(112, 112),
        frames=16,
    )


ORIGIN = Origin(
    name="kenshohara",
    title="3D-ResNets-PyTorch",
    url="https://github.com/kenshohara/3D-ResNets-PyTorch",
    rename=lambda names: rename_by(RULES, names),
    read=_read,
    preprocessing=_preprocessing,
    signs=(r"conv1(_s)?\.weight$", r"layer4\.0\.", r"fc\.weight$"),
)
