"""`pack` and `unpack`: the same values from one file, and back to the same bytes."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import run_cli

from flowpipe import open_cache
from flowpipe.cache import schema
from flowpipe.cache.manifest import FailureRow, add_failure, read_failures
from flowpipe.cache.pack import pack, unpack
from flowpipe.errors import (
    CacheError,
    CacheNotFound,
    EntryCorrupt,
    EntryNotFound,
    InvalidArgument,
    NewerFormat,
)
from flowpipe.flow.quantise import Quantiser

FORMS = {
    "u8.avi": (Quantiser("u8", bound_px=20.0), "jpegls"),
    "fast/u8.avi": (Quantiser("u8", bound_px=20.0), "zstd"),
    "i16.avi": (Quantiser("i16", tolerance_px=0.04), "jpegls"),
    "f16.avi": (Quantiser("f16"), "zstd"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory, write_entry, smooth_flow):
    """A cache of several forms and sizes, two videos with frames, a failure, an empty entry."""
    cache = tmp_path_factory.mktemp("cache") / "c"
    rng = np.random.default_rng(3)
    for seed, (name, form) in enumerate(FORMS.items()):
        size = (20, 24 + seed)
        frames = rng.integers(0, 256, (5, *size, 3), np.uint8) if seed < 2 else None
        flow = smooth_flow(4, *size, seed)
        digest = f"{seed:064x}"
        write_entry(cache, flow, *form, name=name, digest=digest, label="a", rgb_THWC=frames)
    uv = smooth_flow(3, 20, 24, 9)
    write_entry(cache, uv, name="w\udcff.avi", digest="f" * 64, path="/videos/é\udcff.avi")
    write_entry(cache, uv[:0], name="one.avi", digest="e" * 64, label="b", problem="one frame")
    add_failure(cache, FailureRow("bad.avi", "/v/bad.avi", "d" * 64, "r", "no frame", 1.0))
    return cache


@pytest.fixture(scope="module")
def packed(tmp_path_factory, directory):
    path = tmp_path_factory.mktemp("packed") / "c.h5"
    done = pack(directory, path)
    assert (done.entries, done.flows, done.num_bytes) == (6, 19, path.stat().st_size)
    assert done.missing == ()
    assert [p.name for p in path.parent.iterdir()] == ["c.h5"]
    return path


def test_a_pack_reads_like_its_directory(directory, packed):
    wanted, given = open_cache(directory), open_cache(packed)
    assert given.names() == wanted.names()
    assert given.labels == wanted.labels
    assert given.rows() == wanted.rows()
    assert given.recipes == wanted.recipes
    assert given.failures_text() == wanted.failures_text() != b""
    for name in wanted:
        here, there = wanted[name], given[name]
        assert there.attributes == here.attributes
        assert (there.name, there.label, there.path) == (here.name, here.label, packed)
        np.testing.assert_array_equal(there.flow[:], here.flow[:])
        np.testing.assert_array_equal(there.pts_s, here.pts_s)
        assert there.num_bytes == here.num_bytes
        assert there.has_rgb == here.has_rgb
        if here.has_rgb:
            np.testing.assert_array_equal(there.rgb[:], here.rgb[:])


def test_names_stems_and_recipes_of_a_pack(directory, packed):
    cache = open_cache(packed)
    assert "i16.avi" in cache
    assert "i16" in cache
    assert "none" not in cache
    assert cache["i16"].name == "i16.avi"
    with pytest.raises(EntryNotFound, match="is the name of 2 videos"):
        cache["u8"]
    with pytest.raises(EntryNotFound, match=r'no video "i17\.avi" in .*did you mean "i16\.avi"'):
        cache["i17.avi"]
    recipe = cache["f16.avi"].recipe.id
    assert open_cache(packed, recipe=recipe[:6]).names() == ["f16.avi"]
    with pytest.raises(EntryNotFound, match="no video"):
        open_cache(packed, recipe=recipe)["i16.avi"]
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy["one.avi"].flow[:], cache["one.avi"].flow[:])
    entry = pickle.loads(pickle.dumps(cache["f16.avi"]))
    np.testing.assert_array_equal(entry.flow[1:3], cache["f16.avi"].flow[1:3])


READ = """
import json, sys
import h5py, hdf5plugin, numpy as np
found = {}
with h5py.File(sys.argv[1]) as file:
    headers = file["headers"][:].tobytes()
    for row in file["entries"][:]:
        start, size = int(row["header_start"]), int(row["header_bytes"])
        name = json.loads(headers[start : start + size])["source_sha256"]
        form, first = file["flow"][str(row["form"])], int(row["form_start"])
        codes = form[first : first + int(row["num_frames"]) - 1].astype(np.float32)
        if form.attrs["code_step_px"]:
            codes = (codes - form.attrs["code_zero"]) * np.float32(form.attrs["code_step_px"])
        height, width = form.attrs["height"], form.attrs["width"]
        found[name] = codes.reshape(-1, 2, height, width).transpose(0, 2, 3, 1)
