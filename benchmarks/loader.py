"""Random ten-flow stacks per second from every storage form, beside JPEG pairs and raw .npy.

The 8-bit forms are read from packed caches too.

- threads: stacks of whole fields are read by 1 or 2 threads, `entry.flow.codes` and its peers;
- workers: a torch `DataLoader` with 1 or 2 worker processes over `ClipDataset`, which cuts,
  scales and flips 224×224 px training clips from such stacks, in batches of 16.

JPEG pairs are read with `cv2.imread`, .npy (one uint8 file per video) through a memory map. All
go through the same code from the codes of the stack on. Files lie in the page cache.

    python benchmarks/loader.py [--clips N] [--stacks N] [--work DIR]
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import arguments, deliver, show, ucf101_clips
from jpeg_pairs import write_pair
from storage import FORMS, form_name
from torch.utils.data import DataLoader

import flowpipe
from flowpipe.cache import Cache
from flowpipe.cache.pack import pack
from flowpipe.clips.dataset import ClipDataset, StreamInput
from flowpipe.datasets.video import Video

LENGTH = 10
BATCH = 16
JPEG, NPY = "JPEG q95 pairs", "raw .npy, uint8"


class JpegFlow:
    """The flow of a video as JPEG pairs: the part of `FlowFields` that clips are cut from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def codes(self, indices: Any) -> np.ndarray:
        files = [[str(self._folder / f"flow_{c}_{i + 1:05d}.jpg") for c in "xy"] for i in indices]
        return np.stack([[cv2.imread(file, cv2.IMREAD_GRAYSCALE) for file in p] for p in files])


class NpyFlow:
    """The flow of a video as one array file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def codes(self, indices: Any) -> np.ndarray:
        return np.load(self._file, mmap_mode="r")[np.asarray(indices)]


class FileEntry:
    """What an entry of a cache says of its video, with the flow of a peer."""

    def __init__(self, entry: Any, flow: Any) -> None:
        for name in ("num_flows", "num_frames", "height", "width", "pts_s", "quantiser"):
            setattr(self, name, getattr(entry, name))
        self.flow = flow


def build(clips: list[Path], work: Path) -> dict[str, Any]:
    """Make (or find in `work`) the caches and the peers' files; give name → entry, by form."""
    stores: dict[str, Any] = {}
    for storage, codec, tolerance_px in FORMS:
        name = form_name(storage, codec, tolerance_px)
        form: dict[str, Any] = {"storage": storage, "codec": codec, "tolerance_px": tolerance_px}
        flowpipe.extract(clips, work / name, flow="dis", rgb=False, **form)
        stores[name] = flowpipe.open_cache(work / name)
        if storage == "u8":
            packed = work / f"{name}.h5"
            pack(work / name, packed, overwrite=True)
            stores[f"{name}, packed"] = flowpipe.open_cache(packed)
    exact, eight_bit = stores["f16 zstd"], stores["u8 zstd"]
    stores[JPEG], stores[NPY] = {}, {}
    for name in eight_bit:
        folder = work / JPEG / name
        file = work / NPY / f"{name}.npy"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for number, uv_HWC in enumerate(exact[name].flow, start=1):
                write_pair(uv_HWC, folder, number)
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, eight_bit[name].flow.codes(range(eight_bit[name].num_flows)))
        stores[JPEG][name] = FileEntry(eight_bit[name], JpegFlow(folder))
        stores[NPY][name] = FileEntry(eight_bit[name], NpyFlow(file))
    return stores


def draw(cache: Cache, stacks: int) -> list[tuple[str, int]]:
    """Draw (video, first flow) of each stack."""
    rng = np.random.default_rng(0)
    names = [name for name in cache if cache[name].num_flows >= LENGTH]
    drawn = [names[index] for index in rng.integers(0, len(names), stacks)]
    return [(name, int(rng.integers(0, cache[name].num_flows - LENGTH + 1))) for name in drawn]


def threads_rate(store: Any, drawn: list[tuple[str, int]], threads: int) -> float:
    def read(stack: tuple[str, int]) -> None:
        name, start = stack
        store[name].flow.codes(range(start, start + LENGTH))

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(read, drawn) if threads > 1 else map(read, drawn):
            pass
        return len(drawn) / (time.perf_counter() - started)


def workers_rate(store: Any, drawn: list[tuple[str, int]], workers: int) -> float:
    """Give the rate from the first batch on: starting the processes is no part of it."""
    records = [Video(name, Path(name), ("any",)) for name, _ in drawn]
    stream = StreamInput("temporal", "flow", LENGTH)
    samples = ClipDataset(records, store, [stream], classes=["any"])
    batches: Iterator[Any] = iter(DataLoader(samples, BATCH, num_workers=workers))
    next(batches)
    started = time.perf_counter()
    read = sum(len(batch["label"]) for batch in batches)
    return read / (time.perf_counter() - started)


def measure(stores: dict[str, Any], stacks: int, rounds: int) -> list[dict[str, Any]]:
    drawn = draw(stores["u8 zstd"], stacks)
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):  # forms take turns, so that all see the same machine
        for number in (1, 2):
            for name, store in stores.items():
                rates[name, f"threads {number}"].append(threads_rate(store, drawn, number))
        for number in (1, 2):
            for name, store in stores.items():
                rates[name, f"workers {number}"].append(workers_rate(store, drawn, number))
    rows = []
    for name in stores:
        row: dict[str, Any] = {"form": name}
        for how in ("threads 1", "threads 2", "workers 1", "workers 2"):
            rate = statistics.median(rates[name, how])
            row[f"{how}: stacks/s"] = rate
            row[f"{how}: × JPEG"] = rate / statistics.median(rates[JPEG, how])
        rows.append(row)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--stacks", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build-only", action="store_true", help="make the files of --work first")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips = ucf101_clips(options.clips)
    with tempfile.TemporaryDirectory() as fleeting:
        stores = build(clips, options.work or Path(fleeting))
        if options.build_only:
            return
        rows = measure(stores, options.stacks, options.rounds)
    show(f"Random stacks of {LENGTH} flows of {len(clips)} clips, 320×240 px", rows)
    deliver({"clips": len(clips), "stacks": options.stacks, "table": rows}, options.json)


if __name__ == "__main__":
    main()
