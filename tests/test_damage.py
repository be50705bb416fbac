"""What happens to files between the runs: bit rot, cut lines, full disks, copies gone wrong.

Nothing that was changed is read as if it were sound, what is sound is never called damaged, and
one damaged file costs no other.
"""

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

from flowpipe import open_cache
from flowpipe.cache import Entry, schema, write_recipe
from flowpipe.cache.hdf import DAMAGED
from flowpipe.cache.manifest import FailureRow, add_failure, read_failures, read_manifest
from flowpipe.cache.pack import pack, unpack
from flowpipe.cache.part import create_locked, is_abandoned, remove_abandoned
from flowpipe.cache.verify import damaged_texts, verify
from flowpipe.errors import CacheError, EntryCorrupt, EntryNotFound, NewerFormat
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


def test_every_flipped_bit_of_a_line_is_noticed():
    record = {"name": "a/ü.avi", "label": None, "size": 12, "time": 1.5}
    line = sealed_line(record)
    assert read_lines(line, record).records == [record]
    assert json.loads(line) == record | {
        "crc32": zlib.crc32(json.dumps(record, ensure_ascii=False).encode())
    }
    for place in range(len(line) - 1):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            lines = read_lines(bytes(changed), record)
            assert lines.records == [], (place, bit)
            assert lines.damaged or lines.cut, (place, bit)


def test_lines_of_older_versions_have_no_checksum_and_are_read():
    text = b'{"name": "x", "time": 1}\n{"name": "y", "time": 2}\n{"name": "z", "ti'
    lines = read_lines(text, ("name", "time"))
    assert lines.records == [{"name": "x", "time": 1}, {"name": "y", "time": 2}]
    assert (lines.damaged, lines.cut) == ([], [3])
    assert read_lines(b'{"name": "x"}\n{1}\n\n', ("name",)).damaged == [(2, {})]


def test_a_cut_line_takes_no_other(tmp_path):
    file = tmp_path / "l.jsonl"
    append_lines(file, [{"n": 1}])
    file.write_bytes(file.read_bytes() + b'{"n": 2, "crc')
    append_lines(file, [{"n": 3}, {"n": 4}])
    lines = read_lines(file.read_bytes(), ("n",))
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
    assert read_lines((tmp_path / "l.jsonl").read_bytes(), ("n",)).records == [{"n": 1}, {"n": 2}]

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
