"""What was seen, written row by row in the plain form that `flowpipe detect eval` reads."""

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from flowpipe.atomic import write_aside

COLUMNS = ("video", "time_s", "x1", "y1", "x2", "y2", "label", "person", "score")


class DetectionWriter:
    """Writes detections as they come; the file stands when all are there.

    Parameters
    ----------
    path : Path or None
        None: nothing is written.
    classes : sequence of str
    min_score : float
        Rows below are left out.
    """

    def __init__(self, path: Path | None, classes: Sequence[str], min_score: float = 0.0) -> None:
        self.path, self.classes, self.min_score = path, tuple(classes), min_score
        self._stack = ExitStack()
        self._rows: Any = None

    def __enter__(self) -> "DetectionWriter":
        if self.path is not None:
            file: IO[Any] = self._stack.enter_context(write_aside(self.path, "w"))
            self._rows = csv.writer(file, lineterminator="\n")
            self._rows.writerow(COLUMNS)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, frame: Any) -> None:
        """Write the rows of a `SeenFrame`: one for each person and class."""
        if self._rows is None:
            return
        moment = f"{frame.time_s:.6f}"
        for box, person, values in zip(
            frame.boxes, frame.ids.tolist(), frame.probabilities, strict=True
        ):
            corners = [f"{v:.2f}" for v in box.tolist()]
            for number in np.flatnonzero(values >= self.min_score).tolist():
                label, score = self.classes[number], f"{values[number]:.6g}"
                self._rows.writerow((frame.video, moment, *corners, label, person, score))
