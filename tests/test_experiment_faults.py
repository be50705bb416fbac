"""What a run must not reuse, must refuse before it begins, and must not leave unsaid."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flowpipe.clips.streams import StreamInput
from flowpipe.datasets import (
    Dataset,
    Video,
    from_folders,
    from_kinetics,
    seeded_split,
    split_fold,
)
from flowpipe.errors import (
    CacheNotFound,
    ConfigError,
    FlowpipeError,
    WeightsError,
)
from flowpipe.experiment import checks
from flowpipe.experiment.data import choose_folds, make_fold, read_dataset
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.results import Fold, concatenate, mean_table
from flowpipe.experiment.settings import DataSettings, Settings, load_settings
from flowpipe.models import build
from flowpipe.models.weights import load_weights
from flowpipe.scores import Scores, load_scores
from flowpipe.training import TestOptions
from flowpipe.training.checkpoint import CHECKPOINT

CONFIG = """
[data]
root = "videos"
annotations = "list.csv"
fold_column = "fold"
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.spatial]
input = "rgb"
crop_size = [16, 16]
model_parameters = {width = 4, dropout = 0.0}
[streams.temporal]
input = "flow"
frames = 2
crop_size = [16, 16]
flow_scale_px = 2.0
model_parameters = {width = 4, dropout = 0.0}
[train]
epochs = 1
batch_size = 4
optimiser = "adamw"
learning_rate = 0.01
scales = [1.0]
[test]
clips = 2
"""
COLORS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video) -> Path:
    """Eight videos of two colors in two folds, a configuration, a cache that fills with use."""
    folder = tmp_path_factory.mktemp("faults")
    rows = [("video", "label", "fold")]
    for color, rgb in COLORS.items():
        for take in range(4):
            name = f"{color}/{take}.mp4"
            (folder / "videos" / color).mkdir(parents=True, exist_ok=True)
            frames = np.random.default_rng(take).integers(0, 40, (6, 24, 32, 3))
            for t, frame in enumerate(frames):
                frame[4:16, 2 * t : 2 * t + 12] += rgb
            write_video(folder / "videos" / name, frames.astype(np.uint8))
            rows.append((name, color, str(take % 2)))
    write_rows(folder / "videos" / "list.csv", rows)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def write_rows(path: Path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def settings_of(folder: Path, *changes: str, stream: str | None = "spatial") -> Settings:
    changes = (f"data.cache={folder / 'cache'}", *changes)
    return load_settings(folder / "config.toml", changes).only(stream)


def rows_of(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "videos" / "list.csv").open() as file:
        return [tuple(row) for row in csv.reader(file)]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    Experiment(settings_of(folder), out).run()
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def unsealed(path: Path) -> dict[str, Any]:
    """Return a table of a run without its checksum, to be changed by hand."""
    table = json.loads(path.read_text())
    return {key: value for key, value in table.items() if key not in ("sealed", "crc32")}


# 1. Training reused that is not the same.


def renamed(rows):
    """Two class names whose order turns round."""
    return [(v, {"red": "a red", "blue": "b blue"}.get(label, label), f) for v, label, f in rows]


def swapped(rows):
    """As many videos of the same classes, two labels exchanged."""
    return [
        (v, {"red/1.mp4": "blue", "blue/1.mp4": "red"}.get(v, label), f) for v, label, f in rows
    ]


def other_folds(rows):
    return [(v, label, {"0": "1", "1": "0"}.get(f, f)) for v, label, f in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"classes \['blue', 'red'\] → \['a red', 'b blue'\]"),
        (swapped, "other labels or contents"),
        (other_folds, "other training videos"),
    ],
)
def test_other_labels_classes_or_folds_do_not_go_on_with_a_run(folder, run, change, message):
    write_rows(folder / "videos" / "changed.csv", change(rows_of(folder)))
    settings = settings_of(folder, "data.annotations=changed.csv")
    before = (run / "settings.json").read_bytes()
    with pytest.raises(WeightsError, match=message):
        Experiment(settings, run).run()
    assert (run / "settings.json").read_bytes() == before  # the run is as it was


def test_a_list_changed_below_a_run_is_noticed_by_test(folder, tmp_path):
    videos = shutil.copytree(folder / "videos", tmp_path / "videos")
    settings = settings_of(folder, f"data.root={videos}")
    Experiment(settings, tmp_path / "run").run()
    write_rows(videos / "list.csv", renamed(rows_of(folder)))
    with pytest.raises(WeightsError, match="classes"):
        Experiment.of_run(tmp_path / "run").test()


def test_a_video_of_other_content_under_the_same_name_is_noticed(folder, tmp_path):
    videos = shutil.copytree(folder / "videos", tmp_path / "videos")
    settings = settings_of(folder, f"data.root={videos}", f"data.cache={tmp_path / 'cache'}")
    Experiment(settings, tmp_path / "run").run()
    (videos / "red" / "1.mp4").unlink()
    shutil.copy(videos / "red" / "0.mp4", videos / "red" / "1.mp4")
    with pytest.raises(WeightsError, match="contents"):
        Experiment(settings, tmp_path / "run").run()


def test_initial_weights_count_by_their_content_and_not_by_their_path(folder, tmp_path):
    def weights(seed: int, path: Path) -> Path:
        torch.manual_seed(seed)
        model = build("small-cnn", num_classes=2, in_channels=3, width=4, dropout=0.0)
        torch.save(model.state_dict(), path)
        return path

    with torch.random.fork_rng(devices=[]):
        first, other = weights(1, tmp_path / "a.pth"), weights(2, tmp_path / "b.pth")
    moved = shutil.copy(first, tmp_path / "moved.pth")
    out = tmp_path / "run"
    Experiment(settings_of(folder, f"streams.spatial.weights={first}"), out).run()
    stamp = (out / "fold-0" / "spatial" / CHECKPOINT).stat().st_mtime_ns
    Experiment(settings_of(folder, f"streams.spatial.weights={moved}"), out).run()
    assert (out / "fold-0" / "spatial" / CHECKPOINT).stat().st_mtime_ns == stamp
    with pytest.raises(WeightsError, match="other initial weights"):
        Experiment(settings_of(folder, f"streams.spatial.weights={other}"), out).run()


@pytest.mark.parametrize("change", ["extract.workers=2", "train.memory_mb=1", 'title="other"'])
def test_what_changes_nothing_that_is_learnt_goes_on(folder, run, change):
    stamp = (run / "fold-0" / "spatial" / CHECKPOINT).stat().st_mtime_ns
    Experiment(settings_of(folder, change), run).run()
    assert (run / "fold-0" / "spatial" / CHECKPOINT).stat().st_mtime_ns == stamp


@pytest.fixture
def with_a_broken_video(folder, tmp_path) -> Path:
    """The configuration where one video, of the test half of fold 1, cannot be read."""
    copy = tmp_path / "broken"
    shutil.copytree(folder / "videos", copy / "videos")
    shutil.copy(folder / "config.toml", copy)
    (copy / "videos" / "red" / "3.mp4").write_bytes(b"no video at all")
    return copy


def test_a_run_without_its_unreadable_videos_goes_on_and_is_tested(with_a_broken_video, tmp_path):
    changes = ["data.skip_missing=true", "train.validation=0.4", "data.flip=false"]
    settings = settings_of(with_a_broken_video, *changes)
    first = Experiment(settings, tmp_path / "run").run("all")
    assert [fold["videos"] for fold in first.folds] == [4, 3]
    again = Experiment(settings, tmp_path / "run").run("all")
    tested = Experiment.of_run(tmp_path / "run").test()
    for other in (again, tested):
        assert other.streams["spatial"].ids == first.streams["spatial"].ids
        np.testing.assert_array_equal(
            other.streams["spatial"].logits_NK, first.streams["spatial"].logits_NK
        )


def test_random_folds_stay_when_a_video_turns_out_unreadable(with_a_broken_video, tmp_path):
    rows = [row[:2] for row in rows_of(with_a_broken_video)]
    write_rows(with_a_broken_video / "videos" / "list.csv", rows)
    settings = settings_of(with_a_broken_video, "data.skip_missing=true")
    settings = replace(settings, data=replace(settings.data, fold_column=None))
    experiment = Experiment(settings, tmp_path / "run")
    whole = experiment._fold("split")
    experiment.run()
    left = experiment._fold("split")
    for half in ("train", "test"):
        kept = [v.id for v in getattr(whole, half).videos if v.id != "red/3.mp4"]
        assert [v.id for v in getattr(left, half).videos] == kept


def test_a_fold_of_unreadable_videos_only_is_refused(with_a_broken_video, tmp_path):
    for name in ("red/1.mp4", "blue/1.mp4", "blue/3.mp4"):
        (with_a_broken_video / "videos" / name).write_bytes(b"no video at all")
    settings = settings_of(with_a_broken_video, "data.skip_missing=true")
    with pytest.raises(ConfigError, match=r'fold "1": none of its 4 test videos has flow'):
        Experiment(settings, tmp_path / "run").run("1")
    assert not (tmp_path / "run" / "results.json").exists()


def test_parts_of_an_unreadable_video_are_left_out(with_a_broken_video, tmp_path):
    rows = [("video", "label", "fold", "start_frame", "end_frame")]
    for name, label, fold in rows_of(with_a_broken_video)[1:]:
        rows += [(name, label, fold, 0, 3), (name, label, fold, 3, 6)]
    write_rows(with_a_broken_video / "videos" / "list.csv", rows)
    settings = settings_of(with_a_broken_video, "data.skip_missing=true")
    result = Experiment(settings, tmp_path / "run").run("1")
    assert [fold["videos"] for fold in result.folds] == [6]


def test_settings_of_another_flow_are_refused_before_it_is_extracted(folder, run):
    before = {path.name for path in (folder / "cache").iterdir()}
    with pytest.raises(WeightsError, match=r"extract\.flow 'farneback' → 'dis'"):
        Experiment(settings_of(folder, "extract.flow=dis"), run).run()
    assert {path.name for path in (folder / "cache").iterdir()} == before


def test_other_groups_hold_out_other_videos(folder, tmp_path):
    patterns = r"(red|blue)/(\d)", r"(\d)\.mp4"
    train, _ = split_fold(Experiment(settings_of(folder), tmp_path).dataset, "0")

    def held_out(pattern, seed):
        half = seeded_split(train, group_pattern=pattern, test_fraction=0.5, seed=seed)[1]
        return {video.id for video in half.videos}

    seed = next(n for n in range(99) if held_out(patterns[0], n) != held_out(patterns[1], n))
    one, other = (
        settings_of(
            folder, "train.validation=0.5", f"train.seed={seed}", f"data.group_pattern='{pattern}'"
        )
        for pattern in patterns
    )
    Experiment(one, tmp_path / "run").run()
    Experiment(one, tmp_path / "run").run()
    with pytest.raises(WeightsError, match="other videos held out"):
        Experiment(other, tmp_path / "run").run()


def test_a_file_is_no_folder_of_a_run(folder, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="is a file; a run is a folder") as error:
        Experiment(settings_of(folder), tmp_path / "run").run()
    assert error.value.parameters == ("out",)


def test_predict_refuses_settings_that_are_not_those_of_the_weights(folder, run):
    table = unsealed(run / "settings.json")
    table["streams"]["spatial"]["rgb_range"] = "symmetric"
    (run / "settings.json").write_text(json.dumps(table))
    with pytest.raises(WeightsError, match=r"stream.rgb_range 'imagenet' → 'symmetric'"):
        Experiment.of_run(run).predict([folder / "videos" / "red" / "0.mp4"])


# 2, 8. Data and splits as they are.


def test_folders_of_halves_are_folds_and_not_classes(tmp_path):
    for half in ("train", "validation"):
        for label in ("red", "blue"):
            (tmp_path / half / label).mkdir(parents=True)
            (tmp_path / half / label / "v.mp4").touch()
    dataset = from_folders(tmp_path)
    assert dataset.classes == ("blue", "red")
    assert {video.folds for video in dataset.videos} == {("train",), ("val",)}
    assert choose_folds(dataset, None) == choose_folds(dataset, "validate") == ["val"]


def videos_of(*folds: tuple[str, ...], labels=("a", "b")) -> Dataset:
    made = [
        Video(f"{label}{n}.mp4", Path(f"{label}{n}.mp4"), (label,), folds=fold)
        for n, fold in enumerate(folds)
        for label in labels
    ]
    return Dataset(tuple(made), tuple(sorted(set(labels))))


def test_kinetics_without_test_labels_names_the_fold_that_has_them(tmp_path):
    rows = [("label", "youtube_id", "time_start", "time_end", "split")]
    for split, labels in (("train", ("a", "b")), ("validate", ("a", "b")), ("test", ("", ""))):
        for n, label in enumerate(labels):
            rows.append((label, f"{split}{n}", "0", "10", split))
            path = tmp_path / split / label / f"{split}{n}_000000_000010.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    write_rows(tmp_path / "k.csv", rows)
    dataset = from_kinetics(tmp_path / "k.csv", tmp_path)
    assert choose_folds(dataset, "validation") == ["val"]
    train = tuple(video for video in dataset.videos if video.folds == ("train",))
    test = tuple(video for video in dataset.videos if video.folds == ("test",))
    fold = Fold("test", replace(dataset, videos=train), replace(dataset, videos=test))
    with pytest.raises(ConfigError, match=r"2 of 2 test videos have no label.*another fold: val"):
        checks.check_folds(dataset, [fold])


def test_a_table_is_of_means_over_folds():
    dataset = videos_of(("1", "2"), ("1",), ("2",))
    first = scores_of(["a0.mp4", "b0.mp4", "a1.mp4"], [0, 1, 0], [(3, 1), (1, 3), (1, 3)])
    second = scores_of(["a0.mp4", "b0.mp4"], [0, 1], [(3, 1), (1, 3)])
    folds = [
        Fold(name, dataset, replace(dataset, videos=tested), {"s": scores})
        for name, tested, scores in (
            ("1", dataset.videos[:3], first),
            ("2", dataset.videos[:2], second),
        )
    ]
    (row,) = mean_table(folds)
    assert row.top_1 == pytest.approx((2 / 3 + 1) / 2)
    assert row.videos == 3  # two of them tested twice


def scores_of(ids, labels, parts, stream="s", **protocol) -> Scores:
    shares_NK = np.array(parts, np.float64) / np.sum(parts, 1, keepdims=True)
    return Scores(
        ids=tuple(ids),
        labels_N=np.array(labels),
        probabilities_NK=shares_NK,
        logits_NK=np.log(shares_NK).astype(np.float32),
        classes=("a", "b"),
        stream=stream,
        protocol={"clips": 1, **protocol},
    )


# 5. One number for one thing.


def test_every_place_gives_the_mean_of_the_folds(folder, tmp_path):
    rows = rows_of(folder)
    unequal = [rows[0], *((v, label, "0" if "0.mp4" in v else "1") for v, label, _ in rows[1:])]
    write_rows(folder / "videos" / "unequal.csv", unequal)
    settings = settings_of(folder, "data.annotations=unequal.csv", "train.epochs=4", stream=None)
    experiment = Experiment(settings, tmp_path / "run")
    result = experiment.run("all")
    record = result.as_record()
    assert [fold["videos"] for fold in record["folds"]] == [2, 6]
    page = re.sub(r"<[^>]*>", " ", experiment.report().read_text())
    results = page[page.index("Results") : page.index("Networks")]
    for name in ("spatial", "temporal"):
        mean = np.mean([fold[name] for fold in record["folds"]])
        assert record["accuracy"][name] == pytest.approx(mean)
        assert record["networks"][name]["video_accuracy"] == pytest.approx(mean)
        (row,) = [row for row in record["table"] if row["name"] == name]
        assert row["top_1"] == pytest.approx(mean)
        assert re.search(rf"{name}\s+{100 * mean:.1f}\s", results)


def test_joined_scores_keep_what_all_folds_share():
    one = scores_of(["1"], [0], [(1, 3)], clip_accuracy=1.0, streams=[{"w": 1, "x": 2}])
    other = scores_of(["2"], [0], [(1, 3)], clip_accuracy=0.5, streams=[{"w": 1, "x": 3}])
    assert concatenate([one, other], ["1", "2"]).protocol == {"clips": 1, "streams": [{"w": 1}]}
    assert concatenate([one], ["1"]).protocol == one.protocol


def test_the_fused_prediction_is_that_of_the_headline(folder, tmp_path):
    settings = settings_of(folder, "fuse.headline=svm", stream=None)
    Experiment(settings, tmp_path / "run").run()
    tested = load_scores(tmp_path / "run" / "scores" / "fused-svm.npz")
    videos = [folder / "videos" / video for video in tested.ids]
    predicted = Experiment.of_run(tmp_path / "run").predict(videos)
    fused = predicted.scores[-1]
    assert fused.protocol["method"] == "svm"
    assert [Path(name).name for name in fused.ids] == [Path(name).name for name in tested.ids]
    np.testing.assert_allclose(fused.probabilities_NK, tested.probabilities_NK, atol=1e-6)


# 6, 7. Refused before anything is extracted or trained.

ONES_OWN = """
from torch import cat, nn
class Network(nn.Module):
    input_layout, stem_name, classifier_name = "CHW", "stem", "classifier"
    def __init__(self, num_classes, in_channels, mode):
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)
        self.mode = mode
    def forward(self, x):
        logits = self.classifier(self.stem(x).mean((2, 3)))
        return {
            "tuple": (logits, logits), "twice": cat([logits, logits], 1), "nan": logits / 0,
            "detached": logits.detach(), "whole": logits.long(), "complex": logits + 0j,
        }[self.mode]
