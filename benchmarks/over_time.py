"""Prediction over time: memory, disk and speed over the length of a video.

    python benchmarks/over_time.py RUN CLIP... [--minutes 1 10 60] [--every 0.5] [--json FILE]

The clips are joined, again and again, to a video of each length. Each length is read in a process
of its own, on one thread; frames per second are of processor time, which other work does not
change much.
How good the segments are, say `flowpipe predict RUN VIDEO --every 0.5 --segments FOUND.csv` and
`flowpipe localise eval TRUTH.csv FOUND.csv`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from common import arguments, deliver, show

from flowpipe.experiment.sharing import open_run
from flowpipe.experiment.timeline import TimelineReader


def join(clips: list[Path], minutes: float, out: Path) -> Path:
    """Write clips one after the other, from the first again, until the length is reached."""
    first = cv2.VideoCapture(str(clips[0]))
    fps, size = first.get(cv2.CAP_PROP_FPS), tuple(int(first.get(k)) for k in (3, 4))
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    left = round(minutes * 60 * fps)
    while left:
        for clip in clips:
            source = cv2.VideoCapture(str(clip))
            while left and (frame := source.read())[0]:
                writer.write(cv2.resize(frame[1], size))
                left -= 1
    writer.release()
    return out


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one_length(run: Path, video: Path, every_s: float) -> dict[str, Any]:
    """Read a video in this process."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    reader = TimelineReader(open_run(run), every_s=every_s)
    before, place = bytes_in(run), Path(tempfile.gettempdir())
    there = bytes_in(place)
    started, spent = time.perf_counter(), time.process_time()
    timeline = reader.read(video.name, reader.frames(video))
    spent, passed = time.process_time() - spent, time.perf_counter() - started
    capture = cv2.VideoCapture(str(video))
    frames, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return {
        "minutes": frames / fps / 60,
        "windows": len(timeline.starts_s),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "disk_mb": (bytes_in(run) - before + bytes_in(place) - there) / 1e6,
        "frames_per_cpu_s": frames / spent,
        "× real time on a core": frames / fps / spent,
        "seconds": passed,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--every", type=float, default=0.5, help="seconds")
    parser.add_argument("--one-length", type=Path, help="this video in this process, as JSON")
    given = parser.parse_args()
    if given.one_length:
        print(json.dumps(one_length(given.run, given.one_length, given.every)))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        for minutes in given.minutes:
            video = join(given.clips, minutes, Path(folder) / f"{minutes:g}.avi")
            command = [sys.executable, __file__, str(given.run), "--one-length", str(video)]
            with tempfile.TemporaryDirectory() as own:
                done = subprocess.run(
                    [*command, "--every", str(given.every)],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                    env=os.environ | {"TMPDIR": own, "OMP_NUM_THREADS": "1"},
                )
            rows.append(json.loads(done.stdout))
            video.unlink()
    show("Over the length", rows)
    deliver({"lengths": rows}, given.json)


if __name__ == "__main__":
    main()
