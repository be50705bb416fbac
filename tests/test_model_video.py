"""What is special to networks of clips: time, padding, gates, non-local products, pathways."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.models import build, build_for_clip
from flowpipe.models.convgru import ConvGru
from flowpipe.models.i3d import MaxPoolSame, Unit3D
from flowpipe.models.layers import same_padding
from flowpipe.models.nonlocal_block import NonlocalBlock, NonlocalInserter
from flowpipe.models.slowfast import SlowFast

FORMS = ["embedded", "gaussian", "dot", "concatenation"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parameters_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def randomise_scales(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


# --- TensorFlow's "same" padding


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1), (1, 2)])
def test_same_padding_is_the_formula(size: int, kernel: int, stride: int) -> None:
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    before, after = same_padding(size, kernel, stride)
    assert (before, after) == (total // 2, total - total // 2)
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (4, 7, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2)])
def test_same_convolution_against_a_sum_over_the_kernel(
    size: tuple[int, int, int], kernel: int, stride: int
) -> None:
    unit = Unit3D(1, 1, kernel, stride, last=True)
    nn.init.zeros_(unit.conv3d.bias)
    x = torch.randn(1, 1, *size)
    found = unit(x)[0, 0]
    out = [math.ceil(n / stride) for n in size]
    starts = [same_padding(n, kernel, stride)[0] for n in size]
    expected = torch.zeros(out)
    weight = unit.conv3d.weight[0, 0]
    for t, y, z in torch.cartesian_prod(*map(torch.arange, out)).tolist():
        for i, j, k in torch.cartesian_prod(*[torch.arange(kernel)] * 3).tolist():
            place = [
                p * stride - start + tap
                for p, start, tap in zip((t, y, z), starts, (i, j, k), strict=True)
            ]
            if all(0 <= p < n for p, n in zip(place, size, strict=True)):
                expected[t, y, z] += weight[i, j, k] * x[0, 0][tuple(place)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_same_pooling_of_even_sizes_pads_behind() -> None:
    x = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    pooled = MaxPoolSame((1, 1, 3), (1, 1, 2))(x)
    assert pooled.flatten().tolist() == [2.0, 3.0]


def test_i3d_has_the_public_names_and_sizes() -> None:
    with torch.device("meta"):
        network = build("i3d", num_classes=400)
        names = network.state_dict().keys()
        sizes = {}
        for name, layer in network.named_children():
            layer.register_forward_hook(lambda _, __, y, n=name: sizes.update({n: y.shape[1:]}))
        assert network(torch.empty(1, 3, 64, 224, 224)).shape == (1, 400)
    assert {
        "Conv3d_1a_7x7.conv3d.weight",
        "Conv3d_1a_7x7.bn.running_var",
        "Conv3d_2b_1x1.conv3d.weight",
        "Conv3d_2c_3x3.bn.bias",
        "Mixed_3b.b0.conv3d.weight",
        "Mixed_4f.b1b.bn.weight",
        "Mixed_5c.b3b.conv3d.weight",
        "logits.conv3d.weight",
        "logits.conv3d.bias",
    } <= names
    assert sizes["Conv3d_1a_7x7"] == (64, 32, 112, 112)
    assert sizes["Mixed_3c"] == (480, 32, 28, 28)
    assert sizes["Mixed_4f"] == (832, 16, 14, 14)
    assert sizes["Mixed_5c"] == (1024, 8, 7, 7)
    assert sizes["logits"] == (400, 7, 1, 1)


# --- Non-local blocks


def slow_nonlocal(block: NonlocalBlock, x: Tensor) -> Tensor:
    """Give one clip's output by a loop over pairs of positions."""
    pooled = functional.max_pool3d(x, (1, 2, 2)) if isinstance(block.pool, nn.MaxPool3d) else x

    def rows(layer: nn.Module | None, maps: Tensor) -> Tensor:
        maps = maps if layer is None else layer(maps)
        return maps[0].flatten(1).T

    embeds = block.form != "gaussian"
    theta = rows(block.theta if embeds else None, x)
    phi = rows(block.phi if embeds else None, pooled)
    values = rows(block.g, pooled)
    y = torch.zeros(len(theta), values.shape[1])
    for i in range(len(theta)):
        weights = []
        for j in range(len(phi)):
            if block.form == "concatenation":
                weights.append(block.pair(torch.cat([theta[i], phi[j]])).relu()[0])
            elif block.form == "dot":
                weights.append(theta[i] @ phi[j])
            else:
                weights.append((theta[i] @ phi[j]).exp())
        whole = sum(weights) if block.form in ("embedded", "gaussian") else len(phi)
        y[i] = sum(w * v for w, v in zip(weights, values, strict=True)) / whole
    return x + block.bn(block.out(y.T.reshape(1, -1, *x.shape[2:])))


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_nonlocal_form_against_a_loop_over_pairs(form: Any, subsample: bool) -> None:
    block = NonlocalBlock(6, form=form, subsample=subsample).eval()
    randomise_scales(block)
    x = 0.5 * torch.randn(1, 6, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(block(x), slow_nonlocal(block, x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(block(x), x, atol=1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_a_nonlocal_block_starts_as_the_identity(form: Any) -> None:
    block = NonlocalBlock(8, form=form)
    x = torch.randn(2, 8, 2, 5, 5)
    for mode in (True, False):
        assert torch.equal(block.train(mode)(x), x)


@pytest.mark.parametrize(
    "name", ["i3d-resnet50", "c2d-resnet50", "slow-r50", "r3d-18", "slowfast-4x16-r50"]
)
def test_inserted_blocks_leave_the_networks_output(name: str) -> None:
    small: dict[str, Any] = {"width": 8, "dropout": 0.0}
    if name != "r3d-18":
        small["num_blocks"] = (1, 2, 2, 1)
    plain = build(name, num_classes=5, **small).eval()
    inserted = build(name, num_classes=5, nonlocal_blocks={"res3": 2, "res4": 1}, **small).eval()
    missing, unexpected = inserted.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {n.split("_nonlocal.")[0].rpartition(".")[2] for n in missing} == {"0", "1"}
    assert all("_nonlocal." in n for n in missing)
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(inserted(clip), plain(clip), rtol=0, atol=0)
        randomise_scales(inserted)
        assert not torch.allclose(inserted(clip), plain(clip))


@pytest.mark.parametrize(("channels", "expected"), [(512, 526_592), (1024, 2_101_760)])
def test_parameters_of_a_nonlocal_block(channels: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters_of(NonlocalBlock(channels)) == expected


def test_parameters_of_the_papers_five_blocks() -> None:
    with torch.device("meta"):
        plain = build("i3d-resnet50", num_classes=400)
        five = build("i3d-resnet50", num_classes=400, nonlocal_blocks={"res3": 2, "res4": 3})
    assert parameters_of(five) - parameters_of(plain) == 7_358_464
    names = [n for n, m in five.named_modules() if isinstance(m, NonlocalBlock)]
    assert names == [
        "layer2.1_nonlocal",
        "layer2.3_nonlocal",
        "layer3.1_nonlocal",
        "layer3.3_nonlocal",
        "layer3.5_nonlocal",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nonlocal_blocks": {"res6": 1}}, 'stage "res6".* must be one of res2, res3, res4, res5'),
        ({"nonlocal_blocks": {"res3": 9}}, "9 must be from 0 to the 4 residual blocks"),
        (
            {"nonlocal_blocks": {"res3": 1}, "nonlocal_form": "dott"},
            'nonlocal_form "dott".*did you mean "dot"',
        ),
    ],
)
def test_wrong_nonlocal_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InvalidArgument, match=message):
        build("slow-r50", num_classes=2, **arguments)


def test_one_nonlocal_block_follows_the_last_residual_block() -> None:
    stage = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())
    insert = NonlocalInserter({"res3": 1}, form="dot", subsample=False)
    names = list(dict(insert("res3", stage, 4).named_children()))
    assert names == ["0", "1", "2", "2_nonlocal"]


# --- Residual networks and SlowFast


def test_r3d_has_torchvision_names() -> None:
    with torch.device("meta"):
        state = build("r3d-18", num_classes=400).state_dict()
    assert state["stem.0.weight"].shape == (64, 3, 3, 7, 7)
    assert {
        "stem.1.running_mean",
        "layer1.0.conv1.0.weight",
        "layer1.0.conv1.1.weight",
        "layer1.1.conv2.0.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
        "layer4.1.conv2.1.num_batches_tracked",
        "fc.bias",
    } <= state.keys()
    assert len(state) == 122


def outputs(network: nn.Module, clip: tuple[int, ...], names: list[str]) -> dict[str, tuple]:
    found = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, y, n=name: found.update({n: tuple(y.shape[1:])})
        )
    network(torch.empty(1, *clip))
    return found


def test_slowfast_stage_by_stage() -> None:
    stages = ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    with torch.device("meta"):
        network = build("slowfast-4x16-r50", num_classes=400).eval()
        names = [f"{way}.{stage}" for way in ("slow", "fast") for stage in stages]
        found = outputs(network, (3, 32, 224, 224), names)
    sides = [112, 56, 56, 28, 14, 7]
    slow, fast = [64, 64, 256, 512, 1024, 2048], [8, 8, 32, 64, 128, 256]
    for stage, side, wide, narrow in zip(stages, sides, slow, fast, strict=True):
        assert found[f"slow.{stage}"] == (wide, 4, side, side)
        assert found[f"fast.{stage}"] == (narrow, 32, side, side)


@pytest.mark.parametrize(("name", "steps"), [("slowfast-4x16-r50", 4), ("slowfast-8x8-r50", 8)])
def test_slowfast_instances_differ_in_alpha(name: str, steps: int) -> None:
    with torch.device("meta"):
        network = build(name, num_classes=4).eval()
        assert outputs(network, (3, 32, 64, 64), ["slow.conv1"])["slow.conv1"][1] == steps


def test_slowfast_takes_flow_into_the_fast_pathway_alone() -> None:
    network = build("slowfast-tiny", num_classes=3, in_channels=5, fast_channels=2).eval()
    assert isinstance(network, SlowFast)
    assert network.slow.conv1.in_channels == 3
    assert network.fast.conv1.in_channels == 2
    clip = torch.randn(1, 5, 8, 32, 32)
    seen = outputs_of(network, clip, "fast.layer4")
    other = clip.clone()
    other[:, :3] = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(outputs_of(network, other, "fast.layer4"), seen)
    with torch.no_grad():
        assert not torch.equal(network(other), network(clip))


def outputs_of(network: nn.Module, clip: Tensor, name: str) -> Tensor:
    found = []
    hook = network.get_submodule(name).register_forward_hook(lambda _, __, y: found.append(y))
    with torch.no_grad():
        network(clip)
    hook.remove()
    return found[0]


def test_slowfast_refuses_other_lengths_and_channels() -> None:
    with torch.device("meta"):
        with pytest.raises(InvalidArgument, match="30 frames must be a multiple of 8"):
            build("slowfast-4x16-r50", num_classes=3)(torch.empty(1, 3, 30, 64, 64))
        with pytest.raises(InvalidArgument, match="fast_channels 3 must be from 1 to 2"):
            build("slowfast-tiny", num_classes=3, fast_channels=3)


@pytest.mark.parametrize(
    ("name", "layer", "shift", "frames"),
    [
        ("r3d-18-tiny", "layer1", 1, 24),
        ("r3d-18-tiny", "layer2", 2, 48),
        ("slow-r50-tiny", "layer4", 1, 16),
        ("c2d-resnet50-tiny", "layer4", 2, 16),
        ("i3d-resnet50-tiny", "layer2", 2, 24),
        ("i3d-tiny", "Mixed_3c", 2, 32),
        ("slowfast-tiny", "fast.layer2", 1, 24),
        ("slowfast-tiny", "slow.layer2", 4, 48),
        ("c3d-tiny", "conv2", 1, 16),
        ("slow-fusion-tiny", "features.0", 2, 16),
    ],
)
def test_maps_shift_in_time_with_the_clip(name: str, layer: str, shift: int, frames: int) -> None:
    """`shift` frames of the clip are one step of the map; ends are left out, where zeros reach."""
    network = build_for_clip(name, (3, frames, 48, 48), num_classes=3).eval()
    video = torch.randn(1, 3, frames + shift, 48, 48)
    early = outputs_of(network, video[:, :, :frames], layer)
    late = outputs_of(network, video[:, :, shift:], layer)
    steps = early.shape[2]
    margin = steps // 3 if steps > 4 else 0
    first, second = early[:, :, 1:], late[:, :, :-1]
    inside = slice(margin, steps - 1 - margin)
    assert first[:, :, inside].shape[2] >= 1
    torch.testing.assert_close(first[:, :, inside], second[:, :, inside], rtol=1e-3, atol=1e-4)


# --- Recurrent networks

FRAME_ROWS = ["cnn-lstm-tiny", "lrcn-tiny", "convgru-tiny"]


def frame_clip(name: str, frames: int = 6) -> Tensor:
    if name.startswith("cnn3d"):
        return torch.randn(2, 3, frames + 8, 34, 54)
    return torch.randn(2, frames, 3, 32, 32)


@pytest.mark.parametrize("name", [*FRAME_ROWS, "cnn3d-lstm-tiny"])
def test_a_score_per_frame_does_not_see_what_comes_later(name: str) -> None:
    network = build(name, num_classes=4, output="frames").eval()
    clip = frame_clip(name)
    later = clip.clone()
    axis, cut = (2, 11) if name.startswith("cnn3d") else (1, 3)
    later.narrow(axis, cut, clip.shape[axis] - cut).normal_()
    with torch.no_grad():
        before, after = network(clip), network(later)
    assert before.shape == (2, 6, 4)
    # Step s of cnn3d-lstm ends with frame s + 8: frame 11 is first seen by step 3.
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-5)


