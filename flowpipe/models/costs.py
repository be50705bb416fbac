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
    "squeezenet1_0": (1_248_424, 818_924_576),
    "cnn-m-2048": (90_627_813, 1_663_894_560),
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
}