def build(*, num_classes, in_channels=3, mode):
    return Network(num_classes, in_channels, mode)
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["streams.temporal.model=smal-cnn"], r'"smal-cnn" \(did you mean "small-cnn"'),
        (['fuse.methods=["logsm"]'], r"'logsm' is not one of .*did you mean \"logsum\""),
        (["fuse.methods=[\"svm\"]", "fuse.training_clips=0"], "svm learns from scores of training"),
        (["train.loss=sigmoid", 'fuse.methods=["svm"]'], "svm gives each video one class"),
        (["data.annotations=one_class.csv"], "holds videos of 1 class"),
        (["streams.temporal.epochs=0"], "epochs 0 must be a whole number ≥ 1"),
        (["streams.temporal.learning_rate=0.0"], "learning_rate 0.0 must be > 0"),
        (["streams.temporal.clips_per_video=0"], "clips_per_video 0 must be a whole number from 1"),
        (["test.clips=0"], "clips 0 must be a whole number from 1 to 10000"),
        (["fuse.training_clips=-1"], r"training_clips -1 must be in \[0"),
        (["train.seed=5000000000"], r"seed 5000000000 must be in \[0, 4294967295\]"),
        (["streams.spatial.crop_size=[32,16,32]"], r"crop_size \[32, 16, 32\] must be \[height"),
        (["streams.spatial.crop_size=[]"], r"crop_size \[\] must be \[height"),
        (["streams.spatial.crop_size=[16,0]"], r"crop_size \[16, 0\] must be \[height"),
        (["extract.size=[1,2,3]"], r"size \[1, 2, 3\] must be \[height"),
        (
            ["streams.spatial.model=i3d-resnet50-tiny", "streams.spatial.model_parameters={}"],
            r'"spatial", i3d-resnet50-tiny on clips of 1 item \(rgb\) of 16×16 px: the network',
        ),
        (
            ["streams.spatial.model=resnet18", "streams.spatial.model_parameters={}",
             "train.batch_size=1"],
            "set batch_size to 2 or more",
        ),
        (["data.test_fraction=0.0"], "test_fraction 0.0 must be between 0 and 1"),
        (["data.group_pattern='('"], "must be a regular expression"),
        (["streams.temporal.untrusted=zero"], 'untrusted "zero" needs the confidence of flow'),
        (["streams.temporal.flow_scale_px=inf"], "flow_scale_px inf must be > 0 and finite"),
        (["train.clips_per_video=20000"], "must be a whole number from 1 to 10000"),
        (["streams.spatial.clips_per_video=20000"], "must be a whole number from 1 to 10000"),
        (["fuse.training_clips=20000"], r"must be in \[0, 10000\]"),
        (["train.patience=3"], "patience 3 needs videos held out"),
        (["data.features=''"], "features is empty; leave the key out"),
        (["data.label_column=''"], "label_column is empty"),
        (["data.label_separator=''"], "label_separator is empty"),
        (["test.crops=ten"], r"five of the ten are mirrored.*flip = false"),
        (["test.flip=true"], "flip is mirrored"),
        (
            ["streams.temporal.model=ones_own:build",
             'streams.temporal.model_parameters={mode="tuple"}'],
            'stream "temporal", ones_own:build .* the network gave tuple for 2 clips and 2 classes',
        ),
        (
            ["streams.temporal.model=ones_own:build",
             'streams.temporal.model_parameters={mode="twice"}'],
            r"the network gave \(2, 4\) for 2 clips and 2 classes; it must give logits 2×2",
        ),
        *[
            (
                ["streams.temporal.model=ones_own:build",
                 f'streams.temporal.model_parameters={{mode="{mode}"}}'],
                message,
            )
            for mode, message in {
                "nan": "logits that are not finite for two empty clips",
                "detached": "float32 without a gradient; nothing can be learnt",
                "whole": "int64 without a gradient",
                "complex": "logits of torch.complex64; they must be real numbers",
                "wrong": "fails on two empty clips, KeyError: 'wrong'",
            }.items()
        ],
    ],
)  # fmt: skip
def test_what_can_be_refused_is_refused_before_extraction(
    folder, tmp_path, monkeypatch, changes, message
):
    (tmp_path / "ones_own.py").write_text(ONES_OWN)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [(v, "x" if f.isdigit() else label, f) for v, label, f in rows_of(folder)]
    write_rows(folder / "videos" / "one_class.csv", rows)
    with pytest.raises(FlowpipeError, match=message):
        Experiment(
            settings_of(folder, *changes, f"data.cache={tmp_path / 'cache'}", stream=None),
            tmp_path / "run",
        ).run()
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()


