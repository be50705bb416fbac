"""Boxes of persons that a file holds: annotations, or what another program found."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowpipe.detection.annotations import read_person_boxes
from flowpipe.detection.persons.boxes import Found, check_positive, check_share, clean
from flowpipe.errors import InvalidArgument, nearest_name


class CsvBoxes:
    """The boxes of one video from a CSV file: AVA's form, the plain one, or tubes.

    A person with several labels is one box. Boxes that all lie in [0, 1] are shares of the
    picture's sides, others px. Frames of which the file says nothing have no box.

    Parameters
    ----------
    path : path
    video : str
        Name of the video in the file.
    fps : float, optional
        Frames per second of the video; needed where the file holds times and no frame numbers.
    start_s : float
        Time of the first frame in the file's count: 900 for AVA's excerpts.
    min_score : float
        Leave out boxes below.

    Raises
    ------
    AnnotationError
        If the file cannot be read or a row is broken.
    InvalidArgument
        If it has no box of the video, or holds times and `fps` is missing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        video: str,
        fps: float | None = None,
        start_s: float = 0.0,
        min_score: float = 0.0,
    ) -> None:
        check_share("min_score", min_score)
        if fps is not None:
            check_positive("fps", fps)
        file = read_person_boxes(path)
        rows = np.flatnonzero(file.videos == video)
        if not len(rows):
            known = sorted(set(file.videos))
            raise InvalidArgument(
                f'{path} has no box of "{video}"{nearest_name(video, known)}; its {len(known)} '
                f"videos are {', '.join(known[:3])}{', …' if len(known) > 3 else ''}",
                parameter="video",
            )
        if file.in_frames:
            frames = file.moments[rows]
        elif fps is None:
            raise InvalidArgument(
                f"{path} gives times in seconds; fps, the video's frames per second, is needed",
                parameter="fps",
            )
        else:
            frames = (file.moments[rows] - start_s) * fps
        self.min_score = min_score
        self.in_shares = bool(file.boxes.max() <= 1.0)
        self._by_frame: dict[int, list[int]] = {}
        self._boxes, self._scores = file.boxes[rows], file.scores[rows]
        for row, frame in enumerate(np.rint(frames).astype(np.int64).tolist()):
            self._by_frame.setdefault(frame, []).append(row)

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the file's boxes of each frame."""
        for index, frame_HWC in frames:
            rows = np.array(self._by_frame.get(index, []), np.int64)
            size = frame_HWC.shape[:2]
            boxes_N4 = self._boxes[rows]
            if self.in_shares:
                boxes_N4 = boxes_N4 * (size[1], size[0], size[1], size[0])
            # Rows of one person that differ in the label only are one box.
            yield (
                index,
                *clean(
                    boxes_N4,
                    self._scores[rows],
                    size,
                    min_score=self.min_score,
                    max_overlap=1.0 - 1e-9,
                ),
            )