@pytest.mark.parametrize("name", [*FRAME_ROWS, "cnn3d-lstm-tiny"])
def test_many_to_one_is_the_last_or_the_mean_of_the_steps(name: str) -> None:
    clip = frame_clip(name)
    frames, last, mean = (
        build(name, num_classes=4, output=output).eval() for output in ("frames", "last", "mean")
    )
    for other in (last, mean):
        other.load_state_dict(frames.state_dict())
    with torch.no_grad():
        scores = frames(clip)
        torch.testing.assert_close(last(clip).softmax(1), scores[:, -1].softmax(1))
        torch.testing.assert_close(mean(clip).softmax(1), scores.softmax(2).mean(1))


@pytest.mark.parametrize("name", FRAME_ROWS)
def test_an_unknown_output_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r'output "fames".*did you mean "frames"'):
        build(name, num_classes=4, output="fames")


def test_a_frozen_backbone_stays_as_it_is() -> None:
    network = build("cnn-lstm-tiny", num_classes=4, frozen=True).train()
    backbone = network.get_submodule("backbone")
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    assert all(n.startswith(("lstm.", "fc.")) for n in trained)
    assert not any(layer.training for layer in backbone.modules())
    nn.functional.cross_entropy(
        network(frame_clip("cnn-lstm-tiny")), torch.tensor([0, 1])
    ).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert all(torch.equal(v, before[n]) for n, v in backbone.state_dict().items())
    assert network.eval().train().training


