"""Write the README's table of end-point errors on Middlebury, for every flow method.

python benchmarks/middlebury.py [--check]
"""

import os
import sys
from pathlib import Path

import common

from flowpipe.flow import FLOWS, create
from flowpipe.flow.bench import one_thread
from flowpipe.flow.evaluation import find_pairs, flow_errors, read_grey, read_truth

README = common.HERE.parent / "README.md"
BEGIN, END = "<!-- middlebury: made by benchmarks/middlebury.py -->\n", "<!-- middlebury: end -->\n"


def table(folder: Path, methods: list[str]) -> str:
    """Give the Markdown table: mean end-point error in px, and seconds beside OpenCV's TV-L1."""
    rows: dict[str, list[float]] = {name: [] for name in methods}
    names = []
    with one_thread():
        for pair in find_pairs(folder):
            names.append(pair.name)
            truth_HWC, known_HW = read_truth(pair.truth)
            frames = read_grey(pair.first), read_grey(pair.second)
            for name in methods:
                errors = flow_errors(create(name)(*frames), truth_HWC, known_HW)
                rows[name].append(errors.end_point_px)
    lines = ["| | " + " | ".join([*names, "mean"]) + " |", "|---" * (len(names) + 2) + "|"]
    for name, errors in rows.items():
        cells = [f"{error:.2f}" for error in [*errors, sum(errors) / len(errors)]]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    data = Path(os.environ.get("FLOWPIPE_DATA", common.HERE.parents[1] / "shared" / "data"))
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = before + BEGIN + table(data / "flow_gt" / "middlebury", list(FLOWS)) + END + after
    if "--check" in sys.argv and made != text:
        raise SystemExit("README.md has other errors; run benchmarks/middlebury.py")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
