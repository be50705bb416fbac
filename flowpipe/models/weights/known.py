"""Public files of weights that `load_network` reads: a literal table. Nothing is downloaded."""

from dataclasses import dataclass

__all__ = ["FILES", "PublicFile"]


@dataclass(frozen=True)
class PublicFile:
    """One file.

    Attributes
    ----------
    file
        Its name, as its authors offer it.
    model
        Row of the table.
    data
        What it was trained on.
    top1
        Published accuracy in per cent, of clips and crops as its authors test; None: not known.
    origin
        Name in `flowpipe.models.weights.ORIGINS`, which has the address.
    licence
        Of the repository that offers it.
    sha256
        Beginning of the digest, where its name or authors tell it.
    """

    file: str
    model: str
    data: str
    top1: float | None
    origin: str
    licence: str
    sha256: str = ""


def _torchvision(file: str, model: str, data: str, top1: float) -> PublicFile:
    """Its files carry the beginning of their digest in their names."""
    digest = file.rpartition("-")[2].partition(".")[0]
    return PublicFile(file, model, data, top1, "torchvision", "BSD-3-Clause", digest)


_IMAGENET, _K400, _UCF, _SPORTS = "ImageNet-1k", "Kinetics-400", "UCF101 split 1", "Sports-1M"
_FAIR, _MIT = "Apache-2.0", "MIT"

FILES: tuple[PublicFile, ...] = (
    _torchvision("resnet18-f37072fd.pth", "resnet18", _IMAGENET, 69.758),
    _torchvision("resnet34-b627a593.pth", "resnet34", _IMAGENET, 73.314),
    _torchvision("resnet50-0676ba61.pth", "resnet50", _IMAGENET, 76.130),
    _torchvision("resnet50-11ad3fa6.pth", "resnet50", _IMAGENET, 80.858),
    _torchvision("resnet101-63fe2227.pth", "resnet101", _IMAGENET, 77.374),
    _torchvision("resnet152-394f9c45.pth", "resnet152", _IMAGENET, 78.312),
    _torchvision("vgg16-397923af.pth", "vgg16", _IMAGENET, 71.592),
    _torchvision("vgg16_bn-6c64b313.pth", "vgg16-bn", _IMAGENET, 73.360),
    _torchvision("squeezenet1_0-b66bff10.pth", "squeezenet1_0", _IMAGENET, 58.092),
    _torchvision("mobilenet_v2-b0353104.pth", "mobilenet-v2", _IMAGENET, 71.878),
    _torchvision("r3d_18-b3b3357e.pth", "r3d-18", _K400, 63.200),
    _torchvision("mc3_18-a90a0ba3.pth", "mc3-18", _K400, 63.960),
    _torchvision("r2plus1d_18-91a641e6.pth", "r2plus1d-18", _K400, 67.463),
    _torchvision("s3d-d76dad2f.pth", "s3d", _K400, 68.368),
    PublicFile("C2D_8x8_R50.pyth", "c2d-resnet50", _K400, 71.46, "pytorchvideo", _FAIR),
    PublicFile("I3D_8x8_R50.pyth", "i3d-resnet50", _K400, 73.27, "pytorchvideo", _FAIR),
    PublicFile("SLOW_8x8_R50.pyth", "slow-r50", _K400, 74.58, "pytorchvideo", _FAIR),
    PublicFile("SLOWFAST_8x8_R50.pyth", "slowfast-8x8-r50", _K400, 76.94, "pytorchvideo", _FAIR),
    PublicFile("SLOWFAST_8x8_R101.pyth", "slowfast-8x8-r101", _K400, 77.90, "pytorchvideo", _FAIR),
    PublicFile("CSN_32x2_R101.pyth", "csn-r101", _K400, 77.00, "pytorchvideo", _FAIR),
    PublicFile("R2PLUS1D_16x4_R50.pyth", "r2plus1d-50", _K400, 76.01, "pytorchvideo", _FAIR),
    PublicFile("X3D_S.pyth", "x3d-s", _K400, 73.33, "pytorchvideo", _FAIR),
    PublicFile("X3D_M.pyth", "x3d-m", _K400, 75.94, "pytorchvideo", _FAIR),
    PublicFile("C2D_NOPOOL_8x8_R50.pkl", "c2d-resnet50", _K400, 67.2, "caffe2", _FAIR),
    PublicFile("I3D_8x8_R50.pkl", "i3d-resnet50", _K400, 73.5, "caffe2", _FAIR),
    PublicFile("I3D_NLN_8x8_R50.pkl", "i3d-resnet50", _K400, 74.0, "caffe2", _FAIR),
    PublicFile("SLOWONLY_8x8_R50.pkl", "slow-r50", _K400, 74.8, "caffe2", _FAIR),
    PublicFile("SLOWFAST_4x16_R50.pkl", "slowfast-4x16-r50", _K400, 75.6, "caffe2", _FAIR),
    PublicFile("SLOWFAST_8x8_R50.pkl", "slowfast-8x8-r50", _K400, 77.0, "caffe2", _FAIR),
    PublicFile("tsn_…_kinetics400-rgb_….pth", "tsn-resnet50", _K400, 72.83, "mmaction2", _FAIR),
    PublicFile("tsm_…_kinetics400-rgb_….pth", "tsm-resnet50", _K400, None, "mmaction2", _FAIR),
    PublicFile("i3d_…_kinetics400-rgb_….pth", "i3d-resnet50", _K400, None, "mmaction2", _FAIR),
    PublicFile("slowonly_…_kinetics400-rgb_….pth", "slow-r50", _K400, None, "mmaction2", _FAIR),
    PublicFile("slowfast_…_4x16x1_….pth", "slowfast-4x16-r50", _K400, None, "mmaction2", _FAIR),
    PublicFile("r2plus1d_r34_….pth", "r2plus1d-34", _K400, None, "mmaction2", _FAIR),
    PublicFile("c3d_…_ucf101-rgb_….pth", "c3d", _UCF, None, "mmaction2", _FAIR),
    PublicFile("rgb_imagenet.pt", "i3d", _K400, 71.1, "piergiaj", _FAIR),
    PublicFile("flow_imagenet.pt", "i3d", _K400, 63.4, "piergiaj", _FAIR),
    PublicFile("model_rgb.pth", "i3d", _K400, 71.1, "hassony2", _MIT),
    PublicFile("model_flow.pth", "i3d", _K400, 63.4, "hassony2", _MIT),
    PublicFile("r3d18_K_200ep.pth", "hara-resnet18", "Kinetics-700", None, "kenshohara", _MIT),
    PublicFile("r3d34_K_200ep.pth", "hara-resnet34", "Kinetics-700", None, "kenshohara", _MIT),
    PublicFile("r3d50_K_200ep.pth", "hara-resnet50", "Kinetics-700", None, "kenshohara", _MIT),
    PublicFile("c3d.pickle", "c3d", _SPORTS, None, "davidea", _MIT),
    PublicFile("bn_inception-9f5701afb96c8044.pth", "bn-inception", _IMAGENET, None, "tsn",
               "BSD-2-Clause", "9f5701afb96c8044"),
    PublicFile("flow ResNet-152", "resnet152", _UCF, None, "bryanyzhu", _MIT),
    PublicFile("flow VGG-16", "vgg16", _UCF, None, "bryanyzhu", _MIT),
    PublicFile("efficientnet_lite0.pth", "efficientnet-lite0", _IMAGENET, None,
               "efficientnet-lite", _FAIR),
)  # fmt: skip
