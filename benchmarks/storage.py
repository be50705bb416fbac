"""Size, error and speed of every storage form and codec, beside 8-bit JPEG q95 and PNG files.

Flow of real clips is written and read through flowpipe's cache: encoding is `EntryWriter` from
px to the renamed file, decoding is `Entry.flow.codes` with its checksums. The peers map ±20 px to
0..255, write two pictures for each flow (`cv2.imwrite`) and read them (`cv2.imread`). One thread.
The error is the length of the difference of two vectors, over vectors that are not clipped.

    python benchmarks/storage.py [--clips N] [--flows N] [--flow dis|tvl1] [--short-side PX]
"""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import arguments, deliver, from_8bit, seconds_in_turn, show, ucf101_clips

from flowpipe.cache import Entry, FlowRecipe
from flowpipe.cache.write import EntryWriter
from flowpipe.flow import create
from flowpipe.flow.quantise import to_8bit
from flowpipe.video import VideoReader

BOUND_PX = 20.0
FORMS: list[tuple[str, str, float]] = [
    ("u8", "jpegls", 0.0),
    ("u8", "zstd", 0.0),
    ("i16", "jpegls", 0.04),
    ("i16", "jpegls", 0.0),
    ("i16", "zstd", 0.0),
    ("f16", "zstd", 0.0),
]
PICTURES = {
    "JPEG q95 pairs": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
    "PNG pairs": (".png", []),
}


def form_name(storage: str, codec: str, tolerance_px: float) -> str:
    return f"{storage} {codec}" + (f", tolerance {tolerance_px:g} px" if tolerance_px else "")


class Form:
    """One storage form: `write` makes the entry of a clip, `read` gives its codes."""

    def __init__(self, storage: str, codec: str, tolerance_px: float, folder: Path) -> None:
        recipe = FlowRecipe.make(
            "dis",
            rgb=False,
            storage=storage,
            bound_px=BOUND_PX if storage == "u8" else None,
            tolerance_px=tolerance_px,
        )
        self._codec = codec
        self._folder = folder
        self._quantiser = recipe.quantiser
        self._attributes = dict.fromkeys(("source_name", "source_sha256", "problem"), "")
        self._attributes |= {"recipe": recipe.to_json(), "source": "{}", "software": "{}"}

    def write(self, clip: int, uv_THWC: np.ndarray) -> None:
        height, width = uv_THWC.shape[1:3]
        with EntryWriter(
            self._folder / f"{clip}.h5",
            quantiser=self._quantiser,
            codec=self._codec,
            height=height,
            width=width,
        ) as writer:
            for uv_HWC in uv_THWC:
                writer.add_flow(uv_HWC)
            writer.finish(np.arange(len(uv_THWC) + 1) / 25, self._attributes)

    def open(self, clip: int) -> Entry:
        return Entry(self._folder / f"{clip}.h5")

    def read(self, entry: Entry) -> np.ndarray:
        return entry.flow.codes(range(entry.num_flows))

    def flow(self, clip: int) -> np.ndarray:
        return self.open(clip).flow[:]


class Pictures:
    """Two picture files for each flow, with the interface of `Form`."""

    def __init__(self, extension: str, parameters: list[int], folder: Path) -> None:
        self._extension, self._parameters, self._folder = extension, parameters, folder

    def _file(self, clip: int, index: int, component: int) -> str:
        return str(self._folder / f"{clip}_{index:05d}_{'xy'[component]}{self._extension}")

    def write(self, clip: int, uv_THWC: np.ndarray) -> None:
        for index, uv_HWC in enumerate(uv_THWC):
            codes = to_8bit(uv_HWC, BOUND_PX)
            for component in (0, 1):
                picture = np.ascontiguousarray(codes[..., component])
                cv2.imwrite(self._file(clip, index, component), picture, self._parameters)

    def open(self, clip: int) -> list[tuple[str, str]]:
        count = len(list(self._folder.glob(f"{clip}_*"))) // 2
        return [(self._file(clip, index, 0), self._file(clip, index, 1)) for index in range(count)]

    def read(self, files: list[tuple[str, str]]) -> np.ndarray:
        return np.stack([[cv2.imread(file, cv2.IMREAD_GRAYSCALE) for file in p] for p in files])

    def flow(self, clip: int) -> np.ndarray:
        return from_8bit(self.read(self.open(clip)), BOUND_PX).transpose(0, 2, 3, 1)


