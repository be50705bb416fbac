"""Machines and folders that are not ours: processes that are killed, closed streams, odd files."""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support import run_cli

from flowpipe import extract, open_cache
from flowpipe.atomic import is_device, write_aside
from flowpipe.cache import FlowRecipe
from flowpipe.cache.export import export
from flowpipe.cache.pack import pack
from flowpipe.datasets import Video, videos_of
from flowpipe.errors import CacheError, EntryCorrupt, FlowpipeError, InvalidArgument
from flowpipe.extraction import processes
from flowpipe.extraction.processes import WorkerProcess
from flowpipe.extraction.tasks import Job, Task
from flowpipe.flow import compiling
from flowpipe.flow.quantise import Quantiser
from flowpipe.models.weights.reading import read_state
from flowpipe.scores import Scores, load_scores
from flowpipe.training.checkpoint import read_weights, save_tensors
from flowpipe.video.files import find_videos, left_out

PLUGIN = """
import os, time
import numpy as np

class Slow:
    name, version, parameters, libraries = "slow", 1, {}, {}

    def __call__(self, prev_HW, next_HW):
        time.sleep(0.2)
        return np.zeros((*prev_HW.shape, 2), np.float32)

class DiesOnce(Slow):
    def __call__(self, prev_HW, next_HW):
        if not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), 9)
        return np.zeros((*prev_HW.shape, 2), np.float32)
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptors are POSIX's")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def frames(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), np.uint8)


@pytest.fixture
def videos(tmp_path, write_video):
    """Three videos of ten frames."""
    root = tmp_path / "videos"
    root.mkdir()
    for seed in range(3):
        write_video(root / f"{seed}.mp4", frames(10, seed))
    return root


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "places_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "places_plugin"


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "flowpipe", "extract", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def wait_for(condition, limit_s=60):
    until = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


# --- processes ------------------------------------------------------------------------------


def session(number):
    """The processes of a session that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == number and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


