"""How full the batches of a GPU are: each worker batching its own video, or all workers' together.

    python benchmarks/gpu_batches.py [--lengths FILE] [--size 256x340] [--json FILE]

Needs no GPU: it counts. The lengths are those of the videos in ../shared/data/ucf101_sample (or
FLOWPIPE_DATA), drawn 1,000 times with a fixed seed; a batch holds 16 million pixels. A batch of b
pairs is taken to last (k + b) times the time of a pair: k is what a batch costs beside its pairs
(launches of kernels, the last pairs that converge), in pairs. Joined batches are the best there can
be: all full, whatever waits.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import av
import numpy as np

BATCH_PIXELS = 16_000_000
COSTS = (0, 5, 10, 20, 40, 80)


def frame_counts(folder: Path) -> list[int]:
    """Count the frames of each video below a folder by its header."""
    counts = []
    for path in sorted(folder.rglob("*.avi")):
        with av.open(str(path)) as container:
            counts.append(int(container.streams.video[0].frames))
    return counts


def own_batches(pairs: int, most: int) -> list[int]:
    """Divide a video's pairs as a worker does: full batches, then the rest."""
    return [min(most, pairs - first) for first in range(0, pairs, most)]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Count, print a table, and return the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="256x340")
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    height, width = map(int, given.size.split("x"))
    data = Path(os.environ.get("FLOWPIPE_DATA", "../shared/data"))
    counts = frame_counts(data / "ucf101_sample")
    if not counts:
        sys.exit(f"no video below {data}; set FLOWPIPE_DATA")
    drawn = np.random.default_rng(0).choice(counts, given.videos) - 1
    most = BATCH_PIXELS // (height * width)
    own = [size for pairs in drawn for size in own_batches(int(pairs), most)]
    pairs = int(drawn.sum())
    joined = -(-pairs // most)
    record = {
        "videos": given.videos,
        "pairs": pairs,
        "most in a batch": most,
        "own batches": len(own),
        "own fill": pairs / (len(own) * most),
        "joined batches": joined,
        "gain by cost of a batch": {
            cost: (pairs + cost * len(own)) / (pairs + cost * joined) - 1 for cost in COSTS
        },
    }
    for name, value in record.items():
        sys.stdout.write(f"{name}: {value}\n")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
