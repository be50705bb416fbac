"""`flowpipe features`, `probe`, `cache` on stores, and `train` on cached features."""

import hashlib
import json

import numpy as np
import pytest
import torch
from support import moving_texture
from support import run_cli as run

import flowpipe.features.probe
from flowpipe.cache import open_cache
from flowpipe.errors import InvalidArgument
from flowpipe.features.options import WantedInput, wanted_recipe
from flowpipe.features.presets import PRESETS, named_network
from flowpipe.models import build

RUN_CONFIG = """
[data]
root = "videos"
test_fraction = 0.5
[extract]
flow = "dis"
workers = 1
[streams.temporal]
input = "flow"
frames = 2
crop_size = [16, 16]
model_parameters = {width = 2}
[train]
epochs = 1
[test]
clips = 1
"""

CONFIG = """
[data]
root = "videos"
annotations = "list.csv"
fold_column = "fold"
features = "store"
[streams.svm]
input = "features"
features = ["rgb"]
model = "svm"
[streams.lstm]
input = "features"
features = ["rgb", "flow"]
model = "lstm"
model_parameters = {hidden = 8}
frames = 3
[streams.maps]
input = "features"
features = ["maps"]
model = "convgru"
model_parameters = {hidden = 4, output = "frames"}
frames = 2
[train]
epochs = 2
batch_size = 4
optimiser = "adamw"
learning_rate = 0.01
[test]
clips = 2
crops = "ten"
[fuse]
methods = ["logsum"]
training_clips = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_entry, smooth_flow):
    """Twelve videos of two classes in three folds, their flow, and three kinds of features."""
    path = tmp_path_factory.mktemp("cli")
    (path / "videos").mkdir()
    lines = ["video,label,fold"]
    for number in range(12):
        label = ("dark", "bright")[number % 2]
        name = f"{number}.avi"
        video = path / "videos" / name
        video.write_bytes(f"video {number}".encode())
        rng = np.random.default_rng(number)
        rgb = rng.integers(0, 100, (6, 20, 20, 3)) + 120 * (number % 2)
        write_entry(
            path / "flow.cache",
            smooth_flow(5, 20, 20, number),
            rgb_THWC=rgb.astype(np.uint8),
            name=name,
            label=label,
            digest=hashlib.sha256(video.read_bytes()).hexdigest(),
            path=str(video),
        )
        lines.append(f"{name},{label},{number // 4}")
    (path / "videos" / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (path / "heads.toml").write_text(CONFIG, encoding="utf-8")
    common = ["small-cnn", "--model-arg", "width=2", "--random-weights", "--crop-size", "16x16"]
    places = ["--cache", path / "flow.cache", "--out", path / "store", "--json"]
    for options in (
        ["--name", "rgb"],
        ["--input", "flow", "--clip", "2,1"],
        ["--name", "maps", "--layer", "features.6", "--spatial"],
    ):
        done = run("features", *common, *places, *options)
        assert done.status == 0, done.err
        told = json.loads(done.out)
        assert (told["videos"], told["done"], told["failed"]) == (12, 12, 0)
    return path


def test_features_again_prints_the_table(folder):
    arguments = ["small-cnn", "--model-arg", "width=2", "--random-weights", "--name", "rgb"]
    places = ["--cache", folder / "flow.cache", "--out", folder / "store"]
    done = run("features", *arguments, "--crop-size", "16x16", *places)
    assert done.status == 0
    assert "videos skipped (there already)          12" in done.out
    assert "random weights, seed 0; these features mean nothing" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["small-cnn"], "without weights gives features of random numbers"),
        (["i3d-rgb"], "ask for random ones if they are what you want"),
        (["smal-cnn", "--random-weights"], 'neither a run nor a network (did you mean "small-cnn'),
        (["tests_network:build", "--random-weights"], "tests_network"),
        (["small-cnn", "--random-weights", "--stream", "x"], "stream: they belong to a run"),
        (["small-cnn", "--random-weights", "--clip", "8;2"], "is not T,STEP"),
        (["i3d-flow", "--random-weights"], "every frame, not 25; short side source size, not 256"),
        (["i3d-rgb", "--random-weights", "--input", "flow"], "looks at rgb, not at flow"),
    ],
)
def test_features_refuses_with_a_sentence(folder, arguments, told):
    places = ["--cache", folder / "flow.cache", "--out", folder / "none"]
    done = run("features", *arguments, *places)
    assert done.status == 2
    assert told in done.err
    assert not (folder / "none").exists()


def test_flow_histograms_from_the_command_line(tmp_path, write_entry, smooth_flow):
    write_entry(tmp_path / "cache", smooth_flow(20, 20, 20))
    places = ["--cache", tmp_path / "cache", "--out", tmp_path / "store", "--json"]
    done = run("features", "flow-histogram", *places)
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert (told["name"], told["shape"], told["snippets"]) == ("flow-histogram", [432], 2)
    arguments = ["--clip", "all", "--name", "whole", "--model-arg", "grid=[3,1]"]
    done = run("features", "flow-histogram", *places, *arguments)
    told = json.loads(done.out)
    assert (told["name"], told["shape"], told["snippets"]) == ("whole", [108], 1)
    done = run("features", "flow-histogram", *places, "--model-arg", "window=2")
    assert (done.status, 'no parameter "window" (did you mean "windows"?)' in done.err) == (2, True)
    done = run("features", "flow-histogram", *places, "--random-weights")
    assert (done.status, "histograms of flow have no weights" in done.err) == (2, True)
    done = run("features", "flow-histogram", *places, "--crops", "ten")
    assert (done.status, "it has no layers, crops" in done.err) == (2, True)
    done = run("features", "small-cnn", "--random-weights", *places, "--clip", "all")
    assert (done.status, "alone takes whole videos (--clip)" in done.err) == (2, True)


def test_i3d_presets_are_the_published_input(recipe_of):
    rgb, flow = PRESETS["i3d-rgb"], PRESETS["i3d-flow"]
    assert rgb.stream.crop_size == flow.stream.crop_size == (224, 224)
    assert round(rgb.crop_scale * 256) == round(flow.crop_scale * 256) == 224
    assert (rgb.stream.rgb_range, flow.stream.flow_scale_px) == ("symmetric", 20.0)
    assert flow.truncate_flow
    fits = {"fps": 25.0, "short_side": 256, "flow": "tvl1"}
    flow.wanted.check("i3d-flow", recipe_of(**fits))
    rgb.wanted.check("i3d-rgb", recipe_of(**(fits | {"flow": "dis"})))
    for changes, told in [
        ({"fps": 30.0}, "30 fps, not 25"),
        ({"short_side": 128}, "short side 128, not 256"),
        ({"flow": "dis"}, "flow dis, not tvl1 or opencv-tvl1"),
        ({"bound_px": 10.0}, "bound 10 px, not 20 at least"),
    ]:
        with pytest.raises(InvalidArgument, match=f"{told}.*extract the videos with"):
            flow.wanted.check("i3d-flow", recipe_of(**(fits | changes)))


@pytest.mark.slow
def test_i3d_rgb_gives_1024_features(tmp_path, write_entry, smooth_flow):
    frames = np.random.default_rng(0).integers(0, 256, (17, 256, 256, 3), dtype=np.uint8)
    write_entry(
        tmp_path / "cache",
        smooth_flow(16, 256, 256),
        rgb_THWC=frames,
        fps=25.0,
        short_side=256,
        flow="tvl1",
    )
    for name in ("i3d-rgb", "i3d-flow"):
        done = run(
            "features", name, "--random-weights", "--clip", "16,16", "--json",
            "--cache", tmp_path / "cache", "--out", tmp_path / "store",
        )  # fmt: skip
        assert done.status == 0, done.err
        assert json.loads(done.out)["shape"] == [1024]
        assert "these features mean nothing" in done.err


def test_probe_names_the_classes(folder):
    listed = folder / "videos" / "list.csv"
    done = run("probe", folder / "store", "--annotations", listed, "--features", "rgb", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["accuracy"] == {"rgb": 1.0}
    assert sorted(told["folds"]) == ["0", "1", "2"]
    done = run("probe", folder / "store", "--features", "rgb,flow", "--method", "linear")
    assert done.status == 0, done.err
    assert "no folds given: 5 at random" in done.err
    assert "all fused" in done.out
    done = run("probe", folder / "store", "--features", "rbg")
    assert done.status == 2
    assert 'no features "rbg"' in done.err


def test_probe_trains_on_train_and_tests_on_test_alone(folder, tmp_path):
    parts = tmp_path / "parts.csv"
    of = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    lines = [f"{n}.avi,{('dark', 'bright')[n % 2]},{part}" for n, part in enumerate(of)]
    parts.write_text("\n".join(["video,label,part", *lines]) + "\n", encoding="utf-8")
    arguments = ["--annotations", parts, "--fold-column", "part", "--features", "rgb", "--json"]
    done = run("probe", folder / "store", *arguments)
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert (told["videos"], list(told["folds"])) == (4, ["test"])
    done = run("probe", folder / "store", *arguments, "--fold", "val", "--method", "kernel")
    told = json.loads(done.out)
    assert (told["videos"], list(told["folds"]), told["accuracy"]["rgb"]) == (2, ["val"], 1.0)
    lines.append(lines.pop().replace("bright", "striped"))
    parts.write_text("\n".join(["video,label,part", *lines]) + "\n", encoding="utf-8")
    assert json.loads(run("probe", folder / "store", *arguments).out)["untaught"] == 1
    only_train = tmp_path / "train.csv"
    lines = [line.rsplit(",", 1)[0] + ",train" for line in lines]
    only_train.write_text("\n".join(["video,label,part", *lines]) + "\n", encoding="utf-8")
    done = run("probe", folder / "store", "--annotations", only_train, *arguments[2:])
    assert (done.status, "none is left to test" in done.err) == (2, True)
    told = run("probe", folder / "store", *arguments[:-1]).err
    assert "1 of 4 test videos are of classes without a training video" in told


@pytest.mark.parametrize("column", ["film", "note"])
def test_random_folds_of_probe_keep_groups_whole(folder, tmp_path, column, monkeypatch):
    names = [f"{n}.avi" for n in range(12)]
    rows = [f"{name},{('dark', 'bright')[n % 2]},{n // 4}" for n, name in enumerate(names)]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join([f"video,label,{column}", *rows]) + "\n", encoding="utf-8")
    seen = {}

    def looked_at(store, networks, divisions, **options):
        seen.update(divisions)
        return probe(store, networks, divisions, **options)

    probe = flowpipe.features.probe.probe
    monkeypatch.setattr("flowpipe.features.probe.probe", looked_at)
    done = run("probe", folder / "store", "--annotations", listed, "--features", "rgb")
    assert done.status == 0, done.err
    film = dict(zip(names, (n // 4 for n in range(12)), strict=True))
    torn = any(
        {film[v.id] for v in train.videos} & {film[v.id] for v in test.videos}
        for train, test in seen.values()
    )
    assert torn == (column != "film")  # what is no column of groups divides nothing
    assert len(seen) == (3 if column == "film" else 5)
    assert ("groups: as given" in done.err) == (column == "film")


def test_cache_commands_on_a_store(folder, tmp_path):
    store = folder / "store"
    done = run("cache", "ls", store, "--json")
    told = json.loads(done.out)
    assert done.status == 0
    assert len(told["videos"]) == 36
    assert {recipe["name"] for recipe in told["recipes"]} == {"rgb", "flow", "maps"}
    assert "small-cnn on flow" in run("cache", "ls", store).out
    told = json.loads(run("cache", "info", store, "3", "--json").out)["entries"]
    assert [entry["features"] for entry in told] == ["flow", "maps", "rgb"]
    assert told[0]["source"]["recipe"]["flow"] == "dis"
    done = run("cache", "verify", "--deep", store)
    assert (done.status, "36 entries checked (every byte), 0 wrong" in done.err) == (0, True)
    done = run("cache", "export", store, "--format", "npy", "--out", tmp_path / "npy")
    assert done.status == 2
    assert "choose with --features" in done.err
    both = ["--features", "rgb,flow"]
    done = run("cache", "export", store, "--format", "npy", "--out", tmp_path / "npy", *both)
    assert done.status == 0, done.err
    assert np.load(tmp_path / "npy" / "3.npy").shape == (5, 64)
    done = run(
        "cache", "import", tmp_path / "npy", "--out", tmp_path / "back", "--name", "mine",
        "--fps", 25, "--stride", 1, "--offset", 1,
    )  # fmt: skip
    assert done.status == 0, done.err
    done = run(
        "probe", tmp_path / "back", "--annotations", folder / "videos" / "list.csv", "--json"
    )
    assert json.loads(done.out)["accuracy"]["mine"] == 1.0
    damaged = next(store.rglob("*.h5"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-60])
    try:
        assert run("cache", "verify", store).status == 1
        assert run("cache", "ls", store).status == 1
    finally:
        damaged.write_bytes(whole)


def test_heads_train_test_and_resume_on_cached_features(folder):
    done = run("train", folder / "heads.toml", "--fold", "all", "--out", folder / "run", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["accuracy"]["svm"] == 1.0
    assert told["videos"] == 12
    assert set(told["accuracy"]) == {"svm", "lstm", "maps", "fused"}
    assert not (folder / "run" / "cache").exists()  # nothing was extracted
    scores = {path: path.read_bytes() for path in (folder / "run" / "scores").glob("*.npz")}
    again = run("train", folder / "heads.toml", "--fold", "all", "--out", folder / "run")
    assert again.status == 0, again.err
    assert {path: path.read_bytes() for path in scores} == scores
    done = run("test", folder / "run", "--clips", 1)
    assert done.status == 0, done.err
    done = run("predict", folder / "run", folder / "videos")
    assert done.status == 2
    assert "look at cached features, which new videos have not" in done.err


def test_other_features_are_not_gone_on_with(folder, tmp_path):
    arguments = ["train", folder / "heads.toml", "--stream", "lstm", "--out", tmp_path / "run"]
    assert run(*arguments).status == 0
    done = run(
        "features", "small-cnn", "--model-arg", "width=3", "--random-weights", "--name", "flow",
        "--input", "flow", "--clip", "2,1", "--crop-size", "16x16",
        "--cache", folder / "flow.cache", "--out", folder / "store",
    )  # fmt: skip
    assert done.status == 0, done.err
    done = run(*arguments)
    assert done.status == 1
    assert "trained with other settings (features" in done.err


def test_config_refuses_features_without_a_store(folder, tmp_path):
    text = CONFIG.replace('features = "store"\n', "")
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    done = run("train", tmp_path / "x.toml")
    assert done.status == 2
    assert "set [data] features to the store" in done.err
    done = run("train", folder / "heads.toml", "--set", "streams.svm.features=[]")
    assert done.status == 2
    assert 'needs features = ["NAME", …]' in done.err
    assert len(open_cache(folder / "flow.cache")) == 12


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Two short videos in class folders, as a user has them."""
    path = tmp_path_factory.mktemp("videos")
    (path / "left").mkdir()
    (path / "right").mkdir()
    write_video(path / "left" / "a.mp4", moving_texture(14)[:, :, ::-1])
    write_video(path / "right" / "b.mp4", moving_texture(9))
    return path