@linux
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_workers_end_with_their_parent(videos, tmp_path, plugin, how, workers):
    cache = tmp_path / "c"
    words = (videos, "--out", cache, "--flow", f"{plugin}:Slow", "--workers", workers)
    process = command(*words, env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for(lambda: list(cache.glob("*/*/.*.part")))
    process.send_signal(getattr(signal, how))
    process.communicate(timeout=60)
    wait_for(lambda: not session(process.pid), 20)
    assert list(tmp_path.glob("flowpipe-*")) == []
    again = extract(videos, cache, flow=f"{plugin}:Slow", workers=2)
    assert (again.done + again.skipped, again.failed) == (3, 0)
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_once_costs_no_video(videos, tmp_path, plugin, workers):
    result = extract(videos, tmp_path / "c", flow=f"{plugin}:DiesOnce", workers=workers)
    assert (tmp_path / "died").exists()
    assert (result.done, result.failed) == (3, 0)
    assert not (tmp_path / "c" / "failures.jsonl").exists()


@posix
def test_a_stopped_machine_is_no_hanging_decoder(videos, tmp_path, plugin):
    cache = tmp_path / "c"
    words = (videos, "--out", cache, "--flow", f"{plugin}:Slow", "--workers", 2, "--timeout", 2)
    process = command(*words, "--json")
    wait_for(lambda: list(cache.glob("*/*/.*.part")))
    for _ in range(2):
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["done"] == 3, err
    assert not (cache / "failures.jsonl").exists()


def test_a_process_that_does_not_start_is_told(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SERVE", "raise SystemExit(3)")
    with pytest.raises(Exception, match=r"ends before it begins \(exit status 3\)"):
        extract(videos, tmp_path / "c", flow="farneback", workers=2)


def test_known_failures_go_to_a_worker_once_not_with_each_task(videos, tmp_path):
    known = {f"{number:064x}": "a reason" for number in range(5000)}
    job = Job(tmp_path / "c", FlowRecipe.make("farneback"), "jpegls", known_failures=known)
    sent = []

    class Counting(WorkerProcess):
        def _send(self, record):
            sent.append(len(pickle.dumps(record)))
            super()._send(record)

    with Counting() as worker:
        for seed in range(3):
            task = Task(seed, videos / f"{seed}.mp4", f"{seed}.mp4", 1)
            assert worker.run(job, task, 60).flows == 9
    assert len([size for size in sent if size > 100_000]) == 1
    assert len(sent) == 5  # sys.path, the job, three tasks
    assert all(size < 1000 for size in sent[2:])


# --- files that change ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["replace", "rewrite", "remove"])
def test_a_video_that_changes_while_it_is_computed(videos, tmp_path, plugin, way):
    cache, video = tmp_path / "c", videos / "0.mp4"
    process = command(video, "--out", cache, "--flow", f"{plugin}:Slow", "--workers", 1)
    wait_for(lambda: list(cache.glob("*/*/.*.part")))
    stat = video.stat()
    new = tmp_path / "new.mp4"
    shutil.copy(videos / "1.mp4", new)
    if way == "replace":
        os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        new.replace(video)
    elif way == "rewrite":
        video.write_bytes(new.read_bytes())
    else:
        video.unlink()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    # Which of them is said depends on the moment.
    told = (b"does not exist", b"was changed or removed", b"cannot be opened")
    assert any(text in err for text in told), err
    assert not (cache / "failures.jsonl").exists()
    if way != "remove":
        assert extract(video, cache, flow=f"{plugin}:Slow", workers=1).done == 1
        from flowpipe.video import content_digest

        assert open_cache(cache)["0.mp4"].digest == content_digest(video)


# --- names ----------------------------------------------------------------------------------


def test_equal_names_of_two_folders_are_refused_with_the_ways_out(tmp_path, write_video):
    for seed, label in enumerate(("cat", "dog")):
        (tmp_path / "d" / label).mkdir(parents=True)
        write_video(tmp_path / "d" / label / "000.mp4", frames(seed=seed))
    run = {"flow": "farneback", "workers": 1}
    assert extract(tmp_path / "d" / "cat", tmp_path / "c", **run).done == 1
    with pytest.raises(InvalidArgument, match=r'be called "000\.mp4" .*the folder above both'):
        extract(tmp_path / "d" / "dog", tmp_path / "c", **run)
    assert open_cache(tmp_path / "c").names() == ["000.mp4"]
    assert extract(tmp_path / "d", tmp_path / "c", **run).failed == 0
    assert {"cat/000.mp4", "dog/000.mp4"} <= set(open_cache(tmp_path / "c").names())


def test_videos_that_moved_were_copied_or_changed_keep_their_names(tmp_path, write_video):
    run = {"flow": "farneback", "workers": 1}
    (tmp_path / "a").mkdir()
    video = write_video(tmp_path / "a" / "0.mp4", frames())
    assert extract(tmp_path / "a", tmp_path / "c", **run).done == 1
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert extract(tmp_path / "copy", tmp_path / "c", **run).skipped == 1
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "a").rename(tmp_path / "b")
    assert extract(tmp_path / "b", tmp_path / "c", **run).skipped == 1
    write_video(tmp_path / "b" / "0.mp4", frames(seed=5))
    assert extract(tmp_path / "b", tmp_path / "c", **run).done == 1
    assert not video.exists()


def test_a_list_names_videos_that_begin_with_a_hash(tmp_path):
    for name in ("#1 fight.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "l.txt").write_text("# a comment, of c.mp4\n#1 fight.mp4\n#2 fight.mp4\nb.mp4\n")
    assert [video.id for video in videos_of(tmp_path / "l.txt")[0]] == ["#1 fight.mp4", "b.mp4"]


def test_long_names_are_written_aside_and_exported(tmp_path, write_video):
    for name in ("long" * 60 + ".mp4", "é" * 120 + ".mp4"):
        (tmp_path / "d").mkdir(exist_ok=True)
        write_video(tmp_path / "a.mp4", frames(seed=len(name))).rename(tmp_path / "d" / name)
        with write_aside(tmp_path / name) as file:
            file.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    extract(tmp_path / "d", tmp_path / "c", flow="farneback", workers=1)
    for entry in open_cache(tmp_path / "c").entries():
        assert export(entry, tmp_path / "x", "npy").files


# --- folders --------------------------------------------------------------------------------


def test_links_are_followed_once_and_not_in_circles(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    for folder in (root / "run", store / "walk"):
        folder.mkdir(parents=True)
    (root / "run" / "0.mp4").touch()
    for name in ("1.mp4", "2.MKV"):
        (store / "walk" / name).touch()
    (root / "run" / "link.mp4").symlink_to(store / "walk" / "1.mp4")
    (root / "walk").symlink_to(store / "walk")
    (root / "again").symlink_to(root / "run")  # inside: its videos are there already
    (store / "walk" / "up").symlink_to(root)  # a circle
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    names = [path.relative_to(root).as_posix() for path in find_videos(root)]
    assert names == ["run/0.mp4", "run/link.mp4", "walk/1.mp4", "walk/2.MKV"]
    assert left_out(root).startswith("files that were left out: links that lead nowhere (1)")


def test_what_is_left_out_of_a_folder_is_said(tmp_path, write_video):
    write_video(tmp_path / "a.mp4", frames())
    for name in ("b.weird", "c.weird", "README", "d.jpg", "list.txt", ".hidden.weird"):
        (tmp_path / name).touch()
    for name in ("e.vob", "f.m2ts", "g.ogv", "h.3g2", "i.MXF", "j.asf"):
        shutil.copy(tmp_path / "a.mp4", tmp_path / name)
    result = extract(tmp_path, tmp_path.parent / "c", flow="farneback", workers=1)
    assert (result.videos, result.failed) == (7, 0)
    note = "files that were left out: .weird (2), without an extension (1); name those that are"
    assert result.notes[str(tmp_path)].startswith(note)


# --- streams, folders and files that the system does not give ---------------------------------


def run_in_shell(script, **environment):
    program = f"{sys.executable} -m flowpipe"
    return subprocess.run(
        ["bash", "-c", script.replace("FLOWPIPE", program)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(videos, tmp_path, closed):
    script = f"FLOWPIPE extract {videos} --out {tmp_path}/c --flow dis --workers 2 {closed}"
    done = run_in_shell(script)
    assert done.returncode == 0, done.stderr
    assert len(open_cache(tmp_path / "c")) == 3
    assert open_cache(tmp_path / "c")["0.mp4"].flow[:].shape == (9, 32, 48, 2)


@posix
def test_a_deleted_current_folder(videos, tmp_path):
    gone = tmp_path / "gone"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; FLOWPIPE extract {videos} --flow dis"
    done = run_in_shell(f"{script} --out {tmp_path}/c")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(open_cache(tmp_path / "c")) == 3
    # A network: oneMKL ends the process where torch is imported in a folder that is gone.
    done = run_in_shell(f"mkdir {gone}; cd {gone}; rmdir {gone}; FLOWPIPE describe small-cnn")
    assert (done.returncode, done.stderr) == (0, "")
    assert "small-cnn" in done.stdout


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    with pytest.raises(OSError, match="No space left") as raised, write_aside(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (raised.value.filename, raised.value.errno) == (str(path), errno.ENOSPC)

    def half(content: object, file: object) -> None:  # as torch's own writer says it
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9 vs 8")

    monkeypatch.setattr("torch.save", half)
    with pytest.raises(OSError, match="is the disk full") as raised:
        save_tensors(path, {}, {}, [])
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_streams_that_know_ascii_only(tmp_path, write_video):
    write_video(tmp_path / "ünï.mp4", frames())
    extract(tmp_path / "ünï.mp4", tmp_path / "c", flow="farneback", workers=1)
    done = run_in_shell(f"FLOWPIPE cache ls {tmp_path}/c", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?n?.mp4" in done.stdout


@posix
def test_few_open_files(tmp_path, smooth_flow, write_entry):
    for number in range(40):
        flow = smooth_flow(2, 16, 16, number)
        write_entry(tmp_path, flow, name=f"{number}.mp4", digest=f"{number:064x}")
    (tmp_path / "read.py").write_text(
        "import flowpipe, sys\n"
        "entries = flowpipe.open_cache(sys.argv[1]).entries()\n"
        "print(sum(entry.flow[0].shape[0] for entry in entries))\n"
    )
    done = run_in_shell(f"ulimit -n 40; {sys.executable} {tmp_path}/read.py {tmp_path}")
    assert (done.returncode, done.stdout) == (0, f"{40 * 16}\n"), done.stderr


def test_kernels_are_compiled_where_numba_may_write_nothing(tmp_path, write_video):
    write_video(tmp_path / "a.mp4", frames(2))
    done = run_in_shell(
        f"FLOWPIPE extract {tmp_path}/a.mp4 --out {tmp_path}/c --short-side 16 --workers 1",
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
    )
    assert done.returncode == 0, done.stderr
    assert open_cache(tmp_path / "c")["a.mp4"].num_flows == 1


def test_a_numba_cache_that_cannot_be_read_or_written_costs_nothing(tmp_path, monkeypatch):
    @compiling.compiled
    def twice(x):
        return 2 * x

    class Broken:
        cache_path = "here"

        def load_overload(self, *arguments):
            raise pickle.UnpicklingError("cut")

        def save_overload(self, *arguments):
            raise OSError(28, "No space left on device")

    kept = compiling._Kept(Broken())
    assert kept.cache_path == "here"
    monkeypatch.setattr(twice, "_cache", kept)
    assert twice(21) == 42


def test_given_videos_are_taken_by_their_ids(videos, tmp_path):
    video = Video("mine/first.mp4", videos / "0.mp4", ("x",))
    assert extract(video, tmp_path / "c", flow="farneback", workers=1).done == 1
    assert open_cache(tmp_path / "c").labels == {"mine/first.mp4": "x"}


@pytest.mark.parametrize(
    "words",
    [("extract", "a.mp4", "--out", ""), ("cache", "ls", ""), ("report", "--json", "--out=")],
)
def test_an_empty_argument_is_not_the_current_folder(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_cli(*words)
    assert done.status == 2
    assert re.search(r"argument \d, after \".*\" is empty, such as a shell's variable", done.err)
    assert not list(tmp_path.iterdir())


def refuse(path, *rest, **options):
    """Answer as the system does for a file of another user."""
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_folders_that_may_not_be_read_are_not_empty(
    tmp_path, write_entry, smooth_flow, monkeypatch
):
    write_entry(tmp_path, smooth_flow(2, 16, 16), name="a.avi")
    for method, name, message in (
        ("iterdir", "manifest", r"manifest cannot be read: Permission denied"),
        ("stat", "recipe.json", r"recipe\.json cannot be read: Permission denied"),
    ):
        original = getattr(Path, method)

        def instead(path, original=original, name=name, **options):
            return refuse(path) if path.name == name else original(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, method, instead)
            if name == "recipe.json":
                patch.setattr(Path, "read_text", refuse)
            with pytest.raises(CacheError, match=message):
                open_cache(tmp_path).names()
    assert open_cache(tmp_path).names() == ["a.avi"]


def test_a_cache_with_a_recipe_that_cannot_be_read_is_not_packed_in_part(
    tmp_path, write_entry, smooth_flow
):
    for quantiser in (Quantiser("u8", bound_px=20.0), Quantiser("i16")):
        write_entry(tmp_path / "c", smooth_flow(2, 16, 16), quantiser, "zstd", name="a.avi")
    damaged, sound = open_cache(tmp_path / "c").recipes
    (tmp_path / "c" / damaged / "recipe.json").write_text("{}")
    with pytest.raises(EntryCorrupt, match=rf"{damaged}.recipe\.json"):
        pack(tmp_path / "c", tmp_path / "p.h5")
    assert pack(tmp_path / "c", tmp_path / "p.h5", recipe=sound).entries == 1


def test_what_the_system_refuses_is_not_called_damaged(tmp_path, monkeypatch):
    weights = {"a.weight": torch.ones(2)}
    save_tensors(tmp_path / "checkpoint.pt", weights, {}, [])
    torch.save(weights, tmp_path / "w.pth")
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    scores = Scores(
        ids=("a",), labels_N=np.zeros(1, int), probabilities_NK=np.array([[0.5, 0.5]]),
        logits_NK=np.zeros((1, 2), np.float32), classes=("x", "y"), stream="s",
    )  # fmt: skip
    scores.save(tmp_path / "s.npz")
    readers = {"checkpoint.pt": read_weights, "w.pth": read_state, "w.safetensors": read_state}
    for name, read in {**readers, "s.npz": load_scores}.items():
        read(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(io, "open", refuse)
            patch.setattr("builtins.open", refuse)
            with pytest.raises(FlowpipeError, match=rf"{name} cannot be read: Permission denied$"):
                read(tmp_path / name)


def test_sources_without_labels_take_no_label_away(tmp_path, write_video):
    folder = tmp_path / "videos" / "red"
    folder.mkdir(parents=True)
    write_video(folder / "a.avi", np.zeros((3, 32, 32, 3), np.uint8))
    (labelled,), _ = videos_of(tmp_path / "videos")
    assert labelled.label == "red"
    extract(tmp_path / "videos", tmp_path / "c", flow="dis", workers=1)
    extract([replace(labelled, labels=())], tmp_path / "c", flow="dis", workers=1)
    assert open_cache(tmp_path / "c").labels == {"red/a.avi": "red"}
    extract([replace(labelled, labels=("blue",))], tmp_path / "c", flow="dis", workers=1)
    assert open_cache(tmp_path / "c").labels == {"red/a.avi": "blue"}


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs /dev/null")
def test_devices_pipes_and_links_are_written_and_not_replaced(tmp_path):
    node = tmp_path / "pipe"
    os.mkfifo(node)
    taken = []
    reader = threading.Thread(target=lambda: taken.append(node.read_text()))
    reader.start()
    with write_aside(node, "w") as file:
        file.write("a line\n")
    reader.join(20)
    assert (taken, node.is_fifo()) == (["a line\n"], True)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "far" / "a.csv")
    with write_aside(tmp_path / "link.csv", "w") as file:
        file.write("new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "far" / "a.csv").read_text() == "new"
    for name in ("/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert is_device(Path(name)), name
    assert not is_device(tmp_path / "far" / "a.csv")
    assert not is_device(tmp_path / "new.csv")
    script = "from flowpipe.atomic import write_aside as aside\n"
    script += "with aside('/dev/stdout', 'w') as file: file.write('x')"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert told.stdout == b"x"
