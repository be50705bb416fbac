"""What happens to files between the runs: bit rot, cut lines, full disks, copies gone wrong.

Nothing that was changed is read as if it were sound, what is sound is never called damaged, and
one damaged file costs no other.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from support import run_cli

from flowpipe import open_cache
from flowpipe.cache import Entry, schema, write_recipe
from flowpipe.cache.hdf import DAMAGED
from flowpipe.cache.manifest import FailureRow, add_failure, read_failures, read_manifest
from flowpipe.cache.pack import pack, unpack
from flowpipe.cache.part import create_locked, is_abandoned, remove_abandoned
from flowpipe.cache.store import note_weights
from flowpipe.cache.verify import damaged_texts, verify
from flowpipe.detection.detector import load_detector
from flowpipe.errors import (
    CacheError,
    ConfigError,
    EntryCorrupt,
    EntryNotFound,
    NewerFormat,
)
from flowpipe.localisation.localiser import load_localiser
from flowpipe.sealed import append_lines, read_lines, read_table, sealed_line, write_table


@pytest.fixture
def cache(tmp_path, write_entry, smooth_flow):
    for number in range(3):
        write_entry(
            tmp_path / "c", smooth_flow(3, 16, 20, number), name=f"ab/{number}.avi",
            digest=f"{number:064x}", label="ab",
        )  # fmt: skip
    return tmp_path / "c"


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


KINDS = {"name": str, "label": type(None), "size": int, "time": float}


def test_every_flipped_bit_of_a_line_is_noticed():
    record = {"name": "a/ü.avi", "label": None, "size": 12, "time": 1.5}
    line = sealed_line(record)
    assert read_lines(line, KINDS).records == [record]
    assert json.loads(line) == record | {
        "crc32": zlib.crc32(json.dumps(record, ensure_ascii=False).encode())
    }
    for place in range(len(line) - 1):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            lines = read_lines(bytes(changed), KINDS)
            assert lines.records == [], (place, bit)
            assert lines.damaged or lines.cut, (place, bit)


def test_lines_of_older_versions_have_no_checksum_and_are_read():
    text = b'{"name": "x", "time": 1}\n{"name": "y", "time": 2}\n{"name": "z", "ti'
    lines = read_lines(text, {"name": str, "time": int})
    assert lines.records == [{"name": "x", "time": 1}, {"name": "y", "time": 2}]
    assert (lines.damaged, lines.cut) == ([], [3])
    assert read_lines(b'{"name": "x"}\n{1}\n\n', {"name": str}).damaged == [(2, {})]


def test_a_cut_line_takes_no_other(tmp_path):
    file = tmp_path / "l.jsonl"
    append_lines(file, [{"n": 1}])
    file.write_bytes(file.read_bytes() + b'{"n": 2, "crc')
    append_lines(file, [{"n": 3}, {"n": 4}])
    lines = read_lines(file.read_bytes(), {"n": int})
    assert lines.records == [{"n": 1}, {"n": 3}, {"n": 4}]
    assert lines.cut == [2]


def test_a_short_write_is_gone_on_with_and_a_full_disk_is_an_error(tmp_path, monkeypatch):
    real, calls = os.write, []

    def half(handle, data):
        calls.append(len(data))
        return real(handle, data[: len(data) // 2] if len(calls) == 1 else data)

    monkeypatch.setattr(os, "write", half)
    append_lines(tmp_path / "l.jsonl", [{"n": 1}, {"n": 2}])
    assert len(calls) == 2
    assert read_lines((tmp_path / "l.jsonl").read_bytes(), {"n": int}).records == [
        {"n": 1},
        {"n": 2},
    ]

    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        append_lines(tmp_path / "l.jsonl", [{"n": 3}])


def test_tables_are_sealed_too(tmp_path):
    file, table = tmp_path / "t.json", {"a": [1, {"b": "ü"}], "c": 0.1, "d": None}
    write_table(file, table)
    assert read_table(file) == table
    assert json.loads(file.read_text("utf-8"))["c"] == 0.1
    whole = file.read_bytes()
    for place in range(len(whole)):
        flip(file, place, 4 if place % 2 else 0)
        if chr(whole[place]).isspace():
            continue  # the layout is not sealed
        with pytest.raises(EntryCorrupt, match=r"t\.json"):
            read_table(file)
        file.write_bytes(whole)
    file.write_text(json.dumps(table), encoding="utf-8")  # of an older version
    assert read_table(file) == table
    for text in ("[]", "{", "[" * 100_000, ""):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(EntryCorrupt, match="is no table of JSON"):
            read_table(file)


def test_a_damaged_line_of_the_manifest_is_told_and_costs_its_video_only(cache):
    file = sorted((cache / "manifest").iterdir())[1]
    flip(file, file.read_bytes().index(b"ab/") + 1, 1)
    assert len(read_manifest(cache)) == 2
    opened = open_cache(cache)
    assert len(opened) == 2
    (finding,) = damaged_texts(cache)
    assert finding.problem.startswith(f"{file}: line 1 is not what was written; give the same")
    for command, status in (("ls", 1), ("verify", 1)):
        done = run("cache", command, cache)
        assert done.exit_code == status
        assert str(file) in done.output + done.stderr
    listed = json.loads(run("cache", "ls", cache, "--json").stdout)["videos"]
    assert [bool(video["problem"]) for video in listed] == [False, False, True]


def test_damaged_failures_are_told(cache):
    add_failure(cache, FailureRow("x.avi", "/x.avi", "d" * 64, "r", "no frame", 1.0))
    add_failure(cache, FailureRow("y.avi", "/y.avi", "e" * 64, "r", "no frame", 2.0))
    flip(cache / "failures.jsonl", 12, 0)
    assert [row.name for row in read_failures(cache)] == ["y.avi"]
    (finding,) = damaged_texts(cache)
    assert "failures.jsonl: line 1" in finding.problem


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", None])
def test_a_damaged_recipe_costs_its_own_entries_and_is_written_again(
    cache, content, write_entry, smooth_flow
):
    write_entry(cache, smooth_flow(2, 16, 16), name="other.avi", digest="f" * 64, short_side=16)
    identities = {row.name: row.recipe for row in open_cache(cache).rows()}
    file = cache / identities["ab/0.avi"] / "recipe.json"
    recipe = open_cache(cache).recipes[identities["ab/0.avi"]]
    file.unlink()
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    opened = open_cache(cache)
    assert opened.names() == ["other.avi"]
    if content is not None:
        with pytest.raises(EntryNotFound, match=r"no video.*recipe\.json"):
            opened["ab/0.avi"]
        with pytest.raises(EntryCorrupt, match=r"recipe\.json.*the next run by this recipe"):
            open_cache(cache, recipe=identities["ab/0.avi"])
        (finding,) = damaged_texts(cache)
        assert finding.path == file
        assert run("cache", "ls", cache).exit_code == 1
        write_recipe(cache, recipe)
        assert len(open_cache(cache)) == 4


def test_an_entry_of_another_video_is_not_read_as_this_one(cache):
    opened = open_cache(cache)
    shutil.copy(opened["ab/0.avi"].path, opened["ab/1.avi"].path)
    with pytest.raises(EntryCorrupt, match=r"holds another entry, of ab/0\.avi"):
        open_cache(cache)["ab/1.avi"]
    with pytest.raises(EntryCorrupt, match="another entry"):
        pack(cache, cache.with_name("p.h5"))
    assert not cache.with_name("p.h5").exists()


def newer(path: Path, version: int) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version


def test_what_a_later_flowpipe_wrote_is_not_called_damaged(cache):
    path = open_cache(cache)["ab/0.avi"].path
    newer(path, 2)
    with pytest.raises(NewerFormat, match="format 2; this flowpipe reads 1: update flowpipe"):
        open_cache(cache)["ab/0.avi"]
    done = run("cache", "verify", cache)
    assert done.exit_code == 1
    assert "delete" not in done.output + done.stderr
    newer(path, 0)
    with pytest.raises(EntryCorrupt, match="format 0; this"):
        open_cache(cache)["ab/0.avi"]
    file = path.parent.parent / "recipe.json"
    file.write_text(file.read_text("utf-8").replace('"version":1}', '"version":2}'), "utf-8")
    with pytest.raises(NewerFormat, match=r"recipe\.json: a recipe of version 2; this"):
        open_cache(cache)


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_cannot_be_read_now_is_not_called_damaged(cache, reason, monkeypatch):
    opened = open_cache(cache)

    def refuse(*arguments, **options):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(CacheError, match=rf"cannot be read: {os.strerror(reason)}") as raised:
        opened["ab/0.avi"]
    assert not isinstance(raised.value, EntryCorrupt)
    assert DAMAGED not in str(raised.value)


LIMITED = """
import resource, sys
from flowpipe import open_cache
from flowpipe.errors import CacheError
cache = open_cache(sys.argv[1])
rows = cache.rows()
import h5py, os
opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened) + 1, 4096))
try:
    cache.entry_of(rows[0])
