"""Localisation methods: layouts, targets, learning, fusion, windows, runs, the command line."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from support import run_cli

from flowpipe.errors import (
    AnnotationError,
    ConfigError,
    FlowpipeError,
    InvalidArgument,
    UnknownName,
    WeightsError,
)
from flowpipe.experiment.verify import verify_run
from flowpipe.features.align import AlignedFeatures
from flowpipe.localisation.annotations import Annotations, names_in, renamed
from flowpipe.localisation.data import DataSettings, subsets_of
from flowpipe.localisation.experiment import load_settings
from flowpipe.localisation.layers import LocalAttention
from flowpipe.localisation.learning import LearnOptions, clip_to_window
from flowpipe.localisation.localiser import (
    Localiser,
    LocaliserSettings,
    load_localiser,
    quantiles_of,
    windows,
)
from flowpipe.localisation.methods import METHODS, options_of
from flowpipe.localisation.pyramid import (
    Pyramid,
    PyramidOptions,
    assign,
    distance_iou_loss,
    levels_for,
)
from flowpipe.localisation.timeline import Example, Sample
from flowpipe.localisation.two_stage import decode_ends, encode_ends, pool_segments
from flowpipe.metrics.temporal import Segments, temporal_precision
from flowpipe.sealed import write_table

CLASSES = ("hop", "run", "sit")
ACTIONFORMER = {"block": "attention", "stem": 2, "levels": 6}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("inputs", "classes", "options", "expected"),
    [
        (2048, 20, {"width": 512, **ACTIONFORMER}, 29_251_612),  # ActionFormer, THUMOS'14
        (2048, 1, {"width": 256, "window": 7, **ACTIONFORMER}, 8_123_145),  # ActivityNet, I3D
        (512, 1, {"width": 256, "window": 7, **ACTIONFORMER}, 6_943_497),  # ActivityNet, TSP
        (2304, 97, {"width": 512, "window": 9, **ACTIONFORMER}, 29_763_177),  # EPIC, verbs
        (
            2048, 20,
            {"width": 512, "block": "sgp", "stem": 2, "levels": 6, "window": 1, "hidden": 768,
             "boundary": "bins"},
            15_989_604,
        ),  # TriDet, THUMOS'14
    ],
)  # fmt: skip
def test_published_parameter_counts(inputs, classes, options, expected):
    assert count(Pyramid(inputs, classes, options=PyramidOptions(**options))) == expected


def test_levels_follow_from_lengths():
    assert [levels_for(lengths) for lengths in ([], [6], [16], [32], [500], [9999])] == [
        3, 3, 3, 4, 8, 8,
    ]  # fmt: skip


def test_points_of_an_instance():
    # Levels of strides 1, 2, 4 answer for larger distances in [0, 4), [4, 8), [8, ∞).
    targets, distances = assign(
        [20, 10, 5], torch.tensor([[2.0, 14.0]]), torch.tensor([1]), num_classes=3
    )
    positive = targets[:, 1].nonzero()[:, 0].tolist()
    # Place 8, the centre, is 6 from both ends: level 1. Places 6 and 10 are 8 from one end, too
    # far for level 1; of level 2 there are 4 and 12, within 1.5 strides of the centre.
    assert positive == [20 + 8 // 2, 30 + 4 // 4, 30 + 12 // 4]
    assert not targets[:, [0, 2]].any()
    assert distances[24].tolist() == [3.0, 3.0]
    assert distances[31].tolist() == [0.5, 2.5]


def test_the_shortest_instance_wins_and_equal_ones_share():
    segments = torch.tensor([[0.0, 6.0], [1.0, 5.0], [1.0, 5.0]])
    targets, distances = assign([8], segments, torch.tensor([0, 1, 2]), num_classes=3)
    assert targets[3].tolist() == [False, True, True]
    assert distances[3].tolist() == [2.0, 2.0]


def test_distance_iou_loss_by_hand():
    true = torch.tensor([[2.0, 2.0]])
    assert distance_iou_loss(true, true).item() == 0.0
    # [−1, 1] against [−2, 2]: IoU .5, same centre.
    assert distance_iou_loss(torch.tensor([[1.0, 1.0]]), true).item() == pytest.approx(0.5)
    # [0, 2]: IoU .5, centres 1 apart, covering length 4.
    assert distance_iou_loss(torch.tensor([[0.0, 2.0]]), true).item() == pytest.approx(0.5 + 1 / 16)


def test_local_attention_equals_a_loop():
    torch.manual_seed(0)
    layer = LocalAttention(8, 2, 3, stride=1).eval()
    x = torch.randn(1, 8, 6)
    query, key, value = (
        layer.maps[p](layer.norms[p](layer.convs[p](x)))[0].view(2, 4, 6)
        for p in ("query", "key", "value")
    )
    mixed = torch.zeros(2, 4, 6)
    for head in range(2):
        for t in range(6):
            near = [s for s in (t - 1, t, t + 1) if 0 <= s < 6]
            logits = torch.stack([query[head, :, t] @ key[head, :, s] / 2 for s in near])
            for weight, s in zip(logits.softmax(0), near, strict=True):
                mixed[head, :, t] += weight * value[head, :, s]
    expected = layer.out(mixed.reshape(1, 8, 6))
    torch.testing.assert_close(layer(x), expected)


def test_pooling_of_segments():
    ramp = torch.arange(10.0)[None]
    # 7 bins over [0, 7): samples at 1/8, 3/8, 5/8, 7/8 of each; the largest stays.
    pooled = pool_segments(ramp, torch.tensor([[0.0, 7.0]]), 7)[0, 0]
    torch.testing.assert_close(pooled, torch.arange(7.0) + 7 / 8)
    constant = pool_segments(torch.full((2, 10), 3.0), torch.tensor([[1.0, 8.0]]), 4)
    assert constant.unique().tolist() == [3.0]
    assert pool_segments(ramp + 1, torch.tensor([[-9.0, -2.0]]), 2).abs().max() == 0
    grown = ramp.clone().requires_grad_()
    pool_segments(grown, torch.tensor([[0.0, 7.0]]), 7).sum().backward()
    assert grown.grad.sum() == pytest.approx(7.0)


def test_ends_are_encoded_and_decoded():
    anchors = torch.tensor([[0.0, 10.0], [5.0, 9.0]])
    segments = torch.tensor([[1.0, 8.0], [4.0, 12.0]])
    torch.testing.assert_close(decode_ends(encode_ends(segments, anchors), anchors), segments)


# Time


def sample_of(features, centre_s, video="v"):
    centre_s = np.asarray(centre_s, np.float64)
    span_s = np.stack((centre_s - 0.1, centre_s + 0.1), axis=1)
    return Sample.of(video, AlignedFeatures(np.asarray(features, np.float32), centre_s, span_s))


def test_seconds_and_steps_of_uneven_times():
    sample = sample_of(np.zeros((4, 2)), [1.0, 2.0, 4.0, 5.0])
    assert sample.to_steps([1.5, 3.0, 0.0, 7.0]).tolist() == [0.5, 1.5, -1.0, 5.0]
    assert sample.to_seconds([0.5, 1.5]).tolist() == [1.5, 3.0]
    assert sample.to_seconds([-9.0, 99.0]).tolist() == [0.0, pytest.approx(5.1)]
    one = sample_of(np.zeros((1, 2)), [1.0])
    assert one.to_steps([1.0, 1.2]).tolist() == [0.0, pytest.approx(1.0)]


def test_maps_are_refused():
    with pytest.raises(InvalidArgument, match="must be T×D"):
        sample_of(np.zeros((3, 2, 4, 4)), [0.0, 1.0, 2.0])


def test_names_of_videos():
    names = ["a/x.avi", "v_abc.mp4", "b/y.avi", "c/y.avi"]
    assert names_in(names, ["x", "abc", "a/x", "nothing"]) == {
        "x": "a/x.avi",
        "abc": "v_abc.mp4",
        "a/x": "a/x.avi",
    }
    with pytest.raises(AnnotationError, match=r"may be b/y.avi, c/y.avi"):
        names_in(names, ["y"])
    found = Segments.of([("x.avi", "run", 0, 1), ("z", "run", 0, 1)], [0.5, 0.4])
    assert renamed(found, ["x", "y"]).videos.tolist() == ["x", "z"]


def test_instances_at_the_ends_of_a_window():
    segments = np.array([[0, 10], [8, 12], [11, 20], [40, 50]], np.float32)
    inside, labels = clip_to_window(segments, np.arange(4), start=10, length=8)
    # The first shows nothing, the second half, of the third 6.5 of 9 steps, the last nothing.
    assert inside.tolist() == [[-0.5, 2.0], [1.0, 7.5]]
    assert labels.tolist() == [1, 2]


# Learning


def made_up_examples(count=4, steps=90, seed=0):
    """Videos in which each class moves one feature; the last is without instances."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        features = rng.normal(0, 0.3, (steps, 6)).astype(np.float32)
        segments, labels = [], []
        at = int(rng.integers(4, 10))
        while at + 20 < steps and number < count - 1:
            length, label = int(rng.integers(8, 18)), int(rng.integers(3))
            features[at : at + length, label] += 3
            segments.append((at - 0.5, at + length - 0.5))
            labels.append(label)
            at += length + int(rng.integers(6, 14))
        sample = sample_of(features, 0.5 + 0.2 * np.arange(steps), f"v{number}")
        examples.append(
            Example(
                sample,
                np.array(segments, np.float32).reshape(-1, 2),
                np.array(labels, np.int64),
            )
        )
    return examples


