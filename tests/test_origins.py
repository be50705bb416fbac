"""Recognition of public files: what is said, what is refused, what a stream's weights become."""

import json
import re

import pytest
import torch
from support import run_cli

from flowpipe.errors import UnknownName, WeightsError
from flowpipe.models import TABLE, build
from flowpipe.models.weights import (
    ORIGINS,
    load_network,
    load_weights,
    recognise,
    variant_parameters,
)
from flowpipe.models.weights.known import FILES
from flowpipe.models.weights.networks import network_of
from flowpipe.models.weights.origins import origin_named
from flowpipe.models.weights.parity import TOLERANCE
from flowpipe.video import VideoReader


def shapes(model, **parameters):
    with torch.device("meta"):
        network = build(model, num_classes=5, **parameters)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def mmaction2_names(state):
    """Turn the names of a 3D ResNet into mmaction2's."""
    names = {}
    for name in state:
        new = name.replace("downsample.0.", "downsample.conv.").replace(
            "downsample.1.", "downsample.bn."
        )
        for number in "123":
            new = new.replace(f"conv{number}.weight", f"conv{number}.conv.weight")
            new = new.replace(f"bn{number}.", f"conv{number}.bn.")
        names[name] = "cls_head.fc_cls." + new[3:] if new.startswith("fc.") else f"backbone.{new}"
    return names


@pytest.mark.parametrize("name", ORIGINS)
def test_every_origin_resolves_and_says_where_it_is(name):
    origin = origin_named(name)
    assert origin.name == name
    assert origin.url.startswith("https://")


def test_unknown_origin():
    with pytest.raises(UnknownName, match=r'did you mean "mmaction2"'):
        recognise({}, where="x.pth", origin="mmaction")


def test_unknown_names():
    with pytest.raises(WeightsError, match="no known origin has such tensors"):
        recognise({"a.weight": (3, 4)}, where="x.pth")


@pytest.mark.parametrize(
    "model", ["resnet34", "resnet152", "vgg16-bn", "squeezenet1_0", "r3d-18", "mc3-18",
              "r2plus1d-18", "s3d", "i3d", "c3d", "slow-r50", "c2d-resnet50", "x3d-s",
              "slowfast-8x8-r50", "slowfast-4x16-r50", "slowfast-8x8-r101", "csn-r101",
              "r2plus1d-50"],
)  # fmt: skip
def test_a_network_of_the_table_is_recognised_by_its_own_names(model):
    found = recognise(shapes(model), where="x.pth")
    assert found.model == model
    assert found.parameters == {}


def test_one_i3d_with_two_meanings_must_be_named():
    names = shapes("i3d-resnet50")
    with pytest.raises(WeightsError, match='weights_origin = "mmaction2" or "flowpipe"'):
        recognise(names, where="x.pth")
    assert recognise(names, where="x.pth", origin="flowpipe").parameters == {}
    found = recognise(names, where="x.pth", origin="mmaction2")
    assert found.parameters == {"stem_time_strides": (2, 2)}


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (lambda n: f"backbone.{n}".replace("backbone.fc.", "cls_head.fc_cls."), "mmaction2"),
        (lambda n: f"base_model.{n}".replace("base_model.fc.", "new_fc."), "tsn"),
    ],
)
def test_a_network_with_shifts_is_tsm(change, model):
    names = shapes("resnet50")
    if model == "tsn":
        public = {
            change(n.replace(".conv1.", ".conv1.net.") if n.startswith("layer") else n): s
            for n, s in names.items()
        }
    else:
        public = {
            change(n): s
            for n, s in zip(mmaction2_names(names).values(), names.values(), strict=True)
        }
        public = {
            n.removeprefix("backbone.").replace(".conv1.conv.", ".conv1.conv.net.")
            if "layer" in n
            else n.replace("backbone.backbone.", "backbone.").replace("backbone.cls", "cls"): s
            for n, s in public.items()
        }
    found = recognise(public, where="x.pth")
    assert (found.origin, found.model, found.parameters) == (model, "tsm-resnet50", {})
    assert set(found.names.values()) == {f"backbone.{n}" for n in names}


