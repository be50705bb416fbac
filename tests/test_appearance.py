"""Looks of clips: what each piece sees and does not see, mirrors, and a network of pictures."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowpipe.errors import ConfigError, InvalidArgument
from flowpipe.experiment.histograms import WholeClipModel
from flowpipe.experiment.settings import settings_from
from flowpipe.features.appearance import (
    COLOURS,
    EDGES,
    NETWORK,
    POSES,
    TEXTURES,
    ClipLooks,
    PictureNetwork,
    clip_looks,
    colour_shares,
    edge_field,
    texture_shares,
)
from flowpipe.features.clip_svm import LOCAL, ClipClassifier, Description, describe
from flowpipe.models import build
from flowpipe.models.weights.networks import network_of

HEIGHT, WIDTH, FRAMES = 64, 96, 13


def entry(frames: list[np.ndarray], moving: np.ndarray | None = None) -> SimpleNamespace:
    """Frames H×W×3, and flow of 1 px to the right where `moving` (H×W) is true."""
    rgb = np.stack(frames).astype(np.uint8)
    flow = np.zeros((len(rgb) - 1, *rgb.shape[1:3], 2), np.float32)
    if moving is not None:
        flow[:, moving, 0] = 1.0
    height, width = rgb.shape[1:3]
    return SimpleNamespace(num_flows=len(flow), height=height, width=width, rgb=rgb, flow=flow)


def stripes(angle: float, rng: np.random.Generator, side: int = 40) -> np.ndarray:
    """A grey square of stripes, bright and dark across the direction `angle`."""
    y, x = np.mgrid[:side, :side]
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 0.8 + rng.uniform(0, 6))
    return np.repeat((128 + 90 * wave)[..., None], 3, axis=2)


def patch(square: np.ndarray, top: int, left: int, ground: int = 128) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH, 3), ground, np.float64)
    side = len(square)
    picture[top : top + side, left : left + side] = square
    return picture


def accuracy(looks: list[ClipLooks], labels: np.ndarray, pieces: tuple) -> float:
    choices = [Description(pieces)]
    found = ClipClassifier.fit(looks, labels, int(labels.max()) + 1, choices=choices)
    return found.validation_accuracy


def test_edges_are_told_by_direction_and_not_by_which_side_is_bright():
    picture = np.zeros((8, 8), np.uint8)
    picture[:, 4:] = 200
    across = edge_field(picture)[4, 4]
    assert across == pytest.approx(edge_field(255 - picture)[4, 4], abs=1e-3)
    along = edge_field(np.ascontiguousarray(picture.T))[4, 4]
    assert along == pytest.approx(-across, abs=1e-3)  # a right angle, doubled
    assert across[0] > 50


def test_a_colour_is_of_its_hue_and_grey_of_none():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0]]], np.uint8)
    shares = colour_shares(colours)[0]
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert shares[0, 0] == pytest.approx(1)  # red: hue 0
    assert shares[1, 2] + shares[1, 3] == pytest.approx(1)  # green, 120°: between 90° and 135°
    assert shares[2, 11] == pytest.approx(1)
    assert shares[3, 8] == pytest.approx(1)


def test_patterns_of_neighbours():
    flat = texture_shares(np.full((9, 9), 77, np.uint8))
    assert (flat.argmax(-1) == 0).all()
    dot = np.full((9, 9), 0, np.uint8)
    dot[4, 4] = 255
    # Seen from beside the dot, one neighbour group is brighter; from the dot itself, none.
    pattern = texture_shares(dot).argmax(-1)
    assert pattern[4, 4] == 0
    assert pattern[4, 3] > 0
    turned = texture_shares(np.rot90(dot).copy()).argmax(-1)
    assert np.bincount(turned.ravel(), minlength=10).tolist() == (
        np.bincount(pattern.ravel(), minlength=10).tolist()
    )


@pytest.mark.parametrize("pieces", [EDGES, POSES, COLOURS, TEXTURES, (LOCAL,)])
def test_each_piece_sees_its_own(pieces):
    rng = np.random.default_rng(0)
    looks, labels = [], []
    for label in range(2):
        for _ in range(10):
            if pieces == COLOURS:
                square = np.full((24, 24, 3), [200, 60, 60] if label else [60, 60, 200])
            elif pieces == TEXTURES:
                square = rng.integers(0, 255, (24, 24, 1)).repeat(3, 2)
                square = square if label else np.full_like(square, 40) + square // 8
            else:
                square = stripes(label * np.pi / 4, rng, 24)
            top, left = int(rng.integers(0, 40)), int(rng.integers(0, 72))
            moving = np.zeros((HEIGHT, WIDTH), bool)
            moving[top : top + 24, left : left + 24] = True
            looks.append(clip_looks(entry([patch(square, top, left)] * FRAMES, moving)))
            labels.append(label)
    assert accuracy(looks, np.array(labels), pieces) >= 0.95


def test_what_moves_is_looked_at_wherever_it_is():
    """A moving square of one kind beside one of the other that stands still."""
    rng = np.random.default_rng(1)
    looks, labels = [], []
    for label in range(2):
        for _ in range(12):
            angles = (0.0, np.pi / 2) if label else (np.pi / 2, 0.0)
            left, right = (stripes(angle, rng) for angle in angles)
            mover = int(rng.integers(2))
            first, second = (left, right) if mover == 0 else (right, left)
            picture = patch(first, 10, 4)
            picture[10:50, 52:92] = second
            moving = np.zeros((HEIGHT, WIDTH), bool)
            moving[10:50, 4:44] = mover == 0
            moving[10:50, 52:92] = mover == 1
            looks.append(clip_looks(entry([picture] * FRAMES, moving)))
            labels.append(label)
    labels_N = np.array(labels)
    assert accuracy(looks, labels_N, POSES) >= 0.95
    assert accuracy(looks, labels_N, (("edges", 1, "picture"),)) < 0.8


def test_poses_know_the_order_and_means_do_not():
    rng = np.random.default_rng(2)
    looks, labels = [], []
    for label in range(2):
        for _ in range(10):
            one = patch(stripes(0.0, rng), 12, 28)
            two = patch(stripes(np.pi / 2, rng), 12, 28)
            order = [one] * 6 + [two] * 7 if label else [two] * 6 + [one] * 7
            looks.append(clip_looks(entry(order)))
            labels.append(label)
    labels_N = np.array(labels)
    assert accuracy(looks, labels_N, POSES) >= 0.95
    assert accuracy(looks, labels_N, EDGES) < 0.9


@pytest.mark.parametrize("piece", [*EDGES, *POSES[:1], *COLOURS, *TEXTURES])
def test_a_mirrored_clip_looks_as_the_clip_of_its_mirrored_frames(piece):
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 255, (16, 24, 3)).repeat(4, 0).repeat(4, 1)
    picture[:, :48] //= 2
    moving = np.zeros((HEIGHT, WIDTH), bool)
    moving[20:44, 8:40] = True
    seen = clip_looks(entry([picture] * FRAMES, moving))
    turned = clip_looks(entry([picture[:, ::-1]] * FRAMES, np.ascontiguousarray(moving[:, ::-1])))
    how = Description((piece,))
    np.testing.assert_allclose(describe(seen.mirrored(), how), describe(turned, how), atol=0.02)
    again = seen.mirrored().mirrored()
    np.testing.assert_allclose(describe(again, how), describe(seen, how), atol=1e-6)


def test_looks_do_not_depend_on_how_many_frames_there_are():
    rng = np.random.default_rng(4)
    pictures = [patch(stripes(0.1 * k, rng), 12, 20 + k) for k in range(13)]
    few = clip_looks(entry(pictures))
    many = clip_looks(entry([picture for picture in pictures for _ in range(3)]))
    how = Description((*EDGES, *COLOURS))
    assert float(describe(few, how) @ describe(many, how)) > 0.98


def test_a_range_without_fields_is_refused():
    with pytest.raises(InvalidArgument, match=r"fields \[12, 12\) of 12"):
        clip_looks(entry([np.zeros((HEIGHT, WIDTH, 3))] * FRAMES), 12, 12)


def pictures(model: str = "squeezenet1_0") -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {k: v.clone() for k, v in build(model, num_classes=1000).state_dict().items()}


def test_a_network_of_pictures_is_asked_kept_and_restored():
    network = PictureNetwork(pictures("mobilenet-v2"), where="file")
    rng = np.random.default_rng(5)
    looks = []
    for label in range(2):
        for _ in range(4):
            frames = [patch(stripes(label * 1.5, rng), 12, 28)] * 3
            looks.append(clip_looks(entry(frames), network=network))
    assert looks[0].seen.shape == (1280,)
    assert looks[0].mirrored().seen.tolist() == looks[0].seen_mirrored.tolist()
    offered = looks[0].candidates(8, mirror=True)
    assert any(NETWORK in how.pieces for how in offered)
    assert len(offered) == 63

    model = WholeClipModel(2)
    model.pictures = network
    model.classifier = ClipClassifier.fit(looks, np.repeat([0, 1], 4), 2)
    model.keep()
    again = WholeClipModel(2)
    again.restore({name: value.clone() for name, value in model.state_dict().items()})
    assert again.pictures is not None
    frames = looks[0]
    picture = patch(stripes(0.0, np.random.default_rng(6)), 12, 28)
    for each in (model, again):
        assert each.pictures is not None
    one, two = (
        clip_looks(entry([picture] * 3), network=each.pictures).seen for each in (model, again)
    )
    assert one.tolist() == two.tolist()
    np.testing.assert_allclose(model.fitted.logits([frames]), again.fitted.logits([frames]))


def test_a_network_of_clips_is_no_network_of_pictures():
    with pytest.raises(InvalidArgument, match="does not look at single pictures"):
        PictureNetwork(pictures("r3d-18"), where="file")


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        ({"input": "frame-histogram", "model": "resnet18"}, "has no network"),
        ({"input": "flow-histogram", "weights": "x.pth"}, "has no network to give weights to"),
    ],
)
def test_a_network_that_nothing_asks_is_refused(stream, told, tmp_path):
    table = {"data": {"root": "."}, "streams": {"still": stream}}
    with pytest.raises(ConfigError, match=told):
        settings_from(table, where="config.toml", folder=tmp_path)


@pytest.mark.parametrize("model", ["squeezenet1_0", "resnet18"])
def test_threads_ask_a_network_what_one_asks(model):
    network = PictureNetwork(pictures(model), where="file")
    rng = np.random.default_rng(7)
    clips = [rng.integers(0, 255, (2, 40, 40, 3)).astype(np.uint8) for _ in range(6)]
    alone = [network(frames) for frames in clips]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(network, clips))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len({round(float(seen.sum()), 3) for seen in alone}) == 6
    assert alone[0].shape == (512,)


def test_what_comes_out_is_what_goes_into_the_classifier():
    network = PictureNetwork(pictures("resnet18"), where="file")
    whole = network_of(pictures("resnet18"), where="file")
    frames = np.random.default_rng(8).integers(0, 255, (2, 40, 40, 3)).astype(np.uint8)
    made = whole.preprocessing.apply(torch.from_numpy(frames))
    with torch.inference_mode():
        logits = whole(made).mean(0)
        own = whole.fc(torch.from_numpy(network(frames)))
    np.testing.assert_allclose(own, logits, rtol=1e-3, atol=1e-4)
