"""EfficientNet-Lite in PyTorch (names of EfficientNet-PyTorch): pixels minus 127, over 128."""

from flowpipe.models.weights import families
from flowpipe.models.weights.origins.base import Origin, Preprocessing, Rule, rename_by

_LAYERS = {"0": "expand", "1": "depthwise", "2": "project"}
RULES: tuple[Rule, ...] = (
    (r"_conv_stem\.", "stem.conv."),
    (r"_bn0\.", "stem.bn."),
    (r"_blocks\.(\d+)\._(expand|depthwise|project)_conv\.", r"blocks.\1.\2.conv."),
    (r"_blocks\.(\d+)\._bn(\d)\.", lambda m: f"blocks.{m[1]}.{_LAYERS[m[2]]}.bn."),
    (r"_conv_head\.", "head.conv."),
    (r"_bn1\.", "head.bn."),
    (r"_fc\.", "fc."),
)
_read = families.named("mobilenet:MobileNet", "stem.conv.weight", variant="efficientnet-lite0")

ORIGIN = Origin(
    name="efficientnet-lite",
    title="EfficientNet-Lite",
    url="https://pypi.org/project/efficientnet-lite-pytorch/",
    rename=lambda names: rename_by(RULES, names),
    read=lambda shapes, where: _read(shapes),
    preprocessing=lambda network, shapes: Preprocessing(scale=1.0, mean=(127.0,), std=(128.0,)),
    signs=(r"_conv_stem\.weight$", r"_conv_head\.weight$"),
)
