"""A configuration from videos to fused scores, on twelve tiny videos of a square that moves.

The two classes are "left" and "right", which a mirror turns into each other: what reaches the
networks decides whether they can be learnt. The three actors are the folds.
"""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flowpipe.cache import open_cache
from flowpipe.cache.pack import pack
from flowpipe.errors import AnnotationError, ConfigError, InvalidArgument, VideoError, WeightsError
from flowpipe.experiment.data import choose_folds, make_fold, read_dataset
from flowpipe.experiment.experiment import PREDICT_CACHE, Experiment
from flowpipe.experiment.results import RESULTS_FILE, SCORES_FOLDER, read_history, read_results
from flowpipe.experiment.settings import Settings, load_settings
from flowpipe.scores import load_scores
from flowpipe.training.checkpoint import CHECKPOINT

ACTORS = ("ann", "ben", "cid")
CONFIG = """
title = "Left and right"
[data]
root = "videos"
annotations = "list.csv"
fold_column = "actor"
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.spatial]
input = "rgb"
crop_size = [24, 24]
model_parameters = {width = 4}
[streams.temporal]
input = "flow"
frames = 4
crop_size = [24, 24]
flow_scale_px = 2.0
model_parameters = {width = 4}
epochs = 12
[train]
epochs = 2
batch_size = 8
optimiser = "adamw"
learning_rate = 0.02
clips_per_video = 2
scales = [1.0]
[test]
clips = 2
"""


