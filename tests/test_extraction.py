"""Extraction: resume, failures, dead workers, the values that arrive in the cache."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from support import moving_texture

from flowpipe import extract, open_cache
from flowpipe.cache.manifest import read_failures, read_manifest
from flowpipe.errors import InvalidArgument
from flowpipe.flow import create
from flowpipe.video import VideoReader


@pytest.fixture
def videos(tmp_path, write_video):
    """Two class folders with three videos."""
    root = tmp_path / "videos"
    for name, seed in (("run/a.mp4", 1), ("run/b.mp4", 2), ("walk/a.mp4", 3)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_texture(seed=seed))
    return root


def run(sources, out, **options):
    return extract(sources, out, flow="farneback", workers=options.pop("workers", 2), **options)


def test_flow_in_the_cache_is_the_flow_of_the_frames(videos, tmp_path):
    result = run(videos, tmp_path / "c", storage="i16")
    assert (result.videos, result.done, result.failed, result.flows) == (3, 3, 0, 15)
    entry = open_cache(tmp_path / "c")["run/b.mp4"]
    assert entry.label == "run"
    frames = list(VideoReader(videos / "run/b.mp4", rgb=True))
    method = create("farneback")
    for i in range(5):
        wanted = method(frames[i].grey_HW, frames[i + 1].grey_HW)
        np.testing.assert_allclose(entry.flow[i], wanted, atol=1 / 128 + 1e-6)
    np.testing.assert_allclose(entry.pts_s, [frame.pts_s for frame in frames])
    difference = entry.rgb[3].astype(int) - frames[3].rgb_HWC
    assert np.abs(difference).mean() < 4  # JPEG
    assert entry.attributes["source_name"] == "run/b.mp4"


def test_a_second_run_computes_nothing_and_a_renamed_video_is_known(videos, tmp_path):
    run(videos, tmp_path / "c")
    again = run(videos, tmp_path / "c")
    assert (again.done, again.skipped, again.flows, again.flows_total) == (0, 3, 0, 15)
    (videos / "walk/a.mp4").rename(videos / "walk/renamed.mp4")
    renamed = run(videos, tmp_path / "c")
    assert (renamed.done, renamed.skipped) == (0, 3)
    cache = open_cache(tmp_path / "c")
    assert np.array_equal(cache["walk/renamed.mp4"].flow[:], cache["walk/a.mp4"].flow[:])


def test_a_changed_video_is_computed_again(videos, tmp_path, write_video):
    run(videos, tmp_path / "c")
    write_video(videos / "run/a.mp4", moving_texture(frames=4, seed=9))
    assert run(videos, tmp_path / "c").done == 1
    assert open_cache(tmp_path / "c")["run/a.mp4"].num_flows == 3


def test_a_deleted_or_damaged_entry_is_computed_again(videos, tmp_path):
    run(videos, tmp_path / "c")
    entry = open_cache(tmp_path / "c")["run/a.mp4"]
    content = bytearray(entry.path.read_bytes())
    content[:64] = bytes(64)
    entry.path.write_bytes(content)
    assert run(videos, tmp_path / "c").done == 1
    assert open_cache(tmp_path / "c")["run/a.mp4"].flow[:].shape == (5, 48, 64, 2)


def test_another_recipe_is_another_entry(videos, tmp_path):
    first = run(videos, tmp_path / "c")
    second = run(videos, tmp_path / "c", short_side=32)
    assert first.recipe != second.recipe
    assert second.done == 3
    cache = open_cache(tmp_path / "c", recipe=second.recipe)
    assert cache["run/a.mp4"].flow.shape == (5, 32, 43, 2)


def test_bad_videos_are_named_with_reasons_and_the_others_are_done(videos, tmp_path, write_video):
    (videos / "empty.avi").touch()
    (videos / "text.avi").write_text("no video\n" * 100)
    write_video(videos / "one.mp4", moving_texture(frames=1))
    (tmp_path / "nothing").mkdir()
    result = run([videos, tmp_path / "missing.mp4", tmp_path / "nothing"], tmp_path / "c")
    assert (result.done, result.failed) == (3, 5)
    reasons = {failure.name: failure.reason for failure in result.failures}
    assert "no bytes" in reasons["empty.avi"]
    assert "cannot be opened as a video" in reasons["text.avi"]
    assert "one frame only" in reasons["one.mp4"]
    assert "does not exist" in reasons["missing.mp4"]
    assert "holds no video" in reasons["nothing"]
    for failure in result.failures:
        assert str(failure.path) in failure.reason
    kept = {row.name for row in read_failures(tmp_path / "c")}
    assert kept == {"empty.avi", "text.avi", "one.mp4"}


def test_failures_are_tried_again_only_when_asked(videos, tmp_path):
    (videos / "text.avi").write_text("no video\n" * 100)
    run(videos, tmp_path / "c")
    again = run(videos, tmp_path / "c")
    assert [failure.earlier for failure in again.failures] == [True]
    retried = run(videos, tmp_path / "c", retry_failed=True)
    assert [failure.earlier for failure in retried.failures] == [False]


class Deadly:
    """A flow method that kills its process on bright frames."""

    name, version, libraries = "deadly", 1, {}

    def __init__(self):
        self.parameters = {}

    def __call__(self, prev_HW, next_HW):
        if prev_HW.mean() > 250:
            os.kill(os.getpid(), signal.SIGKILL)
        if prev_HW.mean() < 5:
            raise ZeroDivisionError("by hand")
        return np.zeros((*prev_HW.shape, 2), np.float32)


def write_plugin(folder):
    """The class above as a module that workers can import."""
    import inspect

    text = "import os, signal\nimport numpy as np\n\n" + inspect.getsource(Deadly)
    (folder / "deadly_plugin.py").write_text(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_costs_its_own_video_only(
    videos, tmp_path, write_video, monkeypatch, workers
):
    write_plugin(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_video(videos / "killer.mp4", np.full((4, 48, 64, 3), 255, np.uint8))
    write_video(videos / "raiser.mp4", np.zeros((4, 48, 64, 3), np.uint8))
    result = extract(videos, tmp_path / "c", flow="deadly_plugin:Deadly", workers=workers)
    reasons = {failure.name: failure.reason for failure in result.failures}
    assert set(reasons) == {"killer.mp4", "raiser.mp4"}
    assert "died" in reasons["killer.mp4"]
    assert "ZeroDivisionError: by hand" in reasons["raiser.mp4"]
    assert result.done == 3
    assert not list((tmp_path / "c").glob("*/*/.*.part"))
    again = extract(videos, tmp_path / "c", flow="deadly_plugin:Deadly", workers=1)
    assert [failure.earlier for failure in again.failures] == [True, True]


def test_dry_run_writes_nothing(videos, tmp_path):
    result = run(videos, tmp_path / "c", dry_run=True)
    assert result.to_do == 3
    assert not (tmp_path / "c").exists()


def test_progress_ends_at_all_videos(videos, tmp_path):
    seen = []
    run(videos, tmp_path / "c", on_progress=seen.append)
    assert (seen[-1].finished, seen[-1].videos, seen[-1].flows) == (3, 3, 15)
    assert seen[-1].share == 1.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"storage": "f16", "codec": "jpegls"}, "use codec zstd"),
        ({"storage": "u8", "tolerance_px": 0.1}, "belongs to i16|i16"),
        ({"storage": "i16", "codec": "zstd", "tolerance_px": 0.1}, "zstd is lossless"),
        ({"storage": "i16", "bound_px": 20.0}, "bound"),
        ({"bound_px": 0.0}, "must be > 0"),
        ({"short_side": 32, "size": (32, 32)}, "give one of the two"),
        ({"fps": 0}, "fps 0"),
        ({"workers": 0}, "workers 0"),
        ({"rgb_quality": 0}, "rgb_quality 0"),
        ({"flow_parameters": {"levls": 3}}, "levels"),
    ],
)
def test_senseless_arguments_are_refused_before_anything_is_written(
    videos, tmp_path, options, match
):
    with pytest.raises(InvalidArgument, match=match):
        run(videos, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_the_manifest_holds_one_line_per_name_after_two_runs(videos, tmp_path):
    run(videos, tmp_path / "c")
    run(videos, tmp_path / "c")
    rows = read_manifest(tmp_path / "c")
    assert len(rows) == 3
    lines = [
        json.loads(line)
        for file in (tmp_path / "c" / "manifest").glob("*.jsonl")
        for line in Path(file).read_text().splitlines()
    ]
    assert len(lines) == 3
