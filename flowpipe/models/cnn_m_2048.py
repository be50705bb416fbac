"""CNN-M-2048, the network of the two-stream paper: B×C×224×224 to B×K logits.

Simonyan, Zisserman: Two-stream convolutional networks for action recognition in videos,
NIPS 2014, doi:10.48550/arXiv.1406.2199; the layers are those of Chatfield, Simonyan, Vedaldi,
Zisserman: Return of the devil in the details, BMVC 2014, doi:10.5244/C.28.6.

    spatial   conv1 7×7/2 96, LRN, pool/2; conv2 5×5/2 256, LRN, pool/2;
    temporal  conv1 7×7/2 96, LRN, pool/2; conv2 5×5/2 256,      pool/2;
    both      conv3..5 3×3 512; pool/2; fc6 4096; fc7 2048; fc8 K

Heights (= widths) for 224 px: 224 →conv1 109 →pool 54 →conv2 26 →pool 13 →conv3..5 13 →pool 6.
Poolings are 3×3 and round up, Caffe's rule, in which the paper's networks were written. Local
response normalisation is Krizhevsky's (n = 5, k = 2, α = 1e-4 per channel, β = 0.75; torch, like
Caffe, takes n·α = 5e-4). LRN expects inputs of some size: feed pixels or displacements, minus
their mean, rather than values in [0, 1]. Initialised after He et al. 2015, where the paper drew
from a narrow normal distribution and started deeper nets from shallower ones.
"""

from collections import OrderedDict

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer, init_he


class CnnM2048(nn.Module):
    """Five convolutions, three fully connected layers; 90,627,813 parameters for RGB, 101 classes.

    Parameters
    ----------
    num_classes
        K, the number of logits.
    in_channels
        Channels of the input: 3 (spatial), 2L (temporal).
    dropout
        Share of fc6 and fc7 that is **dropped**, in [0, 1): the paper's "dropout ratio" of 0.9
        leaves one value in ten.
    second_lrn
        Normalise after conv2. None follows the paper: for three channels (RGB), otherwise not
        ("to reduce memory consumption").
    """

    input_layout = "CHW"
    stem_name = "features.conv1"
    classifier_name = "fc8"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.9,
        second_lrn: bool | None = None,
    ) -> None:
        super().__init__()
        if second_lrn is None:
            second_lrn = in_channels == 3
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(in_channels, 96, 7, stride=2)
        layers["relu1"] = nn.ReLU(inplace=True)
        layers["lrn1"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        layers["pool1"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers["conv2"] = nn.Conv2d(96, 256, 5, stride=2, padding=1)
        layers["relu2"] = nn.ReLU(inplace=True)
        if second_lrn:
            layers["lrn2"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        layers["pool2"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        for number, in_planes in ((3, 256), (4, 512), (5, 512)):
            layers[f"conv{number}"] = nn.Conv2d(in_planes, 512, 3, padding=1)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers["pool5"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.features = nn.Sequential(layers)
        self.fc6 = nn.Linear(512 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 2048)
        self.fc8 = nn.Linear(2048, num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout_layer(dropout)
        init_he(self, linear=True)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Return logits B×K.

        Raises
        ------
        InvalidArgument
            If the input is not 224×224 px, or so near that fc6 still fits (201 to 232 px).
        """
        height, width = clip_BCHW.shape[-2:]
        # From 201 to 232 px the last pooling gives 6×6 positions, which fc6 was made for.
        if not (201 <= height <= 232 and 201 <= width <= 232):
            raise InvalidArgument(
                f"cnn-m-2048 takes crops of 224×224 px, not {height}×{width}; set the crop to 224 "
                "or take a network with global pooling, such as resnet18 or small-cnn"
            )
        x = self.features(clip_BCHW).flatten(1)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]
