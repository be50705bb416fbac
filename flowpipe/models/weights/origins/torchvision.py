"""torchvision: ResNet, VGG, SqueezeNet, MobileNetV2; R3D, MC3, R(2+1)D and S3D of Kinetics.

Names are ours but for MobileNetV2's.
"""

from collections.abc import Iterable
from dataclasses import replace

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import (
    IMAGENET,
    Origin,
    Preprocessing,
    Rule,
    rename_by,
)


def _block(number: str, layer: str) -> str:
    return f"blocks.{int(number) - 1}.{layer}."


MOBILENET: tuple[Rule, ...] = (
    (r"features\.0\.0\.", "stem.conv."),
    (r"features\.0\.1\.", "stem.bn."),
    (r"features\.1\.conv\.0\.0\.", "blocks.0.depthwise.conv."),
    (r"features\.1\.conv\.0\.1\.", "blocks.0.depthwise.bn."),
    (r"features\.1\.conv\.1\.", "blocks.0.project.conv."),
    (r"features\.1\.conv\.2\.", "blocks.0.project.bn."),
    (r"features\.(\d+)\.conv\.0\.0\.", lambda m: _block(m[1], "expand.conv")),
    (r"features\.(\d+)\.conv\.0\.1\.", lambda m: _block(m[1], "expand.bn")),
    (r"features\.(\d+)\.conv\.1\.0\.", lambda m: _block(m[1], "depthwise.conv")),
    (r"features\.(\d+)\.conv\.1\.1\.", lambda m: _block(m[1], "depthwise.bn")),
    (r"features\.(\d+)\.conv\.2\.", lambda m: _block(m[1], "project.conv")),
    (r"features\.(\d+)\.conv\.3\.", lambda m: _block(m[1], "project.bn")),
    (r"features\.18\.0\.", "head.conv."),
    (r"features\.18\.1\.", "head.bn."),
    (r"classifier\.1\.", "fc."),
)
_squeezenet = families.named("squeezenet:SqueezeNet", "features.3.squeeze.weight")
_mobilenet = families.named("mobilenet:MobileNet", "stem.conv.weight", variant="mobilenet-v2")
_s3d = families.named("s3d:S3d", "features.5.branch1.1.1.0.weight")


def _rename(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    if "features.1.conv.0.0.weight" in names:
        return rename_by(MOBILENET, names)
    return {name: name for name in names}


def _read(shapes: Shapes, where: str) -> Network | None:
    if "fc_action.weight" in shapes:  # two-stream-pytorch
        return None
    network: Network | None = families.resnet2d(shapes)
    for read in (_squeezenet, _mobilenet, _s3d, families.vgg, families.r3d):
        network = network or read(shapes)
    return network


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    kinetics = Preprocessing(
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        resize=(128, 171),
        crop=(112, 112),
        frames=16,
        fps=15.0,
    )
    if network.callable == "s3d:S3d":
        return replace(kinetics, resize=(256, 256), crop=(224, 224), frames=128)
    return kinetics if network.callable == "r3d:R3d" else IMAGENET


ORIGIN = Origin(
    name="torchvision",
    title="torchvision",
    url="https://pytorch.org/vision/stable/models.html",
    rename=_rename,
    read=_read,
    preprocessing=_preprocessing,
)
