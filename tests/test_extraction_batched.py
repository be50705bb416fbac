"""The pipeline of a GPU, its method on the CPU: the same entries, failures, resume and end."""

import json
import os
import signal
import threading
import time
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.errors import DeviceError, FlowError, InvalidArgument
from flowpipe.extraction import batched
from flowpipe.extraction.batched import FlowServer, choose_device, flows_from_server, slot_pairs
from flowpipe.flow import create_batched
from flowpipe.video import Frame, VideoReader

QUICK = {"scales": 2, "warps": 1, "inner_iterations": 4, "outer_iterations": 1}


@pytest.fixture
def gpu(monkeypatch):
    """A "GPU" that is this machine's CPU."""
    monkeypatch.setattr(batched, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(batched, "gpu_name", lambda: "a GPU for tests")


@pytest.fixture
def videos(tmp_path, write_video):
    """Four videos of three sizes, one of two frames, one longer than a slot."""
    root = tmp_path / "videos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, frames, height, width in (
        ("a.mp4", 7, 32, 48),
        ("b.mp4", 2, 48, 32),
        ("c.mp4", 40, 32, 48),
        ("d.mp4", 5, 20, 24),
    ):
        fine = np.kron(rng.uniform(0, 255, (20, 40)), np.ones((8, 8)))
        moved = [fine[:height, 90 - 2 * t : 90 - 2 * t + width] for t in range(frames)]
        write_video(root / name, np.repeat(np.stack(moved)[..., None], 3, 3))
    return root


def run(sources, out, **options):
    return extract(
        sources,
        out,
        flow="tvl1",
        device="cuda",
        flow_parameters=QUICK,
        storage="i16",
        workers=options.pop("workers", 2),
        **options,
    )


def test_entries_hold_what_single_pairs_give_across_videos_of_other_sizes(gpu, videos, tmp_path):
    result = run(videos, tmp_path / "c")
    assert (result.done, result.failed, result.flows) == (4, 0, 6 + 1 + 39 + 4)
    assert 0 < result.stage_seconds["gpu"] < result.seconds
    method = create_batched("tvl1", "cpu", **QUICK)
    cache = open_cache(tmp_path / "c")
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        frames = list(VideoReader(videos / name, rgb=True))
        entry = cache[name]
        assert entry.recipe.device == "cuda"
        assert json.loads(entry.attributes["software"])["torch"] == torch.__version__
        np.testing.assert_allclose(entry.pts_s, [frame.pts_s for frame in frames])
        assert np.abs(entry.rgb[-1].astype(int) - frames[-1].rgb_HWC).mean() < 4  # JPEG
        for i in range(len(frames) - 1):
            wanted = method(frames[i].grey_HW, frames[i + 1].grey_HW)
            np.testing.assert_allclose(entry.flow[i], wanted, atol=1 / 128 + 1e-5)
    assert run(videos, tmp_path / "c").skipped == 4


def test_entries_of_cpu_and_gpu_stand_apart(gpu, videos, tmp_path):
    by_gpu = run(videos / "a.mp4", tmp_path / "c")
    by_cpu = extract(
        videos / "a.mp4", tmp_path / "c", flow_parameters=QUICK, storage="i16", workers=1
    )
    assert (by_gpu.done, by_cpu.done) == (1, 1)
    assert by_gpu.recipe != by_cpu.recipe
    recipe = open_cache(tmp_path / "c", recipe=by_gpu.recipe)["a.mp4"].recipe
    assert recipe.describe().startswith("tvl1 on cuda, ")
    assert recipe.flow_parameters["fixed_iterations"] == 0


def test_videos_that_fail_cost_nobody_else(gpu, videos, tmp_path, write_video):
    (videos / "text.avi").write_text("no video\n" * 100)
    write_video(videos / "tiny.mp4", np.zeros((3, 8, 8, 3)))
    write_video(videos / "one.mp4", np.zeros((1, 32, 48, 3)))
    result = run(videos, tmp_path / "c")
    assert (result.done, result.failed) == (4, 3)
    reasons = {failure.name: failure.reason for failure in result.failures}
    assert "cannot be opened" in reasons["text.avi"]
    assert "8×8 px are too small" in reasons["tiny.mp4"]
    assert "one frame only" in reasons["one.mp4"]


