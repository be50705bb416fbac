"""kinetics_i3d_pytorch (Yana Hasson): I3D, as also used by video_features."""

from flowpipe.models.weights.families import Network
from flowpipe.models.weights.origins.base import Origin, Rule, rename_by
from flowpipe.models.weights.origins.piergiaj import preprocessing

_BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}
_PART = r"(conv3d|batch3d)\."
_PARTS = {"conv3d": "conv3d", "batch3d": "bn"}
RULES: tuple[Rule, ...] = (
    (r"conv3d_0c_1x1\.conv3d\.", "logits.conv3d."),
    (r"conv3d_(\w+)\." + _PART, lambda m: f"Conv3d_{m[1]}.{_PARTS[m[2]]}."),
    (
        r"mixed_(\w+)\.branch_(\d(?:\.\d)?)\." + _PART,
        lambda m: f"Mixed_{m[1]}.{_BRANCHES[m[2]]}.{_PARTS[m[3]]}.",
    ),
)

ORIGIN = Origin(
    name="hassony2",
    title="kinetics_i3d_pytorch",
    url="https://github.com/hassony2/kinetics_i3d_pytorch",
    rename=lambda names: rename_by(RULES, names),
    read=lambda shapes, where: Network("i3d:I3d"),
    preprocessing=preprocessing,
    signs=(r"conv3d_1a_7x7\.conv3d\.weight$",),
)
