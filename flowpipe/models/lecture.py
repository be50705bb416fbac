"""Three toy networks that differ only in when time is fused; 3×20×64×64 to K logits.

After Karpathy et al. 2014 (doi:10.1109/CVPR.2014.223), as lectures on video compare them
(Johnson, EECS 498-007/598-005, University of Michigan, 2019 on): two convolutions with bias,
a pooling between them, a global average, a linear classifier.

    lecture-late   B×T×C×H×W   conv 3×3 12,   pool 4×4,   conv 3×3 24     2,952 parameters
    lecture-early  B×(T·C)×H×W conv 3×3 12,   pool 4×4,   conv 3×3 24     9,108
    lecture-3d     B×C×T×H×W   conv 3×3×3 12, pool 4×4×4, conv 3×3×3 24   8,784

and a classifier of 25·K. A ReLU stands after each convolution. They are as small as any tiny row.
"""

from typing import Literal

from torch import Tensor, nn

from flowpipe.models.layers import check_choice

LAYOUTS = {"late": "TCHW", "early": "CHW", "3d": "CTHW"}


class Lecture(nn.Module):
    """Two convolutions over frames, stacked frames or clips; features averaged; classifier.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame; of all frames together for "early".
    fusion
        "late", "early" or "3d": see the module.
    """

    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(
        self, *, num_classes: int, in_channels: int = 3, fusion: Literal["late", "early", "3d"]
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, LAYOUTS)
        self.input_layout = LAYOUTS[fusion]
        conv, pool = (nn.Conv3d, nn.MaxPool3d) if fusion == "3d" else (nn.Conv2d, nn.MaxPool2d)
        self.conv1 = conv(in_channels, 12, 3, padding=1)
        self.pool = pool(4)
        self.conv2 = conv(12, 24, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits B×K."""
        late = self.input_layout == "TCHW"
        x = clip.flatten(0, 1) if late else clip
        x = self.relu(self.conv2(self.pool(self.relu(self.conv1(x)))))
        x_BCP = x.unflatten(0, clip.shape[:2]).transpose(1, 2) if late else x
        return self.fc(x_BCP.mean(tuple(range(2, x_BCP.ndim))))  # type: ignore[no-any-return]
