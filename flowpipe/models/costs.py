"""Parameters and multiply-adds of each network at its published input; generated.

`python -m flowpipe.models.summary` writes this file, and a test compares it with the
networks. It spares `flowpipe models` the import of torch.
"""

from collections.abc import Mapping

# Name → (parameters, multiply-adds).
COSTS: Mapping[str, tuple[int, int]] = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "squeezenet1_0": (1_248_424, 818_924_576),
    "cnn-m-2048": (90_627_813, 1_663_894_560),
    "vgg16": (138_357_544, 15_470_264_320),
    "small-cnn": (589_957, 54_413_824),
    "single-frame": (11_426_343, 18_138_106_880),
    "single-frame-tiny": (34_828, 7_720_960),
    "late-fusion-fc": (14_048_295, 18_138_484_224),
    "late-fusion-fc-tiny": (67_244, 7_749_760),
    "late-fusion-pool": (11_426_343, 18_135_862_784),
    "late-fusion-pool-tiny": (34_828, 7_717_376),
    "early-fusion": (11_511_015, 2_875_936_256),
    "early-fusion-tiny": (39_028, 2_040_320),
    "slow-fusion": (61_880_263, 4_146_821_120),
    "slow-fusion-tiny": (105_536, 13_727_296),
    "c3d": (79_991_015, 38_548_959_232),
    "c3d-lecture": (65_310_951, 38_534_279_168),
    "c3d-tiny": (453_860, 58_413_312),
    "lecture-late": (3_202, 39_813_360),
    "lecture-early": (9_358, 27_205_872),
    "lecture-3d": (9_034, 89_579_760),
    "r3d-18": (33_371_472, 40_696_553_472),
    "r3d-18-tiny": (522_620, 32_276_736),
    "i3d": (12_697_264, 111_153_143_808),
    "i3d-tiny": (201_300, 11_806_800),
    "i3d-resnet50": (28_043_472, 37_103_632_384),
    "i3d-resnet50-tiny": (247_084, 15_336_448),
    "i3d-resnet50-nonlocal-tiny": (255_564, 15_729_664),
    "c2d-resnet50": (24_327_632, 25_460_244_480),
    "c2d-resnet50-tiny": (204_364, 4_981_760),
    "slow-r50": (32_454_096, 54_518_382_592),
    "slow-r50-tiny": (257_612, 8_274_944),
    "slowfast-4x16-r50": (34_480_216, 36_099_198_976),
    "slowfast-8x8-r50": (34_566_488, 65_708_888_064),
    "slowfast-tiny": (690_110, 9_970_944),
    "cnn-lstm": (28_806_821, 65_478_893_568),
    "cnn-lstm-tiny": (55_180, 7_881_728),
    "lrcn": (86_514_661, 26_556_502_528),
    "lrcn-tiny": (55_180, 7_881_728),
    "cnn3d-lstm": (62_998, 120_910_160),
    "cnn3d-lstm-tiny": (43_096, 77_881_040),
    "convgru": (153_737_465, 188_547_194_816),
    "convgru-tiny": (57_360, 10_444_928),
}
