"""Is the cost of extraction linear? One video of 10 to 10,000 frames, and 10 to 1,000 videos.

Each row is a run of `flowpipe.extract` (DIS, no RGB) in a process of its own, with one worker.
"ms per flow" is the time of the worker (decode, flow, compress, write) by the clock, "CPU ms per
flow" its processor time, with half a second of imports in front; "start s" is what the run took
beside.
Peaks of memory are those of the worker and of the process that calls.

    python benchmarks/scaling.py [--frames 10 100 ...] [--videos 10 100 ...]
"""

import tempfile
from pathlib import Path
from typing import Any

from common import arguments, deliver, finish, show, start_extract, write_video

LONG_SIZE, SHORT_SIZE = (240, 320), (96, 128)


def run(sources: list[Path], out: Path) -> dict[str, Any]:
    numbers = finish(start_extract(sources, out, flow="dis", workers=1, rgb=False))
    flows = numbers["flows"]
    return {
        "flows": flows,
        "ms per flow": 1000 * numbers["all_s"] / flows,
        "× last": 0.0,
        "CPU ms per flow": 1000 * numbers["worker_cpu_s"] / flows,
        "start s": numbers["seconds"] - numbers["all_s"],
        "kB per flow": numbers["bytes"] / flows / 1000,
        "peak MB, worker": numbers["worker_peak_mb"],
        "peak MB, caller": numbers["own_peak_mb"],
    }


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        row["× last"] = row["ms per flow"] / rows[-1]["ms per flow"]
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, nargs="*", default=[10, 100, 1000, 10_000])
    parser.add_argument("--videos", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--frames-each", type=int, default=10, help="of the many videos")
    options = parser.parse_args()
    long_rows, many_rows = [], []
    with tempfile.TemporaryDirectory() as fleeting:
        work = options.work or Path(fleeting)
        for frames in options.frames:
            video = work / f"{frames}.mp4"
            if not video.is_file():
                write_video(video, frames, *LONG_SIZE)
            with tempfile.TemporaryDirectory(dir=work) as out:
                long_rows.append({"frames": frames} | run([video], Path(out)))
        for videos in options.videos:
            paths = [work / f"many-{number}.mp4" for number in range(videos)]
            for number, path in enumerate(paths):
                if not path.is_file():
                    write_video(path, options.frames_each, *SHORT_SIZE, seed=number + 1)
            with tempfile.TemporaryDirectory(dir=work) as out:
                many_rows.append({"videos": videos} | run(paths, Path(out)))
    for title, rows, (height, width) in (
        ("One video of so many frames", long_rows, LONG_SIZE),
        (f"So many videos of {options.frames_each} frames", many_rows, SHORT_SIZE),
    ):
        if rows:
            show(f"{title}, {width}×{height} px", compared(rows))
    deliver({"one_video": long_rows, "many_videos": many_rows}, options.json)


if __name__ == "__main__":
    main()
