"""Slow fusion: a 3D network whose layers see ever more of the clip, B×C×T×H×W to B×K logits.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei: Large-scale video classification with
convolutional neural networks, CVPR 2014, doi:10.1109/CVPR.2014.223.

    layer                           T (from 10)   H = W (from 170)
    conv1 4×11×11/(2,3,3) 96        4             54
    LRN, pool 1×2×2                 4             27
    conv2 2×5×5/(2,1,1) 256         2             27
    LRN, pool 1×2×2                 2             13
    conv3 2×3×3/(2,1,1) 384         1             13
    conv4 1×3×3 384, conv5 256      1             13
    pool 1×2×2, mean over T         1             6
    fc6 4096, fc7 4096, fc8 K

The paper gives the filters and the temporal extents (4, 2, 2, strides 2); padding and pooling are
those of Krizhevsky's network with 2×2 pools, and dropout 0.5 on fc6 and fc7 comes from there too.
More than ten frames leave several instants after conv3; their mean goes into fc6.
"""

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import dropout_layer, init_he

MIN_FRAMES = 10


class SlowFusion(nn.Module):
    """Five convolutions of which three look along time, three fully connected layers.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    size
        (height, width) of the input in px, which fc6 is made for.
    width
        Planes of the first convolution, a multiple of 3.
    hidden
        Units of fc6 and fc7.
    dropout
        Share of fc6 and fc7 dropped, in [0, 1).

    Raises
    ------
    InvalidArgument
        If a value is outside its rule.
    """

    input_layout = "CTHW"
    stem_name = "features.0"
    classifier_name = "fc8"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        size: tuple[int, int] = (170, 170),
        width: int = 96,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if width < 3 or width % 3:
            raise InvalidArgument(f"width {width!r} must be a multiple of 3; 96 is the paper's")
        planes = [width, 8 * width // 3, 4 * width, 4 * width, 8 * width // 3]
        self.features = nn.Sequential(
            nn.Conv3d(in_channels, planes[0], (4, 11, 11), stride=(2, 3, 3)),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(planes[0], planes[1], (2, 5, 5), stride=(2, 1, 1), padding=(0, 2, 2)),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(planes[1], planes[2], (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv3d(planes[2], planes[3], (1, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv3d(planes[3], planes[4], (1, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 2, 2)),
        )
        rows, columns = (((side - 11) // 3 + 1) // 8 for side in size)
        if rows < 1 or columns < 1:
            raise InvalidArgument(f"size {size} must be at least 32×32 px; 170×170 is the paper's")
        self.fc6 = nn.Linear(planes[4] * rows * columns, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout_layer(dropout)
        init_he(self, linear=True)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return logits B×K.

        Raises
        ------
        InvalidArgument
            If the clip has fewer than ten frames.
        """
        frames = clip_BCTHW.shape[2]
        if frames < MIN_FRAMES:
            raise InvalidArgument(
                f"slow fusion takes clips of {MIN_FRAMES} frames or more, not {frames}; set frames"
            )
        x = self.features(clip_BCTHW).mean(2).flatten(1)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]