def test_the_body_of_tsn_by_itself_is_an_image_network():
    found = recognise(shapes("bn-inception"), where="x.pth")
    assert (found.origin, found.model) == ("tsn", "bn-inception")
    assert found.names["fc.weight"] == "fc.weight"


def test_a_stream_must_compute_as_the_origin_of_its_weights(tmp_path):
    tiny = {"num_blocks": (1, 1, 1, 1), "width": 8}
    network = build("i3d-resnet50", num_classes=5, stem_time_strides=(2, 2), **tiny)
    state = network.state_dict()
    path = tmp_path / "i3d.pth"
    torch.save(
        {"meta": {}, "state_dict": {mmaction2_names(state)[n]: v for n, v in state.items()}}, path
    )
    assert variant_parameters("i3d-resnet50", path)["stem_time_strides"] == (2, 2)
    with pytest.raises(WeightsError, match=r"stem_time_strides \(2, 2\), not \(1, 1\)"):
        load_weights(build("i3d-resnet50", num_classes=5, **tiny), path)
    other = build("i3d-resnet50", num_classes=7, stem_time_strides=[2, 2], **tiny)
    report = load_weights(other, path)
    assert report.recognised.origin == "mmaction2"
    assert report.classes == (5, 7)
    assert torch.equal(other.layer1[0].conv1.weight, network.layer1[0].conv1.weight)
    loaded = load_network(path)
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(clip), network.eval()(clip), rtol=0, atol=0)


def test_a_file_that_is_not_whole_is_refused(tmp_path):
    state = build("resnet18", num_classes=5).state_dict()
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing layer3\.0\.conv1\.weight; is the file whole"):
        load_network(tmp_path / "w.pth")


def test_preprocessing_is_recorded_for_a_loaded_network(tmp_path):
    torch.save(build("i3d", num_classes=5, in_channels=2).state_dict(), tmp_path / "flow.pt")
    network = load_network(tmp_path / "flow.pt")
    record = network.preprocessing
    assert (record.input, record.flow, record.bound_px, record.fps) == ("flow", "tvl1", 20.0, 25.0)
    assert (network.in_channels, network.num_classes) == (2, 5)
    assert "tvl1 cut off at ±20 px" in str(record)
    assert network.report.startswith("pytorch-i3d i3d, 5 classes, 2 channels; 344 tensors")
    assert not network.training
    assert TABLE[network.model].input_layout == network.input_layout


def test_check_says_what_a_file_is_and_runs_its_network_by_rule(tmp_path):
    torch.save(build("resnet18", num_classes=1000).state_dict(), tmp_path / "w.pth")
    done = run_cli("weights", "check", tmp_path / "w.pth")
    assert done.status == 0
    assert "torchvision resnet18, 1000 classes, 3 channels; 122 tensors" in done.out
    assert "input: RGB; (value / 255 − (0.485, 0.456, 0.406))" in done.out
    assert "parity: torchvision-resnet18, largest difference" in done.out
    record = json.loads(run_cli("weights", "check", tmp_path / "w.pth", "--json").out)
    assert record["parity"]["passed"]
    assert record["parity"]["error"] < TOLERANCE


def test_check_without_a_record(tmp_path):
    torch.save(build("resnet34", num_classes=3).state_dict(), tmp_path / "w.pth")
    done = run_cli("weights", "check", tmp_path / "w.pth")
    assert done.status == 0
    assert "no run of the authors' code on such a network is recorded" in done.out


def test_public_files_are_of_networks_and_origins_that_are_there():
    for file in FILES:
        assert file.model in TABLE, file
        assert file.origin in ORIGINS, file
    listed = json.loads(run_cli("weights", "--json").out)["files"]
    assert len(listed) == len(FILES)
    assert "SLOWFAST_8x8_R50.pyth" in run_cli("weights").out


