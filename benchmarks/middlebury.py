"""Write the table of docs/explanation/methods.md: errors on Middlebury, time, noise when still.

    python benchmarks/middlebury.py [--check] [--methods dis,tvl1] [--keep FILE]

Errors are mean end-point errors in px. Times are ms of processor time for a pair of Middlebury
(up to 480×640), one thread, the mean over the pairs. The last column is the mean |flow| in px
between a frame and itself with Gaussian noise of σ = 3/255 on it, over the same frames: it should
be zero. Methods with weights are left out where those are not in FLOWPIPE_DATA.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np

from flowpipe.flow import FLOWS, FlowMethod, create
from flowpipe.flow.bench import one_thread
from flowpipe.flow.evaluation import find_pairs, flow_errors, read_grey, read_truth
from flowpipe.flow.method import takes

PAGE = common.HERE.parent / "docs" / "explanation" / "methods.md"
BEGIN, END = "<!-- middlebury: made by benchmarks/middlebury.py -->\n", "<!-- middlebury: end -->\n"
WEIGHTS = {"gmflow": "gmflow_refine.pth"}
NOISE = 3.0


def made(name: str, data: Path) -> FlowMethod | None:
    """Make a method, or None for one that needs a video or weights that are not there."""
    start, _, refined = name.partition("+")
    if start == "codec" or start.startswith("raft"):
        return None
    if start not in WEIGHTS:
        return create(name)
    weights = data / "weights" / WEIGHTS[start]
    key = "start_weights" if refined else "weights"
    return create(name, **{key: str(weights)}) if weights.is_file() else None


def pictures(path: Path, kind: str) -> np.ndarray:
    if kind == "grey":
        return read_grey(path)
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def measure(name: str, data: Path) -> dict[str, Any] | None:
    """Measure one method on all pairs."""
    method = made(name, data)
    if method is None:
        return None
    rng = np.random.default_rng(0)
    row: dict[str, Any] = {"errors": {}}
    seconds, still = [], []
    with one_thread():
        for pair in find_pairs(data / "flow_gt" / "middlebury"):
            first, second = (pictures(p, takes(method)) for p in (pair.first, pair.second))
            if not seconds:
                method(first[:64, :64].copy(), second[:64, :64].copy())  # compile, allocate
            began = time.process_time()
            uv_HWC = method(first, second)
            seconds.append(time.process_time() - began)
            row["errors"][pair.name] = flow_errors(uv_HWC, *read_truth(pair.truth)).end_point_px
            noisy = first + rng.normal(0, NOISE, first.shape)
            noisy = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
            still.append(float(np.hypot(*method(first, noisy).transpose(2, 0, 1)).mean()))
    return {**row, "ms": 1e3 * float(np.mean(seconds)), "still px": float(np.mean(still))}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table."""
    names = list(next(iter(rows.values()))["errors"])
    heads = [*names, "mean", "ms", "still"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        errors = list(row["errors"].values())
        cells = [f"{error:.2f}" for error in [*errors, sum(errors) / len(errors)]]
        cells += [f"{row['ms']:.0f}", f"{row['still px']:.3f}"]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the errors, write nothing")
    parser.add_argument("--methods", default=",".join(FLOWS))
    parser.add_argument("--keep", type=Path, help="measurements of this and earlier runs")
    given = parser.parse_args()
    data = Path(os.environ.get("FLOWPIPE_DATA", common.HERE.parents[1] / "shared" / "data"))
    rows = json.loads(given.keep.read_text()) if given.keep and given.keep.is_file() else {}
    for name in given.methods.split(","):
        if name not in rows and (row := measure(name, data)) is not None:
            rows[name] = row
            if given.keep:
                given.keep.write_text(json.dumps(rows, indent=1))
    rows = {name: rows[name] for name in FLOWS if name in rows}
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    new = table(rows)
    if given.check:
        # Times differ from run to run; errors do not.
        if [line.split("|")[:-3] for line in old.splitlines()] != [
            line.split("|")[:-3] for line in new.splitlines()
        ]:
            raise SystemExit(f"{PAGE.name} has other errors; run benchmarks/middlebury.py")
        return
    PAGE.write_text(before + BEGIN + new + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
