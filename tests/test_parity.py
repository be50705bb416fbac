"""Public checkpoints give their authors' logits: fixtures of original implementations, run once.

A fixture records an implementation with weights and inputs made by rule: names, shapes, logits. The
file is written as its authors save it, and read through `load_network`.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from flowpipe.models.weights import load_network
from flowpipe.models.weights.parity import TOLERANCE, fill, make_input, shaped

PARITY = Path(os.environ.get("FLOWPIPE_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not PARITY.is_dir(), reason=f"no fixtures at {PARITY}; set FLOWPIPE_PARITY to their folder"
    ),
]


def fixture(name):
    return json.loads((PARITY / f"{name}.json").read_text())


def state_of(record):
    rows = [(row[0], row[1], row[3] if len(row) > 3 else row[0]) for row in record["state_dict"]]
    return {name: fill(source, tuple(shape), record["gain"]) for name, shape, source in rows}


def save_as_published(name, state, folder):
    """Write the file as its authors do; give its path."""
    origin = name.partition("-")[0]
    if origin in ("pyslowfast", "pytorchvideo"):
        path = folder / f"{name.partition('-')[2].upper()}.pyth"
        torch.save({"epoch": 196, "model_state": state, "optimizer_state": {}, "cfg": "x"}, path)
    elif origin == "mmaction2":
        path = folder / f"{name}.pth"
        torch.save({"meta": {"epoch": 100}, "state_dict": state}, path)
    elif origin in ("kenshohara", "tsn"):
        path = folder / f"{name}.pth.tar"
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 200, "arch": "x", "state_dict": wrapped, "optimizer": {}}, path)
    elif origin == "bryanyzhu":
        path = folder / f"{name}.pth.tar"
        halves = {key.replace("features.", "features.module."): v for key, v in state.items()}
        torch.save({"epoch": 1, "arch": "x", "state_dict": halves, "best_prec1": 80.0}, path)
    elif origin == "davidea":
        path = folder / "c3d.pickle"
        torch.save(state, path)
    else:
        path = folder / f"{name}.pth"
        torch.save(state, path)
    return path


def logits_of(network, clips):
    with torch.no_grad():
        return network(shaped(clips, network)).numpy()


# One of each kind of names, small enough for every day; the others are slow.
QUICK = {
    "kenshohara-resnet18",
    "mmaction2-tsn-r50-flow",
    "pyslowfast-slow_8x8_r50",
    "pytorchvideo-x3d_s",
    "torchvision-mc3_18",
    "torchvision-squeezenet1_0",
    "tsn-bninception-rgb",
}
RECOGNITION = sorted(
    path.stem
    for path in PARITY.glob("*.json")
    if "raft" not in path.stem and path.stem != "torchvision-mvit_v2_s"  # no such network
)


def worst_of(network, record, *, output="logits"):
    """Return the largest difference of each case, as a share of its logits' root mean square."""
    recorded = np.load(PARITY / f"{record['name']}.npz")
    found = {}
    for case in record["cases"]:
        if output not in case["outputs"]:
            continue
        expected = recorded[case["outputs"][output]["npz"]]
        got = logits_of(network, make_input(case["input"]["name"], tuple(case["input"]["shape"])))
        if output == "output":
            got = np.exp(got - np.log(np.exp(got).sum(1, keepdims=True)))
        rms = float(np.sqrt((expected.astype(np.float64) ** 2).mean()))
        found[case["name"]] = float(np.abs(got - expected).max()) / rms
    return found


def test_the_rule_is_that_of_the_fixtures():
    record = fixture("torchvision-squeezenet1_0")
    crc = 0
    for value in state_of(record).values():
        crc = zlib.crc32(np.ascontiguousarray(value.numpy()).tobytes(), crc)
    assert crc == record["weights_crc32"]


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECOGNITION],
)
def test_logits_are_the_authors(name, tmp_path):
    record = fixture(name)
    if name.startswith("hf-"):
        pytest.importorskip("transformers", reason="its networks are that package's")
    path = save_as_published(name, state_of(record), tmp_path)
    network = load_network(path)
    assert sum(p.numel() for p in network.parameters()) == record["num_parameters"]
    assert network.num_classes == record["num_classes"]
    assert network.preprocessing is not None
    worst = worst_of(network, record)
    assert worst
    assert max(worst.values()) <= TOLERANCE, worst


