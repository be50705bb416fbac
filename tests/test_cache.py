"""The cache: what is written is what is read, and what is damaged is noticed."""

import errno
import multiprocessing
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowpipe.cache as cache_package
from flowpipe.cache import Entry, Recipe, entry_path, open_cache, schema, write_recipe
from flowpipe.cache.manifest import ManifestRow, ManifestWriter, read_manifest
from flowpipe.cache.verify import verify, verify_entry
from flowpipe.cache.write import EntryWriter, check_codec, remove_abandoned
from flowpipe.errors import (
    CacheNotFound,
    EntryCorrupt,
    EntryNotFound,
    InvalidArgument,
)
from flowpipe.flow.quantise import Quantiser

DIGEST = "ab" * 32
FORMS = [
    (Quantiser("u8", bound_px=20.0), "jpegls"),
    (Quantiser("u8", bound_px=20.0), "zstd"),
    (Quantiser("u8", bound_px=0.5), "jpegls"),
    (Quantiser("i16"), "jpegls"),
    (Quantiser("i16", tolerance_px=0.04), "jpegls"),
    (Quantiser("i16"), "zstd"),
    (Quantiser("f16"), "zstd"),
]
FORMAT_MD = Path(cache_package.__file__).with_name("FORMAT.md")


def recipe_of(quantiser: Quantiser, *, rgb: bool = False, **changes: Any) -> Recipe:
    return Recipe(
        **{
            "flow": "dis",
            "flow_version": 1,
            "flow_parameters": {"preset": "medium"},
            "libraries": {"opencv": "5.0.0"},
            "storage": quantiser.storage,
            "bound_px": quantiser.bound_px,
            "tolerance_px": quantiser.tolerance_px,
            "short_side": None,
            "size": None,
            "fps": None,
            "rgb": rgb,
            "rgb_quality": 90 if rgb else 0,
            "grey_rule": "luma-full-range-1",
            "resize_rule": "area-1",
            "fps_rule": "nearest-1",
            **changes,
        }
    )


def attributes_of(recipe: Recipe, name: str, digest: str) -> dict[str, Any]:
    return {
        "recipe": recipe.to_json(),
        "source_name": name,
        "source_sha256": digest,
        "source": '{"codec":"h264"}',
        "problem": "",
        "software": '{"flowpipe":"0"}',
    }


def write_entry(
    cache: Path,
    uv_THWC: np.ndarray,
    form: tuple[Quantiser, str] = FORMS[0],
    *,
    rgb_THWC: np.ndarray | None = None,
    name: str = "walk.avi",
    digest: str = DIGEST,
    label: str | None = None,
    **changes: Any,
) -> Path:
    """Write one entry with its recipe and its row; N times at 25 fps."""
    quantiser, codec = form
    recipe = recipe_of(quantiser, rgb=rgb_THWC is not None, **changes)
    path = entry_path(cache, recipe.id, digest)
    height, width = uv_THWC.shape[1:3]
    sizes = {"height": height, "width": width, "rgb_quality": recipe.rgb_quality}
    with EntryWriter(path, quantiser=quantiser, codec=codec, **sizes) as writer:
        for uv_HWC in uv_THWC:
            writer.add_flow(uv_HWC)
        for rgb_HWC in () if rgb_THWC is None else rgb_THWC:
            writer.add_rgb(rgb_HWC)
        writer.finish(np.arange(len(uv_THWC) + 1) / 25, attributes_of(recipe, name, digest))
    write_recipe(cache, recipe)
    row = ManifestRow(name, label, digest, recipe.id, f"/videos/{name}", 1, 1, 1.0)
    ManifestWriter(cache).add(row)
    return path


