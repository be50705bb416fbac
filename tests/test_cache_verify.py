"""`verify`, and what reading says of files that are damaged, missing or of another kind."""

import errno
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from flowpipe.cache import Entry, open_cache, schema
from flowpipe.cache.entry import unreadable
from flowpipe.cache.hdf import DAMAGED
from flowpipe.cache.store import WEIGHTS_FILE
from flowpipe.cache.verify import left_over, verify, verify_entry
from flowpipe.cache.write import EntryWriter
from flowpipe.errors import CacheError, CacheNotFound, EntryCorrupt, EntryNotFound, NewerFormat
from flowpipe.flow.quantise import Quantiser

FORMS = [
    (Quantiser("u8", bound_px=20.0), "jpegls"),
    (Quantiser("u8", bound_px=20.0), "zstd"),
    (Quantiser("i16"), "zstd"),
    (Quantiser("f16"), "zstd"),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].storage}-{form[1]}")
def test_flipped_bits_are_never_read_silently(tmp_path, form, write_entry, smooth_flow):
    frames_THWC = np.random.default_rng(1).integers(0, 256, (4, 8, 9, 3), np.uint8)
    path = write_entry(tmp_path, smooth_flow(3, 8, 9), *form, rgb_THWC=frames_THWC)
    before = Entry(path)
    whole = path.read_bytes()
    trailer = len(whole) - schema.TRAILER_BYTES
    assert b"FRHP" not in whole  # HDF5's heaps have no checksums, and it can hang on a wrong bit
    assert b"GCOL" not in whole
    places = {
        "superblock": [0, 9, 20, 44],
        "attributes": [whole.find(b"source_name"), whole.find(b"walk.avi") + 3],
        "times": [whole.find(np.float64(2 / 25).tobytes())],
        "frames": [whole.find(b"\xff\xd8\xff") + 100],
        "flow": [int(offset) + at for offset, *_ in before.flow.chunks for at in (0, 9, 30)],
        # HDF5's own structure lies between these, wherever it likes.
        "anywhere": list(range(5, trailer, trailer // 40)),
    }
    rng = np.random.default_rng(7)
    for part, positions in places.items():
        for position in positions:
            assert 0 <= position < trailer, part
            path.write_bytes(flipped(whole, position, int(rng.integers(8))))
            assert verify_entry(path, deep=True).problem, (part, position)
            with pytest.raises(EntryCorrupt):
                read_all(Entry(path))
    # The trailer is the digest for `deep` alone: reading goes on without it.
    for position in (trailer, trailer + 20, len(whole) - 1):
        path.write_bytes(flipped(whole, position, 3))
        assert "the file is not what was written" in verify_entry(path, deep=True).problem
        assert verify_entry(path).problem == ""
        np.testing.assert_array_equal(Entry(path).flow[:], before.flow[:])
    path.write_bytes(whole)
    assert verify_entry(path, deep=True).problem == ""


def flipped(whole: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def read_all(entry: Entry) -> None:
    assert len(entry.flow[:]) == len(entry.rgb[:]) - 1 == len(entry.pts_s) - 1


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, 0.5, 0.95, -1, -48])
def test_cut_file_is_noticed(tmp_path, kept, write_entry, smooth_flow):
    path = write_entry(tmp_path, smooth_flow(6, 20, 20))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if 0 < kept < 1 else kept])
    (finding,) = verify(tmp_path, deep=True)
    assert str(path) in finding.problem


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(EntryCorrupt, match="is not an entry of a flowpipe cache"):
        Entry(path)


def test_foreign_hdf5_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["flow"] = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(EntryCorrupt, match="but no entry of a flowpipe cache"):
        Entry(tmp_path / "x.h5")
    with pytest.raises(EntryNotFound, match="no entry at"):
        Entry(tmp_path / "y.h5")


def test_later_format_is_refused(tmp_path, write_entry, smooth_flow):
    import h5py

    path = write_entry(tmp_path, smooth_flow(2, 8, 8))
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(NewerFormat, match="has format 99; this flowpipe reads 1: update flow"):
        Entry(path)


@pytest.fixture
def four(tmp_path, write_entry, smooth_flow):
    """A cache of four videos, 0.avi to 3.avi, and their entry files."""
    return [
        write_entry(tmp_path, smooth_flow(3, 8, 8, seed), digest=f"{seed:064x}", name=f"{seed}.avi")
        for seed in range(4)
    ]


def test_fast_and_deep_see_each_kind_of_damage(tmp_path, four):
    cut, broken_chunk, foreign, well = four
    cut.write_bytes(cut.read_bytes()[:-2000])
    offset = int(Entry(broken_chunk).flow.chunks[1, 0])
    broken_chunk.write_bytes(flipped(broken_chunk.read_bytes(), offset + 9, 6))
    foreign.write_text("a list of things to do", encoding="utf-8")
    fast = {finding.path: finding.problem for finding in verify(tmp_path)}
    deep = {finding.path: finding.problem for finding in verify(tmp_path, deep=True)}
    assert list(fast) == list(deep) == sorted(four)
    assert fast[well] == deep[well] == fast[broken_chunk] == ""
    for problems in (fast, deep):
        for path in (cut, foreign):
            assert problems[path].startswith(f"{path} is not an entry of a flowpipe cache")
            assert problems[path].endswith(DAMAGED)
    assert f"{broken_chunk} (1.avi): flow 1: its bytes are not what" in deep[broken_chunk]