def flow_of(path: Path, method: Any, count: int, short_side: int | None) -> np.ndarray:
    """Give `count` consecutive flows from the beginning of a clip, T×H×W×2."""
    frames = [
        frame.grey_HW
        for frame, _ in zip(
            VideoReader(path, short_side=short_side), range(count + 1), strict=False
        )
    ]
    return np.stack([method(previous, following) for previous, following in pairwise(frames)])


def errors(store: Form | Pictures, clips: list[np.ndarray]) -> tuple[float, float]:
    """Give the mean and the largest end-point error in px."""
    total, count, largest = 0.0, 0, 0.0
    for clip, uv_THWC in enumerate(clips):
        distance = np.hypot(*np.moveaxis(store.flow(clip) - uv_THWC, -1, 0))
        distance = distance[(np.abs(uv_THWC) <= BOUND_PX).all(axis=-1)]
        total, count = total + float(distance.sum(dtype=np.float64)), count + distance.size
        largest = max(largest, float(distance.max()))
    return total / count, largest


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--flows", type=int, default=12, help="of each clip")
    parser.add_argument("--flow", default="dis")
    parser.add_argument("--short-side", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    method = create(options.flow)
    clips = [
        flow_of(path, method, options.flows, options.short_side)
        for path in ucf101_clips(options.clips)
    ]
    flows = sum(map(len, clips))
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        stores: dict[str, Form | Pictures] = {}
        for form in FORMS:
            stores[form_name(*form)] = Form(*form, folder := Path(work) / form_name(*form))
            folder.mkdir()
        for name, (extension, parameters) in PICTURES.items():
            stores[name] = Pictures(extension, parameters, folder := Path(work) / name)
            folder.mkdir()
        writing: dict[str, Callable[[], Any]] = {
            name: partial(_write_all, store, clips) for name, store in stores.items()
        }
        encode_s = seconds_in_turn(writing, options.rounds)
        reading: dict[str, Callable[[], Any]] = {
            name: partial(_read_all, store, [store.open(clip) for clip in range(len(clips))])
            for name, store in stores.items()
        }
        decode_s = seconds_in_turn(reading, options.rounds)
        rows = []
        for name, store in stores.items():
            size = sum(file.stat().st_size for file in (Path(work) / name).iterdir())
            mean_px, largest_px = errors(store, clips)
            rows.append(
                {
                    "form": name,
                    "kB per flow": size / flows / 1000,
                    "mean error px": mean_px,
                    "largest px": largest_px,
                    "write ms": 1000 * encode_s[name] / flows,
                    "read ms": 1000 * decode_s[name] / flows,
                    "size × JPEG": size / flows / 1000,
                    "write × JPEG": encode_s[name] / encode_s["JPEG q95 pairs"],
                    "read × JPEG": decode_s[name] / decode_s["JPEG q95 pairs"],
                }
            )
    jpeg_kb = next(row["kB per flow"] for row in rows if row["form"] == "JPEG q95 pairs")
    for row in rows:
        row["size × JPEG"] = row["kB per flow"] / jpeg_kb
    height, width = clips[0].shape[1:3]
    show(f"{flows} flows of {len(clips)} clips, {options.flow}, {width}×{height} px", rows)
    told = {"flow": options.flow, "flows": flows, "height": height, "width": width}
    deliver({**told, "table": rows}, options.json)


def _write_all(store: Any, clips: list[np.ndarray]) -> None:
    for clip, uv_THWC in enumerate(clips):
        store.write(clip, uv_THWC)


def _read_all(store: Any, opened: list[Any]) -> None:
    for entry in opened:
        store.read(entry)


if __name__ == "__main__":
    main()
