"""`flowpipe train`, `test`, `fuse`, `predict`, `report` and `quickstart` as a person uses them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import run_cli as run

from flowpipe.datasets.synthetic import write_videos
from flowpipe.experiment import quickstart as quickstart_module
from flowpipe.models import build

CONFIG = """
[data]
root = "videos"
annotations = "annotations.csv"
fold_column = "split"
cache = "cache"
[extract]
flow = "farneback"
workers = 1
[streams.spatial]
input = "rgb"
crop_size = [32, 32]
model_parameters = {width = 4}
[streams.temporal]
input = "flow"
frames = 3
crop_size = [32, 32]
model_parameters = {width = 4}
[train]
epochs = 2
batch_size = 8
scales = [1.0]
[test]
clips = 2
"""


def run_json(*arguments: Any) -> dict[str, Any]:
    """Run with --json: one object on stdout and nothing else there."""
    done = run(*arguments, "--json")
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A configuration beside 18 generated videos of nine classes."""
    folder = tmp_path_factory.mktemp("folder")
    write_videos(folder / "videos", clips=18)
    (folder / "small.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("runs") / "small"
    record = run_json("train", folder / "small.toml", "--out", out)
    return SimpleNamespace(out=out, record=record)


def test_train_prints_one_object_with_the_accuracies(trained):
    record = trained.record
    assert set(record["accuracy"]) == {"spatial", "temporal", "fused"}
    assert set(record["fusions"]) == {"logsum", "average", "svm"}
    assert record["headline"] == "logsum"
    assert record["videos"] == 9
    assert [fold["fold"] for fold in record["folds"]] == ["test"]
    assert Path(record["report"]).read_text().startswith("<!DOCTYPE html>")
    assert (trained.out / "scores" / "fused-svm.npz").is_file()


def test_train_prints_a_table_and_goes_to_runs_by_default(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", folder / "small.toml", "--stream", "spatial", "--set", "train.epochs=1")
    assert done.status == 0, done.err
    assert "9 test videos" in done.out
    assert "spatial" in done.out
    assert "temporal" not in done.out
    assert "cache" in done.err
    assert (tmp_path / "runs" / "small" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "train.epoch=1"], 'unknown key "epoch" (did you mean "epochs"?)'),
        (["--set", "train.epochs"], "train.epochs"),
        (["--stream", "temporl"], 'no stream "temporl" (did you mean "temporal"?)'),
        (["--fold", "first"], 'fold "first" must be one of: test'),
        (["--set", "streams.spatial.model=small-cmm"], "small-cnn"),
        (["--set", "data.root=nowhere"], "nowhere is not a directory"),
        (["--set", "data.annotations=none.csv"], "none.csv"),
        (["--set", "data.fold_column=spilt"], "spilt"),
        (["--set", "streams.spatial.weights=none.pth"], "none.pth: no such file"),
    ],
)
def test_train_refuses_in_a_sentence(folder, tmp_path, arguments, told):
    done = run("train", folder / "small.toml", "--out", tmp_path / "run", *arguments)
    assert done.status in (1, 2)
    assert done.out == ""
    assert told in done.err
    assert "fault of flowpipe" not in done.err


def test_weights_start_the_streams_and_tell_what_became_of_them(folder, tmp_path):
    path = tmp_path / "start.pth"
    torch.save(build("small-cnn", num_classes=5, in_channels=3, width=4).state_dict(), path)
    command = ["train", folder / "small.toml", "--set", "train.epochs=1"]
    done = run(*command, "--out", tmp_path / "both", "--weights", path)
    assert done.status == 0, done.err
    spatial, temporal = (line for line in done.err.splitlines() if str(path) in line)
    assert spatial.startswith("spatial: ")
    assert "adapted" not in spatial
    assert "left as initialised fc.weight, fc.bias (5→9 classes)" in spatial
    assert "adapted features.0.weight 3→6 channels by averaging" in temporal
    one = run(*command, "--out", tmp_path / "one", "--weights", f"spatial={path}")
    assert one.err.count(str(path)) == 1
    wrong = run(*command, "--weights", f"spatail={path}")
    assert wrong.status == 2
    assert 'no stream "spatail" (did you mean "spatial"?)' in wrong.err


def test_a_missing_configuration_is_misuse(tmp_path):
    done = run("train", tmp_path / "none.toml")
    assert done.status == 2
    assert "none.toml" in done.err


def test_a_checkpoint_of_another_shape_names_the_tensors(trained, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "run")
    path = copy / "fold-test" / "temporal" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["fc.weight"] = content["model"]["fc.weight"][:5]
    torch.save(content, path)
    done = run("test", copy)
    assert done.status == 1
    assert "does not fit the network" in done.err
    assert "fc.weight is 5×64, not 9×64" in done.err


def test_test_repeats_the_numbers_and_takes_other_clips(trained, tmp_path):
    again = run_json("test", trained.out)
    for key in ("accuracy", "fusions", "folds", "videos"):
        assert again[key] == trained.record[key]
    out = tmp_path / "ten"
    done = run("test", trained.out, "--clips", 3, "--crops", "ten", "--out", out)
    assert done.status == 0, done.err
    assert "fused (logsum) ←" in done.out
    assert (out / "scores" / "temporal.npz").is_file()
    assert run("test", tmp_path).status == 2


