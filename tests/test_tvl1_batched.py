"""Batched TV-L1: PyTorch against OpenCV, part by part and whole; Triton against PyTorch."""

import importlib
import itertools
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow import BatchFlowMethod, create, create_batched
from flowpipe.flow.method import distinct_frames
from flowpipe.flow.pyramid import level_sizes
from flowpipe.flow.tvl1_torch import (
    BatchTVL1,
    BatchTVL1Parameters,
    linearise,
    median,
    resize,
    solve_level,
)
from flowpipe.video import VideoReader

if not torch.cuda.is_available():
    # Before Triton is imported: its own functions are interpreted too, or nothing is.
    os.environ["TRITON_INTERPRET"] = "1"

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "tvl1_gpu.py"

TVL1 = ("tvl1", "tvl1-nomedian", "tvl1-fast")
SETTINGS = BatchTVL1Parameters(warps=1, outer_iterations=2, inner_iterations=8)


def texture(height, width, seed=0):
    """A smooth random picture of the whole grey range, float32."""
    fine = np.random.default_rng(seed).uniform(0, 255, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(fine, (0, 0), 2.0)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255


def moving(count, height, width, seed=0):
    """Frames whose content moves (1.5, −0.5) px per frame, uint8."""
    wide = texture(height + 60, width + 60, seed)
    return np.stack(
        [
            cv2.getRectSubPix(
                wide, (width, height), (width / 2 + 30 - 1.5 * t, height / 2 + 30 + 0.5 * t)
            )
            for t in range(count)
        ]
    ).astype(np.uint8)


def difference_px(a, b):
    return np.hypot(*np.moveaxis(a - b, -1, 0))


# The parts, against OpenCV's.


@pytest.mark.parametrize("size", [(41, 58), (64, 80), (37, 16)])
def test_pyramid_is_opencvs(size):
    image = texture(*size)
    sizes = level_sizes(*size, 5, 0.8)
    assert min(map(min, sizes)) >= 16
    for wanted_size in sizes[1:]:
        smaller = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
        assert smaller.shape == wanted_size
        ours = resize(torch.from_numpy(image), wanted_size, 1 / 0.8).numpy()
        np.testing.assert_allclose(ours, smaller, atol=1e-3)
        image = smaller


def test_flow_is_enlarged_as_opencv_does():
    u = np.random.default_rng(1).normal(size=(33, 46)).astype(np.float32)
    wanted = cv2.resize(u, (58, 41), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize(torch.from_numpy(u), (41, 58)).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_opencvs(size):
    u = np.random.default_rng(2).normal(size=(2, 2, 20, 31)).astype(np.float32)
    ours = median(torch.from_numpy(u), size).numpy()
    for index in np.ndindex(2, 2):
        np.testing.assert_array_equal(ours[index], cv2.medianBlur(u[index], size))


def test_warp_is_opencvs_of_image_and_gradients_also_far_outside():
    rng = np.random.default_rng(3)
    earlier, later = texture(30, 44, 1), texture(30, 44, 2)
    u = rng.normal(0, 4, (2, 30, 44)).astype(np.float32)
    u[:, ::7, ::5] *= 1e4
    padded = cv2.copyMakeBorder(later, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    later_x = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    later_y = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    y, x = np.mgrid[:30, :44].astype(np.float32)
    warped, warped_x, warped_y = (
        cv2.remap(plane, x + u[0], y + u[1], cv2.INTER_CUBIC) for plane in (later, later_x, later_y)
    )
    gradient, constant = linearise(
        *(torch.from_numpy(array)[None] for array in (earlier, later, u))
    )
    near = (np.abs(u) < 100).all(0)
    np.testing.assert_allclose(gradient[0, 0].numpy(), warped_x, atol=2e-3)
    np.testing.assert_allclose(gradient[0, 1].numpy(), warped_y, atol=2e-3)
    wanted = warped - warped_x * u[0] - warped_y * u[1] - earlier
    np.testing.assert_allclose(constant[0, 0].numpy()[near], wanted[near], atol=0.02)
    assert (gradient[0, :, ~near] == 0).all()


def test_frames_of_neighbouring_pairs_stand_once():
    frames = moving(5, 16, 16)
    kept, pairs = distinct_frames(frames[[0, 1, 3]], frames[[1, 2, 4]])
    np.testing.assert_array_equal(kept, frames)
    np.testing.assert_array_equal(pairs, [[0, 1], [1, 2], [3, 4]])


# The whole.


@pytest.mark.parametrize("name", TVL1)
def test_batched_forms_have_the_parameters_of_the_methods_they_stand_for(name):
    method = create_batched(name, "cpu")
    assert isinstance(method, BatchFlowMethod)
    on_cpu = create(name)
    assert {**on_cpu.parameters, "fixed_iterations": 0} == method.parameters
    assert (method.name, method.version, method.libraries) == (name, on_cpu.version, {})


@pytest.mark.parametrize("size", [1, 3, 5])
def test_flow_is_opencvs(size):
    frames = moving(2, 64, 80)
    parameters = {"scales": 2, "warps": 3, "median_size": size}
    wanted = create("opencv-tvl1", **parameters)(frames[0], frames[1])
    ours = create_batched("tvl1", "cpu", **parameters)(frames[0], frames[1])
    assert ours.dtype == np.float32
    # A first difference of one rounding can grow, as OpenCV's from itself does.
    assert difference_px(ours, wanted).mean() < 1e-3
    ours, wanted = create_batched("tvl1", "cpu")(*frames), create("opencv-tvl1")(*frames)
    assert difference_px(ours, wanted).mean() < 0.03
    inside = (slice(10, -10), slice(10, -10))
    np.testing.assert_allclose(np.median(ours[inside], (0, 1)), [1.5, -0.5], atol=0.1)


def test_flow_is_that_of_the_projects_cpu_solver():
    frames = moving(2, 48, 64, seed=5)
    for name in TVL1:
        wanted = create(name, scales=2)(frames[0], frames[1])
        ours = create_batched(name, "cpu", scales=2)(frames[0], frames[1])
        assert difference_px(ours, wanted).mean() < 1e-3, name


def test_pairs_alone_and_in_a_batch_are_equal():
    method = create_batched("tvl1", "cpu", scales=2, warps=2)
    frames = np.concatenate([moving(3, 32, 40), texture(32, 40, 7)[None].astype(np.uint8)])
    together = method.batch(frames[:-1], frames[1:])
    assert together.shape == (3, 32, 40, 2)
    for i in range(3):
        np.testing.assert_allclose(together[i], method(frames[i], frames[i + 1]), atol=1e-5)


def test_a_fixed_schedule_is_near_the_stopping_rule():
    frames = moving(2, 48, 64, seed=3)
    exact = create_batched("tvl1", "cpu")(frames[0], frames[1])
    fixed = create_batched("tvl1", "cpu", fixed_iterations=30)(frames[0], frames[1])
    assert 0 < difference_px(fixed, exact).mean() < 0.05


def test_frames_that_cannot_be_are_refused():
    method = create_batched("tvl1", "cpu")
    grey = np.zeros((2, 16, 16), np.uint8)
    with pytest.raises(FlowError, match="15×16 px are too small for tvl1, which needs 16 px"):
        method.batch(grey[:, :15], grey[:, :15])
    with pytest.raises(FlowError, match="2 earlier and 1 later frames must be as many"):
        method.batch(grey, grey[:1])
    with pytest.raises(FlowError, match=r"not ndarray \(16, 16\)"):
        method.batch(grey[0], grey[0])
    with pytest.raises(FlowError, match="one or more grey uint8 frames"):
        method.batch(grey[:0], grey[:0])
    with pytest.raises(FlowError, match="takes grey uint8 frames of H×W, not float32"):
        method.batch(grey.astype(np.float32), grey)


def test_a_broken_result_is_refused(monkeypatch):
    monkeypatch.setattr(BatchTVL1, "flow_of", lambda *_: torch.full((1, 16, 16, 2), float("nan")))
    grey = np.zeros((16, 16), np.uint8)
    with pytest.raises(FlowError, match="256 displacements of 256 that are not finite"):
        create_batched("tvl1", "cpu")(grey, grey)


def test_parameters_are_checked():
    with pytest.raises(InvalidArgument, match='"dis" has no form for a GPU; use device cpu'):
        create_batched("dis", "cpu")
    with pytest.raises(InvalidArgument, match='did you mean "scales"'):
        create_batched("tvl1", "cpu", scale=3)
    with pytest.raises(InvalidArgument, match="median_size 4 must be"):
        create_batched("tvl1", "cpu", median_size=4)
    with pytest.raises(InvalidArgument, match="fixed_iterations -1 must be a whole number"):
        create_batched("tvl1", "cpu", fixed_iterations=-1)


@pytest.mark.data
@pytest.mark.slow
def test_flow_of_real_frames_is_opencvs(shared_data):
    videos = sorted((shared_data / "ucf101_sample").rglob("*.avi"))[::26]
    videos += sorted((shared_data / "weizmann").rglob("*.avi"))[::45]
    assert len(videos) >= 5
    rng = np.random.default_rng(0)
    for video in videos:
        reader = VideoReader(video, short_side=128, rgb=False)
        frames = [frame.grey_HW for frame in itertools.islice(reader, 12)][-2:]
        wanted = create("opencv-tvl1")(*frames)
        difference = difference_px(create_batched("tvl1", "cpu")(*frames), wanted)
        # Some clips are unstable in themselves: OpenCV is that far from itself after noise of 1e-7.
        noisy = [f / np.float32(255) * rng.uniform(1 - 1e-7, 1 + 1e-7, f.shape) for f in frames]
        solver = cv2.optflow.DualTVL1OpticalFlow_create()
        again = solver.calc(*(frame.astype(np.float32) for frame in noisy), None)
        unstable = (difference_px(again, wanted) > 0.1).mean()
        assert difference.mean() <= 0.03, video
        assert (difference > 0.1).mean() <= max(0.01, 1.5 * unstable), video


# Triton's kernels, through its interpreter.


@pytest.fixture(scope="module")
def kernels():
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton compiles here, for the GPU; TRITON_INTERPRET=1 runs this test")
    return importlib.import_module("flowpipe.flow.tvl1_triton")


def level(height, width, pairs):
    """Frames, pairs and a first flow for a level; later pairs are harder."""
    frames = torch.from_numpy(moving(pairs + 1, height, width)).float()
    rng = np.random.default_rng(0)
    u = rng.normal(0, 0.4, (pairs, 2, height, width)) * np.arange(pairs)[:, None, None, None]
    index = torch.tensor([[0, i + 1] for i in range(pairs)])
    return frames, index, torch.from_numpy(u.astype(np.float32))


def test_the_medians_network_is_right_for_all_sorted_rows(kernels):
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(rows, result, MIDDLE: tl.constexpr, MANY: tl.constexpr, SIZE: tl.constexpr):
        at = tl.arange(0, MANY)
        a = ()
        for i in tl.static_range(SIZE):
            row = ()
            for j in tl.static_range(SIZE):
                row = (*row, tl.load(rows + (i * SIZE + j) * MANY + at))
            a = (*a, row)
        if SIZE == 5:
            tl.store(result + at, MIDDLE(a[0], a[1], a[2], a[3], a[4]))
        else:
            tl.store(result + at, MIDDLE(a[0], a[1], a[2]))

    for middle, size, many in ((kernels._middle_of_25, 5, 8192), (kernels._middle_of_9, 3, 64)):
        # By the 0-1 principle these 6⁵ (4³) cases stand for all.
        ones = torch.cartesian_prod(*[torch.arange(size + 1)] * size).T
        ones = torch.nn.functional.pad(ones, (0, many - ones.shape[1]))
        rows = (torch.arange(size)[None, :, None] >= size - ones[:, None]).float().contiguous()
        result = torch.empty(many)
        kernel[(1,)](rows, result, MIDDLE=middle, MANY=many, SIZE=size)
        np.testing.assert_array_equal(result, rows.flatten(0, 1).median(0).values)


def test_schedules(kernels):
    plan = kernels.slots(SETTINGS)
    assert plan == [(6, True), (2, False), (6, True), (2, False), (0, False)]
    assert kernels.slots(replace(SETTINGS, fixed_iterations=13)) == [
        (6, True), (6, False), (1, False),
    ]  # fmt: skip
    default = kernels.slots(create_batched("tvl1", "cpu").record)
    assert sum(planned for planned, _ in default) == 300
    assert [wanted for _, wanted in default].count(True) == 10


def test_a_level_by_triton_without_median_is_that_of_torch(kernels):
    settings = replace(SETTINGS, median_size=1)
    given = level(18, 21, 2)
    ours = kernels.solve_level(*given, settings)
    np.testing.assert_allclose(ours, solve_level(*given, settings), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        # A pair goes too far in the first slot: again, 4 iterations; one stops with a slot's end.
        ({"median_size": 1, "stopping_threshold": 0.21}, [[6, -4, 0, 0, 0], [6, 0, 0, 0, 0]]),
        ({"median_size": 1, "stopping_threshold": 0.12}, [[6, 2, 0, 0, 0], [6, 2, 6, -3, 0]]),
        # Done again in the slot that is there for it.
        ({"median_size": 1, "stopping_threshold": 0.085}, [[6, 2, 6, -4, 0], [6, 2, 6, 2, -1]]),
        # Done again from what the median gave.
        ({"stopping_threshold": 0.2}, [[6, -4, 0, 0, 0], [6, -5, 0, 0, 0]]),
        # The same where the next outer iteration begins, whose median must leave that pair alone.
        ({"inner_iterations": 3, "stopping_threshold": 0.33}, [[3, -2, 0], [3, 0, 0]]),
        ({"stopping_threshold": 0.15}, [[6, 0, 0, 0, 0], [6, 2, -1, 0, 0]]),
        ({"median_size": 3, "warps": 2, "stopping_threshold": 0.1}, None),
        ({"fixed_iterations": 9}, [[6, 3], [6, 3]]),
    ],
)
def test_levels_by_triton_are_those_of_torch(kernels, changes, runs):
    settings = replace(SETTINGS, **changes)
    given, notes = level(20, 71, 2), []  # two tiles
    ours = kernels.solve_level(*given, settings, note=notes.append)
    np.testing.assert_allclose(ours, solve_level(*given, settings), atol=1e-4)
    assert len(notes) == settings.warps
    if runs is not None:
        np.testing.assert_array_equal(notes[0].T, runs)
    alone = kernels.solve_level(given[0], given[1][1:], given[2][1:], settings)
    np.testing.assert_array_equal(alone[0], ours[1])


# The benchmark.


@pytest.mark.slow
def test_the_benchmark_runs_without_numba_and_pyav(tmp_path):
    code = (
        "import sys; sys.modules |= dict.fromkeys(['numba', 'av'])\n"
        "import runpy; sys.argv[0] = 'tvl1_gpu.py'\n"
        f"runpy.run_path({str(BENCHMARK)!r}, run_name='__main__')"
    )
    arguments = ["--device", "cpu", "--size", "32x40", "--batch", "2", "--compared", "2"]
    arguments += ["--seconds", "0", "--frames", str(tmp_path), "--json", str(tmp_path / "b.json")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["reference"] == "PyTorch version on the CPU"
    assert record["modes"]["exact"]["mean difference px"] == 0
    assert record["modes"]["fixed 30"]["pairs/s"]["2"]["with copies"] > 0


def test_the_benchmark_counts_what_is_done(kernels):
    counts = runpy.run_path(str(BENCHMARK))["counts"]
    parameters = BatchTVL1Parameters(scales=1, warps=2, median_size=1, fixed_iterations=7)
    method = BatchTVL1(parameters, "tvl1", kernels="triton")
    frames = torch.from_numpy(moving(2, 16, 70))
    count = counts(method, frames, torch.tensor([[0, 1]]))
    pixels, tile_pixels = 16 * 70, 2 * 64**2
    assert count == {
        "useful": 2 * 7 * pixels,
        "done": 2 * 7 * tile_pixels,
        # Two slots a warp, of 6 iterations and 1.
        "bytes": 2 * (2 * (36 * tile_pixels + 24 * pixels) + 28 * pixels),
        "operations": 2 * 7 * tile_pixels * 56,
        "iterations per warp": 7,
    }
