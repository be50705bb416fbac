"""`--scheduler`: Dask's own scheduler and workers, as processes of this machine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.cache.verify import left_over, verify
from flowpipe.errors import InvalidArgument
from flowpipe.extraction.processes import WorkerProcess
from flowpipe.extraction.tasks import Job, Task

PLUGIN = '''
import os, time
import numpy as np

class Slow:
    """A constant flow, a while later; a bright frame ends the process."""

    name, version, libraries = "slow", 1, {}

    def __init__(self):
        self.parameters = {}

    def __call__(self, prev_HW, next_HW):
        time.sleep(0.15)
        if prev_HW.mean() > 250:
            os._exit(3)
        return np.full((*prev_HW.shape, 2), 2, np.float32)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "slow_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "slow_plugin:Slow"


@pytest.fixture
def videos(tmp_path, write_video):
    root = tmp_path / "videos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        write_video(root / f"{number}.mp4", rng.integers(0, 200, (6, 48, 64, 3), np.uint8))
    write_video(root / "fatal.mp4", np.full((6, 48, 64, 3), 255, np.uint8))
    return root


@pytest.fixture
def cluster(tmp_path, plugin):
    """Give (address, worker processes) of a scheduler with two workers on 127.0.0.1."""
    pytest.importorskip("distributed", reason="needs the extra dask")
    started = []

    def start(*words, log):
        with log.open("wb") as file:
            words = [sys.executable, "-m", "dask", *words]
            process = subprocess.Popen(words, stdout=file, stderr=file, cwd=tmp_path)
        started.append(process)
        return process

    try:
        log = tmp_path / "scheduler.log"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", log=log)
        address = None
        until = time.monotonic() + 60
        while address is None and time.monotonic() < until:
            time.sleep(0.2)
            found = re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text())
            address = found and found[0]
        assert address, log.read_text()
        workers = [
            start("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                  log=tmp_path / f"worker{number}.log")
            for number in range(2)
        ]  # fmt: skip
        yield address, workers
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@pytest.mark.slow
def test_killing_a_dask_worker_in_mid_run_loses_nothing(videos, tmp_path, plugin, cluster):
    address, workers = cluster
    cache = tmp_path / "c"
    words = ["extract", videos, "--flow", plugin, "--out", cache, "--scheduler", address, "--json"]
    run = subprocess.Popen(
        [sys.executable, "-m", "flowpipe", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 100
    while len(list(cache.glob("*/*/*.h5"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    out, err = run.communicate(timeout=200)
    told = json.loads(out)
    assert run.returncode == 1, err
    assert (told["videos"], told["done"] + told["skipped"], told["failed"]) == (9, 8, 1)
    (failure,) = told["failures"]
    assert failure["name"] == "fatal.mp4"
    assert "the process that worked on it died" in failure["reason"]
    assert len(list(cache.glob("*/*/*.h5"))) == len(open_cache(cache)) == 8
    assert not [finding for finding in verify(cache, deep=True) if finding.problem]
    here = extract(videos, tmp_path / "here", flow=plugin, workers=2)
    assert here.recipe == told["recipe"]
    for name in open_cache(cache):
        there, own = open_cache(cache)[name], open_cache(tmp_path / "here")[name]
        assert list(there.flow.stored()) == list(own.flow.stored())
    # The next run computes nothing, and removes what the dead worker left.
    again = extract(videos, cache, flow=plugin, workers=1)
    assert (again.done, again.skipped, again.failures[0].earlier) == (0, 8, True)


@pytest.mark.slow
def test_a_hang_on_a_dask_worker_is_passed_over(videos, tmp_path, cluster):
    address, _ = cluster
    # Its own name: this process may have imported the other plugin's module before.
    (tmp_path / "hanging_plugin.py").write_text(PLUGIN.replace("os._exit(3)", "time.sleep(1000)"))
    result = extract(
        videos, tmp_path / "c", flow="hanging_plugin:Slow", scheduler=address, timeout_s=3
    )
    assert result.done == 8
    (failure,) = result.failures
    assert "no frame was finished for 3 s" in failure.reason
    assert left_over(tmp_path / "c") == []


def test_where_no_scheduler_answers(videos, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra dask")
    import flowpipe.extraction.scheduler as module

    monkeypatch.setattr(module, "CONNECT_S", 1)
    with pytest.raises(InvalidArgument, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        extract(videos, tmp_path / "c", flow="farneback", scheduler="tcp://127.0.0.1:9")


def test_without_dask_the_way_to_install_it_is_told(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InvalidArgument, match=r"pip install flowpipe\[dask\]"):
        extract(videos, tmp_path / "c", flow="farneback", scheduler="tcp://127.0.0.1:9")


def test_a_worker_process_is_replaced_when_a_video_ends_it(videos, tmp_path, plugin):
    """Without Dask: a video that ends the process, then one that does not."""
    job = Job(tmp_path / "c", FlowRecipe.make(plugin, rgb=False), "jpegls")
    steps = []
    with WorkerProcess(lambda task, flows, share: steps.append((task.name, flows))) as worker:
        outcomes = [
            worker.run(job, Task(7, videos / name, name, 1), 60)
            for name in ("0.mp4", "fatal.mp4", "1.mp4")
        ]
        pid = worker.pid
    assert [outcome.flows for outcome in outcomes] == [5, 0, 5]
    assert "died twice (exit status 3" in outcomes[1].failure
    assert len(outcomes[1].digest) == 64
    assert ("0.mp4", 1) in steps
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        pytest.fail("its process goes on after close")
