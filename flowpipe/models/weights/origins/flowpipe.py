"""Our own names, as a network of the table has them."""

from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin


def _read(shapes: Shapes, where: str) -> Network | None:
    network = families.slowfast(shapes)
    if network is not None:
        alpha = 4 if network.parameters["lateral_taps"] == 7 or network.depth > 50 else 8
        return network.but(alpha=alpha)
    video = families.resnet3d(shapes)
    if video is not None:
        return video.but(pool2=video.parameters["temporal"] in ("c2d", "i3d"))
    return families.x3d(shapes)


ORIGIN = Origin(
    name="flowpipe",
    title="flowpipe",
    url="https://pypi.org/project/flowpipe/",
    rename=lambda names: {name: name for name in names},
    read=_read,
    preprocessing=lambda network, shapes: None,
)
