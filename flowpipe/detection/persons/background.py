"""What differs from a still background: persons before a static camera.

In: RGB frames, a window of them at a time (10 s at 25 fps). The background is the median of the
window. Persons who stay in their place are in the median themselves: they are cut out of it,
around where anything moved (GrabCut [1]_), and filled in from their surroundings. What differs
from the background is joined to components; parts above each other are one person.

References
----------
.. [1] C. Rother et al., "GrabCut: interactive foreground extraction using iterated graph cuts",
   SIGGRAPH 2004. https://doi.org/10.1145/1015706.1015720
"""

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Boxes, Found, check_positive, check_share, clean

Picture = npt.NDArray[np.uint8]

# The background needs no more frames than this of a window.
MOST_SAMPLES = 50
# Of 255: above the noise of a camera and of compression.
USUAL_DIFFERENCE = 22.0
# Where this share of frames differs, something moved.
MOVED_SHARE = 0.06
# Who moves in a region of which this share is covered at a time stays in the place.
STAYING_SHARE = 0.35
STRONG=1.5
GX=1


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
        How little a pixel may differ: at 2, half of what is usual.
    staying : bool
        Whether persons who stay in their place are cut out of the background.
    """

    def __init__(
        self,
        *,
        window: int = 250,
        short_side: int = 240,
        min_height: float = 0.12,
        sensitivity: float = 1.0,
        staying: bool = True,
    ) -> None:
        check_positive("window", window)
        check_positive("short_side", short_side)
        check_share("min_height", min_height)
        check_positive("sensitivity", sensitivity)
        self.window, self.short_side, self.min_height = window, short_side, min_height
        self.threshold = USUAL_DIFFERENCE / sensitivity
        self.staying = staying

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the boxes of each frame, a window of frames at a time."""
        rest = iter(frames)
        while chunk := list(itertools.islice(rest, self.window)):
            small_THWC = np.stack([self._small(frame) for _, frame in chunk])
            background_HWC = self._background(small_THWC)
            for (index, frame), small_HWC in zip(chunk, small_THWC, strict=True):
                boxes_N4, scores_N = self._boxes(self._difference(small_HWC, background_HWC))
                size = frame.shape[:2]
                scale = (size[1] / small_HWC.shape[1], size[0] / small_HWC.shape[0])
                yield index, *clean(boxes_N4 * np.tile(scale, 2), scores_N, size)

    def _small(self, frame_HWC: Picture) -> Picture:
        height, width = frame_HWC.shape[:2]
        scale = min(1.0, self.short_side / min(height, width))
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small, (3, 3), 0), np.uint8)

    def _background(self, small_THWC: Picture) -> Picture:
        samples = small_THWC[:: -(-len(small_THWC) // MOST_SAMPLES)]
        median_HWC = np.asarray(np.median(samples, axis=0), np.uint8)
        if not self.staying:
            return median_HWC
        differs_THW = np.stack(
            [self._difference(sample, median_HWC) > self.threshold for sample in samples]
        )
        cut_HW = who_stays(median_HWC, differs_THW)
        if not cut_HW.any():
            return median_HWC
        # Edges of a person are half wall: a seam of them would be filled in.
        grown = cv2.dilate(cut_HW, np.ones((5, 5), np.uint8))
        return np.asarray(cv2.inpaint(median_HWC, grown, 3, cv2.INPAINT_TELEA), np.uint8)

    def _difference(self, small_HWC: Picture, background_HWC: Picture) -> Picture:
        return np.asarray(np.asarray(cv2.absdiff(small_HWC, background_HWC)).max(axis=2))

    def _boxes(self, difference_HW: Picture) -> tuple[Boxes, npt.NDArray[np.float64]]:
        height = difference_HW.shape[0]
        mask = (difference_HW > self.threshold).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        boxes, scores = [], []
        for x, y, w, h in _components(mask):
            if h < self.min_height * height:
                continue
            boxes.append((x, y, x + w, y + h))
            scores.append(float(mask[y : y + h, x : x + w].mean()))
        return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores)


def who_stays(median_HWC: Picture, differs_THW: npt.NDArray[np.bool_]) -> Picture:
    """Return where, in the median, persons are who move without leaving their place.

    Parameters
    ----------
    median_HWC : array of uint8
    differs_THW : array of bool
        Where samples of the window differ from the median.

    Returns
    -------
    array of H×W uint8
        1 on persons.
    """
    height, width = median_HWC.shape[:2]
    moved_HW = (differs_THW.mean(axis=0) > MOVED_SHARE).astype(np.uint8)
    moved_HW = np.asarray(cv2.morphologyEx(moved_HW, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)))
    persons_HW = np.zeros((height, width), np.uint8)
    for x, y, w, h in _components(moved_HW, GX):
        if h < 0.06 * height:
            continue
        here = differs_THW[:, y : y + h, x : x + w].any(axis=1)
        spans = [np.ptp(np.flatnonzero(row)) + 1 for row in here if row.any()]
        if np.median(spans) < STAYING_SHARE * w:
            continue
        # An arm may be all that moved: the rest is below, or beside.
        side = max(w, h)
        x0, x1 = max(0, round(x - 0.25 * w - 0.1 * side)), round(x + 1.25 * w + 0.1 * side)
        y0, y1 = max(0, round(y - 0.5 * h)), round(y + h + 1.8 * side)
        # Its surroundings, and not the whole picture, say what is background.
        x_from, x_to = max(0, round(x0 - 0.8 * (x1 - x0))), round(x1 + 0.8 * (x1 - x0))
        around = (slice(max(0, y0 - 5), y1 + 5), slice(x_from, x_to))
        mask = np.full((height, width), cv2.GC_BGD, np.uint8)
        mask[y0:y1, x0:x1] = cv2.GC_PR_FGD
        labels = np.ascontiguousarray(mask[around])
        if (labels == cv2.GC_BGD).sum() < 100:
            continue
        models = np.zeros((1, 65)), np.zeros((1, 65))
        picture = np.ascontiguousarray(median_HWC[around])
        hole = (labels == cv2.GC_PR_FGD).astype(np.uint8)
        filled = cv2.inpaint(picture, hole, 3, cv2.INPAINT_TELEA)
        distance = np.asarray(cv2.absdiff(picture, filled)).max(axis=2) * hole
        plain = distance < 1.2 * USUAL_DIFFERENCE
        labels[(hole > 0) & plain & (moved_HW[around]==0)] = cv2.GC_PR_BGD
        cv2.grabCut(picture, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
        _, parts = cv2.connectedComponents(((labels == cv2.GC_PR_FGD)|(distance > STRONG * USUAL_DIFFERENCE)).astype(np.uint8))
        touched = np.unique(parts[np.asarray(cv2.dilate(moved_HW[around], np.ones((3, 3)))) > 0])
        persons_HW[around] |= np.isin(parts, touched[touched > 0]).astype(np.uint8)
    return persons_HW


def _components(mask_HW: npt.NDArray[np.uint8],gx=.5) -> list[tuple[int, int, int, int]]:
    """Return x, y, width and height of what is joined over small gaps."""
    gap = max(3, round(mask_HW.shape[0] * 0.06))
    kernel = np.ones((gap, max(3, int(gap*gx))), np.uint8)
    joined = cv2.morphologyEx(mask_HW, cv2.MORPH_CLOSE, kernel)
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
    return [(x, y, w, h) for x, y, w, h, _ in stats[1:].tolist()]