def test_a_run_keeps_what_its_weights_compute(tmp_path):
    """The network of a stream is switched to the origin's way, and the run's settings say so."""
    from flowpipe.experiment.settings import as_weights_compute, settings_from

    tiny = {"num_blocks": [1, 1, 1, 1], "width": 8}
    state = build("i3d-resnet50", num_classes=5, stem_time_strides=(2, 2), **tiny).state_dict()
    names = mmaction2_names(state)
    torch.save({names[name]: value for name, value in state.items()}, tmp_path / "i3d.pth")
    stream = {
        "input": "rgb",
        "model": "i3d-resnet50",
        "model_parameters": tiny,
        "weights": "i3d.pth",
        "frames": 8,
    }
    table = {"data": {"root": "."}, "streams": {"rgb": stream}}
    settings = as_weights_compute(settings_from(table, where="x", folder=tmp_path))
    kept = settings.streams["rgb"].model_parameters
    assert kept["stem_time_strides"] == [2, 2]
    network = build("i3d-resnet50", num_classes=5, **kept)
    load_weights(network, tmp_path / "i3d.pth", origin=settings.streams["rgb"].weights_origin)


X3D_FAIR = (
    (r"^conv1\.", "s1.pathway0_stem.conv_xy."),
    (r"^conv1_t\.", "s1.pathway0_stem.conv."),
    (r"^bn1\.", "s1.pathway0_stem.bn."),
    (r"^layer1\.", "s2.pathway0_res"),
    (r"^layer2\.", "s3.pathway0_res"),
    (r"^layer3\.", "s4.pathway0_res"),
    (r"^layer4\.", "s5.pathway0_res"),
    (r"\.downsample\.0\.", ".branch1."),
    (r"\.downsample\.1\.", ".branch1_bn."),
    (r"\.conv1\.", ".branch2.a."),
    (r"\.conv2\.", ".branch2.b."),
    (r"\.conv3\.", ".branch2.c."),
    (r"\.bn1\.", ".branch2.a_bn."),
    (r"\.bn2\.", ".branch2.b_bn."),
    (r"\.bn3\.", ".branch2.c_bn."),
    (r"\.weigh\.1\.", ".branch2.se.fc1."),
    (r"\.weigh\.3\.", ".branch2.se.fc2."),
    (r"^conv5\.", "head.conv_5."),
    (r"^bn5\.", "head.conv_5_bn."),
    (r"^fc1\.", "head.lin_5."),
    (r"^fc\.", "head.projection."),
)
X3D_MMACTION = (
    (r"^conv1\.", "backbone.conv1_s.conv."),
    (r"^conv1_t\.", "backbone.conv1_t.conv."),
    (r"^bn1\.", "backbone.conv1_t.bn."),
    (r"^layer", "backbone.layer"),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
    (r"(layer.*)\.conv(\d)\.", r"\1.conv\2.conv."),
    (r"(layer.*)\.bn(\d)\.", r"\1.conv\2.bn."),
    (r"\.weigh\.1\.", ".se_module.fc1."),
    (r"\.weigh\.3\.", ".se_module.fc2."),
    (r"^conv5\.", "backbone.conv5.conv."),
    (r"^bn5\.", "backbone.conv5.bn."),
    (r"^fc1\.", "cls_head.fc1."),
    (r"^fc\.", "cls_head.fc2."),
)
CSN_MMACTION = (
    (r"^conv1\.", "backbone.conv1.conv."),
    (r"^bn1\.", "backbone.conv1.bn."),
    (r"^layer", "backbone.layer"),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
    (r"(layer.*)\.conv2\.", r"\1.conv2.0.conv."),
    (r"(layer.*)\.bn2\.", r"\1.conv2.0.bn."),
    (r"(layer.*)\.conv([13])\.(?!0)", r"\1.conv\2.conv."),
    (r"(layer.*)\.bn([13])\.", r"\1.conv\2.bn."),
    (r"^fc\.", "cls_head.fc_cls."),
)
SLOWFAST_MMACTION = (
    (r"^(slow|fast)\.conv1\.", r"backbone.\1_path.conv1.conv."),
    (r"^(slow|fast)\.bn1\.", r"backbone.\1_path.conv1.bn."),
    (r"^(slow|fast)\.layer", r"backbone.\1_path.layer"),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
    (r"(layer.*)\.conv(\d)\.", r"\1.conv\2.conv."),
    (r"(layer.*)\.bn(\d)\.", r"\1.conv\2.bn."),
    (r"^lateral\.0\.0", "backbone.slow_path.conv1_lateral.conv"),
    (r"^lateral\.(\d)\.0", r"backbone.slow_path.layer\1_lateral.conv"),
    (r"^fc\.", "cls_head.fc_cls."),
)


