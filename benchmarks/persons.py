"""Recall and precision of persons' boxes, for each kind of detector and each set of videos.

    python benchmarks/persons.py [--every 5] [--clips N] [--scenes DIR] [--json FILE]

Reads FLOWPIPE_DATA (or ../shared/data): `ava/weizmann_boxes.csv` (every frame, from silhouettes),
`ava/goldens/tubes_truth.csv` (UCF101-24: who acts, boxed loosely and with what they hold or ride;
bystanders count as false) and `weights/*.onnx`. `--scenes` is the folder of videos that
`ava/compose_scenes.py` wrote (several people; a background that jumps every two seconds). A true
box is recalled where some box overlaps it by IoU .5; AP is the official program's, of one class.
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, arguments, deliver, show

from flowpipe.detection.persons import make_person_detector
from flowpipe.detection.persons.boxes import overlaps
from flowpipe.metrics.boxes import Boxes, box_precision
from flowpipe.video import VideoReader

# Video → its file, and the true boxes of each frame.
Clips = dict[str, tuple[Path, dict[int, list[list[float]]]]]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def clips_of(table: Path, column: str, folder: Path, suffix: str, number: int | None) -> Clips:
    """Read boxes as corners or as x, y, w, h; keep `number` videos spread over all."""
    clips: Clips = {}
    for row in rows_of(table):
        name = row[column]
        path = folder / (name + suffix)
        if not path.exists():
            continue
        if "x1" in row:
            box = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
        else:
            x, y, w, h = (float(row[key]) for key in "xywh")
            box = [x, y, x + w, y + h]
        clips.setdefault(name, (path, {}))[1].setdefault(int(row["frame"]), []).append(box)
    names = list(clips)
    if number is not None and number < len(names):
        names = [names[round(k)] for k in np.linspace(0, len(names) - 1, number)]
    return {name: clips[name] for name in names}


def measure(clips: Clips, spec: str, every: int, options: dict[str, Any]) -> dict[str, Any]:
    frames: list[list[tuple[str, int]]] = [[], []]
    boxes: list[list[Any]] = [[], []]
    scores: list[float] = []
    hits, right = [], []
    looked, started = 0, time.perf_counter()
    for name, (path, truth) in clips.items():
        for index, found_N4, scores_N in make_person_detector(spec, **options).find(
            pictures(path, 1 if spec == "background" else every)
        ):
            looked += 1
            if index not in truth or index % every:
                continue
            true_M4 = np.array(truth[index])
            shared = overlaps(true_M4, found_N4)
            hits += (shared.max(axis=1, initial=0) >= 0.5).tolist()
            right += (shared.max(axis=0, initial=0) >= 0.5).tolist()
            for side, rows in enumerate((true_M4, found_N4)):
                frames[side] += [(name, index)] * len(rows)
                boxes[side] += list(rows)
            scores += scores_N.tolist()
    seconds = time.perf_counter() - started
    sides = [
        Boxes(column(f), column(["person"] * len(f)), np.array(b).reshape(-1, 4), s)
        for f, b, s in zip(frames, boxes, (None, np.array(scores)), strict=True)
    ]
    return {
        "recall": float(np.mean(hits)),
        "precision": float(np.mean(right)) if right else 0.0,
        "AP": box_precision(*sides, cap=None).mean_ap,
        "boxes a frame": len(right) / max(1, len(set(frames[0]))),
        "ms a frame": 1000 * seconds / looked,
    }


def pictures(path: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    for frame in VideoReader(path, rgb=True):
        if frame.index % every == 0 and frame.rgb_HWC is not None:
            yield frame.index, frame.rgb_HWC


def column(values: list[Any]) -> np.ndarray:
    objects = np.empty(len(values), object)
    objects[:] = values
    return objects


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--every", type=int, default=5, help="look at every Nth frame")
    parser.add_argument("--clips", type=int, help="this many videos of each set")
    parser.add_argument("--scenes", type=Path, metavar="DIR", help="composed scenes")
    given = parser.parse_args()
    data = Path(os.environ.get("FLOWPIPE_DATA", HERE.parents[1] / "shared" / "data"))
    ava, weights = data / "ava", data / "weights"
    sets = {
        "Weizmann": clips_of(
            ava / "weizmann_boxes.csv", "clip", data / "weizmann", "", given.clips
        ),
        "UCF101-24": clips_of(
            ava / "goldens" / "tubes_truth.csv",
            "video",
            data / "ucf101_sample",
            ".avi",
            given.clips,
        ),
    }
    if given.scenes is not None:
        sets["scenes"] = clips_of(
            ava / "weizmann_scenes_tubes.csv", "video", given.scenes, ".avi", given.clips
        )
    table = []
    for name, clips in sets.items():
        for label, spec, options in (
            ("background", "background", {}),
            ("YOLOX-nano", f"onnx:{weights / 'yolox_nano.onnx'}", {}),
            ("FastestDet", f"onnx:{weights / 'FastestDet.onnx'}", {}),
            ("hog", "hog", {}),
        ):
            row = {"videos": name, "boxes": label}
            table.append({**row, **measure(clips, spec, given.every, options)})
    show(f"Persons' boxes at IoU .5, every {given.every}th frame", table)
    deliver({"every": given.every, "table": table}, given.json)


if __name__ == "__main__":
    main()