def test_default_fusions_suit_several_labels(folder, tmp_path):
    several = [(v, f"{label};moving", f) for v, label, f in rows_of(folder)[1:]]
    write_rows(folder / "videos" / "several.csv", [("video", "label", "fold"), *several])
    settings = settings_of(
        folder, "data.annotations=several.csv", 'data.label_separator=";"', stream=None
    )
    record = Experiment(settings, tmp_path / "run").run().as_record()
    assert set(record["fusions"]) == {"logsum", "average"}
    assert set(Experiment(settings_of(folder, stream=None), tmp_path / "one").run().fused) == {
        "logsum", "average", "svm",
    }  # fmt: skip


def test_mirrored_crops_are_refused_for_a_finished_run(run):
    with pytest.raises(ConfigError, match='take crops = "five"') as error:
        Experiment.of_run(run).test(TestOptions(crops="ten"))
    assert error.value.parameters == ("crops",)


def test_one_clip_at_the_end_joins_the_batch_before_it(folder, tmp_path):
    # Five clips in batches of two: resnet18 normalises maps of one pixel, of one clip impossible.
    rows = rows_of(folder)
    odd = [rows[0], *(row for row in rows[1:] if row[0] != "red/1.mp4")][:-1]
    write_rows(folder / "videos" / "odd.csv", [*odd, ("blue/3.mp4", "blue", "1")])
    settings = settings_of(
        folder, "data.annotations=odd.csv", "streams.spatial.model=resnet18",
        "streams.spatial.model_parameters={}", "train.batch_size=2",
    )  # fmt: skip
    result = Experiment(settings, tmp_path / "run").run("0")
    assert len(result.streams["spatial"].ids) == 4


