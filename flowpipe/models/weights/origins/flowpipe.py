"""Our own names, as a network of the table has them."""

from flowpipe.models.table import TABLE
from flowpipe.models.weights import families
from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin


def _read(shapes: Shapes, where: str) -> Network | None:
    network = families.slowfast(shapes)
    if network is not None:
        alpha = 4 if network.parameters["lateral_taps"] == 7 or network.depth > 50 else 8
        return network.but(alpha=alpha)
    network = families.x3d(shapes)
    if network is not None:
        return network
    network = families.resnet3d(shapes)
    if network is None:
        return None
    # Strides and poolings are those of the row with such blocks.
    row = {"depthwise": "csn-r101", "temporal-spatial": "r2plus1d-50"}.get(
        network.parameters["middle"]
    )
    if row is None:
        return network.but(pool2=network.parameters["temporal"] in ("c2d", "i3d"))
    rest = {k: v for k, v in TABLE[row].parameters.items() if k not in network.parameters}
    return network.but(**rest)


ORIGIN = Origin(
    name="flowpipe",
    title="flowpipe",
    url="https://pypi.org/project/flowpipe/",
    rename=lambda names: {name: name for name in names},
    read=_read,
    preprocessing=lambda network, shapes: None,
)
