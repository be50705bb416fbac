"""What the benchmarks share: clips, generated videos, runs of `extract`, fair timing, output."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

HERE = Path(__file__).resolve().parent


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Give a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep caches and videos here")
    return parser


def from_8bit(values: np.ndarray, bound_px: float) -> np.ndarray:
    """Undo `flowpipe.flow.quantise.to_8bit`: the float32 px that 8-bit values stand for."""
    return (np.arange(256) * (2 * bound_px / 255) - bound_px).astype(np.float32)[values]


def ucf101_clips(number: int | None = None) -> list[Path]:
    """Give the UCF101 clips of FLOWPIPE_DATA (or ../shared/data), or `number` spread over them."""
    data = Path(os.environ.get("FLOWPIPE_DATA", HERE.parents[1] / "shared" / "data"))
    clips = sorted((data / "ucf101_sample").rglob("*.avi"))
    if not clips:
        raise SystemExit(f"no clips below {data / 'ucf101_sample'}; set FLOWPIPE_DATA")
    if number is None or number >= len(clips):
        return clips
    return [clips[round(place)] for place in np.linspace(0, len(clips) - 1, number)]


def write_video(
    path: Path, frames: int, height: int = 240, width: int = 320, seed: int = 0
) -> Path:
    """Write a textured plane that moves on a circle, 25 frames per second; no two seeds alike."""
    rng = np.random.default_rng(seed)
    texture = rng.uniform(0, 255, (height + 64, width + 64)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(texture, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25), options={"qscale": "3"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(frames):
            angle = index / 8
            centre = (
                width / 2 + 31 + 24 * float(np.cos(angle)),
                height / 2 + 31 + 24 * float(np.sin(angle)),
            )
            picture = cv2.getRectSubPix(texture, (width, height), centre).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def start_extract(sources: Sequence[Path], out: Path, **options: Any) -> subprocess.Popen[str]:
    """Start `flowpipe.extract` in a process of its own; `finish` gives its numbers."""
    told = {"sources": [str(path) for path in sources], "out": str(out), **options}
    command = [sys.executable, str(HERE / "extract_once.py"), json.dumps(told)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and give the JSON object that it printed."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r:.200} ended with status {process.returncode}")
    return json.loads(printed)


def clock(call: Callable[[], Any]) -> float:
    """Give the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def seconds_in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Give the median seconds of each call; they take turns, so that all see the same machine."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(clock(call))
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print records as a Markdown table."""
    columns = list(rows[0])
    cells = [[_told(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(f"\n{title}\n")
    for line in [columns, ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")


def deliver(numbers: Mapping[str, Any], json_file: Path | None) -> None:
    """Print all numbers as one JSON object, and write them to a file if one is given."""
    text = json.dumps(numbers, indent=1)
    print(f"\n{text}")
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")


def _told(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
