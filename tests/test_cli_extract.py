"""`flowpipe extract` as a person uses it: what is printed where, exit statuses, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowpipe import extraction, open_cache

# What scripts rely on.
JSON_KEYS = {
    *("videos", "done", "skipped", "failed", "flows", "flows_total"),
    *("seconds", "flows_per_s", "bytes"),
}

SLOW_FLOW = """
import time
import numpy as np

class Slow:
    name, version, libraries = "slow", 1, {}

    def __init__(self, seconds=0.1):
        self.parameters = {"seconds": seconds}

    def __call__(self, prev_HW, next_HW):
        time.sleep(self.parameters["seconds"])
        return np.zeros((*prev_HW.shape, 2), np.float32)
"""


@pytest.fixture
def run(capfd, monkeypatch):
    """Give `run(*arguments)`: the console script's function, in this process."""
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    main = script.load()
    monkeypatch.setattr(sys, "path", [*sys.path])  # main puts folders in

    def run(*arguments: Any) -> SimpleNamespace:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        if "--traceback" not in arguments:
            assert "Traceback" not in out + err
        return SimpleNamespace(status=end.value.code, out=out, err=err)

    return run


@pytest.fixture
def videos(tmp_path, write_video):
    """Two class folders with three videos of six frames."""
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), np.uint8)
    for number, name in enumerate(("run/a.mp4", "run/b.mp4", "walk/a.mp4")):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.roll(frames, number, axis=2))
    return tmp_path / "videos"


def extract(run, *arguments):
    return run("extract", "--flow", "farneback", "--workers", 1, *arguments)


def test_the_table_and_the_next_run(run, videos, tmp_path):
    done = extract(run, videos, "--out", tmp_path / "c")
    assert (done.status, done.err) == (0, "")
    for told in ("videos done", "flows computed", "flows/s", "size", "clipped share"):
        assert told in done.out
    assert "15" in done.out
    again = extract(run, videos, "--out", tmp_path / "c", "--json")
    record = json.loads(again.out)
    assert again.out.count("\n") == 1
    assert set(record) >= JSON_KEYS
    assert (record["videos"], record["done"], record["skipped"], record["failed"]) == (3, 0, 3, 0)
    assert (record["flows"], record["flows_total"], record["flows_per_s"]) == (0, 15, 0.0)
    assert record["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.h5"))


def test_failures_stand_last_with_reasons_and_the_others_are_done(run, videos, tmp_path):
    (videos / "text.avi").write_text("no video\n" * 50)
    (videos / "walk/empty.mkv").touch()
    first = extract(run, videos, tmp_path / "none.mp4", "--out", tmp_path / "c", "--json")
    record = json.loads(first.out)
    assert (first.status, record["done"], record["failed"], record["flows"]) == (1, 3, 3, 15)
    lines = first.err.splitlines()
    assert lines[0] == "3 of 6 videos have no flow:"
    for line, name in zip(lines[1:], ("none.mp4", "text.avi", "walk/empty.mkv"), strict=True):
        assert line.startswith(f"  {name}: ")
        assert name.split("/")[-1] in line.split(": ", 1)[1]  # the path
    second = extract(run, videos, "--out", tmp_path / "c")
    assert second.status == 1
    assert second.err.count("(as before)") == 2
    assert second.err.splitlines()[-1].startswith("--retry-failed tries again")
    third = extract(run, videos, "--out", tmp_path / "c", "--retry-failed")
    assert "(as before)" not in third.err


def test_dry_run(run, videos, tmp_path):
    done = extract(run, videos, "--out", tmp_path / "c", "--dry-run")
    assert done.status == 0
    assert "nothing computed" in done.out
    assert not (tmp_path / "c").exists()
    record = json.loads(extract(run, videos, "--out", tmp_path / "c", "--dry-run", "--json").out)
    assert (record["to_do"], record["flows"]) == (3, 0)


def test_lists_give_names_and_labels(run, videos, tmp_path):
    (videos / "list.csv").write_text("video,label\nrun/a.mp4,fast\nwalk/a.mp4,slow\n")
    assert extract(run, videos / "list.csv", "--out", tmp_path / "c").status == 0
    assert open_cache(tmp_path / "c").labels == {"run/a.mp4": "fast", "walk/a.mp4": "slow"}
    (videos / "list.txt").write_text("# UCF101's form\nrun/a.mp4 1\n\nrun/b.mp4 1\n")
    assert extract(run, videos / "list.txt", "--out", tmp_path / "d").status == 0
    assert open_cache(tmp_path / "d").names() == ["run/a.mp4", "run/b.mp4"]
    (videos / "bad.csv").write_text("a;b\n1;2\n")
    bad = extract(run, videos / "bad.csv", "--out", tmp_path / "e")
    assert (bad.status, bad.out) == (2, "")
    assert "bad.csv: no column of videos among a, b; it must be called video" in bad.err
    assert not (tmp_path / "e").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", ["-f 'a' [b] ünï猫.mp4", "a\nb.mp4", "latin\udce9.mp4"])
def test_odd_names(run, videos, tmp_path, name):
    folder = tmp_path / "odd"
    folder.mkdir()
    (videos / "run/a.mp4").rename(folder / name)
    assert extract(run, folder, "--out", tmp_path / "c").status == 0
    (listed,) = open_cache(tmp_path / "c")
    assert listed.isprintable()
    assert open_cache(tmp_path / "c")[listed].num_flows == 5


