"""START+tvl1: where TV-L1 begins, what is recorded, how much noise is left."""

import numpy as np
import pytest
from support import texture

from flowpipe.errors import FlowError, InvalidArgument, UnknownName
from flowpipe.flow import create
from flowpipe.flow.evaluation import find_pairs, flow_errors, read_grey, read_truth


def test_a_start_finds_what_one_level_alone_does_not():
    big = texture(90, 140)
    first, second = big[5:75, 20:120], big[5:75, 10:110]  # 10 px to the right
    solver = create("tvl1", scales=1)
    start = np.zeros((70, 100, 2), np.float32)
    start[..., 0] = 9.2
    middle = np.s_[15:-15, 25:-25]
    alone, _ = solver.solve(first, second)
    begun, _ = solver.solve(first, second, start)
    assert np.abs(alone[middle] - [10, 0]).mean() > 3
    assert np.abs(begun[middle] - [10, 0]).max() < 0.05
    # On coarser levels the start is made smaller with the grid, and it leaves nothing behind.
    deep = create("tvl1", scales=3)
    assert np.abs(deep.solve(first, second, start)[0][middle] - [10, 0]).max() < 0.05
    np.testing.assert_array_equal(solver(first, second), alone)


def test_a_start_of_zero_is_no_start():
    first, second = texture(40, 60), texture(40, 60, seed=1)
    zero = np.zeros((40, 60, 2), np.float32)
    solver = create("tvl1-fast")
    ours, iterations = solver.solve(first, second, zero)
    assert iterations == solver.solve(first, second)[1]
    np.testing.assert_array_equal(ours, solver(first, second))


def test_parameters_of_both_are_recorded_and_can_be_given_back():
    method = create("farneback+tvl1", warps=2, start_levels=2)
    assert method.name == "farneback+tvl1"
    assert (method.parameters["warps"], method.parameters["start_levels"]) == (2, 2)
    assert method.parameters["start_version"] == create("farneback").version
    assert method.libraries == create("farneback").libraries
    assert create("farneback+tvl1", **method.parameters).parameters == method.parameters
    assert create("dis+tvl1").parameters["start_preset"] == "fast"
    with pytest.raises(InvalidArgument, match=r"farneback was of version 99, here it is 1"):
        create("farneback+tvl1", start_version=99)


@pytest.mark.parametrize(
    ("name", "parameters", "error", "match"),
    [
        ("dis+tvl1", {"start_prest": "fast"}, InvalidArgument, r'no parameter "prest" \(did you'),
        ("dis+tvl1", {"wraps": 3}, InvalidArgument, r'"dis\+tvl1" has no parameter "wraps" \(did'),
        ("dsi+tvl1", {}, UnknownName, r'unknown flow method "dsi" \(did you mean "dis"'),
    ],
)
def test_refusals(name, parameters, error, match):
    with pytest.raises(error, match=match):
        create(name, **parameters)


def test_small_frames_are_refused_by_the_start():
    with pytest.raises(FlowError, match="20×40 px are too small for dis"):
        create("dis+tvl1")(np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8))


def test_noise_of_a_still_scene_is_smoothed_away():
    still = texture(96, 128) // 4 + 90
    noise = np.random.default_rng(0).normal(0, 3, still.shape)
    noisy = np.clip(np.rint(still + noise), 0, 255).astype(np.uint8)
    start = np.hypot(*create("dis", preset="fast")(still, noisy).T).mean()
    refined = np.hypot(*create("dis+tvl1")(still, noisy).T).mean()
    assert refined < 0.05 < start


@pytest.mark.data
@pytest.mark.slow
def test_middlebury(shared_data):
    errors = []
    for pair in find_pairs(shared_data / "flow_gt" / "middlebury"):
        frames = read_grey(pair.first), read_grey(pair.second)
        errors.append(flow_errors(create("dis+tvl1")(*frames), *read_truth(pair.truth)))
    assert len(errors) == 8
    assert np.mean([error.end_point_px for error in errors]) < 0.44
