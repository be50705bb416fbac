"""Persons over time, as pages and videos show them: where each is and what they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flowpipe.detection.linking import TubeOptions, link_tubes
from flowpipe.detection.persons.boxes import Boxes
from flowpipe.errors import InvalidArgument
from flowpipe.metrics.tubes import Tube

# A box is shown between two moments that are not further apart.
MAX_GAP_S = 1.0
UNKNOWN_FPS = 25.0


class SeenPersons(Protocol):
    """The persons on one frame of a video."""

    @property
    def video(self) -> str: ...
    @property
    def frame(self) -> int: ...
    @property
    def time_s(self) -> float: ...
    @property
    def boxes(self) -> Boxes: ...
    @property
    def ids(self) -> npt.NDArray[np.int64]: ...
    @property
    def probabilities(self) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class Track:
    """One person of a video.

    Attributes
    ----------
    number : int
    frames : array of T int
    times_s : array of T
        Ascending; 0 is the first frame of the video.
    boxes_T4 : array
        x1, y1, x2, y2 in px of the video.
    scores_TK : array
        Of each class.

    Raises
    ------
    InvalidArgument
        If lengths differ or times do not ascend.
    """

    number: int
    frames: npt.NDArray[np.int64]
    times_s: npt.NDArray[np.float64]
    boxes_T4: Boxes
    scores_TK: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.times_s)
        if not count or self.boxes_T4.shape != (count, 4) or len(self.scores_TK) != count:
            raise InvalidArgument(
                f"person {self.number} has {count} moments, boxes {self.boxes_T4.shape} and scores "
                f"{self.scores_TK.shape}; there must be one of each, and one moment at least"
            )
        if (np.diff(self.times_s) <= 0).any():
            raise InvalidArgument(f"the moments of person {self.number} must ascend")

    @property
    def step_s(self) -> float:
        """Usual time from one look to the next."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.2

    def box_at(self, time_s: float) -> npt.NDArray[np.float64] | None:
        """Return the box at a moment, between two looks on the line; None where unseen."""
        after = int(np.searchsorted(self.times_s, time_s))
        near = self.times_s[max(after - 1, 0) : after + 1]
        if len(near) == 2 and near[1] - near[0] <= MAX_GAP_S:
            share = (time_s - near[0]) / (near[1] - near[0])
            before_4, after_4 = self.boxes_T4[after - 1 : after + 1]
            return np.asarray(before_4 + share * (after_4 - before_4))
        place = int(np.abs(self.times_s - time_s).argmin())
        seen = abs(self.times_s[place] - time_s) <= self.step_s / 2 + 1e-9
        return self.boxes_T4[place] if seen else None

    def scores_at(self, time_s: float) -> npt.NDArray[np.float64]:
        """Return the scores of the nearest look."""
        return np.asarray(self.scores_TK[int(np.abs(self.times_s - time_s).argmin())])


def labels_of(
    scores_K: npt.NDArray[np.float64], classes: Sequence[str], *, min_score: float, most: int = 3
) -> list[tuple[str, float]]:
    """Return the best classes of a score not below, best first; the best one at least."""
    order = np.argsort(-scores_K, kind="stable")[:most].tolist()
    kept = [k for place, k in enumerate(order) if place == 0 or scores_K[k] >= min_score]
    return [(classes[k], float(scores_K[k])) for k in kept]


class TrackCollector:
    """Gathers the tracks of each video while its frames go by."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, list[tuple[int, float, Boxes, Boxes]]]] = {}

    def add(self, frame: SeenPersons) -> None:
        """Take the persons of a frame; frames of a video must come in order."""
        persons = self._rows.setdefault(frame.video, {})
        for number, box_4, scores_K in zip(
            frame.ids.tolist(), frame.boxes, frame.probabilities, strict=True
        ):
            if number >= 0:
                row = (frame.frame, frame.time_s, box_4, scores_K)
                persons.setdefault(number, []).append(row)

    def tracks(self, video: str, *, min_moments: int = 1) -> list[Track]:
        """Return the tracks of a video, the longest first; short ones can be left out."""
        found = []
        for number, rows in self._rows.get(video, {}).items():
            if len(rows) >= min_moments:
                found.append(Track(number, *map(np.array, zip(*rows, strict=True))))
        return sorted(found, key=lambda track: (-len(track.times_s), track.number))

    def tubes(
        self, video: str, classes: Sequence[str], options: TubeOptions | None = None
    ) -> list[Tube]:
        """Return when each person of a video does what; see `link_tubes`."""
        tracks = self.tracks(video)
        if not tracks:
            return []
        frames = np.concatenate([track.frames for track in tracks])
        times_s = np.concatenate([track.times_s for track in tracks])
        last = int(times_s.argmax())
        return link_tubes(
            video,
            frames,
            np.concatenate([track.boxes_T4 for track in tracks]),
            np.concatenate([track.scores_TK for track in tracks]),
            np.repeat([track.number for track in tracks], [len(t.times_s) for t in tracks]),
            classes,
            # Of the whole video, whose first frame is at 0 s.
            float(frames[last] / times_s[last]) if times_s[last] > 0 else UNKNOWN_FPS,
            options,
        )
