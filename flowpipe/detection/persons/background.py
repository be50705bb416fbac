"""What differs from a still background: persons before a static camera.

In: RGB frames, a window of them at a time (20 s at 25 fps). The background is the median of the
window; where a large part of the picture changes at once and stays so (a lamp, another camera), of
the time between two such changes, in that part. Persons who stay in their place are in the median
themselves: they are cut out of it, around where anything moved (GrabCut [1]_), and filled in from
their surroundings. What differs from the background is joined to components; parts above each
other are one person.

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
from flowpipe.detection.persons.meetings import divide

Picture = npt.NDArray[np.uint8]

# The background needs no more frames than this of a window.
MOST_SAMPLES = 50
# Of 255: above the noise of a camera and of compression.
USUAL_DIFFERENCE = 22.0
# Where this share of frames differs, something moved.
MOVED_SHARE = 0.06
# Who moves in a region of which they cover this share at a time stays in the place.
STAYING_SHARE = 0.35
# The background of a part of the picture is another one where cells change from one frame to the
# next, are still so STAYS frames later, and that so many cells at once, several times as many as on
# most frames about: who moves goes on to move. CHANGE is of 255, the mean of a cell, in which no
# pixel counts for more than MOST_CHANGE: a person in a corner of it is no change.
CELL_PX, CHANGE, MOST_CHANGE, STAYS, CHANGED_SHARE = 15, 4.0, 20, 4, 0.05
ABOUT_FRAMES, TIMES_USUAL = 8, 3.0
# Within this share of the picture's height, parts are joined.
GAP_SHARE = 0.06
# How many times the usual difference from what the surroundings let expect is likely, and is at
# least needed, for a person in the background.
LIKELY, CERTAIN = 1.2, 1.5


class BackgroundDetector:
    """Whoever differs from what is there most of the time; the camera must stand still.

    Parameters
    ----------
    window : int
        Frames that are read ahead and share a background, and fewer at the end with those before;
        memory grows with it. Many more than a person needs to cross the picture.
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
        window: int = 500,
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
        before: list[Picture] = []
        while chunk := [
            (index, frame.shape[:2], self._small(frame))
            for index, frame in itertools.islice(rest, self.window)
        ]:
            smalls = [small for _, _, small in chunk]
            # A last window of few frames would show persons in their places.
            known = before[len(smalls) :]
            backgrounds = self._backgrounds(np.stack([*known, *smalls]))
            shown = itertools.islice(backgrounds, len(known), None)
            found = [
                self._boxes(self._difference(small_HWC, background_HWC))
                for small_HWC, background_HWC in zip(smalls, shown, strict=True)
            ]
            persons = divide([boxes_N4 for boxes_N4, _ in found])
            for (index, size, small_HWC), (_, scores_N), parts in zip(
                chunk, found, persons, strict=True
            ):
                boxes_M4 = np.concatenate([np.zeros((0, 4)), *parts])
                scores_M = np.repeat(scores_N, [len(part) for part in parts])
                scale = (size[1] / small_HWC.shape[1], size[0] / small_HWC.shape[0])
                yield index, *clean(boxes_M4 * np.tile(scale, 2), scores_M, size)
            before = smalls

    def _small(self, frame_HWC: Picture) -> Picture:
        height, width = frame_HWC.shape[:2]
        scale = min(1.0, self.short_side / min(height, width))
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small, (3, 3), 0), np.uint8)

    def _backgrounds(self, small_THWC: Picture) -> Iterator[Picture]:
        """Return the background of each frame of a window."""
        whole_HWC = np.zeros_like(small_THWC[0])
        starts: dict[int, list[tuple[npt.NDArray[np.bool_], tuple[slice, slice], Picture]]] = {}
        for region_HW, times in regions(changes(small_THWC), small_THWC.shape[1:3]):
            rows, columns = (np.flatnonzero(region_HW.any(axis=axis)) for axis in (1, 0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            for start, stop in itertools.pairwise([0, *times, len(small_THWC)]):
                found_HWC = self._background(small_THWC[start:stop, box[0], box[1]])
                starts.setdefault(start, []).append((region_HW[box], box, found_HWC))
        for time in range(len(small_THWC)):
            if time in starts:
                whole_HWC = whole_HWC.copy()
                for mask_HW, box, found_HWC in starts[time]:
                    whole_HWC[box][mask_HW] = found_HWC[mask_HW]
            yield whole_HWC

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
        mask = _without_specks(difference_HW > self.threshold)
        boxes, scores = [], []
        for x, y, w, h in _components(mask):
            if h < self.min_height * height:
                continue
            boxes.append((x, y, x + w, y + h))
            scores.append(float(mask[y : y + h, x : x + w].mean()))
        return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores)


def changes(small_THWC: Picture) -> npt.NDArray[np.bool_]:
    """Return in which cells the background changes with a frame, T×rows×columns."""
    count, height, width = small_THWC.shape[:3]
    size = max(1, round(width / CELL_PX)), max(1, round(height / CELL_PX))
    cells_T = np.zeros((count, size[1], size[0]), bool)
    for time in range(1, count):
        later = min(time + STAYS, count - 1)
        apart = np.minimum(
            *(cv2.absdiff(small_THWC[k], small_THWC[time - 1]).max(axis=2) for k in (time, later))
        )
        means = cv2.resize(
            np.minimum(apart, MOST_CHANGE).astype(np.float32), size, interpolation=cv2.INTER_AREA
        )
        cells_T[time] = np.asarray(means) > CHANGE
    share_T = cells_T.mean(axis=(1, 2))
    changed = np.zeros_like(cells_T)
    for time in np.flatnonzero(share_T >= CHANGED_SHARE).tolist():
        usual = np.median(share_T[max(0, time - ABOUT_FRAMES) : time + ABOUT_FRAMES + 1])
        if share_T[time] < TIMES_USUAL * usual:
            continue
        _, _, stats, _ = cv2.connectedComponentsWithStats(
            cv2.morphologyEx(cells_T[time].astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3)))
        )
        for x, y, w, h, area in stats[1:].tolist():
            if area >= CHANGED_SHARE / 2 * size[0] * size[1]:
                changed[time, y : y + h, x : x + w] = True
    return changed


