"""Counts of parameters and multiply-adds, what is special to one network, and refusals."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument, UnknownName
from flowpipe.models import build, build_for_clip, input_layout


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _count(name: str, **arguments: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **arguments).parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "in_channels", "expected"),
    [
        ("resnet18", 1000, 3, 11_689_512),
        ("resnet34", 1000, 3, 21_797_672),
        ("resnet50", 1000, 3, 25_557_032),
        ("resnet50", 101, 3, 23_714_981),
        ("resnet50", 400, 3, 24_327_632),
        ("resnet50", 101, 20, 23_768_293),
        ("resnet50", 400, 20, 24_380_944),
        ("squeezenet1_0", 1000, 3, 1_248_424),
        ("cnn-m-2048", 101, 3, 90_627_813),
        ("cnn-m-2048", 1000, 3, 92_469_864),
        ("cnn-m-2048", 101, 2, 90_623_109),
        ("cnn-m-2048", 101, 10, 90_660_741),
        ("cnn-m-2048", 101, 20, 90_707_781),
        ("small-cnn", 10, 20, 556_874),
        ("c3d", 101, 3, 78_409_573),
        ("c3d", 400, 3, 79_634_576),
        ("c3d", 487, 3, 79_991_015),
        ("c3d-lecture", 101, 3, 63_729_509),
        ("c3d-lecture", 400, 3, 64_954_512),
        ("c3d-lecture", 487, 3, 65_310_951),
        ("resnet101", 1000, 3, 44_549_160),
        ("resnet101", 101, 3, 42_707_109),
        ("resnet101", 101, 20, 42_760_421),
        ("lecture-late", 10, 3, 2_952 + 25 * 10),
        ("lecture-early", 10, 60, 9_108 + 25 * 10),
        ("lecture-3d", 10, 3, 8_784 + 25 * 10),
        ("r3d-18", 400, 3, 33_371_472),
        ("i3d", 400, 3, 12_697_264),
        ("i3d", 400, 2, 12_675_312),
        ("i3d", 101, 3, 12_390_789),
        ("i3d", 101, 2, 12_368_837),
        ("i3d-resnet50", 400, 3, 28_043_472),
        ("c2d-resnet50", 400, 3, 24_327_632),
        ("slow-r50", 400, 3, 32_454_096),
        ("slowfast-4x16-r50", 400, 3, 34_480_216),
        ("slowfast-8x8-r50", 400, 3, 34_566_488),
        ("vgg16", 1000, 3, 138_357_544),
        # Backbone without classifier, LSTM of 512, classifier.
        ("cnn-lstm", 101, 3, 23_508_032 + 5_298_789),
        # CNN-M-2048 without fc7 and fc8, LSTM of 256, classifier.
        ("lrcn", 101, 3, 90_627_813 - 8_390_656 - 206_949 + 4_484_453),
        # A backbone and nothing more.
        ("single-frame", 1000, 3, 11_689_512),
        ("late-fusion-pool", 1000, 3, 11_689_512),
        ("early-fusion", 1000, 3, 11_689_512),
    ],
)
def test_parameter_count(name: str, num_classes: int, in_channels: int, expected: int) -> None:
    assert _count(name, num_classes=num_classes, in_channels=in_channels) == expected


def _macs(name: str) -> int:
    """Multiply-adds of convolutions and linear layers for one 224 px RGB clip."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += weight[0].numel() * output[0].numel()

    with torch.device("meta"):
        network = build(name, num_classes=1000).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network(torch.empty(1, 3, 224, 224))
    return total


# The count of parameters does not see where a stride lies; this does (v1.5: 4.09, v1: 3.86).
@pytest.mark.parametrize(("name", "gmac"), [("resnet18", 1.814), ("resnet50", 4.089)])
def test_multiply_adds(name: str, gmac: float) -> None:
    assert _macs(name) / 1e9 == pytest.approx(gmac, abs=5e-4)


def test_resnet_has_torchvision_names() -> None:
    with torch.device("meta"):
        names = build("resnet50", num_classes=4).state_dict().keys()
    assert len(names) == 320
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer3.5.bn2.num_batches_tracked",
        "layer4.2.bn3.weight",
        "fc.bias",
    } <= names
    assert "layer1.1.downsample.0.weight" not in names


def test_resnet_dropout_acts_on_the_pooled_features_in_training_only() -> None:
    torch.manual_seed(0)
    network = build("resnet18", num_classes=3, dropout=0.5)
    clip = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(clip), network(clip))
        network.get_submodule("dropout").train()
        assert not torch.equal(network(clip), network(clip))


