"""What differs from a still background: persons before a static camera.

In: RGB frames, a window of them at a time (10 s at 25 fps). The background is the median of the
window. Each frame's
difference from the background, above the camera's noise, is joined to components; parts above
each other are one person.
"""

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Boxes, Found, check_positive, check_share, clean

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# The median needs no more frames than this of a window.
MOST_SAMPLES = 50


class BackgroundDetector:
    """Whoever differs from what is there most of the time; the camera must stand still.

    Parameters
    ----------
    window : int
        Frames that are read ahead and share a background; memory grows with it.
    short_side : int
        Frames are looked at in this size at most.
    min_height : float
        Height of the smallest person, as a share of the picture's.
    sensitivity : float
        How far a pixel must differ: 1 is usual, 2 takes half the difference.
    """

    def __init__(
        self,
        *,
        window: int = 250,
        short_side: int = 240,
        min_height: float = 0.12,
        sensitivity: float = 1.0,
    ) -> None:
        check_positive("window", window)
        check_positive("short_side", short_side)
        check_share("min_height", min_height)
        check_positive("sensitivity", sensitivity)
        self.window, self.short_side, self.min_height = window, short_side, min_height
        self.threshold = 22.0 / sensitivity

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the boxes of each frame, a window of frames at a time."""
        rest = iter(frames)
        while chunk := list(itertools.islice(rest, self.window)):
            sizes = [frame.shape[:2] for _, frame in chunk]
            small_T = np.stack([self._small(frame) for _, frame in chunk])
            background_HWC = self._background(small_T)
            for (index, _), size, small_HWC in zip(chunk, sizes, small_T, strict=True):
                boxes_N4, scores_N = self._boxes(self._differs(small_HWC, background_HWC))
                scale = (size[1] / small_HWC.shape[1], size[0] / small_HWC.shape[0])
                yield index, *clean(boxes_N4 * np.tile(scale, 2), scores_N, size)

    def _small(self, frame_HWC: Picture) -> Picture:
        height, width = frame_HWC.shape[:2]
        scale = min(1.0, self.short_side / min(height, width))
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small, (3, 3), 0), np.uint8)

    def _background(self, small_THWC: Picture) -> Picture:
        step = -(-len(small_THWC) // MOST_SAMPLES)
        return np.asarray(np.median(small_THWC[::step], axis=0), np.uint8)

    def _differs(self, small_HWC: Picture, background_HWC: Picture) -> Mask:
        difference = np.asarray(cv2.absdiff(small_HWC, background_HWC))
        return np.asarray(difference.max(axis=2) > self.threshold)

    def _boxes(self, differs_HW: Mask) -> tuple[Boxes, npt.NDArray[np.float64]]:
        height = differs_HW.shape[0]
        mask = cv2.morphologyEx(
            differs_HW.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)
        )
        gap = max(3, round(height * 0.06))
        joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((gap, max(3, gap // 2)), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
        boxes, scores = [], []
        for x, y, w, h, _ in stats[1:].tolist():
            if h < self.min_height * height:
                continue
            boxes.append((x, y, x + w, y + h))
            scores.append(float(mask[y : y + h, x : x + w].mean()))
        return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores)