@pytest.mark.parametrize(
    ("name", "head", "expected"), [("cnn-lstm", 101, 5_298_789), ("lrcn", 101, 4_484_453)]
)
def test_parameters_of_lstm_and_classifier(name: str, head: int, expected: int) -> None:
    with torch.device("meta"):
        network = build(name, num_classes=head)
    layers = [network.get_submodule("lstm"), network.get_submodule("fc")]
    assert sum(map(parameters_of, layers)) == expected


@pytest.mark.parametrize(
    ("planes", "expected"),
    [((128, 64), 331_776), ((256, 128), 1_327_104), ((512, 256), 5_308_416)],
)
def test_parameters_of_a_convgru(planes: tuple[int, int], expected: int) -> None:
    with torch.device("meta"):
        assert parameters_of(ConvGru(*planes)) == expected


def slow_convgru(layer: ConvGru, x_TCHW: Tensor) -> Tensor:
    """The equations one by one, each convolution with its own weights."""
    w_z, w_r, w = layer.input.weight.chunk(3)
    u_z, u_r = layer.gates.weight.chunk(2)
    u = layer.candidate.weight

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x[None], weight, padding=1)[0]

    h = torch.zeros(layer.planes, *x_TCHW.shape[2:])
    states = []
    for x in x_TCHW:
        z = torch.sigmoid(conv(x, w_z) + conv(h, u_z))
        r = torch.sigmoid(conv(x, w_r) + conv(h, u_r))
        candidate = torch.tanh(conv(x, w) + conv(r * h, u))
        h = z * h + (1 - z) * candidate
        states.append(h)
    return torch.stack(states)