def test_entry_of_another_name_or_recipe(tmp_path, four):
    renamed = four[0].replace(four[0].with_name("notes.h5"))
    other = tmp_path / ("0" * 16) / "00"
    other.mkdir(parents=True)
    moved = four[1].replace(other / four[1].name)
    problems = {finding.path: finding.problem for finding in verify(tmp_path)}
    assert "its name is not the digest of its video; delete it" in problems[renamed]
    assert "stands in the folder of another recipe; delete it" in problems[moved]
    assert sorted(problems) == sorted([renamed, moved, *four[2:]])


def test_missing_folder_and_empty_one(tmp_path):
    with pytest.raises(CacheNotFound, match=r"no cache at .*none; flowpipe extract makes one"):
        verify(tmp_path / "none")
    assert list(verify(tmp_path, deep=True)) == []
    assert left_over(tmp_path) == []


def test_left_over_files_are_told_and_those_in_work_are_not(tmp_path, four):
    assert left_over(tmp_path) == []
    # What `features` notes of a network's weights is a part of the cache.
    (next(tmp_path.glob("*/recipe.json")).parent / WEIGHTS_FILE).write_text("{}")
    assert left_over(tmp_path) == []
    stray = four[0].with_name(f".{'ef' * 32}.123-00112233.part")
    stray.write_bytes(b"\x89HDF")
    notes = four[0].parent.parent / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    sizes = {"height": 8, "width": 8}
    with EntryWriter(four[0].with_name("x.h5"), quantiser=FORMS[0][0], codec="zstd", **sizes):
        found = {finding.path: finding.problem for finding in left_over(tmp_path)}
    assert sorted(found) == sorted([stray, notes])
    assert "left by a process that was killed; the next extract removes it" in found[stray]
    assert "no part of a cache; move it elsewhere" in found[notes]
    assert [finding.problem for finding in verify(tmp_path)] == [""] * 4
    assert stray.exists()


FAILING = """
import json, os, signal, sys, time
import flowpipe.cache.verify as module

def open_badly(path):
    if path.stem.endswith("1"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem.endswith("2"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        time.sleep(60)
    return entry(path)

entry, module.Entry, module.HEADER_LIMIT_S = module.Entry, open_badly, 1
module._answer(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGALRM")
def test_crash_and_hang_cost_one_file_each(tmp_path, four, monkeypatch):
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-P", "-m", "flowpipe.cache.verify"]
        return popen([command[0], "-c", FAILING, *command[4:]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    problems = [finding.problem for finding in verify(tmp_path)]
    assert [finding.path for finding in verify(tmp_path)] == four
    assert problems[0] == problems[3] == ""
    assert problems[1] == f"{four[1]}: HDF5 crashes (signal 11) on it; " + DAMAGED
    assert problems[2] == f"{four[2]}: HDF5 hangs on it; {DAMAGED}"


def test_checking_that_fails_blames_no_file(tmp_path, four, monkeypatch):
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda c, **o: popen([c[0], "-c", "raise SystemExit(3)"], **o)
    )
    with pytest.raises(CacheError, match="the process that verifies ended with status 3"):
        list(verify(tmp_path))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"dis"', '"dos"'), "its id is not the name of its folder"),
        (lambda text: text[:-20], "not a recipe that this flowpipe reads"),
    ],
    ids=["other", "cut"],
)
def test_damaged_recipe_file(tmp_path, four, change, match):
    file = four[0].parent.parent / "recipe.json"
    file.write_text(change(file.read_text("utf-8")), encoding="utf-8")
    with pytest.raises(EntryCorrupt, match=f"{match}.*; delete it, and the next run by this"):
        open_cache(tmp_path)


def test_an_end_by_others_says_nothing_of_the_files(
    tmp_path, write_entry, smooth_flow, monkeypatch
):
    write_entry(tmp_path, smooth_flow(2, 16, 16))
    for number, message in ((9, "ended by signal 9, which says nothing of the files"), (11, None)):
        script = f"import os; os.kill(os.getpid(), {number})"
        original = subprocess.Popen
        with monkeypatch.context() as patch:
            patch.setattr(
                subprocess,
                "Popen",
                lambda words, **o: original([sys.executable, "-c", script], **o),  # noqa: B023
            )
            if message:
                with pytest.raises(CacheError, match=message):
                    list(verify(tmp_path))
            else:
                (finding,) = verify(tmp_path)
                assert "crashes (signal 11)" in finding.problem


def test_what_cannot_be_read_is_counted_apart(tmp_path, write_entry, smooth_flow, monkeypatch):
    path = write_entry(tmp_path, smooth_flow(2, 16, 16))

    def refuse(path):
        raise unreadable(path, PermissionError(errno.EACCES, "Permission denied"))

    finding = verify_entry(path, open_entry=refuse)
    assert (finding.unread, "Permission denied" in finding.problem) == (True, True)
    path.write_bytes(path.read_bytes()[:-100])
    assert not verify_entry(path, deep=True).unread
