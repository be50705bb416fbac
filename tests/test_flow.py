"""Every row of FLOWS: the protocol, constructed truth, refusals; Middlebury's ground truth."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from flowpipe.errors import FlowError, InvalidArgument, UnknownName
from flowpipe.flow import FLOWS, FlowMethod, create
from flowpipe.flow.evaluation import flow_errors, read_grey, read_truth

HEIGHT, WIDTH = 96, 128
MARGIN = 16
"""Px at the border whose motion leads out of the frame, or in."""

# Mean end-point error inside the margin on constructed truth; the methods reach 0.006 to 0.065.
LARGEST_ERROR_PX = 0.1


def texture(y, x):
    """Give smooth, aperiodic grey values at real coordinates: three octaves of sines."""
    waves = [(0.21, 0.13, 0.3), (-0.11, 0.23, 1.1), (0.37, -0.29, 2.0), (0.05, 0.41, 4.2)]
    total = sum(np.sin(a * y + b * x + c) for a, b, c in waves)
    return np.rint(127.5 + 28 * total).clip(0, 255).astype(np.uint8)


def grid():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    return y, x


def translation():
    """Everything moves 1.5 px right and 1 px up."""
    y, x = grid()
    truth = np.broadcast_to([1.5, -1.0], (HEIGHT, WIDTH, 2))
    return texture(y, x), texture(y + 1.0, x - 1.5), truth


def rotation():
    """By 0.03 rad, clockwise on the screen, about the centre."""
    return linear(np.array([[np.cos(0.03), -np.sin(0.03)], [np.sin(0.03), np.cos(0.03)]]))


def zoom():
    """By 4 % out of the centre."""
    return linear(1.04 * np.eye(2))


def linear(matrix):
    """Points p (x, y from the centre) move to matrix · p."""
    y, x = grid()
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    from_centre = np.stack([x, y], axis=-1) - centre
    truth = from_centre @ (matrix - np.eye(2)).T
    earlier = from_centre @ np.linalg.inv(matrix).T + centre
    return texture(y, x), texture(earlier[..., 1], earlier[..., 0]), truth


# Below, a method refuses; 16 px where it is not named here.
LEAST_SIDE_PX = {"farneback": 1, "dis": 32, "dis+tvl1": 32}

SCENES = {"translation": translation, "rotation": rotation, "zoom": zoom}

# Those that need weights, or the vectors of a video, have tests of their own.
OTHERS = ("gmflow", "gmflow+tvl1", "raft", "raft-small", "raft+tvl1", "codec")
every_method = pytest.mark.parametrize("name", [name for name in FLOWS if name not in OTHERS])


def inside(field):
    return field[MARGIN:-MARGIN, MARGIN:-MARGIN]


def endpoint_error(uv, truth, known=None):
    return flow_errors(uv, truth, known).end_point_px


@every_method
def test_a_method_says_what_determines_its_output(name):
    method = create(name)
    assert isinstance(method, FlowMethod)
    assert method.name == name
    assert isinstance(method.version, int)
    assert json.loads(json.dumps(method.parameters)) == method.parameters
    assert json.loads(json.dumps(method.libraries)) == method.libraries
    # All of its parameters can be given back to it.
    assert create(name, **method.parameters).parameters == method.parameters


@every_method
@pytest.mark.parametrize("scene", SCENES)
def test_constructed_motion_is_found(name, scene):
    prev_HW, next_HW, truth = SCENES[scene]()
    uv = create(name)(prev_HW, next_HW)
    assert (uv.shape, uv.dtype) == ((HEIGHT, WIDTH, 2), np.float32)
    assert np.isfinite(uv).all()
    assert endpoint_error(inside(uv), inside(truth)) < LARGEST_ERROR_PX


@every_method
def test_no_motion_is_zero(name):
    prev_HW, _, _ = translation()
    assert np.abs(inside(create(name)(prev_HW, prev_HW))).max() < 0.01
    flat = np.full((HEIGHT, WIDTH), 77, np.uint8)
    assert np.abs(create(name)(flat, flat)).max() < 0.01


@every_method
def test_the_same_frames_give_the_same_flow_whatever_came_before(name):
    prev_HW, next_HW, _ = rotation()
    method = create(name)
    first = method(prev_HW, next_HW)
    method(prev_HW[:48, :64], next_HW[:48, :64])  # a small frame must leave nothing behind
    np.testing.assert_array_equal(method(prev_HW, next_HW), first)
    np.testing.assert_array_equal(create(name)(prev_HW, next_HW), first)


@every_method
def test_frames_are_not_changed_and_may_be_views(name):
    prev_HW, next_HW, _ = translation()
    wide = np.stack([prev_HW, next_HW], axis=-1)
    kept = wide.copy()
    from_views = create(name)(wide[..., 0], wide[..., 1])
    np.testing.assert_array_equal(wide, kept)
    np.testing.assert_array_equal(from_views, create(name)(prev_HW, next_HW))


@every_method
def test_odd_sizes(name):
    prev_HW, next_HW, _ = translation()
    for height, width in ((61, 83), (40, 127), (95, 33)):
        uv = create(name)(prev_HW[:height, :width], next_HW[:height, :width])
        assert uv.shape == (height, width, 2)
        assert np.isfinite(uv).all()


@every_method
@pytest.mark.parametrize("shape", [(1, 1), (2, 90), (90, 3), (15, 15), (31, 64)], ids=str)
def test_small_frames_have_flow_or_a_reason(name, shape):
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (2, *shape), np.uint8)
    method = create(name)
    if min(shape) < LEAST_SIDE_PX.get(name, 16):
        refuses = name.partition("+")[0]  # the start is called first
        told = f"frames of {shape[0]}×{shape[1]} px are too small for {refuses}.*give a short side"
        with pytest.raises(FlowError, match=told):
            method(*pair)
        return
    uv = method(*pair)
    assert uv.shape == (*shape, 2)
    assert np.isfinite(uv).all()


@every_method
@pytest.mark.parametrize(
    ("frames", "match"),
    [
        (
            (np.zeros((64, 64), np.float32),) * 2,
            r"frames of H×W, not float32 \(64, 64\)",
        ),
        (
            (np.zeros((64, 64, 3), np.uint8),) * 2,
            r"frames of H×W, not uint8 \(64, 64, 3\)",
        ),
        (([[0]], [[0]]), "grey uint8 frames of H×W, not list"),
        ((np.zeros((64, 64), np.uint8), np.zeros((64, 65), np.uint8)), "must be one size"),
    ],
    ids=["float", "colour", "list", "two sizes"],
)
def test_frames_of_another_kind_are_refused(name, frames, match):
    with pytest.raises(FlowError, match=match):
        create(name)(*frames)


@every_method
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(
        InvalidArgument,
        match=f'flow method "{re.escape(name)}" has no parameter "colour".*it has: ',
    ):
        create(name, colour=1)


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("farneback", {"pyramid_scale": 1.0}, r"pyramid_scale 1.0 must be a number > 0 and < 1"),
        ("farneback", {"levels": 0}, r"levels 0 must be a whole number >= 1; 3 is usual"),
        ("farneback", {"levels": 2.5}, r"levels 2.5 must be a whole number"),
        ("farneback", {"iterations": True}, r"iterations True must be a whole number"),
        ("farneback", {"neighbourhood_radius": 1}, r"neighbourhood_radius 1 must be .* >= 2"),
        ("farneback", {"window": 9}, r'no parameter "window" \(did you mean "window_size"\?\)'),
        ("dis", {"preset": "fst"}, r'preset "fst" must be one of.*did you mean "fast"'),
        ("dis", {"preset": 3}, r'preset "3" must be one of ultrafast, fast, medium'),
        ("opencv-tvl1", {"time_step": 0.3}, r"time_step 0.3 must be a number > 0 and <= 0.25"),
        ("opencv-tvl1", {"attachment": -1}, r"attachment -1 must be a number > 0; 0.15"),
        ("opencv-tvl1", {"scale_step": "a"}, r"scale_step 'a' must be a number > 0 and < 1"),
        ("opencv-tvl1", {"median_size": 4}, r"median_size 4 must be 1 \(none\), 3 or 5"),
        ("opencv-tvl1", {"tightness": float("nan")}, r"tightness nan must be a number > 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_parameters_outside_their_rule_are_refused(name, parameters, match):
    with pytest.raises(InvalidArgument, match=match):
        create(name, **parameters)


def test_parameters_change_the_flow():
    prev_HW, next_HW, _ = rotation()
    for name, parameters in (
        ("dis", {"preset": "ultrafast"}),
        ("farneback", {"window_size": 9}),
        ("farneback", {"gaussian_window": True}),
        ("opencv-tvl1", {"attachment": 0.05}),
        ("opencv-tvl1", {"illumination": 0.5}),
    ):
        plain, changed = create(name), create(name, **parameters)
        assert plain.parameters != changed.parameters
        assert not np.array_equal(plain(prev_HW, next_HW), changed(prev_HW, next_HW))


def test_unknown_methods():
    with pytest.raises(UnknownName, match=r'unknown flow method "farnebak" \(did you mean "farne'):
        create("farnebak")
    with pytest.raises(UnknownName, match=r'"nowhere:flow": No module named .nowhere.; is the'):
        create("nowhere:flow")
    with pytest.raises(UnknownName, match=r'flowpipe.flow.dis has no callable "buid"'):
        create("flowpipe.flow.dis:buid")


class Own:
    """A method of the person's own."""

    name, version, libraries = "own", 1, {}

    def __init__(self, speed: float = 1.0) -> None:
        self.parameters = {"speed": speed}

    def __call__(self, prev_HW, next_HW):
        return np.full((*prev_HW.shape, 2), self.parameters["speed"], np.float32)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Give a function that makes a module `own_flow` of some source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source, name="own_flow"):
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{source}")
        return name

    return make