def regions(
    changed: npt.NDArray[np.bool_], size: tuple[int, int]
) -> Iterator[tuple[npt.NDArray[np.bool_], list[int]]]:
    """Return the parts of a picture whose background changes at the same times, and the times."""
    histories, which = np.unique(changed.reshape(len(changed), -1), axis=1, return_inverse=True)
    cells = which.reshape(changed.shape[1:])
    height, width = changed.shape[1:]
    rows = np.searchsorted(_edges(size[0], height), np.arange(size[0]), "right") - 1
    columns = np.searchsorted(_edges(size[1], width), np.arange(size[1]), "right") - 1
    for number, history in enumerate(histories.T):
        yield (cells == number)[rows][:, columns], np.flatnonzero(history).tolist()


def _edges(length: int, cells: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, length, cells + 1).astype(np.int64)


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
    moved_HW = _without_specks(np.asarray(differs_THW.mean(axis=0) > MOVED_SHARE))
    persons_HW = np.zeros((height, width), np.uint8)
    for x, y, w, h in _components(moved_HW, upright=False):
        here_TW = np.asarray(differs_THW[:, y : y + h, x : x + w].any(axis=1))
        spans = [np.ptp(np.flatnonzero(here_W)) + 1 for here_W in here_TW if here_W.any()]
        if h < GAP_SHARE * height or not spans or np.median(spans) < STAYING_SHARE * w:
            continue
        # An arm may be all that moved: the rest is below, or beside.
        side = max(w, h)
        x0, x1 = max(0, round(x - 0.25 * w - 0.3 * side)), round(x + 1.25 * w + 0.3 * side)
        y0, y1 = max(0, round(y - 0.5 * h)), round(y + h + 1.8 * side)
        # Its surroundings, and not the whole picture, say what is background.
        x_from, x_to = max(0, round(x0 - 0.8 * (x1 - x0))), round(x1 + 0.8 * (x1 - x0))
        around = (slice(max(0, y0 - 5), y1 + 5), slice(x_from, x_to))
        within_HW = np.zeros((height, width), np.uint8)
        within_HW[y0:y1, x0:x1] = 1
        persons_HW[around] |= _cut(
            np.ascontiguousarray(median_HWC[around]), within_HW[around], moved_HW[around]
        )
    return persons_HW