@pytest.mark.parametrize(
    ("model", "given", "rules", "origin", "expected"),
    [
        ("x3d-m", {"normalised_shortcuts": True}, X3D_FAIR, "pyslowfast",
         {"normalised_shortcuts": True}),
        ("x3d-s", {"normalised_shortcuts": True, "window": None}, X3D_MMACTION, "mmaction2",
         {"normalised_shortcuts": True, "window": None}),
        ("csn-r101", {"bn_eps": 1e-3}, CSN_MMACTION, "mmaction2", {"bn_eps": 1e-3}),
        ("slowfast-8x8-r50", {"lateral_norm": False, "fast_num_blocks": (1, 1, 1, 1)},
         SLOWFAST_MMACTION, "mmaction2",
         {"lateral_norm": False, "fast_num_blocks": (1, 1, 1, 1)}),
    ],
)  # fmt: skip
def test_public_names_of_further_networks(model, given, rules, origin, expected):
    ours = shapes(model, **given)
    public = {}
    for name, shape in ours.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        public[new] = shape[:2] if new == "cls_head.fc1.weight" else shape
    assert len(public) == len(ours)
    found = recognise(public, where="X3D_M.pyth")
    assert (found.origin, found.model, found.parameters) == (origin, model, expected)
    assert set(found.names.values()) == set(ours)


def test_weights_of_a_fully_connected_layer_become_a_convolutions():
    network = build("x3d-tiny", num_classes=3, normalised_shortcuts=True, window=None)
    public = {}
    for name, value in network.state_dict().items():
        new = name
        for pattern, replacement in X3D_MMACTION:
            new = re.sub(pattern, replacement, new)
        public[new] = value.flatten(1) if new == "cls_head.fc1.weight" else value
    loaded = network_of(public, where="x.pth")
    clip = torch.randn(1, 3, 4, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(clip), network.eval()(clip))


# Class of UCF101 and the class of ImageNet that a network must see in most of its frames.
SEEN = {"Billiards": 736, "Typing": 508, "PlayingGuitar": 402}  # pool table, keyboard, guitar


@pytest.mark.data
@pytest.mark.parametrize("name", SEEN)
def test_efficientnet_lite_sees_what_is_there(shared_data, name):
    network = load_network(shared_data / "weights" / "efficientnet_lite0.pth")
    assert network.origin == "efficientnet-lite"
    videos = sorted((shared_data / "ucf101_sample" / name).glob("*.avi"))
    readers = (VideoReader(video, rgb=True) for video in videos)
    frames = [frame for reader in readers for frame in list(reader.frames(20, 80))[::20]]
    batch = torch.stack([torch.from_numpy(frame.rgb_HWC) for frame in frames])
    with torch.no_grad():
        top5 = network(network.preprocessing.apply(batch)).topk(5).indices
    assert float((top5 == SEEN[name]).any(1).float().mean()) > 0.5


@pytest.mark.data
def test_imagenet_files_load_as_they_are_offered(shared_data):
    folder = shared_data / "weights"
    body = load_network(folder / "mobilenet_v2_features.pth")
    assert (body.origin, body.model) == ("torchvision", "mobilenet-v2")
    assert "no classifier in the file: fc is zero" in body.report
    small = load_network(folder / "squeezenet1_0_imagenet_from_deepcompression.pth")
    assert (small.origin, small.model, small.num_classes) == ("torchvision", "squeezenet1_0", 1000)
