"""Training on two processes (torchrun, gloo) follows one; a killed one is told, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from flowpipe import open_cache
from flowpipe.errors import InvalidArgument, RankLost
from flowpipe.training.ranks import Ranks, noticing_loss

SCRIPT = """
import os, signal, sys, time
import torch
from torch import nn
from flowpipe import open_cache
from flowpipe.clips.dataset import ClipDataset, StreamInput
from flowpipe.datasets.video import Video
from flowpipe.errors import FlowpipeError
from flowpipe.training import TrainOptions, train_stream
from pathlib import Path

cache, out, epochs, pause_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
opened = open_cache(cache)
records = [Video(name, Path(name), (label,)) for name, label in opened.labels.items()]
dataset = ClipDataset(
    records, opened,
    [StreamInput("temporal", "flow", 2, crop_size=(16, 20), mean_subtraction=False)],
    classes=("a", "b"), seed=3,
)
torch.manual_seed(5)
model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
model(torch.zeros(1, 4, 16, 20))

def on_epoch(record):
    Path(out, f"{os.environ.get('RANK', 0)}.pid").write_text(str(os.getpid()))
    time.sleep(pause_s)

try:
    train_stream(
        model, dataset,
        TrainOptions(
            epochs=epochs, batch_size=8, learning_rate=0.05, warmup_epochs=0.0,
            workers=int(os.environ.get("LOADERS", "0")), device="cpu",
        ),
        out, on_epoch=on_epoch,
    )
except FlowpipeError as error:
    sys.exit(f"flowpipe: {error}")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory, write_entry):
    """Eight videos of two classes: one batch is one epoch, so that each loss is that of a step."""
    path = tmp_path_factory.mktemp("cache") / "c"
    rng = np.random.default_rng(0)
    for number in range(8):
        uv = rng.normal((0, -2) if number % 2 else (0, 2), 1, (6, 16, 20, 2)).astype(np.float32)
        label = "ab"[number % 2]
        write_entry(path, uv, codec="zstd", name=f"{label}/{number}.avi", digest=f"{number:064x}",
                    label=label)  # fmt: skip
    return path


def start(tmp_path, cache, out, *, processes, epochs=20, pause_s=0.0, extra=(), **environment):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = [str(script), str(cache), str(out), str(epochs), str(pause_s)]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        words = [*launch, str(processes), *extra, *words]
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(process):
    told, _ = process.communicate(timeout=200)
    return process.returncode, told


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_follow_one_and_a_killed_one_is_told_and_resumed(tmp_path, cache):
    one, two, broken = tmp_path / "one", tmp_path / "two", tmp_path / "broken"
    for out in (one, two, broken):
        out.mkdir()
    status, told = finished(start(tmp_path, cache, one, processes=1))
    assert status == 0, told
    status, told = finished(start(tmp_path, cache, two, processes=2, LOADERS="1"))
    assert status == 0, told
    assert len(losses(one)) == 20
    assert losses(one)[-1] < 0.5 * losses(one)[0]
    np.testing.assert_allclose(losses(two), losses(one), atol=1e-4)

    run = start(tmp_path, cache, broken, processes=2, pause_s=0.3)
    until = time.monotonic() + 100
    while time.monotonic() < until:
        metrics = broken / "metrics.jsonl"
        if (broken / "1.pid").exists() and metrics.exists() and len(losses(broken)) >= 3:
            break
        time.sleep(0.05)
    os.kill(int((broken / "1.pid").read_text()), signal.SIGKILL)
    status, told = finished(run)
    assert status != 0
    assert "another process of this run is gone" in told or "Signal 9 (SIGKILL)" in told
    done = len(losses(broken))
    assert 3 <= done < 20
    status, told = finished(start(tmp_path, cache, broken, processes=2))
    assert status == 0, told
    np.testing.assert_allclose(losses(broken), losses(one), atol=1e-4)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_run_by_itself(tmp_path, cache):
    """With the variable that the module names: without it torch's own restart fails on gloo."""
    out = tmp_path / "out"
    out.mkdir()
    run = start(
        tmp_path, cache, out, processes=2, pause_s=0.3, extra=("--max-restarts", "2"),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )  # fmt: skip
    until = time.monotonic() + 100
    while time.monotonic() < until and not (
        (out / "1.pid").exists() and (out / "metrics.jsonl").exists() and len(losses(out)) >= 3
    ):
        time.sleep(0.05)
    first = (out / "1.pid").read_text()
    os.kill(int(first), signal.SIGKILL)
    status, told = finished(run)
    assert status == 0, told
    assert len(losses(out)) == 20
    assert (out / "1.pid").read_text() != first


def test_a_share_of_a_batch():
    assert Ranks().share_of(7) == 7
    assert Ranks(1, 4).share_of(32) == 8
    with pytest.raises(InvalidArgument, match="batch_size 7 must be a multiple of the 2 processes"):
        Ranks(0, 2).share_of(7)


def test_what_it_means_when_a_process_is_gone():
    def lose(text):
        with noticing_loss():
            raise RuntimeError(text)

    with pytest.raises(RankLost, match=r"another process of this run is gone .*Connection"):
        lose("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        lose("shapes do not fit")


def test_each_process_opens_entries_for_itself(cache):
    """After a fork a file position or an HDF5 handle must not be shared with the parent."""
    name = open_cache(cache).names()[0]
    entry = open_cache(cache)[name]
    wanted = entry.flow[2]
    mine = entry._descriptor
    assert mine[0] == os.getpid()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # pytest may have threads; the child does nothing with them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        same = bool((entry.flow[2] == wanted).all())
        os.write(writer, json.dumps([same, entry._descriptor[0] == os.getpid()]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 100)) == [True, True]
    assert entry._descriptor == mine
    os.close(reader)
    os.close(writer)
