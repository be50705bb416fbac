"""Long videos in ranges: the entry is the same, byte for byte, and nothing else is left."""

from pathlib import Path

import numpy as np
import pytest

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.cache.write import FieldCoder
from flowpipe.errors import VideoError
from flowpipe.extraction import ranges, worker
from flowpipe.extraction.ranges import RangeWriter
from flowpipe.extraction.tasks import FrameRange, Job, Task
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import VideoReader

FRAMES = 31

PLUGIN = """
import os, signal
import numpy as np

class Marked:
    name, version, libraries = "marked", 1, {}

    def __init__(self, deed="none"):
        self.parameters = {"deed": deed}

    def __call__(self, prev_HW, next_HW):
        if prev_HW.mean() > 240 and self.parameters["deed"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if prev_HW.mean() > 240 and self.parameters["deed"] == "raise":
            raise ZeroDivisionError("by hand")
        return np.full((*prev_HW.shape, 2), float(next_HW.mean()) / 16, np.float32)
"""


@pytest.fixture
def video(tmp_path, write_video):
    """Noise of growing brightness, frame 20 nearly white: wherever it is cut, the cut shows."""
    noise = np.random.default_rng(0).integers(0, 40, (FRAMES, 32, 48, 1), np.uint8)
    level = 5 * np.arange(FRAMES, dtype=np.uint8)[:, None, None, None]
    frames = np.repeat(noise + level, 3, axis=3)
    frames[20] = 255
    return write_video(tmp_path / "long.mp4", frames)


@pytest.fixture
def few_frames(monkeypatch):
    monkeypatch.setattr(ranges, "LEAST_FRAMES", 4)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "marked_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "marked_plugin:Marked"


@pytest.fixture
def pieces(monkeypatch):
    """Collect the ranges that videos are split into."""
    seen: list[list[tuple[int, int | None]]] = []
    tasks = ranges.SplitVideo.tasks

    def noted(split):
        made = tasks(split)
        seen.append([(task.part.start, task.part.stop) for task in made])
        return made

    monkeypatch.setattr(ranges.SplitVideo, "tasks", noted)
    return seen


def files_of(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def entry_bytes(cache: Path) -> bytes:
    (entry,) = (path for path in files_of(cache) if path.suffix == ".h5")
    others = {path.suffix for path in files_of(cache)} - {".h5", ".json", ".jsonl"}
    assert others == set()
    return entry.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": 10.0},
        {"fps": 60.0, "rgb": False},
        {"storage": "f16", "short_side": 40},
        {"storage": "i16", "tolerance_px": 0.05},
    ],
    ids=str,
)
def test_ranges_give_the_same_bytes(video, tmp_path, plugin, few_frames, pieces, options):
    whole = extract(video, tmp_path / "whole", flow=plugin, workers=1, **options)
    assert pieces == []
    joined = extract(video, tmp_path / "joined", flow=plugin, workers=2, **options)
    assert len(pieces) == 1
    assert len(pieces[0]) == 2
    assert (joined.done, joined.flows) == (1, whole.flows)
    assert entry_bytes(tmp_path / "joined") == entry_bytes(tmp_path / "whole")
    assert set(joined.stage_seconds) == {"decode", "flow", "compress", "all"}
    again = extract(video, tmp_path / "joined", flow=plugin, workers=2, **options)
    assert (again.done, again.skipped) == (0, 1)


