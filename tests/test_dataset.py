"""Clips of a cache whose codes carry their own indices, so that a wrong index shows."""

import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from flowpipe.clips.dataset import (
    ClipDataset,
    EpochSampler,
    StreamInput,
    TestClips,
    class_balanced_weights,
    to_network_input,
)
from flowpipe.clips.streams import IMAGENET_MEAN, IMAGENET_STD, PixelValues
from flowpipe.datasets.video import Video
from flowpipe.errors import AnnotationError, CacheError, InvalidArgument
from flowpipe.flow.quantise import Quantiser

ROWS, COLUMNS = 12, 16
WHOLE = {"scales": (1.0,), "max_distortion": 0, "crop": "center", "flip": False}


class LabelledFlow:
    """Flow code k of channel c is 10·(k + 1) + c everywhere."""

    def __init__(self, count, dtype):
        self.count = count
        self.dtype = dtype

    def codes(self, indices):
        indices = np.asarray(indices)
        assert indices.min() >= 0
        assert indices.max() < self.count
        assert (np.diff(indices) > 0).all()
        values = 10 * (indices[:, None] + 1) + np.arange(2)
        return np.broadcast_to(values[:, :, None, None], (len(indices), 2, ROWS, COLUMNS)).astype(
            self.dtype
        )


class LabelledFrames:
    """Frame k is k² in red, the column in green, the row in blue."""

    def __init__(self, count):
        self.count = count

    def __getitem__(self, indices):
        indices = np.asarray(indices)
        assert indices.min() >= 0
        assert indices.max() < self.count
        frames = np.zeros((len(indices), ROWS, COLUMNS, 3), np.uint8)
        frames[..., 0] = (indices**2)[:, None, None]
        frames[..., 1] = np.arange(COLUMNS)
        frames[..., 2] = np.arange(ROWS)[:, None]
        return frames


@dataclass
class FakeCache:
    lengths: dict
    quantisers: dict

    def __getitem__(self, name):
        frames = self.lengths[name]
        quantiser = self.quantisers.get(name, Quantiser("i16"))
        return SimpleNamespace(
            num_frames=frames,
            num_flows=frames - 1,
            height=ROWS,
            width=COLUMNS,
            pts_s=np.arange(frames) / 25,
            flow=LabelledFlow(frames - 1, quantiser.dtype),
            rgb=LabelledFrames(frames),
            quantiser=quantiser,
        )


def video(name, label="run"):
    return Video(name, Path(name), () if label is None else (label,))


CACHE = FakeCache({"a.avi": 12, "b.avi": 9, "tiny.avi": 3, "one.avi": 1}, {})
RECORDS = [video("a.avi"), video("b.avi", "walk")]
CLASSES = ("run", "walk")
FLOW = StreamInput("flow", "flow", 4, crop_size=(12, 12))
RGB = StreamInput("rgb", "rgb", 1, crop_size=(12, 12))


def first_pixels(tensor):
    return tensor[..., 0, 0].tolist()


