"""The project's TV-L1 beside OpenCV's, one thread each, on frames of different UCF101 clips.

python benchmarks/tvl1.py moving     pairs on which OpenCV spends more than five million
                                     pixel-iterations, at 320×240 and at 340×256
python benchmarks/tvl1.py methods    tvl1, tvl1-fast, dis+tvl1, dis on those moving pairs, 320×240
python benchmarks/tvl1.py still      the pairs of least work that the clips have
python benchmarks/tvl1.py profile    where the time of a pair goes
python benchmarks/tvl1.py threads    pairs per second of two threads beside one
"""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import common
import cv2
import numpy as np

from flowpipe.flow import create
from flowpipe.flow import tvl1_kernels as kernels

MOVING = 5e6
SIZES = {"320×240": (240, 320), "340×256": (256, 340)}


def grey_frames(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            grey = cv2.cvtColor(frame.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY)
            yield cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)


def classes(number: int | None = None) -> list[Path]:
    """One clip of each class, or `number` spread over them."""
    first: dict[str, Path] = {}
    for clip in common.ucf101_clips():
        first.setdefault(clip.parent.name, clip)
    clips = list(first.values())
    if number is None or number >= len(clips):
        return clips
    return [clips[round(place)] for place in np.linspace(0, len(clips) - 1, number)]


def fastest(call: Any, times: int) -> float:
    return min(common.clock(call) for _ in range(times))


def beside_opencv(first: np.ndarray, second: np.ndarray, method: Any) -> dict[str, float]:
    """Seconds, difference and work of one pair."""
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    started = time.perf_counter()
    theirs = solver.calc(first, second, None)
    opencv_s = time.perf_counter() - started
    ours = method(first, second)
    seconds = fastest(lambda: method(first, second), 3)
    apart = np.hypot(*(ours - theirs).transpose(2, 0, 1))
    return {
        "ratio": opencv_s / seconds,
        "seconds": seconds,
        "opencv_s": opencv_s,
        "work": method.pixel_iterations(first, second),
        "mean px": float(apart.mean()),
        "within 0.1 px": float((apart < 0.1).mean()),
    }


def summary(name: str, pairs: list[dict[str, float]]) -> dict[str, Any]:
    def middle(key: str) -> float:
        return statistics.median(pair[key] for pair in pairs)

    per_iteration = [pair["opencv_s"] / pair["work"] * 1e9 for pair in pairs]
    return {
        "pairs": f"{len(pairs)} of {name}",
        "ms": middle("seconds") * 1e3,
        "OpenCV ms": middle("opencv_s") * 1e3,
        "speed ×": middle("ratio"),
        "lowest ×": min(pair["ratio"] for pair in pairs),
        "mean px": statistics.mean(pair["mean px"] for pair in pairs),
        "within 0.1 px": statistics.mean(pair["within 0.1 px"] for pair in pairs),
        "OpenCV ns/(px·it)": statistics.median(per_iteration),
    }


def solver_ns(method: Any, first: np.ndarray, second: np.ndarray) -> float:
    """Nanoseconds of a pixel-iteration of the inner solver, in blocks of eight, on this pair."""
    method(first, second)
    space = method._workspace(first.shape)
    level = space.levels[0]
    constants = [np.float32(value) for value in (0.045, 0.25 / 0.3, 0.3)]
    size = (level.height, level.width, level.pitch)

    def block() -> None:
        kernels._iterate(
            space.u[0], space.q, space.u_other, space.q_other, space.d, space.mask[0], *size, 8,
            *constants, space.changes,
        )  # fmt: skip

    return fastest(block, 20) / (8 * level.height * level.width) * 1e9


def moving(number: int) -> dict[str, Any]:
    rows, method = [], create("tvl1")
    for name, size in SIZES.items():
        found = []
        for clip in classes():
            frames = list(islice(grey_frames(clip, size), 22))
            if len(found) < number and method.pixel_iterations(*frames[20:22]) > MOVING:
                found.append(beside_opencv(*frames[20:22], method))
        inner = solver_ns(method, *frames[20:22])
        rows.append({**summary(name, found), "solver ns/(px·it)": inner})
    common.show("Moving pairs of different clips, one thread", rows)
    return {"moving": rows}


def methods(number: int) -> dict[str, Any]:
    """Time methods in turn on each moving pair, in processor time: other work disturbs it less."""
    made = {name: create(name) for name in ("tvl1", "tvl1-fast", "dis+tvl1", "dis")}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for clip in classes():
        first, second = list(islice(grey_frames(clip, SIZES["320×240"]), 22))[20:]
        if len(seconds["dis"]) < number and made["tvl1"].pixel_iterations(first, second) > MOVING:
            best = dict.fromkeys(made, float("inf"))
            for _ in range(4):
                for name, method in made.items():
                    began = time.process_time()
                    method(first, second)
                    best[name] = min(best[name], time.process_time() - began)
            for name, value in best.items():
                seconds[name].append(value)
    rows = [
        {
            "flow": name,
            "ms": 1e3 * statistics.median(values),
            "time × tvl1": statistics.median(np.divide(values, seconds["tvl1"]).tolist()),
            "time × dis": statistics.median(np.divide(values, seconds["dis"]).tolist()),
        }
        for name, values in seconds.items()
    ]
    common.show(f"{len(seconds['dis'])} moving pairs of different clips, one thread", rows)
    return {"methods": rows}