@pytest.mark.parametrize("promised", [8, 22, 300], ids="header says {}".format)
def test_headers_that_lie_change_nothing(
    video, tmp_path, plugin, few_frames, pieces, monkeypatch, promised
):
    extract(video, tmp_path / "whole", flow=plugin, workers=1)
    made = ranges.SplitVideo.__init__

    def lied_to(split, job, task, probed, starts):
        made(split, job, task, probed, [0, promised // 2])

    monkeypatch.setattr(ranges.SplitVideo, "__init__", lied_to)
    extract(video, tmp_path / "joined", flow=plugin, workers=2)
    assert pieces == [[(0, promised // 2), (promised // 2, None)]]
    assert entry_bytes(tmp_path / "joined") == entry_bytes(tmp_path / "whole")


def test_a_truncated_video_says_so_in_ranges_too(tmp_path, write_video, plugin, few_frames, pieces):
    frames = np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), np.uint8)
    whole = write_video(tmp_path / "whole.mkv", frames).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    one = extract(cut, tmp_path / "one", flow=plugin, workers=1)
    two = extract(cut, tmp_path / "two", flow=plugin, workers=2)
    assert len(pieces) == 1
    assert "partial" in one.notes["cut.mkv"]
    assert one.notes == two.notes
    assert entry_bytes(tmp_path / "one") == entry_bytes(tmp_path / "two")


@pytest.mark.parametrize(("deed", "told"), [("raise", "by hand"), ("die", "died")])
def test_a_range_that_fails_costs_its_video_only(
    video, tmp_path, write_video, plugin, few_frames, deed, told
):
    write_video(tmp_path / "good.mp4", np.full((6, 32, 48, 3), 90, np.uint8))
    result = extract(
        [video, tmp_path / "good.mp4"],
        tmp_path / "c",
        flow=plugin,
        flow_parameters={"deed": deed},
        workers=2,
    )
    assert (result.done, result.failed) == (1, 1)
    assert told in result.failures[0].reason
    assert list(open_cache(tmp_path / "c")) == ["good.mp4"]
    entry_bytes(tmp_path / "c")
    again = extract(video, tmp_path / "c", flow=plugin, flow_parameters={"deed": deed}, workers=2)
    assert [failure.earlier for failure in again.failures] == [True]


def test_progress_grows_within_a_video(video, tmp_path, plugin, few_frames):
    seen = []
    extract(video, tmp_path / "c", flow=plugin, workers=2, on_progress=seen.append)
    assert (seen[-1].finished, seen[-1].videos, seen[-1].flows) == (1, 1, FRAMES - 1)
    assert seen[-1].share == 1.0


def planned_for(tmp_path, video, sizes, workers):
    """Plan tasks of these sizes, each the video of 31 frames."""
    job = Job(tmp_path / "c", FlowRecipe.make("farneback", rgb=False), "jpegls")
    tasks = [Task(i, video, f"{i}", size) for i, size in enumerate(sizes)]

    def run(some):
        for task in some:
            yield task, worker.process_task(job, task, lambda flows, share: None)

    return ranges.plan(job, tasks, workers, run)


@pytest.mark.parametrize(
    ("sizes", "workers", "wanted"),
    [
        ([100], 1, {}),
        ([100], 2, {0: 2}),
        ([100], 3, {0: 3}),
        ([100] * 4, 2, {}),
        ([100] * 40, 8, {}),
        ([100, 100, 100, 100, 100, 1000], 2, {5: 2}),
        ([0, 0], 2, {}),
    ],
    ids=str,
)
def test_only_the_videos_that_would_keep_others_waiting_are_split(
    video, tmp_path, few_frames, sizes, workers, wanted
):
    planned, splits = planned_for(tmp_path, video, sizes, workers)
    counts = {index: sum(task.index == index for task in planned) for index in splits}
    assert counts == wanted
    assert sum(task.num_bytes for task in planned) == sum(sizes)
    assert sorted({task.index for task in planned}) == list(range(len(sizes)))
    assert [task.part for task in planned if task.index not in splits] == [None] * (
        len(sizes) - len(wanted)
    )
    for one in splits.values():
        one.close()
    assert not list(tmp_path.rglob("*.part"))


def test_a_short_video_is_not_split(video, tmp_path):
    planned, splits = planned_for(tmp_path, video, [100], 2)
    assert splits == {}
    assert [task.part for task in planned] == [None]


def test_ranges_that_do_not_meet_are_refused(tmp_path, write_entry):
    parts = [
        FrameRange(0, 4, tmp_path / "a", "d"),
        FrameRange(4, None, tmp_path / "b", "d"),
    ]
    coder = FieldCoder(Quantiser("u8", bound_px=20.0), "zstd")
    for part, count in zip(parts, (3, 2), strict=True):
        part.file.touch()
        with RangeWriter(part.file, coder, 0) as writer:
            writer.finish(np.arange(part.start, part.start + count, dtype=float))
    with pytest.raises(VideoError, match=r"3 frames before frame 4.*with one worker"):
        ranges.join(parts, None)


def test_frames_of_a_range_are_those_of_the_whole(video):
    reader = VideoReader(video, fps=40.0, rgb=True)
    whole = list(reader)
    part = list(reader.frames(5, 9))
    assert [frame.index for frame in part] == [5, 6, 7, 8]
    for one, other in zip(part, whole[5:9], strict=True):
        assert one.pts_s == other.pts_s
        np.testing.assert_array_equal(one.grey_HW, other.grey_HW)
        np.testing.assert_array_equal(one.rgb_HWC, other.rgb_HWC)
    assert list(reader.frames(len(whole), None)) == []
    assert list(reader.frames(0, 0)) == []
