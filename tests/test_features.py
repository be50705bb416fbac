"""A network's features: which snippets, what is computed, keys, resuming, failures."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flowpipe.cache import Entry, open_cache
from flowpipe.cache.manifest import read_failures
from flowpipe.clips.dataset import to_network_input
from flowpipe.clips.streams import StreamInput
from flowpipe.errors import EntryNotFound, InvalidArgument
from flowpipe.features import computing
from flowpipe.features.align import align
from flowpipe.features.computing import compute_features
from flowpipe.features.extractor import FeatureExtractor, FrozenNetwork, truncated, weights_digest
from flowpipe.features.options import FeatureOptions
from flowpipe.models import build, build_for_clip

RGB = StreamInput("rgb", "rgb", 1, crop_size=(16, 16))
FLOW = StreamInput("flow", "flow", 3, crop_size=(16, 16))
FRAMES = {"a/one.avi": 9, "a/two.avi": 3, "b/three.avi": 6}


def digest_of(name: str) -> str:
    return f"{sorted(FRAMES).index(name) + 1:02x}" * 32


@pytest.fixture(scope="module")
def cache_path(tmp_path_factory, write_entry, smooth_flow) -> Path:
    path = tmp_path_factory.mktemp("flow")
    for seed, (name, frames) in enumerate(FRAMES.items()):
        rng = np.random.default_rng(seed)
        rgb = rng.integers(0, 256, (frames, 18, 24, 3), dtype=np.uint8)
        write_entry(
            path,
            smooth_flow(frames - 1, 18, 24, seed),
            rgb_THWC=rgb,
            name=name,
            digest=digest_of(name),
            label=name[0],
        )
    return path


def network(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build("small-cnn", num_classes=3, width=4, **options)


def extractor(stream=RGB, model=None, layer=None, parameters=None, truncate=False, **options):
    model = model or network(in_channels=stream.in_channels)
    frozen = FrozenNetwork(model, stream, "small-cnn", parameters or {}, truncate_flow=truncate)
    wanted = FeatureOptions(**({"crop_scale": 1.0} | options))
    return FeatureExtractor(frozen, layer, wanted, device="cpu")


def features_of(store, name="rgb"):
    found = open_cache(store, recipe=name)
    return {video: found[video] for video in found.names()}


@pytest.mark.parametrize(
    ("frames", "frame_step", "step", "rows"),
    [
        (4, 1, 2, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]),
        (4, 1, None, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (3, 2, 3, [[0, 2, 4], [3, 5, 7]]),
        (1, 1, 4, [[0], [4], [8]]),
        (12, 1, 1, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]]),
    ],
)
def test_snippets_of_nine_frames(cache_path, frames, frame_step, step, rows):
    stream = StreamInput("rgb", "rgb", 1, frame_step=frame_step, crop_size=(16, 16))
    found = extractor(stream, frames=frames, clip_step=step).snippets(
        open_cache(cache_path)["a/one.avi"]
    )
    assert found.rows_TF.tolist() == rows
    covers = (frames - 1) * frame_step + 1
    starts = np.array([row[0] for row in rows]) / 25
    stops = np.minimum(starts + covers / 25, 9 / 25)
    np.testing.assert_allclose(found.span_s, np.stack([starts, stops], 1), atol=1e-9)
    np.testing.assert_allclose(found.centre_s, (starts + stops) / 2, atol=1e-9)
    assert found.fps == pytest.approx(25)


def test_flow_ends_where_its_last_frame_is_shown(cache_path):
    found = extractor(FLOW, clip_step=2).snippets(open_cache(cache_path)["b/three.avi"])
    assert found.rows_TF.tolist() == [[0, 1, 2], [2, 3, 4]]
    np.testing.assert_allclose(found.span_s * 25, [[0, 3], [2, 5]], atol=1e-9)


def test_frames_by_timestamp(cache_path):
    stream = StreamInput("rgb", "rgb", 1, fps=12.5, crop_size=(16, 16))
    found = extractor(stream, frames=2, clip_step=1).snippets(open_cache(cache_path)["a/one.avi"])
    assert found.rows_TF.tolist() == [[0, 2], [2, 4], [4, 6], [6, 8]]
    np.testing.assert_allclose(found.centre_s, (np.arange(4) + 1) / 12.5, atol=1e-9)


@pytest.mark.parametrize("crops", ["center", "ten"])
@pytest.mark.parametrize("stream", [RGB, FLOW], ids=["rgb", "flow"])
def test_equals_a_slow_loop(cache_path, tmp_path, stream, crops):
    made = extractor(stream, storage="f32", clip_step=2, crops=crops, crop_scale=0.9)
    result = compute_features(made, open_cache(cache_path), tmp_path, name="x", batch_size=2)
    assert (result.done, result.failed, result.shape) == (3, 0, (64,))
    model = made.model
    for video, stored in features_of(tmp_path, "x").items():
        entry = open_cache(cache_path)[video]
        snippets = made.snippets(entry)
        assert len(stored.features) == len(snippets.rows_TF)
        for row, items in enumerate(snippets.rows_TF):
            clips = made.read(entry, items[None])
            assert len(clips) == (10 if crops == "ten" else 1)
            quantiser = entry.quantiser if stream.input == "flow" else None
            with torch.no_grad():
                values = to_network_input({stream.name: clips}, stream, quantiser)
                maps = model.features(values)
                slow = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1).mean(0)
            np.testing.assert_allclose(stored.features[row], slow, atol=2e-5)


def test_frames_go_through_a_2d_network_once(cache_path, tmp_path, monkeypatch):
    single = extractor(storage="f32", clip_step=1)
    compute_features(single, open_cache(cache_path), tmp_path / "single", name="rgb")
    made = extractor(storage="f32", frames=4, clip_step=1)
    seen = []
    compute = made.compute
    monkeypatch.setattr(
        made, "compute", lambda codes, entry: seen.append(len(codes)) or compute(codes, entry)
    )
    compute_features(made, open_cache(cache_path), tmp_path / "x", name="rgb", batch_size=4)
    assert sum(seen) == sum(FRAMES.values())
    one = features_of(tmp_path / "single")["a/one.avi"].features[:]
    means = features_of(tmp_path / "x")
    wanted = np.stack([one[start : start + 4].mean(axis=0) for start in range(6)])
    np.testing.assert_allclose(means["a/one.avi"].features[:], wanted, atol=1e-5)
    assert means["a/two.avi"].features.shape == (1, 64)  # three frames, the last twice


def test_layers_and_maps(cache_path, tmp_path):
    made = extractor(layer="features.6", spatial=True, storage="f32")
    result = compute_features(made, open_cache(cache_path), tmp_path, name="rgb")
    assert result.shape == (8, 4, 4)
    named = extractor(layer="features.6", storage="f32")
    compute_features(named, open_cache(cache_path), tmp_path, name="mean")
    maps = features_of(tmp_path)["a/one.avi"].features[:]
    means = features_of(tmp_path, "mean")["a/one.avi"].features[:]
    np.testing.assert_allclose(maps.mean((2, 3)), means, atol=1e-5)
    with pytest.raises(InvalidArgument, match=r'no layer "features.66" \(did you mean'):
        extractor(layer="features.66")
    with pytest.raises(InvalidArgument, match="which is no map"):
        extractor(layer="fc", spatial=True)
    with pytest.raises(InvalidArgument, match=r'maps of "ten" crops have no mean'):
        extractor(spatial=True, crops="ten")


@pytest.mark.parametrize("layers", [1, 2, 4, 5, 7])
def test_layers_beside_normalisation_give_what_they_gave(cache_path, layers):
    """Convolutions, normalisations and a pooling: that the rest is folded must not show."""
    model = network()
    with torch.random.fork_rng(devices=[]):
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, std=0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2)
    plain = copy.deepcopy(model).eval()
    before = torch.random.get_rng_state()
    made = extractor(model=model, layer=f"features.{layers - 1}", spatial=True)
    assert torch.equal(before, torch.random.get_rng_state())
    entry = open_cache(cache_path)["a/one.avi"]
    codes = made.read(entry, np.array([[0], [5]]))
    values = to_network_input({"rgb": codes}, made.stream, None)
    with torch.inference_mode():
        wanted = plain.features[:layers](values)
    np.testing.assert_allclose(made.compute(codes, entry), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["c3d-tiny", "late-fusion-pool-tiny", "i3d-tiny"])
def test_networks_over_clips(cache_path, tmp_path, name):
    layout = "TCHW" if name.startswith("late") else "CTHW"
    frames = 16 if name == "c3d-tiny" else 8
    stream = StreamInput("rgb", "rgb", frames, crop_size=(32, 32), layout=layout)
    model = build_for_clip(name, stream.clip_CTHW, num_classes=4)
    wanted = FeatureOptions(clip_step=4, storage="f32")
    made = FeatureExtractor(FrozenNetwork(model, stream, name), options=wanted, device="cpu")
    compute_features(made, open_cache(cache_path), tmp_path, name="rgb")
    stored = features_of(tmp_path)["a/one.avi"]
    with torch.no_grad():
        entry = open_cache(cache_path)["a/one.avi"]
        rows = made.snippets(entry).rows_TF
        model(to_network_input({"rgb": made.read(entry, rows)}, stream))  # runs as it is fed
    assert stored.features.shape == (len(rows), *made.shape)
    assert np.isfinite(stored.features[:]).all()


def test_another_run_computes_nothing_and_what_is_missing_only(cache_path, tmp_path):
    cache = open_cache(cache_path)
    first = compute_features(extractor(), cache, tmp_path, name="rgb")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.h5")}
    assert (first.done, first.skipped, len(files)) == (3, 0, 3)
    assert first.items == first.items_total == sum(FRAMES.values())
    again = compute_features(extractor(), cache, tmp_path, name="rgb")
    assert (again.done, again.skipped, again.items) == (0, 3, 0)
    assert again.items_total == first.items_total
    victim, damaged = sorted(files)[:2]
    victim.unlink()
    damaged.write_bytes(files[damaged][:-3000])
    third = compute_features(extractor(), cache, tmp_path, name="rgb")
    assert (third.done, third.skipped) == (2, 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.h5")} == files


def test_interrupted_run_leaves_whole_entries_only(cache_path, tmp_path, monkeypatch):
    made = extractor()
    compute, calls = made.compute, []

    def stop(codes, entry):
        calls.append(entry.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute(codes, entry)

    monkeypatch.setattr(made, "compute", stop)
    with pytest.raises(KeyboardInterrupt):
        compute_features(made, open_cache(cache_path), tmp_path, name="rgb", batch_size=3)
    assert len(list(tmp_path.rglob("*.h5"))) == 1
    assert list(tmp_path.rglob("*.part")) == []
    assert open_cache(tmp_path, recipe="rgb").names() == ["a/one.avi"]
    with pytest.raises(EntryNotFound, match=r'no video "b/three.avi" in .*\(features "rgb"\)'):
        open_cache(tmp_path, recipe="rgb")["b/three.avi"]
    result = compute_features(extractor(), open_cache(cache_path), tmp_path, name="rgb")
    assert (result.done, result.skipped) == (2, 1)


def test_what_changes_the_values_changes_the_key(cache_path, tmp_path):
    source = "0123456789abcdef"
    base = extractor().recipe(source)
    others = [
        extractor(model=network(seed=1)),
        extractor(layer="features.6"),
        extractor(layer="features.6", spatial=True),
        extractor(frames=2),
        extractor(clip_step=2),
        extractor(storage="f32"),
        extractor(crops="ten"),
        extractor(crop_scale=0.5),
        extractor(StreamInput("rgb", "rgb", 1, crop_size=(16, 20))),
        extractor(StreamInput("rgb", "rgb", 1, crop_size=(16, 16), rgb_range="symmetric")),
        extractor(StreamInput("rgb", "rgb", 1, crop_size=(16, 16), fps=5.0)),
        extractor(parameters={"width": 4}),
    ]
    recipes = [base, *(other.recipe(source) for other in others), extractor().recipe("f" * 16)]
    assert len({recipe.id for recipe in recipes}) == len(recipes)
    assert extractor().recipe(source).id == base.id
    model = network()
    digest = weights_digest(model)
    with torch.no_grad():
        model.fc.bias[0] += 1e-7
    assert weights_digest(model) != digest


def test_a_name_stands_for_the_last_weights_and_stale_features_are_not_read(cache_path, tmp_path):
    cache = open_cache(cache_path)
    compute_features(extractor(), cache, tmp_path, name="rgb")
    old = features_of(tmp_path)["a/one.avi"].features[:]
    made = extractor(model=network(seed=1))
    compute_features(made, cache, tmp_path, name="rgb")
    store = open_cache(tmp_path)
    assert store.networks["rgb"] == made.recipe(next(iter(cache.recipes))).id
    assert len(store.recipes) == 2
    assert np.abs(store.select("rgb")["a/one.avi"].features[:] - old).max() > 1e-3


def test_changed_video_is_noticed(cache_path, tmp_path):
    compute_features(extractor(), open_cache(cache_path), tmp_path, name="rgb")
    network_features = open_cache(tmp_path, recipe="rgb")
    network_features.check_current("a/one.avi", tmp_path / "gone.avi")
    changed = tmp_path / "one.avi"
    changed.write_bytes(b"other content")
    with pytest.raises(EntryNotFound, match=r"one.avi has changed since its entry"):
        network_features.check_current("a/one.avi", changed)


def test_several_networks_fill_one_store_and_are_read_aligned(cache_path, tmp_path):
    cache = open_cache(cache_path)
    compute_features(extractor(storage="f32"), cache, tmp_path, name="rgb")
    compute_features(extractor(FLOW, clip_step=2, storage="f32"), cache, tmp_path, name="flow")
    store = open_cache(tmp_path)
    assert sorted(store.networks) == ["flow", "rgb"]
    found = align([store.select(name)["one"] for name in ("rgb", "flow")])
    flow, rgb = store.select("flow")["a/one.avi"], store.select("rgb")["a/one.avi"]
    assert found.features.shape == (3, 128)
    # Flows 0..2, 2..4, 4..6 are centred on 1.5, 3.5, 5.5 frames: the middles of frames 1, 3, 5.
    np.testing.assert_array_equal(found.features[:, :64], rgb.features[[1, 3, 5]])
    np.testing.assert_array_equal(found.features[:, 64:], flow.features[:])
    np.testing.assert_allclose(found.centre_s * 25, [1.5, 3.5, 5.5])


def test_video_without_frames_costs_itself_only(tmp_path, write_entry, smooth_flow):
    path = tmp_path / "cache"
    written = [
        write_entry(
            path,
            smooth_flow(3, 18, 24),
            rgb_THWC=np.random.default_rng(0).integers(0, 256, (4, 18, 24, 3), np.uint8),
            name=name,
            digest=mark * 32,
        )
        for name, mark in (("good.avi", "aa"), ("bad.avi", "bb"))
    ]
    whole = bytearray(written[1].read_bytes())
    whole[Entry(written[1]).rgb.start + 50] ^= 16
    written[1].write_bytes(bytes(whole))
    result = compute_features(extractor(), open_cache(path), tmp_path / "store", name="rgb")
    assert (result.done, result.failed) == (1, 1)
    (failure,) = result.failures
    assert failure.name == "bad.avi"
    assert "not what was written" in failure.reason
    assert [row.name for row in read_failures(tmp_path / "store")] == ["bad.avi"]


def test_cache_without_frames_says_how_to_get_them(tmp_path, write_entry, smooth_flow):
    write_entry(tmp_path / "cache", smooth_flow(3, 18, 24), name="x.avi")
    result = compute_features(
        extractor(), open_cache(tmp_path / "cache"), tmp_path / "store", name="rgb"
    )
    assert "extract again with frames" in result.failures[0].reason


def test_copies_of_a_video_are_computed_once(tmp_path, write_entry, smooth_flow):
    for name in ("x.avi", "y.avi"):
        write_entry(tmp_path / "cache", smooth_flow(4, 18, 24), name=name, digest="cc" * 32)
    made = extractor(FLOW)
    result = compute_features(made, open_cache(tmp_path / "cache"), tmp_path / "s", name="flow")
    assert (result.done, result.skipped, result.failed) == (1, 1, 0)
    assert open_cache(tmp_path / "s", recipe="flow").names() == ["x.avi", "y.avi"]


def test_values_beyond_half_precision_are_refused(cache_path, tmp_path):
    model = network()
    with torch.no_grad():
        model.features[-2].weight.fill_(1e6)
    result = compute_features(
        extractor(model=model), open_cache(cache_path), tmp_path / "f16", name="rgb"
    )
    assert result.failed == 3
    assert "not finite in float16" in result.failures[0].reason
    result = compute_features(
        extractor(model=model, storage="f32"), open_cache(cache_path), tmp_path / "f32", name="rgb"
    )
    assert result.failed == 0


def test_arguments_outside_their_rules(cache_path, tmp_path):
    cache = open_cache(cache_path)
    with pytest.raises(InvalidArgument, match='storage "f8" must be one of f16, f32'):
        extractor(storage="f8")
    with pytest.raises(InvalidArgument, match="snippets of 4 items do not go with a network that"):
        extractor(FLOW, frames=4)
    with pytest.raises(InvalidArgument, match="truncate_flow is for flow, not for rgb"):
        extractor(truncate=True)
    with pytest.raises(InvalidArgument, match=r'name "a/b" must be of letters'):
        compute_features(extractor(), cache, tmp_path, name="a/b")
    with pytest.raises(InvalidArgument, match="batch_size 0 must be ≥ 1"):
        compute_features(extractor(), cache, tmp_path, name="rgb", batch_size=0)
    with pytest.raises(InvalidArgument, match="readers 0 must be ≥ 1"):
        compute_features(extractor(), cache, tmp_path, name="rgb", readers=0)


def test_reading_goes_on_while_the_network_runs(cache_path, tmp_path, monkeypatch):
    """The next batch is read before the one in work is done: else this would wait for ever."""
    made = extractor(frames=1, clip_step=1)
    read, compute = made.read, made.compute
    ahead = computing.threading.Semaphore(0)

    def noted(entry, units):
        codes = read(entry, units)
        ahead.release()
        return codes

    def waiting(codes, entry):
        left = sum(FRAMES.values()) - len(done)
        for _ in range(min(2, left)):
            assert ahead.acquire(timeout=10)
        if left > 1:
            ahead.release()
        done.append(len(codes))
        return compute(codes, entry)

    done: list[int] = []
    monkeypatch.setattr(made, "read", noted)
    monkeypatch.setattr(made, "compute", waiting)
    result = compute_features(made, open_cache(cache_path), tmp_path, name="rgb", batch_size=1)
    assert result.items == sum(FRAMES.values())


def test_truncation_is_that_of_the_8_bit_family():
    px = np.linspace(-25, 25, 2001, dtype=np.float32)
    ours = truncated(torch.from_numpy(px / 20)).numpy()
    values = np.floor(255 * (px.clip(-20, 20).astype(np.float64) + 20) / 40)
    theirs = values / 255 * 2 - 1
    assert np.mean(np.abs(ours - theirs) < 1e-5) > 0.999  # float32 may fall across a level
    assert truncated(torch.zeros(1)).item() == pytest.approx(127 / 255 * 2 - 1, abs=1e-6)


def test_classifier_is_not_run(cache_path):
    class Loud(nn.Linear):
        def forward(self, x):
            raise AssertionError("the classifier ran")

    model = network()
    model.fc = Loud(64, 3)
    assert extractor(model=model).shape == (64,)


def test_entries_say_how_they_were_made(cache_path, tmp_path):
    compute_features(extractor(frames=4, clip_step=2), open_cache(cache_path), tmp_path, name="rgb")
    entry = features_of(tmp_path)["a/one.avi"]
    assert entry.label == "a"
    told = entry.attributes
    assert (told["offset_frames"], told["step_frames"], told["snippet_frames"]) == (2.0, 2.0, 4.0)
    source = json.loads(told["source"])
    assert source["recipe"]["flow"] == "dis"
    assert source["num_frames"] == 9
    assert entry.recipe.source == next(iter(open_cache(cache_path).recipes))