def test_videos_become_files_in_one_command(videos, tmp_path):
    out = tmp_path / "npy"
    arguments = ["features", "small-cnn", videos, "--model-arg", "width=2", "--crop-size", "32x32"]
    two = ["--input", "rgb,flow", "--clip", "2,1", "--random-weights", "--flow", "dis"]
    done = run(*arguments, *two, "--workers", 1, "--out", out, "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert [row["video"] for row in told["files"]] == ["left/a.mp4", "right/b.mp4"]
    for name, frames in (("left/a", 14), ("right/b", 9)):
        values = np.load(out / f"{name}.npy")
        record = json.loads((out / f"{name}.json").read_text())
        assert values.shape == (frames - 2, 64) == (record["num_snippets"], 64)
        # Two flows span three frames: from the first until the third is shown.
        np.testing.assert_allclose(record["start_s"], np.arange(frames - 2) / 25, atol=1e-6)
        np.testing.assert_allclose(record["stop_s"], np.arange(2, frames) / 25, atol=1e-6)
        np.testing.assert_allclose(record["centre_s"], (np.arange(frames - 2) + 1) / 25, atol=1e-6)
        first, second = record["columns"]
        assert (first["features"], first["columns"]) == ("rgb", [0, 32])
        assert (second["input"], second["columns"]) == ("flow", [32, 64])
        assert first["random_weights"] is second["random_weights"] is True
        assert len(first["weights_sha256"]) == 64
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.h5")}
    again = run(*arguments, *two, "--workers", 1, "--out", out)
    assert again.status == 0, again.err
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.h5")} == before
    assert again.out.split() == [str(out / "left/a.npy"), str(out / "right/b.npy")]


def test_weights_of_a_file_are_named_beside_the_features(videos, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.save(build("small-cnn", num_classes=3, width=2).state_dict(), tmp_path / "epoch=3.pt")
    arguments = ["--model-arg", "width=2", "--crop-size", "32x32", "--workers", 1, "--json"]
    done = run(
        "features", "small-cnn", videos / "right", "--out", tmp_path / "out",
        "--weights", tmp_path / "epoch=3.pt", *arguments,
    )  # fmt: skip
    assert done.status == 0, done.err
    (column,) = json.loads(done.out)["files"][0]["columns"]
    assert (column["weights"], column["random_weights"]) == ("epoch=3.pt", False)


def test_the_files_of_i3d_are_not_mixed_up(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = build("i3d", num_classes=2, in_channels=2)
    torch.save(model.state_dict(), tmp_path / "flow.pt")
    assert named_network("i3d-flow", weights=tmp_path / "flow.pt").weights == "flow.pt"
    with pytest.raises(InvalidArgument, match=r"sees 2 channels, and rgb has 3; is it the file of"):
        named_network("i3d-rgb", weights=tmp_path / "flow.pt")


def test_a_public_file_brings_its_pre_processing(videos, tmp_path):
    """torchvision's names: R3D-18 saw 16 frames at 15 per second of 128×171, crop 112."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = build("r3d-18", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "r3d.pth")
    network = named_network("r3d", weights=tmp_path / "r3d.pth")
    assert (network.name, network.weights) == ("r3d-18", "r3d.pth")
    stream = network.stream
    assert (stream.frames, stream.crop_size, network.crop_scale) == (16, (112, 112), 0.875)
    assert stream.pixel_values.mean == (0.43216, 0.394666, 0.37645)
    made = wanted_recipe([network.wanted])
    assert (made.fps, made.size) == (15.0, (128, 171))
    places = ["--out", tmp_path / "npy", "--workers", 1, "--json", "--clip", "4,2"]
    done = run("features", "r3d", videos / "left", "--weights", tmp_path / "r3d.pth", *places)
    assert done.status == 0, done.err
    assert "torchvision r3d-18, 5 classes" in done.err
    (file,) = json.loads(done.out)["files"]
    assert (file["fps"], np.load(file["file"]).shape) == (15.0, (3, 512))
    assert (file["columns"][0]["network"], file["columns"][0]["random_weights"]) == (
        "r3d-18",
        False,
    )
    with pytest.raises(
        InvalidArgument, match="is of torchvision r3d-18, not of c3d; ask for r3d-18"
    ):
        named_network("c3d", weights=tmp_path / "r3d.pth")
    own = named_network("r3d-18", weights=tmp_path / "r3d.pth", origin="flowpipe")
    assert (own.stream.rgb_range, own.wanted.fps) == ("imagenet", None)
    torch.testing.assert_close(own.model.fc.weight, network.model.fc.weight)


def test_histograms_of_videos(videos, tmp_path):
    done = run("features", "flow-histogram", videos, "--out", tmp_path / "out", "--clip", "4,2")
    assert done.status == 0, done.err
    assert np.load(tmp_path / "out" / "left" / "a.npy").shape == (5, 432)
    rows = np.load(tmp_path / "out" / "right" / "b.npy").reshape(-1, 4, 3, 4, 9)
    assert (rows[..., 0] > 3 * rows[..., 4]).all()  # to the right, not to the left


def test_i3d_has_its_input_made_for_it():
    made = wanted_recipe([PRESETS["i3d-rgb"].wanted, PRESETS["i3d-flow"].wanted])
    assert (made.fps, made.short_side, made.flow, made.storage) == (25.0, 256, "tvl1", "i16")
    for preset in PRESETS.values():
        preset.wanted.check("i3d", made)
    assert wanted_recipe([PRESETS["i3d-rgb"].wanted]).flow == "dis"  # the quickest beside frames
    with pytest.raises(InvalidArgument, match="these networks want different frames"):
        wanted_recipe([PRESETS["i3d-rgb"].wanted, WantedInput()])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give --cache, a cache of flow, or VIDEOs"),
        (["--workers", "1", "--cache", "x"], "--flow and --workers are for VIDEOs"),
        (["x.mp4", "--recipe", "ab"], "--recipe chooses of a cache"),
        (["x.mp4", "--weights", "rgb=a.pt", "--input", "flow"], "give no more"),
        (["x.mp4", "--weights", "a.pt", "--input", "rgb,flow"], "give one for each"),
        (["x.mp4", "--input", "sound"], '"sound" is not one of rgb, flow, rgbdiff'),
    ],
)
def test_features_of_videos_refuse_with_a_sentence(tmp_path, arguments, told):
    done = run("features", "small-cnn", *arguments, "--out", tmp_path / "out")
    assert done.status == 2
    assert told in done.err


def test_a_folder_of_other_features_is_not_written_over(videos, tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((3, 4)))
    done = run("features", "flow-histogram", videos, "--out", tmp_path)
    assert done.status == 2
    assert ".npy files of another origin" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]


def test_a_network_of_a_run_refuses_flow_of_another_method(videos, tmp_path, write_video):
    for label, number in (("left", 2), ("right", 3)):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for clip in (0, number):
            write_video(tmp_path / "videos" / label / f"{label}{clip}.mp4", moving_texture(6))
    config = tmp_path / "one.toml"
    config.write_text(RUN_CONFIG, encoding="utf-8")
    done = run("train", config, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    for flow in (["farneback"], ["dis", "--flow-arg", "preset=fast"], ["dis"]):
        cache = tmp_path / "-".join(flow)
        done = run("extract", videos, "--flow", *flow, "--workers", 1, "--out", cache)
        assert done.status == 0, done.err
    places = ["--out", tmp_path / "store", "--cache"]
    done = run("features", tmp_path / "run", *places, tmp_path / "farneback")
    assert done.status == 2
    assert "does not know such input: flow farneback, not dis; extract the videos" in done.err
    done = run("features", tmp_path / "run", *places, tmp_path / "dis---flow-arg-preset=fast")
    assert (done.status, "dis with preset fast" in done.err) == (2, True)
    assert not (tmp_path / "store").exists()
    done = run("features", tmp_path / "run", *places, tmp_path / "dis", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["name"] == "temporal"
    done = run("probe", tmp_path / "store")
    assert f"temporal: of the run {tmp_path / 'run'}, fold split; videos on which" in done.err
    done = run("features", tmp_path / "run", videos, "--out", tmp_path / "npy", "--json")
    assert done.status == 0, done.err  # extracted as the run's videos were
    column = json.loads(done.out)["files"][0]["columns"][0]
    assert column["weights"] == f"the run {tmp_path / 'run'}, fold split"
