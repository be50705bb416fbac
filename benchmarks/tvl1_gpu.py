"""Batched TV-L1 on a GPU: pairs per second, time per kernel, difference, share of the roofs.

    python benchmarks/tvl1_gpu.py [--frames DIRECTORY] [--size 256x340] [--json FILE]

Needs a CUDA GPU, PyTorch with Triton and any OpenCV; with numba the reference is the CPU solver,
without it the PyTorch version on the CPU, which does the same. Pairs are consecutive frames of the
videos in DIRECTORY (by default ../shared/data/ucf101_sample, or FLOWPIPE_DATA), or else of a
texture that moves. With `--device cpu` it only shows that it runs.

What is counted, per pair and exactly for these pairs:

- iterations: those that the stopping rule wants (useful), and those done: with the borders of
  tiles, and with blocks that went too far and were done again;
- memory: per slot of a pair, 9 planes of all tiles read and 6 written; per median 2 read and 2
  written; per warp 4 read (u, v and both frames, each px once) and 3 written; float32. What the
  caches save is not taken off;
- operations: 56 per px and iteration (threshold 14, divergence and update 12, dual 30; a square
  root or division as one), of all px done; warps and medians are left out.

The roofs are measured here: a copy on the device, and a float32 matrix product without TF32.
"""

import argparse
import importlib.util
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from flowpipe.flow import create, create_batched
from flowpipe.flow.method import distinct_frames
from flowpipe.flow.pyramid import level_sizes
from flowpipe.flow.tvl1_torch import BatchTVL1

