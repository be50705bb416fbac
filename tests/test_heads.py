"""Heads on cached features; the same LSTM behind a frozen backbone and on its cached features."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flowpipe.cache import open_cache
from flowpipe.clips.dataset import ClipDataset, TestClips, to_network_input
from flowpipe.clips.streams import FeatureInput, StreamInput
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import EntryNotFound, InvalidArgument, UnknownName
from flowpipe.features.align import FeatureTracks
from flowpipe.features.computing import compute_features
from flowpipe.features.extractor import FeatureExtractor, FrozenNetwork
from flowpipe.features.options import FeatureOptions
from flowpipe.features.probe import fit_kernel, fit_linear
from flowpipe.models import build
from flowpipe.models.heads import HEADS, build_head
from flowpipe.models.weights import load_state, model_state
from flowpipe.prediction import predict_scores
from flowpipe.training import TestOptions, TrainOptions, train_stream

CLASSES = ("a", "b")
VECTORS, MAPS = (12,), (6, 4, 5)
QUICK = {"dropout": 0.0}
CASES = [
    ("linear", VECTORS, QUICK),
    ("mlp", VECTORS, QUICK | {"hidden": 7}),
    ("svm", VECTORS, {}),
    *[
        (kind, VECTORS, QUICK | {"hidden": 5, "num_layers": n, "bidirectional": b, "output": o})
        for kind in ("lstm", "gru")
        for n, b, o in [
            (1, False, "last"), (2, True, "last"), (1, True, "mean"), (2, False, "max"),
            (1, False, "frames"), (1, True, "frames"),
        ]
    ],
    *[
        ("convgru", MAPS, QUICK | {"hidden": 5, "bidirectional": b, "output": o})
        for b, o in [(False, "last"), (True, "last"), (False, "mean"), (True, "frames")]
    ],
]  # fmt: skip


def head(name, shape, parameters):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_head(name, shape, num_classes=3, **parameters)


def features(shape, batch=4, steps=6):
    return torch.from_numpy(
        np.random.default_rng(0).normal(0, 1, (batch, steps, *shape)).astype(np.float32)
    )


def test_every_head_has_a_case():
    assert {name for name, _, _ in CASES} == set(HEADS)


@pytest.mark.parametrize(("name", "shape", "parameters"), CASES)
def test_shapes_gradients_and_batches(name, shape, parameters):
    model = head(name, shape, parameters)
    clip = features(shape)
    logits = model(clip)
    steps = (6,) if parameters.get("output") == "frames" else ()
    assert logits.shape == (4, *steps, 3)
    assert torch.isfinite(logits).all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    torch.testing.assert_close(model(clip[1:2]), logits[1:2], atol=1e-5, rtol=1e-5)
    assert model_state(model).keys() == head(name, shape, parameters).state_dict().keys()


def test_recurrent_outputs_are_what_they_say():
    states, _ = nn.LSTM(12, 5, batch_first=True, bidirectional=True)(features(VECTORS))
    for output in ("last", "mean", "max", "frames"):
        model = head("lstm", VECTORS, {"hidden": 5, "bidirectional": True, "output": output})
        states, _ = model.lstm(features(VECTORS))
        forward, backward = states[..., :5], states[..., 5:]
        got = model.eval()(features(VECTORS))
        if output == "last":
            wanted = model.fc(torch.cat([forward[:, 5], backward[:, 0]], 1))
        elif output == "mean":
            wanted = model.fc(states).softmax(2).mean(1).log()
        elif output == "max":
            wanted = model.fc(states.max(1).values)
        else:
            wanted = model.fc(states)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_one_direction_sees_the_past_only():
    model = head("gru", VECTORS, {"hidden": 5, "output": "frames"}).eval()
    clip = features(VECTORS)
    changed = clip.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(model(clip)[:, :4], model(changed)[:, :4])
    assert (model(clip)[:, 4:] - model(changed)[:, 4:]).abs().min() > 0


def test_parameter_counts_are_those_of_the_papers():
    def count(name, shape, classes, **parameters):
        model = build_head(name, shape, num_classes=classes, **parameters)
        return sum(p.numel() for p in model.parameters())

    assert count("lstm", (2048,), 101) == 5_298_789
    assert count("lstm", (4096,), 101, hidden=256) == 4_484_453
    assert count("convgru", (512, 7, 7), 101, hidden=256) - 101 * 257 == 5_308_416


def test_heads_refuse_what_they_do_not_take():
    with pytest.raises(UnknownName, match=r'unknown head "lstn" \(did you mean "lstm"\?\)'):
        build_head("lstn", VECTORS, num_classes=2)
    with pytest.raises(InvalidArgument, match=r'no parameter "hiden".*did you mean "hidden"'):
        build_head("gru", VECTORS, num_classes=2, hiden=3)
    with pytest.raises(InvalidArgument, match="compute them as maps"):
        build_head("convgru", VECTORS, num_classes=2)
    with pytest.raises(InvalidArgument, match="take the head convgru"):
        build_head("mlp", MAPS, num_classes=2)
    with pytest.raises(InvalidArgument, match=r'output "lst" .* must be one of last, mean, max'):
        build_head("lstm", VECTORS, num_classes=2, output="lst")
    with pytest.raises(InvalidArgument, match="hidden 0 and num_layers 1 must be >= 1"):
        build_head("lstm", VECTORS, num_classes=2, hidden=0)


@pytest.mark.parametrize("method", ["svm", "linear"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifier_separates_and_knows_what_it_has_not_seen(method, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    values = rng.normal(0, 1, (60, 8))
    values[np.arange(60), labels] += 6
    values[:, 7] = 3.0  # never varies
    fitted = fit_linear(values, labels, classes + 1, method=method)
    scores = fitted(values)
    assert (scores.argmax(1) == labels).all()
    assert (scores[:, classes] == -100).all()
    moved = values.copy()
    moved[:, 7] = -1e6
    np.testing.assert_allclose(fitted(moved), scores, atol=1e-6)
    with pytest.raises(InvalidArgument, match="1 class in training"):
        fit_linear(values, np.zeros(60, int), 2)
    with pytest.raises(InvalidArgument, match='method "svn"'):
        fit_linear(values, labels, classes, method="svn")


@pytest.mark.parametrize("classes", [2, 3])
def test_kernels_separate_what_no_line_does(classes):
    rng = np.random.default_rng(0)
    labels = np.arange(240) % classes
    angles, radii = rng.uniform(0, 2 * np.pi, 240), 1.0 + 2 * labels
    rings = np.stack([radii * np.cos(angles), radii * np.sin(angles), np.full(240, 7.0)], 1)
    fitted = fit_kernel(rings, labels, classes + 1)
    scores = fitted(rings)
    assert (scores.argmax(1) == labels).mean() > 0.95
    assert (scores[:, classes] == -100).all()
    linear = fit_linear(rings, labels, classes)(rings)
    assert (linear.argmax(1) == labels).mean() < 0.7
    with pytest.raises(InvalidArgument, match="1 class in training"):
        fit_kernel(rings, np.zeros(240, int), 2)


def make_cache(path, write_entry, smooth_flow):
    records = []
    for number in range(8):
        label = "ab"[number % 2]
        name = f"{label}/{number}.avi"
        rng = np.random.default_rng(number)
        rgb = rng.integers(0, 256, (10 + number, 18, 24, 3), dtype=np.uint8)
        rgb[..., 0] //= 1 + number % 2
        digest = f"{number + 1:02x}" * 32
        flow = smooth_flow(len(rgb) - 1, 18, 24)
        write_entry(path, flow, rgb_THWC=rgb, name=name, digest=digest, label=label)
        records.append(Video(name, Path("/videos") / name, (label,)))
    return records


@pytest.mark.parametrize("output", ["last", "mean"])
def test_frozen_backbone_on_the_fly_equals_cached_features(
    tmp_path, write_entry, smooth_flow, output
):
    """The same clips, updates and scores: only rounding may differ, f32 being stored exactly."""
    records = make_cache(tmp_path / "cache", write_entry, smooth_flow)
    cache = open_cache(tmp_path / "cache")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        whole = build("cnn-lstm-tiny", num_classes=2, output=output, frozen=True)
        head = build_head("lstm", (128,), num_classes=2, hidden=32, output=output, dropout=0.0)
        backbone = build("small-cnn", num_classes=2, width=8, dropout=0.0)
    # The same weights in both: the backbone's, and those of LSTM and classifier.
    shared = {k.removeprefix("backbone."): v for k, v in model_state(whole).items()}
    backbone.load_state_dict(
        {k: shared.get(k, v) if k.startswith("features") else v
         for k, v in backbone.state_dict().items()}
    )  # fmt: skip
    load_state(head, {k: shared[k] for k in head.state_dict()}, where="test")
    stream = StreamInput("rgb", "rgb", 1, crop_size=(16, 16))
    extractor = FeatureExtractor(
        FrozenNetwork(backbone, stream, "small-cnn", crop_scale=1.0),
        options=FeatureOptions(storage="f32"),
        device="cpu",
    )
    compute_features(extractor, cache, tmp_path / "store", name="rgb")
    cached = FeatureTracks(open_cache(tmp_path / "store"), ["rgb"], records)
    assert cached.feature_shape == (128,)
    sides = [
        (whole, cache, StreamInput("s", "rgb", 4, crop_size=(16, 16), layout="TCHW")),
        (head, cached, FeatureInput("s", 4, (128,))),
    ]
    scores, histories = [], []
    for number, (model, source, wanted) in enumerate(sides):
        start = model_state(model)
        plain = {"scales": (1.0,), "crop": "center", "flip": False, "max_distortion": 0}
        dataset = ClipDataset(records, source, [wanted], classes=CLASSES, seed=3, **plain)
        histories.append(
            train_stream(
                model,
                dataset,
                TrainOptions(
                    epochs=3,
                    batch_size=3,
                    optimiser="adamw",
                    learning_rate=0.01,
                    warmup_epochs=0.0,
                    device="cpu",
                ),
                tmp_path / str(number),
            )
        )
        assert not torch.equal(start["fc.weight"], model.fc.weight)
        data = Dataset(tuple(records), CLASSES)
        scores.append(
            predict_scores(model, data, source, wanted, TestOptions(clips=3), device="cpu")
        )
    np.testing.assert_allclose(scores[0].logits_NK, scores[1].logits_NK, atol=1e-4)
    np.testing.assert_allclose(scores[0].probabilities_NK, scores[1].probabilities_NK, atol=1e-4)
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_feature_clips_are_cut_as_frames_are(tmp_path, write_entry, smooth_flow):
    records = make_cache(tmp_path / "cache", write_entry, smooth_flow)
    model = build("small-cnn", num_classes=2, width=2)
    frozen = FrozenNetwork(model, StreamInput("rgb", "rgb", 1, crop_size=(16, 16)), "small-cnn")
    extractor = FeatureExtractor(frozen, options=FeatureOptions(storage="f32"), device="cpu")
    compute_features(extractor, open_cache(tmp_path / "cache"), tmp_path / "store", name="rgb")
    store = open_cache(tmp_path / "store")
    clips = FeatureTracks(store, ["rgb", "rgb"], records)
    stream = FeatureInput("f", 4, (64,), frame_step=2)
    data = TestClips(records, clips, [stream], classes=CLASSES, clips=2, crops="ten")
    sample = data[1]
    assert sample["f"].shape == (1, 4, 64)  # no crops
    whole = store.select("rgb")["a/0.avi"].features[:]
    np.testing.assert_array_equal(sample["f"][0, :, :32], whole[[3, 5, 7, 9]])
    values = to_network_input({"f": sample["f"]}, stream)
    assert values.dtype == torch.float32
    mean = FeatureTracks(store, ["rgb"], records, average=True)["a/0.avi"]
    np.testing.assert_allclose(mean.features, whole.mean(0, keepdims=True), atol=1e-6)
    with pytest.raises(EntryNotFound, match=r'no video "c/9\.avi" in .*\(features "rgb"\)'):
        FeatureTracks(store, ["rgb"], [Video("c/9.avi", Path("c/9.avi"), ("a",))])
    with pytest.raises(InvalidArgument, match="feature_shape"):
        FeatureInput("f", 4, ())


@pytest.mark.parametrize("fit", [fit_linear, fit_kernel])
def test_few_videos_of_many_classes_are_fitted_without_a_warning(fit):
    features = np.random.default_rng(0).standard_normal((24, 40))
    labels = np.arange(24) % 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decide = fit(features, labels, 16)
    np.testing.assert_array_equal(decide(features).argmax(axis=1), labels)
