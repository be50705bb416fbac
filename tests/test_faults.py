"""Extraction under faults that really happen here: processes that die or hang, full disks."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import moving_texture

from flowpipe import extract, open_cache
from flowpipe.cache.manifest import read_failures
from flowpipe.cache.verify import left_over, verify
from flowpipe.datasets import videos_of
from flowpipe.errors import InvalidArgument

PLUGIN = '''
import ctypes, os, signal, time
import numpy as np

class Fatal:
    """Zero flow; flat frames end this process, by their brightness in one way or another."""

    name, version, libraries = "fatal", 1, {}

    def __init__(self):
        self.parameters = {}

    def __call__(self, prev_HW, next_HW):
        flat = float(prev_HW.std()) < 3
        brightness = round(float(prev_HW.mean()) / 20) if flat else 0
        if brightness == 12:
            ctypes.string_at(0)
        if brightness == 10:
            os._exit(3)
        if brightness == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        if brightness == 6:
            time.sleep(1000)
        return np.zeros((*prev_HW.shape, 2), np.float32)
'''
ENDS = {"segfault": 240, "exit": 200, "kill": 160, "hang": 120}


@pytest.fixture
def videos(tmp_path, write_video):
    """Six sound videos."""
    root = tmp_path / "videos"
    root.mkdir()
    for seed in range(6):
        write_video(root / f"{seed}.mp4", moving_texture(seed=seed))
    return root


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """`fatal_plugin:Fatal`, importable here and in workers."""
    (tmp_path / "fatal_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fatal_plugin:Fatal"


def command(*words, prefix=(), **options):
    """Start `flowpipe extract` as a process of its own group."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "flowpipe", "extract", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finished(*words, prefix=()):
    process = command(*words, "--json", prefix=prefix)
    out, err = process.communicate(timeout=300)
    return process.returncode, json.loads(out) if out.strip() else None, err


def entries_of(cache):
    return {path: path.stat().st_mtime_ns for path in cache.glob("*/*/*.h5")}