def flow_indices(sample, name="flow"):
    return [code // 10 - 1 for code in first_pixels(sample[name])[::2]]


def test_flow_stack_and_picture_share_their_instant():
    # One scale, so that nothing is resized and the labels stay whole.
    data = ClipDataset(
        RECORDS[:1], CACHE, [FLOW, RGB], classes=CLASSES, clips_per_video=60, scales=(1.0,)
    )
    starts = set()
    for item in range(len(data)):
        sample = data[item]
        stack = first_pixels(sample["flow"].abs())
        indices = [int(code) // 10 - 1 for code in stack[::2]]
        flipped = bool(sample["flow"][0, 0, 0] < 0)
        assert indices == list(range(indices[0], indices[0] + 4))
        assert [int(code) % 10 for code in stack] == [0, 1] * 4
        assert int(sample["rgb"][0, 0, 0]) == (indices[0] + 2) ** 2
        # The picture is mirrored exactly when u is negated.
        assert flipped == bool(sample["rgb"][1, 0, 0] > sample["rgb"][1, 0, -1])
        starts.add(indices[0])
    assert starts == set(range(8))  # 11 flows, 4 of them in a stack


def test_segments_draw_each_clip_from_its_own_part_of_the_video():
    data = ClipDataset(
        RECORDS, CACHE, [FLOW], classes=CLASSES, clips_per_video=4, sampling="segments", **WHOLE
    )
    # 11 flows, clips of 4: the eight starts in four parts of two; 8 flows: five starts.
    parts = {0: [{0, 1}, {2, 3}, {4, 5}, {6, 7}], 1: [{0, 1}, {1, 2}, {2, 3}, {3, 4}]}
    for video_number, wanted in parts.items():
        drawn = [set(), set(), set(), set()]
        for epoch in range(40):
            for k in range(4):
                # Further draws of an item (balanced sampling) stay in its part.
                item = video_number + 2 * k + 8 * (epoch % 2)
                drawn[k].add(flow_indices(data[epoch, item])[0])
        assert drawn == wanted
    with pytest.raises(InvalidArgument, match=r'sampling "segment" \(did you mean "segments"'):
        ClipDataset(RECORDS, CACHE, [FLOW], classes=CLASSES, sampling="segment")


def test_sample_holds_codes_label_and_index_and_collates():
    data = ClipDataset(RECORDS, CACHE, [FLOW, RGB], classes=CLASSES, seed=1)
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["flow"].shape == (2, 8, 12, 12)
    assert batch["flow"].dtype == torch.int16
    assert batch["rgb"].shape == (2, 3, 12, 12)
    assert batch["rgb"].dtype == torch.uint8
    assert batch["label"].tolist() == [0, 1]
    assert batch["index"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (StreamInput("s", "flow", 3, frame_step=3, crop_size=(12, 16)), [2, 5, 8]),
        (StreamInput("s", "flow", 4, crop_size=(12, 16)), [3, 4, 5, 6]),
        (StreamInput("s", "flow", 2, fps=5, crop_size=(12, 16)), [2, 7]),
    ],
)
def test_validation_clip_is_the_middle_of_the_video(stream, expected):
    data = ClipDataset(RECORDS[:1], CACHE, [stream], classes=CLASSES, training=False)
    assert flow_indices(data[0], "s") == expected


def test_short_video_repeats_its_last_flow_or_loops():
    for short, expected in [("repeat-last", [0, 1, 1, 1]), ("loop", [0, 1, 0, 1])]:
        data = ClipDataset(
            [video("tiny.avi")], CACHE, [FLOW], classes=CLASSES, short=short, **WHOLE
        )
        assert flow_indices(data[0]) == expected


def test_differences_stand_at_the_index_of_their_flow():
    differences = StreamInput("d", "rgbdiff", 3, crop_size=(12, 12))
    flow = StreamInput("flow", "flow", 3, crop_size=(12, 12))
    data = ClipDataset(RECORDS, CACHE, [flow, differences], classes=CLASSES, **WHOLE)
    for item in range(2):
        sample = data[item]
        expected = [2 * index + 1 for index in flow_indices(sample)]  # (k+1)² − k²
        assert sample["d"].dtype == torch.int16
        assert first_pixels(sample["d"])[::3] == expected


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("CHW", (8, 6, 8)), ("CTHW", (2, 4, 6, 8)), ("TCHW", (4, 2, 6, 8))],
)
def test_layouts_and_declared_shapes_agree(layout, shape):
    stream = StreamInput("flow", "flow", 4, crop_size=(6, 8), layout=layout)
    sample = ClipDataset(RECORDS, CACHE, [stream], classes=CLASSES)[0]
    assert tuple(sample["flow"].shape) == shape == stream.input_shape
    assert stream.in_channels == (8 if layout == "CHW" else 2)