def truth_of(examples):
    rows = []
    for example in examples:
        ends = example.sample.to_seconds(example.segments)
        for (start, end), label in zip(ends.tolist(), example.labels.tolist(), strict=True):
            rows.append((example.sample.video, CLASSES[label], start, end))
    return Segments.of(rows)


def settings_of(examples, method="pyramid", parameters=None, **changes):
    train = LearnOptions(epochs=changes.pop("epochs", 15), seed=0, learning_rate=3e-3)
    return LocaliserSettings(
        method=method,
        parameters=parameters or {},
        features=changes.pop("features", ("flow-histogram",)),
        fusion=changes.pop("fusion", "early"),
        widths=changes.pop("widths", (6,)),
        train=train,
        classes=CLASSES,
        lengths=quantiles_of(examples),
        **changes,
    )


SMALL = {
    "pyramid": {"width": 32},
    "two-stage": {"width": 32, "hidden": 64, "scales": 4},
    "snippets": {"hidden": 32},
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_learn_and_are_loaded_again(method, tmp_path):
    examples, unseen = made_up_examples(), made_up_examples(seed=1)
    # A classifier of snippets has one target where the others have many points.
    epochs = 80 if method == "snippets" else 15
    localiser = Localiser(settings_of(examples, method, SMALL[method], epochs=epochs))
    localiser.save(tmp_path)
    localiser.train(examples, tmp_path)
    found = localiser.localise([example.sample for example in unseen])
    assert temporal_precision(truth_of(unseen), found, (0.5,)).average > 0.8
    again = load_localiser(tmp_path).localise([example.sample for example in unseen])
    assert again.times_s.tolist() == found.times_s.tolist()
    assert again.scores.tolist() == found.scores.tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_videos_and_videos_without_instances(method, steps):
    torch.manual_seed(0)
    network = Localiser(settings_of(made_up_examples(), method, SMALL[method])).networks
    (network,) = network.values()
    loss = network.train().loss(
        torch.randn(steps, 6), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    )
    loss.backward()
    assert torch.isfinite(loss)
    segments, scores, labels = type(network).localise([network.eval()], [torch.randn(steps, 6)])
    assert len(segments) == len(scores) == len(labels)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": "attention", "stem": 1, "window": 5},
        {"block": "sgp", "stem": 1, "window": 1, "boundary": "bins", "bins": 8},
    ],
    ids=["conv", "attention", "sgp"],
)
def test_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0)
    network = Pyramid(6, 3, [12, 30], PyramidOptions(width=32, **options))
    for parameter in network.parameters():
        if parameter.abs().max() <= 1e-3 or parameter.unique().numel() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    network.loss(
        torch.randn(64, 6), torch.tensor([[3.0, 15.0], [30.0, 55.0]]), torch.tensor([0, 2])
    ).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("flowpipe.localisation.learning.SAVE_EVERY_S", 0.0)
    examples = made_up_examples()
    settings = settings_of(examples, parameters=SMALL["pyramid"], epochs=4)
    whole = Localiser(settings)
    whole.train(examples, tmp_path / "whole")

    def stop(name, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Localiser(settings).train(examples, tmp_path / "parts", stop)
    resumed = Localiser(settings)
    resumed.train(examples, tmp_path / "parts")
    for name, network in whole.networks.items():
        other = resumed.networks[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, other[key]), key
    with pytest.raises(WeightsError):
        Localiser(settings_of(examples, parameters=SMALL["pyramid"], epochs=9)).train(
            examples, tmp_path / "parts"
        )


@pytest.mark.parametrize("method", METHODS)
def test_late_fusion_of_a_network_with_itself_changes_nothing(method):
    examples = made_up_examples()
    torch.manual_seed(0)
    localiser = Localiser(settings_of(examples, method, SMALL[method]))
    (network,) = localiser.networks.values()
    features = torch.from_numpy(examples[0].sample.features)
    one = network.localise([network], [features])
    two = network.localise([network, network], [features, features])
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_streams_of_early_and_late_fusion():
    examples = made_up_examples()
    pair = {"features": ("a", "b"), "widths": (2, 4)}
    early = Localiser(settings_of(examples, parameters=SMALL["pyramid"], **pair))
    assert early.settings.streams == {"a+b": slice(0, 6)}
    late = Localiser(settings_of(examples, fusion="late", parameters=SMALL["pyramid"], **pair))
    assert late.settings.streams == {"a": slice(0, 2), "b": slice(2, 6)}
    several = Localiser(
        settings_of(examples, networks=2, fusion="late", parameters=SMALL["pyramid"], **pair)
    )
    assert list(several.networks) == ["a-0", "a-1", "b-0", "b-1"]
    weights = [net.class_head[-1].weight for net in several.networks.values()]
    assert not torch.equal(weights[0], weights[1])
    with pytest.raises(InvalidArgument, match="3 numbers per snippet"):
        late.find(sample_of(np.zeros((5, 3)), np.arange(5.0)))


def test_windows_find_what_the_whole_finds():
    examples = made_up_examples(count=2, steps=700)
    torch.manual_seed(0)
    localiser = Localiser(settings_of(examples, parameters=SMALL["pyramid"]))
    (network,) = localiser.networks.values()
    network.standardise.fit(np.zeros(6), np.ones(6))
    sample = examples[0].sample
    whole, scores, labels = localiser.find(sample)
    parts, part_scores, part_labels = localiser.find(sample, window_steps=400)
    best = scores > np.sort(scores)[-100]
    assert len(part_scores) >= len(scores)
    for segment, score, label in zip(whole[best], scores[best], labels[best], strict=True):
        near = np.abs(parts - segment).max(axis=1) + np.abs(part_scores - score)
        assert near[part_labels == label].min() < 1e-3


def test_windows_cover_every_step_once():
    for steps, size, margin, alignment in ((700, 400, 60, 8), (5000, 64, 10, 4), (65, 64, 3, 16)):
        found = windows(steps, size, margin, alignment)
        assert found[0][2] == -math.inf
        assert found[-1][3] == math.inf
        assert found[-1][1] == steps
        assert all(start % alignment == 0 for start, *_ in found)
        for (_, _, _, high), (_, _, low, _) in pairwise(found):
            assert high == low
        assert all(stop - start <= size + alignment for start, stop, *_ in found)


@pytest.mark.parametrize(
    ("method", "parameters", "error", "message"),
    [
        ("pyramids", {}, UnknownName, 'did you mean "pyramid"'),
        ("pyramid", {"widht": 3}, ConfigError, 'did you mean "width"'),
        ("pyramid", {"block": "mamba"}, ConfigError, "conv, attention, sgp"),
        ("snippets", {"smoothing": 2}, ConfigError, "must be odd"),
        ("two-stage", {"negative_iou": 0.9}, ConfigError, "at most positive_iou"),
    ],
)
def test_misspelt_methods_and_parameters(method, parameters, error, message):
    with pytest.raises(error, match=message):
        options_of(method, parameters)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is no localiser; flowpipe localise train makes one"):
        load_localiser(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "1"])
