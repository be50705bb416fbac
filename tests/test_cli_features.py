"""`flowpipe features`, `probe`, `cache` on stores, and `train` on cached features."""

import hashlib
import json

import numpy as np
import pytest
from support import run_cli as run

from flowpipe.cache import open_cache
from flowpipe.errors import InvalidArgument
from flowpipe.features.presets import PRESETS

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