def test_item_depends_on_seed_epoch_and_item_alone():
    def codes(seed, epoch, item):
        data = ClipDataset(RECORDS, CACHE, [RGB], classes=CLASSES, seed=seed, clips_per_video=20)
        data.set_epoch(epoch)
        return data[item]["rgb"].numpy().tobytes()

    assert codes(1, 2, 3) == codes(1, 2, 3)
    for other in [(1, 3), (2, 2)]:
        assert [codes(*other, i) for i in range(8)] != [codes(1, 2, i) for i in range(8)]
    data = ClipDataset(RECORDS, CACHE, [RGB], classes=CLASSES, seed=1, clips_per_video=20)
    assert data[2, 3]["rgb"].numpy().tobytes() == codes(1, 2, 3)


def test_workers_change_nothing():
    data = ClipDataset(RECORDS, CACHE, [FLOW, RGB], classes=CLASSES, clips_per_video=5)
    sampler = EpochSampler(len(data), seed=4)
    sampler.set_epoch(3)
    alone, shared = (
        list(DataLoader(data, batch_size=4, sampler=sampler, num_workers=workers))
        for workers in (0, 2)
    )
    for first, second in zip(alone, shared, strict=True):
        for key in first:
            assert torch.equal(first[key], second[key])


def test_data_sets_survive_pickling():
    data = ClipDataset(RECORDS, CACHE, [FLOW], classes=CLASSES, seed=3)
    assert torch.equal(pickle.loads(pickle.dumps(data))[1]["flow"], data[1]["flow"])


def test_test_clips_are_equally_spaced_and_carry_their_crops():
    stream = StreamInput("flow", "flow", 4, crop_size=(6, 6))
    data = TestClips(RECORDS, CACHE, [stream, RGB], classes=CLASSES, clips=3, crops="ten")
    assert len(data) == 6
    assert data.protocol["views"] == 10
    samples = [data[item] for item in range(len(data))]
    assert samples[0]["flow"].shape == (10, 8, 6, 6)
    assert [(s["index"], s["clip"]) for s in samples] == [(v, c) for v in (0, 1) for c in range(3)]
    # Centre frame, squared in red: 11 flows have centres 2..9, 8 flows 2..6.
    assert [int(s["rgb"][0, 0, 0, 0]) for s in samples] == [4, 36, 81, 4, 16, 36]
    assert torch.equal(samples[0]["rgb"][:5].flip(-1), samples[0]["rgb"][5:])
    assert torch.equal(samples[0]["flow"][:5, ::2], -samples[0]["flow"][5:, ::2])


def test_unlabelled_videos_can_be_tested_but_not_trained_on():
    records = [video("a.avi", None)]
    assert TestClips(records, CACHE, [RGB], classes=CLASSES, crops="center")[0]["label"] == -1
    with pytest.raises(AnnotationError, match=r'without a label, the first is "a\.avi"'):
        ClipDataset(records, CACHE, [RGB], classes=CLASSES)


@pytest.mark.parametrize(
    "quantiser", [Quantiser("u8", bound_px=20.0), Quantiser("i16"), Quantiser("f16")]
)
@pytest.mark.parametrize("layout", ["CHW", "CTHW", "TCHW"])
def test_network_input_of_flow_is_pixels_over_the_scale(quantiser, layout):
    stream = StreamInput("flow", "flow", 2, crop_size=(3, 4), layout=layout, flow_scale_px=5.0)
    flow = np.random.default_rng(0).uniform(-9, 9, (2, *stream.input_shape)).astype(np.float32)
    codes = quantiser.encode(flow)
    batch = {"flow": torch.from_numpy(codes)}
    got = to_network_input(batch, stream, quantiser)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, quantiser.decode(codes) / 5.0, atol=1e-5)
    freed = StreamInput("flow", "flow", 2, crop_size=(3, 4), layout=layout, mean_subtraction=True)
    means = to_network_input(batch, freed, quantiser).mean(dim=(-2, -1))
    assert means.abs().max() < 1e-5


@pytest.mark.parametrize(("layout", "axis"), [("CHW", 1), ("CTHW", 1), ("TCHW", 2)])
def test_network_input_of_pictures_is_normalised_per_channel(layout, axis):
    stream = StreamInput("rgb", "rgb", 2, crop_size=(3, 4), layout=layout)
    rgb = np.random.default_rng(1).integers(0, 256, (2, *stream.input_shape), dtype=np.uint8)
    got = np.moveaxis(to_network_input({"rgb": torch.from_numpy(rgb)}, stream).numpy(), axis, 0)
    raw = np.moveaxis(rgb, axis, 0)
    for channel in range(len(raw)):
        expected = (raw[channel] / 255 - IMAGENET_MEAN[channel % 3]) / IMAGENET_STD[channel % 3]
        np.testing.assert_allclose(got[channel], expected, atol=1e-5)