# 12. Weights and reports.


def test_weights_as_whole_numbers_are_refused_and_a_word_before_all_names_goes(tmp_path):
    model = build("small-cnn", num_classes=2, in_channels=3, width=4)
    state = model.state_dict()
    torch.save({k: (100 * v).to(torch.int8) for k, v in state.items()}, tmp_path / "int8.pth")
    for change in (torch.Tensor.to_sparse, lambda value: value.to("meta")):
        changed = {k: change(v) if v.ndim else v for k, v in state.items()}
        torch.save(changed, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth: no plain values in features\.0\.weight"):
            load_weights(model, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"int8\.pth: whole numbers in features\.0\.weight"):
        load_weights(model, tmp_path / "int8.pth")
    torch.save({f"model.{k}": v + 1 for k, v in state.items()}, tmp_path / "epoch=3.pth")
    other = build("small-cnn", num_classes=2, in_channels=3, width=4)
    load_weights(other, tmp_path / "epoch=3.pth")
    assert torch.equal(other.features[0].weight, model.features[0].weight + 1)


def test_a_network_that_holds_its_layers_as_model_keeps_that_word(tmp_path):
    class Wrapped(nn.Module):
        stem_name, classifier_name = "model.0", "model.1"

        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Linear(2, 2))

    torch.save(Wrapped().state_dict(), tmp_path / "w.pth")
    assert len(load_weights(Wrapped(), tmp_path / "w.pth").loaded) == 4