def smooth_flow(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two sine waves that travel: flow as it looks, but known."""
    rng = np.random.default_rng(seed)
    t, y, x, c = np.ogrid[:count, :height, :width, :2]
    phase = rng.uniform(0, 6)
    return (3 * np.sin(x / 7 + t / 3 + phase + c) + 2 * np.cos(y / 5 - t)).astype(np.float32)


def largest_error(quantiser: Quantiser, uv: np.ndarray) -> np.ndarray:
    """The bound of a form's error, from its definition."""
    if quantiser.storage == "u8":
        return np.full(uv.shape, quantiser.bound_px / 254 + 1e-5)
    if quantiser.storage == "i16":
        return np.full(uv.shape, max(1 / 128, quantiser.tolerance_px) + 1e-6)
    return np.maximum(np.abs(uv) * 2.0**-11, 2.0**-24)


def draw_field(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.uniform(-30, 30, shape).astype(np.float32)
    if kind == "constant":
        return np.full(shape, rng.normal() * 5, np.float32)
    if kind == "zero":
        return np.zeros(shape, np.float32)
    if kind == "extreme":
        return rng.choice(np.float32([-500, -20, 0, 1e-6, 20, 500]), shape)
    return smooth_flow(*shape[:3], seed=seed)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].storage}-{form[1]}")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["noise", "constant", "zero", "extreme", "flow"]),
    count=st.integers(0, 3),
    height=st.integers(1, 33),
    width=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_round_trip_within_error(tmp_path_factory, form, kind, count, height, width, seed):
    quantiser, _ = form
    uv = draw_field(kind, (count, height, width, 2), seed)
    entry = Entry(write_entry(tmp_path_factory.mktemp("cache"), uv, form))
    read = entry.flow[:]
    assert read.shape == uv.shape == entry.flow.shape
    assert read.dtype == np.float32
    kept = np.clip(uv, -quantiser.largest_px, quantiser.largest_px)
    assert (np.abs(read - kept) <= largest_error(quantiser, kept)).all()
    if not quantiser.near:
        codes = entry.flow.codes(range(count))
        np.testing.assert_array_equal(codes, quantiser.encode(uv.transpose(0, 3, 1, 2)))
        assert codes.dtype == quantiser.dtype
    assert entry.pts_s.tolist() == (np.arange(count + 1) / 25).tolist()
    assert (entry.num_frames, entry.height, entry.width) == (count + 1, height, width)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].storage}-{form[1]}")
def test_statistics_are_those_of_the_flow(tmp_path, form):
    quantiser, _ = form
    uv = np.zeros((2, 4, 5, 2), np.float32)
    uv[0, 0, 0] = 30, 0
    uv[1, 1] = 3, 4
    told = Entry(write_entry(tmp_path, uv, form)).attributes
    beyond = np.count_nonzero(np.abs(uv) > quantiser.largest_px)
    assert told["clipped_share"] == pytest.approx(beyond / uv.size)
    assert told["zero_share"] == pytest.approx(34 / 40)
    assert told["mean_magnitude_px"] == pytest.approx((30 + 5 * 5) / 40)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].storage}-{form[1]}")
def test_format_md_example_reads_the_same(tmp_path, form):
    (block,) = re.findall(r"```python\n(.*?)```", FORMAT_MD.read_text("utf-8"), re.DOTALL)
    uv = np.concatenate([smooth_flow(2, 9, 14), draw_field("noise", (1, 9, 14, 2), 3)])
    path = write_entry(tmp_path, uv, form)
    script, out = tmp_path / "read.py", tmp_path / "uv.npy"
    script.write_text(block, encoding="utf-8")
    subprocess.run([sys.executable, "-P", script, path, out], check=True)
    np.testing.assert_allclose(np.load(out), Entry(path).flow[:], rtol=0, atol=1e-5)


def test_format_md_has_the_tables_of_the_schema():
    text = FORMAT_MD.read_text("utf-8")
    assert schema.datasets_table() in text
    assert schema.attributes_table() in text
    assert f"Format version {schema.FORMAT_VERSION}" in text
    assert f"{schema.TRAILER_BYTES} bytes" in text