def test_geometry_rate_and_storage_arrive(run, videos, tmp_path):
    options = "--size 32x60 --fps 12.5 --no-rgb --storage i16 --tolerance 0.05 --flow-arg levels=2"
    source = videos / "run/a.mp4"
    assert extract(run, source, "--out", tmp_path / "c", *options.split()).status == 0
    entry = open_cache(tmp_path / "c")["a"]
    assert entry.flow.shape == (2, 32, 60, 2)
    assert not entry.has_rgb
    assert entry.attributes["codec"] == "jpegls"
    assert (entry.recipe.tolerance_px, entry.recipe.flow_parameters["levels"]) == (0.05, 2)
    options = "--short-side 20 --storage f16"
    assert extract(run, source, "--out", tmp_path / "d", *options.split()).status == 0
    entry = open_cache(tmp_path / "d")["a"]
    assert (entry.flow.shape, entry.rgb.shape) == ((5, 20, 24, 2), (6, 20, 24, 3))
    assert entry.attributes["codec"] == "zstd"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--storage f16 --codec jpegls", "use codec zstd"),
        ("--tolerance 0.1", "tolerance 0.1 px does not go with storage u8"),
        ("--storage i16 --bound 20", "bound 20 px does not go with storage i16"),
        ("--storage i16 --codec zstd --tolerance 0.1", "zstd is lossless"),
        ("--storage i16 --tolerance 9", "tolerance 9.0 px must be 0 or from"),
        ("--bound -4", "bound -4.0 px of storage u8 must be > 0"),
        ("--size 10", '"10" is not HEIGHTxWIDTH'),
        ("--size 30x40 --short-side 3", "give one of the two"),
        ("--short-side 0", "short_side 0 px must be >= 1"),
        ("--fps 0", "fps 0.0 must be > 0"),
        ("--workers 0", "workers 0 must be in [1, 1024]"),
        ("--flow farnebak", 'did you mean "farneback"'),
        ("--flow os:nothing", 'os has no callable "nothing"'),
        ("--flow-arg levels", '"levels" is not key=value'),
        ("--flow-arg levls=3", 'did you mean "levels"'),
        ("--storage u16", "'u16' is not one of"),
        ("--nonsense", "No such option"),
    ],
)
def test_misuse(run, videos, tmp_path, options, told):
    done = extract(run, videos, "--out", tmp_path / "c", *options.split())
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert not (tmp_path / "c").exists()


def test_misuse_of_out(run, videos, tmp_path):
    assert extract(run, videos).status == 2
    assert extract(run, "--out", tmp_path / "c").status == 2
    (tmp_path / "file").touch()
    done = extract(run, videos, "--out", tmp_path / "file")
    assert done.status == 2
    assert "is a file; a cache is a directory: give another (--out)" in done.err


def test_a_fault_of_ours_is_a_sentence_and_a_traceback_only_when_asked(
    run, videos, tmp_path, monkeypatch
):
    def fail(*arguments, **options):
        raise RuntimeError("by hand")

    monkeypatch.setattr(extraction.run, "videos_of", fail)
    done = extract(run, videos, "--out", tmp_path / "c")
    assert done.status == 1
    assert "RuntimeError: by hand\nThis is a fault of flowpipe; --traceback shows" in done.err
    for place in (("--traceback", "extract"), ("extract", "--traceback")):
        words = [*place, videos, "--out", tmp_path / "c", "--flow", "farneback"]
        asked = run(*words)
        assert asked.status == 1
        assert "Traceback (most recent call last)" in asked.err


def started(folder: Path, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a session of its own, with a slow method in its folder."""
    (folder / "slow_flow.py").write_text(SLOW_FLOW)
    program = "import flowpipe.cli.main as main; main.main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, "extract", *map(str, arguments)],
        cwd=folder,
        start_new_session=True,
        text=True,
        **options,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups are POSIX")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("moment", ["start", "work"])
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(videos, tmp_path, workers, moment):
    out = tmp_path / "c"
    words = [videos, "--out", out, "--workers", workers, "--flow", "slow_flow:Slow"]
    process = started(
        tmp_path,
        *(*words, "--flow-arg", "seconds=0.3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    sign = {"start": "*/recipe.json", "work": "*/*/.*.part"}[moment]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(out.glob(sign)):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, ""), told
    sentence = "interrupted; what was done is kept, the same command goes on"
    assert told.strip() == sentence
    assert not [*tmp_path.rglob("*.part"), *tmp_path.glob("flowpipe-*")]
    kept = len(list(out.glob("*/*/*.h5")))
    again = started(tmp_path, *words, "--flow-arg", "seconds=0.3", "--json", stdout=-1, stderr=-1)
    record = json.loads(again.communicate(timeout=60)[0])
    assert again.returncode == 0
    assert (record["done"] + record["skipped"], record["failed"]) == (3, 0)
    assert record["skipped"] == kept


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_progress_on_a_terminal(videos, tmp_path):
    ours, theirs = os.openpty()
    process = started(
        tmp_path,
        *(videos, "--out", tmp_path / "c", "--workers", 1, "--flow", "slow_flow:Slow", "--json"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # Linux's end of a terminal
        pass
    finally:
        os.close(ours)
    printed, _ = process.communicate(timeout=60)
    assert json.loads(printed)["done"] == 3
    text = shown.decode()
    assert "extract" in text
    assert "3/3 videos" in text
    assert "flows/s" in text
    assert "100 %" in text
    assert "0:00:0" in text  # the time left


def test_a_folder_of_our_name_hides_nothing_from_the_workers(videos, tmp_path):
    (tmp_path / "flowpipe").mkdir()  # as in the parent folder of a clone
    words = [videos, "--out", tmp_path / "c", "--workers", 2, "--flow", "farneback", "--json"]
    process = started(tmp_path, *words, stdout=subprocess.PIPE)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(printed)["done"] == 3
