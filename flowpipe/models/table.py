"""The one table of networks: a row says what a network is without building it. No torch here.

A row names the class that is the architecture and the values of its keyword parameters; tiny and
variant networks are rows with other values. Parameters and multiply-adds are those of the
network at its published input and classes; a test compares them with the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["TABLE", "InputLayout", "Row"]

InputLayout = Literal["CHW", "CTHW", "TCHW"]


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes
    ----------
    callable
        "module:callable" within `flowpipe.models`.
    input_layout
        Axes of one sample; the network's attribute says the same.
    clip_CTHW
        Channels, frames, height and width of the published input; for a tiny row, of its tests.
    num_classes
        K of the published network.
    num_parameters, macs
        Parameters and multiply-adds for that input and K.
    paper, year
        Where it comes from.
    parameters
        Keyword parameters that make the network this row.
    small_THW
        A small clip that the network takes.
    needs
        A package, no dependency of ours, that the network is of.
    """

    callable: str
    input_layout: InputLayout
    clip_CTHW: tuple[int, int, int, int]
    num_classes: int
    num_parameters: int
    macs: int
    paper: str
    year: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    small_THW: tuple[int, int, int] = (4, 48, 64)
    needs: str = ""

    @property
    def target(self) -> str:
        """The callable as `package.module:callable`."""
        return f"flowpipe.models.{self.callable}"


_IMAGE = (3, 1, 224, 224)
_LECTURE = (3, 20, 64, 64)
_EIGHT_256 = (3, 8, 256, 256)
_THIRTY_TWO_256 = (3, 32, 256, 256)
_RESNET = "He et al., Deep residual learning"
_KARPATHY = "Karpathy et al., Large-scale video classification"
_C3D = "Tran et al., C3D"
_R3D = "Tran et al., A closer look at spatiotemporal convolutions"
_I3D = "Carreira and Zisserman, Quo vadis, action recognition?"
_NONLOCAL = "Wang et al., Non-local neural networks"
_HARA = "Hara et al., Can spatiotemporal 3D CNNs retrace the history of 2D CNNs"
_TSN = "Wang et al., Temporal segment networks"
_X3D = "Feichtenhofer, X3D"
_SLOWFAST = "Feichtenhofer et al., SlowFast networks"

# Small clips of 10 frames in the channels, and of networks that halve more often.
_STACK = (10, 64, 80)
_EIGHT = (8, 48, 64)

