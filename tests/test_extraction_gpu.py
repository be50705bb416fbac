"""Flow of a GPU's method, its device the CPU: the same entries, failures, resume and end."""

import json

import numpy as np
import pytest
import torch

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.errors import InvalidArgument
from flowpipe.extraction import run as run_module
from flowpipe.extraction import worker
from flowpipe.extraction.tasks import Job, Task
from flowpipe.flow import create_batched, device
from flowpipe.flow.device import choose_device
from flowpipe.video import VideoReader

QUICK = {"scales": 2, "warps": 1, "inner_iterations": 4, "outer_iterations": 1}
GIGABYTE = 10**9


@pytest.fixture
def gpu(monkeypatch):
    """A "GPU" that is this machine's CPU."""
    monkeypatch.setattr(run_module, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(device, "gpu_name", lambda: "a GPU for tests")
    monkeypatch.setattr(device, "gpu_bytes", lambda: 80 * GIGABYTE)


@pytest.fixture
def videos(tmp_path, write_video):
    """Four videos of three sizes, one of two frames, one longer than a batch."""
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


@pytest.mark.parametrize("backward", [False, True])
def test_entries_hold_what_single_pairs_give(gpu, videos, tmp_path, monkeypatch, backward):
    monkeypatch.setattr(run_module, "BATCH_PIXELS", 13 * 32 * 48)  # three batches and a rest
    result = run(videos, tmp_path / "c", backward=backward)
    assert (result.done, result.failed) == (4, 0)
    assert result.flows == (6 + 1 + 39 + 4) * (2 if backward else 1)
    method = create_batched("tvl1", "cpu", **QUICK)
    cache = open_cache(tmp_path / "c", recipe=result.recipe)
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        frames = list(VideoReader(videos / name, rgb=True))
        entry = cache[name]
        assert entry.recipe.device == "cuda"
        assert json.loads(entry.attributes["software"])["torch"] == torch.__version__
        np.testing.assert_allclose(entry.pts_s, [frame.pts_s for frame in frames])
        assert np.abs(entry.rgb[-1].astype(int) - frames[-1].rgb_HWC).mean() < 4  # JPEG
        for i in range(len(frames) - 1):
            pair = frames[i].grey_HW, frames[i + 1].grey_HW
            np.testing.assert_allclose(entry.flow[i], method(*pair), atol=1 / 128 + 1e-5)
            if backward:
                turned = cache.backward(name).flow[i]
                np.testing.assert_allclose(turned, method(*pair[::-1]), atol=1 / 128 + 1e-5)
    assert run(videos, tmp_path / "c", backward=backward).skipped == 4


def test_batches_are_of_consecutive_frames_and_no_pair_is_lost(videos, tmp_path, monkeypatch):
    """Frames 0 … 39 in batches of 13 pairs: the last frame of one is the first of the next."""
    job = Job(tmp_path / "c", FlowRecipe.make("farneback"), "jpegls", batch_pixels=13 * 32 * 48)
    object.__setattr__(job.recipe, "device", "cuda")
    frames = list(VideoReader(videos / "c.mp4"))
    sizes = []

    class Numbers:
        def batch(self, prev_BHW, next_BHW):
            sizes.append(len(prev_BHW))
            return np.stack([prev_BHW, next_BHW], -1).astype(np.float32)

    monkeypatch.setattr(worker, "_method_of", lambda job: Numbers())
    seconds = {"decode": 0.0, "flow": 0.0}
    given = list(worker._flows(job, iter(frames), seconds))
    assert sizes == [13, 13, 13]
    assert [frame.index for frame, _ in given] == list(range(40))
    assert given[0][1] is None
    for i in range(1, 40):
        uv_HWC, confidence_hw = given[i][1]
        assert confidence_hw is None
        np.testing.assert_array_equal(uv_HWC[..., 0], frames[i - 1].grey_HW)
        np.testing.assert_array_equal(uv_HWC[..., 1], frames[i].grey_HW)


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
    recipe = FlowRecipe.make(device="cuda", flow_parameters=QUICK)
    job = Job(tmp_path / "c", recipe, "jpegls", torch_device="cpu")
    task = Task(0, videos / "a.mp4", "a.mp4", 1)
    outcome = worker.process_task(job, task, lambda flows, share: None)
    assert "flow on the GPU failed" in outcome.cache_failure
    assert "unspecified launch failure" in outcome.cache_failure
    assert not outcome.failure
    assert not [path for path in (tmp_path / "c").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("gigabytes", "wanted", "workers", "batch"),
    [(80, 16, 16, 16_000_000), (80, 40, 40, 8_333_333), (8, 4, 4, 8_333_333), (1, None, 1, None)],
)
def test_workers_share_the_memory_of_the_gpu(gpu, monkeypatch, gigabytes, wanted, workers, batch):
    monkeypatch.setattr(device, "gpu_bytes", lambda: gigabytes * GIGABYTE)
    machine = run_module._Machine(FlowRecipe.make(device="cuda"), wanted, 600.0, None)
    assert machine.workers == workers
    if batch is not None:
        assert machine.batch_pixels == batch
    needed = machine.batch_pixels * run_module.BATCH_PIXEL_BYTES + run_module.GPU_CONTEXT_BYTES
    assert workers * needed <= 0.8 * gigabytes * GIGABYTE


def test_more_workers_than_the_gpu_has_room_for_are_refused(gpu, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "gpu_bytes", lambda: 4 * GIGABYTE)
    with pytest.raises(InvalidArgument, match="workers 8 must be ≤ 3"):
        run(videos, tmp_path / "c", workers=8)
    assert not (tmp_path / "c").exists()


def test_who_computes(monkeypatch):
    monkeypatch.setattr(device, "gpu_name", lambda: None)
    assert choose_device("tvl1", "cpu")[0] == "cpu"
    assert choose_device("tvl1", "auto") == ("cpu", "device cpu: PyTorch finds no CUDA GPU")
    assert choose_device("dis", "auto")[1].startswith('device cpu: flow "dis" has no form')
    with pytest.raises(InvalidArgument, match="finds no CUDA GPU; use device cpu"):
        choose_device("tvl1", "cuda")
    with pytest.raises(InvalidArgument, match='flow "dis" has no form for a GPU, as tvl1'):
        choose_device("dis", "cuda")
    with pytest.raises(InvalidArgument, match='device "gpu" must be one of cpu, cuda, auto'):
        choose_device("tvl1", "gpu")
    monkeypatch.setattr(device, "gpu_name", lambda: "NVIDIA H200")
    assert choose_device("tvl1-fast", "auto") == ("cuda", "device cuda: NVIDIA H200")


def test_recipes_differ_by_device_alone(recipe_of):
    cpu, cuda = recipe_of(), recipe_of(device="cuda")
    assert cpu.id != cuda.id
    assert FlowRecipe.from_json(cuda.to_json()) == cuda


def test_cuda_without_a_gpu_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "gpu_name", lambda: None)
    with pytest.raises(InvalidArgument, match="device cuda"):
        extract(tmp_path, tmp_path / "c", device="cuda")
    assert not (tmp_path / "c").exists()
