"""Time and memory of localisation over the length of a video, and over its number of instances.

    python benchmarks/localise.py [--minutes 1 10 60 180] [--instances 0 1 200] [--json FILE]

Features are random numbers, 6.25 snippets a second (25 fps, one snippet every four frames), the
localiser an untrained one with default settings and eight classes: neither changes the cost. Each
length runs in a process of its own, whose peak memory is told beside that of one minute.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, deliver, show

from flowpipe.features.align import AlignedFeatures
from flowpipe.localisation.learning import LearnOptions
from flowpipe.localisation.localiser import Localiser, LocaliserSettings
from flowpipe.localisation.timeline import Example, Sample

STEPS_PER_S = 6.25
SNIPPET_S = 0.64
WIDTHS = (432, 432)


def sample_of(minutes: float) -> Sample:
    steps = round(minutes * 60 * STEPS_PER_S)
    features = np.random.default_rng(0).standard_normal((steps, sum(WIDTHS)), np.float32)
    centre_s = SNIPPET_S / 2 + np.arange(steps) / STEPS_PER_S
    span_s = np.stack((centre_s - SNIPPET_S / 2, centre_s + SNIPPET_S / 2), axis=1)
    return Sample.of("video", AlignedFeatures(features, centre_s, span_s))


def localiser_of(epochs: int = 1) -> Localiser:
    return Localiser(
        LocaliserSettings(
            train=LearnOptions(epochs=epochs),
            classes=tuple("abcdefgh"),
            widths=WIDTHS,
            lengths=(6.0, 12.0, 30.0),
        )
    )


def one_length(minutes: float) -> dict[str, Any]:
    """Find in a video of this length; in a fresh process."""
    sample, localiser = sample_of(minutes), localiser_of()
    before = peak_mb()
    started = time.perf_counter()
    _, scores, _ = localiser.find(sample)
    seconds = time.perf_counter() - started
    return {
        "minutes": minutes,
        "steps": len(sample),
        "features_mb": sample.features.nbytes / 1e6,
        "seconds": seconds,
        "peak_mb": peak_mb(),
        "above_features_mb": peak_mb() - before,
        "found": len(scores),
    }


def one_training(instances: int, folder: Path) -> dict[str, Any]:
    """Train for an epoch on ten minutes with so many instances."""
    sample = sample_of(10.0)
    starts = np.linspace(5, len(sample) - 25, max(instances, 1))[:instances]
    segments = np.stack((starts, starts + 12), axis=1).astype(np.float32).reshape(-1, 2)
    example = Example(sample, segments, np.arange(instances, dtype=np.int64) % 8)
    localiser, losses = localiser_of(), []
    started = time.perf_counter()
    localiser.train([example], folder, lambda name, record: losses.append(record["loss"]))
    seconds = time.perf_counter() - started
    return {"instances": instances, "seconds": seconds, "loss": losses[0], "peak_mb": peak_mb()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def in_a_process(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=True
    )
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60, 180])
    parser.add_argument("--instances", type=int, nargs="+", default=[0, 1, 200])
    parser.add_argument("--one-length", type=float, help="in this process, as JSON")
    parser.add_argument("--one-training", type=int, help="in this process, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one_length is not None:
        print(json.dumps(one_length(given.one_length)))
        return
    if given.one_training is not None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(one_training(given.one_training, Path(folder))))
        return
    lengths = [in_a_process("--one-length", str(minutes)) for minutes in given.minutes]
    trainings = [in_a_process("--one-training", str(count)) for count in given.instances]
    for row in lengths:
        row["seconds × first"] = row["seconds"] / lengths[0]["seconds"]
    show("Finding, over the length", lengths)
    show("An epoch of training on ten minutes, over the number of instances", trainings)
    deliver({"lengths": lengths, "trainings": trainings}, given.json)


if __name__ == "__main__":
    main()