def test_a_damaged_table_of_a_run_is_a_sentence(tmp_path, text):
    (tmp_path / "localiser.json").write_text(text)
    with pytest.raises(ConfigError, match=r"localiser\.json cannot be read"):
        load_localiser(tmp_path)


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video):
    """Long videos of a texture that moves right or down for a while, and rests."""
    path = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (24, 24, 1), np.uint8).repeat(8, 0).repeat(8, 1)
    texture = np.repeat(texture, 3, axis=2)
    rows = ["video,label,start_s,end_s,subset"]
    for number in range(4):
        subset = "training" if number < 3 else "validation"
        frames, x, y = [], 0, 0
        for label in rng.permutation(["right", "down", "right", "down"]):
            for _ in range(int(rng.integers(10, 16))):
                frames.append(texture[y : y + 48, x : x + 64])
            start = len(frames)
            for step in range(24):
                sign = 1 if step < 12 else -1
                x, y = (x + 3 * sign, y) if label == "right" else (x, y + 3 * sign)
                frames.append(texture[y : y + 48, x : x + 64])
            rows.append(f"long{number},{label},{start / 25},{len(frames) / 25},{subset}")
        write_video(path / f"long{number}.mp4", np.stack(frames))
    (path / "annotations.csv").write_text("\n".join(rows) + "\nabsent,right,0,1,training\n")
    return path


