"""The training loop: it learns, resumes to the same bits, and refuses what does not fit."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from flowpipe.clips.dataset import ClipDataset, StreamInput
from flowpipe.datasets.video import Video
from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.flow.quantise import Quantiser
from flowpipe.sealed import read_lines
from flowpipe.training import TestOptions, TrainOptions, train_stream
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    check_same,
    load_checkpoint,
    read_model,
    save_checkpoint,
)
from flowpipe.training.devices import choose_device
from flowpipe.training.loop import make_optimiser, rate_factor

ROWS, COLUMNS, FLOWS = 12, 16, 8
CLASSES = ("down", "up")
STREAM = StreamInput("flow", "flow", 2, crop_size=(8, 8))


class Stopped(Exception):
    """A run that is killed."""


@dataclass
class VerticalMotion:
    """Videos whose v is +1 px ("down") or −1 px ("up") with noise; a flip leaves it alone."""

    broken: bool = False

    def __getitem__(self, name):
        sign = 1 if name.startswith("down") else -1
        rng = np.random.default_rng(int(name.rpartition("-")[2].removesuffix(".avi")))
        shape = (FLOWS, 2, ROWS, COLUMNS)
        flow = rng.normal(0, 1, shape).astype(np.float32)
        flow[:, 1] += sign
        quantiser = Quantiser("f16")
        codes = quantiser.encode(flow)
        if self.broken:
            codes[:] = np.nan
        return SimpleNamespace(
            num_frames=FLOWS + 1,
            num_flows=FLOWS,
            height=ROWS,
            width=COLUMNS,
            pts_s=np.arange(FLOWS + 1) / 25,
            flow=SimpleNamespace(codes=lambda indices: codes[indices]),
            quantiser=quantiser,
        )


def records(downs=6, ups=6):
    names = [("down", i) for i in range(downs)] + [("up", i) for i in range(ups)]
    return [Video(f"{label}-{i}.avi", Path(f"{label}-{i}.avi"), (label,)) for label, i in names]


def clips(videos=None, cache=None, **options):
    cache = VerticalMotion() if cache is None else cache
    return ClipDataset(videos or records(), cache, [STREAM], classes=CLASSES, **options)


def network(outputs=2):
    """Dropout draws from torch's generator, batch normalisation has buffers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(6 * 36, outputs),
        )


def train(out, model=None, dataset=None, **options):
    how = {
        key: options.pop(key) for key in ("fingerprint", "validate", "on_epoch") if key in options
    }
    wanted = {"epochs": 4, "batch_size": 5, "learning_rate": 0.01, "warmup_epochs": 0.0}
    made = TrainOptions(**wanted | {"device": "cpu"} | options)
    return train_stream(model or network(), dataset or clips(), made, out, **how)


def stop_after(epoch):
    def on_epoch(record):
        if record["epoch"] == epoch:
            raise Stopped

    return on_epoch