# Fixture, and a parameter in another origin's way; each must be seen in the logits.
WRONG = [
    ("pyslowfast-slow_8x8_r50", {"head": "global"}),
    ("pyslowfast-slowfast_4x16_r50", {"slow_frames": "every"}),
    ("pyslowfast-slowfast_4x16_r50", {"head": "global"}),
    ("pyslowfast-i3d_nln_8x8_r50", {"nonlocal_variant": "paper"}),
    ("pyslowfast-i3d_nln_8x8_r50", {"nonlocal_form": "dot"}),
    ("pytorchvideo-c2d_r50", {"pool2": False}),
    ("pytorchvideo-r2plus1d_r50", {"strides": ((1, 2), (2, 2), (2, 2), (1, 2))}),
    ("pytorchvideo-csn_r101", {"strides": ((1, 1), (1, 2), (2, 2), (2, 2))}),
    ("pytorchvideo-x3d_s", {"window": 7}),
    ("mmaction2-i3d-r50", {"stem_time_strides": (1, 1)}),
    ("mmaction2-i3d-r50-nl-embedded", {"nonlocal_form": "dot"}),
    ("mmaction2-r2plus1d-r34", {"bn_eps": 1e-5}),
    ("mmaction2-r2plus1d-r34", {"stem_pool": "none"}),
    ("mmaction2-slowfast-r50-4x16", {"slow_frames": "spread"}),
    ("mmaction2-tsn-r50-rgb", {"average": "probabilities"}),
    ("kenshohara-resnet18", {"stem_pool": "space"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_a_wrong_variant_is_seen(name, wrong, tmp_path):
    record = fixture(name)
    network = load_network(save_as_published(name, state_of(record), tmp_path), **wrong)
    # Dot products with such weights grow beyond all numbers: that is seen as well.
    assert not all(error <= 10 * TOLERANCE for error in worst_of(network, record).values())


@pytest.mark.slow
def test_another_nonlocal_variant_pools_elsewhere(tmp_path):
    """The order of pooling and convolution has no tensor; a maximum is not linear."""
    from flowpipe.models import nonlocal_block

    record = fixture("mmaction2-i3d-r50-nl-embedded")
    path = save_as_published(record["name"], state_of(record), tmp_path)
    network = load_network(path)
    for layer in network.modules():
        if isinstance(layer, nonlocal_block.NonlocalBlock):
            layer.variant = nonlocal_block.Variant(scaled=False, pooled_first=True, out_bias=False)
    assert max(worst_of(network, record).values()) > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyslowfast-slow_8x8_r50", "pyslowfast-slowfast_4x16_r50"])
def test_windows_may_be_averaged_behind_the_softmax(name, tmp_path):
    """What PySlowFast returns in testing, its published accuracies are of."""
    record = fixture(name)
    path = save_as_published(name, state_of(record), tmp_path)
    network = load_network(path, head="windows-softmax")
    assert max(worst_of(network, record, output="output").values()) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyslowfast-i3d_nln_8x8_r50", "pyslowfast-slowfast_4x16_r50"])
def test_caffe2_names_are_those_of_the_zoo(name, tmp_path):
    record = fixture(name)
    state = {
        caffe2: value
        for caffe2, value in zip(record["caffe2_names"], state_of(record).values(), strict=True)
        if caffe2 is not None
    }
    path = tmp_path / "zoo.pth"
    torch.save({**state, "conv1_w_momentum": state["conv1_w"], "lr": torch.tensor(0.1)}, path)
    network = load_network(path)
    assert network.origin == "caffe2"
    assert "left in the file: conv1_w_momentum, lr" in network.report
    assert max(worst_of(network, record).values()) <= TOLERANCE


def test_half_precision_and_safetensors(tmp_path):
    from safetensors.torch import save_file

    record = fixture("torchvision-resnet18")
    state = state_of(record)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    network = load_network(tmp_path / "half.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert max(worst_of(network, record).values()) < 0.01