@pytest.mark.parametrize(
    ("in_channels", "second_lrn", "normalised"),
    [
        (3, None, ["lrn1", "lrn2"]),
        (20, None, ["lrn1"]),
        (3, False, ["lrn1"]),
        (20, True, ["lrn1", "lrn2"]),
    ],
)
def test_cnn_m_2048_temporal_has_no_second_normalisation(
    in_channels: int, second_lrn: bool | None, normalised: list[str]
) -> None:
    with torch.device("meta"):
        network = build("cnn-m-2048", num_classes=3, in_channels=in_channels, second_lrn=second_lrn)
    features = network.get_submodule("features")
    found = [n for n, layer in features.named_children() if isinstance(layer, nn.LocalResponseNorm)]
    assert found == normalised


def test_cnn_m_2048_drops_nine_in_ten() -> None:
    with torch.device("meta"):
        dropout = build("cnn-m-2048", num_classes=3).get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    torch.manual_seed(0)
    kept = dropout.train()(torch.ones(10_000)).count_nonzero().item()
    assert 800 < kept < 1200


def test_cnn_m_2048_normalises_like_krizhevsky() -> None:
    with torch.device("meta"):
        layer = build("cnn-m-2048", num_classes=3).get_submodule("features.lrn1")
    x = 30 * torch.randn(1, 96, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(x)
    for i in range(96):
        nearby = x[:, max(0, i - 2) : i + 3].square().sum(dim=1)
        expected[:, i] = x[:, i] / (2 + 1e-4 * nearby) ** 0.75
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", [(112, 112), (224, 200), (233, 224)])
def test_cnn_m_2048_refuses_other_sizes(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build("cnn-m-2048", num_classes=3)
        with pytest.raises(InvalidArgument, match=f"224×224 px, not {size[0]}×{size[1]}"):
            network(torch.empty(1, 3, *size))


def test_squeezenet_rounds_pooling_up() -> None:
    with torch.device("meta"):
        features = build("squeezenet1_0", num_classes=3).get_submodule("features")
        assert features(torch.empty(1, 3, 224, 224)).shape == (1, 512, 13, 13)


@pytest.mark.parametrize("side", [16, 64, 112, 224])
def test_small_cnn_takes_any_size(side: int) -> None:
    with torch.device("meta"):
        network = build("small-cnn", num_classes=5, in_channels=2)
        assert network(torch.empty(2, 2, side, side + 8)).shape == (2, 5)


def test_small_cnn_learns_the_direction_of_motion() -> None:
    """Sixteen noisy clips of a patch that moves left, right, up or down, learned by heart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 4
    clips = 0.1 * torch.randn(16, 2, 32, 32, generator=generator)
    directions = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    for clip, label in zip(clips, labels, strict=True):
        top, left = torch.randint(0, 20, (2,), generator=generator).tolist()
        clip[:, top : top + 8, left : left + 8] += directions[label][:, None, None]
    torch.manual_seed(0)
    network = build("small-cnn", num_classes=4, in_channels=2, width=8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(clips), labels).backward()
        optimizer.step()
    with torch.no_grad():
        predictions = network.eval()(clips).argmax(dim=1)
    assert (predictions == labels).float().mean() >= 0.9


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r'unknown model "resnet19".*did you mean "resnet'):
        build("resnet19", num_classes=2)


@pytest.mark.parametrize("name", ["resnet50", "late-fusion-pool", "c3d"])
def test_unknown_parameter_names_the_nearest(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r'no parameter "dropuot".*did you mean "dropout"'):
        build(name, num_classes=2, dropuot=0.5)


@pytest.mark.parametrize("name", ["resnet50", "squeezenet1_0", "small-cnn", "c3d"])
@pytest.mark.parametrize("dropout", [-0.1, 1.0, 90])
def test_dropout_outside_its_range_is_refused(name: str, dropout: float) -> None:
    with (
        torch.device("meta"),
        pytest.raises(InvalidArgument, match=rf"dropout {dropout} must be in \[0, 1\)"),
    ):
        build(name, num_classes=2, dropout=dropout)


@pytest.mark.parametrize("value", [0, -3, 2.0, True, "3"])
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_counts_are_whole_numbers(argument: str, value: object) -> None:
    arguments = {"num_classes": 2, "in_channels": 3, argument: value}
    with pytest.raises(InvalidArgument, match=f"{argument} .* must be a whole number >= 1"):
        build("small-cnn", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [0, -1])
def test_small_cnn_refuses_no_width(width: int) -> None:
    with pytest.raises(InvalidArgument, match=f"width {width} must be >= 1"):
        build("small-cnn", num_classes=2, width=width)


class _Own(nn.Module):
    input_layout = "CHW"
    stem_name = "stem"
    classifier_name = "head"

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3)
        self.head = nn.Linear(4, num_classes)


def _plug_in(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module] | object) -> str:
    monkeypatch.setattr("flowpipe.models.layers.own_network", network, raising=False)
    return "flowpipe.models.layers:own_network"


def test_a_network_of_ones_own_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(_plug_in(monkeypatch, _Own), num_classes=5, in_channels=2)
    assert isinstance(network, _Own)
    assert network.stem.in_channels == 2


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("input_layout", "HWC", "input_layout 'HWC' must be one of CHW, CTHW, TCHW"),
        ("stem_name", "conv1", "stem_name 'conv1' must be the dotted name"),
        ("classifier_name", None, "classifier_name None must be the dotted name"),
    ],
)
def test_a_network_of_ones_own_needs_the_three_attributes(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None, message: str
) -> None:
    broken = type("Broken", (_Own,), {attribute: value})
    with pytest.raises(InvalidArgument, match=message):
        build(_plug_in(monkeypatch, broken), num_classes=2)


def test_a_callable_that_gives_no_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = _plug_in(monkeypatch, dict)
    with pytest.raises(InvalidArgument, match=r"gave a dict; it must return a torch\.nn\.Module"):
        build(name, num_classes=2)


def test_single_frame_averages_probabilities() -> None:
    torch.manual_seed(0)
    network = build("single-frame-tiny", num_classes=4).eval()
    clip = torch.randn(2, 5, 3, 32, 32)
    with torch.no_grad():
        logits = network(clip)
        frames = [network.get_submodule("backbone")(clip[:, t]).softmax(1) for t in range(5)]
    torch.testing.assert_close(logits.softmax(1), torch.stack(frames).mean(0))
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))


def test_late_fusion_pools_features_and_ignores_the_order_of_frames() -> None:
    torch.manual_seed(0)
    clip = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        pool = build("late-fusion-pool-tiny", num_classes=4).eval()
        fc = build("late-fusion-fc-tiny", num_classes=4).eval()
        torch.testing.assert_close(pool(clip), pool(clip.flip(1)), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(fc(clip), fc(clip.flip(1)), rtol=1e-3)


def test_a_backbone_must_take_single_frames() -> None:
    with pytest.raises(InvalidArgument, match=r'backbone "c3d-tiny" takes clips \(CTHW\)'):
        build("single-frame", num_classes=2, backbone="c3d-tiny")


@pytest.mark.parametrize(
    ("frames", "size", "fc6_values"),
    [(16, (112, 112), 8192), (16, (32, 32), 512 * 4), (32, (112, 112), 2 * 8192)],
)
def test_c3d_is_made_for_its_clip(frames: int, size: tuple[int, int], fc6_values: int) -> None:
    with torch.device("meta"):
        network = build_for_clip("c3d", (3, frames, *size), num_classes=2)
        assert network.get_submodule("fc6").weight.shape[1] == fc6_values
        assert network(torch.empty(1, 3, frames, *size)).shape == (1, 2)


@pytest.mark.parametrize("clip", [(3, 15, 112, 112), (3, 16, 24, 15)])
def test_c3d_refuses_small_clips(clip: tuple[int, int, int, int]) -> None:
    with (
        torch.device("meta"),
        pytest.raises(InvalidArgument, match="C3D halves a clip 4 or 5 times"),
    ):
        build_for_clip("c3d", clip, num_classes=2)


def test_slow_fusion_sees_four_then_six_then_ten_frames() -> None:
    with torch.device("meta"):
        network = build("slow-fusion", num_classes=5)
        x = torch.empty(1, 3, 10, 170, 170)
        times = []
        for layer in network.get_submodule("features"):
            x = layer(x)
            if isinstance(layer, nn.Conv3d):
                times.append(x.shape[2])
        assert times == [4, 2, 1, 1, 1]
        with pytest.raises(InvalidArgument, match="10 frames or more, not 9"):
            network(torch.empty(1, 3, 9, 170, 170))


@pytest.mark.parametrize(
    ("name", "in_channels"), [("resnet18", 20), ("late-fusion-fc-tiny", 2), ("c3d-tiny", 2)]
)
def test_the_clip_decides_channels_frames_and_size(name: str, in_channels: int) -> None:
    network = build_for_clip(name, (2, 10 if name != "c3d-tiny" else 16, 32, 48), num_classes=3)
    stem = network.get_submodule(str(network.stem_name))
    assert isinstance(stem, nn.Conv2d | nn.Conv3d)
    assert stem.in_channels == in_channels


def test_the_layout_of_ones_own_network_is_asked_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = _plug_in(monkeypatch, _Own)
    before = torch.get_rng_state()
    assert input_layout(name) == "CHW"
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        build_for_clip(name, (2, 5, 32, 32), num_classes=3).get_submodule("stem").in_channels == 10
    )


def test_i3d_follows_its_batches_as_published_and_its_tiny_variant_faster() -> None:
    def momenta(name: str, **options: float) -> set[float | None]:
        with torch.device("meta"):
            network = build(name, num_classes=3, **options)
        return {layer.momentum for layer in network.modules() if isinstance(layer, nn.BatchNorm3d)}

    assert momenta("i3d") == {0.01}
    assert momenta("i3d", bn_momentum=0.05) == {0.05}
    assert momenta("i3d-tiny") == {0.1}


def test_names_and_layouts_are_there_without_torch() -> None:
    program = (
        "import sys; from flowpipe.models import TABLE, input_layout; "
        "assert input_layout('c3d') == 'CTHW'; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