def test_symmetric_pictures_reach_from_minus_one_to_one():
    stream = StreamInput("rgb", "rgb", 1, crop_size=(1, 1), rgb_range="symmetric")
    codes = torch.tensor([0, 255, 0], dtype=torch.uint8).reshape(3, 1, 1)
    assert to_network_input({"rgb": codes}, stream).flatten().tolist() == [-1.0, 1.0, -1.0]


@pytest.mark.parametrize(("layout", "axis"), [("CHW", 1), ("CTHW", 1), ("TCHW", 2)])
def test_pixels_as_another_library_takes_them(layout, axis):
    values = PixelValues(1.0, (104.0, 117.0, 128.0), (2.0, 3.0, 4.0), "BGR")
    stream = StreamInput("rgb", "rgb", 2, crop_size=(3, 4), layout=layout, rgb_range=values)
    rgb = np.random.default_rng(1).integers(0, 256, (2, *stream.input_shape), dtype=np.uint8)
    got = np.moveaxis(to_network_input({"rgb": torch.from_numpy(rgb)}, stream).numpy(), axis, 0)
    raw = np.moveaxis(rgb, axis, 0)
    for channel in range(len(raw)):
        blue_first = channel - channel % 3 + 2 - channel % 3
        expected = raw[blue_first] - (104.0, 117.0, 128.0)[channel % 3]
        np.testing.assert_allclose(got[channel], expected / (channel % 3 + 2), atol=1e-5)
    with pytest.raises(InvalidArgument, match="must be of one value or three"):
        PixelValues(mean=(1.0, 2.0))


def test_network_input_refuses_what_does_not_fit():
    with pytest.raises(InvalidArgument, match='no stream "rgb"; it has flow'):
        to_network_input({"flow": torch.zeros(1)}, RGB)
    with pytest.raises(InvalidArgument, match=r"must end in \(8, 12, 12\)"):
        to_network_input({"flow": torch.zeros(1, 8, 12, 13)}, FLOW, Quantiser("i16"))
    with pytest.raises(InvalidArgument, match="need a quantiser"):
        to_network_input({"flow": torch.zeros(1, 8, 12, 12)}, FLOW)


def test_entries_of_two_storages_are_refused():
    cache = FakeCache(CACHE.lengths, {"b.avi": Quantiser("u8", bound_px=20.0)})
    data = ClipDataset(RECORDS, cache, [FLOW], classes=CLASSES)
    with pytest.raises(CacheError, match="one batch cannot hold both"):
        data[1]


def test_a_video_of_one_frame_has_no_flow():
    data = ClipDataset([video("one.avi")], CACHE, [FLOW], classes=CLASSES)
    with pytest.raises(InvalidArgument, match="has no flow"):
        data[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "label"}, 'stream name "label" must not be'),
        ({"input": "flwo"}, 'input "flwo" must be one of rgb, flow, rgbdiff, .*"flow"'),
        ({"frames": 0}, "frames 0 and frame_step 1 must be ≥ 1"),
        ({"crop_size": (224,)}, r"must be \(height, width\)"),
        ({"layout": "HWC"}, 'layout "HWC" must be one of'),
        ({"input": "rgb", "mean_subtraction": True}, "mean_subtraction is for flow"),
        ({"fps": 5, "frame_step": 2}, "takes the place of frame_step"),
        ({"flow_scale_px": 0.0}, "flow_scale_px 0.0 must be > 0"),
    ],
)
def test_a_stream_outside_of_its_rule_is_refused(fields, message):
    with pytest.raises(InvalidArgument, match=message):
        StreamInput(**({"name": "s", "input": "flow", "frames": 3} | fields))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"records": []}, AnnotationError, "no video is given"),
        ({"streams": []}, InvalidArgument, "no stream is given"),
        ({"streams": [FLOW, FLOW]}, InvalidArgument, "must differ"),
        ({"classes": ("walk", "runn")}, AnnotationError, 'did you mean "runn"'),
        ({"clips_per_video": 0}, InvalidArgument, "clips_per_video 0"),
        ({"seed": -1}, InvalidArgument, "seed -1"),
        ({"scales": (1.5,)}, InvalidArgument, "scale 1.5"),
        ({"short": "pad"}, InvalidArgument, 'short "pad"'),
    ],
)
def test_a_data_set_refuses_wrong_settings_at_once(change, error, message):
    settings = {"records": RECORDS, "streams": [FLOW], "classes": CLASSES} | change
    with pytest.raises(error, match=message):
        ClipDataset(cache=CACHE, **settings)


