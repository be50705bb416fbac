"""What a GPU does for flowpipe: tests, flow, extraction, training; a JSON written part by part.

    benchmarks/gpu.sh OUT.json [--small] [--device cpu]

Parts: `tests` (pytest -m gpu), `tvl1` (benchmarks/tvl1_gpu.py), `learned` (gmflow and raft-small,
pairs per second in fp32 and bf16, Middlebury error where weights and frames are there; random
weights otherwise), `extract` (UCF101 clips from decode to cache, with the GPU's idle share) and
`training` (steps per second in bf16 of three networks, compiled and not, by loader workers).
`--small` takes the smallest sizes, to see that it runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 500
"""After this no new measurement is begun."""

STARTED = time.perf_counter()
NETWORKS = {
    "resnet50": ((20, 1, 224, 224), 64),
    "slowfast-4x16-r50": ((3, 32, 224, 224), 8),
    "i3d": ((3, 64, 224, 224), 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", default="tests,tvl1,learned,training,extract")
    given = parser.parse_args()
    given.json = given.json.absolute()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU: nothing to measure (--device cpu --small only shows that this runs)")
    record: dict[str, Any] = {"torch": torch.__version__, "device": name_of(given.device)}
    for part in given.parts.split(","):
        began = time.perf_counter()
        try:
            record[part] = PARTS[part](given)
        except Exception as error:
            record[part] = {"failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        record[f"{part} s"] = round(time.perf_counter() - began, 1)
        given.json.write_text(json.dumps(record, indent=1, default=str))
        print(part, json.dumps(record[part], default=str)[:1500], flush=True)


def name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def left_s() -> float:
    return LIMIT_S - (time.perf_counter() - STARTED)


class Idle:
    """Share of the time in which the GPU did nothing, from nvidia-smi's utilisation."""

    def __init__(self, device: str) -> None:
        self.device, self.busy, self._stop = device, [], threading.Event()

    def __enter__(self) -> "Idle":
        if self.device == "cuda":
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.busy.append(torch.cuda.utilization())

    @property
    def share(self) -> float | None:
        return round(1 - float(np.mean(self.busy)) / 100, 3) if self.busy else None


