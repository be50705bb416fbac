"""From boxes to tracks of persons, and from tracks to tubes of actions.

`Tracker` numbers persons while frames go by; `link_tubes` then says when each of them does what.
A track is the same person whatever they do: a detector of persons knows no actions, so that boxes
are linked once and scores of classes follow the links [1]_.

References
----------
.. [1] G. Singh et al., "Online real-time multiple spatiotemporal action localisation and
   prediction", ICCV 2017. https://doi.org/10.1109/ICCV.2017.393 (trimming in time as there)
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Boxes, check_positive, check_share, overlaps
from flowpipe.errors import InvalidArgument
from flowpipe.metrics.tubes import Tube

# How fast the estimate of a person's speed follows, of 1.
SPEED_GAIN = 0.4
# Boxes that do not overlap are one person up to this ratio of their heights.
LIKE_HEIGHTS = 1.3


@dataclass
class _Track:
    number: int
    box_4: npt.NDArray[np.float64]
    seen: int
    # px per frame of the box's centre.
    speed_2: npt.NDArray[np.float64]

    def expected(self, index: int) -> npt.NDArray[np.float64]:
        return self.box_4 + np.tile(self.speed_2 * (index - self.seen), 2)


class Tracker:
    """Numbers persons over frames: who overlaps where a track would be by now continues it.

    Pairs are taken greedily, the largest IoU first, then the nearest of about the same height: who
    runs leaves their box between two looks. A track moves on at its speed while unseen.

    Parameters
    ----------
    min_overlap : float
        IoU of a box with where its track is expected.
    max_distance : float
        Between their centers, of the box's height, where they do not overlap; 0: they must.
    max_missed : int
        Frames that a track may be unseen; after more it ends and its number is not used again.
    min_score : float
        A weaker box may continue a track and begins none (its number is -1).
    """

    def __init__(
        self,
        *,
        min_overlap: float = 0.3,
        max_distance: float = 0.5,
        max_missed: int = 12,
        min_score: float = 0.0,
    ) -> None:
        check_share("min_overlap", min_overlap)
        if not max_distance >= 0:
            raise InvalidArgument(
                f"max_distance {max_distance} must be >= 0", parameter="max_distance"
            )
        check_share("min_score", min_score)
        if max_missed < 0:
            raise InvalidArgument(f"max_missed {max_missed} must be >= 0", parameter="max_missed")
        self.min_overlap, self.max_distance = min_overlap, max_distance
        self.max_missed, self.min_score = max_missed, min_score
        self._tracks: list[_Track] = []
        self._next = 0
        self._index: int | None = None

    def update(
        self, index: int, boxes_N4: Boxes, scores_N: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Return the number of the person in each box of a frame.

        Parameters
        ----------
        index : int
            Of the frame; it must ascend. Frames may be left out.
        boxes_N4 : array
            x1, y1, x2, y2 in px.
        scores_N : array

        Raises
        ------
        InvalidArgument
            If the frame is not later than the one before.
        """
        if self._index is not None and index <= self._index:
            raise InvalidArgument(
                f"frame {index} comes after frame {self._index}; frames must be in order"
            )
        self._index = index
        self._tracks = [t for t in self._tracks if index - t.seen <= self.max_missed + 1]
        expected = np.array([track.expected(index) for track in self._tracks]).reshape(-1, 4)
        likeness_NM = self._likeness(boxes_N4, expected)
        ids = np.full(len(boxes_N4), -1, np.int64)
        for flat in np.argsort(-likeness_NM, axis=None, kind="stable").tolist():
            row, place = divmod(flat, len(self._tracks))
            if likeness_NM[row, place] == -np.inf:
                break
            track = self._tracks[place]
            if ids[row] >= 0 or track.seen == index:
                continue
            ids[row] = track.number
            moved = (boxes_N4[row] - track.box_4).reshape(2, 2).mean(axis=0)
            track.speed_2 += SPEED_GAIN * (moved / (index - track.seen) - track.speed_2)
            track.box_4, track.seen = boxes_N4[row].copy(), index
        for row in np.flatnonzero((ids < 0) & (scores_N >= self.min_score)).tolist():
            self._tracks.append(_Track(self._next, boxes_N4[row].copy(), index, np.zeros(2)))
            ids[row] = self._next
            self._next += 1
        return ids

    def _likeness(self, boxes_N4: Boxes, expected_M4: Boxes) -> npt.NDArray[np.float64]:
        """Return IoU, or less than 0 the farther the centers are; -inf for strangers."""
        ours, theirs = boxes_N4[:, None], expected_M4[None]
        apart = (ours[..., :2] + ours[..., 2:] - theirs[..., :2] - theirs[..., 2:]) / 2
        heights = ours[..., 3] - ours[..., 1], theirs[..., 3] - theirs[..., 1]
        distance = np.hypot(apart[..., 0], apart[..., 1]) / np.maximum(heights[0], 1e-9)
        alike = np.maximum(*heights) <= LIKE_HEIGHTS * np.minimum(*heights)
        near = np.where(alike & (distance < self.max_distance), -distance, -np.inf)
        shared = overlaps(boxes_N4, expected_M4)
        return np.where(shared >= max(self.min_overlap, 1e-9), shared, near)