def numbers(history):
    """What must be the same in every run; times are not."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "clips_per_s")} for r in history]


def assert_same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_learns_separable_classes(tmp_path):
    told = []
    history = train(tmp_path, epochs=8, on_epoch=told.append)
    assert history[-1]["accuracy"] > 0.9
    assert history[-1]["loss"] < history[0]["loss"]
    assert told == history
    assert set(history[0]) == {
        "epoch", "loss", "accuracy", "learning_rate", "seconds", "clips_per_s",
    }  # fmt: skip
    assert read_lines((tmp_path / METRICS).read_bytes(), None).records == history
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimiser": "adamw", "learning_rate": 0.002, "balanced": True},
        {"schedule": "steps", "steps": (1, 3), "gradient_clip": 0.5, "label_smoothing": 0.1},
        # Workers that start in another epoch than in the unbroken run must not move the dropout.
        {"workers": 1},
    ],
    ids=["sgd", "adamw", "steps", "workers"],
)
def test_resumed_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, options):
    unbroken, first, second = network(), network(), network()
    whole = train(tmp_path / "whole", unbroken, **options)
    with pytest.raises(Stopped):
        train(tmp_path / "killed", first, on_epoch=stop_after(2), **options)
    # What happens to torch's generator in between must not matter.
    torch.rand(7)
    resumed = train(tmp_path / "killed", second, **options)
    assert numbers(resumed) == numbers(whole)
    assert_same_state(unbroken, second)
    lines = (tmp_path / "killed" / METRICS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_number_of_workers_does_not_change_the_result(tmp_path):
    alone, helped = network(), network()
    train(tmp_path / "0", alone, epochs=2)
    train(tmp_path / "1", helped, epochs=2, workers=1)
    assert_same_state(alone, helped)


def test_seed_changes_the_result_and_no_global_state_leaks(tmp_path):
    one, other = network(), network()
    before = torch.random.get_rng_state()
    train(tmp_path / "a", one, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())
    train(tmp_path / "b", other, epochs=1, seed=1)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_finished_run_returns_at_once(tmp_path):
    trained, fresh, told = network(), network(), []
    history = train(tmp_path, trained)
    again = train(tmp_path, fresh, on_epoch=told.append)
    assert again == history
    assert told == []
    assert_same_state(trained, fresh)


def test_one_update_is_not_made_at_rate_zero(tmp_path):
    model, untouched = network(), network()
    history = train(tmp_path, model, epochs=1, batch_size=100, warmup_epochs=1)
    assert history[0]["learning_rate"] == pytest.approx(0.005)
    assert not torch.equal(model[5].weight, untouched[5].weight)


@pytest.mark.parametrize(
    ("moment", "warmup", "schedule", "steps", "factor"),
    [
        (0, 0, "cosine", (), 1.0),
        (5, 0, "cosine", (), 0.5),
        (10, 0, "cosine", (), 0.0),
        (0, 2, "cosine", (), 0.0),
        (1, 2, "cosine", (), 0.5),
        (2, 2, "cosine", (), 1.0),
        (6, 2, "cosine", (), 0.5),
        (4, 2, "cosine", (), 0.5 + 0.5 * 2**-0.5),
        (4.99, 0, "steps", (5, 8), 1.0),
        (5, 0, "steps", (5, 8), 0.1),
        (8, 0, "steps", (5, 8), 0.01),
        (0.5, 1, "steps", (5, 8), 0.5),
    ],
)
def test_schedule_by_hand(moment, warmup, schedule, steps, factor):
    assert rate_factor(moment, 10, warmup, schedule, steps) == pytest.approx(factor, abs=1e-12)


def test_steps_fall_between_epochs_and_reach_the_optimiser(tmp_path):
    history = train(tmp_path, schedule="steps", steps=(1, 3), learning_rate=0.1)
    rates = [record["learning_rate"] for record in history]
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 0.02}, r"learning_rate 0\.01 → 0\.02"),
        ({"momentum": 0.5}, r"momentum 0\.9 → 0\.5"),
        ({"warmup_epochs": 1.0}, r"warmup_epochs 0\.0 → 1\.0"),
        ({"label_smoothing": 0.1}, r"label_smoothing 0\.0 → 0\.1"),
        ({"balanced": True}, "balanced False → True"),
        ({"gradient_clip": 1.0}, r"gradient_clip None → 1\.0"),
        ({"fingerprint": {"flip": True}}, "flip None → True"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(tmp_path, change, told):
    train(tmp_path, epochs=1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(WeightsError, match=rf"\({told}\); choose another folder, or delete"):
        train(tmp_path, epochs=1, **change)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_fingerprint_may_not_hide_a_setting(tmp_path):
    with pytest.raises(InvalidArgument, match="fingerprint names seed are taken"):
        train(tmp_path, fingerprint={"seed": 1})


def test_checkpoint_of_another_network_names_the_tensors(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(WeightsError, match=r"5\.weight is 2×216, not 3×216"):
        train(tmp_path, network(outputs=3), epochs=1)


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("the checkpoint ran code",))


@pytest.mark.parametrize("kind", ["code", "cut", "text", "empty", "list", "weights only"])
def test_damaged_or_foreign_checkpoint_is_refused(tmp_path, kind):
    path = tmp_path / CHECKPOINT
    train(tmp_path, epochs=1)
    if kind == "code":
        torch.save({"settings": Harmful()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "weights only":
        torch.save({"model": network().state_dict()}, path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:500], "text": b"hello", "empty": b""}[kind])
    with pytest.raises(WeightsError, match=r"is no checkpoint of flowpipe.*delete it to train"):
        load_checkpoint(path, network(), None, {})
    with pytest.raises(WeightsError, match="is no checkpoint of flowpipe"):
        read_model(path, network())


def test_read_model_gives_weights_and_settings(tmp_path):
    trained, fresh = network(), network()
    train(tmp_path, trained, epochs=1, fingerprint={"fold": "a"})
    settings = read_model(tmp_path / CHECKPOINT, fresh)
    assert (settings["fold"], settings["epochs"]) == ("a", 1)
    assert_same_state(trained, fresh)
    with pytest.raises(WeightsError, match=r"no checkpoint at .*; flowpipe train makes one"):
        read_model(tmp_path / "none.pt", fresh)


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, on_epoch=stop_after(2))
    before = (tmp_path / CHECKPOINT).read_bytes()
    broken = clips(cache=VerticalMotion(broken=True))
    with pytest.raises(InvalidArgument, match=r"loss is not finite in epoch 3.*lower the"):
        train(tmp_path, dataset=broken)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


class Recorder(nn.Module):
    """Keeps how many clips of each class it sees: v is positive for "down"."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 2)
        self.downs = self.seen = 0

    def forward(self, clip_BCHW):
        v = clip_BCHW[:, 1::2].mean(dim=(1, 2, 3))
        self.downs += int((v > 0).sum())
        self.seen += len(v)
        return self.fc(v[:, None])


