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
_LECTURE = (3, 20, 64, 64)
_EIGHT_256 = (3, 8, 256, 256)
_KARPATHY = "Karpathy et al., Large-scale video classification"
_NONLOCAL = "Wang et al., Non-local neural networks"
_SLOWFAST = "Feichtenhofer et al., SlowFast networks"
_I3D = "Carreira and Zisserman, Quo vadis, action recognition?"
_SNIPPETS = "Yue-Hei Ng et al., Beyond short snippets"
_LRCN = "Donahue et al., Long-term recurrent convolutional networks"
_BACCOUCHE = "Baccouche et al., Sequential deep learning"
_BALLAS = "Ballas et al., Delving deeper into convolutional networks"
_R3D = "Tran et al., A closer look at spatiotemporal convolutions"

FACTS: Mapping[str, Facts] = {
    "resnet18": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "resnet34": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "resnet50": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "resnet101": Facts("CHW", _IMAGE, 1000, "He et al., Deep residual learning", 2016),
    "squeezenet1_0": Facts("CHW", _IMAGE, 1000, "Iandola et al., SqueezeNet", 2016),
    "cnn-m-2048": Facts("CHW", _IMAGE, 101, "Simonyan and Zisserman, Two-stream networks", 2014),
    "vgg16": Facts("CHW", _IMAGE, 1000, "Simonyan and Zisserman, Very deep networks", 2015),
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
    "lecture-late": Facts("TCHW", _LECTURE, 10, _KARPATHY, 2014),
    "lecture-early": Facts("CHW", _LECTURE, 10, _KARPATHY, 2014),
    "lecture-3d": Facts("CTHW", _LECTURE, 10, _KARPATHY, 2014),
    "r3d-18": Facts("CTHW", (3, 16, 112, 112), 400, _R3D, 2018),
    "r3d-18-tiny": Facts("CTHW", _TINY, 4, _R3D, 2018),
    "i3d": Facts("CTHW", (3, 64, 224, 224), 400, _I3D, 2017),
    "i3d-tiny": Facts("CTHW", _TINY, 4, _I3D, 2017),
    "i3d-resnet50": Facts("CTHW", _EIGHT_256, 400, _NONLOCAL, 2018),
    "i3d-resnet50-tiny": Facts("CTHW", _TINY, 4, _NONLOCAL, 2018),
    "i3d-resnet50-nonlocal-tiny": Facts("CTHW", _TINY, 4, _NONLOCAL, 2018),
    "c2d-resnet50": Facts("CTHW", _EIGHT_256, 400, _NONLOCAL, 2018),
    "c2d-resnet50-tiny": Facts("CTHW", _TINY, 4, _NONLOCAL, 2018),
    "slow-r50": Facts("CTHW", _EIGHT_256, 400, _SLOWFAST, 2019),
    "slow-r50-tiny": Facts("CTHW", _TINY, 4, _SLOWFAST, 2019),
    "slowfast-4x16-r50": Facts("CTHW", (3, 32, 256, 256), 400, _SLOWFAST, 2019),
    "slowfast-8x8-r50": Facts("CTHW", (3, 32, 256, 256), 400, _SLOWFAST, 2019),
    "slowfast-tiny": Facts("CTHW", _TINY, 4, _SLOWFAST, 2019),
    "cnn-lstm": Facts("TCHW", (3, 16, 224, 224), 101, _SNIPPETS, 2015),
    "cnn-lstm-tiny": Facts("TCHW", _TINY, 4, _SNIPPETS, 2015),
    "lrcn": Facts("TCHW", (3, 16, 224, 224), 101, _LRCN, 2015),
    "lrcn-tiny": Facts("TCHW", _TINY, 4, _LRCN, 2015),
    "cnn3d-lstm": Facts("CTHW", (3, 16, 34, 54), 6, _BACCOUCHE, 2011),
    "cnn3d-lstm-tiny": Facts("CTHW", (3, 12, 34, 54), 4, _BACCOUCHE, 2011),
    "convgru": Facts("TCHW", (3, 10, 224, 224), 101, _BALLAS, 2016),
    "convgru-tiny": Facts("TCHW", _TINY, 4, _BALLAS, 2016),
}