def test_rgb_goes_with_its_frame(tmp_path):
    rgb = np.zeros((4, 16, 24, 3), np.uint8)
    rgb[..., 0] = np.arange(4)[:, None, None] * 60
    rgb[..., 2] = 200
    path = write_entry(tmp_path, np.zeros((3, 16, 24, 2), np.float32), rgb_THWC=rgb)
    entry = Entry(path)
    assert entry.has_rgb
    assert np.abs(entry.rgb[:].astype(int) - rgb).max() <= 4
    np.testing.assert_array_equal(entry.rgb[[3, -4]], entry.rgb[:][[3, 0]])
    assert entry.rgb[2].shape == (16, 24, 3)


def test_no_rgb_says_so(tmp_path):
    entry = Entry(write_entry(tmp_path, smooth_flow(2, 8, 8)))
    assert not entry.has_rgb
    with pytest.raises(EntryNotFound, match="holds no RGB frames; extract again with --rgb"):
        entry.rgb  # noqa: B018


@pytest.fixture
def entry(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 12, 17, 3), np.uint8)
    return Entry(write_entry(tmp_path / "cache", smooth_flow(7, 12, 17), rgb_THWC=rgb))


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        np.int64(3),
        slice(None),
        slice(2, 5),
        slice(None, None, 3),
        slice(5, 1, -2),
        slice(4, 4),
        slice(5, 100),
        [3, 3, 0, -1, 4],
        [],
        (1, 2),
        np.array([6, 5, 4]),
    ],
    ids=str,
)
def test_index_is_that_of_an_array(entry, index):
    everything = entry.flow[:]
    wanted = list(index) if isinstance(index, tuple) else index
    wanted = np.array(wanted, int) if isinstance(wanted, list) else wanted
    np.testing.assert_array_equal(entry.flow[index], everything[wanted])


@pytest.mark.parametrize("index", [7, -8, [0, 7], [-8]], ids=str)
def test_index_out_of_range(entry, index):
    with pytest.raises(IndexError, match=r'index (7|-8) is outside the 7 of "walk.avi"'):
        entry.flow[index]


@pytest.mark.parametrize("index", [1.5, "2", [[1]], [True, False]], ids=str)
def test_index_of_another_kind(entry, index):
    with pytest.raises(InvalidArgument, match="must be a whole number, a slice or a list"):
        entry.flow[index]


def test_iteration_ends(entry):
    fields = list(entry.flow)
    assert len(fields) == len(entry.flow) == 7
    np.testing.assert_array_equal(np.stack(fields), entry.flow[:])


def test_pickle_and_close(entry):
    before = entry.flow[2]
    copy = pickle.loads(pickle.dumps(entry))
    entry.close()
    np.testing.assert_array_equal(copy.flow[2], before)
    np.testing.assert_array_equal(entry.flow[2], before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copy.rgb))[1], entry.rgb[1])


def _read_often(entry: Entry, expected: np.ndarray) -> None:
    for turn in range(60):
        row = turn * 5 % len(expected)
        if not np.array_equal(entry.flow[row], expected[row]):
            raise SystemExit(3)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_reads_beside_its_parent(entry):
    expected = entry.flow[:]  # the descriptor is open when the children are made
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_read_often, args=(entry, expected)) for _ in range(3)]
    for child in children:
        child.start()
    _read_often(entry, expected)
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    _read_often(entry, expected)


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_writer_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        sizes = {"height": 8, "width": 8, "rgb_quality": 90}
        with EntryWriter(
            tmp_path / "ab" / "x.h5", quantiser=FORMS[0][0], codec="zstd", **sizes
        ) as w:
            w.add_flow(np.zeros((8, 8, 2), np.float32))
            w.add_rgb(np.zeros((8, 8, 3), np.uint8))
            assert left_in(tmp_path)
            raise RuntimeError("the decoder gave up")

    with pytest.raises(RuntimeError, match="the decoder gave up"):
        fail()
    assert left_in(tmp_path) == []