def test_a_page_needs_no_video(run):
    table = unsealed(run / "settings.json")
    table["data"] |= {"root": "/nowhere", "generate": 9}
    (run / "settings.json").write_text(json.dumps(table))
    page = Experiment.of_run(run).report().read_text()
    samples, _, mistakes = page.partition("Worst mistakes")
    assert samples.count("data:image/png") == 4  # from the cache
    wrong = int(re.search(r"(\d+) of \d+ videos are mistaken", mistakes)[1])
    assert mistakes.count("data:image/png") == 2 * min(wrong, 6)
    assert mistakes.count(", taken for ") == min(wrong, 6)
    assert not Path("/nowhere").exists()


# 13. Silence.


def fold_of(*parts: tuple[str, list[tuple[int, int]]], fused=None) -> Fold:
    dataset = videos_of(("1",), ("1",))
    ids, labels = [v.id for v in dataset.videos], [0, 1, 0, 1]
    scores = {name: scores_of(ids, labels, shares, name) for name, shares in parts}
    joined = {} if fused is None else {"logsum": scores_of(ids, labels, fused, "fused")}
    return Fold("1", dataset, dataset, scores, joined)


RIGHT, HALF = [(3, 1), (1, 3), (3, 1), (1, 3)], [(3, 1)] * 4