def test_convgru_against_a_loop_over_its_equations() -> None:
    layer = ConvGru(3, 4)
    x = 2 * torch.randn(2, 5, 3, 6, 7)
    with torch.no_grad():
        found = layer(x)
        expected = torch.stack([slow_convgru(layer, clip) for clip in x])
    torch.testing.assert_close(found, expected)


def test_convgru_is_not_torchs_gru() -> None:
    """On maps of one position both are GRUs of vectors; they differ in where r acts."""
    layer = ConvGru(3, 4, kernel=1)
    torchs = nn.GRU(3, 4, bias=False, batch_first=True)
    w_z, w_r, w = layer.input.weight[:, :, 0, 0].chunk(3)
    u_z, u_r = layer.gates.weight[:, :, 0, 0].chunk(2)
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(torch.cat([w_r, w_z, w]))
        torchs.weight_hh_l0.copy_(torch.cat([u_r, u_z, layer.candidate.weight[:, :, 0, 0]]))
        x = 3 * torch.randn(1, 6, 3)
        ours, theirs = layer(x[..., None, None])[..., 0, 0], torchs(x)[0]
    torch.testing.assert_close(ours[:, 0], theirs[:, 0])
    assert (ours[:, 2:] - theirs[:, 2:]).abs().max() > 1e-3