except CacheError as error:
    sys.exit(str(error))
"""


def test_too_many_open_files(cache):
    done = subprocess.run(
        [sys.executable, "-P", "-c", LIMITED, cache], check=False, capture_output=True, text=True
    )
    assert done.stderr.strip().endswith("cannot be read: Too many open files")


def test_a_pipe_makes_nothing_wait(cache):
    os.mkfifo(cache / "manifest" / "x.jsonl")
    (cache / ("0" * 16)).mkdir()
    os.mkfifo(cache / ("0" * 16) / "recipe.json")
    os.mkfifo(cache / open_cache(cache).rows()[0].recipe / "00" / f"{'1' * 64}.h5")
    os.mkfifo(cache / "failures.jsonl")
    opened = open_cache(cache)
    assert len(opened) == 3
    assert opened.failures() == []
    problems = [finding.problem for finding in verify(cache) if finding.problem]
    assert len(problems) == 1
    assert "is no file, so no entry" in problems[0]
    remove_abandoned(cache)


def test_a_pack_that_leads_outside_is_refused(cache, tmp_path):
    path = tmp_path / "p.h5"
    pack(cache, path)
    with h5py.File(path, "r+") as file:
        places, text = file["rows"][:], file["row_text"][:].tobytes()
        joined, rows = b"", []
        for place in places:
            record = json.loads(text[place["start"] : place["start"] + place["bytes"]])
            line = json.dumps(record | {"digest": f"../../out-{record['digest'][:4]}"}).encode()
            rows.append((len(joined), len(line), zlib.crc32(line)))
            joined += line
        del file["rows"], file["row_text"]
        file.create_dataset("row_text", data=np.frombuffer(joined, np.uint8))
        file.create_dataset("rows", data=np.array(rows, places.dtype))
    with pytest.raises(EntryCorrupt, match="is no digest of a video"):
        unpack(path, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("out-*"))


def test_an_entry_that_unfolds_takes_no_memory(cache):
    """pts_s of variable length, each element the same megabyte."""
    path = open_cache(cache)["ab/0.avi"].path
    count = 3000
    with h5py.File(path, "r+") as file:
        del file["pts_s"]
        data = file.create_dataset("pts_s", (count,), dtype=h5py.vlen_dtype(np.uint8))
        data[0] = np.zeros(1_000_000, np.uint8)
        place = data.id.get_offset()
    text = bytearray(path.read_bytes())
    text[place : place + 16 * count] = bytes(text[place : place + 16]) * count
    path.write_bytes(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EntryCorrupt, match='"pts_s" is of object, not <f8'):
        Entry(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_file_is_never_taken_for_abandoned_before_it_is_locked(tmp_path):
    """Makers and one who clears away, at once: no file vanishes from under its maker."""
    (tmp_path / "ab").mkdir()
    ended, lost = threading.Event(), []

    def clear():
        while not ended.is_set():
            remove_abandoned(tmp_path)

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        for number in range(300):
            path = tmp_path / "ab" / f".{number}.part"
            with create_locked(path) as file:
                file.write(b"x")
                if not path.exists() or is_abandoned(path):
                    lost.append(number)
            path.unlink(missing_ok=True)
    finally:
        ended.set()
        thread.join()
    assert lost == []


def test_modules_beside_the_data_are_not_run(cache, tmp_path):
    for module in ("h5py", "json", "cv2"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from flowpipe.cache.verify import verify; import pathlib; "
         "print([f.problem for f in verify(pathlib.Path('c'))])"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "['', '', '']"
    assert not (tmp_path / "RAN").exists()


def run(*words):
    from flowpipe.cli.main import app

    return CliRunner().invoke(app, [str(word) for word in words])


def test_format_md_tells_of_the_checksums():
    text = Path(schema.__file__).with_name("FORMAT.md").read_text("utf-8")
    assert '`, "crc32": N}`' in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_video):
    """A run of one stream on eight tiny videos."""
    from flowpipe.experiment.experiment import Experiment
    from flowpipe.experiment.settings import load_settings

    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for number in range(8):
        (folder / "videos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        frames = rng.integers(0, 255, (4, 32, 32, 3), np.uint8)
        write_video(folder / "videos" / "ab"[number % 2] / f"{number}.mp4", frames)
    (folder / "c.toml").write_text(
        '[data]\nroot = "videos"\n[extract]\nflow = "farneback"\nworkers = 1\n'
        '[streams.spatial]\ninput = "rgb"\ncrop_size = [24, 24]\nmodel_parameters = {width = 2}\n'
        "[train]\nepochs = 1\nbatch_size = 4\n[test]\nclips = 1\n"
        '[fuse]\nmethods = ["average"]\ntraining_clips = 0\n'
    )
    Experiment(load_settings(folder / "c.toml"), folder / "run").run()
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_sound_run_is_called_sound(trained):
    from flowpipe.experiment.verify import verify_run

    findings = verify_run(trained)
    assert [finding.problem for finding in findings] == [""] * len(findings)
    assert {finding.path.name for finding in findings} >= {
        "settings.json", "results.json", "checkpoint.pt", "metrics.jsonl", "scores.npz",
    }  # fmt: skip
    assert run("verify", trained).exit_code == 0
    (trained / "fold-split" / "spatial" / "checkpoint.pt").unlink()
    (gone,) = [finding for finding in verify_run(trained) if finding.problem]
    assert gone.problem.endswith("checkpoint.pt is gone; copy it back, or train again")
    assert isinstance(run("verify", trained / "none").exception, Exception)


@pytest.mark.parametrize(
    ("pattern", "tries"),
    [
        ("settings.json", 40),
        ("results.json", 40),
        ("fold-*/*/metrics.jsonl", 40),
        ("fold-*/*/checkpoint.pt", 60),
        ("fold-*/*/scores.npz", 60),
    ],
)
def test_flipped_bits_of_a_run_are_noticed(trained, pattern, tries):
    from flowpipe.experiment.verify import verify_run

    (file,) = trained.glob(pattern)
    whole = file.read_bytes()
    rng = np.random.default_rng(3)
    before = content_of(file)
    for place in rng.integers(0, len(whole), tries):
        flip(file, int(place), int(rng.integers(8)))
        problems = {f.path: f.problem for f in verify_run(trained)}
        # What no reader looks at, as the padding of a zip file, may go unnoticed.
        assert problems[file] or content_of(file) == before, (place, file)
        file.write_bytes(whole)


def content_of(file: Path) -> object:
    """What of a file comes to its readers."""
    import zipfile

    if file.suffix in (".pt", ".npz"):
        with zipfile.ZipFile(file) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist()}
    text = file.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else (
        moved(json.loads(text))
    )  # fmt: skip


def moved(table: dict) -> dict:
    """A table without the places that may be put right by hand."""
    return {k: v for k, v in table.items() if k != "data"} | {
        "data": {k: v for k, v in table.get("data", {}).items() if k not in ("root", "cache")}
    }


def test_a_moved_data_folder_may_be_put_right_by_hand(trained, finished):
    from flowpipe.errors import ConfigError
    from flowpipe.experiment.settings import read_run_settings

    file = trained / "settings.json"
    table = json.loads(file.read_text("utf-8"))
    table["data"]["root"] = str(finished / "videos")
    file.write_text(json.dumps(table), encoding="utf-8")
    assert read_run_settings(trained).data.root == finished / "videos"
    table["streams"]["spatial"]["frames"] = 2
    file.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"settings\.json is not what was written"):
        read_run_settings(trained)


@pytest.mark.parametrize("content", ["[]", "{}", "[" * 100_000, '{"folds": [], "classes": ["a"]}'])
def test_results_of_another_form_are_a_sentence(trained, content):
    from flowpipe.errors import ConfigError
    from flowpipe.experiment.experiment import Experiment

    (trained / "results.json").write_text(content)
    with pytest.raises(ConfigError, match="is damaged"):
        Experiment.of_run(trained)


def test_code_that_a_run_or_a_cache_names_is_not_run(
    trained, finished, tmp_path, write_entry, smooth_flow
):
    from flowpipe.errors import InvalidArgument
    from flowpipe.experiment.experiment import Experiment
    from flowpipe.experiment.results import MOVING
    from flowpipe.extraction.recompute import recompute
    from flowpipe.video import content_digest

    video = next((finished / "videos").rglob("*.mp4"))
    for change in (
        lambda t: t["extract"].update(flow="os:system"),
        lambda t: t["streams"]["spatial"].update(model="os:system"),
        lambda t: t["streams"]["spatial"]["model_parameters"].update(backbone="os:system"),
    ):
        table = read_table(finished / "run" / "settings.json", MOVING)
        change(table)
        write_table(trained / "settings.json", table, MOVING)
        for act in (lambda e: e.predict([video]), lambda e: e.test()):
            with pytest.raises(InvalidArgument, match="no part of flowpipe, os:system") as raised:
                act(Experiment.of_run(trained))
            assert raised.value.parameters == ("trust",)
    foreign = {"flow": "os:system", "flow_parameters": {"command": f"touch {tmp_path / 'RAN'}"}}
    write_entry(
        tmp_path / "c", smooth_flow(3, 32, 32), name="a.mp4", path=str(video),
        digest=content_digest(video), **foreign,
    )  # fmt: skip
    (told,) = recompute(open_cache(tmp_path / "c"), 1)
    assert "os:system, and it would be run here" in told.note
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    "words",
    [
        "predict RUN VIDEO",
        "predict RUN VIDEO --other-flow",
        "predict RUN VIDEO --every 1s",
        "test RUN",
        "test RUN --flow dis --other-flow",
        "export RUN --out OUT/x.flowpipe",
        "features RUN --cache CACHE --out OUT/store",
        "see filters RUN --stream spatial --out OUT/seen",
        "see why RUN VIDEO --out OUT/seen",
        "see class RUN --class all --out OUT/seen",
        "report RUN",
        "verify RUN",
        "localise predict LOCALISER VIDEO",
        "detect predict DETECTOR VIDEO",
    ],
)
@pytest.mark.parametrize("part", ["extract", "model"])
def test_no_command_runs_code_that_a_run_names(part, words, trained, finished, tmp_path):
    from flowpipe.experiment.results import MOVING

    if part == "model" and not ("RUN" in words and "--flow" not in words):
        pytest.skip("the network is one of a run")

    ran = tmp_path / "RAN"
    code = {"flow": "os:system", "flow_parameters": {"command": f"touch {ran}"}}
    table = read_table(finished / "run" / "settings.json", MOVING)
    model = {"model": "os:system", "model_parameters": {"command": f"touch {ran}"}}
    if part == "extract":
        table["extract"].update(code)
    else:
        for each in table["streams"].values():
            each.update(model)
    write_table(trained / "settings.json", table, MOVING)
    stream = {"input": "flow", "model": "os:system", "parameters": {"command": f"touch {ran}"}}
    for folder, others in (
        ("localiser", {"source": {"flow": code}, "classes": ["a:b", "c"]}),
        ("detector", {"streams": {"flow": stream}, "flow": code, "classes": ["a:b", "c"]}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.json").write_text(json.dumps(others))
    names = {
        "RUN": trained,
        "VIDEO": next((finished / "videos").rglob("*.mp4")),
        "CACHE": finished / "run" / "cache",
        "LOCALISER": tmp_path / "localiser",
        "DETECTOR": tmp_path / "detector",
    }
    given = [names.get(word, word.replace("OUT", str(tmp_path))) for word in words.split()]
    done = run_cli(*given)
    assert not ran.exists()
    if words.split()[0] not in ("report", "verify"):
        assert done.status == 2
        assert "os:system, and it would be run here" in done.err


@pytest.mark.parametrize(
    "name", [" evil:build", "1evil:build", "e-vil:build", "dis+evil:build", "evil:build\n", "a:b:c"]
)
def test_what_is_imported_is_spelled_as_what_is_refused(name, tmp_path, monkeypatch):
    """A file may be called anything, so that a name could be imported that was not looked for."""
    from flowpipe.errors import InvalidArgument, UnknownName
    from flowpipe.flow import create
    from flowpipe.models import build
    from flowpipe.registry import refuse_foreign_code

    monkeypatch.syspath_prepend(str(tmp_path))
    for stem in (" evil", "1evil", "e-vil", "évil"):
        (tmp_path / f"{stem}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    for make in (lambda: build(name, num_classes=2), lambda: create(name)):
        with pytest.raises(UnknownName):
            make()
    with pytest.raises(InvalidArgument, match="évil:build"):
        refuse_foreign_code({"model": "évil:build"}, "x")
    assert not (tmp_path / "RAN").exists()


def test_what_is_trusted_is_no_foreign_code(monkeypatch):
    from flowpipe import registry
    from flowpipe.errors import InvalidArgument

    monkeypatch.setattr(registry, "_TRUSTED", set())
    table = {"a": [{"flow": "my.flow:Best+tvl1"}, "C:/videos", "16:9", "x"], "b": ("n.n:N", 3)}
    assert registry.own_code(table) == {"my.flow:Best", "n.n:N"}
    with pytest.raises(InvalidArgument, match=r"x names code .* my\.flow:Best, n\.n:N, and"):
        registry.refuse_foreign_code(table, "x")
    registry.trust("my.flow:Best", "n.n:N")
    registry.refuse_foreign_code(table, "x")


def test_escapes_are_shown_not_sent(cache):
    escape = "\x1b]0;t\x07\x1b[2J\u202e"
    for number, file in enumerate((cache / "manifest").iterdir()):
        record = json.loads(file.read_bytes()) | {"name": f"{number}{escape}.avi", "label": escape}
        del record["crc32"]
        file.write_bytes(sealed_line(record))
    for words in (["ls"], ["report"], ["info", f"0{escape}.avi"], ["ls", "--json"]):
        done = run("cache", words[0], cache, *words[1:])
        for raw in ("\x1b", "\x07", "\u202e"):
            assert raw not in done.output + done.stderr
        assert "\\u001b]0;t\\u0007" in done.output
    assert json.loads(run("cache", "ls", cache, "--json").stdout)["videos"][0]["label"] == escape


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    from flowpipe.errors import VideoError
    from flowpipe.video import find_videos

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.avi").write_bytes(b"x")
    (tmp_path / "b").mkdir()
    assert [p.name for p in find_videos(tmp_path)] == ["0.avi"]
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(VideoError, match=r"b cannot be read: Permission denied; make it readable"):
        find_videos(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300 + ".avi", "a\0.avi"])
def test_a_path_that_no_file_can_have_costs_itself_only(tmp_path, write_video, name):
    from flowpipe import extract

    write_video(tmp_path / "0.mp4", np.zeros((3, 32, 32, 3), np.uint8))
    (tmp_path / "list.txt").write_text(f"{name}\n0.mp4\n")
    result = extract(tmp_path / "list.txt", tmp_path / "c", flow="farneback", workers=1)
    assert (result.done, result.failed) == (1, 1)


def test_many_names_of_which_two_are_equal_are_refused_at_once():
    import time

    from flowpipe.errors import InvalidArgument
    from flowpipe.scores import Scores

    names = [f"v{number}" for number in range(60_000)]
    names[-1] = names[-2]
    started = time.process_time()
    with pytest.raises(InvalidArgument, match='"v59998" more than once'):
        Scores(
            ids=tuple(names), labels_N=np.zeros(60_000, np.int64),
            probabilities_NK=np.full((60_000, 2), 0.5),
            logits_NK=np.zeros((60_000, 2), np.float32), classes=("x", "y"), stream="s",
        )  # fmt: skip
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\nother.mp4\n#EXT-X-ENDLIST\n",
    ],
    ids=["concat", "hls"],
)
def test_a_text_that_names_other_files_is_no_video(tmp_path, write_video, text):
    from flowpipe.errors import VideoError
    from flowpipe.video import VideoReader

    write_video(tmp_path / "other.mp4", np.zeros((4, 32, 32, 3), np.uint8))
    (tmp_path / "x.avi").write_text(text)
    with pytest.raises(VideoError, match=r"x\.avi"):
        list(VideoReader(tmp_path / "x.avi").frames())


SLOW_PACK = """
import os, sys, time
real = os.pread
def pread(*arguments):
    time.sleep(1)
    return real(*arguments)
