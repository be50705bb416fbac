"""`flowpipe train FOLDER`: what is seen, what is chosen, and that the choice follows the data."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import run_cli

from flowpipe.cli.train import start_from
from flowpipe.datasets import Dataset, Video
from flowpipe.errors import AnnotationError, ConfigError
from flowpipe.experiment import folder as front
from flowpipe.experiment.automatic import choose, run_folder
from flowpipe.experiment.data import read_dataset
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.mirror import named_pair
from flowpipe.experiment.settings import DataSettings, settings_from
from flowpipe.experiment.survey import common_rate, survey

SIDE, FRAMES, FPS = 64, 30, 15


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([25.0] * 5, 12.5),
        ([30.0] * 5, 15.0),
        ([10.0] * 3, 10.0),
        ([30.0, 15.0, 30.0], 15.0),
        ([25.0, 30.0, 29.97], 12.5),
        ([60.0], 15.0),
        ([float("nan")], None),
        ([float("nan"), 24.0], 12.0),
    ],
)
def test_the_rate_is_one_that_all_reach(rates, expected):
    assert common_rate(np.array(rates)) == expected


@pytest.mark.parametrize(
    ("classes", "pair"),
    [
        (("swipe_left", "swipe_right", "tap"), ("swipe_left", "swipe_right")),
        (("rotate clockwise", "rotate counterclockwise"),
         ("rotate clockwise", "rotate counterclockwise")),
        (("left", "bright"), ()),
        (("turn-left", "walk-right"), ()),
        (("jump", "run"), ()),
    ],
)  # fmt: skip
def test_mirror_images_are_known_by_their_names(classes, pair):
    assert named_pair(classes) == pair


def texture(rng: np.random.Generator, coarse: int = 8) -> np.ndarray:
    """A picture to be cut from, twice as large as a frame."""
    small = rng.integers(0, 255, (2 * SIDE // coarse, 2 * SIDE // coarse, 1), np.uint8)
    return np.kron(small, np.ones((coarse, coarse, 3), np.uint8))


def moving(picture: np.ndarray, steps: list[tuple[int, int]]) -> np.ndarray:
    """Frames in which the picture moves by (x, y) px from each to the next."""
    x = y = SIDE // 2
    frames = []
    for dx, dy in [(0, 0), *steps]:
        x, y = (x - dx) % SIDE, (y - dy) % SIDE
        frames.append(picture[y : y + SIDE, x : x + SIDE])
    return np.stack(frames)


def still_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """The class is the grain of the texture; it moves anywhere."""
    steps = [tuple(int(v) for v in rng.integers(-1, 2, 2)) for _ in range(FRAMES - 1)]
    return moving(texture(rng, (4, 16)[label]), steps)


def short_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """The class is whether neighbouring frames move alike or to and fro; the mean is the same."""
    step = 2 if rng.integers(2) else -2
    if label:
        steps = [(step if k % 2 else -step, 0) for k in range(FRAMES - 1)]
    else:
        steps = [(step if k // 14 % 2 else -step, 0) for k in range(FRAMES - 1)]
    return moving(texture(rng), steps)


def long_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """The class is the order of two motions that ten flows hardly ever see together."""
    first, second = ((2, 0), (0, 2)) if label else ((0, 2), (2, 0))
    return moving(texture(rng), [first] * 14 + [(0, 0)] + [second] * 14)


def one_way_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """The class is whether it goes left or right."""
    return moving(texture(rng), [(2 if label else -2, 0)] * (FRAMES - 1))


def write_folder(root: Path, draw, write_video, count: int = 24) -> Path:
    for label in (0, 1):
        (root / f"class{label}").mkdir(parents=True)
        for take in range(count // 2):
            rng = np.random.default_rng([label, take])
            write_video(root / f"class{label}" / f"{take:02}.mp4", draw(label, rng), fps=FPS)
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video) -> Path:
    return write_folder(tmp_path_factory.mktemp("front") / "moves", short_clip, write_video, 12)


def test_a_survey_sees_sizes_rates_and_motion(videos):
    seen = survey(read_dataset(DataSettings(videos)))
    assert seen.class_counts == {"class0": 6, "class1": 6}
    assert (seen.short_side, seen.fps) == (SIDE, 15.0)
    assert seen.mean_length_s == pytest.approx(2.0, abs=0.1)
    assert seen.rms_px == pytest.approx(2 / np.sqrt(2), rel=0.3)
    assert seen.unreadable == {}


@pytest.mark.parametrize("count", [2, 9, 30])
def test_videos_of_half_a_second_are_surveyed_and_planned(tmp_path, write_video, count):
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "short" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        texture = rng.integers(0, 255, (12, 40)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        frames = [texture[:, 2 * t : 2 * t + 64, None].repeat(3, 2) for t in range(count)]
        write_video(folder / f"{number}.avi", np.stack(frames))
    dataset = read_dataset(DataSettings(tmp_path / "short"))
    seen = survey(dataset)
    # One of two frames at half the rate is a pair with no other: no motion is known.
    moved = 2 * 25 / (seen.fps or 25)
    assert np.median(seen.motion_px) == pytest.approx(moved if count > 2 else 0.0, rel=0.2)
    done = run_cli("train", tmp_path / "short", "--dry-run", "--out", tmp_path / "run")
    assert done.status == 0, done.err


def test_an_unreadable_video_is_named_and_does_not_stop_the_survey(videos, tmp_path):
    root = tmp_path / "moves"
    shutil.copytree(videos, root)
    (root / "class0" / "broken.mp4").write_bytes(b"no video")
    seen = survey(read_dataset(DataSettings(root)))
    assert list(seen.unreadable) == ["class0/broken.mp4"]
    video = Video("broken.mp4", root / "class0" / "broken.mp4", ("x",))
    alone = Dataset((video,), ("x",))
    with pytest.raises(AnnotationError, match="none of 1 videos can be read"):
        survey(alone)


def test_a_plan_says_what_it_chose_and_why(videos):
    plan = choose(read_dataset(DataSettings(videos)), {"root": str(videos)}, minutes=30)
    assert set(plan.table["streams"]) == {"motion", "still", "whole-clip"}
    assert plan.table["streams"]["motion"]["flow_scale_px"] == pytest.approx(1.4, rel=0.3)
    assert plan.table["extract"]["fps"] == 15.0
    assert plan.table["data"]["folds"] == 5
    assert "flip" not in plan.table["data"]
    text = "\n".join(plan.reasons)
    for word in ("folds: 5 at random", "flow: dis+tvl1", "motion: 9 flows of 1.2 s", "epochs"):
        assert word in text
    assert plan.flows == pytest.approx(12 * 30, rel=0.1)
    assert plan.minutes > 0


def test_less_time_means_less_training(videos):
    dataset = read_dataset(DataSettings(videos))
    seen = survey(dataset)

    def clips(minutes: float) -> int:
        table = choose(dataset, {"root": str(videos)}, minutes=minutes, seen=seen).table["train"]
        return table["epochs"] * table["clips_per_video"]

    assert clips(0.001) < clips(1e6)


def test_an_annotation_file_beside_the_videos_is_taken(videos, tmp_path):
    root = tmp_path / "moves"
    shutil.copytree(videos, root)
    rows = ["clip,label,actor,fold_of_three"]
    for label in (0, 1):
        rows += [f"class{label}/{take:02}.mp4,kind{label},a{take},{take % 3}" for take in range(6)]
    (root / "splits.csv").write_text("\n".join(rows) + "\n")
    begun = front.start(root, runs=tmp_path / "runs")
    assert begun.plan is not None
    assert "folds: those of the annotations (0, 1, 2)" in begun.plan.reasons
    dataset = read_dataset(begun.settings.data)
    assert dataset.classes == ("kind0", "kind1")
    assert {video.group for video in dataset.videos} == {f"a{take}" for take in range(6)}


def test_runs_are_numbered(tmp_path):
    assert run_folder(tmp_path, "my videos") == tmp_path / "my-videos"
    (tmp_path / "my-videos").mkdir()
    assert run_folder(tmp_path, "my videos") == tmp_path / "my-videos-2"


def test_one_class_and_the_folder_of_a_run_are_refused(videos, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(videos / "class0", one / "class0")
    with pytest.raises(AnnotationError, match="of 1 class; a classifier needs two"):
        front.start(one, runs=tmp_path / "runs")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        front.start(tmp_path / "run")


def test_a_dry_run_computes_nothing(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_cli("train", videos, "--dry-run", "--json")
    assert done.status == 0
    record = json.loads(done.out)
    assert record["config"]["data"]["root"] == str(videos.resolve())
    assert record["minutes"] > 0
    assert "about" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_is_trained_resumed_and_trained_again(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("train", videos, "--folds", 2, "--set", "train.epochs=3", "--json")
    first = run_cli(*command)
    assert first.status == 0, first.err
    out = tmp_path / "runs" / "moves"
    table = tomllib.loads((out / "config.toml").read_text())
    assert table["train"]["epochs"] == 3
    # The configuration that was written gives the same run, with nothing trained anew.
    again = run_cli("train", out / "config.toml", "--fold", "all", "--out", out, "--json")
    assert json.loads(again.out)["accuracy"] == json.loads(first.out)["accuracy"]
    second = run_cli(*command)
    assert json.loads(second.out)["out"] == "runs/moves-2"
    # A run that was cut off goes on where it is.
    (out / "results.json").unlink()
    resumed = run_cli("train", videos)
    assert resumed.status == 0, resumed.err
    assert "resumed" in resumed.err
    assert not (tmp_path / "runs" / "moves-3").exists()
    assert "chance is 50.0%" in resumed.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "winner"),
    [(still_clip, "still"), (short_clip, "motion"), (long_clip, "whole-clip")],
)
def test_the_stream_that_counts_follows_the_data(draw, winner, write_video, tmp_path):
    root = write_folder(tmp_path / "videos", draw, write_video, 40)
    begun = front.start(root, runs=tmp_path / "runs", num_folds=2)
    result = Experiment(begun.settings, begun.out).run()
    accuracy = result.as_record()["accuracy"]
    assert accuracy["fused"] >= 0.9
    weights = [fold["weights"] for fold in result.folds]
    assert all(row[winner] > 0 for row in weights)
    assert accuracy[winner] == max(accuracy[name] for name in begun.settings.streams)


def test_another_network_gets_no_parameters_of_the_chosen_one(videos, tmp_path):
    own = "streams.motion.model=resnet18-tiny"
    given = "streams.motion.model_parameters.dropout=0.5"
    for overrides, left in (((own,), {}), ((own, given), {"dropout": 0.5})):
        begun = front.start(videos, runs=tmp_path, overrides=overrides)
        assert begun.settings.streams["motion"].model_parameters == left
        assert begun.plan.reasons[-1] == "in place of what was chosen: " + ", ".join(overrides)
    begun = front.start(videos, runs=tmp_path, overrides=["streams.still.model=resnet18-tiny"])
    still = begun.settings.streams["still"]
    assert (still.input, still.crop_size) == ("rgb", begun.settings.streams["motion"].crop_size)


def test_an_unfinished_run_is_found_by_what_was_asked_for(videos, tmp_path):
    asked = {"runs": tmp_path / "runs", "num_folds": 2, "minutes": 1.0}
    begun = front.start(videos, **asked)
    assert begun.plan is not None
    front.write_config(begun.out, begun.plan)
    again = front.start(videos, **asked)
    assert (again.plan, again.out) == (None, begun.out)
    assert again.settings == begun.settings
    other = front.start(videos, **(asked | {"num_folds": 3}))
    assert other.plan is not None
    assert other.out == tmp_path / "runs" / "moves-2"


def test_what_a_mirror_turns_into_another_class_is_not_mirrored(tmp_path, write_video):
    """Nothing in the names says so; the settings leave flip and scale open, also on resuming."""
    write_folder(tmp_path / "moves", one_way_clip, write_video)
    told: list[str] = []
    begun = front.start(tmp_path / "moves", runs=tmp_path / "runs", num_folds=2, minutes=0.02)
    assert begun.settings.data.flip == "auto"
    stream = {"motion": begun.settings.streams["motion"]}
    stream["motion"] = replace(stream["motion"], flow_scale_px="auto", epochs=2)
    open_settings = replace(begun.settings, streams=stream)
    experiment = Experiment(open_settings, begun.out, on_message=told.append)
    experiment.run("0")
    assert any("in a mirror, the flow of class0 is that of class1" in text for text in told)
    assert json.loads((begun.out / "settings.json").read_text())["data"]["flip"] is False
    again = Experiment(open_settings, begun.out)
    again.run("0")  # goes on with what was trained, and refuses nothing
    assert again.settings.data.flip is False
    scale = again.settings.streams["motion"].flow_scale_px
    assert scale == experiment.settings.streams["motion"].flow_scale_px != "auto"


def test_a_config_that_is_there_is_gone_on_with_or_left_alone(videos, tmp_path):
    out = tmp_path / "run"
    given = {"out": out, "overrides": ["train.epochs=2"], "num_folds": 2}
    begun = front.start(videos, **given)
    path = front.write_config(out, begun.plan)
    written = path.read_bytes()
    again = front.start(videos, **given)
    assert again.plan is None
    assert again.settings == begun.settings
    for other in ({"overrides": ["train.epochs=3"]}, {"num_folds": 3}, {"minutes": 5.0}):
        with pytest.raises(ConfigError, match=r"config\.toml is there already"):
            front.start(videos, **given | other)
    path.write_text("# of a person\n")
    with pytest.raises(ConfigError, match=r"config\.toml is there already"):
        front.start(videos, out=out)
    assert (path.read_text(), written[:1]) == ("# of a person\n", b"#")


def test_weights_are_for_the_still_stream_unless_another_is_named(videos, tmp_path):
    begun = front.start(videos, runs=tmp_path, weights=["a.pth", "motion=b.pth"])
    streams = begun.settings.streams
    assert streams["still"].weights == Path("a.pth").absolute()
    assert streams["motion"].weights == Path("b.pth").absolute()
    assert streams["whole-clip"].weights is None


def test_a_file_for_all_streams_is_for_those_that_have_a_network(tmp_path):
    table = {
        "data": {"root": "."},
        "streams": {"a": {"input": "rgb"}, "whole": {"input": "flow-histogram"}},
    }
    settings = settings_from(table, where="config.toml", folder=tmp_path)
    given = start_from(settings, [str(tmp_path / "x.pth")])
    assert given.streams["a"].weights == tmp_path / "x.pth"
    assert given.streams["whole"].weights is None
    with pytest.raises(ConfigError, match="has no network to give weights to"):
        start_from(settings, ["whole=x.pth"])
