"""The project's TV-L1: kernels against OpenCV's functions, the whole against its solver."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from support import texture

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow import create
from flowpipe.flow import tvl1_kernels as kernels
from flowpipe.flow.files import read_flo
from flowpipe.flow.pyramid import level_sizes
from flowpipe.flow.simd import LANES
from flowpipe.flow.tvl1 import NOTICE, Frame, Level, aligned

SIZES = [(33, 47), (16, 16), (64, 80), (41, 130)]


def opencv(first, second, **parameters):
    """A new solver each time: OpenCV's keeps a lowered number of scales."""
    return cv2.optflow.DualTVL1OpticalFlow_create(**parameters).calc(first, second, None)


def distance(one, other):
    return np.hypot(*(one - other).transpose(2, 0, 1))


def shifted(image, right, down):
    move = np.float32([[1, 0, right], [0, 1, down]])
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


class Buffers:
    """A level's buffers, and views of them as images."""

    def __init__(self, height, width):
        self.level = Level(height, width)
        self.height, self.width, self.pitch = height, width, self.level.pitch
        self.u = aligned((height + 1) * 2 * self.pitch)
        self.q = aligned((height + 2) * 4 * self.pitch)
        self.d = aligned(height * 4 * self.pitch)
        self.scratch = aligned(11 * self.pitch)
        self.mask = aligned(self.pitch)
        self.mask[:width] = 1

    def planes(self, buffer, number):
        rows = buffer.reshape(-1, number, self.pitch)
        rows = rows if number == 4 and len(rows) == self.height else rows[1 : self.height + 1]
        return rows[:, :, LANES : LANES + self.width].transpose(1, 0, 2)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (2, 3), (1, 1)])