# A moment in s, the persons' numbers N and their scores N×K.
Moment = tuple[float, npt.NDArray[np.int64], npt.NDArray[np.float64]]


def smoothed(moments: Iterable[Moment], over_s: float) -> Iterator[npt.NDArray[np.float64]]:
    """Return mean scores of each person over the time around each moment of a video.

    An answer comes as soon as the moments of its time are there; memory does not grow. Persons of
    number -1 keep their scores.

    Parameters
    ----------
    moments : iterable of (float, N, N×K)
        Time, numbers from `Tracker`, scores; in order.
    over_s : float
        Half of it before and half behind; 0: scores stay as they are.
    """
    near: deque[Moment] = deque()
    place = 0
    for moment in moments:
        while place < len(near) and moment[0] - near[place][0] > over_s / 2 + 1e-9:
            yield _mean_around(near, place, over_s)
            place += 1
            while near[0][0] < near[min(place, len(near) - 1)][0] - over_s / 2 - 1e-9:
                near.popleft()
                place -= 1
        near.append(moment)
    for late in range(place, len(near)):
        yield _mean_around(near, late, over_s)


def _mean_around(near: Sequence[Moment], place: int, over_s: float) -> npt.NDArray[np.float64]:
    time_s, ids_N, scores_NK = near[place]
    around = [each for each in near if abs(each[0] - time_s) <= over_s / 2 + 1e-9]
    ids_M = np.concatenate([ids for _, ids, _ in around])
    scores_MK = np.concatenate([scores for _, _, scores in around])
    means = [
        scores_MK[ids_M == number].mean(axis=0) if number >= 0 else scores_K
        for number, scores_K in zip(ids_N.tolist(), scores_NK, strict=True)
    ]
    return np.array(means).reshape(scores_NK.shape)


@dataclass(frozen=True, kw_only=True)
class TubeOptions:
    """How tubes are cut from tracks.

    Attributes
    ----------
    smooth_s : float
        Scores of a track are means over this time before the cut.
    threshold : float
        An action goes on while its score is above this, or above half of the track's best score
        of that action where that is less: weak actions get tubes too, of a low score.
    switch_cost_s : float
        A stretch of score 1 must last twice this to be worth a beginning and an end; .12 s are the
        three frames of [1].
    max_gap_s : float
        Boxes are filled in where a track is unseen up to this; a longer gap divides a tube.
    min_length_s : float
        Shorter tubes are dropped.
    best : int
        A tube's score is the mean of this many of its boxes, the best.
    min_score : float
        Tubes of a lower score are dropped.
    """

    smooth_s: float = 0.6
    threshold: float = 0.5
    switch_cost_s: float = 0.12
    max_gap_s: float = 1.0
    min_length_s: float = 0.4
    best: int = 20
    min_score: float = 0.05

    def __post_init__(self) -> None:
        for name in ("smooth_s", "switch_cost_s", "max_gap_s", "min_length_s"):
            if not getattr(self, name) >= 0:
                raise InvalidArgument(f"{name} {getattr(self, name)} must be >= 0", parameter=name)
        check_positive("best", self.best)
        check_share("threshold", self.threshold)
        check_share("min_score", self.min_score)


