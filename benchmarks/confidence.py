"""Does confidence rank the errors of flow? Middlebury's truth, and what it takes to store.

    python benchmarks/confidence.py [--methods dis,tvl1-fast,dis+tvl1] [--clips N]

Pixels are taken away from the least trusted on, and the mean end-point error of the rest, as a
share of that of all, is averaged over the shares taken away: the area under the sparsification
curve. 1 is a confidence that says nothing; `by error` is the least that is possible, where the
error itself says what to take away; `per pixel` is the difference of forward and backward flow
before it is averaged over cells and coded. Bytes are those of the entries of UCF101 clips.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.flow import create
from flowpipe.flow.confidence import confidence_codes, spread
from flowpipe.flow.evaluation import find_pairs, read_grey, read_truth

STEPS = 100


def sparsification_area(errors: np.ndarray, doubts: np.ndarray) -> float:
    """Return the area under the curve; pixels in equal doubt are taken away in equal shares."""
    order = np.argsort(doubts, kind="stable")
    ends = np.flatnonzero(np.diff(doubts[order], append=np.inf)) + 1
    sums = np.concatenate([[0.0], np.cumsum(errors[order])[ends - 1]])
    kept = len(errors) * (1 - np.arange(STEPS) / STEPS)
    left = np.interp(kept, np.concatenate([[0], ends]), sums) / kept
    return float(left.mean() / errors.mean())


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """Return the areas of one method, pair by pair."""
    method = create(name)
    rows = []
    for pair in find_pairs(folder):
        first, second = read_grey(pair.first), read_grey(pair.second)
        uv_HWC, back_HWC = method(first, second), method(second, first)
        truth_HWC, known_HW = read_truth(pair.truth)
        errors = np.linalg.norm(uv_HWC - truth_HWC, axis=-1)[known_HW]
        height, width = known_HW.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        to = uv_HWC + np.stack([x, y], axis=-1)
        there = cv2.remap(back_HWC, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        doubts = np.linalg.norm(uv_HWC + there, axis=-1)[known_HW]
        codes = spread(confidence_codes(uv_HWC, back_HWC), height, width)[known_HW]
        rows.append(
            {
                "flow": name,
                "pair": pair.name,
                "error px": float(errors.mean()),
                "area": sparsification_area(errors, -codes.astype(float)),
                "per pixel": sparsification_area(errors, doubts),
                "by error": sparsification_area(errors, errors),
            }
        )
    numbers = [key for key in rows[0] if isinstance(rows[0][key], float)]
    mean = {key: float(np.mean([row[key] for row in rows])) for key in numbers}
    return [*rows, {"flow": name, "pair": "mean", **mean}]


def sizes(name: str, clips: list[Path]) -> dict[str, Any]:
    """Return the bytes of confidence beside those of the flow."""
    with tempfile.TemporaryDirectory() as folder:
        extract(clips, folder, FlowRecipe.make(name, rgb=False, confidence=True))
        cache = open_cache(folder)
        entries = [cache[name] for name in cache.names()]
        flow = sum(entry.flow.num_bytes for entry in entries)
        own = sum(entry.confidence.num_bytes for entry in entries)
        fields = sum(entry.num_flows for entry in entries)
    return {
        "flow": name,
        "fields": fields,
        "flow kB each": flow / fields / 1e3,
        "confidence kB each": own / fields / 1e3,
        "share": own / flow,
    }


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--methods", default="dis,tvl1-fast,dis+tvl1")
    parser.add_argument("--clips", type=int, default=6)
    given = parser.parse_args()
    data = Path(os.environ.get("FLOWPIPE_DATA", common.HERE.parents[1] / "shared" / "data"))
    names = given.methods.split(",")
    rows = [row for name in names for row in measure(name, data / "flow_gt" / "middlebury")]
    common.show("Area under the sparsification curve, Middlebury", rows)
    numbers: dict[str, Any] = {"confidence": rows}
    if given.clips:
        clips = common.ucf101_clips(given.clips)
        numbers["sizes"] = [sizes(name, clips) for name in names]
        common.show("Bytes, UCF101 clips, u8 JPEG-LS", numbers["sizes"])
    common.deliver(numbers, given.json)


if __name__ == "__main__":
    main()
