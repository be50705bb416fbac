"""Errors against ground truth, the layouts it is found in, and the `flowpipe flow` commands."""

import json

import cv2
import numpy as np
import pytest
from support import run_cli

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow.evaluation import (
    find_pairs,
    flow_difference,
    flow_errors,
    read_grey,
    read_truth,
)
from flowpipe.flow.files import write_flo


def run(*arguments, status=0):
    done = run_cli(*arguments)
    assert done.status == status, done.err
    return done


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.random((64, 80, 3)).astype(np.float32), (0, 0), 1.5)
    first = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
    return first, np.roll(first, 2, axis=1)


def write_pair(first, second, images):
    for image, path in ((first, images[0]), (second, images[1])):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)


def moved(shape=(64, 80)):
    truth = np.zeros((*shape, 2), np.float32)
    truth[..., 0] = 2
    return truth


def layouts(root):
    """Layout → (first frame, second, truth, name)."""
    sintel, kitti = root / "training", root / "training"
    return {
        "middlebury": (
            root / "Venus/frame10.png", root / "Venus/frame11.png", root / "Venus/flow10.flo",
            "Venus",
        ),
        "middlebury, two folders": (
            root / "other-data/Venus/frame10.png", root / "other-data/Venus/frame11.png",
            root / "other-gt-flow/Venus/flow10.flo", "Venus",
        ),
        "sintel": (
            sintel / "clean/alley_1/frame_0009.png", sintel / "clean/alley_1/frame_0010.png",
            sintel / "flow/alley_1/frame_0009.flo", "alley_1/frame_0009",
        ),
        "kitti": (
            kitti / "image_2/000003_10.png", kitti / "image_2/000003_11.png",
            kitti / "flow_occ/000003_10.png", "000003_10",
        ),
        "flying chairs": (
            root / "00007_img1.ppm", root / "00007_img2.ppm", root / "00007_flow.flo", "00007",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "layout", ["middlebury", "middlebury, two folders", "sintel", "kitti", "flying chairs"]
)
def test_layouts_of_the_benchmarks(tmp_path, frames, layout):
    *images, truth, name = layouts(tmp_path)[layout]
    write_pair(*frames, images)
    truth.parent.mkdir(parents=True, exist_ok=True)
    known = np.ones((64, 80), bool)
    known[:, :8] = False
    field = moved()
    if truth.suffix == ".png":
        picture = np.uint16(np.dstack([known, field[..., ::-1] * 64 + 32768]))  # blue, green, red
        cv2.imwrite(str(truth), picture)
    else:
        field[~known] = 1e10
        write_flo(truth, field)
    (pair,) = find_pairs(tmp_path)
    assert (pair.name, pair.first, pair.second, pair.truth) == (name, *images, truth)
    uv, found = read_truth(pair.truth)
    assert (found == known).all()
    assert (uv[known] == [2, 0]).all()
    assert read_grey(pair.first).shape == (64, 80)
    record = json.loads(run("flow", "eval", tmp_path, "--methods", "dis,tvl1", "--json").out)
    assert [row["method"] for row in record["pairs"]] == ["dis", "tvl1"]
    assert all(row["pixels"] == known.sum() for row in record["pairs"])
    assert record["mean"]["tvl1"]["end_point_px"] < 0.1


def test_sintel_render(tmp_path, frames):
    for render in ("clean", "final"):
        folder = tmp_path / render / "cave_2"
        write_pair(*frames, (folder / "frame_0001.png", folder / "frame_0002.png"))
    (tmp_path / "flow/cave_2").mkdir(parents=True)
    write_flo(tmp_path / "flow/cave_2/frame_0001.flo", moved())
    assert find_pairs(tmp_path, render="final")[0].first.parts[-3] == "final"


def test_folders_without_truth_are_refused(tmp_path):
    with pytest.raises(FlowError, match="is not a folder"):
        find_pairs(tmp_path / "nothing")
    with pytest.raises(FlowError, match="holds no true flow beside its frames"):
        find_pairs(tmp_path)
    write_flo(tmp_path / "flow10.flo", moved())
    with pytest.raises(FlowError, match="holds no true flow beside its frames"):
        find_pairs(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(FlowError, match=r"bad\.png cannot be read"):
        read_grey(tmp_path / "bad.png")


def test_errors_are_counted_as_by_hand():
    truth = np.zeros((1, 6, 2), np.float32)
    truth[0, :, 0] = [0, 0, 0, 0, 100, 7]
    flow = truth.copy()
    flow[0, :, 1] = [0, 0.5, 2, 4, 4, 50]
    known = np.array([[True, True, True, True, True, False]])
    errors = flow_errors(flow, truth, known)
    assert errors.end_point_px == pytest.approx((0 + 0.5 + 2 + 4 + 4) / 5)
    assert errors.outliers_1px == pytest.approx(3 / 5)
    assert errors.outliers_3px == pytest.approx(2 / 5)
    assert errors.outliers_5px == 0
    # Of the two above 3 px, one is below 5 % of its length of 100 px.
    assert errors.outliers_kitti == pytest.approx(1 / 5)
    assert errors.pixels == 5
    with pytest.raises(InvalidArgument, match="no pixel of the truth is known"):
        flow_errors(flow, truth, np.zeros((1, 6), bool))
    with pytest.raises(InvalidArgument, match="differ in size"):
        flow_errors(flow[:, :3], truth, known)


def test_difference_of_stacks():
    one = np.zeros((2, 5, 10, 2), np.float32)
    other = one.copy()
    other[1, 0, 0] = [3, 4]
    difference = flow_difference(one, other)
    assert difference.mean_px == pytest.approx(0.05)
    assert difference.largest_px == 5
    assert difference.median_px == 0
    assert difference.share_within_tenth == pytest.approx(0.99)
    assert difference.fields == 2
    with pytest.raises(InvalidArgument, match="cannot be compared"):
        flow_difference(one, other[0])


def test_compare_files_and_entries(tmp_path, write_entry, smooth_flow):
    flow = smooth_flow(3, 40, 50)
    write_entry(tmp_path / "cache", flow, name="walk.avi")
    write_flo(tmp_path / "a.flo", flow[0])
    write_flo(tmp_path / "b.flo", flow[0] + np.float32([0.3, 0.4]))
    record = json.loads(
        run("flow", "compare", tmp_path / "a.flo", tmp_path / "b.flo", "--json").out
    )
    assert record["mean_px"] == pytest.approx(0.5, abs=1e-5)
    entry = f"{tmp_path / 'cache'}::walk"
    told = run("flow", "compare", entry, entry).out
    assert "3 fields" in told
    assert "0.0000 px" in told
    failure = run("flow", "compare", entry, tmp_path / "a.flo", status=2)
    assert "cannot be compared" in failure.err
    failure = run("flow", "compare", "walk.avi", entry, status=2)
    assert "neither a .flo or .png file nor CACHE::VIDEO" in failure.err


def test_bench(tmp_path, write_video, frames):
    first = frames[0]
    video = write_video(tmp_path / "v.mp4", np.stack([np.roll(first, n, 1) for n in range(5)]))
    arguments = ("flow", "bench", "--frames", video, "--pairs", 1, "--methods", "tvl1,dis")
    record = json.loads(run(*arguments, "--json").out)
    assert record["pairs"] == 1
    assert record["sizes"] == [[64, 80]]
    reference, tvl1, dis = record["methods"]
    assert [row["method"] for row in record["methods"]] == ["opencv-tvl1", "tvl1", "dis"]
    assert reference["ratio"] == 1
    assert reference["mean_difference_px"] == 0
    assert tvl1["mean_difference_px"] < 0.03
    assert tvl1["ns_per_pixel_iteration"] > 0
    assert dis["ns_per_pixel_iteration"] is None
    assert "speed ×" in run(*arguments).out
    run("flow", "bench", "--methods", ",", status=2)


@pytest.mark.slow
def test_bench_on_generated_frames():
    result = run("flow", "bench", "--pairs", 1, "--methods", "dis")
    assert "1 pairs, the first 96×96" in result.out
