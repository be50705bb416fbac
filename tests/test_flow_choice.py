"""Networks look at the flow they were trained on; at another only where that is wanted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import run_cli

from flowpipe.datasets.synthetic import write_videos
from flowpipe.errors import ConfigError, WeightsError
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import load_settings
from flowpipe.experiment.sharing import export_run, open_run, read_file

CONFIG = """
[data]
root = "videos"
annotations = "annotations.csv"
fold_column = "split"
cache = "cache"
[extract]
flow = "farneback"
workers = 1
[streams.temporal]
input = "flow"
frames = 3
crop_size = [32, 32]
model_parameters = {width = 4}
[train]
epochs = 1
batch_size = 8
scales = [1.0]
[test]
clips = 2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    write_videos(folder / "videos", clips=18)
    (folder / "small.toml").write_text(CONFIG)
    return Experiment(load_settings(folder / "small.toml"), folder / "run").run().out


def test_a_test_on_other_flow_is_refused_unless_it_is_wanted(run, tmp_path):
    done = run_cli("test", run, "--flow", "dis", "--out", tmp_path / "t")
    assert done.status != 0
    assert "was trained on flow by farneback" in done.err
    assert "is given flow by dis" in done.err
    assert "--other-flow" in done.err
    assert not (tmp_path / "t").exists()
    done = run_cli("test", run, "--flow", "dis", "--other-flow", "--out", tmp_path / "t", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["videos"] == 9
    same = run_cli("test", run, "--flow", "farneback", "--out", tmp_path / "s")
    assert same.status == 0, same.err


def test_predictions_by_an_edited_run_are_refused(run):
    experiment = Experiment.of_run(run)
    with pytest.raises(ConfigError, match="allow other flow"):
        experiment.use_flow("dis", {})
    video = sorted((experiment.settings.data.root).rglob("*.mp4"))[0]
    settings = experiment.settings
    edited = Experiment(replace(settings, extract=replace(settings.extract, flow="dis")), run)
    with pytest.raises(WeightsError, match=r"extract\.flow 'farneback' → 'dis'"):
        edited.predict([video])
    edited.use_flow(None, {}, other_flow=True)
    assert len(edited.predict([video]).scores) == 1


def test_an_exported_run_knows_its_flow(run, tmp_path, monkeypatch):
    export_run(run, tmp_path / "x.flowpipe")
    facts, _ = read_file(tmp_path / "x.flowpipe")
    assert facts["flow"]["temporal"]["extract"]["flow"] == "farneback"
    experiment = open_run(tmp_path / "x.flowpipe")
    video = sorted(Experiment.of_run(run).settings.data.root.rglob("*.mp4"))[0]
    assert len(experiment.predict([video]).scores) == 1
    # A later flowpipe whose method computes otherwise.
    monkeypatch.setattr("flowpipe.flow.farneback.Farneback.version", 99)
    with pytest.raises(WeightsError, match="flow_version 1 → 99"):
        open_run(tmp_path / "x.flowpipe").predict([video])