def test_a_method_of_ones_own(own_module):
    import inspect

    module = own_module(inspect.getsource(Own), "own_good")
    method = create(f"{module}:Own", speed=2.0)
    assert (
        method(np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)).tolist()
        == [[[2.0, 2.0]] * 5] * 4
    )
    with pytest.raises(InvalidArgument, match=r'no parameter "sped" \(did you mean "speed"'):
        create(f"{module}:Own", sped=2.0)


def test_all_that_determines_a_method_of_ones_own_is_recorded(own_module, tmp_path):
    source = (
        "class make:\n"
        "    name, version, parameters, libraries = 'a', 1, {}, {}\n"
        "    def __init__(self, strength=1): self.strength = strength\n"
        "    def __call__(self, a, b): return np.full((*a.shape, 2), self.strength, np.float32)\n"
    )
    name = f"{own_module(source, 'own_silent')}:make"
    weak, strong = create(name, strength=1), create(name, strength=3)
    digest = hashlib.sha256((tmp_path / "own_silent.py").read_bytes()).hexdigest()[:16]
    assert weak.parameters == {"strength": 1, "source_sha256": digest}
    assert strong.parameters == {"strength": 3, "source_sha256": digest}
    frame = np.zeros((4, 5), np.uint8)
    assert create(name, **strong.parameters)(frame, frame).max() == 3
    with pytest.raises(InvalidArgument, match="its source has changed since the flow was computed"):
        create(name, **{**strong.parameters, "source_sha256": "0" * 16})