def test_doubts_are_said():
    fold = fold_of(("good", RIGHT), ("bad", HALF), fused=[(3, 1), (1, 3), (3, 1), (3, 1)])
    histories = {"good": [[{"loss": 0.3}]], "bad": [[{"loss": 9.0}, {"loss": math.log(2)}]]}
    said = checks.doubts([fold], histories, "logsum", loss="softmax")
    assert len(said) == 3
    assert "bad, fold 1: the loss ended at 0.693, as for guessing (ln 2 = 0.693)" in said[0]
    assert said[1] == "bad: 50.0% is not above always naming the commonest class (50.0%)"
    assert said[2] == "fused (logsum): 75.0% is below good alone, 100.0%"
    fine = fold_of(("good", RIGHT), ("other", RIGHT), fused=RIGHT)
    assert checks.doubts([fine], {"good": [[{"loss": 0.3}]]}, "logsum", loss="softmax") == []


def test_copies_of_training_videos_among_the_tested_are_said():
    fold = fold_of(("s", RIGHT))
    train = replace(fold.train, videos=fold.train.videos[:2])
    test = replace(fold.test, videos=fold.test.videos[2:])
    apart = Fold("1", train, test)
    digests = {"a0.mp4": "p", "b0.mp4": "q", "a1.mp4": "r", "b1.mp4": "q"}
    (said,) = checks.same_contents(apart, digests)
    assert said == 'fold 1: 1 of 2 test videos are copies of training videos, the first is "b1.mp4"'
    assert not list(checks.same_contents(apart, digests | {"b1.mp4": "s"}))
    (said,) = checks.same_contents(
        apart, {"a0.mp4": "p", "b0.mp4": "p", "a1.mp4": "", "b1.mp4": ""}
    )
    assert said == "fold 1: 1 of 2 training videos are copies of others"


