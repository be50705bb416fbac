"""Parts of long videos: their frames and fields, and a training on parts of one file."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import run_cli

from flowpipe.cache import open_cache
from flowpipe.clips.dataset import ClipDataset, StreamInput
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.parts import PartCache
from flowpipe.datasets import Span, Video
from flowpipe.datasets.video import video_of_id
from flowpipe.errors import AnnotationError


@pytest.fixture
def cache(tmp_path, write_entry, smooth_flow):
    """Twenty frames at 25 per second, each of one grey value, 10 times its number."""
    flow = smooth_flow(19, 16, 16)
    frames = np.repeat(10 * np.arange(20, dtype=np.uint8), 16 * 16 * 3).reshape(20, 16, 16, 3)
    write_entry(tmp_path / "c", flow, rgb_THWC=frames, name="a.avi")
    turned = smooth_flow(19, 16, 16, 5)
    write_entry(tmp_path / "c", turned, name="a.avi", backward=True)
    return open_cache(tmp_path / "c")


def part(start, end, unit="s"):
    span = Span(start, end, unit)
    return Video(f"a.avi@{span}", "a.avi", ("x",), span=span)


@pytest.mark.parametrize(
    ("video", "first", "stop"),
    [
        (part(0.2, 0.4), 5, 10),
        (part(0.2, 0.401), 5, 11),
        (part(0.21, 0.39), 6, 10),
        (part(0, 100), 0, 20),
        (part(3, 9, "frame"), 3, 9),
        (part(17, 99, "frame"), 17, 20),
    ],
)
def test_a_part_is_what_lies_between_its_times(cache, video, first, stop):
    whole = cache["a.avi"]
    for parts in (PartCache(cache, [video]), MemoryCache(PartCache(cache, [video]), 10)):
        entry = parts[video.id]
        assert (entry.num_frames, entry.num_flows) == (stop - first, stop - first - 1)
        assert entry.pts_s.tolist() == (np.arange(first, stop) / 25).tolist()
        rows = list(range(entry.num_flows))
        wanted = whole.flow.codes(range(first, stop - 1))
        np.testing.assert_array_equal(entry.flow.codes(rows), wanted)
        np.testing.assert_array_equal(
            parts.backward(video.id).flow.codes(rows),
            cache.backward("a.avi").flow.codes(range(first, stop - 1)),
        )
        np.testing.assert_array_equal(entry.rgb[[0, -1]][:, 0, 0, 0] // 10, [first, stop - 1])
    flow = PartCache(cache, [video])[video.id].flow
    np.testing.assert_array_equal(flow[1:3], whole.flow[first + 1 : min(first + 3, stop - 1)])
    np.testing.assert_array_equal(flow[-1], whole.flow[stop - 2])
    assert len(flow) == stop - first - 1
    with pytest.raises(IndexError):
        flow[len(flow)]


def test_parts_that_hold_no_flow_are_refused(cache):
    for video in (part(0.41, 0.43), part(5, 9), part(19, 30, "frame")):
        with pytest.raises(AnnotationError, match=r"holds [01] of the 20 frames; two at least"):
            PartCache(cache, [video])[video.id]


@pytest.mark.parametrize("span", [Span(0.5, 12.125), Span(3, 40, "frame"), None])
def test_a_part_is_known_by_its_id(span):
    name = "films @ home/a.mp4"
    video = Video(name if span is None else f"{name}@{span}", Path(name), span=span)
    assert video_of_id(video.id) == video
    assert video.name == name


def test_rows_are_those_of_the_files(cache):
    videos = [part(0, 0.2), part(0.4, 0.6), Video("a.avi", "a.avi"), Video("b.avi", "b.avi")]
    rows = PartCache(cache, videos).rows()
    assert [row.name for row in rows] == [video.id for video in videos[:3]]
    assert len({row.digest for row in rows}) == 1


def test_clips_stay_inside(cache):
    videos = [part(0, 0.2), part(0.4, 0.6)]
    data = ClipDataset(
        videos, PartCache(cache, videos), [StreamInput("f", "rgb", 3, crop_size=(16, 16))],
        classes=["x"], scales=(1.0,), flip=False,
    )  # fmt: skip
    for epoch in range(20):
        data.set_epoch(epoch)
        for number, (first, last) in enumerate(((0, 4), (10, 14))):
            frames = np.asarray(data[number]["f"]).reshape(-1)
            assert frames.min() >= 10 * first - 3  # JPEG
            assert frames.max() <= 10 * last + 3


def test_a_training_on_parts_of_two_files(tmp_path, write_video):
    """Two kinds of motion one after the other in each file; only a list of times is given."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    lines = ["video,label,fold,start_s,end_s"]
    for fold in range(2):
        wide = np.kron(rng.uniform(0, 255, (12, 40)), np.ones((4, 4)))[..., None].repeat(3, 2)
        steps = [3 * t if t < 40 else 240 - 3 * t for t in range(80)]
        frames = [wide[:40, x : x + 40] for x in np.clip(steps, 0, 119)]
        write_video(tmp_path / "videos" / f"{fold}.mp4", np.stack(frames))
        for number in range(8):
            label = ("left", "right")[number // 4]
            start = 0.4 * number + 0.04
            lines.append(f"{fold}.mp4,{label},{fold},{start:.2f},{start + 0.32:.2f}")
    (tmp_path / "videos" / "annotations.csv").write_text("\n".join(lines) + "\n")
    config = """
[data]
root = "videos"
fold_column = "fold"
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.motion]
input = "flow"
frames = 4
crop_size = [32, 32]
flow_scale_px = 3.0
mean_subtraction = false
model_parameters = { width = 8, dropout = 0.0 }
[streams.whole]
input = "flow-histogram"
[train]
epochs = 20
batch_size = 8
optimiser = "adamw"
learning_rate = 0.01
scales = [1.0]
device = "cpu"
[test]
clips = 2
[fuse]
methods = ["logsum"]
training_clips = 0
"""
    (tmp_path / "c.toml").write_text(config)
    done = run_cli("train", tmp_path / "c.toml", "--out", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert record["videos"] == 8
    assert record["accuracy"]["motion"] == 1.0
    assert record["accuracy"]["whole"] == 1.0
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "0.mp4@0.04-0.36s, frame 3; full color" in page  # of eight frames and seven flows
    assert len(open_cache(tmp_path / "run" / "cache")) == 2  # two files, sixteen parts