@pytest.mark.parametrize(("balanced", "low", "high"), [(False, 0.9, 0.9), (True, 0.4, 0.6)])
def test_balanced_draws_classes_equally_often(tmp_path, balanced, low, high):
    model = Recorder()
    dataset = clips(records(downs=18, ups=2))
    train(tmp_path, model, dataset, epochs=15, balanced=balanced)
    assert model.seen == 15 * 20
    assert low <= model.downs / model.seen <= high


def test_biases_and_normalisation_are_not_decayed():
    model = network()
    kernels, others = make_optimiser(model, TrainOptions(weight_decay=0.01)).param_groups
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert [p.ndim for p in kernels["params"]] == [4, 2]
    assert len(others["params"]) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": 0}, "epochs 0 must be a whole number"),
        ({"batch_size": 0}, "batch_size 0 must be a whole number"),
        ({"optimiser": "adam"}, "optimiser 'adam' must be sgd or adamw"),
        ({"schedule": "linear"}, "schedule 'linear' must be cosine or steps"),
        ({"learning_rate": float("nan")}, "learning_rate nan must be > 0"),
        ({"momentum": 1.0}, r"momentum 1\.0 must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"weight_decay -1\.0 must be ≥ 0"),
        ({"steps": (-1,)}, r"steps \(-1,\) must be epochs ≥ 0"),
        ({"warmup_epochs": -1}, "warmup_epochs -1 must be ≥ 0"),
        ({"gradient_clip": 0.0}, r"gradient_clip 0\.0 must be > 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing 1\.0 must be in"),
        ({"workers": -1}, "workers -1 must be a whole number ≥ 0"),
        ({"device": "tpu"}, "device 'tpu' must be auto, cpu or cuda"),
        ({"seed": 2**32}, r"seed 4294967296 must be in \[0, 4294967295\]"),
        ({"clips_per_video": 0}, "clips_per_video 0 must be a whole number"),
        ({"scales": ()}, r"scales \(\) must be shares"),
    ],
)
def test_settings_outside_their_rules(tmp_path, change, told):
    with pytest.raises(InvalidArgument, match=told):
        train(tmp_path / "run", **change)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(InvalidArgument, match="torch finds no GPU"):
        choose_device("cuda")


def test_tensorboard_gets_each_epoch_once_over_a_kill(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stopped):
        train(tmp_path, on_epoch=stop_after(2))
    history = train(tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("loss", "accuracy", "learning_rate"):
        points = [(point.step, point.value) for point in events.Scalars(name)]
        assert [step for step, _ in points] == [1, 2, 3, 4]
        assert [value for _, value in points] == pytest.approx([r[name] for r in history])
    # A finished run opens no further file of events.
    before = sorted(tmp_path.glob("events.*"))
    train(tmp_path)
    assert sorted(tmp_path.glob("events.*")) == before


def test_without_tensorboard_there_are_the_json_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    train(tmp_path, epochs=1)
    assert len((tmp_path / METRICS).read_text().splitlines()) == 1
    assert not list(tmp_path.glob("events.*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loss": "hinge"}, "loss 'hinge' must be softmax or sigmoid"),
        ({"loss": "sigmoid", "label_smoothing": 0.1}, "must be 0 with loss sigmoid"),
    ],
)
def test_losses_outside_their_rules(tmp_path, change, told):
    with pytest.raises(InvalidArgument, match=told):
        train(tmp_path, **change)


def test_options_are_refused_where_they_are_made():
    for record, change in (
        (TestOptions, {"clips": 0}),
        (TestOptions, {"crops": "four"}),
        (TestOptions, {"crop_scale": 0.0}),
        (TestOptions, {"batch_size": True}),
        (TrainOptions, {"max_distortion": -1}),
        (TrainOptions, {"memory_mb": -1.0}),
    ):
        with pytest.raises(InvalidArgument, match="must be") as error:
            record(**change)
        assert error.value.parameters == tuple(change)