def test_fuse_joins_score_files(trained, tmp_path):
    files = [trained.out / "scores" / f"{name}.npz" for name in ("spatial", "temporal")]
    for method in ("logsum", "average", "sum"):
        record = run_json("fuse", *files, "--method", method)
        assert set(record) == {"method", "videos", "accuracy", "protocol"}
        assert record["videos"] == 9
        assert record["accuracy"]["spatial"] == trained.record["accuracy"]["spatial"]
        if method in trained.record["fusions"]:
            (fused,) = set(record["accuracy"]) - {"spatial", "temporal"}
            assert record["accuracy"][fused] == trained.record["fusions"][method]
    fitting = [
        option
        for name in ("spatial", "temporal")
        for option in ("--training", trained.out / "fold-test" / name / "training_scores.npz")
    ]
    svm = run_json("fuse", *files, "--method", "svm", *fitting)
    assert trained.record["fusions"]["svm"] in svm["accuracy"].values()
    assert run("fuse", *files, "--method", "svm").status == 2
    table = run("fuse", *files, "--method", "weighted", "--weight", 1, "--weight", 2)
    assert table.status == 0, table.err
    assert "weighted, 9 videos" in table.out
    out = tmp_path / "fused.npz"
    assert "wrote" in run("fuse", *files, "--out", out).err
    assert out.is_file()


def test_predict_shows_five_classes_per_stream_and_fused(trained, folder, tmp_path):
    video = folder / "videos" / "checks-zoom" / "checks-zoom-001.mp4"
    record = run_json("predict", trained.out, video)
    (streams,) = record["videos"].values()
    assert list(streams)[:2] == ["spatial", "temporal"]
    assert len(streams) == 3
    assert all(len(ranked) == 5 for ranked in streams.values())
    assert record["failed"] == 0
    text = tmp_path / "text.mp4"
    text.write_text("no video\n")
    done = run("predict", trained.out, video, text, "--top", 2)
    assert done.status == 1
    assert "checks-zoom-001" in done.out
    assert "text.mp4" in done.err


def test_report_writes_the_page_where_it_is_asked_to(trained, tmp_path):
    done = run("report", trained.out, "--out", tmp_path / "page.html")
    assert done.out.strip() == str(tmp_path / "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text()
    missing = run("report", tmp_path)
    assert missing.status == 2
    assert "no finished run" in missing.err


def test_quickstart_prints_its_table_and_reuses_what_it_made(tmp_path, monkeypatch):
    streams = quickstart_module.SETTINGS["streams"]
    quick = {"epochs": 1, "model_parameters": {"width": 4}}
    small = {
        "extract": {"flow": "farneback", "workers": 1},
        "streams": {name: {**stream, **quick} for name, stream in streams.items()},
    }
    shorter = partial(quickstart_module.quickstart, clips=18, overrides=small)
    monkeypatch.setattr(quickstart_module, "quickstart", shorter)
    first = run_json("quickstart", "--out", tmp_path)
    assert set(first["accuracy"]) == {"spatial", "temporal", "fused"}
    assert set(first["fusions"]) == {"logsum", "average"}
    assert len(first["factors"]) == 2
    assert set(first["seconds"]) == {"videos", "extract", "train and test", "report", "all"}
    assert first["reused"] is False
    assert Path(first["report"]).is_file()
    second = run("quickstart", "--out", tmp_path)
    assert second.status == 0, second.err
    assert "fused, sum of log p" in second.out
    assert "9 test videos, nine classes" in second.out
    assert "reused" in second.err
    assert run_json("quickstart", "--out", tmp_path)["accuracy"] == first["accuracy"]


@pytest.mark.slow
def test_a_killed_training_ends_with_the_numbers_of_an_unbroken_one(folder, tmp_path):
    arguments = ["train", str(folder / "small.toml"), "--set", "train.epochs=6", "--json"]
    whole = run_json(*arguments[:-1], "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "flowpipe", *arguments, "--out", str(tmp_path / "killed")]
    metrics = tmp_path / "killed" / "fold-test" / "temporal" / "metrics.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
            assert process.poll() is None, "ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    epochs = metrics.read_text().count("\n")
    assert 2 <= epochs < 6
    record = run_json(*arguments[:-1], "--out", tmp_path / "killed")
    for key in ("accuracy", "fusions", "folds", "mean_class_accuracy"):
        assert record[key] == whole[key]
    history = [json.loads(line) for line in metrics.read_text().splitlines()]
    mine = [(row["epoch"], row["loss"], row["accuracy"]) for row in history]
    unbroken = tmp_path / "whole" / "fold-test" / "temporal" / "metrics.jsonl"
    rows = map(json.loads, unbroken.read_text().splitlines())
    assert mine == [(row["epoch"], row["loss"], row["accuracy"]) for row in rows]