# fmt: off
TABLE: dict[str, Row] = {
    # 2D networks: a picture, or frames one behind the other in the channels.
    "resnet18": Row("resnet:ResNet", "CHW", _IMAGE, 1000, 11_689_512, 1_814_073_344,
                    _RESNET, 2016, {"depth": 18}, _STACK),
    "resnet34": Row("resnet:ResNet", "CHW", _IMAGE, 1000, 21_797_672, 3_663_761_408,
                    _RESNET, 2016, {"depth": 34}, _STACK),
    "resnet50": Row("resnet:ResNet", "CHW", _IMAGE, 1000, 25_557_032, 4_089_184_256,
                    _RESNET, 2016, {"depth": 50}, _STACK),
    "resnet101": Row("resnet:ResNet", "CHW", _IMAGE, 1000, 44_549_160, 7_801_405_440,
                     _RESNET, 2016, {"depth": 101}, _STACK),
    "resnet152": Row("resnet:ResNet", "CHW", _IMAGE, 1000, 60_192_808, 11_513_626_624,
                     _RESNET, 2016, {"depth": 152}, _STACK),
    "squeezenet1_0": Row("squeezenet:SqueezeNet", "CHW", _IMAGE, 1000, 1_248_424, 818_924_576,
                         "Iandola et al., SqueezeNet", 2016, small_THW=_STACK),
    "cnn-m-2048": Row("cnn_m_2048:CnnM2048", "CHW", _IMAGE, 101, 90_627_813, 1_663_894_560,
                      "Simonyan and Zisserman, Two-stream networks", 2014,
                      small_THW=(10, 224, 224)),
    "vgg16": Row("vgg:Vgg", "CHW", _IMAGE, 1000, 138_357_544, 15_470_264_320,
                 "Simonyan and Zisserman, Very deep networks", 2015, small_THW=_STACK),
    "vgg16-bn": Row("vgg:Vgg", "CHW", _IMAGE, 1000, 138_365_992, 15_470_264_320,
                    "Simonyan and Zisserman, Very deep networks", 2015, {"batch_norm": True},
                    _STACK),
    "bn-inception": Row("bn_inception:BnInception", "CHW", _IMAGE, 1000, 11_295_240, 2_032_600_064,
                        "Ioffe and Szegedy, Batch normalization", 2015,
                        small_THW=(10, 96, 128)),
    "mobilenet-v2": Row("mobilenet:MobileNet", "CHW", _IMAGE, 1000, 3_504_872, 300_774_272,
                        "Sandler et al., MobileNetV2", 2018, {"variant": "mobilenet-v2"}, _STACK),
    "efficientnet-lite0": Row("mobilenet:MobileNet", "CHW", _IMAGE, 1000, 4_652_008, 385_187_552,
                              "Tan and Le, EfficientNet", 2019, {"variant": "efficientnet-lite0"},
                              _STACK),
    "small-cnn": Row("small_cnn:SmallCnn", "CHW", (3, 1, 64, 64), 101, 589_957, 54_413_824,
                     "flowpipe", 2026, small_THW=_STACK),
    # A 2D network over the frames.
    "single-frame": Row("single_frame:SingleFrame", "TCHW", (3, 10, 224, 224), 487,
                        11_426_343, 18_138_106_880, _KARPATHY, 2014),
    "late-fusion-fc": Row("late_fusion:LateFusionFc", "TCHW", (3, 10, 224, 224), 487,
                          14_048_295, 18_138_484_224, _KARPATHY, 2014),
    "late-fusion-pool": Row("late_fusion:LateFusionPool", "TCHW", (3, 10, 224, 224), 487,
                            11_426_343, 18_135_862_784, _KARPATHY, 2014),
    "early-fusion": Row("early_fusion:build", "CHW", (3, 10, 224, 224), 487,
                        11_511_015, 2_875_936_256, _KARPATHY, 2014, small_THW=_STACK),
    "tsn-resnet50": Row("single_frame:SingleFrame", "TCHW", (3, 3, 224, 224), 400,
                        24_327_632, 12_263_866_368,
                        _TSN, 2016, {"backbone": "resnet50", "average": "logits"}),
    "tsn-bn-inception": Row("single_frame:SingleFrame", "TCHW", (3, 3, 224, 224), 101,
                            10_373_765, 6_095_038_464,
                            _TSN, 2016, {"backbone": "bn-inception", "average": "logits"},
                            (4, 96, 128)),
    "tsm-resnet50": Row("tsm:Tsm", "TCHW", (3, 8, 224, 224), 400, 24_327_632, 32_703_643_648,
                        "Lin et al., TSM", 2019),
    "cnn-lstm": Row("cnn_lstm:CnnLstm", "TCHW", (3, 16, 224, 224), 101,
                    28_806_821, 65_478_893_568, "Yue-Hei Ng et al., Beyond short snippets", 2015),
    "lrcn": Row("cnn_lstm:CnnLstm", "TCHW", (3, 16, 224, 224), 101, 86_514_661, 26_556_502_528,
                "Donahue et al., Long-term recurrent convolutional networks", 2015,
                {"backbone": "cnn-m-2048", "feature_layer": "fc6", "hidden": 256,
                 "output": "mean", "dropout": 0.9, "drop": "features"}, (2, 224, 224)),
    "convgru": Row("convgru:ConvGruNetwork", "TCHW", (3, 10, 224, 224), 101,
                   153_737_465, 188_547_194_816,
                   "Ballas et al., Delving deeper into convolutional networks", 2016),
    "videomae-b": Row("video_transformer:VideoTransformer", "TCHW", (3, 16, 224, 224), 400,
                      86_534_800, 180_344_893_440, "Tong et al., VideoMAE", 2022,
                      {"kind": "videomae"}, (4, 32, 32), "transformers"),
    "timesformer-b": Row("video_transformer:VideoTransformer", "TCHW", (3, 8, 224, 224), 400,
                         121_566_352, 195_830_280_192,
                         "Bertasius et al., Space-time attention", 2021,
                         {"kind": "timesformer", "frames": 8}, (4, 32, 32), "transformers"),
    # 3D networks.
    "slow-fusion": Row("slow_fusion:SlowFusion", "CTHW", (3, 10, 170, 170), 487,
                       61_880_263, 4_146_821_120, _KARPATHY, 2014, small_THW=_STACK),
    "lecture-late": Row("lecture:Lecture", "TCHW", _LECTURE, 10, 3_202, 39_813_360,
                        _KARPATHY, 2014, {"fusion": "late"}),
    "lecture-early": Row("lecture:Lecture", "CHW", _LECTURE, 10, 9_358, 27_205_872,
                         _KARPATHY, 2014, {"fusion": "early"}, _STACK),
    "lecture-3d": Row("lecture:Lecture", "CTHW", _LECTURE, 10, 9_034, 89_579_760,
                      _KARPATHY, 2014, {"fusion": "3d"}, (8, 32, 32)),
    "cnn3d-lstm": Row("cnn3d_lstm:Cnn3dLstm", "CTHW", (3, 16, 34, 54), 6, 62_998, 120_910_160,
                      "Baccouche et al., Sequential deep learning", 2011, small_THW=(10, 34, 54)),
    "c3d": Row("c3d:C3d", "CTHW", (3, 16, 112, 112), 487, 79_991_015, 38_548_959_232,
               _C3D, 2015, small_THW=(16, 32, 48)),
    "c3d-lecture": Row("c3d:C3d", "CTHW", (3, 16, 112, 112), 487, 65_310_951, 38_534_279_168,
                       _C3D, 2015, {"padded_pool5": False}, (16, 32, 48)),
    "r3d-18": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 400, 33_371_472, 40_696_553_472,
                  _R3D, 2018, small_THW=_EIGHT),
    "mc3-18": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 400, 11_695_440, 43_342_635_008,
                  _R3D, 2018, {"convolution": "mixed"}, _EIGHT),
    "r2plus1d-18": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 400, 31_505_325, 40_519_080_960,
                       _R3D, 2018, {"convolution": "2plus1d", "stem_middle": 45}, _EIGHT),
    "r2plus1d-34": Row("r3d:R3d", "CTHW", (3, 8, 112, 112), 400, 63_759_281, 10_295_232_000,
                       _R3D, 2018, {"depth": 34, "convolution": "2plus1d", "one_middle": False,
                        "stem_pool": "space", "shortcut": "pair", "bn_eps": 1e-3}, _EIGHT),
    "r2plus1d-50": Row("resnet3d:ResNet3d", "CTHW", (3, 16, 224, 224), 400,
                       28_107_600, 57_533_825_024,
                       _R3D, 2018,
                       {"temporal": "c2d", "middle": "temporal-spatial", "pool1": False,
                        "pool2": False, "strides": ((1, 2), (1, 2), (2, 2), (2, 2))}, _EIGHT),
    "hara-resnet18": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 700, 33_563_004, 8_308_160_512,
                         _HARA, 2018, {"stem_taps": 7, "stem_pool": "all"}, _EIGHT),
    "hara-resnet34": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 700, 63_872_636, 12_696_451_072,
                         _HARA, 2018, {"depth": 34, "stem_taps": 7, "stem_pool": "all"}, _EIGHT),
    "hara-resnet50": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 700, 47_633_276, 10_069_925_888,
                         _HARA, 2018, {"depth": 50, "stem_taps": 7, "stem_pool": "all"}, _EIGHT),
    "hara-r2plus1d-18": Row("r3d:R3d", "CTHW", (3, 16, 112, 112), 700, 33_575_064, 8_477_048_832,
                         _HARA, 2018,
                            {"convolution": "2plus1d", "one_middle": False, "stem_taps": 7,
                             "stem_pool": "all"}, _EIGHT),
    "s3d": Row("s3d:S3d", "CTHW", (3, 64, 224, 224), 400, 8_320_048, 71_916_314_624,
               "Xie et al., Rethinking spatiotemporal feature learning", 2018,
               small_THW=(16, 48, 64)),
    "i3d": Row("i3d:I3d", "CTHW", (3, 64, 224, 224), 400, 12_697_264, 111_153_143_808,
               _I3D, 2017, small_THW=_EIGHT),
    "i3d-resnet50": Row("resnet3d:ResNet3d", "CTHW", _EIGHT_256, 400, 28_043_472, 37_103_632_384,
                        _NONLOCAL, 2018, {"temporal": "i3d"}, _EIGHT),
    "c2d-resnet50": Row("resnet3d:ResNet3d", "CTHW", _EIGHT_256, 400, 24_327_632, 25_460_244_480,
                        _NONLOCAL, 2018, {"temporal": "c2d"}, _EIGHT),
    "slow-r50": Row("resnet3d:ResNet3d", "CTHW", _EIGHT_256, 400, 32_454_096, 54_518_382_592,
                    _SLOWFAST, 2019, {"temporal": "slow", "pool2": False}, _EIGHT),
    "csn-r101": Row("resnet3d:ResNet3d", "CTHW", (3, 32, 224, 224), 400, 22_213_776, 56_468_187_136,
                    "Tran et al., Channel-separated convolutional networks", 2019,
                    {"temporal": "csn", "middle": "depthwise", "pool2": False,
                     "num_blocks": (3, 4, 23, 3), "strides": ((1, 1), (2, 2), (2, 2), (2, 2))},
                    _EIGHT),
    "x3d-s": Row("x3d:X3d", "CTHW", (3, 13, 160, 160), 400, 3_794_274, 1_962_892_112, _X3D, 2020,
                 small_THW=(4, 64, 80)),
    "x3d-m": Row("x3d:X3d", "CTHW", (3, 16, 224, 224), 400, 3_794_274, 4_732_468_736, _X3D, 2020,
                 {"window": 7}, (4, 64, 80)),
    "slowfast-4x16-r50": Row("slowfast:SlowFast", "CTHW", _THIRTY_TWO_256, 400,
                             34_480_216, 36_099_198_976, _SLOWFAST, 2019,
                             small_THW=(16, 48, 64)),
    "slowfast-8x8-r50": Row("slowfast:SlowFast", "CTHW", _THIRTY_TWO_256, 400,
                            34_566_488, 65_708_888_064, _SLOWFAST, 2019,
                            {"alpha": 4, "lateral_taps": 7}, (16, 48, 64)),
    "slowfast-8x8-r101": Row("slowfast:SlowFast", "CTHW", _THIRTY_TWO_256, 400,
                             62_826_968, 125_905_539_072,
                             _SLOWFAST, 2019,
                             {"alpha": 4, "lateral_taps": 5, "num_blocks": (3, 4, 23, 3)},
                             (16, 48, 64)),
}

