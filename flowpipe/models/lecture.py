"""Three toy networks that differ only in when time is fused; 3×20×64×64 to K logits.

After Karpathy et al. 2014 (doi:10.1109/CVPR.2014.223), as lectures on video compare them
(Johnson, EECS 498-007/598-005, University of Michigan, 2019 on): two convolutions with bias,
a pooling between them, a global average, a linear classifier.

    lecture-late   B×T×C×H×W   conv 3×3 12,   pool 4×4,   conv 3×3 24     2,952 parameters
    lecture-early  B×(T·C)×H×W conv 3×3 12,   pool 4×4,   conv 3×3 24     9,108
    lecture-3d     B×C×T×H×W   conv 3×3×3 12, pool 4×4×4, conv 3×3×3 24   8,784

and a classifier of 25·K. A ReLU stands after each convolution. They are as small as any tiny row.
"""

from torch import Tensor, nn


class LectureLate(nn.Module):
    """The 2D network on every frame; features averaged over space and time."""

    input_layout = "TCHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Give logits B×K."""
        x = self.pool(self.relu(self.conv1(clip_BTCHW.flatten(0, 1))))
        x = self.relu(self.conv2(x)).unflatten(0, clip_BTCHW.shape[:2])
        return self.fc(x.mean((1, 3, 4)))  # type: ignore[no-any-return]


class LectureEarly(nn.Module):
    """The first convolution sees all frames."""

    input_layout = "CHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, num_classes)

    def forward(self, clip_BCHW: Tensor) -> Tensor:
        """Give logits B×K."""
        x = self.pool(self.relu(self.conv1(clip_BCHW)))
        x = self.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Lecture3d(nn.Module):
    """Time is a third dimension throughout: slow fusion."""

    input_layout = "CTHW"
    stem_name = "conv1"
    classifier_name = "fc"

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, 12, 3, padding=1)
        self.pool = nn.MaxPool3d(4)
        self.conv2 = nn.Conv3d(12, 24, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Give logits B×K."""
        x = self.pool(self.relu(self.conv1(clip_BCTHW)))
        x = self.relu(self.conv2(x))
        return self.fc(x.mean((2, 3, 4)))  # type: ignore[no-any-return]


def lecture_late(*, num_classes: int, in_channels: int = 3) -> LectureLate:
    """Late fusion: 2,952 + 25·K parameters for RGB."""
    return LectureLate(num_classes=num_classes, in_channels=in_channels)


def lecture_early(*, num_classes: int, in_channels: int = 60) -> LectureEarly:
    """Early fusion: 9,108 + 25·K parameters for twenty RGB frames (60 channels)."""
    return LectureEarly(num_classes=num_classes, in_channels=in_channels)


def lecture_3d(*, num_classes: int, in_channels: int = 3) -> Lecture3d:
    """3D convolutions: 8,784 + 25·K parameters for RGB."""
    return Lecture3d(num_classes=num_classes, in_channels=in_channels)