def test_a_plain_function_is_a_method(own_module):
    source = "def f(a, b, *, gain=1.0): return gain * np.stack([b, a], -1).astype(np.float32)"
    name = f"{own_module(source, 'own_function')}:f"
    frames = np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8)
    plain, doubled = create(name), create(name, gain=2.0)
    assert (plain.name, plain.parameters["gain"], doubled.parameters["gain"]) == (name, 1.0, 2.0)
    assert plain(*frames)[0, 0].tolist() == [1.0, 0.0]
    assert doubled(*frames)[0, 0].tolist() == [2.0, 0.0]
    with pytest.raises(InvalidArgument, match=r'no parameter "gian" \(did you mean "gain"'):
        create(name, gian=2.0)
    wrong = create(f"{own_module('def f(a, b): return a', 'own_wrong')}:f")
    with pytest.raises(FlowError, match=r"gave uint8 \(4, 5\); a flow method must give float32"):
        wrong(*frames)


@pytest.mark.parametrize(
    ("name", "source", "match"),
    [
        ("own_none", "def make(): return None", r"whose .name is no str; the callable must be a"),
        ("own_one", "def make(one): return one", "must be made from keyword parameters alone"),
        (
            "own_version",
            "class make:\n    name, version, parameters, libraries = 'a', '1', {}, {}",
            "whose .version is no int",
        ),
        (
            "own_uncallable",
            "class make:\n    name, version, parameters, libraries = 'a', 1, {}, {}",
            "cannot be called with two frames",
        ),
        (
            "own_json",
            "class make:\n    name, version, parameters, libraries = 'a', 1, {'a': object()}, {}\n"
            "    def __call__(self, prev, next): ...",
            ".parameters must be plain JSON values",
        ),
    ],
    ids=lambda value: value if value.startswith("own_") else "",
)
def test_factories_of_something_else_are_refused(own_module, name, source, match):
    own_module(source, name)
    with pytest.raises(InvalidArgument, match=match):
        create(f"{name}:make")