def _cut(picture_HWC: Picture, within_HW: Picture, moved_HW: Picture) -> Picture:
    """Return 1 where a picture shows a person that touches what moved."""
    within_HW = np.ascontiguousarray(within_HW)
    if within_HW.mean() > 0.95:  # nothing is left that were surely background
        return np.zeros_like(within_HW)
    expected = cv2.inpaint(picture_HWC, within_HW, 3, cv2.INPAINT_TELEA)
    distance_HW = np.asarray(cv2.absdiff(picture_HWC, expected)).max(axis=2) * within_HW
    labels = np.full(within_HW.shape, cv2.GC_BGD, np.uint8)
    labels[within_HW > 0] = cv2.GC_PR_BGD
    likely_HW = (distance_HW >= LIKELY * USUAL_DIFFERENCE) | (moved_HW > 0)
    labels[(within_HW > 0) & likely_HW] = cv2.GC_PR_FGD
    # The first clusters of colors are drawn at random: the same ones each time.
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture_HWC, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    # Otsu's threshold rises where the wall itself is uneven.
    uneven, _ = cv2.threshold(distance_HW[within_HW > 0], 0, 255, cv2.THRESH_OTSU)
    certain_HW = distance_HW > max(uneven, CERTAIN * USUAL_DIFFERENCE)
    person_HW = (labels == cv2.GC_PR_FGD) | certain_HW
    _, parts = cv2.connectedComponents(person_HW.astype(np.uint8))
    near = cv2.dilate(np.ascontiguousarray(moved_HW), np.ones((3, 3)))
    touched = np.unique(parts[np.asarray(near) > 0])
    cut_HW = np.asarray(np.isin(parts, touched[touched > 0]))
    return np.asarray(cut_HW & ~_walls(cut_HW, np.asarray(np.asarray(near).any(axis=0))), np.uint8)


def _walls(cut_HW: npt.NDArray[np.bool_], moved_W: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what a cut takes of the wall: wider than high, beside the columns where one moved."""
    beside_HW = (cut_HW & ~moved_W).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(beside_HW)
    wide = np.flatnonzero(stats[:, cv2.CC_STAT_WIDTH] > stats[:, cv2.CC_STAT_HEIGHT])
    return np.asarray(np.isin(parts, wide[wide > 0]))


def _without_specks(mask_HW: npt.NDArray[np.bool_]) -> Picture:
    opened = cv2.morphologyEx(mask_HW.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return np.asarray(opened, np.uint8)


def _components(
    mask_HW: npt.NDArray[np.uint8], *, upright: bool = True
) -> list[tuple[int, int, int, int]]:
    """Return x, y, width and height of what is joined over gaps; narrower ones beside each other
    than above each other if `upright`.
    """
    gap = max(3, round(mask_HW.shape[0] * GAP_SHARE))
    kernel = np.ones((gap, max(3, gap // 2) if upright else gap), np.uint8)
    joined = cv2.morphologyEx(mask_HW, cv2.MORPH_CLOSE, kernel)
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
    return [(x, y, w, h) for x, y, w, h, _ in stats[1:].tolist()]