def test_writer_refuses_counts_that_do_not_fit(tmp_path):
    recipe = recipe_of(FORMS[0][0])

    def fail() -> None:
        with EntryWriter(
            tmp_path / "x.h5", quantiser=FORMS[0][0], codec="zstd", height=8, width=8
        ) as w:
            w.add_flow(np.zeros((8, 8, 2), np.float32))
            w.finish(np.zeros(3), attributes_of(recipe, "x", DIGEST))

    with pytest.raises(InvalidArgument, match=r"1 fields and 0 RGB frames do not go with 3 times"):
        fail()
    assert left_in(tmp_path) == []


KILLED = """
import os, sys, numpy as np
from pathlib import Path
from flowpipe.cache.write import EntryWriter
from flowpipe.flow.quantise import Quantiser
writer = EntryWriter(Path(sys.argv[1]), quantiser=Quantiser("u8", bound_px=20.0), codec="zstd",
                     height=8, width=8)
with writer:
    writer.add_flow(np.zeros((8, 8, 2), np.float32))
    os.kill(os.getpid(), 9)
"""


def test_killed_writer_leaves_only_what_can_be_removed(tmp_path):
    path = tmp_path / "ab" / "x.h5"
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    (part,) = left_in(tmp_path)
    assert part.endswith(".part")
    with EntryWriter(
        path.with_name("y.h5"), quantiser=FORMS[0][0], codec="zstd", height=8, width=8
    ):
        remove_abandoned(tmp_path)
        assert [name for name in left_in(tmp_path) if name == part] == []
        assert len(left_in(tmp_path)) == 1  # that of the writer which lives


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        if self._file.tell() + len(memoryview(data).cast("B")) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, 0.5, 0.95, -1, -48])
def test_cut_file_is_noticed(tmp_path, kept):
    path = write_entry(tmp_path, smooth_flow(6, 20, 20))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if 0 < kept < 1 else kept])
    (finding,) = verify(tmp_path, deep=True)
    assert str(path) in finding.problem


def test_verify_finds_the_one(tmp_path):
    paths = [
        write_entry(tmp_path, smooth_flow(3, 8, 8, seed), digest=f"{seed:064x}", name=f"{seed}.avi")
        for seed in range(4)
    ]
    assert [finding.problem for finding in verify(tmp_path, deep=True)] == [""] * 4
    offset = int(Entry(paths[2]).flow._chunks[1, 0])
    data = bytearray(paths[2].read_bytes())
    data[offset + 9] ^= 64
    paths[2].write_bytes(data)
    assert [bool(f.problem) for f in verify(tmp_path)] == [False] * 4  # headers are well
    deep = {finding.path: finding.problem for finding in verify(tmp_path, deep=True)}
    assert [bool(deep[path]) for path in paths] == [False, False, True, False]
    assert "bytes of flow 1 are not what was written; delete the file" in deep[paths[2]]


def test_entry_in_the_wrong_place_is_noticed(tmp_path):
    path = write_entry(tmp_path, smooth_flow(3, 8, 8))
    moved = path.replace(path.with_name("cd" * 32 + ".h5"))
    assert "not the digest of its video" in verify_entry(moved).problem


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


def test_later_format_is_refused(tmp_path):
    import h5py

    path = write_entry(tmp_path, smooth_flow(2, 8, 8))
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(EntryCorrupt, match="has format 99; this flowpipe reads 1"):
        Entry(path)


@pytest.mark.parametrize(
    ("form", "match"),
    [
        ((FORMS[0][0], "gzip"), 'codec "gzip" must be one of jpegls, zstd'),
        ((FORMS[6][0], "jpegls"), "storage f16 cannot be JPEG-LS"),
        ((FORMS[4][0], "zstd"), r"tolerance 0\.04 px needs codec jpegls"),
    ],
)
def test_forms_that_make_no_sense(form, match):
    with pytest.raises(InvalidArgument, match=match):
        check_codec(*form)


def names_cache(root: Path) -> Path:
    uv = smooth_flow(2, 8, 8)
    for number, name in enumerate(["run/a.avi", "walk/a.avi", "walk/b_1.avi", "c.mp4"]):
        label = name.split("/")[0] if "/" in name else None
        write_entry(root, uv, name=name, digest=f"{number:064x}", label=label)
    return root