np.savez(sys.argv[2], **found)
"""


def test_hdf5_alone_reads_a_pack(packed, tmp_path):
    """In a process of its own: with hdf5plugin loaded, HDF5 writes other bytes into headers."""
    subprocess.run([sys.executable, "-P", "-c", READ, packed, tmp_path / "x.npz"], check=True)
    cache = open_cache(packed)
    with np.load(tmp_path / "x.npz") as read:
        for name in cache:
            np.testing.assert_allclose(read[cache[name].digest], cache[name].flow[:], atol=1e-6)


def test_unpacked_entries_have_the_bytes_of_the_packed_ones(directory, packed, tmp_path):
    done = unpack(packed, tmp_path / "again")
    assert (done.entries, done.flows) == (6, 19)
    files = {p.relative_to(directory): p for p in directory.glob("*/*/*.h5")}
    again = {p.relative_to(tmp_path / "again"): p for p in (tmp_path / "again").glob("*/*/*.h5")}
    assert files.keys() == again.keys()
    for name, file in files.items():
        assert again[name].read_bytes() == file.read_bytes(), name
    assert open_cache(tmp_path / "again").rows() == open_cache(directory).rows()
    assert read_failures(tmp_path / "again") == read_failures(directory)
    # A second time nothing is written twice.
    before = sorted((tmp_path / "again").rglob("*"))
    assert unpack(packed, tmp_path / "again").entries == 6
    assert sorted((tmp_path / "again").rglob("*")) == before


@pytest.mark.parametrize("part", ["rows", "row_text", "headers", "entries", "chunks", "flow"])
def test_flipped_bits_of_a_pack_are_never_read_silently(directory, packed, tmp_path, part):
    whole = packed.read_bytes()
    with h5py.File(packed) as file:
        if part == "flow":
            info = file["flow/0"].id.get_chunk_info(1)
            start, size = info.byte_offset, info.size
        else:
            start, size = file[part].id.get_offset(), file[part].nbytes
    wanted = {name: open_cache(directory)[name].flow[:] for name in open_cache(directory)}
    path = tmp_path / "c.h5"
    rng = np.random.default_rng(5)
    found = 0
    for place in rng.integers(start, start + size, 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            cache = open_cache(path)
            for name in cache.names():
                np.testing.assert_array_equal(cache[name].flow[:], wanted[name])
        except (EntryCorrupt, EntryNotFound) as error:
            found += str(path) in str(error)
    # What is told to HDF5 users alone (form, form_start) is not read by flowpipe.
    assert found == 12 or part == "entries"


def changed(packed, path, table, change):
    """Copy a pack with the bytes of one table changed."""
    text = bytearray(packed.read_bytes())
    with h5py.File(packed) as file:
        start, size = file[table].id.get_offset(), file[table].nbytes
    text[start : start + size] = change(bytes(text[start : start + size]))
    path.write_bytes(text)


def test_rows_of_a_recipe_that_is_not_there_are_refused(packed, tmp_path):
    path = tmp_path / "c.h5"
    changed(packed, path, "recipes", lambda text: text.replace(b'":20.0', b'":21.0'))
    with pytest.raises(EntryCorrupt, match="recipe that is not there"):
        open_cache(path).names()


@pytest.mark.parametrize(
    ("table", "field", "value"), [("entries", "rgb_start", -9), ("chunks", "offset", 2**63 - 2)]
)
def test_places_outside_of_a_pack_are_refused(packed, tmp_path, table, field, value):
    def move(text):
        rows = np.frombuffer(text, schema.PACK_TABLES[table][0]).copy()
        rows[field] = value
        return rows.tobytes()

    path = tmp_path / "c.h5"
    changed(packed, path, table, move)
    cache = open_cache(path)
    with pytest.raises(EntryCorrupt, match=r"c\.h5"):
        cache["fast/u8.avi"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_pack_is_refused(packed, tmp_path, share):
    path = tmp_path / "c.h5"
    path.write_bytes(packed.read_bytes()[: int(share * packed.stat().st_size)])
    with pytest.raises((EntryCorrupt, CacheNotFound), match=r"c\.h5"):
        open_cache(path)


def change(path: Path, name: str, **attributes) -> None:
    with h5py.File(path, "r+") as file:
        for key, value in attributes.items():
            file.attrs[key] = value
        if name == "gone":
            del file["rows"]
        if name == "soft":
            del file["rows"]
            file["rows"] = h5py.SoftLink("/entries")
        if name == "outside":
            del file["rows"]
            file["rows"] = h5py.ExternalLink("other.h5", "/entries")
        if name == "type":
            del file["rows"]
            file["rows"] = np.zeros(3)


@pytest.mark.parametrize(
    ("name", "attributes", "match"),
    [
        ("", {"format_version": 99}, "has pack format 99; this flowpipe reads up to 3"),
        ("", {"format": "x"}, "but no packed cache"),
        ("gone", {}, 'table "rows" is missing'),
        ("soft", {}, 'table "rows" is missing'),
        ("outside", {}, 'table "rows" is missing'),
        ("type", {}, 'table "rows" is of'),
    ],
)
def test_other_files_are_no_packs(packed, tmp_path, name, attributes, match):
    path = tmp_path / "c.h5"
    path.write_bytes(packed.read_bytes())
    change(path, name, **attributes)
    with pytest.raises((EntryCorrupt, NewerFormat), match=match):
        open_cache(path)


def test_a_damaged_or_missing_entry_is_not_packed_unseen(tmp_path, write_entry, smooth_flow):
    cache = tmp_path / "c"
    paths = [
        write_entry(cache, smooth_flow(3, 8, 8, i), name=f"{i}.avi", digest=f"{i:064x}")
        for i in range(3)
    ]
    paths[0].unlink()
    assert pack(cache, tmp_path / "c.h5").missing == ("0.avi",)
    assert open_cache(tmp_path / "c.h5").names() == ["1.avi", "2.avi"]
    content = bytearray(paths[1].read_bytes())
    content[int(open_cache(cache)["1.avi"].flow.chunks[1, 0]) + 9] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(EntryCorrupt, match=r"1\.avi.*flow 1: its bytes are not what was"):
        pack(cache, tmp_path / "d.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.h5"]


def test_misuse(directory, packed, tmp_path):
    with pytest.raises(InvalidArgument, match="is a pack already"):
        pack(packed, tmp_path / "x.h5")
    with pytest.raises(InvalidArgument, match=r"must be called \*\.h5"):
        pack(directory, tmp_path / "x.zip")
    with pytest.raises(InvalidArgument, match="exists; give another name, or overwrite it"):
        pack(directory, packed)
    with pytest.raises(InvalidArgument, match="is a directory already"):
        unpack(directory, tmp_path / "x")
    with pytest.raises(InvalidArgument, match="is a file; a cache is a directory"):
        unpack(packed, packed)
    with pytest.raises(CacheNotFound, match="no cache at"):
        pack(tmp_path / "none", tmp_path / "x.h5")
    (tmp_path / "empty").mkdir()
    recipe = next(directory.glob("*/recipe.json"))
    (tmp_path / "empty" / recipe.parent.name).mkdir()
    (tmp_path / "empty" / recipe.parent.name / "recipe.json").write_bytes(recipe.read_bytes())
    with pytest.raises(CacheError, match="there is nothing to pack"):
        pack(tmp_path / "empty", tmp_path / "x.h5")


def test_format_tells_the_tables_of_a_pack():
    text = (Path(schema.__file__).with_name("FORMAT.md")).read_text("utf-8")
    assert schema.pack_table() in text


def command(*words):
    done = run_cli("cache", *words)
    return done.status, done.out, done.err


def test_commands_take_a_packed_file(directory, packed, tmp_path):
    out = tmp_path / "x.h5"
    status, told, _ = command("pack", directory, "--out", out, "--json")
    assert status == 0
    assert json.loads(told)["entries"] == 6
    assert out.read_bytes() == packed.read_bytes()
    status, told, _ = command("ls", packed, "--json")
    listed = {record["name"]: record for record in json.loads(told)["videos"]}
    assert status == 0
    assert sorted(listed) == open_cache(directory).names()
    assert (listed["i16.avi"]["frames"], listed["one.avi"]["partial"]) == (5, "one frame")
    status, told, _ = command("info", packed, "i16.avi", "--json")
    assert json.loads(told)["entry"]["bytes"] == open_cache(packed)["i16.avi"].num_bytes
    status, _, told = command("verify", packed, "--deep")
    assert (status, "6 entries checked (every byte), 0 wrong" in told) == (0, True)
    status, _, _ = command("export", packed, "i16.avi", "--format", "npy", "--out", tmp_path / "e")
    assert status == 0
    uv = np.load(tmp_path / "e" / "i16" / "flow.npy")
    np.testing.assert_array_equal(uv, open_cache(directory)["i16.avi"].flow[:])
    status, told, _ = command("unpack", packed, "--out", tmp_path / "again")
    assert (status, "6 entries, 19 flows" in told) == (0, True)


def test_verify_names_what_is_wrong_in_a_pack(packed, tmp_path):
    path = tmp_path / "c.h5"
    content = bytearray(packed.read_bytes())
    content[int(open_cache(packed)["i16.avi"].flow.chunks[2, 0]) + 5] ^= 8
    path.write_bytes(content)
    assert command("verify", path)[0] == 0
    status, told, _ = command("verify", path, "--deep", "--json")
    assert status == 1
    wrong = json.loads(told)["wrong"]
    assert [finding["name"] for finding in wrong] == ["i16.avi", ""]
    assert "flow 2: its bytes are not what was written; pack the cache again" in wrong[0]["problem"]
    assert "the file is not what was written" in wrong[1]["problem"]
    path.write_bytes(packed.read_bytes()[:-1])
    assert command("verify", path, "--deep")[0] == 1