# Mean end-point errors in px: OpenCV 5.0, grey by cvtColor, pixels of known truth.
MIDDLEBURY = {
    "Dimetrodon": (0.361, 0.156, 0.936),
    "Grove2": (0.494, 0.319, 0.585),
    "Grove3": (1.188, 0.852, 1.340),
    "Hydrangea": (0.539, 0.253, 0.591),
    "RubberWhale": (0.537, 0.225, 0.361),
    "Urban2": (1.219, 0.645, 1.415),
    "Urban3": (1.998, 2.014, 2.973),
    "Venus": (0.723, 0.384, 1.443),
}
ZERO_FLOW = {"Dimetrodon": 2.058, "RubberWhale": 1.256, "Venus": 3.802}


def middlebury(shared_data: Path, sequence: str):
    folder = shared_data / "flow_gt" / "middlebury" / sequence
    frames = [read_grey(folder / f"frame{n}.png") for n in (10, 11)]
    return *frames, *read_truth(folder / "flow10.flo")


@pytest.mark.data
@pytest.mark.parametrize("sequence", MIDDLEBURY)
def test_middlebury(shared_data, sequence):
    prev_HW, next_HW, truth, known = middlebury(shared_data, sequence)
    methods = (create("dis", preset="ultrafast"), create("dis"), create("farneback"))
    for method, published in zip(methods, MIDDLEBURY[sequence], strict=True):
        error = endpoint_error(method(prev_HW, next_HW), truth, known)
        assert error == pytest.approx(published, abs=0.02), method
    if sequence in ZERO_FLOW:
        still = endpoint_error(np.zeros_like(truth), truth, known)
        assert still == pytest.approx(ZERO_FLOW[sequence], abs=0.001)


@pytest.mark.data
@pytest.mark.slow
def test_middlebury_tvl1(shared_data):
    prev_HW, next_HW, truth, known = middlebury(shared_data, "RubberWhale")
    error = endpoint_error(create("opencv-tvl1")(prev_HW, next_HW), truth, known)
    assert error == pytest.approx(0.156, abs=0.02)


@pytest.mark.data
@pytest.mark.slow
@every_method
def test_every_method_beats_no_motion_on_real_frames(shared_data, name):
    prev_HW, next_HW, truth, known = middlebury(shared_data, "Venus")
    error = endpoint_error(create(name)(prev_HW, next_HW), truth, known)
    assert error < ZERO_FLOW["Venus"] / 2
