"""How well a detector answers on test videos: frame mAP on true boxes and on found ones."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.detection.data import DetectionData, Part
from flowpipe.detection.detector import Detector
from flowpipe.detection.examples import (
    Example,
    KeyFrames,
    boxes_of,
)
from flowpipe.detection.finding import find_persons, rate_of
from flowpipe.detection.linking import Moment, Tracker, smoothed
from flowpipe.detection.settings import DetectSettings
from flowpipe.metrics.boxes import Boxes, box_precision

# The file of each part of the results.
DETECTIONS = {"true_boxes": "detections_true.csv", "found_boxes": "detections_found.csv"}
Floats = npt.NDArray[np.float64]


def measure(
    settings: DetectSettings, data: DetectionData, detector: Detector, out: Path
) -> dict[str, Any]:
    """Return frame mAP on the test videos, with true boxes and with found ones; write detections.

    Returns
    -------
    dict
        test_boxes, true_boxes and found_boxes, each with mAP, AP and errors; {} without tests.
    """
    test = data.test
    if test is None:
        return {}
    smooth_s = settings.persons.smooth_s
    true = _precision(
        detector, data, test, test.examples, {}, smooth_s, out / DETECTIONS["true_boxes"]
    )
    record: dict[str, Any] = {"test_boxes": test.use.boxes, "true_boxes": true}
    if settings.persons.boxes is not None:
        found = find_persons(settings, data, test)
        nobody = (np.zeros((0, 4)), np.zeros(0))
        seen = [_with_boxes(e, found.get((e.video, e.frame), nobody)[0]) for e in test.examples]
        weights = {key: value for key, (_, value) in found.items() if settings.persons.weigh}
        path = out / DETECTIONS["found_boxes"]
        precision = _precision(detector, data, test, seen, weights, smooth_s, path)
        record["found_boxes"] = {"boxes": settings.persons.boxes, **precision}
    return record


def _precision(
    detector: Detector,
    data: DetectionData,
    test: Part,
    examples: Sequence[Example],
    person_scores: Mapping[tuple[str, int], Floats],
    smooth_s: float,
    path: Path,
) -> dict[str, Any]:
    classes = data.classes
    # Persons are followed through each video.
    in_order = sorted(examples, key=lambda example: (example.video, example.frame))
    scored = _followed(detector.score(in_order, data.cache), data.entries, smooth_s)
    detections = detections_of(scored, classes, person_scores)
    write_boxes(path, detections, test.places)
    truth_rows = [
        (example.key, name, box)
        for example in test.examples
        for box, targets in zip(example.boxes, example.targets, strict=True)
        for name, has in zip(classes, targets.tolist(), strict=True)
        if has
    ]
    truth = boxes_of(truth_rows, empty=[example.key for example in test.examples])
    if not truth_rows:
        return {}
    result = box_precision(truth, detections, classes, cap=None)
    return {
        "mAP": result.mean_ap,
        "AP": {name: None if np.isnan(ap) else ap for name, ap in result.ap.items()},
        "errors": {kind.name: kind.count for kind in result.errors},
    }


def _followed(
    scored: Iterable[tuple[Example, Floats]], entries: Any, smooth_s: float
) -> Iterator[tuple[Example, Floats]]:
    """Return key frames with probabilities that are means over time for each person."""
    for name, of_video in itertools.groupby(scored, key=lambda each: each[0].video):
        entry, looks = entries[name], list(of_video)
        tracker = Tracker(max_missed=round(smooth_s * rate_of(entry)))
        moments: list[Moment] = []
        last = -1
        for example, probabilities_NK in looks:
            # Two key frames may be nearest to one frame.
            last = max(example.frame, last + 1)
            ids_N = tracker.update(last, example.boxes, np.ones(len(example.boxes)))
            moments.append((float(entry.pts_s[example.frame]), ids_N, probabilities_NK))
        for (example, _), means_NK in zip(looks, smoothed(moments, smooth_s), strict=True):
            yield example, means_NK


def detections_of(
    scored: Iterable[tuple[Example, Floats]],
    classes: Sequence[str],
    person_scores: Mapping[tuple[str, int], Floats],
) -> Boxes:
    """Return one row for each box and class, boxes in px of the cached frame."""
    rows, scores = [], []
    for example, probabilities_NK in scored:
        weights = person_scores.get((example.video, example.frame))
        for row, (box, values) in enumerate(zip(example.boxes, probabilities_NK, strict=True)):
            weight = 1.0 if weights is None else float(weights[row])
            for name, value in zip(classes, values.tolist(), strict=True):
                rows.append((example.key, name, box))
                scores.append(value * weight)
    return boxes_of(rows, scores)


def write_boxes(path: Path, detections: Boxes, places: KeyFrames) -> None:
    """Write rows in the plain form, in the unit and px of the annotations."""
    assert detections.scores is not None
    time = "frame" if places.unit == "frame" else "time_s"
    with write_aside(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", time, "x1", "y1", "x2", "y2", "label", "score"])
        for key, label, box, score in zip(
            detections.frames, detections.labels, detections.boxes, detections.scores, strict=True
        ):
            corners = [f"{v:.6g}" for v in (box / places.scale(key[0])).tolist()]
            writer.writerow([key[0], f"{key[1] / 1e6:g}", *corners, label, f"{score:.6g}"])


def _with_boxes(example: Example, boxes: Floats) -> Example:
    targets = np.zeros((len(boxes), example.targets.shape[1]), bool)
    return replace(example, boxes=boxes, targets=targets)