def stored_in(cache):
    """Give the bytes of all flow, frames and times.

    Not those of the files: a mean in a header may differ in its tenth digit between two runs.
    """
    opened = open_cache(cache)
    return {
        name: [
            *opened[name].flow.stored(),
            *(opened[name].rgb.jpeg(row) for row in range(opened[name].num_frames)),
            opened[name].pts_s.tobytes(),
        ]
        for name in opened
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_costs_its_own_video_only(
    videos, tmp_path, write_video, plugin, workers
):
    for name in ("segfault", "exit", "kill"):
        bright = np.full((4, 48, 64, 3), ENDS[name], np.uint8)
        write_video(videos / f"{name}.mp4", bright)
    result = extract(videos, tmp_path / "c", flow=plugin, workers=workers)
    reasons = {failure.name: failure.reason for failure in result.failures}
    assert sorted(reasons) == ["exit.mp4", "kill.mp4", "segfault.mp4"]
    for reason in reasons.values():
        assert "the process that worked on it died" in reason
    assert (result.done, left_over(tmp_path / "c")) == (6, [])
    assert {row.name for row in read_failures(tmp_path / "c")} == set(reasons)
    assert not [finding for finding in verify(tmp_path / "c", deep=True) if finding.problem]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_video_that_hangs_is_passed_over(videos, tmp_path, write_video, plugin, workers):
    write_video(videos / "hang.mp4", np.full((4, 48, 64, 3), ENDS["hang"], np.uint8))
    result = extract(videos, tmp_path / "c", flow=plugin, workers=workers, timeout_s=3)
    (failure,) = result.failures
    assert failure.name == "hang.mp4"
    assert "no frame was finished for 3 s" in failure.reason
    assert "give a longer timeout" in failure.reason
    assert (result.done, left_over(tmp_path / "c")) == (6, [])
    again = extract(videos, tmp_path / "c", flow=plugin, workers=workers, timeout_s=3)
    assert [failure.earlier for failure in again.failures] == [True]


@pytest.mark.parametrize("way", ["os._exit(3)", "time.sleep(1000)"], ids=["dies", "hangs"])
def test_a_decoder_that_fails_before_the_first_frame_costs_its_video_only(
    videos, tmp_path, monkeypatch, way
):
    """A long video is probed before it is split: not in the process of the run."""
    # Imported by each worker, not by this process.
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, sys, time
import flowpipe.video.reader as reader
real = reader.probe
def probe(path, **options):
    if str(path).endswith("bad.mp4"):
        {way}
    return real(path, **options)
reader.probe = probe
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shutil.copy(videos / "0.mp4", videos / "bad.mp4")
    with (videos / "bad.mp4").open("ab") as file:
        file.write(bytes(100_000))
    result = extract(videos, tmp_path / "c", flow="farneback", workers=2, timeout_s=4)
    assert (result.done, result.failed) == (6, 1)
    assert result.failures[0].name == "bad.mp4"


@contextlib.contextmanager
def tmpfs(place, size):
    """Mount a small memory disk, or skip."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


needs_mount = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None, reason="mount is Linux's"
)


@needs_mount
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(videos, tmp_path):
    words = (videos, "--flow", "farneback", "--workers", 2, "--storage", "f16")
    with tmpfs(tmp_path / "disk", "256k") as remount:
        cache = tmp_path / "disk" / "c"
        status, told, err = finished(*words, "--out", cache)
        assert (status, told) == (1, None)
        assert "No space left on device; make room, then give the same command again" in err
        assert "Traceback" not in err
        before = entries_of(cache)
        assert len(before) < 6
        assert left_over(cache) == []
        assert not [finding for finding in verify(cache, deep=True) if finding.problem]
        remount("size=20m")
        status, told, _ = finished(*words, "--out", cache)
        assert (status, told["failed"]) == (0, 0)
        assert told["done"] + told["skipped"] == 6
        after = entries_of(cache)
        assert len(after) == 6
        assert before.items() <= after.items()


@needs_mount
def test_a_read_only_cache_is_told_and_still_read(videos, tmp_path):
    words = (videos, "--flow", "farneback", "--workers", 2)
    with tmpfs(tmp_path / "disk", "20m") as remount:
        cache = tmp_path / "disk" / "c"
        assert finished(videos / "0.mp4", *words[1:], "--out", cache)[0] == 0
        remount("ro")
        status, told, err = finished(*words, "--out", cache)
        assert (status, told) == (1, None)
        assert "Read-only file system" in err
        assert str(cache) in err
        assert open_cache(cache)["0.mp4"].flow[:].shape == (5, 48, 64, 2)
        # What is there needs no writing.
        status, told, _ = finished(videos / "0.mp4", *words[1:], "--out", cache)
        assert (status, told["skipped"]) == (0, 1)
        remount("rw")
        assert finished(*words, "--out", cache)[1]["done"] == 5


def test_a_folder_without_permission_is_told(videos, tmp_path):
    # Root may write anywhere; without this capability it is a user like others.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    prefix = prefix if os.geteuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here, and root has all permissions")
    cache = tmp_path / "c"
    cache.mkdir()
    cache.chmod(0o555)
    try:
        words = (videos, "--flow", "farneback", "--workers", 2, "--out", cache)
        status, told, err = finished(*words, prefix=prefix)
        assert (status, told) == (1, None)
        assert "Permission denied" in err
        assert str(cache) in err
        assert "Traceback" not in err
        assert list(cache.iterdir()) == []
    finally:
        cache.chmod(0o755)


def test_two_processes_fill_one_cache_without_double_work(tmp_path, write_video):
    root, cache = tmp_path / "videos", tmp_path / "c"
    root.mkdir()
    for seed in range(12):
        write_video(root / f"{seed:02}.mp4", moving_texture(12, 64, 80, seed))
    words = (root, "--flow", "opencv-tvl1", "--no-rgb", "--workers", 1, "--out", cache, "--json")
    both = [command(*words) for _ in range(2)]
    seen = 0
    while any(process.poll() is None for process in both):
        if any(cache.glob("*/recipe.json")):
            for name in open_cache(cache):
                assert open_cache(cache)[name].flow[:].shape == (11, 64, 80, 2)
                seen += 1
        time.sleep(0.2)
    told = []
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert [record["done"] + record["skipped"] for record in told] == [12, 12]
    assert 12 <= sum(record["done"] for record in told) <= 14
    assert seen > 0
    assert len(open_cache(cache)) == len(entries_of(cache)) == 12
    assert left_over(cache) == []
    assert not [finding for finding in verify(cache, deep=True) if finding.problem]


# A minute's worth on an idle machine; FLOWPIPE_KILLS=50 for more on demand.
KILLS = int(os.environ.get("FLOWPIPE_KILLS", "15"))


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, write_video):
    """SIGKILL to the whole group; what is complete is never lost, nor computed again."""
    root = tmp_path / "videos"
    root.mkdir()
    for seed in range(24):
        write_video(root / f"{seed:02}.mp4", moving_texture(10, 96, 128, seed))
    words = (root, "--flow", "farneback", "--workers", 2)
    started = time.monotonic()
    assert finished(*words, "--out", tmp_path / "whole")[0] == 0
    whole_s = time.monotonic() - started
    wanted = stored_in(tmp_path / "whole")
    rng = np.random.default_rng(11)
    kills = rounds = 0
    while kills < KILLS:
        cache = tmp_path / f"c{rounds}"
        rounds += 1
        complete: dict[Path, int] = {}
        while kills < KILLS and len(complete) < 24:
            process = command(*words, "--out", cache)
            # From the middle of its start to its end; early kills would hit no work.
            time.sleep(rng.uniform(0.3, 1.0) * whole_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            now = entries_of(cache)
            assert complete.items() <= now.items(), "an entry was lost or written again"
            complete = now
        status, told, err = finished(*words, "--out", cache)
        assert status == 0, err
        assert told["done"] + told["skipped"] == 24
        assert complete.items() <= entries_of(cache).items()
        assert stored_in(cache) == wanted
        assert left_over(cache) == []
        assert not [p for p in cache.rglob("*") if p.name.endswith(".part")]
        assert not [finding for finding in verify(cache, deep=True) if finding.problem]


def test_another_setting_is_another_key(videos, tmp_path):
    def run(**options):
        return extract(videos / "0.mp4", tmp_path / "c", flow="farneback", workers=1, **options)

    first = run()
    assert (first.done, run(dry_run=True).skipped) == (1, 1)
    recipes = {first.recipe}
    for change in (
        {"bound_px": 10.0},
        {"storage": "i16"},
        {"storage": "i16", "tolerance_px": 0.04},
        {"short_side": 32},
        {"size": (32, 32)},
        {"fps": 12.5},
        {"rgb": False},
        {"rgb_quality": 90},
        {"flow_parameters": {"window_size": 21}},
    ):
        other = run(dry_run=True, **change)
        assert (other.to_do, other.skipped) == (1, 0), change
        assert other.recipe not in recipes, change
        recipes.add(other.recipe)


def test_another_version_of_a_method_is_another_key(videos, tmp_path, plugin, monkeypatch):
    import importlib

    first = extract(videos / "0.mp4", tmp_path / "c", flow=plugin, dry_run=True)
    monkeypatch.setattr(importlib.import_module("fatal_plugin").Fatal, "version", 2)
    assert extract(videos / "0.mp4", tmp_path / "c", flow=plugin, dry_run=True).recipe != (
        first.recipe
    )


def test_shards_are_the_whole_and_stay_when_names_change(videos, tmp_path):
    (videos / "missing.txt").write_text("nowhere.mp4\n")
    given = [videos, videos / "missing.txt"]
    parts = [
        extract(given, tmp_path / f"c{i}", flow="farneback", workers=1, shard=(i, 3))
        for i in (1, 2, 3)
    ]
    assert sum(part.done for part in parts) == 6
    assert sum(part.failed for part in parts) == 1
    names = [set(open_cache(tmp_path / f"c{i}")) for i in (1, 2, 3) if parts[i - 1].done]
    assert set.union(*names) == {f"{i}.mp4" for i in range(6)}
    assert sum(map(len, names)) == 6
    (videos / "0.mp4").rename(videos / "other name.mp4")
    again = extract(videos, tmp_path / "c1", flow="farneback", workers=1, shard=(1, 3))
    assert (again.done, again.skipped) == (0, parts[0].done)
    assert len(videos_of(videos)[0]) == 6
    for wrong in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(InvalidArgument, match=r"must be i/n with 1 <= i <= n"):
            extract(videos, tmp_path / "c", flow="farneback", shard=wrong)


def test_pixel_bombs_are_refused_before_they_are_decoded(videos, tmp_path):
    result = extract(videos, tmp_path / "c", flow="farneback", workers=1, max_pixels=48 * 64 - 1)
    assert (result.done, result.failed) == (0, 6)
    for failure in result.failures:
        assert "48 × 64 px, more than max_pixels 3071" in failure.reason
    with pytest.raises(InvalidArgument, match="max_pixels 0 must be >= 1"):
        extract(videos, tmp_path / "c", flow="farneback", max_pixels=0)
    with pytest.raises(InvalidArgument, match="timeout_s 0 must be > 0"):
        extract(videos, tmp_path / "c", flow="farneback", timeout_s=0)
