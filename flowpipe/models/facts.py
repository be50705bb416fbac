"""What the rows of `MODELS` are, without building them: a literal table that imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FACTS", "Facts", "InputLayout"]

InputLayout = Literal["CHW", "CTHW", "TCHW"]


@dataclass(frozen=True)
class Facts:
    """One row.

    Attributes
    ----------
    input_layout
        Axes of one sample; the network's attribute says the same.
    clip_CTHW
        Channels, frames, height and width of the published input; for a tiny row, of its tests.
    num_classes
        K of the published network.
    paper, year
        Where it comes from.
    """

    input_layout: InputLayout
    clip_CTHW: tuple[int, int, int, int]
    num_classes: int
    paper: str
    year: int


_IMAGE = (3, 1, 224, 224)
_TINY = (3, 8, 32, 32)
_KARPATHY = "Karpathy et al., Large-scale video classification"

FACTS: Mapping[str, Facts] = {
    "resnet18": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "resnet34": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "resnet50": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "squeezenet1_0": Facts("CHW", _IMAGE, 1000, "Iandola et al., SqueezeNet", 2016),
    "cnn-m-2048": Facts("CHW", _IMAGE, 101, "Simonyan and Zisserman, Two-stream networks", 2014),
    "small-cnn": Facts("CHW", (3, 1, 64, 64), 101, "flowpipe", 2026),
    "single-frame": Facts("TCHW", (3, 10, 224, 224), 487, _KARPATHY, 2014),
    "single-frame-tiny": Facts("TCHW", _TINY, 4, _KARPATHY, 2014),
    "late-fusion-fc": Facts("TCHW", (3, 10, 224, 224), 487, _KARPATHY, 2014),
    "late-fusion-fc-tiny": Facts("TCHW", _TINY, 4, _KARPATHY, 2014),
    "late-fusion-pool": Facts("TCHW", (3, 10, 224, 224), 487, _KARPATHY, 2014),
    "late-fusion-pool-tiny": Facts("TCHW", _TINY, 4, _KARPATHY, 2014),
    "early-fusion": Facts("CHW", (3, 10, 224, 224), 487, _KARPATHY, 2014),
    "early-fusion-tiny": Facts("CHW", _TINY, 4, _KARPATHY, 2014),
    "slow-fusion": Facts("CTHW", (3, 10, 170, 170), 487, _KARPATHY, 2014),
    "slow-fusion-tiny": Facts("CTHW", (3, 10, 48, 48), 4, _KARPATHY, 2014),
    "c3d": Facts("CTHW", (3, 16, 112, 112), 487, "Tran et al., C3D", 2015),
    "c3d-lecture": Facts("CTHW", (3, 16, 112, 112), 487, "Tran et al., C3D", 2015),
    "c3d-tiny": Facts("CTHW", (3, 16, 32, 32), 4, "Tran et al., C3D", 2015),
}
