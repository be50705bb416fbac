"""OpenCV's people detector: histograms of gradients under a linear SVM (Dalal, Triggs 2005).

In: RGB frames. Out: boxes of upright persons. The SVM comes with OpenCV and was trained on whole
pedestrians who stand or walk; who bends, sits, lies, or is cut by the picture's edge is mostly
missed. The window of 64 × 128 px has a margin about the person, which is taken off.

References
----------
N. Dalal, B. Triggs, "Histograms of oriented gradients for human detection", CVPR 2005.
https://doi.org/10.1109/CVPR.2005.177
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Found, check_positive, check_share, clean

WINDOW_HEIGHT = 128
# The margin of score 1/2.
HALF_MARGIN = 0.5


class HogDetector:
    """Upright, whole persons in any picture, without a file of weights.

    Parameters
    ----------
    min_height_px : float
        Of the smallest person to be found; half of it costs four times the time.
    width_share, height_share : float
        How much of the window the person fills.
    min_margin : float
        The SVM's margin from which on a window is a person; the score is a half at a margin of .5.
    max_overlap : float
        Of two boxes of larger IoU the worse is left out.
    """

    def __init__(
        self,
        *,
        min_height_px: float = 60.0,
        width_share: float = 0.6,
        height_share: float = 0.85,
        min_margin: float = 0.0,
        max_overlap: float = 0.4,
    ) -> None:
        check_positive("min_height_px", min_height_px)
        for name, value in (
            ("width_share", width_share),
            ("height_share", height_share),
            ("max_overlap", max_overlap),
        ):
            check_share(name, value)
        self.min_height_px = min_height_px
        self.shares = np.array([width_share, height_share])
        self.min_margin, self.max_overlap = min_margin, max_overlap
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the boxes of each frame."""
        scale = WINDOW_HEIGHT * self.shares[1] / self.min_height_px
        for index, frame_HWC in frames:
            height, width = frame_HWC.shape[:2]
            picture = cv2.resize(
                frame_HWC,
                (max(round(width * scale), 64), max(round(height * scale), WINDOW_HEIGHT)),
                interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
            )
            windows, margins = self._hog.detectMultiScale(
                cv2.cvtColor(picture, cv2.COLOR_RGB2BGR),
                hitThreshold=self.min_margin,
                winStride=(8, 8),
                padding=(16, 16),
                scale=1.05,
                groupThreshold=0,
            )
            windows_N4 = np.asarray(windows, np.float64).reshape(-1, 4)
            middle = windows_N4[:, :2] + windows_N4[:, 2:] / 2
            half = windows_N4[:, 2:] / 2 * self.shares
            boxes_N4 = np.concatenate((middle - half, middle + half), axis=1)
            boxes_N4 *= np.tile((width / picture.shape[1], height / picture.shape[0]), 2)
            margins_N = np.asarray(margins, np.float64).reshape(-1)
            scores_N = 1 / (1 + np.exp(-4 * (margins_N - HALF_MARGIN)))
            yield index, *clean(boxes_N4, scores_N, (height, width), max_overlap=self.max_overlap)