def still(number: int) -> dict[str, Any]:
    """Of each clip the pair that changes least; of these the ones of least work."""
    method, size = create("tvl1"), SIZES["320×240"]
    candidates = []
    for clip in classes():
        frames = list(grey_frames(clip, size))
        change = [float(np.mean(cv2.absdiff(a, b))) for a, b in pairwise(frames)]
        place = int(np.argmin(change))
        pair = frames[place], frames[place + 1]
        candidates.append((method.pixel_iterations(*pair), *pair))
    candidates.sort(key=lambda candidate: candidate[0])
    found = [beside_opencv(*pair[1:], method) for pair in candidates[:number] if pair[0] < MOVING]
    rows = [summary("320×240", found)]
    common.show("The stillest pairs, one thread", rows)
    return {"still": rows}


def profile(number: int) -> dict[str, Any]:
    """Time the parts of a pair by themselves, as often as the pair uses them."""
    method, size = create("tvl1"), SIZES["340×256"]
    rows = []
    for clip in classes(number):
        frames = list(islice(grey_frames(clip, size), 22))
        first, second = frames[20], frames[21]
        _, iterations = method.solve(first, second)
        whole = fastest(lambda a=first, b=second: method(a, b), 5)
        space = method._workspace(first.shape)
        work = method.pixel_iterations(first, second)
        scratch = space.scratch

        def pyramid(space: Any = space, second: np.ndarray = second) -> None:
            space.second.fill(second, 0.8)
            space.second._is_packed = False
            space.second.packed  # noqa: B018 — packs

        def each_level(call: Any, space: Any = space) -> None:
            for number, level in enumerate(space.levels):
                for _ in range(5):
                    call(number, level)

        def warp(n: int, v: Any, space: Any = space, scratch: Any = scratch) -> None:
            p = v.pitch
            kernels._warp(
                space.first.grey[n], space.second.packed[n], space.u[n],
                space.d[: v.height * 4 * p], v.height, v.width, p, space.places,
                scratch[:p], scratch[p : 2 * p], scratch[2 * p : 6 * p],
            )  # fmt: skip

        def median(n: int, v: Any, space: Any = space, scratch: Any = scratch) -> None:
            p = v.pitch
            other = space.u_other[: (v.height + 1) * 2 * p]
            columns = scratch[6 * p : 11 * p]
            kernels._median(space.u[n], other, columns, v.height, v.width, p, 5)

        parts = {
            "solver": work * solver_ns(method, first, second) * 1e-9,
            "warp": fastest(lambda: each_level(warp), 5),
            "median": fastest(lambda: each_level(median), 5),
            "pyramid, gradients": fastest(pyramid, 5),
        }
        shares = {name: seconds / whole for name, seconds in parts.items()}
        rows.append(
            {
                "clip": clip.parent.name,
                "ms": whole * 1e3,
                "iterations": sum(iterations),
                **shares,
                "rest": 1 - sum(shares.values()),
            }
        )
    common.show("Shares of the time of a pair, 340×256 (rest: Python, and blocks done again)", rows)
    return {"profile": rows}


def threads(number: int) -> dict[str, Any]:
    method, size = create("tvl1"), SIZES["340×256"]
    halves = []
    for clip in classes(2):
        frames = list(islice(grey_frames(clip, size), 12))
        halves.append(list(pairwise(frames)))

    def work(pairs: list[Any]) -> None:
        for _ in range(number):
            for pair in pairs:
                method(*pair)

    def together() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, halves))

    work(halves[0][:1])
    alone_s = fastest(lambda: [work(half) for half in halves], 3)
    ratio = alone_s / fastest(together, 3)
    rows = [{"threads": 2, "× one thread": ratio}]
    common.show("Two threads in one process", rows)
    return {"threads": rows}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("part", choices=("moving", "methods", "still", "profile", "threads"))
    parser.add_argument("--pairs", type=int, default=None, help="how many pairs or rounds")
    told = parser.parse_args()
    cv2.setNumThreads(1)
    part, default = {
        "moving": (moving, 24),
        "methods": (methods, 24),
        "still": (still, 8),
        "profile": (profile, 4),
        "threads": (threads, 2),
    }[told.part]
    common.deliver(part(told.pairs or default), told.json)


if __name__ == "__main__":
    main()