def test_train_predict_and_measure(folder, tmp_path):
    run = tmp_path / "run"
    small = ["--set", "train.epochs=12", "--set", "parameters.width=32", "--workers", "1"]
    small += ["--features", "flow-histogram"]
    done = run_cli("localise", "train", folder, "--out", run, *small, "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert "1 of 5 annotated videos are missing, such as absent" in done.err
    assert "instances by level" in done.err
    assert record["test_subset"] == "validation"
    assert 0.3 < record["average"] <= 1
    assert "<script src" not in (run / "report.html").read_text("utf-8")
    target = tmp_path / "found"
    done = run_cli(
        "localise", "predict", run, folder / "long3.mp4", "--json", f"{target}.json", "--csv",
        f"{target}.csv", "--page", "--out", f"{target}.html",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert list(json.loads(target.with_suffix(".json").read_text())["results"]) == ["long3"]
    (bad := tmp_path / "bad.mp4").write_bytes(b"none")
    for general in ((), ("localise",)):
        done = run_cli(*general, "predict", run, folder / "long3.mp4", bad, "--csv", tmp_path / "b")
        assert done.status == 1
        assert "bad.mp4 has no features and is left out" in done.err
        assert (tmp_path / "b").read_text().count("long3") > 1
    assert "data:video/mp4;base64," in target.with_suffix(".html").read_text("utf-8")
    assert not any(finding.problem for finding in verify_run(run))
    own = run / "detections.json"
    own.write_text(own.read_text().replace('"score": 0', '"score": 1', 1))
    assert [finding.path for finding in verify_run(run) if finding.problem] == [own]
    done = run_cli("localise", "eval", folder / "annotations.csv", own)
    assert done.status == 1
    assert "detections.json is not what the run wrote" in done.err
    for form in ("json", "csv"):
        done = run_cli(
            "localise", "eval", folder / "annotations.csv", f"{target}.{form}", "--tiou",
            ".3:.1:.7", "--json",
        )  # fmt: skip
        measured = json.loads(done.out)
        assert measured["subset"] == "validation"
        # One of the few instances of so small a set may change its rank by rounding.
        assert measured["average"] == pytest.approx(record["average"], abs=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method=pyramd"], 'did you mean "pyramid"'),
        (["parameters={widht=3}"], 'did you mean "width"'),
        (["parameters={attention_heads=0}"], "attention_heads must be ≥ 1"),
        (["parameters={width=0}"], "width, head_layers"),
        (["parameters={head_layers=1000000000}"], "head_layers, embedding and stem must be ≤ 100"),
        (["parameters={boundary_weight=nan}"], "boundary_weight nan ≥ 0"),
        (["parameters={input_noise=inf}"], "input_noise inf ≥ 0 and finite"),
        (["method=two-stage", "parameters={dropout=2}"], "dropout 2.0 must be in"),
        (["method=two-stage", "parameters={match_iou=nan}"], "match_iou nan"),
        (["method=snippets", "parameters={dropout=nan}"], "dropout nan must be in"),
        (["features=[]"], "there must be features"),
        (["features=['flow-histogram', 'flow-histogram']"], "must differ"),
        (["networks=0"], "networks 0 must be 1 to 100"),
        (["suppression.min_score=nan"], "min_score nan must be in"),
        (["tiou=[]"], r"tiou thresholds \[\] must lie in"),
        (["tiou=[1.5]"], r"tiou thresholds \[1.5\] must lie in"),
        (["data.train=training", "data.test=Training"], "are both .training."),
    ],
)
def test_what_can_be_refused_is_refused_before_flow_is_computed(
    folder, tmp_path, monkeypatch, changes, message
):
    from flowpipe.localisation import data, experiment

    def reached(*given, **named):
        raise AssertionError("flow is computed")

    monkeypatch.setattr(data, "extract", reached)
    with pytest.raises(FlowpipeError, match=message):
        experiment.train(experiment.load_settings(folder, changes), tmp_path / "run", workers=1)
    with pytest.raises(AssertionError, match="flow is computed"):
        experiment.train(experiment.load_settings(folder), tmp_path / "run", workers=1)


def test_a_localiser_of_forged_size_takes_no_memory(tmp_path):
    localiser = Localiser(settings_of(made_up_examples(), parameters={"width": 16}))
    localiser.train(made_up_examples(), tmp_path)
    localiser.save(tmp_path)
    load_localiser(tmp_path)
    table = json.loads((tmp_path / "localiser.json").read_text())
    del table["crc32"], table["sealed"]
    for forged in ({"parameters": {"width": 2**20}}, {"widths": [10**9]}):
        write_table(tmp_path / "localiser.json", table | forged)
        with pytest.raises(WeightsError, match=r"has [\d,]+ bytes, .* ask for [\d,]{9,} of"):
            load_localiser(tmp_path)
    for forged, message in (
        ({"widths": [-1]}, r"widths \[-1\] must be ≥ 1, one of each of 1 features"),
        ({"widths": []}, r"widths \[\] must be"),
        ({"lengths": [1.0, float("nan")]}, "lengths .* must be ≥ 0 and finite"),
        ({"parameters": {"window": 10**9 + 1}}, "window 1000000001 must be ≤ 1000"),
        ({"method": "snippets", "parameters": {"smoothing": 10**9 + 1}}, "odd and ≤ 1000"),
    ):
        write_table(tmp_path / "localiser.json", table | forged)
        with pytest.raises(ConfigError, match=message):
            load_localiser(tmp_path)


def test_a_localiser_predicts_by_the_general_command_too(folder, tmp_path):
    rows = (folder / "annotations.csv").read_text().splitlines()
    alone = tmp_path / "alone.csv"  # without subsets: all are trained on, and a person is told
    alone.write_text("\n".join(row.rsplit(",", 1)[0] for row in rows) + "\n")
    (tmp_path / "c.toml").write_text(
        f'[data]\nannotations = "{alone}"\nvideos = "{folder}"\n[train]\nepochs = 1\n'
    )
    run = tmp_path / "run"
    small = ["--set", "parameters.width=32", "--workers", "1", "--features", "flow-histogram"]
    done = run_cli("localise", "train", tmp_path / "c.toml", "--out", run, *small)
    assert done.status == 0, done.err
    assert "all videos are trained on and none is tested" in done.err
    found = tmp_path / "found.csv"
    video = folder / "long0.mp4"
    done = run_cli("predict", run, video, "--every", "0.5s", "--segments", found)
    assert done.status == 0, done.err
    assert found.read_text().startswith("video,label,start_s,end_s,score")
    refused = run_cli("predict", run, video, "--every", "0.5s", "--video", tmp_path / "v.mp4")
    assert refused.status == 2
    assert "is a localiser, for which there is no --video" in refused.err


@pytest.mark.parametrize("name", ["weizmann_untrimmed", "thumos14_pyramid", "activitynet_pyramid"])
def test_configurations_are_read(name):
    path = Path(__file__).parents[1] / "configs" / f"{name}.toml"
    settings = load_settings(path, ["train.epochs=2"])
    assert settings.train.epochs == 2
    options_of(settings.method, settings.parameters)
    keys = {f"{threshold:g}" for threshold in settings.tiou} | {"average"}
    assert all(published.keys() <= keys for published in settings.expected.values())


@pytest.mark.parametrize(
    ("subsets", "expected"),
    [
        ({}, (None, None)),
        ({"a": "training", "b": "validation"}, ("training", "validation")),
        ({"a": "Train", "b": "Test"}, ("Train", "Test")),
        ({"a": "validation", "b": "test"}, ("validation", "test")),  # THUMOS'14
        ({"a": "validation"}, (None, None)),
    ],
)
def test_which_subset_teaches(subsets, expected):
    empty = Segments.of([])
    annotations = Annotations(empty, tuple(subsets), {}, subsets, empty, {})
    assert subsets_of(annotations, DataSettings(Path("x"))) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_finds_the_same(method, tmp_path):
    examples = made_up_examples()
    settings = settings_of(examples, method, SMALL[method], epochs=2)
    settings = replace(settings, train=replace(settings.train, device="cuda"))
    localiser = Localiser(settings)
    localiser.save(tmp_path)
    localiser.train(examples, tmp_path)
    assert localiser.device.type == "cuda"
    sample = examples[0].sample
    _, scores, _ = localiser.find(sample)
    for network in localiser.networks.values():
        network.cpu()
    np.testing.assert_allclose(localiser.find(sample)[1][:20], scores[:20], atol=1e-3)