def draw_square(label: str, seed: int) -> np.ndarray:
    """Draw ten frames of 32×32 px, in which a square moves two pixels a frame to one side."""
    rng = np.random.default_rng(seed)
    frames = np.empty((10, 32, 32, 3), np.uint8)
    frames[:] = rng.integers(0, 60, (32, 32, 1))
    square = rng.integers(120, 255, (12, 12, 1))
    top, first = rng.integers(2, 18), rng.integers(0, 3)
    for number, frame in enumerate(frames):
        left = first + number if label == "right" else 19 - first - number
        frame[top : top + 12, left : left + 12] = square
    return frames


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_video) -> Path:
    """A folder with videos/, videos/list.csv and config.toml; its cache fills with use."""
    folder = tmp_path_factory.mktemp("data")
    rows = [("video", "label", "actor", "half")]
    for number, actor in enumerate(ACTORS):
        for label in ("left", "right"):
            (folder / "videos" / label).mkdir(parents=True, exist_ok=True)
            for take in range(2):
                name = f"{label}/{actor}_{take}.mp4"
                frames = draw_square(label, seed=10 * number + take)
                write_video(folder / "videos" / name, frames)
                rows.append((name, label, actor, "test" if actor == "cid" else "train"))
    with (folder / "videos" / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def settings_of(data: Path, *overrides: str) -> Settings:
    return load_settings(data / "config.toml", [f"data.cache={data / 'cache'}", *overrides])


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """All three folds, trained once."""
    out = tmp_path_factory.mktemp("run")
    return Experiment(settings_of(data), out).run("all")


def test_all_folds_test_each_video_once_and_give_their_mean(whole_run):
    record = whole_run.as_record()
    assert [fold["fold"] for fold in record["folds"]] == list(ACTORS)
    assert [fold["videos"] for fold in record["folds"]] == [4, 4, 4]
    for name in ("spatial", "temporal"):
        scores = load_scores(whole_run.out / SCORES_FOLDER / f"{name}.npz")
        assert len(set(scores.ids)) == len(scores.ids) == 12
        right = scores.predictions_N == scores.labels_N
        by_fold = [
            np.mean([hit for hit, video in zip(right, scores.ids, strict=True) if actor in video])
            for actor in ACTORS
        ]
        assert [fold[name] for fold in record["folds"]] == pytest.approx(by_fold)
        assert record["accuracy"][name] == pytest.approx(np.mean(by_fold))
    assert record["accuracy"]["fused"] == record["fusions"]["logsum"]
    assert set(record["fusions"]) == {"logsum", "average", "svm"}
    assert read_results(whole_run.out) == record


def test_flow_tells_left_from_right_where_no_mirror_mixes_them(whole_run, data, tmp_path):
    assert whole_run.as_record()["accuracy"]["temporal"] == 1.0
    mirrored = settings_of(data, "data.flip=true").only("temporal")
    Experiment(mirrored, tmp_path).run("ann")
    (last, *_) = reversed(read_history(tmp_path, "ann", "temporal"))
    # Half of the training clips wear the other class's motion.
    assert last["accuracy"] < 0.8
    (unmirrored, *_) = reversed(read_history(whole_run.out, "ann", "temporal"))
    assert unmirrored["accuracy"] > 0.9


def test_the_test_fold_is_not_trained_on(data):
    settings = settings_of(data)
    dataset = read_dataset(settings.data)
    for name in choose_folds(dataset, "all"):
        division = make_fold(settings.data, dataset, name, seed=0)
        train = {record.id for record in division.train.videos}
        test = {record.id for record in division.test.videos}
        assert len(train) == 8
        assert len(test) == 4
        assert not train & test
        assert all(division.name in video for video in test)


class Killed(Exception):
    """Ends a run in the midst of an epoch's report."""


def test_a_run_ended_anywhere_goes_on_to_the_same_numbers(data, whole_run, tmp_path):
    whole = whole_run.as_record()["folds"][0]
    for stop_at in (1, 3, 9):  # epochs of spatial, then temporal
        out = tmp_path / str(stop_at)
        told = []

        def on_progress(stage, share, text, told=told, stop_at=stop_at):
            told.append(text)
            if sum("epoch" in line for line in told) == stop_at:
                raise Killed

        with pytest.raises(Killed):
            Experiment(settings_of(data), out, on_progress=on_progress).run("ann")
        again = Experiment(settings_of(data), out).run("ann")
        assert again.as_record()["folds"][0] == whole
        for name in ("spatial", "temporal"):
            mine = load_scores(out / SCORES_FOLDER / f"{name}.npz")
            scores = load_scores(whole_run.out / SCORES_FOLDER / f"{name}.npz")
            assert np.array_equal(mine.logits_NK, scores.select(mine.ids).logits_NK)


def test_a_finished_run_is_not_trained_again(whole_run, data):
    before = {path: path.stat().st_mtime_ns for path in whole_run.out.rglob(CHECKPOINT)}
    assert len(before) == 6
    texts = []
    again = Experiment(
        settings_of(data),
        whole_run.out,
        on_progress=lambda stage, share, text: texts.append(text),
    ).run("all")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not any("epoch" in text for text in texts)
    assert again.as_record()["folds"] == whole_run.as_record()["folds"]
    assert again.extraction is not None
    assert (again.extraction.done, again.extraction.skipped) == (0, 12)


def test_other_settings_do_not_go_on_with_a_run(whole_run, data):
    with pytest.raises(WeightsError, match=r"trained with other settings .*learning_rate 0.02 → 0"):
        Experiment(settings_of(data, "train.learning_rate=0.01"), whole_run.out).run("ann")
    # What only says where and how fast is no other setting.
    Experiment(settings_of(data, "train.memory_mb=0"), whole_run.out).run("ann")
    Experiment(settings_of(data), whole_run.out).run("all")


def test_testing_again_gives_the_same_numbers(whole_run, tmp_path):
    experiment = Experiment.of_run(whole_run.out)
    again = experiment.test(out=tmp_path)
    assert again.as_record()["folds"] == experiment.results["folds"]
    more = dataclasses.replace(experiment.settings.test, crops="five")
    tested = experiment.test(more, tmp_path / "five")
    protocol = load_scores(tmp_path / "five" / SCORES_FOLDER / "temporal.npz").protocol
    assert (protocol["clips"], protocol["crops"], protocol["views"]) == (2, "five", 5)
    assert [fold["fold"] for fold in tested.as_record()["folds"]] == list(ACTORS)


def test_another_data_set_needs_three_keys(data, tmp_path):
    other = shutil.copytree(data / "videos", tmp_path / "elsewhere" / "clips")
    (other / "list.csv").rename(other / "mine.csv")
    settings = load_settings(
        data / "config.toml",
        [
            f"data.root={other}",
            "data.annotations=mine.csv",
            "data.fold_column=half",
            f"data.cache={tmp_path / 'cache'}",
        ],
    )
    result = Experiment(settings.only("spatial"), tmp_path / "run").run()
    # A column of "train" and "test" has one division.
    assert [fold["fold"] for fold in result.as_record()["folds"]] == ["test"]
    assert {Path(video).stem[:3] for video in result.streams["spatial"].ids} == {"cid"}
    assert result.as_record()["headline"] == "spatial"
    assert set(result.as_record()["accuracy"]) == {"spatial"}


def test_class_folders_are_split_by_the_pattern_of_a_group(data):
    table = {"annotations": None, "fold_column": None, "group_pattern": r"(\w+)_\d"}
    settings = settings_of(data)
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, **table))
    dataset = read_dataset(settings.data)
    assert dataset.classes == ("left", "right")
    assert choose_folds(dataset, None) == choose_folds(dataset, "all") == ["split"]
    division = make_fold(settings.data, dataset, "split", seed=0)
    halves = [
        {Path(video.id).stem[:3] for video in half.videos}
        for half in (division.train, division.test)
    ]
    assert halves[0] | halves[1] == set(ACTORS)
    assert not halves[0] & halves[1]
    with pytest.raises(ConfigError, match=r'fold "ann": the data has no folds; set .*fold_column'):
        choose_folds(dataset, "ann")


