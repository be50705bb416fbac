"""Scores of videos: means over clips and crops, the same in any order and any batch."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from flowpipe.clips.dataset import StreamInput, TestClips, to_network_input
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.flow.quantise import Quantiser
from flowpipe.prediction import predict_scores
from flowpipe.training import TestOptions

ROWS, COLUMNS = 12, 16
CLASSES = ("a", "b", "c")
FLOW = StreamInput("temporal", "flow", 2, crop_size=(8, 8))
RGB = StreamInput("spatial", "rgb", 1, crop_size=(8, 8))
LENGTHS = {"one.avi": 9, "two.avi": 14, "three.avi": 4, "four.avi": 11}


class NoisyVideos:
    def __getitem__(self, name):
        frames = LENGTHS[name]
        rng = np.random.default_rng(frames)
        codes = rng.integers(1, 256, (frames - 1, 2, ROWS, COLUMNS), dtype=np.uint8)
        return SimpleNamespace(
            num_frames=frames,
            num_flows=frames - 1,
            height=ROWS,
            width=COLUMNS,
            pts_s=np.arange(frames) / 25,
            flow=SimpleNamespace(codes=lambda indices: codes[indices]),
            rgb=rng.integers(0, 256, (frames, ROWS, COLUMNS, 3), dtype=np.uint8),
            quantiser=Quantiser("u8", bound_px=20.0),
        )


def video(name, label):
    return Video(name, Path(name), () if label is None else (label,))


RECORDS = [
    video("one.avi", "b"),
    video("two.avi", None),
    video("three.avi", "a"),
    video("four.avi", "c"),
]


def network(in_channels=4, outputs=3):
    """In training mode its answers would be others: dropout, batch statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        norm = nn.BatchNorm2d(5)
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        return nn.Sequential(
            nn.Conv2d(in_channels, 5, 3),
            norm,
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(5 * 36, outputs),
        )


def predict(model=None, records=RECORDS, stream=FLOW, **options):
    how = {
        key: options.pop(key)
        for key in ("activation", "protocol", "on_progress", "workers")
        if key in options
    }
    tested = TestOptions(
        **{"clips": 3, "crops": "ten", "crop_scale": 0.875, "batch_size": 4} | options
    )
    model = network() if model is None else model
    data = Dataset(tuple(records), CLASSES)
    return predict_scores(model, data, NoisyVideos(), stream, tested, device="cpu", **how)


@pytest.mark.parametrize("stream", [FLOW, RGB], ids=["flow", "rgb"])
@pytest.mark.parametrize(("crops", "flip"), [("ten", False), ("center", True)])
def test_equals_a_slow_loop_over_clips_and_crops(stream, crops, flip):
    model = network(stream.in_channels)
    scores = predict(model, stream=stream, crops=crops, flip=flip)
    model.eval()
    for row, record in enumerate(RECORDS):
        data = TestClips(
            [record], NoisyVideos(), [stream], classes=CLASSES, clips=3, crops=crops, flip=flip
        )
        logits, shares = [], []
        for clip in range(3):
            for view in data[clip][stream.name]:
                quantiser = data.quantiser if stream.input == "flow" else None
                batch = {stream.name: view[None]}
                with torch.no_grad():
                    answer = model(to_network_input(batch, stream, quantiser))
                values = answer[0].numpy().astype(np.float64)
                logits.append(values)
                shares.append(np.exp(values) / np.exp(values).sum())
        assert len(shares) == 3 * (10 if crops == "ten" else 2)
        np.testing.assert_allclose(scores.probabilities_NK[row], np.mean(shares, 0), atol=1e-6)
        np.testing.assert_allclose(scores.logits_NK[row], np.mean(logits, 0), atol=1e-5)
    # The mean of softmax is not the softmax of the mean: the loop above can tell them apart.
    means = torch.from_numpy(scores.logits_NK.copy()).softmax(-1).numpy()
    assert np.abs(means - scores.probabilities_NK).max() > 1e-4


def test_ids_labels_stream_and_protocol():
    scores = predict(protocol={"model": "small"})
    assert scores.ids == ("one.avi", "two.avi", "three.avi", "four.avi")
    assert scores.labels_N.tolist() == [1, -1, 0, 2]
    assert scores.classes == CLASSES
    assert scores.stream == "temporal"
    wanted = {"clips": 3, "crops": "ten", "views": 10, "input": "flow", "model": "small"}
    assert wanted.items() <= dict(scores.protocol).items()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_across_videos_do_not_alter_scores(batch_size):
    one, other = predict(batch_size=4), predict(batch_size=batch_size)
    np.testing.assert_allclose(one.probabilities_NK, other.probabilities_NK, atol=1e-6)
    np.testing.assert_allclose(one.logits_NK, other.logits_NK, atol=1e-5)


def test_many_batches_run_without_normalisation(monkeypatch):
    seen = []

    def forward(layer, inputs):
        seen.append(layer)
        return nn.functional.batch_norm(
            inputs, layer.running_mean, layer.running_var, layer.weight, layer.bias
        )

    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)
    predict(batch_size=4)
    assert len(seen) == 3
    seen.clear()
    predict(batch_size=1)
    assert len(seen) == 1  # to see what is folded


def test_order_of_records_does_not_alter_scores():
    straight, turned = predict(), predict(records=RECORDS[::-1])
    assert turned.ids == straight.ids[::-1]
    again = turned.select(straight.ids)
    assert again.labels_N.tolist() == straight.labels_N.tolist()
    np.testing.assert_allclose(again.probabilities_NK, straight.probabilities_NK, atol=1e-6)


def test_twice_gives_the_same_bits_and_no_global_state_leaks():
    before = torch.random.get_rng_state()
    one, other = predict(), predict(workers=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(one.probabilities_NK, other.probabilities_NK)
    assert np.array_equal(one.logits_NK, other.logits_NK)


def test_model_is_left_as_it_was():
    model = network()
    model[1].eval()  # a frozen normalisation within a network in training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model)
    assert [layer.training for layer in model] == [True, False, True, True, True, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(model, on_progress=stop)
    assert [layer.training for layer in model] == [True, False, True, True, True, True]


def test_progress_ends_with_all_clips():
    told = []
    predict(batch_size=5, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 12), (10, 12), (12, 12)]


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_network_of_another_number_of_classes_is_refused(outputs):
    with pytest.raises(InvalidArgument, match=r"3 classes.*build it with num_classes=3"):
        predict(network(outputs=outputs))


def test_answers_that_are_not_finite_are_refused():
    model = network()
    nn.init.constant_(model[5].bias, float("nan"))
    with pytest.raises(InvalidArgument, match=r'of video "one\.avi" and 3 others are not finite'):
        predict(model)


def test_arguments_outside_their_rules():
    with pytest.raises(InvalidArgument, match="batch_size 0 must be a whole number ≥ 1"):
        predict(batch_size=0)
    with pytest.raises(InvalidArgument, match="workers -1 must be ≥ 0"):
        predict(workers=-1)
    with pytest.raises(InvalidArgument, match="clips 0 must be a whole number from 1 to 10000"):
        predict(clips=0)
    with pytest.raises(AnnotationError, match=r'"one\.avi" listed more than once'):
        predict(records=[*RECORDS, RECORDS[0]])
    with pytest.raises(AnnotationError, match="no video is listed"):
        predict(records=[])