def test_names(tmp_path):
    cache = open_cache(names_cache(tmp_path))
    assert cache.names() == list(cache) == ["c.mp4", "run/a.avi", "walk/a.avi", "walk/b_1.avi"]
    assert cache.labels["walk/a.avi"] == "walk"
    assert cache.labels["c.mp4"] is None
    for short in ("walk/b_1.avi", "b_1.avi", "b_1"):
        assert cache[short].name == "walk/b_1.avi"
        assert short in cache
    assert [entry.name for entry in cache.entries()] == cache.names()
    with pytest.raises(EntryNotFound, match=r'"a" is the name of 2 videos: run/a.avi, walk/a.avi'):
        cache["a"]
    with pytest.raises(EntryNotFound, match=r'no video "walk/b_2.avi".*mean "walk/b_1.avi"'):
        cache["walk/b_2.avi"]


def test_no_cache(tmp_path):
    with pytest.raises(CacheNotFound, match=r"no cache at .*; flowpipe extract makes one"):
        open_cache(tmp_path / "none")
    with pytest.raises(CacheNotFound, match="is a directory but no cache"):
        open_cache(tmp_path)


def test_two_recipes_of_one_name(tmp_path):
    uv = smooth_flow(2, 8, 8)
    first = write_entry(tmp_path, uv)
    second = write_entry(tmp_path, uv, short_side=8)
    cache = open_cache(tmp_path)
    assert len(cache.recipes) == 2
    assert len(cache) == 1
    with pytest.raises(EntryNotFound, match=r"stands for 2 entries.*short side 8.*recipe=\.\.\."):
        cache["walk.avi"]
    for path in (first, second):
        identity = path.parent.parent.name
        assert open_cache(tmp_path, recipe=identity[:6])["walk"].path == path
    with pytest.raises(EntryNotFound, match='recipe "" is the start of 2'):
        open_cache(tmp_path, recipe="")


def test_manifest_with_a_torn_line(tmp_path):
    names_cache(tmp_path)
    file = sorted((tmp_path / "manifest").glob("*.jsonl"))[0]
    line = file.read_bytes()
    file.write_bytes(line + line[: len(line) // 2])
    assert len(read_manifest(tmp_path)) == 4
    file.write_bytes(line + b'[1]\n{"name": "x"}\n\xff\xfe\n' + line)
    assert len(open_cache(tmp_path)) == 4


def test_cache_pickles(tmp_path):
    cache = open_cache(names_cache(tmp_path))
    before = cache["c.mp4"].flow[0]
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy["c.mp4"].flow[0], before)


@pytest.mark.parametrize(
    "change",
    [
        {"flow": "tvl1"},
        {"flow_version": 2},
        {"flow_parameters": {"preset": "fast"}},
        {"libraries": {"opencv": "4.12"}},
        {"short_side": 256},
        {"fps": 5.0},
        {"rgb": True},
        {"rgb_quality": 80},
        {"grey_rule": "other"},
        {"resize_rule": "other"},
        {"fps_rule": "other"},
        {"device": "cuda"},
        {"bound_px": 15.0},
    ],
    ids=str,
)
def test_whatever_changes_values_changes_the_id(change):
    quantiser = Quantiser("u8", bound_px=20.0)
    assert recipe_of(quantiser, **change).id != recipe_of(quantiser).id


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "not a recipe"), ("[]", "not a recipe"), ('{"flow": "dis"}', "not a recipe")],
)
def test_what_is_no_recipe(text, match):
    with pytest.raises(EntryCorrupt, match=match):
        Recipe.from_json(text)


def test_recipe_of_a_later_version():
    later = recipe_of(FORMS[0][0], version=2).to_json()
    with pytest.raises(EntryCorrupt, match="recipe of version 2; this flowpipe reads 1"):
        Recipe.from_json(later)
