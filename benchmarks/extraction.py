"""Extraction of the UCF101 clips with DIS, beside two independent processes and the field's habit.

Every row is a run of whole processes, start-up included:

- `flowpipe.extract` with one worker and with two;
- two independent runs with one worker each, at the same time, on two halves of the list;
- one process that decodes with cv2, computes DIS and writes two JPEG q95 files for each flow.

"Outside" is the share of the time that was not decode, flow or compression (with writing): of the
workers' time, and of the run's wall clock × workers, from the call of `extract` to its return.

    python benchmarks/extraction.py [--clips N] [--rgb] [--part K/N --json FILE]
    python benchmarks/extraction.py --sum FILE...      # parts measured one by one, as one table
"""

import json
import operator
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, arguments, deliver, finish, show, start_extract, ucf101_clips

PLAIN_LOOP = "plain loop, JPEG pairs"
TWO_PROCESSES = "two processes on two halves"


def one_run(clips: list[Path], out: Path, workers: int, rgb: bool) -> dict[str, Any]:
    return finish(start_extract(clips, out, flow="dis", workers=workers, rgb=rgb))


def two_processes(clips: list[Path], out: Path, rgb: bool) -> dict[str, Any]:
    halves = [
        start_extract(clips[half::2], out / str(half), flow="dis", workers=1, rgb=rgb)
        for half in (0, 1)
    ]
    first, second = map(finish, halves)
    return {key: first[key] + second[key] for key in ("flows", "bytes")}


def plain_loop(clips: list[Path], out: Path, rgb: bool) -> dict[str, Any]:
    told = {"sources": [str(clip) for clip in clips], "out": str(out), "rgb": rgb}
    command = [sys.executable, str(HERE / "jpeg_pairs.py"), json.dumps(told)]
    return finish(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


def measure(clips: list[Path], rgb: bool, work: Path) -> dict[str, dict[str, Any]]:
    runs: dict[str, Callable[[Path], dict[str, Any]]] = {
        PLAIN_LOOP: lambda out: plain_loop(clips, out, rgb),
        "1 worker": lambda out: one_run(clips, out, 1, rgb),
        "2 workers": lambda out: one_run(clips, out, 2, rgb),
        TWO_PROCESSES: lambda out: two_processes(clips, out, rgb),
    }
    found = {}
    for name, run in runs.items():
        out = work / "out"
        started = time.perf_counter()
        numbers = run(out)
        found[name] = {"wall_s": time.perf_counter() - started, **numbers}
        shutil.rmtree(out)
    return found


def summed(parts: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Add up the runs of several parts of the list; of memory, take the largest."""
    total = parts[0]
    for part in parts[1:]:
        for name, numbers in part.items():
            for key, value in numbers.items():
                join = max if key.endswith("_peak_mb") else operator.add
                total[name][key] = join(total[name][key], value)
    return total


def rows_of(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rates = {name: numbers["flows"] / numbers["wall_s"] for name, numbers in found.items()}
    rows = []
    for name, numbers in found.items():
        row = {
            "run": name,
            "flows": numbers["flows"],
            "flows/s": rates[name],
            "× plain loop": rates[name] / rates[PLAIN_LOOP],
            "× two processes": rates[name] / rates[TWO_PROCESSES],
            "kB per flow": numbers["bytes"] / numbers["flows"] / 1000,
            "outside, of worker time": "",
            "of wall clock": "",
            "peak MB of a worker": "",
        }
        if "seconds" in numbers:
            workers = int(name.split()[0])
            staged = numbers["decode_s"] + numbers["flow_s"] + numbers["compress_s"]
            row["outside, of worker time"] = 1 - staged / numbers["all_s"]
            row["of wall clock"] = 1 - staged / (workers * numbers["seconds"])
            row["peak MB of a worker"] = numbers["worker_peak_mb"]
        rows.append(row)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, help="so many, spread over the 104")
    parser.add_argument("--rgb", action="store_true", help="keep the frames as JPEG too, all runs")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="every N-th clip, from the Kth"
    )
    parser.add_argument("--sum", type=Path, nargs="+", metavar="FILE", help="JSON files of parts")
    options = parser.parse_args()
    if options.sum:
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in options.sum]
        told = {key: parts[0][key] for key in ("rgb",)}
        told |= {"clips": sum(part["clips"] for part in parts)}
        found = summed([part["runs"] for part in parts])
    else:
        part, of = map(int, options.part.split("/"))
        clips = ucf101_clips(options.clips)[part - 1 :: of]
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            found = measure(clips, options.rgb, Path(work))
        told = {"rgb": options.rgb, "clips": len(clips)}
    rows = rows_of(found)
    rgb = "with" if told["rgb"] else "no"
    show(f"Extraction of {told['clips']} UCF101 clips, DIS, {rgb} RGB", rows)
    deliver({**told, "table": rows, "runs": found}, options.json)


if __name__ == "__main__":
    main()