def test_motion_of_several_frame_rates_is_told(folder):
    settings = settings_of(folder, stream=None)
    (said,) = checks.mixed_rates(settings, [15.0, 60.0])
    assert said.startswith("temporal: training videos have 15 to 60 frames/s")
    assert not list(checks.mixed_rates(settings, [24.0, 30.0]))
    assert not list(checks.mixed_rates(settings, []))
    assert not list(checks.mixed_rates(settings.only("spatial"), [15.0, 60.0]))  # single frames
    by_time = settings_of(folder, "streams.temporal.fps=15.0", stream="temporal")
    assert not list(checks.mixed_rates(by_time, [15.0, 60.0]))


def test_clips_longer_than_most_videos_are_told():
    def inputs(frames, stride):
        return [StreamInput("temporal", "flow", frames, frame_step=stride)]

    dataset = Dataset(tuple(Video(str(n), Path(str(n)), ("a",)) for n in range(4)), ("a",))
    lengths = {"0": 9, "1": 9, "2": 9, "3": 30}
    cache = {name: SimpleNamespace(num_flows=flows) for name, flows in lengths.items()}
    (said,) = checks.long_clips(inputs(4, 3), dataset, cache)  # ten fields
    assert said.startswith("temporal: 3 of 4 videos that were looked at are shorter than a clip")
    assert not list(checks.long_clips(inputs(3, 4), dataset, cache))  # nine
    lengths["2"] = 30
    cache["2"].num_flows = cache["1"].num_flows = 30
    assert not list(checks.long_clips(inputs(4, 3), dataset, cache))
    assert not list(checks.long_clips(inputs(1, 1), dataset, cache))