_TINY = (3, 8, 32, 32)
_TINY_BACKBONE = {"backbone": "small-cnn", "backbone_parameters": {"width": 8, "dropout": 0.0}}
_TINY_R50 = {"num_blocks": (1, 2, 1, 2), "width": 8, "dropout": 0.0}
_TINY_SLOWFAST = {"num_blocks": (1, 1, 1, 1), "width": 16, "dropout": 0.0}

# The same networks made small for tests and small data sets, of four classes.
# Name → (row, other parameters, clip, parameters, multiply-adds).
_VARIANTS: Mapping[
    str, tuple[str, Mapping[str, Any], tuple[int, int, int, int], int, int]
] = {
    "single-frame-tiny": ("single-frame", _TINY_BACKBONE, _TINY, 34_828, 7_720_960),
    "late-fusion-fc-tiny": ("late-fusion-fc", {**_TINY_BACKBONE, "frames": 8, "hidden": 32,
                                               "dropout": 0.0}, _TINY, 67_244, 7_749_760),
    "late-fusion-pool-tiny": ("late-fusion-pool", _TINY_BACKBONE, _TINY, 34_828, 7_717_376),
    "early-fusion-tiny": ("early-fusion", _TINY_BACKBONE, _TINY, 39_028, 2_040_320),
    "cnn-lstm-tiny": ("cnn-lstm", {**_TINY_BACKBONE, "hidden": 32, "dropout": 0.0},
                      _TINY, 55_180, 7_881_728),
    "lrcn-tiny": ("lrcn", {**_TINY_BACKBONE, "feature_layer": None, "hidden": 32, "dropout": 0.0},
                  _TINY, 55_180, 7_881_728),
    "convgru-tiny": ("convgru", {**_TINY_BACKBONE, "taps": ("features.10", "features.14"),
                                 "hidden": (16, 16), "dropout": 0.0}, _TINY, 57_360, 10_444_928),
    "slow-fusion-tiny": ("slow-fusion", {"size": (48, 48), "width": 12, "hidden": 64,
                                         "dropout": 0.0}, (3, 10, 48, 48), 105_536, 13_727_296),
    "cnn3d-lstm-tiny": ("cnn3d-lstm", {"hidden": 25}, (3, 12, 34, 54), 43_096, 77_881_040),
    "c3d-tiny": ("c3d", {"size": (32, 32), "width": 8, "hidden": 64, "dropout": 0.0},
                 (3, 16, 32, 32), 453_860, 58_413_312),
    "r3d-18-tiny": ("r3d-18", {"width": 8}, _TINY, 522_620, 32_276_736),
    "mc3-18-tiny": ("mc3-18", {"width": 8}, _TINY, 183_932, 33_964_288),
    "r2plus1d-18-tiny": ("r2plus1d-18", {"width": 8}, _TINY, 498_925, 41_025_792),
    "r2plus1d-50-tiny": ("r2plus1d-50", _TINY_R50, _TINY, 234_140, 6_857_728),
    "csn-tiny": ("csn-r101", _TINY_R50, (3, 8, 48, 48), 123_988, 19_642_560),
    "s3d-tiny": ("s3d", {"width": 8, "dropout": 0.0}, (3, 16, 32, 32), 127_460, 9_948_192),
    "x3d-tiny": ("x3d-s", {"num_blocks": (1, 1, 1, 1), "width": 8, "dropout": 0.0},
                 (3, 8, 48, 48), 349_836, 5_552_928),
    "i3d-tiny": ("i3d", {"width": 8, "dropout": 0.0, "bn_momentum": 0.1}, _TINY,
                 201_300, 11_806_800),
    "i3d-resnet50-tiny": ("i3d-resnet50", _TINY_R50, _TINY, 247_084, 15_336_448),
    "i3d-resnet50-nonlocal-tiny": ("i3d-resnet50", {**_TINY_R50, "nonlocal_blocks": {"res3": 1}},
                                   _TINY, 255_564, 15_729_664),
    "c2d-resnet50-tiny": ("c2d-resnet50", _TINY_R50, _TINY, 204_364, 4_981_760),
    "slow-r50-tiny": ("slow-r50", _TINY_R50, _TINY, 257_612, 8_274_944),
    "slowfast-tiny": ("slowfast-4x16-r50", {**_TINY_SLOWFAST, "alpha": 4}, _TINY,
                      690_110, 9_970_944),
}
# fmt: on

for _name, (_base, _parameters, _clip, _count, _macs) in _VARIANTS.items():
    TABLE[_name] = replace(
        TABLE[_base],
        parameters={**TABLE[_base].parameters, **_parameters},
        clip_CTHW=_clip,
        small_THW=_clip[1:],
        num_classes=4,
        num_parameters=_count,
        macs=_macs,
    )