def test_median_is_opencvs(height, width, size):
    b = Buffers(height, width)
    b.planes(b.u, 2)[...] = np.random.default_rng(0).normal(size=(2, height, width))
    new = aligned(b.u.size)
    kernels._median(b.u, new, b.scratch[6 * b.pitch :], height, width, b.pitch, size)
    for before, after in zip(b.planes(b.u, 2), b.planes(new, 2), strict=True):
        assert (after == cv2.medianBlur(np.ascontiguousarray(before), size)).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_warp_is_opencvs_bicubic_remap(height, width):
    b = Buffers(height, width)
    image = texture(height, width)
    frame = Frame([b.level])
    frame.fill(image, 0.8)
    u, v = b.planes(b.u, 2)
    u[...], v[...] = np.random.default_rng(1).normal(0, 6, (2, height, width))
    u[0, 0], v[0, 1] = 1e6, -1e6  # far outside
    rows = [b.scratch[start * b.pitch : stop * b.pitch] for start, stop in ((0, 1), (1, 2), (2, 6))]
    places = np.zeros(b.pitch, np.int32)
    kernels._warp(frame.grey[0], frame.packed[0], b.u, b.d, height, width, b.pitch, places, *rows)
    a, by, rho, inverse = b.planes(b.d, 4)
    grey = image.astype(np.float32)
    padded = np.pad(grey, 1, mode="edge")
    gradients = (
        (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2,
        (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2,
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    warped, wx, wy = (
        cv2.remap(plane, x + u, y + v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
        for plane in (grey, *gradients)
    )
    np.testing.assert_allclose(a, wx, atol=1e-4)
    np.testing.assert_allclose(by, wy, atol=1e-4)
    inside = (abs(u) < 1e3) & (abs(v) < 1e3)
    np.testing.assert_allclose(rho[inside], (warped - wx * u - wy * v - grey)[inside], atol=2e-3)
    squared = a * a + by * by
    flat = squared <= kernels.FLAT
    assert (inverse[flat] == 0).all()
    np.testing.assert_allclose(inverse[~flat], 1 / squared[~flat], rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [0.8, 0.5, 1.25, 2.0])
def test_resize_is_opencvs(height, width, scale):
    plane = texture(height, width).astype(np.float32)
    new_height, new_width = round(height * scale), round(width * scale)
    target = np.zeros(new_height * new_width, np.float32)
    scales = (height / new_height, width / new_width)
    kernels.resize(
        plane.reshape(-1), 0, width, height, width,
        target, 0, new_width, new_height, new_width, *scales, np.float32(2),
    )  # fmt: skip
    expected = 2 * cv2.resize(plane, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(target.reshape(new_height, new_width), expected, atol=2e-3)


def plain_iterations(u, d, number, reach, tau, theta):
    """The equations of the module's docstring, written out in double precision."""
    u, p = u.astype(float), np.zeros((4, *u.shape[1:]))
    a, b, rho, inverse = d.astype(float)
    changes = []

    def divergence(px, py):
        return px - np.pad(px, ((0, 0), (1, 0)))[:, :-1] + py - np.pad(py, ((1, 0), (0, 0)))[:-1]

    for _ in range(number):
        t = np.clip(-(rho + a * u[0] + b * u[1]) * inverse, -reach, reach)
        new = (
            u
            + np.stack([t * a, t * b])
            + theta * np.stack([divergence(*p[:2]), divergence(*p[2:])])
        )
        changes.append(((new - u) ** 2).sum())
        u = new
        for c in range(2):
            gx, gy = np.zeros_like(t), np.zeros_like(t)
            gx[:, :-1], gy[:-1] = np.diff(u[c], axis=1), np.diff(u[c], axis=0)
            norm = 1 + tau * np.hypot(gx, gy)
            p[2 * c], p[2 * c + 1] = (p[2 * c] + tau * gx) / norm, (p[2 * c + 1] + tau * gy) / norm
    return u, theta * p, changes


@pytest.mark.parametrize(("height", "width"), [*SIZES, (3, 2), (1, 1)])
@pytest.mark.parametrize("number", [1, 2, 7, 32])
def test_a_block_of_iterations_is_the_equations(height, width, number):
    b = Buffers(height, width)
    rng = np.random.default_rng(3)
    b.planes(b.u, 2)[...] = rng.normal(size=(2, height, width))
    d = b.planes(b.d, 4)
    d[:3] = rng.normal(0, 5, (3, height, width))
    d[3] = 1 / (d[0] ** 2 + d[1] ** 2)
    constants = [np.float32(value) for value in (0.045, 0.25 / 0.3, 0.3)]
    u_new, q_new, changes = aligned(b.u.size), aligned(b.q.size), np.zeros(32)
    start = b.u.copy()
    kernels._iterate(
        b.u, b.q, u_new, q_new, b.d, b.mask, height, width, b.pitch, number, *constants, changes
    )
    u, q, expected = plain_iterations(b.planes(b.u, 2), d, number, *map(float, constants))
    np.testing.assert_allclose(b.planes(u_new, 2), u, atol=3e-5)
    np.testing.assert_allclose(b.planes(q_new, 4), q, atol=3e-5)
    np.testing.assert_allclose(changes[:number], expected, rtol=1e-3, atol=1e-7)
    assert (b.u == start).all(), "a block must leave what it read: it may be done again"


@pytest.mark.parametrize("parameters", [{}, {"medianFiltering": 1}, {"medianFiltering": 3}])
@pytest.mark.parametrize("shape", [(97, 131), (16, 40)])
def test_synthetic_frames_as_opencv(parameters, shape):
    first = texture(*shape)
    second = shifted(first, 1.3, -0.6)
    ours = create("tvl1", median_size=parameters.get("medianFiltering", 5))(first, second)
    assert distance(ours, opencv(first, second, **parameters)).mean() < 0.03


def test_other_parameters_as_opencv():
    first = texture(80, 100)
    second = shifted(first, -0.8, 0.7)
    ours = create(
        "tvl1", time_step=0.2, attachment=0.1, tightness=0.25, scales=3, scale_step=0.6, warps=3,
        stopping_threshold=0.02, inner_iterations=12, outer_iterations=4,
    )(first, second)  # fmt: skip
    theirs = opencv(
        first, second, tau=0.2, lambda_=0.1, theta=0.25, nscales=3, scaleStep=0.6, warps=3,
        epsilon=0.02, innnerIterations=12, outerIterations=4,
    )  # fmt: skip
    assert distance(ours, theirs).mean() < 0.03


def test_a_sequence_gives_what_single_pairs_give():
    frames = [shifted(texture(60, 70), 0.9 * n, 0.4 * n) for n in range(4)]
    method = create("tvl1")
    for first, second in [*pairwise(frames), (frames[3], frames[0])]:
        assert (method(first, second) == create("tvl1")(first, second)).all()


def test_sizes_may_alternate_and_frames_may_be_reused():
    method = create("tvl1")
    small, large = texture(30, 40), texture(50, 60)
    alone = method(small, shifted(small, 1, 0))
    method(large, shifted(large, 1, 0))
    assert (method(small, shifted(small, 1, 0)) == alone).all()
    frame = small.copy()
    method(large[:30, :40], frame)
    frame[...] = shifted(small, 1, 0)  # a decoder's buffer, written anew
    second = shifted(small, 2, 0)
    assert (method(frame, second) == create("tvl1")(frame, second)).all()


def test_one_object_serves_threads():
    frames = [shifted(texture(64, 80, seed), 1.0, 0.5) for seed in range(8)]
    first = texture(64, 80)
    method = create("tvl1")
    alone = [method(first, frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda frame: method(first, frame), frames))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_presets_are_rows_of_their_own():
    plain, nomedian, fast = (create(name) for name in ("tvl1", "tvl1-nomedian", "tvl1-fast"))
    assert nomedian.parameters == {**plain.parameters, "median_size": 1}
    changed = {key: v for key, v in fast.parameters.items() if v != plain.parameters[key]}
    assert changed == {"scale_step": 0.5, "scales": 32}
    assert [m.name for m in (plain, nomedian, fast)] == ["tvl1", "tvl1-nomedian", "tvl1-fast"]
    assert plain.libraries == {}
    with pytest.raises(InvalidArgument, match='has no parameter "median"'):
        create("tvl1-fast", median=3)


def test_fast_sees_larger_motion():
    first = texture(160, 200)
    second = shifted(first, 12, 0)
    middle = (slice(40, -40), slice(60, -60))
    error = {
        name: abs(create(name)(first, second)[middle] - [12, 0]).mean()
        for name in ("tvl1", "tvl1-fast")
    }
    assert error["tvl1-fast"] < 0.1
    assert error["tvl1"] > 1


def test_pyramid_stops_at_16_px():
    assert level_sizes(256, 340, 5, 0.8) == [
        (256, 340), (205, 272), (164, 218), (131, 174), (105, 139),
    ]  # fmt: skip
    assert level_sizes(64, 100, 32, 0.5) == [
        (64, 100), (32, 50), (16, 25),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"median_size": 4}, "median_size 4 must be 1"),
        ({"time_step": 0.3}, "time_step 0.3 must be a number > 0 and <= 0.25"),
        ({"scale_step": 1.0}, "scale_step 1.0 must be a number > 0 and < 1"),
        ({"warps": 0}, "warps 0 must be a whole number >= 1"),
        ({"illumination": 0.5}, 'no parameter "illumination"'),
    ],
)
def test_refusals(parameters, message):
    with pytest.raises(InvalidArgument, match=message):
        create("tvl1", **parameters)


def test_small_frames_are_refused():
    with pytest.raises(FlowError, match=r"15×40 px are too small for tvl1, which needs 16 px"):
        create("tvl1")(np.zeros((15, 40), np.uint8), np.zeros((15, 40), np.uint8))


START = (
    "import numpy as np; from flowpipe.flow import create; f = np.arange(900, dtype=np.uint8);"
    "print(create('tvl1')(f.reshape(30, 30), np.roll(f, 1).reshape(30, 30)).tobytes().hex())"
)


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_compilation_cache(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def start():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", START], env=environment, **pipes)

    answers = [process.communicate() for process in [start() for _ in range(3)]]
    assert len({out for out, _ in answers}) == 1
    assert all("compiling TV-L1 for this machine, once" in told for _, told in answers)
    assert start().communicate()[0] == answers[0][0]


def grey_frames(path: Path, start: int, count: int) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        decoded = islice(container.decode(video=0), start, start + count)
        frames = [frame.to_ndarray(format="bgr24") for frame in decoded]
    return [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]


def self_difference(first, second, theirs):
    """How far OpenCV goes from itself when its input changes by 1e-7."""
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, first.shape)
    moved = (first / 255 + noise).astype(np.float32)
    return distance(opencv(moved, (second / 255).astype(np.float32)), theirs)


@pytest.mark.slow
@pytest.mark.data
def test_real_clips_as_opencv(shared_data):
    ucf101 = sorted((shared_data / "ucf101_sample").glob("*/*.avi"))[::13]
    weizmann = sorted((shared_data / "weizmann").rglob("*.avi"))[::18]
    method = create("tvl1")
    means, stable_shares = [], []
    for path in (*ucf101, *weizmann):
        first, second = grey_frames(path, 20, 2)
        theirs = opencv(first, second)
        apart = distance(method(first, second), theirs)
        own = self_difference(first, second, theirs)
        means.append(apart.mean())
        if (own < 0.1).mean() >= 0.99:
            stable_shares.append((apart < 0.1).mean())
        else:
            assert apart.mean() <= 1.5 * own.mean(), path.name
    assert len(stable_shares) >= 4
    assert np.mean(means) <= 0.03
    assert np.mean(stable_shares) >= 0.99


@pytest.mark.slow
@pytest.mark.data
def test_middlebury_error_is_not_above_opencvs(shared_data):
    folders = sorted((shared_data / "flow_gt" / "middlebury").iterdir())
    folders = [folder for folder in folders if (folder / "flow10.flo").is_file()]
    assert len(folders) == 8
    for folder in folders:
        first, second = (
            cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2GRAY)
            for name in ("frame10.png", "frame11.png")
        )
        truth = read_flo(folder / "flow10.flo")
        known = (abs(truth) < 1e9).all(axis=-1)
        ours, theirs = (
            distance(flow, truth)[known].mean()
            for flow in (create("tvl1")(first, second), opencv(first, second))
        )
        assert ours <= theirs + 0.005, folder.name


@pytest.mark.data
def test_published_flow_of_i3d(shared_data):
    """TV-L1 as published with I3D, at an offset of 0 and not of one frame."""
    folder = shared_data / "i3d_reference"
    rgb = gif(next(folder.glob("*rgb*.gif")))
    published = (gif(next(folder.glob("*flow*.gif")))[..., :2] / 255 * 2 - 1) * 20
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in rgb]
    method = create("tvl1")
    flow = np.stack([method(a, b) for a, b in pairwise(grey)])

    def correlations(offset):
        ours = flow[max(0, offset) : len(flow) + min(0, offset)]
        theirs = published[max(0, -offset) :][: len(ours)]
        large = (abs(ours) > 0.5) & (abs(theirs) > 0.5)
        return [np.corrcoef(ours[large[..., c], c], theirs[large[..., c], c])[0, 1] for c in (0, 1)]

    u, v = correlations(0)
    assert u >= 0.94
    assert v >= 0.90
    for offset in (-1, 1):
        assert (np.array(correlations(offset)) < [u - 0.05, v - 0.15]).all()


def gif(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


@pytest.mark.slow
def test_a_person_is_told_of_compiling_and_not_of_loading(tmp_path):
    told = [
        subprocess.run(
            [sys.executable, "-c", "import flowpipe.flow.tvl1 as m; m.compile_once()"],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        ).stderr
        for _ in range(2)
    ]
    assert told == [f"{NOTICE}\n", ""]