@pytest.mark.parametrize("truncate", [None, 2, 3])
def test_truncation_cuts_the_gradient_and_not_the_state(truncate: int | None) -> None:
    layer = ConvGru(2, 3)
    x = torch.randn(1, 6, 2, 4, 4, requires_grad=True)
    states = layer(x, truncate=truncate)
    with torch.no_grad():
        torch.testing.assert_close(states, layer(x))
    states[:, -1].sum().backward()
    reached = [bool(x.grad[0, t].any()) for t in range(6)]
    first = {None: 0, 2: 4, 3: 3}[truncate]
    assert reached == [t >= first for t in range(6)]


def test_both_directions_see_all_frames_and_each_ends_where_it_should() -> None:
    one = build("convgru-tiny", num_classes=4, bidirectional=True).eval()
    clip = frame_clip("convgru-tiny")
    with torch.no_grad():
        frames = build("convgru-tiny", num_classes=4, bidirectional=True, output="frames").eval()
        frames.load_state_dict(one.state_dict())
        changed = clip.clone()
        changed[:, -1] = 0
        assert not torch.allclose(frames(clip)[:, 0], frames(changed)[:, 0], atol=1e-6)
        # The same weights in both directions: turning the clip round exchanges the halves.
        for number, gru in enumerate(one.get_submodule("grus")):
            one.get_submodule(f"backward_grus.{number}").load_state_dict(gru.state_dict())
        for head in one.get_submodule("heads"):
            half = head.weight.shape[1] // 2
            head.weight[:, half:] = head.weight[:, :half]
        torch.testing.assert_close(one(clip), one(clip.flip(1)), rtol=1e-4, atol=1e-5)


def test_stacked_grus_see_the_state_below() -> None:
    network = build("convgru-tiny", num_classes=4, stacked=True).eval()
    assert network.get_submodule("grus.1").input.in_channels == 32 + 16
    assert network(frame_clip("convgru-tiny")).shape == (2, 4)


def test_convgru_taps_vgg16_as_the_paper_does() -> None:
    with torch.device("meta"):
        network = build("convgru", num_classes=101).eval()
        assert network(torch.empty(1, 2, 3, 224, 224)).shape == (1, 101)
    sizes = [
        (gru.input.in_channels, gru.planes, gru.input.kernel_size[0])
        for gru in network.get_submodule("grus")
    ]
    assert sizes == [(128, 64, 3), (256, 128, 3), (512, 256, 3), (512, 256, 3), (4096, 512, 1)]
    assert isinstance(network.get_submodule("backbone.classifier.6"), nn.Identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"taps": ["layer2"], "hidden": [4, 4]}, "1 taps and 2 numbers in hidden"),
        ({"taps": ["layer9"], "hidden": [4]}, 'no layer "layer9".*did you mean "layer'),
        ({"taps": ["layer3", "layer2"], "hidden": [4, 4]}, "from shallow to deep"),
        ({"taps": ["layer3"], "hidden": [4], "truncate": 0}, "truncate 0 must be >= 1"),
    ],
)
def test_wrong_convgru_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InvalidArgument, match=message):
        build("convgru", num_classes=3, backbone="resnet18", **arguments)


def test_a_cut_backbone_runs_no_layer_behind_the_tap() -> None:
    with torch.device("meta"):
        network = build(
            "convgru", num_classes=3, backbone="resnet18", taps=["layer2", "layer3"], hidden=[8, 8]
        )
    names = [n for n, _ in network.get_submodule("backbone").named_parameters()]
    assert any(n.startswith("layer3.1") for n in names)
    assert not any(n.startswith(("layer4", "fc")) for n in names)


def test_cnn3d_lstm_refuses_short_and_small_clips() -> None:
    with torch.device("meta"):
        network = build("cnn3d-lstm", num_classes=3)
        with pytest.raises(InvalidArgument, match="takes 9 frames of 28×28 px or more, not 8 of"):
            network(torch.empty(1, 3, 8, 34, 54))
        assert outputs(network, (3, 12, 34, 54), ["features.2", "features.5", "features.6"]) == {
            "features.2": (7, 8, 14, 24),
            "features.5": (35, 6, 5, 10),
            "features.6": (5, 4, 3, 8),
        }
