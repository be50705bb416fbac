"""`flowpipe train FOLDER` on folders of videos, nothing else given: accuracy by stream, and time.

    python benchmarks/front_door.py FOLDER... [--folds N] [--minutes M] [--work DIR] [--json FILE]

A FOLDER is what `flowpipe train` takes; "quickstart" stands for the 297 videos of the quickstart,
sorted by their nine classes.
"""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import arguments, deliver, show

from flowpipe.datasets.synthetic import write_videos
from flowpipe.experiment import folder as front
from flowpipe.experiment.experiment import Experiment
from flowpipe.metrics import accuracy_interval


def one_folder(source: Path, runs: Path, **asked: Any) -> list[dict[str, Any]]:
    """Train on a folder as the command does; return a row for each stream and the fused score."""
    started, spent = time.perf_counter(), os.times()
    begun = front.start(source, runs=runs, workers=os.cpu_count() or 1, **asked)
    if begun.plan is not None:
        front.write_config(begun.out, begun.plan)
        print("\n".join(begun.plan.reasons))
    result = Experiment(begun.settings, begun.out, on_message=print).run(begun.fold)
    now = os.times()
    processor_s = sum(now[:4]) - sum(spent[:4])
    passed_s = time.perf_counter() - started
    rows = []
    for name, scores in {**result.streams, "fused": result.fused[result.headline]}.items():
        right, videos = int(scores.correct_N.sum()), len(scores.ids)
        low, high = accuracy_interval(right / videos, videos)
        rows.append(
            {
                "folder": source.name,
                "scores": name,
                "right": f"{right} of {videos}",
                "accuracy": round(right / videos, 4),
                "interval": f"{low:.0%} to {high:.0%}",
                "minutes": round(passed_s / 60, 1),
                "processor minutes": round(processor_s / 60, 1),
            }
        )
    return rows


def quickstart_videos(place: Path, clips: int) -> Path:
    """Write the quickstart's videos, without its list of them, and return their folder."""
    source = place / "quickstart"
    if not source.exists():
        write_videos(source, clips=clips)
        for file in source.glob("*.*"):
            file.unlink()
    return source


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--folds", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--clips", type=int, default=297, help="Of quickstart. [default: 297]")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        place = given.work or Path(temporary)
        for name in given.folders:
            made = name == "quickstart"
            source = quickstart_videos(place, given.clips) if made else Path(name)
            rows += one_folder(source, place / "runs", num_folds=given.folds, minutes=given.minutes)
    show("Folders, nothing else given", rows)
    deliver({"scores": rows}, given.json)


if __name__ == "__main__":
    main()