def test_balanced_weights_make_classes_equally_likely():
    weights = class_balanced_weights([0, 0, 0, 2])
    np.testing.assert_allclose(weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    with pytest.raises(InvalidArgument, match="class numbers ≥ 0"):
        class_balanced_weights([0, -1])


def test_epochs_are_permutations_that_differ_and_resume_anywhere():
    sampler = EpochSampler(20, seed=7)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(item for _, item in orders[-1]) == list(range(20))
        assert {e for e, _ in orders[-1]} == {epoch}
    assert [item for _, item in orders[0]] != [item for _, item in orders[1]]
    sampler.set_epoch(1, position=13)
    assert list(sampler) == orders[1][13:]
    assert len(sampler) == 7


def test_processes_share_an_epoch_evenly():
    samplers = [EpochSampler(10, seed=1, rank=rank, world_size=3) for rank in range(3)]
    parts = [[item for _, item in sampler] for sampler in samplers]
    assert [len(part) for part in parts] == [4, 4, 4] == [len(s) for s in samplers]
    assert set().union(*parts) == set(range(10))
    whole = [item for _, item in EpochSampler(10, seed=1)]
    assert [parts[place % 3][place // 3] for place in range(10)] == whole


def test_balanced_epochs_draw_further_clips_of_the_same_video():
    labels = np.array([0] * 30 + [1] * 2)
    sampler = EpochSampler(32, seed=0, weights=class_balanced_weights(labels), num_draws=2000)
    items = [item for _, item in sampler]
    assert len(items) == len(set(items)) == 2000  # never the same clip twice
    counts = Counter(int(labels[item % 32]) for item in items)
    assert 900 < counts[1] < 1100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_items": 0}, "num_items 0"),
        ({"rank": 2, "world_size": 2}, r"rank 2 must be in \[0, 2\)"),
        ({"num_draws": 5}, "needs weights"),
        ({"weights": [1.0]}, "must be 4 numbers"),
        ({"seed": -3}, "seed -3"),
    ],
)
def test_a_sampler_outside_of_its_rule_is_refused(fields, message):
    with pytest.raises(InvalidArgument, match=message):
        EpochSampler(**({"num_items": 4} | fields))
    with pytest.raises(InvalidArgument, match="position 5 in"):
        EpochSampler(4).set_epoch(0, position=5)


@pytest.mark.parametrize("layout", ["CHW", "CTHW", "TCHW"])
def test_frames_and_flow_of_one_clip_are_its_two_parts(layout):
    both = StreamInput("x", "rgb+flow", 4, crop_size=(12, 12), layout=layout)
    rgb, flow = (
        StreamInput(name, name, 4, crop_size=(12, 12), layout=layout) for name in ("rgb", "flow")
    )
    clips = TestClips(RECORDS, CACHE, [both, rgb, flow], classes=CLASSES, clips=2, crops="three")
    sample = clips[1]
    assert sample["x"].shape[1:] == both.input_shape
    seen = to_network_input(sample, both, clips.quantiser)
    parts = [to_network_input(sample, part, clips.quantiser) for part in (rgb, flow)]
    torch.testing.assert_close(seen, torch.cat(parts, both.channel_axis), rtol=0, atol=0)
