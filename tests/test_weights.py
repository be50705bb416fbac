"""Weights into networks: what loads, what is adapted, what is refused."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from flowpipe.errors import WeightsError
from flowpipe.models import build
from flowpipe.models.weights import load_state, load_weights, model_state, read_state


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network(seed: int, **arguments: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build("small-cnn", **{"num_classes": 5, "width": 4, **arguments})


def _state(seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    network = _network(seed, **arguments)
    with torch.no_grad():  # statistics that differ from a fresh network's
        network.train()(torch.randn(4, arguments.get("in_channels", 3), 32, 32))
    return model_state(network)


def _save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_every_file_kind_loads_whole(tmp_path: Path, ending: str) -> None:
    state, path = _state(), tmp_path / f"w{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    network = _network(1)
    report = load_weights(network, str(path))
    assert _same(model_state(network), state)
    assert set(report.loaded) == set(state)
    assert (report.adapted, report.left, report.unused) == ((), (), ())
    assert str(report) == f"{path}: loaded {len(state)} tensors"


def _wrapped(state: dict[str, Tensor], form: str) -> dict[str, Any]:
    if form == "module":
        return {f"module.{name}": value for name, value in state.items()}
    if form == "compiled and parallel":
        return {f"module._orig_mod.{name}": value for name, value in state.items()}
    if form == "all":
        return {"epoch": 3, "state_dict": _wrapped(state, "module"), "best": 0.5}
    return {"epoch": 3, form: state}


@pytest.mark.parametrize(
    "form",
    ["state_dict", "model", "model_state_dict", "module", "compiled and parallel", "all"],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, form: str) -> None:
    state = _state()
    network = _network(1)
    load_weights(network, _save(_wrapped(state, form), tmp_path / "w.pth"))
    assert _same(model_state(network), state)


def test_stem_is_the_mean_over_rgb_for_every_flow_channel(tmp_path: Path) -> None:
    state = _state()
    network = _network(1, in_channels=20)
    report = load_weights(network, _save(state, tmp_path / "w.pth"))
    rgb = state["features.0.weight"]
    got = network.state_dict()["features.0.weight"]
    for channel in range(20):
        expected = (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 3
        torch.testing.assert_close(got[:, channel], expected)
    assert report.adapted == ("features.0.weight",)
    assert report.channels == (3, 20)
    assert "features.0.weight" not in report.loaded
    assert "adapted features.0.weight 3→20 channels by averaging" in str(report)


def test_averaged_stem_answers_grey_input_as_the_rgb_stem_does(tmp_path: Path) -> None:
    """One channel in place of three equal ones: without rescaling, a third of the response."""
    state = _state()
    network = _network(1, in_channels=1)
    load_weights(network, _save(state, tmp_path / "w.pth"))
    grey = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = nn.functional.conv2d(grey.repeat(1, 3, 1, 1), state["features.0.weight"])
    ours = nn.functional.conv2d(grey, network.state_dict()["features.0.weight"])
    torch.testing.assert_close(3 * ours, theirs, rtol=1e-4, atol=1e-5)


def test_classifier_of_other_classes_is_left(tmp_path: Path) -> None:
    state = _state()
    network = _network(1, num_classes=9)
    before = copy.deepcopy(network.state_dict())
    report = load_weights(network, _save(state, tmp_path / "w.pth"))
    after = network.state_dict()
    for name in ("fc.weight", "fc.bias"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["features.3.weight"], state["features.3.weight"])
    assert report.left == ("fc.weight", "fc.bias")
    assert report.classes == (5, 9)
    assert "left as initialised fc.weight, fc.bias (5→9 classes)" in str(report)


def test_body_without_classifier_loads(tmp_path: Path) -> None:
    body = {name: value for name, value in _state().items() if not name.startswith("fc.")}
    report = load_weights(_network(1), _save(body, tmp_path / "w.pth"))
    assert report.left == ("fc.weight", "fc.bias")
    assert report.classes is None
    assert len(report.loaded) == len(body)


def test_missing_batch_counters_are_left(tmp_path: Path) -> None:
    old = {name: value for name, value in _state().items() if "num_batches" not in name}
    report = load_weights(_network(1), _save(old, tmp_path / "w.pth"))
    assert len(report.left) == 5
    assert all(name.endswith(".num_batches_tracked") for name in report.left)


def test_strangers_in_the_file_are_unused(tmp_path: Path) -> None:
    state = {**_state(), "aux.weight": torch.ones(2)}
    report = load_weights(_network(1), _save(state, tmp_path / "w.pth"))
    assert report.unused == ("aux.weight",)
    assert str(report).endswith("unused in the file aux.weight")


def test_rename_replaces_beginnings_longest_first(tmp_path: Path) -> None:
    state = _state()
    foreign = {
        (f"net.top.{name[3:]}" if name.startswith("fc.") else f"net.{name}"): value
        for name, value in state.items()
    }
    network = _network(1)
    path = _save(foreign, tmp_path / "w.pth")
    report = load_weights(network, path, rename={"net.": "", "net.top.": "fc."})
    assert _same(model_state(network), state)
    assert report.unused == ()


def test_rename_that_speaks_of_nothing_is_refused(tmp_path: Path) -> None:
    path = _save(_state(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r'no tensor begins with "backbone\."'):
        load_weights(_network(1), path, rename={"backbone.": ""})


def test_rename_that_makes_two_into_one_is_refused(tmp_path: Path) -> None:
    path = _save({**_state(), "old.fc.bias": torch.ones(5)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r'both "fc\.bias" and "old\.fc\.bias" "fc\.bias"'):
        load_weights(_network(1), path, rename={"old.": ""})


def test_half_precision_becomes_the_networks(tmp_path: Path) -> None:
    halves = {n: v.half() if v.is_floating_point() else v for n, v in _state().items()}
    network = _network(1)
    load_weights(network, _save(halves, tmp_path / "w.pth"))
    got = network.state_dict()["fc.weight"]
    assert got.dtype == torch.float32
    assert torch.equal(got, halves["fc.weight"].float())


def _change(state: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    match change:
        case "shape":
            state["features.3.weight"] = torch.zeros(8, 4, 5, 5)
        case "missing":
            del state["features.3.weight"]
        case "stem size":
            state["features.0.weight"] = torch.zeros(4, 3, 7, 7)
        case "stem channels":
            state["features.0.weight"] = torch.zeros(4, 10, 5, 5)
        case "features":
            state["fc.weight"] = torch.zeros(5, 128)
        case "nan":
            state["features.3.weight"][0, 0, 0, 0] = float("nan")
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shape", "other shapes: features.3.weight is 8×4×5×5, not 8×4×3×3"),
        ("missing", "missing features.3.weight"),
        ("stem size", "features.0.weight is 4×3×7×7, not 4×3×5×5"),
        ("stem channels", "features.0.weight is 4×10×5×5, not 4×3×5×5"),
        ("features", "fc.weight is 5×128, not 5×64"),
        ("nan", "NaN or infinity in features.3.weight"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, change: str, message: str
) -> None:
    network = _network(1)
    before = model_state(network)
    path = _save(_change(_state(), change), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_weights(network, path)
    assert _same(model_state(network), before)


def test_flow_stem_is_not_averaged(tmp_path: Path) -> None:
    """Only R, G, B may be averaged: the mean of u and v means nothing."""
    path = _save(_state(in_channels=10), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"features\.0\.weight is 4×10×5×5, not 4×20×5×5"):
        load_weights(_network(1, in_channels=20), path)


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = _save({"layer9.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"nothing in it fits.*layer9\.weight.*features\.0"):
        load_weights(_network(1), path)


class _HeadOnly(nn.Module):
    stem_name = classifier_name = "fc"

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 9)


def test_nothing_but_a_classifier_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = _save(nn.Linear(4, 5).state_dict(prefix="fc."), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="nothing in it fits the network but a classifier"):
        load_weights(_HeadOnly(), path)


def test_network_without_the_names_is_refused(tmp_path: Path) -> None:
    path = _save(nn.Linear(4, 5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="Linear has no classifier_name"):
        load_weights(nn.Linear(4, 5), path)


class _Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    path = _save({**_state(), "extra": _Payload(str(trap))}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"refused, because it .* objects other than tensors"):
        load_weights(_network(1), path)
    assert not trap.exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = _save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"save only the network's state_dict\(\)"):
        read_state(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_cut_off_files_are_refused(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"w{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file(_state(), path)
    else:
        torch.save(_state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"not a readable|refused, because it is damaged"):
        load_weights(_network(1), path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_foreign_bytes_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    path.write_text("<html>404: not found</html>\n")
    with pytest.raises(WeightsError, match=r"not a readable|refused, because it is damaged"):
        read_state(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such file; weights are a \.pth"):
        load_weights(_network(1), tmp_path / "none.pth")


def test_other_ending(tmp_path: Path) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r'ending "\.onnx" must be one of \.pth, \.pt'):
        load_weights(_network(1), path)
    path = tmp_path / "w.pkl"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match="is not read; where you trust it, convert it once"):
        load_weights(_network(1), path)


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, {}, [1, 2]])
def test_file_without_named_tensors(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match="holds no named tensors but a"):
        read_state(_save(content, tmp_path / "w.pth"))


def test_state_goes_round_and_is_a_copy() -> None:
    network = _network(0)
    state = model_state(network)
    assert all(value.device.type == "cpu" and not value.requires_grad for value in state.values())
    with torch.no_grad():
        network.get_parameter("fc.weight").zero_()
    assert state["fc.weight"].any()
    other = _network(1)
    load_state(other, state, where="last.pt")
    assert _same(model_state(other), state)


def test_state_of_a_wrapped_network_has_bare_names() -> None:
    network = _network(0)
    wrapper = nn.Module()
    wrapper.add_module("module", network)
    state = model_state(wrapper)
    assert _same(state, model_state(network))
    other = nn.Module()
    other.add_module("module", _network(1))
    load_state(other, state, where="last.pt")
    assert _same(model_state(other), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, "last.pt does not fit the network: missing fc.bias"),
        ({"extra": torch.ones(2)}, "unexpected extra"),
        ({"fc.weight": torch.ones(9, 64)}, "other shapes: fc.weight is 9×64, not 5×64"),
        ({"epoch": 3}, "last.pt: not tensors: epoch"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: dict[str, Any], message: str
) -> None:
    state = {name: value for name, value in {**_state(), **change}.items() if value is not None}
    network = _network(1)
    before = model_state(network)
    with pytest.raises(WeightsError, match=message):
        load_state(network, state, where="last.pt")
    assert _same(model_state(network), before)


SQUEEZENET = "weights/squeezenet1_0_imagenet_from_deepcompression.pth"


@pytest.mark.data
def test_real_squeezenet_loads_whole(shared_data: Path) -> None:
    network = build("squeezenet1_0", num_classes=1000).eval()
    report = load_weights(network, shared_data / SQUEEZENET)
    assert len(report.loaded) == 52
    assert (report.adapted, report.left, report.unused) == ((), (), ())
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(logits).all()
    assert logits.max() > 1


@pytest.mark.data
def test_real_squeezenet_becomes_a_flow_network(shared_data: Path) -> None:
    network = build("squeezenet1_0", num_classes=9, in_channels=20)
    report = load_weights(network, shared_data / SQUEEZENET)
    assert len(report.loaded) == 49
    text = str(report)
    assert "loaded 49 tensors; adapted features.0.weight 3→20 channels by averaging" in text
    assert "left as initialised classifier.1.weight, classifier.1.bias (1000→9 classes)" in text
