"""Pictures of networks: what proves them right, on networks whose answer is known."""

import json
import math
import re

import av
import cv2
import numpy as np
import pytest
import torch
from support import run_cli
from torch import nn

from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import load_settings
from flowpipe.models import build_for_clip
from flowpipe.report.seen import SeenClass, SeenClip, write_classes_page
from flowpipe.visualize import drawing
from flowpipe.visualize.explain import METHODS, Evidence, clip_at, explain, explain_video
from flowpipe.visualize.filters import Filters, first_filters, temporal_centroid
from flowpipe.visualize.maximise import best_clip, maximise, variation
from flowpipe.visualize.network import from_BTCHW, to_BTCHW

SIDE, FRAMES = 24, 12


def stream(kind: str = "flow", frames: int = FRAMES, layout: str = "CTHW", **more) -> StreamInput:
    return StreamInput("s", kind, frames, crop_size=(SIDE, SIDE), layout=layout, **more)


class Flat(nn.Module):
    """A linear network."""

    input_layout, stem_name, classifier_name = "CTHW", "fc", "fc"

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.fc = nn.Linear(numbers, 3)

    def forward(self, clip):
        return self.fc(clip.flatten(1))


class Pooled(nn.Module):
    """Convolutions, the mean over all positions, a linear layer: CAM is known."""

    input_layout, stem_name, classifier_name = "CTHW", "features.0", "fc"

    def __init__(self, channels: int = 2, planes: int = 8, *, kernel: int = 3) -> None:
        super().__init__()
        layer = nn.Conv3d(channels, planes, kernel, padding=kernel // 2)
        self.features = nn.Sequential(layer, nn.BatchNorm3d(planes), nn.ReLU(inplace=True))
        self.fc = nn.Linear(planes, 2)

    def forward(self, clip):
        return self.fc(self.features(clip).mean((2, 3, 4)))


class TwoSpeeds(nn.Module):
    """Answers to slow changes of u at every place and, more strongly, to fast ones."""

    input_layout, stem_name, classifier_name = "CTHW", "gain", "gain"
    speeds, gains = (1 / 16, 6 / 16), (1.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Linear(2, 1, bias=False)
        self.gain.weight.data[:] = torch.tensor(self.gains)

    def forward(self, clip):
        time = torch.arange(clip.shape[2], dtype=clip.dtype)
        answers = []
        for speed in self.speeds:
            wave = torch.exp(2j * math.pi * speed * time) / len(time)
            found = torch.einsum("bthw,t->bhw", clip[:, 0].to(wave.dtype), wave).abs()
            answers.append(found.square().mean((1, 2)))
        return 100 * self.gain(torch.stack(answers, 1))


@pytest.mark.parametrize("kind", ["rgb", "flow", "rgb+flow"])
@pytest.mark.parametrize("layout", ["CHW", "CTHW", "TCHW"])
def test_time_is_found_in_every_layout(kind, layout):
    look = stream(kind, frames=3, layout=layout)
    values = torch.randn(2, *look.input_shape)
    apart = to_BTCHW(values, look)
    assert apart.shape == (2, 3, look.channels, SIDE, SIDE)
    assert torch.equal(from_BTCHW(apart, look), values)
    if (kind, layout) == ("flow", "CHW"):
        assert torch.equal(apart[:, 1, 0], values[:, 2])  # u of the second field
    if (kind, layout) == ("rgb+flow", "CHW"):
        assert torch.equal(apart[:, 1, 4], values[:, 9 + 3])  # v of it, behind nine of frames


def test_a_linear_network_shows_its_weights():
    torch.manual_seed(0)
    look = stream("flow", frames=4)
    model = Flat(math.prod(look.input_shape))
    clip = torch.randn(look.input_shape)
    weights = model.fc.weight[1].reshape(look.input_shape).detach()
    (gradient,) = explain(model, clip, look, 1, "gradient")
    np.testing.assert_allclose(gradient.heat_THW, weights.norm(dim=0).numpy(), rtol=1e-6)
    (integrated,) = explain(model, clip, look, 1, "integrated")
    np.testing.assert_allclose(integrated.signed_THW, (weights * clip).sum(0).numpy(), atol=1e-5)
    (hidden,) = explain(model, clip, look, 1, "occlusion")
    part = (weights * clip)[:, 0, :6, :6].sum()
    assert hidden.signed_THW[0, 0, 0] == pytest.approx(float(part), abs=1e-4)


def test_integrated_gradients_are_complete():
    torch.manual_seed(1)
    look = stream("rgb", frames=4, layout="CHW")
    model = build_for_clip("small-cnn", look.clip_CTHW, num_classes=4, width=4)
    (found,) = explain(model, torch.randn(look.input_shape), look, 2, "integrated")
    gained = found.logit - found.blank_logit
    assert found.signed_THW.sum() == pytest.approx(gained, rel=0.01)


def test_gradcam_is_cam_where_maps_are_averaged():
    torch.manual_seed(2)
    look, model = stream(), Pooled().eval()
    clip = torch.randn(look.input_shape)
    (found,) = explain(model, clip, look, 1, "gradcam")
    maps = model.features(clip[None])[0].detach()
    cam = torch.einsum("c,cthw->thw", model.fc.weight[1].detach(), maps).relu()
    np.testing.assert_allclose(found.heat_THW, cam.numpy() / maps[0].numel(), atol=1e-6)


def planted(generator: torch.Generator, label: int, place=None):
    """Noise; of class 1, motion to the right in one quadrant and one third of the time."""
    clip = 0.1 * torch.randn(2, FRAMES, SIDE, SIDE, generator=generator)
    t, y, x = place or torch.randint(0, 60, (3,), generator=generator).tolist()
    box = (
        slice(t % 3 * 4, t % 3 * 4 + 4),
        slice(y % 2 * 12, y % 2 * 12 + 12),
        slice(x % 2 * 12, x % 2 * 12 + 12),
    )
    if label:
        clip[0][box] += 1.5
    return clip, box


@pytest.fixture(scope="module")
def seeing():
    """A network trained on whole clips to tell which have motion in some place."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    model = Pooled()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        labels = torch.arange(16) % 2
        clips = torch.stack([planted(generator, int(label))[0] for label in labels])
        loss = nn.functional.cross_entropy(model(clips), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    return model


@pytest.mark.parametrize("method", ["gradcam", "integrated", "occlusion"])
def test_evidence_lies_where_it_was_planted(seeing, method):
    generator, shares, hits = torch.Generator().manual_seed(4), [], []
    for place in ((0, 0, 1), (1, 1, 0), (2, 1, 1), (2, 0, 0)):
        clip, box = planted(generator, 1, place)
        (found,) = explain(seeing, clip, stream(), 1, method)
        heat = found.heat_THW
        shares.append(heat[box].sum() / heat.sum())
        inside = np.zeros(heat.shape, bool)
        inside[box] = True
        middle = np.argwhere(heat == heat.max()).mean(0).round().astype(int)
        hits.append(inside[tuple(middle)])
    assert min(shares) >= 0.6  # chance: a twelfth
    assert all(hits)


def test_what_a_map_points_at_is_tried():
    """Of a linear network, the hottest eighth is worth the sum of its weights times the clip."""
    look = stream("flow", frames=4)
    model = Flat(math.prod(look.input_shape))
    model.fc.weight.data.zero_()
    by_place = model.fc.weight.data[1].view(look.input_shape)
    by_place[:, 2:, :12, :12] = 1  # an eighth: a quadrant, half of the time
    (found,) = explain(model, torch.ones(look.input_shape), look, 1, "integrated")
    assert found.hottest == pytest.approx(found.logit - found.blank_logit)
    assert found.elsewhere == pytest.approx(0, abs=1e-4)

    class Sure(nn.Module):
        """Knows the class by that eighth; its slope there is nearly zero."""

        input_layout, stem_name, classifier_name = "CTHW", "gain", "gain"

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Linear(2, 2)
            self.gain.weight.data = torch.tensor([[0, 0], [1, 1e-3]])

        def forward(self, clip):
            seen, faint = clip[:, 0, 2:, :12, :12], clip[:, 0, :2, 12:, 12:]
            return self.gain(
                torch.stack([(20 * seen.mean((1, 2, 3))).tanh(), faint.mean((1, 2, 3))], 1)
            )

    clip = torch.ones(look.input_shape)
    (blind,) = explain(Sure(), clip, look, 1, "gradient")
    (seeing,) = explain(Sure(), clip, look, 1, "integrated")
    assert blind.hottest < 0.01 < 0.9 < blind.elsewhere
    assert seeing.elsewhere < 0.01 < 0.9 < seeing.hottest


def test_another_class_gives_another_map(seeing):
    clip, _ = planted(torch.Generator().manual_seed(5), 1, (1, 0, 0))
    (before,) = explain(seeing, clip, stream(), 1, "gradcam")
    (other,) = explain(seeing, clip, stream(), 0, "gradcam")
    ranks = [np.argsort(np.argsort(each.heat_THW.ravel())) for each in (before, other)]
    assert np.corrcoef(*ranks)[0, 1] < 0.5


def test_gradcam_moves_with_its_input(seeing):
    clip, _ = planted(torch.Generator().manual_seed(6), 1, (1, 0, 0))
    (found,) = explain(seeing, clip, stream(), 1, "gradcam")
    (later,) = explain(seeing, clip.roll(3, dims=1), stream(), 1, "gradcam")
    np.testing.assert_allclose(later.curve_T[4:-1], found.curve_T[1:-4], rtol=1e-4, atol=1e-6)


def test_a_mirrored_clip_gives_the_mirrored_map(seeing):
    class Symmetric(Pooled):
        def forward(self, clip):
            mirrored = clip.flip(4) * torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1, 1)
            return self.straight(clip) + self.straight(mirrored)

        def straight(self, clip):
            return self.fc(self.features(clip).mean((2, 3, 4)))

    model = Symmetric()
    model.load_state_dict(seeing.state_dict())
    clip, _ = planted(torch.Generator().manual_seed(7), 1, (0, 1, 1))
    mirrored = clip.flip(3) * torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    for method in ("gradient", "integrated"):
        (straight,) = explain(model, clip, stream(), 1, method)
        (other,) = explain(model, mirrored, stream(), 1, method)
        np.testing.assert_allclose(other.heat_THW[..., ::-1], straight.heat_THW, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layout", "pathways", "times"),
    [
        ("small-cnn", "CHW", [""], [1]),
        ("late-fusion-pool", "TCHW", [""], [8]),
        ("cnn-lstm", "TCHW", [""], [8]),
        ("slowfast-tiny", "CTHW", ["slow", "fast"], [2, 8]),
        ("convgru-tiny", "TCHW", [""], [8]),  # frames, not the states or gates of its steps
        ("lecture-late", "TCHW", [""], [8]),  # one ReLU behind several layers
        ("lecture-3d", "CTHW", [""], [2]),
        ("x3d-tiny", "CTHW", [""], [8]),
        ("i3d-resnet50-nonlocal-tiny", "CTHW", [""], [4]),
    ],
)
def test_networks_of_every_kind_are_explained(name, layout, pathways, times):
    torch.manual_seed(8)
    side = 64
    look = StreamInput("s", "rgb", 8, crop_size=(side, side), layout=layout)
    more = {
        "late-fusion-pool": {"backbone": "small-cnn", "backbone_parameters": {"width": 4}},
        "cnn-lstm": {"backbone": "small-cnn", "backbone_parameters": {"width": 4}},
    }.get(name, {})
    model = build_for_clip(name, look.clip_CTHW, num_classes=3, **more)
    found = explain(model, torch.randn(look.input_shape), look, 0, "gradcam")
    assert [each.pathway for each in found] == pathways
    assert times is None or [each.times for each in found] == times
    for each in found:
        assert each.signed_THW.shape == (8, side, side)
        assert np.isfinite(each.signed_THW).all()


class Tokens(nn.Module):
    """Patches of 4×4 px of each second frame, mixed, then averaged or read from a class token."""

    input_layout, stem_name, classifier_name = "TCHW", "embed", "fc"

    def __init__(self, order: str, class_token: bool) -> None:
        super().__init__()
        self.embed = nn.Conv3d(2, 8, (2, 4, 4), (2, 4, 4))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
        self.last = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
        self.fc = nn.Linear(8, 2)
        self.token_grid, self.token_order = (FRAMES // 2, SIDE // 4, SIDE // 4), order
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if class_token else None

    def forward(self, clip):
        maps = self.embed(clip.transpose(1, 2))
        if self.token_order == "HWT":
            maps = maps.permute(0, 1, 3, 4, 2)
        tokens = maps.flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(clip), -1, -1), tokens], 1)
        tokens = self.last(self.block(tokens))
        return self.fc(tokens.mean(1) if self.token is None else tokens[:, 0])


def test_gradcam_weighs_the_last_tokens_that_the_class_is_read_from():
    torch.manual_seed(12)
    look = stream(layout="TCHW")
    clip = torch.randn(look.input_shape)
    model = Tokens("THW", class_token=False).eval()
    (found,) = explain(model, clip, look, 1, "gradcam")
    assert found.times == FRAMES // 2
    tokens = model.last(model.block(model.embed(clip[None].transpose(1, 2)).flatten(2).mT))
    cam = (tokens[0] @ model.fc.weight[1]).relu().reshape(model.token_grid).detach()
    # Places and times come back in their order: two maps seven tokens apart are as they were.
    sized = nn.functional.interpolate(
        cam[None, None] / tokens.shape[1], (FRAMES, SIDE, SIDE), mode="trilinear"
    )
    np.testing.assert_allclose(found.heat_THW, sized[0, 0].numpy(), atol=1e-6)


def test_tokens_in_another_order_and_a_class_token_give_the_same_map():
    look = stream(layout="TCHW")
    clip = torch.randn(look.input_shape, generator=torch.Generator().manual_seed(13))
    found = []
    for order in ("THW", "HWT"):  # without positions, attention does not know the order
        torch.manual_seed(14)
        model = Tokens(order, class_token=True).eval()
        found += explain(model, clip, look, 0, "gradcam")
    assert found[0].heat_THW.max() > 0  # the last block's patches alone have no gradient
    np.testing.assert_allclose(found[0].heat_THW, found[1].heat_THW, atol=1e-5)


def planted_in_time(generator: torch.Generator, label: int, third: int, number=3, at=slice(3)):
    """Noise in so many channels; of class 1, a bright square in one quadrant and one third."""
    clip = 0.1 * torch.randn(number, FRAMES, 48, 48, generator=generator)
    top, left = (torch.randint(0, 2, (2,), generator=generator) * 24).tolist()
    box = slice(third * 4, third * 4 + 4), slice(top, top + 24), slice(left, left + 24)
    if label:
        clip[at, *box] += 1.5
    return clip, box


def trained(name: str, look: StreamInput, seed: int, places=(slice(3), slice(3)), **more):
    """Return a network that tells on whole clips which have a square, and how its input is laid."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def laid(clips_BCTHW):
        return from_BTCHW(clips_BCTHW.transpose(1, 2), look)

    model = build_for_clip(name, look.clip_CTHW, num_classes=2, **more)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for step in range(40):
        labels = torch.arange(8) % 2
        clips = [
            planted_in_time(generator, n % 2, (step + n) % 3, look.channels, places[n // 4])[0]
            for n in range(8)
        ]
        loss = nn.functional.cross_entropy(model(laid(torch.stack(clips))), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    return model, laid


def shares(heat, box) -> tuple[float, float]:
    """Return what lies in the planted place and time, and in the time."""
    return float(heat[box].sum() / heat.sum()), float(heat[box[0]].sum() / heat.sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout", "more"),
    [
        ("small-cnn", "CHW", {"width": 8}),
        ("i3d-tiny", "CTHW", {}),
        ("i3d-resnet50-nonlocal-tiny", "CTHW", {}),
        ("cnn-lstm-tiny", "TCHW", {}),
        ("convgru-tiny", "TCHW", {}),
    ],
)
def test_every_kind_of_network_sees_what_was_planted(name, layout, more):
    look = StreamInput("s", "rgb", FRAMES, crop_size=(48, 48), layout=layout)
    model, laid = trained(name, look, 15, **more)
    generator = torch.Generator().manual_seed(16)
    for third in range(3):
        clip, box = planted_in_time(generator, 1, third)
        for method in ("integrated", "occlusion"):
            (found,) = explain(model, laid(clip[None])[0], look, 1, method)
            in_box, in_time = shares(found.heat_THW, box)
            assert in_box >= 0.6, (method, third)  # chance: a twelfth
            assert in_time >= 0.6, (method, third)  # chance: a third
            assert found.hottest > found.elsewhere, (method, third)


@pytest.mark.slow
def test_each_pathway_shows_the_evidence_that_it_was_given():
    """Frames go into the slow pathway alone, flow into the fast one alone."""
    look = StreamInput("s", "rgb+flow", FRAMES, crop_size=(48, 48), layout="CTHW")
    places = {"slow": slice(0, 3), "fast": slice(3, 5)}
    model, laid = trained("slowfast-tiny", look, 17, list(places.values()), fast_channels=2)
    generator = torch.Generator().manual_seed(18)
    for pathway, channels in places.items():
        for third in (0, 2):
            clip, box = planted_in_time(generator, 1, third, 5, channels)
            found = explain(model, laid(clip[None])[0], look, 1, "integrated")
            sums = {each.pathway: float(each.signed_THW.sum()) for each in found}
            gained = found[0].logit - found[0].blank_logit
            assert sum(sums.values()) == pytest.approx(gained, rel=0.02)
            assert sums[pathway] > 0.8 * gained
            (own,) = (each for each in found if each.pathway == pathway)
            assert min(shares(own.heat_THW, box)) >= 0.6
            assert own.hottest > own.elsewhere
            (hidden,) = explain(model, laid(clip[None])[0], look, 1, "occlusion")
            assert min(shares(hidden.heat_THW, box)) >= 0.6


def test_the_network_stays_as_it_was():
    look, model = stream(), Pooled().train()
    model.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip = torch.randn(look.input_shape)
    for method in METHODS:
        explain(model, clip, look, 1, method)
    with pytest.raises(InvalidArgument, match="class 7 must be in"):
        explain(model, clip, look, 7, "gradcam")
    with pytest.raises(InvalidArgument, match="no maps"):
        explain(Flat(clip.numel()), clip, look, 1, "gradcam")
    maximise(model, look, 1, chi=0, steps=20)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.fc.parameters()] == [False, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_time_gets_slower_as_its_penalty_grows():
    look, model = StreamInput("s", "flow", 16, crop_size=(8, 8), layout="CTHW"), TwoSpeeds()
    found = [maximise(model, look, 0, chi=chi, steps=100) for chi in (0.0, 3.0, 10.0, 30.0)]
    centroids = [temporal_centroid(each.values_TCHW[:, :1]) for each in found]
    changes = [
        float(variation(torch.from_numpy(each.values_TCHW), kappa=0, chi=1)) for each in found
    ]
    assert centroids[0] > 0.3 > 0.12 > centroids[2]
    assert (np.diff(centroids) <= 0.02).all()  # between the slow ones it is noise
    assert changes == sorted(changes, reverse=True)
    assert all(each.activation > each.noise_activation for each in found)
    again = maximise(model, look, 0, chi=3.0, steps=100)
    np.testing.assert_array_equal(again.values_TCHW, found[1].values_TCHW)


def test_what_a_class_does_not_care_for_stays_still():
    """A class that is sure of a little motion to the right: all of it is one smooth field."""

    class SoonSure(TwoSpeeds):
        def forward(self, clip):
            rightness = (4 * clip[:, 0].mean((1, 2, 3))).tanh()
            speckle = 0.05 * clip.diff(dim=4).abs().mean((1, 2, 3, 4))
            return self.gain.weight[:, :1] * (rightness + speckle)[:, None]

    look = StreamInput("s", "flow", 4, crop_size=(16, 16), layout="CTHW")
    found = maximise(SoonSure(), look, 0, chi=10.0, steps=150)
    u, v = found.values_TCHW[:, 0], found.values_TCHW[:, 1]
    assert u.mean() > 0.05
    assert u.mean() ** 2 > 0.9 * (u**2 + v**2).mean()


def test_what_noise_does_as_well_is_refused():
    class Deaf(Pooled):
        def forward(self, clip):
            return super().forward(clip * 0) + 0 * clip.sum()

    with pytest.raises(InvalidArgument, match="shows nothing"):
        maximise(Deaf(), stream(), 1, chi=0, steps=20)
    with pytest.raises(InvalidArgument, match="chi -1 must be"):
        maximise(Pooled(), stream(), 1, chi=-1)


def test_variation_does_not_wrap_round():
    ramp_TCHW = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 3, 3)
    assert float(variation(ramp_TCHW, kappa=5, chi=2)) == pytest.approx(2 * 27 / 36)


def grating(direction: int) -> np.ndarray:
    """A filter for a grating that drifts, 8 moments of 7×7, in u."""
    t, _, x = np.meshgrid(np.arange(8), np.arange(7), np.arange(7), indexing="ij")
    wave = np.cos(2 * np.pi * (x / 7 - direction * t / 8))
    return np.stack([wave, 0 * wave], axis=1)


def test_numbers_of_filters_whose_answer_is_known():
    still = np.full((8, 2, 7, 7), [[[1.0]], [[0.0]]])
    down = np.full((8, 2, 7, 7), [[[0.0]], [[2.0]]])
    weights = np.stack([grating(1), still, down, 0.001 * still]).astype(np.float32)
    numbers = {row["filter"]: row for row in Filters("stem", "flow", weights).numbers()}
    assert [row["filter"] for row in Filters("stem", "flow", weights).numbers()] == [2, 1, 0, 3]
    assert [numbers[f]["dead"] for f in range(4)] == [False, False, False, True]
    assert numbers[0]["centroid_cycles_per_frame"] == pytest.approx(1 / 8, abs=1e-6)
    assert (numbers[1]["how_temporal"], numbers[0]["how_temporal"] > 0.3) == (0, True)
    assert numbers[0]["orientation_deg"] % 180 == pytest.approx(0, abs=1e-3)
    assert numbers[0]["selectivity"] == pytest.approx(1, abs=1e-6)
    assert (numbers[1]["direction_deg"], numbers[2]["direction_deg"]) == (0, 90)


def test_zero_is_the_same_grey_and_a_filter_has_one_scale():
    weights = np.zeros((2, 2, 3, 2, 2), np.float32)
    weights[0, 0, 0, 0, 0], weights[0, 1, 0, 0, 0], weights[1, 1, 1, 1, 1] = 2, 1, -50
    filters = Filters("stem", "rgb", weights)
    first, last = filters._tiles(0, 0)[0], filters._tiles(0, 1)[0]
    assert (first[0, 0, 0], last[0, 0, 0]) == (255, 192)  # half of the largest is half as far
    assert tuple(first[-1, -1]) == (drawing.GREY,) * 3
    assert tuple(filters._tiles(1, 0)[0][0, 0]) == (drawing.GREY,) * 3
    assert filters._tiles(1, 1)[0][-1, -1].tolist() == [128, 1, 128]


def test_first_layers_are_read_by_their_channels():
    look = stream("flow", frames=5, layout="CHW")
    model = build_for_clip("small-cnn", look.clip_CTHW, num_classes=2, width=4)
    (found,) = first_filters(model, look)
    assert found.weights_FTCHW.shape == (4, 5, 2, 5, 5)
    stem = model.features[0].weight.detach().numpy()
    np.testing.assert_array_equal(found.weights_FTCHW[1, 3, 1], stem[1, 7])  # v of the fourth
    (space_time,) = first_filters(Pooled(3), stream("rgb"))
    assert space_time.weights_FTCHW.shape == (8, 3, 3, 3, 3)
    with pytest.raises(InvalidArgument, match="sees 2 channels, not the 3"):
        first_filters(Pooled(2), stream("rgb"))


CONFIG = """
[data]
root = "videos"
folds = 2
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.motion]
input = "flow"
frames = 4
crop_size = [24, 24]
model_parameters = {width = 4}
flow_scale_px = 2.0
[streams.look]
input = "rgb"
frames = 1
crop_size = [24, 24]
model_parameters = {width = 4}
[streams.whole]
input = "flow-histogram"
[train]
epochs = 4
batch_size = 4
learning_rate = 0.02
optimiser = "adamw"
scales = [1.0]
[test]
clips = 1
[fuse]
headline = "average"
methods = ["average"]
training_clips = 0
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("see")
    for label, step in (("down", (2, 0)), ("right", (0, 2))):
        (folder / "videos" / label).mkdir(parents=True)
        for take in range(4):
            picture = np.random.default_rng(take).integers(0, 255, (32, 32, 1))
            picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2)[..., None]
            moved = [np.roll(picture, (k * step[0], k * step[1]), (0, 1)) for k in range(14)]
            frames = np.repeat(np.stack(moved), 3, axis=3).astype(np.uint8)
            write_video(folder / "videos" / label / f"{take}.mp4", frames)
    (folder / "config.toml").write_text(CONFIG)
    settings = load_settings(folder / "config.toml", [f"data.cache={folder / 'cache'}"])
    Experiment(settings, folder / "run").run()
    return folder / "run"


def frames_of(path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_see_filters(run, tmp_path):
    done = run_cli("see", "filters", str(run), "--out", str(tmp_path / "f"), "--json")
    assert done.status == 0, done.err
    assert "whole: skipped, it looks at flow-histogram" in done.err
    record = json.loads(done.out)
    assert set(record) == {"motion", "look"}
    assert (record["motion"]["filters"], record["motion"]["times"]) == (4, 4)
    assert record["look"]["times"] == 1
    assert cv2.imread(str(tmp_path / "f" / "motion.png")) is not None
    assert frames_of(tmp_path / "f" / "motion.mp4") == 16
    assert json.loads((tmp_path / "f" / "motion.json").read_text()) == record["motion"]


@pytest.mark.parametrize("method", ["gradcam", "occlusion", "integrated"])
def test_see_why(run, tmp_path, method):
    video = run.parent / "videos" / "right" / "1.mp4"
    given = ["see", "why", str(run), str(video), "--method", method, "--class", "right"]
    done = run_cli(*given, "--out", str(tmp_path), "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert {row["class"] for row in record.values()} == {"right"}
    for name, row in record.items():
        said = f"{name}: this map points at nothing" in done.err
        assert said == (row["hottest"] <= row["elsewhere"])
    for name in ("motion", "look"):
        assert frames_of(tmp_path / f"{name}.mp4") == 14
        rows = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert rows[0] == "time_s,evidence"
        assert len(rows) == 15
    assert ("one map for each clip of 4 items" in done.err) == (method == "gradcam")


def test_what_neighbours_say_is_added_up_in_a_video(run, monkeypatch):
    """A checkerboard for and against is nothing; a spot stays where it is."""
    experiment = Experiment.of_run(run)
    name = experiment.fold_name(None)
    cache, ids = experiment.training_videos(name)
    own = experiment.stream("look", name)
    signed = np.indices((24, 24)).sum(0) % 2 * 2.0 - 1
    signed[:12] = 0
    signed[4, 7] = 0.5
    found = Evidence("", signed[None].astype(np.float32), 1.0, 0.0, 1, 1.0, 0.0)
    monkeypatch.setattr("flowpipe.visualize.explain.explain", lambda *_: [found])
    entry, said = cache[ids["right"][0]], []
    (video,) = explain_video(
        experiment.trained(own, name, 2),
        own.input,
        entry,
        "integrated",
        on_progress=lambda share, text: said.append((share, text)),
    )
    assert said[0] == (0, f"look: clip 1 of {video.clips}")
    assert len(said) == video.clips
    for heat in video.heat_NHW:
        assert np.unravel_index(heat.argmax(), heat.shape) == (4, 7)
        assert heat[15:].max() < 0.3 * heat.max()
        assert heat[:9].sum() == pytest.approx(0.5, rel=0.01)


def test_see_why_refuses_a_class_that_is_not_there(run, tmp_path):
    video = run.parent / "videos" / "right" / "1.mp4"
    given = ["see", "why", str(run), str(video), "--class", "rihgt", "--out", str(tmp_path)]
    done = run_cli(*given)
    assert done.status == 2
    assert 'did you mean "right"' in done.err


def test_see_class(run, tmp_path):
    given = ["see", "class", str(run), "--class", "all", "--steps", "30", "--out", str(tmp_path)]
    done = run_cli(*given, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)["maximised"]
    speeds = [(row["stream"], row["speed"]) for row in found if row["class"] == "right"]
    assert speeds == [("look", "still"), ("motion", "slow"), ("motion", "fast")]
    assert all(row["activation"] > row["noise"] for row in found)
    videos = {row["class"]: row["best_clip"].split("/")[0] for row in found}
    assert videos == {"down": "down", "right": "right"}  # a training video of its own class
    page, quiz = ((tmp_path / f"{name}.html").read_text() for name in ("classes", "quiz"))
    assert f"{found[0]['best_training']:.2f}" in page
    assert 'href="' not in page + quiz
    assert "http" not in page + quiz
    assert page.count('class="moving"') == quiz.count('class="moving"') == 4
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["down", "right"]
    assert re.findall(r"<h2>(.*?)</h2>", quiz) == ["1", "2"]
    answers = re.findall(r'<details><summary>The answer</summary><p class="answer">(.*?)</p>', quiz)
    assert sorted(answers) == ["down", "right"]
    assert cv2.imread(str(tmp_path / "right.png")) is not None
    assert frames_of(tmp_path / "down.mp4") == 16


def test_best_training_clip_is_the_one_of_the_highest_logit(run):
    experiment = Experiment.of_run(run)
    name = experiment.fold_name(None)
    cache, ids = experiment.training_videos(name)
    own = experiment.stream("look", name)
    model = experiment.trained(own, name, 2)
    best, clip = best_clip(model, own.input, cache, ids["right"], 1)
    logits = {}
    for video in ids["right"]:
        entry = cache[video]
        for centre in range(entry.num_frames):
            view = own.input.test_views(entry)[0]
            values = clip_at(own.input, entry, centre, view, None)
            with torch.no_grad():
                logits[f"{video}, {entry.pts_s[centre]:.2f} s"] = float(
                    model.eval()(values[None])[0, 1]
                )
    assert clip == max(logits, key=logits.__getitem__)
    assert best == pytest.approx(logits[clip], abs=1e-4)


def test_a_refused_class_is_named_with_its_reason(tmp_path):
    strip = np.full((8, 32, 3), 128, np.uint8)
    clips = [
        SeenClip("motion", "slow", strip, 4, activation=2.0, noise=1.0),
        SeenClip("motion", "fast", refusal="it shows nothing"),
    ]
    page = write_classes_page(tmp_path / "c.html", "t", [SeenClass("a<b", clips)]).read_text()
    assert "1 refused" in page
    assert "motion fast: it shows nothing" in page
    assert "a<b" not in page
    assert "a&lt;b" in page
    with pytest.raises(InvalidArgument, match="a strip of pictures or a reason"):
        SeenClip("motion", "slow")
    with pytest.raises(InvalidArgument, match="cannot hold 5 moments"):
        SeenClip("motion", "slow", strip, 5)