MODES = {"exact": 0, "fixed 30": 30, "fixed 20": 20}
OPERATIONS = 56
ITERATION_BYTES, MEDIAN_BYTES, WARP_BYTES = (9 * 4, 6 * 4), 16, 28
KERNELS = ("_iterate", "_median", "_linearise")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and give the record."""
    given = _parse(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU: nothing to measure (--device cpu only shows that this runs)")
    height, width = map(int, given.size.split("x"))
    prev_BHW, next_BHW, origin = pairs_of(given.frames, height, width, max(given.batch))
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "size": [height, width],
        "frames": origin,
        "modes": {},
    }
    if given.device == "cuda":
        record["roofs"] = roofs()
    reference, record["reference"] = reference_of(prev_BHW, next_BHW, given.compared)
    for mode, fixed in MODES.items():
        method = create_batched("tvl1", given.device, fixed_iterations=fixed)
        assert isinstance(method, BatchTVL1)
        record["modes"][mode] = measured(method, prev_BHW, next_BHW, given, reference)
    _print(record)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1))
    return record


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("FLOWPIPE_DATA", beside))
    parser.add_argument("--frames", type=Path, default=data / "ucf101_sample")
    parser.add_argument("--size", default="256x340", metavar="HxW")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--compared", type=int, default=8, help="pairs compared with the CPU")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def pairs_of(
    folder: Path, height: int, width: int, count: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Give `count` pairs, 16 consecutive ones from the middle of each of several videos."""
    run = min(count, 16)
    videos = sorted(folder.rglob("*.avi")) if folder.is_dir() else []
    runs = [
        _frames(video, height, width, run + 1) for video in videos[:: max(1, len(videos) // 32)]
    ]
    runs = [frames for frames in runs if len(frames) == run + 1]
    origin = f"{len(runs)} videos of {folder.name}"
    if not runs:
        runs, origin = [_moving_texture(height, width, run + 1)], "a moving texture"
    chosen = [runs[i % len(runs)] for i in range(-(-count // run))]
    prev_BHW = np.concatenate([frames[:-1] for frames in chosen])[:count]
    return prev_BHW, np.concatenate([frames[1:] for frames in chosen])[:count], origin


def _frames(video: Path, height: int, width: int, count: int) -> np.ndarray:
    def decoded() -> Iterator[np.ndarray]:
        capture = cv2.VideoCapture(str(video))
        while True:
            there, picture = capture.read()
            if not there:
                return
            grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
            yield cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)

    return np.array(list(itertools.islice(decoded(), 30, 30 + count)))


def _moving_texture(height: int, width: int, count: int) -> np.ndarray:
    fine = np.random.default_rng(0).uniform(0, 255, (height + 80, width + 80)).astype(np.float32)
    wide = cv2.normalize(cv2.GaussianBlur(fine, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    middle = width / 2 + 40, height / 2 + 40
    return np.stack(
        [
            cv2.getRectSubPix(wide, (width, height), (middle[0] - 1.5 * t, middle[1] + 0.5 * t))
            for t in range(count)
        ]
    ).astype(np.uint8)


def reference_of(
    prev_BHW: np.ndarray, next_BHW: np.ndarray, count: int
) -> tuple[dict[int, np.ndarray], str]:
    """Give the CPU's flow of some pairs, spread over all, by index."""
    indices = np.unique(np.linspace(0, len(prev_BHW) - 1, count).astype(int))
    by_numba = importlib.util.find_spec("numba") is not None
    method = create("tvl1") if by_numba else create_batched("tvl1", "cpu")
    fields = {int(i): method(prev_BHW[i], next_BHW[i]) for i in indices}
    return fields, "CPU solver (numba)" if by_numba else "PyTorch version on the CPU"


def measured(
    method: BatchTVL1,
    prev_BHW: np.ndarray,
    next_BHW: np.ndarray,
    given: argparse.Namespace,
    reference: dict[int, np.ndarray],
) -> dict[str, Any]:
    """Measure one mode."""
    uv_BHWC = method.batch(prev_BHW, next_BHW)  # compiles, too
    distances = [
        np.hypot(*np.moveaxis(uv_BHWC[i] - wanted, -1, 0)) for i, wanted in reference.items()
    ]
    record: dict[str, Any] = {
        "mean difference px": float(np.mean(distances)),
        "largest mean difference of a pair px": max(float(d.mean()) for d in distances),
        "within 0.1 px": float(np.mean([d < 0.1 for d in distances])),
        "pairs/s": {},
    }
    for size in given.batch:
        prev, after = prev_BHW[:size], next_BHW[:size]
        frames, pairs = (torch.from_numpy(a).to(given.device) for a in distinct_frames(prev, after))
        record["pairs/s"][size] = {
            "with copies": size / _seconds(partial(method.batch, prev, after), given),
            "on the device": size / _seconds(partial(method.flow_of, frames, pairs), given),
        }
    if given.device == "cuda":
        # The largest batch, whose frames are still there.
        record["kernel ms per pair"] = kernel_times(method, frames, pairs)
        record["counts per pair"] = counts(method, frames, pairs)
    return record


def _seconds(call: Callable[[], object], given: argparse.Namespace) -> float:
    """Give the median time of a call, which waits for the device."""

    def once() -> float:
        started = time.perf_counter()
        call()
        if given.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    times = [once()]
    while sum(times) < given.seconds:
        times.append(once())
    return float(np.median(times))


def kernel_times(
    method: BatchTVL1, frames: torch.Tensor, pairs: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Give time and launches of each kernel; what is not Triton's is "other"."""
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        method.flow_of(frames, pairs)
        torch.cuda.synchronize()
    table = {name: {"ms": 0.0, "launches": 0.0} for name in (*KERNELS, "other")}
    for event in profile.key_averages():
        row = table.get(event.key, table["other"])
        row["ms"] += event.self_device_time_total / 1000 / len(pairs)
        row["launches"] += event.count
    return table


def counts(method: BatchTVL1, frames: torch.Tensor, pairs: torch.Tensor) -> dict[str, float]:
    """Count iterations, bytes and operations of a batch, per pair."""
    from flowpipe.flow import tvl1_triton as kernels

    notes: list[torch.Tensor] = []
    real = kernels.solve_level
    kernels.solve_level = partial(real, note=notes.append)
    try:
        method.flow_of(frames, pairs)
    finally:
        kernels.solve_level = real
    settings = method.record
    height, width = frames.shape[1:]
    sizes = level_sizes(height, width, settings.scales, settings.scale_step)
    plan = kernels.slots(settings)
    total = dict.fromkeys(("useful", "done", "bytes", "operations", "iterations per warp"), 0.0)
    for (rows, columns), runs in zip(
        (size for size in reversed(sizes) for _ in range(settings.warps)), notes, strict=True
    ):
        run_SB = runs.cpu().numpy()
        pixels = rows * columns
        tile_pixels = kernels.tiles_along(rows) * kernels.tiles_along(columns) * kernels.TILE**2
        wanted = np.where(np.roll(run_SB, -1, axis=0) < 0, 0, np.abs(run_SB))
        iterations, slots = np.abs(run_SB).sum(), np.count_nonzero(run_SB)
        medians = sum(np.count_nonzero(r > 0) for r, (_, m) in zip(run_SB, plan, strict=True) if m)
        read, written = ITERATION_BYTES
        total["useful"] += float(wanted.sum() * pixels)
        total["iterations per warp"] += float(wanted.sum()) / len(notes)
        total["done"] += float(iterations * tile_pixels)
        total["bytes"] += float(slots * (read * tile_pixels + written * pixels))
        total["bytes"] += float((medians * MEDIAN_BYTES + len(pairs) * WARP_BYTES) * pixels)
        total["operations"] += float(iterations * tile_pixels * OPERATIONS)
    return {key: value / len(pairs) for key, value in total.items()}


def roofs() -> dict[str, float]:
    """Measure what the device can do: bytes/s of a copy, operations/s of a matrix product."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    side = 8192
    matrix = torch.rand(side, side, device="cuda")
    torch.backends.cuda.matmul.allow_tf32 = False

    def rate(call: Callable[[], object], work: float) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        start.record()
        for _ in range(10):
            call()
        end.record()
        torch.cuda.synchronize()
        return 10 * work / (start.elapsed_time(end) / 1000)

    return {
        "bytes/s": rate(lambda: target.copy_(source), 2.0 * source.nbytes),
        "operations/s": rate(lambda: matrix @ matrix, 2.0 * side**3),
    }


def _print(record: dict[str, Any]) -> None:
    height, width = record["size"]
    print(f"{record['device']}, PyTorch {record['torch']}; {height}×{width}, {record['frames']}")
    for mode, told in record["modes"].items():
        print(
            f"\n{mode}: mean difference to the {record['reference']} "
            f"{told['mean difference px']:.4f} px (worst pair "
            f"{told['largest mean difference of a pair px']:.4f}), "
            f"{told['within 0.1 px']:.2%} within 0.1 px"
        )
        for size, rates in told["pairs/s"].items():
            rows = ", ".join(f"{rate:8.1f} pairs/s {name}" for name, rate in rates.items())
            print(f"  batch {size:4}: {rows}")
        if "counts per pair" in told:
            _print_roofs(told, record["roofs"])


def _print_roofs(told: dict[str, Any], roof: dict[str, float]) -> None:
    for name, row in told["kernel ms per pair"].items():
        print(f"  {name:10} {row['ms']:8.4f} ms per pair, {row['launches']:.0f} launches")
    count = told["counts per pair"]
    seconds = 1 / max(rates["on the device"] for rates in told["pairs/s"].values())
    print(
        f"  {count['iterations per warp']:.1f} iterations per warp; million px-iterations per "
        f"pair: {count['useful'] / 1e6:.1f} useful, {count['done'] / 1e6:.1f} done"
    )
    for what, key in (("memory", "bytes"), ("arithmetic", "operations")):
        share = count[key] / seconds / roof[f"{key}/s"]
        print(
            f"  {what}: {count[key] / 1e9:.3f} G{key} per pair, {count[key] / seconds / 1e12:.2f} "
            f"T{key}/s = {share:.1%} of {roof[f'{key}/s'] / 1e12:.2f} T{key}/s measured"
        )


if __name__ == "__main__":
    main()