os.pread = pread
from flowpipe.cli.main import main
main(["cache", "pack", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_pack_that_is_ended_leaves_nothing_for_long(cache, tmp_path, how):
    import signal
    import time

    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SLOW_PACK, cache, tmp_path / "p.h5"],
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".p.h5.*")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(getattr(signal, how))
    assert process.wait(60) != 0
    left = list(tmp_path.glob(".p.h5.*"))
    assert len(left) == (how == "SIGKILL")
    pack(cache, tmp_path / "p.h5")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert open_cache(tmp_path / "p.h5").names() == open_cache(cache).names()


def test_the_current_folder_is_looked_at_for_code_of_ones_own_only(tmp_path, monkeypatch):
    from flowpipe import registry
    from flowpipe.errors import UnknownName

    (tmp_path / "mine_of_damage.py").write_text("def build():\n    return 7\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "OWN_FOLDERS", [str(tmp_path)])
    with pytest.raises(UnknownName):
        registry.resolve({"x": "mine_of_damage:build"}, "x", kind="thing")
    assert registry.resolve({}, "mine_of_damage:build", kind="thing")() == 7


def test_a_read_error_of_the_disk_is_no_short_video(tmp_path, write_video, monkeypatch):
    """What cannot be read while it is decoded leaves no entry, and nothing is remembered."""
    from flowpipe.cache.recipe import FlowRecipe
    from flowpipe.extraction import worker as module
    from flowpipe.extraction.tasks import Job, Task

    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "x.mp4", rng.integers(0, 255, (8, 32, 32, 3), np.uint8))
    job = Job(tmp_path / "c", FlowRecipe.make(flow="farneback"), "jpegls")
    task = Task(0, video, "x.mp4", video.stat().st_size)
    digest, calls = module.content_digest(video), []

    def failing(path):
        calls.append(path)
        if len(calls) > 1:
            raise module.VideoError(f"{path} cannot be read: Input/output error")
        return digest

    monkeypatch.setattr(module, "content_digest", failing)
    reader = module.VideoReader

    class Partial(reader):
        problem = property(lambda self: "partial: ends early", lambda self, value: None)

    monkeypatch.setattr(module, "VideoReader", Partial)
    outcome = module.process_task(job, task, lambda fields, share: None)
    assert "could not be read, while it was computed" in outcome.failure
    assert outcome.digest == ""
    assert not list((tmp_path / "c").rglob("*.h5"))
    monkeypatch.setattr(module, "content_digest", lambda path: digest)
    whole = module.process_task(job, task, lambda fields, share: None)
    assert (whole.failure, whole.flows, whole.problem) == ("", 7, "partial: ends early")


