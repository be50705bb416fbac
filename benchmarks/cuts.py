"""Are cuts found? Joined UCF101 clips with fast motion, flashes, fades; what finding them costs.

    python benchmarks/cuts.py [--seed N] [--cost-clips N]

Pieces of all clips are joined in a random order, so that every join is a cut: as they are (`hard`),
with two flashes of one to three frames in each (`flash`), and with two of three frames left out
(`fast`). Fades through black, dissolves and whole clips have no cuts, but two clips that have one
of their own, which is left out of the count. The cost is the processor time of `extract` with the
search beside that without, the two taking turns.
"""

import itertools
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np

from flowpipe import extract
from flowpipe.cache import FlowRecipe
from flowpipe.flow.cuts import find_cuts
from flowpipe.video import Frame, VideoReader

OWN_CUTS = {("v_Biking_g05_c02", 132), ("v_Diving_g20_c04", 150)}
"""Clip and the first frame of its second shot, seen by eye."""

Piece = np.ndarray


def piece(path: Path, rng: np.random.Generator, frames: int) -> Piece:
    """Return up to `frames` consecutive grey frames that no cut of the clip's own lies in."""
    clip = np.stack([frame.grey_HW for frame in VideoReader(path, size=(120, 160))])
    borders = [0, *(cut for name, cut in sorted(OWN_CUTS) if name == path.stem), len(clip)]
    start, stop = max(itertools.pairwise(borders), key=lambda ends: ends[1] - ends[0])
    first = start + int(rng.integers(0, max(1, stop - start - frames)))
    return clip[first : min(stop, first + frames)]


def with_flashes(piece_THW: Piece, rng: np.random.Generator) -> Piece:
    flashed = piece_THW.astype(np.float32)
    for _ in range(2):
        first, gain = int(rng.integers(8, len(flashed) - 8)), float(rng.uniform(0.3, 1))
        for index in range(first, first + int(rng.integers(1, 4))):
            flashed[index] = flashed[index] * (1 + gain) + 255 * gain * rng.uniform(0.4, 1)
    return np.clip(flashed, 0, 255).astype(np.uint8)


def with_fades(piece_THW: Piece, rng: np.random.Generator) -> Piece:
    faded, steps = piece_THW.astype(np.float32), int(rng.integers(6, 25))
    ramp = np.linspace(0, 1, steps)[:, None, None]
    faded[:steps] *= ramp
    faded[-steps:] *= ramp[::-1]
    return faded.astype(np.uint8)


def dissolved(one: Piece, other: Piece, rng: np.random.Generator) -> Piece:
    steps = int(rng.integers(10, 25))
    ramp = np.linspace(0, 1, steps)[:, None, None]
    between = (one[-steps:] * (1 - ramp) + other[:steps] * ramp).astype(np.uint8)
    return np.concatenate([one[:-steps], between, other[steps:]])


def kinds(clips: list[Path], rng: np.random.Generator) -> Iterator[tuple[str, Piece, set[int]]]:
    """Yield kind, frames and true cuts of each video."""

    def shuffled(frames: int) -> list[Piece]:
        return [piece(clips[i], rng, frames) for i in rng.permutation(len(clips))]

    def joined(pieces: list[Piece]) -> tuple[Piece, set[int]]:
        return np.concatenate(pieces), set(np.cumsum([len(p) for p in pieces])[:-1].tolist())

    yield "hard", *joined(shuffled(60))
    yield "flash", *joined([with_flashes(each, rng) for each in shuffled(60)])
    yield "fast", *joined([each[::3] for each in shuffled(150)])
    yield "fade", joined([with_fades(each, rng) for each in shuffled(60)])[0], set()
    pieces = shuffled(60)
    for one, other in zip(pieces[::2], pieces[1::2], strict=False):
        yield "dissolve", dissolved(one, other, rng), set()
    for path in clips:
        yield "whole clip", piece(path, rng, 10_000), set()


def found_in(frames_THW: Piece) -> set[int]:
    cuts: set[int] = set()
    frames = (Frame(i, i / 25, grey_HW, None) for i, grey_HW in enumerate(frames_THW))
    for _ in find_cuts(frames, cuts):
        pass
    return cuts


def measure(clips: list[Path], seed: int) -> list[dict[str, Any]]:
    """Return a record for each kind, and one for all."""
    rows: dict[str, dict[str, Any]] = {}
    for kind, frames_THW, true in kinds(clips, np.random.default_rng(seed)):
        found = found_in(frames_THW)
        for name in (kind, "all"):
            row = rows.setdefault(
                name, {"kind": name, "pairs": 0, "cuts": 0, "found": 0, "false": 0}
            )
            row["pairs"] += len(frames_THW) - 1
            row["cuts"] += len(true)
            row["found"] += len(true & found)
            row["false"] += len(found - true)
    records = [rows[name] for name in (*(n for n in rows if n != "all"), "all")]
    for row in records:
        row["found %"] = 100 * row["found"] / row["cuts"] if row["cuts"] else "–"
        row["false %"] = 100 * row["false"] / (row["pairs"] - row["cuts"])
    return records


def costs(clips: list[Path]) -> list[dict[str, Any]]:
    """Return the processor time of `extract` with the search as a multiple of that without."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    rows = []
    for flow in ("dis", "tvl1-fast"):
        seconds: dict[bool, float] = {False: 0.0, True: 0.0}
        for number in range(6):
            cuts = number % 4 in (1, 2)
            with tempfile.TemporaryDirectory() as folder:
                began = spent()
                recipe = FlowRecipe.make(flow, rgb=False, cuts=cuts)
                extract(clips, Path(folder) / "c", recipe, workers=1)
                if number > 1:  # the first of each compiles
                    seconds[cuts] += spent() - began
        rows.append({"flow": flow, "time × without": seconds[True] / seconds[False]})
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--cost-only", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cost-clips", type=int, default=6)
    given = parser.parse_args()
    numbers: dict[str, Any] = {}
    if not given.cost_only:
        numbers["cuts"] = measure(common.ucf101_clips(), given.seed)
        common.show("Cuts of joined UCF101 clips", numbers["cuts"])
    if given.cost_clips:
        numbers["cost"] = costs(common.ucf101_clips(given.cost_clips))
        common.show("Cost of the search in extract, one worker", numbers["cost"])
    common.deliver(numbers, given.json)


if __name__ == "__main__":
    main()
