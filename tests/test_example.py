"""The example of one's own network trains on the quickstart's videos, by the command it names."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowpipe.datasets.synthetic import write_videos

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_own_network_trains_from_its_one_file(tmp_path):
    write_videos(tmp_path / "videos", clips=36)
    (first,) = [
        line for line in (ROOT / "examples" / "own_network.toml").read_text().splitlines()
        if line.startswith("# flowpipe train")
    ]  # fmt: skip
    command = first.split("(")[0].split()[1:]
    assert command == ["flowpipe", "train", "examples/own_network.toml"]
    changes = [
        f"data.root={tmp_path / 'videos'}", f"data.cache={tmp_path / 'cache'}", "data.generate=36",
        "train.epochs=4", "extract.workers=1", "extract.flow=farneback",
    ]  # fmt: skip
    changes = [part for change in changes for part in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", *command, *changes, "--out", str(tmp_path / "run"), "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    row = record["networks"]["temporal"]
    assert row["model"] == "examples.own_network:build"
    assert row["input"] == "flow 2×10×64×64"
    # By hand: two convolutions and two normalisations a block, and the classifier.
    planes = [2, 8, 16, 32, 32]
    blocks = sum(9 * a * b + 3 * b * b + 4 * b for a, b in itertools.pairwise(planes))
    assert row["parameters"] == blocks + 64 * 9 + 9
    lines = (tmp_path / "run" / "fold-test" / "temporal" / "metrics.jsonl").read_text()
    losses = [json.loads(line)["loss"] for line in lines.splitlines()]
    assert losses[-1] < losses[0]