def rate(call: Callable[[], Any], device: str, seconds: float) -> float:
    """Calls per second, after two that do not count."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        call()
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        wait()
        count += 1
    return count / (time.perf_counter() - began)


def tests(given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--noconftest", "-p",
               "no:cacheprovider", "tests/test_gpu.py"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    return {"status": done.returncode, "end": (done.stdout + done.stderr)[-1500:]}


def tvl1(given: argparse.Namespace) -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import tvl1_gpu

    small = ["--size", "48x64", "--batch", "2", "--compared", "1", "--seconds", "0.1"]
    usual = ["--batch", "32", "128", "256", "--seconds", "2"]
    return tvl1_gpu.main(["--device", given.device, *(small if given.small else usual)])


def learned(given: argparse.Namespace) -> dict[str, Any]:
    from flowpipe.flow import create_batched
    from flowpipe.flow.gmflow import GMFlow
    from flowpipe.flow.raft import RAFT

    data = Path(os.environ.get("FLOWPIPE_DATA", ROOT.parent / "shared" / "data"))
    size, batches = ((64, 72), (2,)) if given.small else ((256, 344), (8, 32, 64))
    frames = texture(max(batches) + 1, *size)
    result: dict[str, Any] = {"size": size}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in (("gmflow", GMFlow(2)), ("raft-small", RAFT(small=True))):
            weights = data / "weights" / "gmflow_refine.pth"
            if name != "gmflow" or not weights.is_file():
                weights = Path(folder) / f"{name}.pth"
                randomised(network)
                torch.save(network.state_dict(), weights)
            for precision in ("fp32", "bf16"):
                method = create_batched(
                    name, given.device, weights=str(weights), precision=precision
                )
                row: dict[str, Any] = {"weights": method.software["weights"] or "random"}
                for batch in batches:
                    pairs = frames[:batch], frames[1 : batch + 1]
                    seconds = 0.1 if given.small else 2.0
                    row[f"pairs/s, {batch}"] = round(
                        batch * rate(partial(method.batch, *pairs), given.device, seconds),
                        1,
                    )
                if row["weights"] != "random":
                    row["Middlebury px"] = middlebury(method, data, given.small)
                result[f"{name} {precision}"] = row
    return result


def randomised(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.xavier_uniform_(parameter)


def middlebury(method: Any, data: Path, small: bool) -> Any:
    import cv2

    from flowpipe.flow.evaluation import find_pairs, flow_errors, read_truth

    folder = data / "flow_gt" / "middlebury"
    if not folder.is_dir():
        return f"{folder} is not there"
    errors = []
    for pair in find_pairs(folder)[: 1 if small else None]:
        pictures = [cv2.imread(str(path))[..., ::-1].copy() for path in (pair.first, pair.second)]
        errors.append(flow_errors(method(*pictures), *read_truth(pair.truth)).end_point_px)
    return round(float(np.mean(errors)), 4)


def texture(count: int, height: int, width: int) -> np.ndarray:
    """RGB frames of a texture that moves (2, −1) px per frame."""
    import cv2

    rng = np.random.default_rng(0)
    wide = rng.uniform(0, 255, (height + count, width + 2 * count, 3)).astype(np.float32)
    wide = cv2.GaussianBlur(wide, (0, 0), 2.0)
    wide = ((wide - wide.min()) / np.ptp(wide) * 255).astype(np.uint8)
    return np.stack(
        [
            wide[n : n + height, 2 * (count - n) : 2 * (count - n) + width].copy()
            for n in range(count)
        ]
    )


def training(given: argparse.Namespace) -> dict[str, Any]:
    from flowpipe.models import build

    result: dict[str, Any] = {}
    for name, (shape, batch) in NETWORKS.items():
        channels, frames, height, width = shape
        if given.small:
            channels, frames, height, width, batch = channels, min(frames, 32), 64, 64, 2
        axes = (channels, height, width) if frames == 1 else (channels, frames, height, width)
        for compiled in (False,) if given.small else (False, True):
            if left_s() < 60:
                result[f"{name}, compiled {compiled}"] = "no time left"
                continue
            network = build(name, num_classes=101, in_channels=channels).to(given.device).train()
            step = make_step(torch.compile(network) if compiled else network, network, given.device)
            clips = torch.randn(batch, *axes, device=given.device)
            labels = torch.zeros(batch, dtype=torch.long, device=given.device)
            seconds = 0.1 if given.small else 3.0
            row: dict[str, Any] = {
                "batch": batch,
                "steps/s": round(rate(partial(step, clips, labels), given.device, seconds), 2),
            }
            for workers in (0, 4, 12) if not (compiled or given.small) else ():
                loaded, idle = from_loader(step, axes, batch, workers, given.device)
                row[f"steps/s, {workers} workers"], row[f"idle, {workers} workers"] = loaded, idle
            result[f"{name}, compiled {compiled}"] = row
            print(name, compiled, row, flush=True)
    return result


def make_step(forward: Any, network: torch.nn.Module, device: str) -> Callable[..., None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step(clips: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = torch.nn.functional.cross_entropy(forward(clips).float(), labels)
        loss.backward()
        optimizer.step()

    return step


class Clips(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Crops of uint8 frames held in memory, as the clips of a cache are made."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.axes = axes
        height, width = axes[-2] + 32, axes[-1] + 86
        self.frames = rng.integers(0, 256, (*axes[:-2], height, width), np.uint8)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng(index)
        top, left = rng.integers(0, 32), rng.integers(0, 86)
        crop = self.frames[..., top : top + self.axes[-2], left : left + self.axes[-1]]
        return torch.from_numpy(crop.astype(np.float32) / 127.5 - 1), index % 101


def from_loader(
    step: Callable[..., None], axes: tuple[int, ...], batch: int, workers: int, device: str
) -> tuple[float, float | None]:
    loader = torch.utils.data.DataLoader(
        Clips(axes), batch, num_workers=workers, pin_memory=device == "cuda"
    )
    batches: Iterator[Any] = iter(loader)

    def one() -> None:
        clips, labels = next(batches)
        step(clips.to(device, non_blocking=True), labels.to(device, non_blocking=True))

    with Idle(device) as idle:
        steps = rate(one, device, 4.0)
    return round(steps, 2), idle.share


@contextmanager
def some_clips(given: argparse.Namespace) -> Iterator[list[Path]]:
    data = Path(os.environ.get("FLOWPIPE_DATA", ROOT.parent / "shared" / "data"))
    clips = sorted((data / "ucf101_sample").rglob("*.avi"))
    yield clips[: 2 if given.small else None]


def extract(given: argparse.Namespace) -> Any:
    try:
        from flowpipe import extract as run
    except ImportError as error:
        return f"left out: {error}"
    with some_clips(given) as clips, tempfile.TemporaryDirectory() as folder:
        if not clips:
            return "left out: no clips; set FLOWPIPE_DATA"
        result: dict[str, Any] = {}
        for name in ("tvl1", "tvl1-fast"):
            with Idle(given.device) as idle:
                began = time.perf_counter()
                done = run(clips, Path(folder) / name, flow=name, device=given.device, codec="zstd",
                           short_side=64 if given.small else 256)  # fmt: skip
                seconds = time.perf_counter() - began
            result[name] = {
                "clips": len(clips),
                "flows": done.flows,
                "flows/s": round(done.flows / seconds, 1),
                "failures": len(done.failures),
                "idle": idle.share,
            }
        return result


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "tests": tests,
    "tvl1": tvl1,
    "learned": learned,
    "training": training,
    "extract": extract,
}

if __name__ == "__main__":
    main()