def test_an_unknown_fold_is_refused_with_the_known(data, tmp_path):
    with pytest.raises(AnnotationError, match='fold "dan" must be one of: ann, ben, cid'):
        Experiment(settings_of(data), tmp_path).run("dan")


def test_a_video_without_flow_stops_the_experiment_by_name(data, tmp_path):
    videos = shutil.copytree(data / "videos", tmp_path / "videos")
    (videos / "left" / "ann_0.mp4").write_text("no video\n")
    settings = load_settings(
        data / "config.toml", [f"data.root={videos}", f"data.cache={tmp_path / 'cache'}"]
    )
    with pytest.raises(VideoError, match=r"1 videos? ha.* no flow.*ann_0\.mp4.*an empty fold"):
        Experiment(settings, tmp_path / "run").run()


def test_a_packed_cache_is_trained_on_as_it_is(data, whole_run, tmp_path):
    packed = tmp_path / "cache.h5"
    pack(data / "cache", packed)
    settings = settings_of(data, f"data.cache={packed}")
    result = Experiment(settings, tmp_path / "run").run("ann")
    assert (result.extraction.done, result.extraction.skipped) == (0, 12)
    assert result.extraction.flows_total == 12 * 9
    for name in ("spatial", "temporal"):
        file = Path("fold-ann") / name / "scores.npz"
        mine, other = load_scores(tmp_path / "run" / file), load_scores(whole_run.out / file)
        np.testing.assert_array_equal(mine.logits_NK, other.logits_NK)
    with pytest.raises(ConfigError, match=r"cache\.h5 holds no flow of the settings of \[extract"):
        Experiment(
            settings_of(data, f"data.cache={packed}", "extract.short_side=24"),
            tmp_path / "other",
        ).run("ann")


