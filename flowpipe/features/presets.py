"""Published feature extractors: what the network looks at, and what the cache must hold for it.

I3D: Carreira, Zisserman: Quo vadis, action recognition?, CVPR 2017,
doi:10.1109/CVPR.2017.502. 25 frames per second by timestamp, short side 256, centre crop 224,
16 frames a snippet (`--clip 64,16` for the paper's 64); RGB in −1..1; flow by TV-L1, truncated at
±20 px to 256 levels, in −1..1. Features are the 1024 averages that go into the classifier.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flowpipe.cache import FlowRecipe
from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument

I3D_FPS, I3D_SHORT_SIDE, I3D_BOUND_PX = 25.0, 256, 20.0
I3D_FLOWS = ("tvl1", "opencv-tvl1")


@dataclass(frozen=True)
class Preset:
    """A network and its pre-processing.

    Attributes
    ----------
    model : str
        A name of `flowpipe.models.TABLE`.
    stream : StreamInput
    crop_scale : float
    truncate_flow : bool
    num_classes : int
        Of the published network.
    """

    model: str
    stream: StreamInput
    crop_scale: float = 224 / 256
    truncate_flow: bool = False
    num_classes: int = 400

    def check(self, recipe: FlowRecipe) -> None:
        """Refuse flow entries that were not made as the network's input was.

        Raises
        ------
        InvalidArgument
            With the extract command that makes them.
        """
        wrong = []
        if recipe.fps != I3D_FPS:
            wrong.append(
                f"{'every frame' if recipe.fps is None else f'{recipe.fps:g} fps'}, not 25"
            )
        if recipe.short_side != I3D_SHORT_SIDE:
            size = recipe.short_side or recipe.size or "source size"
            wrong.append(f"short side {size}, not {I3D_SHORT_SIDE}")
        if self.stream.input == "flow":
            if recipe.flow not in I3D_FLOWS:
                wrong.append(f"flow {recipe.flow}, not {' or '.join(I3D_FLOWS)}")
            if recipe.bound_px is not None and recipe.bound_px < I3D_BOUND_PX:
                wrong.append(f"bound {recipe.bound_px:g} px, not {I3D_BOUND_PX:g} at least")
        if wrong:
            raise InvalidArgument(
                f"I3D does not know such input: {'; '.join(wrong)}. Extract with: flowpipe extract "
                "VIDEOS --out CACHE --fps 25 --short-side 256 --flow tvl1 --storage i16"
            )


PRESETS: Mapping[str, Preset] = {
    "i3d-rgb": Preset(
        "i3d",
        StreamInput("rgb", "rgb", 16, layout="CTHW", rgb_range="symmetric"),
    ),
    "i3d-flow": Preset(
        "i3d",
        StreamInput("flow", "flow", 16, layout="CTHW", flow_scale_px=I3D_BOUND_PX),
        truncate_flow=True,
    ),
}