def test_lines_of_a_forger_cost_themselves_only(cache):
    """Values of other kinds, and digests that lead elsewhere, sealed as a forger can."""
    row = json.loads(sorted((cache / "manifest").iterdir())[0].read_bytes())
    del row["crc32"]
    forged = [{"time": "late"}, {"name": 5}, {"digest": "../../x"}, {"recipe": ".."}, {"size": 1e9}]
    append_lines(cache / "manifest" / "z.jsonl", [row | change for change in forged])
    assert len(open_cache(cache)) == 3
    assert len(damaged_texts(cache)) == 5
    assert run("cache", "ls", cache).exit_code == 1
    assert run("cache", "verify", cache).exit_code == 1


def test_attributes_that_unfold_are_not_read(cache):
    path = open_cache(cache)["ab/0.avi"].path
    with h5py.File(path, "r+") as file:
        file.attrs["problem"] = np.array(["x" * 10] * 3, h5py.string_dtype())
    with pytest.raises(EntryCorrupt, match='attribute "problem" is missing'):
        Entry(path)


def test_a_damaged_note_of_weights_is_told_and_written_again(cache):
    (recipe,) = open_cache(cache).recipes.values()
    note_weights(cache, recipe, "w.pth")
    file = cache / recipe.id / "weights.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 9):
        file.write_bytes(whole)
        flip(file, place, 0)
        if json_of(file) == json.loads(whole):
            continue
        (finding,) = damaged_texts(cache)
        assert finding.path == file
        note_weights(cache, recipe, "w.pth")
        assert file.read_bytes() == whole


def test_texts_that_cannot_be_read_now(cache, monkeypatch):
    def refuse(self):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CacheError, match=r"jsonl cannot be read: Permission denied"):
        open_cache(cache)


@pytest.mark.parametrize(
    ("name", "load"), [("localiser.json", load_localiser), ("detector.json", load_detector)]
)
def test_flipped_bits_of_localisers_and_detectors_are_told(tmp_path, name, load):
    from flowpipe.experiment.verify import verify_run

    path = tmp_path / name
    write_table(path, {"classes": ["a", "b"], "flow": {"fps_rule": "frame-on-show-1"}})
    assert [finding.problem for finding in verify_run(tmp_path)] == [""]
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole)
        flip(path, place, place % 7)
        if json_of(path) == json.loads(whole):
            continue  # white space, or the case of an escape
        with pytest.raises(ConfigError, match=rf"{name}.*copy it anew"):
            load(tmp_path)
        (finding,) = verify_run(tmp_path)
        assert finding.problem


def json_of(path):
    with contextlib.suppress(ValueError):
        return json.loads(path.read_text())
    return None
