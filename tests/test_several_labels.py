"""Videos with several labels, from the list to hit@k: each step beside a slow loop."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flowpipe.clips.dataset import label_matrix
from flowpipe.datasets.synthetic import write_videos
from flowpipe.datasets.video import Video
from flowpipe.errors import EntryCorrupt, InvalidArgument, ScoresMismatch
from flowpipe.fusion import fuse
from flowpipe.metrics import hit_at_k, top_k_accuracy
from flowpipe.report.results import results_table, summary_text
from flowpipe.scores import Scores, load_scores
from flowpipe.training import TrainOptions
from flowpipe.training.checkpoint import METRICS
from flowpipe.training.loop import Criterion


def random_targets(rng, videos, classes):
    targets_NK = rng.random((videos, classes)) < 0.3
    targets_NK[np.arange(videos), rng.integers(0, classes, videos)] = True
    return targets_NK


def scores_of(rng, targets_NK, activation="sigmoid", stream="a"):
    videos, classes = targets_NK.shape
    logits_NK = rng.normal(0, 2, (videos, classes))
    if activation == "sigmoid":
        probabilities_NK = 1 / (1 + np.exp(-logits_NK))
    else:
        powers = np.exp(logits_NK)
        probabilities_NK = powers / powers.sum(1, keepdims=True)
    return Scores(
        ids=tuple(f"v{i}" for i in range(videos)),
        labels_N=targets_NK.argmax(1),
        probabilities_NK=probabilities_NK,
        logits_NK=logits_NK,
        classes=tuple(f"c{k}" for k in range(classes)),
        stream=stream,
        activation=activation,
        targets_NK=targets_NK,
    )


def slow_hit_at_k(scores_NK, targets_NK, k):
    hits = 0
    for scores, targets in zip(scores_NK, targets_NK, strict=True):
        ranked = sorted(range(len(scores)), key=lambda c: (-scores[c], c))
        hits += any(targets[c] for c in ranked[:k])
    return hits / len(scores_NK)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_hit_at_k_against_a_loop(k):
    rng = np.random.default_rng(k)
    # Few levels, so that many scores are equal.
    scores_NK = rng.integers(0, 4, (60, 7)) / 4
    targets_NK = random_targets(rng, 60, 7)
    assert hit_at_k(scores_NK, targets_NK, k) == pytest.approx(
        slow_hit_at_k(scores_NK, targets_NK, k)
    )


def test_hit_at_k_of_single_labels_is_top_k():
    rng = np.random.default_rng(0)
    scores_NK, labels_N = rng.integers(0, 5, (40, 6)) / 5, rng.integers(0, 6, 40)
    one_hot = labels_N[:, None] == np.arange(6)
    for k in range(1, 7):
        assert hit_at_k(scores_NK, one_hot, k) == top_k_accuracy(scores_NK, labels_N, k)


@pytest.mark.parametrize(
    ("targets", "k", "told"),
    [
        ([[1, 0], [0, 0]], 1, "row 1 has no class"),
        ([[1, 0, 0], [0, 1, 0]], 1, "targets of shape"),
        ([[1, 0], [0, 1]], 3, "k = 3 must be 1 to 2"),
        ([[1, 0]], 1, "1 labels for 2 rows"),
    ],
)
def test_hit_at_k_refuses(targets, k, told):
    with pytest.raises(InvalidArgument, match=told):
        hit_at_k([[0.1, 0.2], [0.3, 0.4]], targets, k)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_against_loops(loss):
    rng = np.random.default_rng(1)
    targets_NK = random_targets(rng, 9, 5)
    logits_BK = torch.from_numpy(rng.normal(0, 3, (4, 5)))
    records_B = torch.tensor([7, 0, 7, 3])
    labels_B = torch.from_numpy(targets_NK.argmax(1))[records_B]
    criterion = Criterion(TrainOptions(loss=loss), targets_NK, 5)
    total = 0.0
    for logits, record in zip(logits_BK.tolist(), records_B.tolist(), strict=True):
        own = targets_NK[record]
        for k in range(5):
            if loss == "softmax" and own[k]:
                share = math.exp(logits[k]) / sum(math.exp(value) for value in logits)
                total -= math.log(share) / own.sum()
            elif loss == "sigmoid":
                p = 1 / (1 + math.exp(-logits[k]))
                total -= math.log(p if own[k] else 1 - p)
    assert float(criterion(logits_BK, labels_B, records_B)) == pytest.approx(total / 4)
    best = logits_BK.argmax(1).tolist()
    right = sum(bool(targets_NK[r][b]) for r, b in zip(records_B.tolist(), best, strict=True))
    assert criterion.count_correct(logits_BK, labels_B, records_B) == right


def test_sigmoid_of_single_labels():
    logits_BK = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    own = Criterion(TrainOptions(loss="sigmoid"), None, 3)
    wanted = -sum(math.log(1 / (1 + math.exp(-s * v))) for s, v in ((-1, 0.5), (1, -1), (-1, 2)))
    assert float(own(logits_BK, torch.tensor([1]), torch.tensor([0]))) == pytest.approx(wanted)


def test_label_matrix():
    def record(name, *labels):
        return Video(name, Path(name), labels)

    records = [record("a.mp4", "x", "z"), record("b.mp4", "y")]
    assert label_matrix(records, ("x", "y", "z")).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert label_matrix(records[1:], ("x", "y", "z")) is None


def test_scores_go_round_and_keep_targets(tmp_path):
    rng = np.random.default_rng(2)
    scores = scores_of(rng, random_targets(rng, 6, 4))
    again = load_scores(scores.save(tmp_path / "s.npz"))
    assert again.activation == "sigmoid"
    assert np.array_equal(again.targets_NK, scores.targets_NK)
    assert np.array_equal(again.probabilities_NK, scores.probabilities_NK)
    part = again.select(["v4", "v1"])
    assert np.array_equal(part.targets_NK, scores.targets_NK[[4, 1]])
    correct = [scores.targets_NK[i, scores.predictions_N[i]] for i in range(6)]
    assert scores.correct_N.tolist() == correct


def test_scores_refuse_what_does_not_fit(tmp_path):
    rng = np.random.default_rng(3)
    targets_NK = random_targets(rng, 6, 4)
    whole = scores_of(rng, targets_NK)
    fields = {
        name: getattr(whole, name)
        for name in ("ids", "labels_N", "probabilities_NK", "logits_NK", "classes", "stream")
    }
    wrong = ~targets_NK
    with pytest.raises(InvalidArgument, match="targets and labels disagree"):
        Scores(**fields, activation="sigmoid", targets_NK=wrong)
    with pytest.raises(InvalidArgument, match=r"targets of shape \(5, 4\)"):
        Scores(**fields, activation="sigmoid", targets_NK=targets_NK[1:])
    with pytest.raises(InvalidArgument, match="sum to"):
        Scores(**fields, targets_NK=targets_NK)
    with pytest.raises(InvalidArgument, match="must lie in 0 to 1"):
        Scores(**{**fields, "probabilities_NK": fields["logits_NK"]}, activation="sigmoid")
    with pytest.raises(InvalidArgument, match='activation "relu" must be'):
        Scores(**fields, activation="relu")
    path = whole.save(tmp_path / "s.npz")
    with np.load(path) as archive:
        members = dict(archive)
    members["targets"] = wrong
    np.savez(path, **members)
    with pytest.raises(EntryCorrupt, match="targets and labels disagree"):
        load_scores(path)


@pytest.mark.parametrize("method", ["logsum", "average", "sum", "weighted"])
def test_fusion_of_sigmoid_scores_against_loops(method):
    rng = np.random.default_rng(4)
    targets_NK = random_targets(rng, 5, 4)
    one, two = (scores_of(rng, targets_NK, stream=name) for name in "ab")
    weights = [1.0, 3.0] if method == "weighted" else None
    fused = fuse([one, two], method, weights=weights)
    for i in range(5):
        for k in range(4):
            p, q = one.probabilities_NK[i, k], two.probabilities_NK[i, k]
            wanted = {
                "logsum": p * q / (p * q + (1 - p) * (1 - q)),
                "average": (p + q) / 2,
                "sum": 1 / (1 + math.exp(-float(one.logits_NK[i, k]) - float(two.logits_NK[i, k]))),
                "weighted": 0.25 * p + 0.75 * q,
            }[method]
            assert fused.probabilities_NK[i, k] == pytest.approx(wanted, rel=1e-6)
    assert fused.activation == "sigmoid"
    assert np.array_equal(fused.targets_NK, targets_NK)


def test_weights_are_searched_by_hits():
    rng = np.random.default_rng(5)
    targets_NK = random_targets(rng, 40, 5)
    good = scores_of(rng, targets_NK, stream="a")
    perfect = np.where(targets_NK, 0.6, 0.4)
    good = Scores(
        ids=good.ids, labels_N=good.labels_N, probabilities_NK=perfect,
        logits_NK=np.log(perfect / (1 - perfect)), classes=good.classes, stream="a",
        activation="sigmoid", targets_NK=targets_NK,
    )  # fmt: skip
    bad = scores_of(rng, targets_NK, stream="b")
    half = [f"v{i}" for i in range(20)]
    rest = [f"v{i}" for i in range(20, 40)]
    fused = fuse(
        [good.select(rest), bad.select(rest)],
        "weighted",
        training=[good.select(half), bad.select(half)],
    )
    equal_NK = (good.probabilities_NK + bad.probabilities_NK)[:20] / 2
    assert slow_hit_at_k(equal_NK, targets_NK[:20], 1) < 1.0
    assert fused.protocol["training_top_1"] == 1.0
    assert fused.protocol["weights"][0] > fused.protocol["weights"][1]


def test_fusion_refuses_what_makes_no_sense():
    rng = np.random.default_rng(6)
    targets_NK = random_targets(rng, 5, 4)
    one, two = (scores_of(rng, targets_NK, stream=name) for name in "ab")
    with pytest.raises(InvalidArgument, match="svm gives each video one class"):
        fuse([one, two], "svm", training=[one, two])
    soft = scores_of(rng, targets_NK, "softmax", stream="b")
    with pytest.raises(ScoresMismatch, match="have sigmoid and softmax probabilities"):
        fuse([one, soft])
    other = targets_NK.copy()
    other[0] = True
    other[0, : targets_NK[0].argmax()] = False  # the same first label
    changed = scores_of(rng, other, stream="b")
    with pytest.raises(ScoresMismatch, match="different labels for some"):
        fuse([one, changed])


def test_table_of_results_says_hit():
    rng = np.random.default_rng(7)
    targets_NK = random_targets(rng, 30, 8)
    scores = scores_of(rng, targets_NK)
    (row,) = results_table([scores], {})
    assert row.top_1 == pytest.approx(slow_hit_at_k(scores.probabilities_NK, targets_NK, 1))
    assert row.top_5 == pytest.approx(slow_hit_at_k(scores.probabilities_NK, targets_NK, 5))
    assert row.mean_class is None
    assert summary_text([scores], {}).split("\n")[0].split()[1:5] == ["hit@1", "%", "hit@5", "%"]


CONFIG = """
[data]
root = "videos"
annotations = "several.csv"
label_separator = "|"
fold_column = "split"
cache = "cache"
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.spatial]
input = "rgb"
crop_size = [32, 32]
model_parameters = {width = 8}
[streams.temporal]
input = "flow"
frames = 2
crop_size = [32, 32]
model_parameters = {width = 4}
[train]
epochs = 4
batch_size = 8
optimiser = "adamw"
learning_rate = 0.005
loss = "LOSS"
[test]
clips = 2
[fuse]
methods = ["logsum", "average", "weighted"]
groups = [["temporal", "spatial"]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated videos, with texture and motion as two labels of each, and without TensorBoard."""
    folder = tmp_path_factory.mktemp("several")
    listed = write_videos(folder / "videos", clips=36)
    with listed.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "videos" / "several.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "split"])
        for row in rows:
            writer.writerow([row["video"], f"{row['texture']}|{row['motion']}", row["split"]])
    for loss in ("softmax", "sigmoid"):
        (folder / f"{loss}.toml").write_text(CONFIG.replace("LOSS", loss), encoding="utf-8")
    return folder


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_from_the_list_to_the_report(folder, tmp_path, loss):
    from flowpipe.experiment.experiment import Experiment
    from flowpipe.experiment.settings import load_settings

    settings = load_settings(folder / f"{loss}.toml")
    result = Experiment(settings, tmp_path / "run").run()
    record = result.as_record()
    assert record["classes"] == ["blobs", "checks", "rotate", "stripes", "translate", "zoom"]
    scores = load_scores(tmp_path / "run" / "scores" / "spatial.npz")
    assert scores.activation == loss
    assert scores.targets_NK.sum(1).tolist() == [2] * len(scores.ids)
    for position, video in enumerate(scores.ids):
        texture, motion = video.split("/")[0].split("-")
        own = {scores.classes[k] for k in np.flatnonzero(scores.targets_NK[position])}
        assert own == {texture, motion}
    hit = slow_hit_at_k(scores.probabilities_NK, scores.targets_NK, 1)
    assert record["accuracy"]["spatial"] == pytest.approx(hit)
    assert record["networks"]["spatial"]["video_accuracy"] == pytest.approx(hit)
    assert set(record["fusions"]) == {"logsum", "average", "weighted", "temporal + spatial"}
    # The order of two streams does not matter to their product.
    assert record["fusions"]["temporal + spatial"] == record["fusions"]["logsum"]
    assert "hit@1" in Experiment.of_run(tmp_path / "run").report().read_text(encoding="utf-8")
    again = Experiment.of_run(tmp_path / "run").test(out=tmp_path / "again")
    assert again.as_record()["accuracy"] == record["accuracy"]
    assert again.networks["spatial"]["seconds"] is None
    lines = (tmp_path / "run" / "fold-test" / "spatial" / METRICS).read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0]


def test_groups_of_streams_are_checked(folder):
    from flowpipe.errors import ConfigError
    from flowpipe.experiment.settings import load_settings

    path = folder / "softmax.toml"
    with pytest.raises(ConfigError, match=r'no stream "spacial" \(did you mean "spatial"'):
        load_settings(path, ['fuse.groups=[["spacial", "temporal"]]'])
    with pytest.raises(ConfigError, match="must be of two streams or more"):
        load_settings(path, ['fuse.groups=[["spatial"]]'])