@pytest.mark.parametrize("pattern", [None, r"(g\d+)_c"])
@pytest.mark.parametrize("with_folds", [True, False])
def test_folds_that_are_asked_for_keep_films_whole(tmp_path, pattern, with_folds):
    rows = [("video", "label", "fold" if with_folds else "note")]
    for color in COLORS:
        for film in range(4):
            for clip in range(3):
                name = f"v_{color}_g{film}_c{clip}.mp4"
                (tmp_path / name).touch()
                rows.append((name, color, str(clip)))
    write_rows(tmp_path / "list.csv", rows)
    data = DataSettings(tmp_path, annotations=tmp_path / "list.csv", folds=2, group_pattern=pattern)
    dataset = read_dataset(data)
    for name in choose_folds(dataset, "all"):
        fold = make_fold(data, dataset, name, seed=0)
        of = r"(g\d)" if pattern else r"(v_.*_g\d)"
        films = [
            {re.match(f".*{of}_c", v.id)[1] for v in half.videos}
            for half in (fold.train, fold.test)
        ]
        assert not films[0] & films[1]
        assert len(films[0] | films[1]) == (4 if pattern else 8)


def test_videos_that_do_not_move_are_said():
    dataset = videos_of(("1",), ("1",))

    def cache(*moving):
        return {
            v.id: SimpleNamespace(flow=np.full((2, 3, 3, 2), float(v.id in moving), np.float32))
            for v in dataset.videos
        }

    (said,) = checks.still_videos(dataset, cache("a0.mp4", "b0.mp4"))
    assert said.startswith("2 of 4 videos that were looked at do not move at all, the first is")
    assert not list(checks.still_videos(dataset, cache("a0.mp4", "b0.mp4", "a1.mp4")))


def test_doubts_stand_in_the_record_and_on_the_page(run):
    record = unsealed(run / "results.json")
    record["notes"] = ["spatial: it learnt nothing"]
    (run / "results.json").write_text(json.dumps(record))
    assert "spatial: it learnt nothing" in Experiment.of_run(run).report().read_text()


@pytest.mark.parametrize(
    ("unit", "start", "end"), [("s", 200, 400), ("frame", 5000, 5010), ("s", 0.04, 0.2)]
)
def test_parts_behind_the_end_are_refused_before_extraction(folder, tmp_path, unit, start, end):
    """Milliseconds for seconds: every video was extracted before the first of them was refused."""
    rows = rows_of(folder)[1:]
    header = ("video", "label", "fold", f"start_{unit}", f"end_{unit}")
    times = [(str(start), str(end)) if row == rows[-1] else ("", "") for row in rows]
    path = tmp_path / "parts.csv"
    write_rows(path, [header, *(row + time for row, time in zip(rows, times, strict=True))])
    changes = (f"data.annotations={path}", f"data.cache={tmp_path / 'c'}")
    settings = load_settings(folder / "config.toml", changes).only("spatial")
    experiment = Experiment(settings, tmp_path / "run")
    if start < 1:
        checks.check_parts(experiment.dataset)
        return
    with pytest.raises(FlowpipeError, match=r"begins at 200 s, but the video has 0\.\d+ s"):
        experiment.run()
    assert not (tmp_path / "c").exists()


def test_a_file_that_is_no_pack_is_no_cache_of_a_training(folder, tmp_path):
    (tmp_path / "pack.h5").write_bytes(b"pack")
    settings = load_settings(folder / "config.toml", (f"data.cache={tmp_path / 'pack.h5'}",))
    with pytest.raises(CacheNotFound, match=r"pack\.h5: it is neither a directory nor a packed"):
        Experiment(settings.only("spatial"), tmp_path / "run").run()
