"""Clips/s of networks at their published input, beside the network written in the plainest way.

    python benchmarks/models.py [--models r3d-18 i3d …] [--batch 1 4] [--json FILE]

Ratios are those of one run, on two threads: plain (contiguous memory, normalisation apart, nothing
compiled) is 1. "folded" has batch normalisation folded into the convolutions (testing only),
"channels-last" the other memory layout; forward+backward trains, so nothing is folded there.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowpipe.models import TABLE, build_for_clip
from flowpipe.models.weights.folding import fold_batch_norm

MODELS = ("resnet50", "r3d-18", "slowfast-4x16-r50", "i3d")
CLIPS = {"slowfast-4x16-r50": (3, 32, 224, 224)}


def seconds(step: Callable[[], object], rounds: int) -> float:
    """Best of some rounds, after one that is not counted."""
    step()
    best = float("inf")
    for _ in range(rounds):
        clock = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - clock)
    return best


def forward(network: nn.Module, inputs: Tensor) -> Callable[[], object]:
    network.eval()

    def step() -> object:
        with torch.inference_mode():
            return network(inputs)

    return step


def training(network: nn.Module, inputs: Tensor) -> Callable[[], object]:
    network.train()
    labels = torch.arange(len(inputs))

    def step() -> None:
        network.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(inputs), labels).backward()

    return step


def measure(name: str, batch: int, rounds: int, *, with_training: bool) -> list[dict[str, Any]]:
    """Give a row for each way and direction."""
    clip = CLIPS.get(name, TABLE[name].clip_CTHW)
    torch.manual_seed(0)
    network = build_for_clip(name, clip, num_classes=400)
    shape = clip if TABLE[name].input_layout == "CTHW" else (clip[0] * clip[1], *clip[2:])
    plain = torch.randn(batch, *shape)
    last = torch.channels_last_3d if len(shape) == 4 else torch.channels_last
    turned = plain.to(memory_format=last)
    folded = fold_batch_norm(network, plain[:1])
    ways = {
        "plain": seconds(forward(network, plain), rounds),
        "folded": seconds(forward(folded, plain), rounds),
        "channels-last": seconds(forward(network.to(memory_format=last), turned), rounds),
        "folded, channels-last": seconds(forward(folded.to(memory_format=last), turned), rounds),
    }
    found = {"forward": ways}
    if with_training:
        ways = {"channels-last": seconds(training(network, turned), rounds)}
        network.to(memory_format=torch.contiguous_format)
        found["forward+backward"] = {"plain": seconds(training(network, plain), rounds), **ways}
    return [
        {
            "model": name,
            "batch": batch,
            "direction": direction,
            "way": way,
            "clips_per_s": batch / taken,
            "ratio": ways["plain"] / taken,
        }
        for direction, ways in found.items()
        for way, taken in ways.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=(1, 4))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    print(f"{'model':20} {'batch':>5} {'direction':17} {'way':22} {'clips/s':>8} {'ratio':>6}")
    for name in options.models:
        for batch in options.batch:
            for row in measure(name, batch, options.rounds, with_training=not options.no_training):
                rows.append(row)
                print(
                    f"{name:20} {batch:5} {row['direction']:17} {row['way']:22} "
                    f"{row['clips_per_s']:8.3f} {row['ratio']:6.2f}"
                )
                sys.stdout.flush()
    if options.json:
        facts = {"torch": torch.__version__, "threads": options.threads, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
