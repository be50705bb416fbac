"""C3D: 3×3×3 convolutions throughout, B×C×16×112×112 to B×K logits.

Tran, Bourdev, Fergus, Torresani, Paluri: Learning spatiotemporal features with 3D convolutional
networks, ICCV 2015, doi:10.1109/ICCV.2015.510.

    layer                       C×T×H×W               layer              C×T×H×W
    conv1, pool1 1×2×2          64×16×56×56           conv4a/b, pool4    512×2×7×7
    conv2, pool2                128×8×28×28           conv5a/b           512×2×7×7
    conv3a/b, pool3             256×4×14×14           pool5              512×1×4×4

All other pools are 2×2×2; then fc6 4096, fc7 4096, fc8 K. As released, pool5 pads a row and a
column on each side, 7 → 4, and fc6 takes 8192 values; without (`c3d-lecture`, the paper's text)
7 → 3, and fc6 takes 4608. Layer names are those of
the public PyTorch ports. Their weights expect BGR pixels of 0..255 minus a mean volume.
Initialised after He et al. 2015, where the paper drew from a narrow normal distribution.
"""

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer, init_he


class C3d(nn.Module):
    """Eight convolutions, five pools, three fully connected layers.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    frames, size
        T and (height, width) in px of the input, which fc6 is made for.
    padded_pool5
        As released; False: as in the paper's text.
    width
        Planes of the first convolution.
    hidden
        Units of fc6 and fc7.
    dropout
        Share of fc6 and fc7 dropped, in [0, 1).

    Raises
    ------
    InvalidArgument
        If the clip is too small for five pools, or `dropout` outside its range.
    """

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc8"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        frames: int = 16,
        size: tuple[int, int] = (112, 112),
        padded_pool5: bool = True,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 3, padding=1)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = nn.Conv3d(width, 2 * width, 3, padding=1)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = nn.Conv3d(2 * width, 4 * width, 3, padding=1)
        self.conv3b = nn.Conv3d(4 * width, 4 * width, 3, padding=1)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = nn.Conv3d(4 * width, 8 * width, 3, padding=1)
        self.conv4b = nn.Conv3d(8 * width, 8 * width, 3, padding=1)
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a = nn.Conv3d(8 * width, 8 * width, 3, padding=1)
        self.conv5b = nn.Conv3d(8 * width, 8 * width, 3, padding=1)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1) if padded_pool5 else 0)
        border = 2 if padded_pool5 else 0
        times, rows, columns = frames // 16, *((side // 16 + border) // 2 for side in size)
        if frames < 16 or min(size) < 16 or min(rows, columns) < 1:
            raise InvalidArgument(
                f"C3D halves a clip 4 or 5 times: {frames} frames of {size[0]}×{size[1]} px must "
                "be at least 16 of 32×32; the paper's are 16 of 112×112"
            )
        self.fc6 = nn.Linear(8 * width * times * rows * columns, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout_layer(dropout)
        init_he(self, linear=True)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K; the clip must be of the size that the network was built for."""
        x = self.pool1(self.relu(self.conv1(clip_BCTHW)))
        x = self.pool2(self.relu(self.conv2(x)))
        x = self.relu(self.conv3a(x))
        x = self.pool3(self.relu(self.conv3b(x)))
        x = self.relu(self.conv4a(x))
        x = self.pool4(self.relu(self.conv4b(x)))
        x = self.relu(self.conv5a(x))
        x = self.pool5(self.relu(self.conv5b(x))).flatten(1)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]