def test_a_video_that_a_pack_lacks_is_named(data, whole_run, tmp_path, write_video):
    packed = tmp_path / "cache.h5"
    pack(data / "cache", packed)
    videos = shutil.copytree(data / "videos", tmp_path / "videos")
    with (videos / "list.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(("left/new.mp4", "left", "ann", "train"))
    write_video(videos / "left" / "new.mp4", draw_square("left", seed=7))
    settings = settings_of(data, f"data.root={videos}", f"data.cache={packed}")
    with pytest.raises(VideoError, match=r'1 videos? ha.*"left/new\.mp4" is not in .*cache\.h5'):
        Experiment(settings, tmp_path / "run").run("ann")


def test_predicts_new_videos_and_tells_of_those_it_cannot_read(whole_run, tmp_path, write_video):
    new = tmp_path / "new.mp4"
    write_video(new, draw_square("left", seed=99))
    text = tmp_path / "text.mp4"
    text.write_text("no video\n")
    found = Experiment.of_run(whole_run.out).predict([new, text])
    assert found.names[:2] == ["spatial", "temporal"]
    record = found.as_record(top=5)
    (streams,) = record["videos"].values()
    assert list(streams) == found.names
    for ranked in streams.values():
        assert [name for name, _ in ranked] in (["left", "right"], ["right", "left"])
        assert sum(share for _, share in ranked) == pytest.approx(1)
        assert ranked[0][1] >= ranked[1][1]
    assert streams["temporal"][0][0] == "left"
    assert record["failed"] == 1
    assert "text.mp4" in record["failures"][0]["name"]
    assert (whole_run.out / PREDICT_CACHE).is_dir()
    with pytest.raises(ConfigError, match=r'has no fold "bem" \(did you mean "?ben"?\?\)'):
        Experiment.of_run(whole_run.out).predict([new], "bem")


def test_prediction_in_a_run_of_another_user_goes_elsewhere(
    whole_run, tmp_path, write_video, monkeypatch
):
    run = shutil.copytree(whole_run.out, tmp_path / "run")
    shutil.rmtree(run / PREDICT_CACHE, ignore_errors=True)
    path = write_video(tmp_path / "new.avi", np.zeros((6, 24, 32, 3), np.uint8))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = Experiment.of_run(run).predict([path])
    assert [len(scores.ids) for scores in found.scores] == [1, 1, 1]
    assert not (run / PREDICT_CACHE).exists()


def test_predicting_a_video_of_the_cache_computes_no_flow(data, whole_run, tmp_path):
    run = shutil.copytree(whole_run.out, tmp_path / "run")
    shutil.rmtree(run / PREDICT_CACHE, ignore_errors=True)
    found = Experiment.of_run(run).predict([data / "videos" / "right"], "ann")
    assert not (run / PREDICT_CACHE).exists()
    assert set(open_cache(data / "cache").labels.values()) == {"left", "right"}
    (temporal,) = [scores for scores in found.scores if scores.stream == "temporal"]
    tested = load_scores(run / "fold-ann" / "temporal" / "scores.npz")
    rows = [tested.ids.index(f"right/ann_{take}.mp4") for take in range(2)]
    mine = [temporal.ids.index(f"ann_{take}.mp4") for take in range(2)]
    assert len(temporal.ids) == 6
    assert np.allclose(temporal.logits_NK[mine], tested.logits_NK[rows], atol=1e-5)


def test_the_report_needs_nothing_else_and_has_all_parts(whole_run):
    page = Experiment.of_run(whole_run.out).report().read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for heading in (
        "Results",
        "Folds",
        "Frames and their flow",
        "Learning curves",
        "Confusion",
        "Worst mistakes",
        "Protocol",
        "Versions",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert page.count('src="data:image/png;base64,') == 4  # a frame and its flow, two classes
    for text in ("fused: logsum", "fused: svm", "left taken for", "test.clips", "torch"):
        assert text in page


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no finished run at .*; flowpipe train makes one"):
        Experiment.of_run(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    (tmp_path / RESULTS_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="is damaged"):
        Experiment.of_run(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r'train: unknown key "epoch" \(did you mean "epochs"\?\)'),
        ("streams.temporal.flow_scale=1", "flow_scale.*flow_scale_px"),
        ("tests.clips=3", "tests.*test"),
        ("train.epochs=many", "epochs"),
        ("extract.storage=u9", "u9.*u8"),
        ("streams.fused.input=rgb", 'stream "fused" must be'),
    ],
)
def test_settings_that_are_not_known_are_refused(data, override, message):
    with pytest.raises(ConfigError, match=message):
        settings_of(data, override)


def test_paths_are_relative_to_the_configuration(data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(data / "config.toml", ["streams.spatial.weights=w.pth"])
    assert settings.data.root == (data / "videos").resolve()
    assert settings.data.annotations == (data / "videos" / "list.csv").resolve()
    assert settings.streams["spatial"].weights == (data / "w.pth").resolve()


def test_one_stream_is_chosen_by_name(data):
    settings = settings_of(data)
    assert list(settings.only("temporal").streams) == ["temporal"]
    assert settings.only(None) is settings
    with pytest.raises(ConfigError, match=r'no stream "temporel".*"?temporal"?.*there are'):
        settings.only("temporel")


def test_a_clip_that_asks_for_nonsense_is_refused_before_training(data, tmp_path):
    settings = settings_of(data, "streams.temporal.frames=0")
    with pytest.raises(InvalidArgument, match="frames 0 and frame_step 1 must be ≥ 1"):
        Experiment(settings, tmp_path).run()


def test_streams_are_chosen_by_held_out_videos(data, tmp_path):
    """Of left and right a frame shows nothing, flow all; whole clips need no network."""
    settings = settings_of(
        data,
        "train.validation=0.25",
        "streams.long.input=flow-histogram",
        "fuse.headline=validated",
        'fuse.methods=["validated"]',
        "fuse.training_clips=0",
        "train.epochs=8",
    )
    result = Experiment(settings, tmp_path).run("all")
    record = result.as_record()
    assert record["accuracy"]["long"] == 1.0
    assert record["accuracy"]["fused"] == 1.0
    for fold in ACTORS:
        folder = tmp_path / f"fold-{fold}"
        held = {name: load_scores(folder / name / "validation_scores.npz").ids for name in
                ("spatial", "temporal", "long")}  # fmt: skip
        assert len(set(held.values())) == 1
        tested = set(load_scores(folder / "long" / "scores.npz").ids)
        assert tested.isdisjoint(held["long"])
    history = read_history(tmp_path, "ann", "temporal")
    assert all(0 <= each["validation_accuracy"] <= 1 for each in history)
    # A second run trains nothing and says the same.
    again = Experiment(settings, tmp_path).run("all").as_record()
    assert again["accuracy"] == record["accuracy"]
    video = sorted((data / "videos" / "left").glob("*.mp4"))[0]
    predicted = Experiment.of_run(tmp_path).predict([video])
    assert [scores.stream for scores in predicted.scores][-1] == "fused"
    assert predicted.best(predicted.scores[-1], 0, 1)[0][0] == "left"


def test_a_second_training_learns_from_the_held_out_videos_too(data, tmp_path):
    """The streams are weighed by the first one, and tested by the second."""
    common = ("train.validation=0.25", "train.epochs=2", "fuse.training_clips=0")
    runs = {}
    for keep in ("last", "refit"):
        settings = settings_of(data, *common, f"train.keep={keep}")
        Experiment(settings.only("temporal"), tmp_path / keep).run("ann")
        runs[keep] = tmp_path / keep / "fold-ann" / "temporal"
    first = runs["refit"] / "held-out"
    losses = {
        folder: [
            json.loads(line)["loss"]
            for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        ]
        for folder in (*runs.values(), first)
    }
    assert losses[first] == losses[runs["last"]]
    assert losses[first] != losses[runs["refit"]]
    held = [load_scores(folder / "validation_scores.npz") for folder in runs.values()]
    np.testing.assert_array_equal(held[0].logits_NK, held[1].logits_NK)
    # The curve of held-out videos is that of the training that did not see them.
    shown = [read_history(tmp_path / keep, "ann", "temporal") for keep in runs]
    assert [r["validation_loss"] for r in shown[0]] == [r["validation_loss"] for r in shown[1]]
    assert [r["loss"] for r in shown[1]] == losses[runs["refit"]]


def test_patience_goes_with_no_second_training(data):
    with pytest.raises(ConfigError, match="patience 3 must be 0 with keep refit"):
        settings_of(data, "train.keep=refit", "train.patience=3", "train.validation=0.2")


def test_validated_fusion_without_validation_is_refused(data):
    with pytest.raises(ConfigError, match="validated needs videos held out"):
        settings_of(data, "fuse.headline=validated")


def test_the_flow_scale_is_that_of_the_data(data, tmp_path):
    settings = settings_of(data, "streams.temporal.flow_scale_px=auto", "train.epochs=1")
    experiment = Experiment(settings.only("temporal"), tmp_path)
    experiment.run("ann")
    scale_px = experiment.settings.streams["temporal"].flow_scale_px
    # A square of 12 × 12 px of 32 × 32 moves by two pixels.
    assert scale_px == pytest.approx(np.sqrt(12 * 12 / 32 / 32 * 2 / 2), rel=0.5)
    # The number is what the run keeps, so that new videos are scaled alike.
    assert Experiment.of_run(tmp_path).settings.streams["temporal"].flow_scale_px == scale_px


def test_unreadable_videos_are_left_out_where_that_is_wanted(data, tmp_path):
    root = tmp_path / "videos"
    shutil.copytree(data / "videos", root)
    broken = root / "left" / "ann_0.mp4"
    broken.write_bytes(b"no video at all")
    overrides = [f"data.root={root}", f"data.cache={tmp_path / 'cache'}", "train.epochs=1"]
    settings = load_settings(data / "config.toml", overrides).only("temporal")
    with pytest.raises(VideoError, match="1 videos have no flow"):
        Experiment(settings, tmp_path / "a").run("ann")
    skipping = load_settings(data / "config.toml", [*overrides, "data.skip_missing=true"])
    said: list[str] = []
    experiment = Experiment(skipping.only("temporal"), tmp_path / "b", on_message=said.append)
    result = experiment.run("ann")
    assert result.as_record()["videos"] == 3
    assert any("left out: 1 videos without flow" in text for text in said)