def test_what_is_fitted_at_once_has_no_optimiser(tmp_path):
    fitted, fresh = network(), network()
    torch.nn.init.normal_(fitted[0].weight)
    save_checkpoint(tmp_path / CHECKPOINT, fitted, None, {"fold": "a"}, [])
    assert set(torch.load(tmp_path / CHECKPOINT, weights_only=True)) == {
        "model",
        "settings",
        "history",
    }
    assert load_checkpoint(tmp_path / CHECKPOINT, fresh, None, {"fold": "a"}) == []
    assert_same_state(fitted, fresh)
    assert load_checkpoint(tmp_path / "none.pt", fresh, None, {}) is None


# What version 0.1 stored: the options of training twice, tables as text, videos by their number.
FORMER = {
    "epochs": 14, "batch_size": 16, "optimiser": "adamw", "learning_rate": 0.004,
    "momentum": 0.9, "weight_decay": 0.05, "schedule": "cosine", "steps": [],
    "warmup_epochs": 1.0, "gradient_clip": None, "label_smoothing": 0.0, "loss": "softmax",
    "balanced": False, "seed": 0, "mixed_precision": True,
    "stream": json.dumps({
        "input": "rgb", "model": "small-cnn", "crop_size": [64, 64], "weights": None,
        "epochs": 14, "learning_rate": None, "clips_per_video": 3,
    }),
    "train": json.dumps({
        "epochs": 30, "scales": [1.0, 0.875], "crop": "random", "max_distortion": 1,
        "clips_per_video": 1, "seed": 0,
    }),
    "extract": json.dumps({"flow": "dis", "codec": None, "workers": 2}),
    "flip": False, "fold": "test", "videos": 216,
}  # fmt: skip
PRESENT = {
    **TrainOptions(
        epochs=14, optimiser="adamw", learning_rate=0.004, weight_decay=0.05, clips_per_video=3,
        scales=(1.0, 0.875),
    ).learnt(),
    "stream": {"input": "rgb", "model": "small-cnn", "crop_size": (64, 64)},
    "extract": {"flow": "dis"},
    "flip": False, "fold": "test", "videos": {"count": 216},
}  # fmt: skip


def test_a_checkpoint_of_the_former_form_is_compared_in_what_it_says():
    check_same(Path("c.pt"), FORMER, PRESENT)
    for change, message in (
        ({"clips_per_video": 1}, "clips_per_video 3 → 1"),
        ({"scales": (1.0,)}, r"scales \[1.0, 0.875\] → \[1.0\]"),
        ({"stream": {"model": "resnet18"}}, "stream.model 'small-cnn' → 'resnet18'"),
        ({"extract": {"flow": "tvl1"}}, "extract.flow 'dis' → 'tvl1'"),
        ({"videos": {"count": 215}}, "videos.count 216 → 215"),
    ):
        with pytest.raises(WeightsError, match=rf"\({message}\)"):
            check_same(Path("c.pt"), FORMER, PRESENT | change)


def worse_after(best):
    """A validation whose loss is least after epoch `best`, and the states that it saw."""
    states = []

    def validate(model):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"validation_loss": abs(len(states) - best) + 0.5, "validation_accuracy": 0.5}

    return validate, states


def test_the_epoch_of_the_least_held_out_loss_counts(tmp_path):
    validate, states = worse_after(2)
    model = network()
    history = train(tmp_path, model, validate=validate)
    assert [record["validation_loss"] for record in history] == [1.5, 0.5, 1.5, 2.5]
    read = network()
    read_model(tmp_path / CHECKPOINT, read)
    for name, value in states[1].items():
        assert torch.equal(model.state_dict()[name], value), name
        assert torch.equal(read.state_dict()[name], value), name
    last = network()
    train(tmp_path / "last", last, validate=worse_after(2)[0], keep="last")
    for name, value in states[3].items():
        assert torch.equal(last.state_dict()[name], value), name


def test_training_ends_when_held_out_videos_gain_no_more(tmp_path):
    history = train(tmp_path, validate=worse_after(1)[0], patience=2)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    # Ended is ended: the same command trains no further.
    again = train(tmp_path, validate=worse_after(1)[0], patience=2)
    assert numbers(again) == numbers(history)


def test_a_resumed_training_still_knows_its_best_epoch(tmp_path):
    whole, _ = worse_after(1)
    model = network()
    history = train(tmp_path / "whole", model, validate=whole)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", validate=worse_after(1)[0], on_epoch=stop_after(2))
    later, resumed = worse_after(-1), network()  # continues the whole run's losses
    again = train(tmp_path / "cut", resumed, validate=later[0])
    assert numbers(again) == numbers(history)
    assert_same_state(model, resumed)