def test_the_run_ends_with_the_cause_when_the_gpu_fails(gpu, videos, tmp_path, monkeypatch):
    from flowpipe.flow.tvl1_torch import BatchTVL1

    def fail(*_):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(BatchTVL1, "flow_of", fail)
    with pytest.raises(DeviceError, match="unspecified launch failure; what was done is kept"):
        run(videos, tmp_path / "c")
    assert not list((tmp_path / "c").glob("*/*/.*.part"))
    assert not (tmp_path / "c" / "failures.jsonl").exists()
    monkeypatch.undo()
    monkeypatch.setattr(batched, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(batched, "gpu_name", lambda: "a GPU for tests")
    assert run(videos, tmp_path / "c").done == 4


def test_a_worker_that_dies_costs_nobody_anything(gpu, videos, tmp_path, monkeypatch):
    from flowpipe.flow.tvl1_torch import BatchTVL1

    real, killed = BatchTVL1.flow_of, []

    def kill(self, *arguments):
        if not killed:
            killed.extend(get_reusable_executor(reuse=True)._processes)
            os.kill(killed[0], signal.SIGKILL)
        return real(self, *arguments)

    monkeypatch.setattr(BatchTVL1, "flow_of", kill)
    result = run(videos, tmp_path / "c")
    assert killed
    assert (result.done, result.failed) == (4, 0)


def test_an_interrupted_run_goes_on_and_leaves_no_shared_memory(gpu, videos, tmp_path, monkeypatch):
    from flowpipe.flow.tvl1_torch import BatchTVL1

    before = set(Path("/dev/shm").glob("flowpipe-*"))
    real = BatchTVL1.flow_of

    def interrupt(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return real(self, *arguments)

    monkeypatch.setattr(BatchTVL1, "flow_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(videos, tmp_path / "c")
    monkeypatch.setattr(BatchTVL1, "flow_of", real)
    result = run(videos, tmp_path / "c")
    assert result.done + result.skipped == 4
    assert set(Path("/dev/shm").glob("flowpipe-*")) == before


REFUSED = 250


class Recorder:
    """A batched method that notes its batches and can be held."""

    name, version, parameters, libraries = "recorder", 1, {}, {}
    software = {"recorder": "1"}  # noqa: RUF012

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()

    def __call__(self, prev_HW, next_HW):
        return self.batch(prev_HW[None], next_HW[None])[0]

    def on(self, device):
        return self

    def batch(self, prev_BHW, next_BHW):
        self.go_on.wait(30)
        self.batches.append(prev_BHW.shape)
        if (prev_BHW == REFUSED).any():
            raise FlowError("this grey is refused")
        return np.stack([prev_BHW, next_BHW], -1).astype(np.float32)


def numbered(count, height=16, width=16, first=0):
    """Frames whose pixels are all of the value of their number."""
    for i in range(count):
        yield Frame(i, i / 25, np.full((height, width), first + i, np.uint8), None)


def collect(server, frames, results):
    seconds = {"decode": 0.0, "flow": 0.0}
    try:
        fields = flows_from_server(server.address, frames, seconds)
        results.append([uv if uv is None else tuple(uv[0, 0]) for _, uv in fields])
    except FlowError as error:
        results.append(str(error))


def wanted(count, first=0):
    return [None] + [(first + i, first + i + 1) for i in range(count - 1)]


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_waiting_pairs_of_all_videos_of_a_size_make_one_batch():
    method, results = Recorder(), []
    with FlowServer([method]) as server:
        threads = [
            threading.Thread(target=collect, args=(server, numbered(*given), results))
            for given in ((3, 16, 16, 50), (4,), (6,), (5, 24, 24), (33,))
        ]
        threads[0].start()
        # The first one's batch is held while the others come.
        wait_for(lambda: server._in_work == 1)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: len(server._waiting) == 4)
        method.go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(map(len, results)) == [3, 4, 5, 6, 33]
    for result in results:
        assert result == wanted(len(result), 50 if len(result) == 3 else 0)
    assert sorted(method.batches) == [(2, 16, 16), (4, 24, 24), (3 + 5 + 32, 16, 16)]


def test_a_server_ends_though_a_late_connection_ended_its_accepting(gpu):
    server = FlowServer([create_batched("tvl1", "cpu", **QUICK)]).__enter__()
    accepting = server._threads[0]
    server._closing = True  # as in `_stop`, between this and its own connection
    Client(server.address.place, authkey=server.address.key).close()
    accepting.join(10)
    assert not accepting.is_alive()
    ending = threading.Thread(target=server.__exit__, args=(None, None, None), daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()


def test_a_long_video_goes_through_its_two_slots_in_order_and_waits_when_both_are_full():
    method, results, sent = Recorder(), [], []

    def frames():
        for frame in numbered(200):
            sent.append(frame.index)
            yield frame

    with FlowServer([method, method]) as server:
        thread = threading.Thread(target=collect, args=(server, frames(), results))
        thread.start()
        # Two slots are out, and a third run of frames is decoded and waits.
        wait_for(lambda: server._in_work and len(sent) == 3 * batched.SLOT_PAIRS + 1)
        time.sleep(0.1)
        assert len(sent) == 3 * batched.SLOT_PAIRS + 1
        method.go_on.set()
        thread.join()
    assert results == [wanted(200)]


def test_frames_that_the_method_refuses_cost_their_video_only():
    method, results = Recorder(), []
    with FlowServer([method]) as server:
        threads = [
            threading.Thread(target=collect, args=(server, numbered(*given), results))
            for given in ((3, 16, 16, 90), (3, 16, 16, REFUSED), (3, 16, 16, 40))
        ]
        threads[0].start()
        wait_for(lambda: server._in_work == 1)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: len(server._waiting) == 2)
        method.go_on.set()
        for thread in threads:
            thread.join()
    assert wanted(3, 90) in results
    assert wanted(3, 40) in results
    assert "this grey is refused" in results


def test_a_server_that_is_gone_is_told():
    method = Recorder()
    method.go_on.set()
    with FlowServer([method]) as server:
        address = server.address
    with pytest.raises(DeviceError, match="is gone"):
        list(flows_from_server(address, numbered(3), {"decode": 0.0, "flow": 0.0}))


def test_large_frames_make_small_slots():
    assert slot_pairs((256, 340)) == 32
    assert slot_pairs((1080, 1920)) == 1
    assert slot_pairs((480, 854)) == 9


def test_who_computes(monkeypatch):
    monkeypatch.setattr(batched, "gpu_name", lambda: None)
    assert choose_device("tvl1", "cpu")[0] == "cpu"
    assert choose_device("tvl1", "auto") == ("cpu", "device cpu: PyTorch finds no CUDA GPU")
    assert choose_device("dis", "auto")[1].startswith('device cpu: flow "dis" has no form')
    with pytest.raises(InvalidArgument, match="finds no CUDA GPU; give --device cpu"):
        choose_device("tvl1", "cuda")
    with pytest.raises(InvalidArgument, match='flow "dis" has no form for a GPU, as tvl1'):
        choose_device("dis", "cuda")
    with pytest.raises(InvalidArgument, match='device "gpu" must be one of cpu, cuda, auto'):
        choose_device("tvl1", "gpu")
    monkeypatch.setattr(batched, "gpu_name", lambda: "NVIDIA H200")
    assert choose_device("tvl1-fast", "auto") == ("cuda", "device cuda: NVIDIA H200")


def test_recipes_differ_by_device_alone(recipe_of):
    cpu, cuda = recipe_of(), recipe_of(device="cuda")
    assert cpu.id != cuda.id
    assert FlowRecipe.from_json(cuda.to_json()) == cuda


def test_cuda_without_a_gpu_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(batched, "gpu_name", lambda: None)
    with pytest.raises(InvalidArgument, match="device cuda"):
        extract(tmp_path, tmp_path / "c", device="cuda")
    assert not (tmp_path / "c").exists()
