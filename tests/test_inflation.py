"""Inflated networks on still videos, and 2D weights in 3D networks."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from flowpipe.errors import InvalidArgument
from flowpipe.models import build
from flowpipe.models.weights import load_weights
from flowpipe.models.weights.inflation import check_inflation, inflate, inflate_filter


@pytest.mark.parametrize(
    "name",
    [
        "small-cnn",
        "squeezenet1_0",
        "early-fusion-tiny",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("vgg16", marks=pytest.mark.slow),
    ],
)
def test_a_still_video_gives_the_2d_answer(name: str) -> None:
    parameters = {"in_channels": 3} if name == "early-fusion-tiny" else {}
    found = check_inflation(name, size=(32, 40), **parameters)
    assert found.interior == 2
    assert found.error < 1e-5
    assert found.edge_error > 1e-3, "zeros padded in time must show at the ends"
    assert found.passed


def test_filters_are_divided_by_their_number() -> None:
    torch.manual_seed(0)
    filters = torch.randn(4, 3, 5, 5)
    inflated = inflate_filter(filters, 3)
    assert inflated.shape == (4, 3, 3, 5, 5)
    torch.testing.assert_close(inflated.sum(2), filters)
    torch.testing.assert_close(inflated[:, :, 0], inflated[:, :, 2], rtol=0, atol=0)


def test_an_inflated_network_sees_motion_and_is_trained() -> None:
    torch.manual_seed(0)
    flat = build("small-cnn", num_classes=3, width=4)
    before = {n: v.clone() for n, v in flat.state_dict().items()}
    network = inflate(flat, kt=3)
    assert network.get_submodule(network.stem_name).weight.shape == (4, 3, 3, 5, 5)
    clip = torch.randn(2, 3, 6, 32, 32)
    logits = network(clip)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(torch.equal(v, before[n]) for n, v in flat.state_dict().items())
    network.eval()
    with torch.no_grad():
        shuffled = network(clip[:, :, [3, 0, 5, 1, 4, 2]])
        assert not torch.allclose(network(clip), shuffled, rtol=1e-3)


@pytest.mark.parametrize("kt", [0, 2, -1])
def test_kt_must_be_odd(kt: int) -> None:
    with pytest.raises(InvalidArgument, match=f"kt {kt} must be odd"):
        inflate(build("small-cnn", num_classes=2), kt)


def test_a_network_of_clips_is_not_inflated() -> None:
    with pytest.raises(InvalidArgument, match=r"single frames \(CHW\), not CTHW"):
        inflate(build("c3d-tiny", num_classes=2))


def test_2d_weights_start_a_3d_network(tmp_path: Path) -> None:
    """At a stage before the temporal pooling, interior instants give what the 2D network gives."""
    torch.manual_seed(0)
    flat = build("resnet50", num_classes=5).eval()
    torch.save(flat.state_dict(), tmp_path / "flat.pth")
    network = build("i3d-resnet50", num_classes=5).eval()
    report = load_weights(network, tmp_path / "flat.pth")
    assert len(report.inflated) == 53
    assert report.left == report.adapted == ()
    assert "inflated conv1.weight, layer1.0.conv1.weight" in str(report)
    found = {}
    for model, key in ((flat, "2d"), (network, "3d")):
        model.get_submodule("layer1").register_forward_hook(
            lambda _, __, y, key=key: found.update({key: y})
        )
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        flat(picture)
        network(picture[:, :, None].expand(-1, -1, 12, -1, -1))
    expected = found["2d"]
    scale = expected.abs().max()
    assert ((found["3d"][:, :, 6] - expected).abs().max() / scale) < 1e-5
    assert ((found["3d"][:, :, 0] - expected).abs().max() / scale) > 1e-3


@pytest.mark.slow
def test_rgb_weights_start_a_3d_network_of_flow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build("resnet50", num_classes=5).state_dict(), tmp_path / "flat.pth")
    network = build("slow-r50", num_classes=3, in_channels=2)
    report = load_weights(network, tmp_path / "flat.pth")
    assert report.adapted == ("conv1.weight",)
    assert report.channels == (3, 2)
    assert report.left[:2] == ("fc.weight", "fc.bias")


def test_both_stems_of_slowfast_are_adapted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build("slowfast-tiny", num_classes=3)
    torch.save(source.state_dict(), tmp_path / "rgb.pth")
    network = build("slowfast-tiny", num_classes=3, in_channels=2)
    report = load_weights(network, tmp_path / "rgb.pth")
    assert report.adapted == ("slow.conv1.weight", "fast.conv1.weight")
    for stem in ("slow.conv1", "fast.conv1"):
        ours, theirs = network.get_submodule(stem), source.get_submodule(stem)
        assert isinstance(ours, nn.Conv3d)
        assert isinstance(theirs, nn.Conv3d)
        torch.testing.assert_close(ours.weight[:, 1], theirs.weight.mean(1))


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    main = script.load()
    with pytest.raises(SystemExit, match="0"):
        main(["inflate-check", "small-cnn", "--size", "32"])
    assert "at the 2 interior frames (below 1e-05)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["inflate-check", "small-cnn", "--size", "32", "--json"])
    assert json.loads(capsys.readouterr().out)["passed"] is True
    with pytest.raises(SystemExit, match="2"):
        main(["inflate-check", "i3d-tiny"])
    assert "single frames" in capsys.readouterr().err