def link_tubes(
    video: str,
    frames: npt.NDArray[np.int64],
    boxes: Boxes,
    class_scores: npt.NDArray[np.float64],
    ids: npt.NDArray[np.int64],
    class_names: Sequence[str],
    fps: float,
    options: TubeOptions | None = None,
) -> list[Tube]:
    """Return a tube for each stretch of a person's track in which an action goes on.

    Parameters
    ----------
    video : str
    frames : array of N int
        The frame of each box, in any order; not every frame need have been looked at.
    boxes : array of N×4
        x1, y1, x2, y2 in px.
    class_scores : array of N×K
        In [0, 1].
    ids : array of N int
        The person in each box, from `Tracker`; -1 is nobody.
    class_names : sequence of K str
    fps : float
    options : TubeOptions, optional

    Returns
    -------
    list of Tube
        The best first. Boxes between the frames looked at are interpolated.

    Raises
    ------
    InvalidArgument
        If lengths differ, a score lies outside [0, 1], or a person has two boxes on a frame.
    """
    options = options or TubeOptions()
    check_positive("fps", fps)
    count = len(frames)
    if (
        boxes.shape != (count, 4)
        or class_scores.shape != (count, len(class_names))
        or ids.shape != (count,)
    ):
        raise InvalidArgument(
            f"{count} frames, boxes {boxes.shape}, scores {class_scores.shape}, ids {ids.shape} "
            f"and {len(class_names)} classes: there must be a box, an id and a score of each class "
            "for each frame number"
        )
    if not ((class_scores >= 0) & (class_scores <= 1)).all():
        raise InvalidArgument("scores of classes must lie in [0, 1]; apply sigmoid or softmax")
    tubes = []
    for number in np.unique(ids[ids >= 0]).tolist():
        rows = np.flatnonzero(ids == number)
        rows = rows[np.argsort(frames[rows], kind="stable")]
        if (np.diff(frames[rows]) == 0).any():
            raise InvalidArgument(f"person {number} of {video} has two boxes on a frame")
        gaps = np.flatnonzero(np.diff(frames[rows]) > options.max_gap_s * fps + 1) + 1
        for part in np.split(rows, gaps):
            tubes += _tubes_of(
                video, frames[part], boxes[part], class_scores[part], class_names, fps, options
            )
    return sorted(tubes, key=lambda tube: -tube.score)


def _tubes_of(
    video: str,
    frames_T: npt.NDArray[np.int64],
    boxes_T4: Boxes,
    scores_TK: npt.NDArray[np.float64],
    class_names: Sequence[str],
    fps: float,
    options: TubeOptions,
) -> list[Tube]:
    """Return the tubes of a track without long gaps."""
    times_T = frames_T / fps
    steps = np.diff(times_T)
    # Each box speaks for the time half-way to its neighbours.
    dwell_T = (np.append(steps, steps[-1:]) + np.append(steps[:1], steps)) / 2
    if not len(steps):
        dwell_T = np.array([1 / fps])
    smooth_TK = _smooth(times_T, scores_TK, options.smooth_s)
    every = np.arange(frames_T[0], frames_T[-1] + 1)
    filled = np.stack([np.interp(every, frames_T, side) for side in boxes_T4.T], axis=1)
    tubes = []
    for label, smooth_T, scores_T in zip(class_names, smooth_TK.T, scores_TK.T, strict=True):
        threshold = min(options.threshold, smooth_T.max() / 2)
        goes_on = trim((smooth_T - threshold) * dwell_T, options.switch_cost_s)
        edges = np.flatnonzero(np.diff(goes_on.astype(np.int8), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2).tolist():
            first, last = frames_T[start], frames_T[stop - 1]
            score = float(np.sort(scores_T[start:stop])[-options.best :].mean())
            if (last - first + 1) / fps < options.min_length_s or score < options.min_score:
                continue
            span = slice(first - every[0], last - every[0] + 1)
            tubes.append(Tube(video, label, every[span], filled[span], score))
    return tubes


def _smooth(
    times_T: npt.NDArray[np.float64], scores_TK: npt.NDArray[np.float64], over_s: float
) -> npt.NDArray[np.float64]:
    """Return the mean over the observations within half of `over_s`."""
    sums = np.concatenate((np.zeros((1, scores_TK.shape[1])), np.cumsum(scores_TK, axis=0)))
    first = np.searchsorted(times_T, times_T - over_s / 2 - 1e-9)
    stop = np.searchsorted(times_T, times_T + over_s / 2 + 1e-9)
    return np.asarray((sums[stop] - sums[first]) / (stop - first)[:, None])


def trim(evidence_T: npt.NDArray[np.float64], switch_cost: float) -> npt.NDArray[np.bool_]:
    """Return where an action goes on: the two-state path of most evidence less switches.

    Viterbi's algorithm. A path that is on (or off) at the first or last moment pays nothing there.

    Parameters
    ----------
    evidence_T : array
        > 0 speaks for the action.
    switch_cost : float
    """
    came_from = np.empty((len(evidence_T), 2), bool)
    off, on = 0.0, 0.0
    for moment, evidence in enumerate(evidence_T.tolist()):
        came_from[moment] = on - switch_cost > off, on >= off - switch_cost
        off, on = max(off, on - switch_cost), max(on, off - switch_cost) + evidence
    goes_on = np.empty(len(evidence_T), bool)
    state = on > off
    for moment in range(len(evidence_T) - 1, -1, -1):
        goes_on[moment] = state
        state = came_from[moment, int(state)]
    return goes_on
