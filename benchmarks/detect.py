"""Frame mAP of action detection on real persons: Weizmann's clips, and scenes of several people.

    python benchmarks/detect.py SHARED_DATA WORK [--only weizmann scenes] [--boxes background hog]
                                [--prepare] [--json FILE]

Weizmann: six actors teach, three others are tested, key frames five apart. Scenes: 16 composed
videos teach, 8 with other actors are tested (`SHARED_DATA/ava`). Boxes are true ones and what
`--boxes` find. "whole frame" classifies the frame, not the box: what a detector must beat where
several persons do different things. WORK keeps caches and runs; --prepare writes the files of
boxes and the scenes, no more.
"""

import csv
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, deliver, show

from flowpipe.config import from_table
from flowpipe.detection import experiment
from flowpipe.detection.clips import DetectStream
from flowpipe.detection.detector import load_detector
from flowpipe.detection.settings import DetectSettings

TEST_ACTORS = ("lyova", "moshe", "shahar")


def prepare(shared: Path, work: Path, parts: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    boxes = work / "weizmann_boxes.csv"
    with (shared / "ava" / "weizmann_boxes.csv").open() as file, boxes.open("w") as out:
        out.write("video,frame,x1,y1,x2,y2,label\n")
        for row in csv.DictReader(file):
            if int(row["frame"]) % 5 == 2:
                corners = ",".join(row[side] for side in ("x1", "y1", "x2", "y2"))
                out.write(f"{row['clip']},{row['frame']},{corners},{row['clip'].split('/')[0]}\n")
    scenes = work / "weizmann_scenes"
    if "scenes" in parts and not scenes.is_dir():
        recipe = shared / "ava" / "weizmann_scenes.csv"
        compose = shared / "ava" / "compose_scenes.py"
        command = [sys.executable, str(compose), str(recipe), str(shared / "weizmann"), str(scenes)]
        subprocess.run(command, check=True)


def settings_of(part: str, shared: Path, work: Path, changes: dict[str, Any]) -> DetectSettings:
    if part == "weizmann":
        data: dict[str, Any] = {
            "videos": shared / "weizmann",
            "boxes": work / "weizmann_boxes.csv",
            "test": tuple(f"*/{actor}_*" for actor in TEST_ACTORS),
        }
    else:
        ava = shared / "ava"
        data = {
            "videos": work / "weizmann_scenes",
            "boxes": ava / "weizmann_scenes_training_ava.csv",
            "test_boxes": ava / "weizmann_scenes_validation_ava.csv",
            "labels": ava / "weizmann_actions.pbtxt",
        }
    table = {"data": data | {"cache": work / f"{part}.cache"}, **changes}
    return from_table(DetectSettings, table, where=part)


class WholeFrame:
    """A detector that says the same of every person of a frame: what the frame shows."""

    def __init__(self, run: Path) -> None:
        self.detector = load_detector(run)
        self.settings = self.detector.settings

    def score(self, examples: Any, cache: Any) -> Any:
        for example in examples:
            entry = cache[example.video]
            frame = np.array([[0.0, 0, entry.width, entry.height]])
            whole = replace(example, boxes=frame, targets=example.targets[:1])
            ((_, probabilities),) = self.detector.score([whole], cache)
            yield example, probabilities.repeat(len(example.boxes), 0)


def measure_whole_frame(settings: DetectSettings, work: Path) -> float:
    """Train and test scenes with the whole frame in place of the box of every person."""
    boxes = work / "whole_frames.csv"
    with settings.data.boxes.open() as file, boxes.open("w") as out:
        for video, second, *_, action, person in csv.reader(file):
            out.write(f"{video},{second},0,0,1,1,{action},{person}\n")
    wide = {"flow": DetectStream(model="flow-histogram")}
    data = replace(settings.data, boxes=boxes, test_boxes=None)
    run = work / "scenes.whole"
    experiment.train(replace(settings, data=data, streams=wide), run, on_epoch=progress)
    tested = experiment.load_data(settings, run)
    return float(experiment.measure(settings, tested, WholeFrame(run), run)["true_boxes"]["mAP"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", default=["weizmann", "scenes"])
    parser.add_argument("--boxes", nargs="*", default=["background", "hog"])
    parser.add_argument("--set", nargs="*", default=[], metavar="TOML", help="other settings")
    parser.add_argument("--rgb", action="store_true", help="also a second stream of RGB")
    parser.add_argument("--whole-frame", action="store_true", help="also classify the frame")
    parser.add_argument("--prepare", action="store_true")
    given = parser.parse_args()
    prepare(given.shared, given.work, given.only)
    if given.prepare:
        return
    changes = tomllib.loads("\n".join(given.set))
    rows: list[dict[str, Any]] = []
    for part in given.only:
        run = given.work / f"{part}.run"
        settings = settings_of(part, given.shared, given.work, changes)
        record = experiment.train(settings, run, on_epoch=progress).record
        rows.append({"data": part, "boxes": "true", "mAP": record["true_boxes"]["mAP"]})
        for spec in given.boxes:
            found = replace(settings, persons=experiment.PersonSettings(boxes=spec))
            data = experiment.load_data(found, run)
            result = experiment.measure(found, data, load_detector(run), run)["found_boxes"]
            rows.append({"data": part, "boxes": Path(spec).name, "mAP": result["mAP"]})
        if given.rgb:
            flow = {"model": "flow-histogram"}
            rgb = {"streams": {"rgb": {"input": "rgb"}, "flow": flow}} | changes
            both = experiment.train(
                settings_of(part, given.shared, given.work, rgb), given.work / f"{part}.both"
            )
            rows.append(
                {"data": part, "boxes": "true", "what": "flow and RGB"}
                | {"mAP": both.record["true_boxes"]["mAP"]}
            )
        if given.whole_frame and part == "scenes":
            mean_ap = measure_whole_frame(settings, given.work)
            rows.append({"data": part, "boxes": "true", "what": "whole frame", "mAP": mean_ap})
        print(json.dumps({"parameters": load_detector(run).num_parameters}), file=sys.stderr)
    show("Frame mAP at IoU .5", rows)
    deliver({"rows": rows}, given.json)


def progress(name: str, record: Any) -> None:
    print(f"{name}: {record['epoch']}/{record['epochs']}, {record['loss']:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
