"""Entries and caches as they are read: fields, frames, names, recipes, manifests."""

import json
import multiprocessing
import pickle
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowpipe.cache as cache_package
from flowpipe.cache import Entry, FlowRecipe, open_cache, schema
from flowpipe.cache.hdf import read_attributes
from flowpipe.cache.manifest import read_manifest
from flowpipe.errors import CacheNotFound, EntryCorrupt, EntryNotFound, InvalidArgument
from flowpipe.flow.quantise import Quantiser

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
    if kind == "extreme":
        return rng.choice(np.float32([-500, -20, 0, 1e-6, 20, 500]), shape)
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].storage}-{form[1]}")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["noise", "constant", "zero", "extreme", "flow"]),
    count=st.integers(0, 3),
    height=st.integers(1, 33),
    width=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_round_trip_within_error(
    tmp_path_factory, write_entry, smooth_flow, form, kind, count, height, width, seed
):
    quantiser, _ = form
    shape = count, height, width
    uv = smooth_flow(*shape, seed) if kind == "flow" else draw_field(kind, (*shape, 2), seed)
    entry = Entry(write_entry(tmp_path_factory.mktemp("cache"), uv, *form))
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
def test_statistics_are_those_of_the_flow(tmp_path, form, write_entry):
    quantiser, _ = form
    uv = np.zeros((2, 4, 5, 2), np.float32)
    uv[0, 0, 0] = 30, 0
    uv[1, 1] = 3, 4
    uv[1, 2] = 1e-9, -1e-9  # zero when stored
    told = Entry(write_entry(tmp_path, uv, *form)).attributes
    beyond = np.count_nonzero(np.abs(uv) > quantiser.largest_px)
    assert told["clipped_share"] == pytest.approx(beyond / uv.size)
    assert told["zero_share"] == pytest.approx(34 / 40)
    assert told["mean_magnitude_px"] == pytest.approx((30 + 5 * 5) / 40)


def test_format_md_example_reads_the_same(tmp_path, write_entry, smooth_flow):
    (block,) = re.findall(r"```python\n(.*?)```", FORMAT_MD.read_text("utf-8"), re.DOTALL)
    (tmp_path / "read.py").write_text(block, encoding="utf-8")
    entries = []
    for height, width in ((9, 14), (20, 31)):
        for number, form in enumerate(FORMS):
            noise = draw_field("noise", (1, height, width, 2), 3)
            uv = np.concatenate([smooth_flow(2, height, width), noise])
            digest = f"{height:02}{number:062}"
            entries.append(write_entry(tmp_path / "c", uv, *form, name=digest, digest=digest))
    # All by one interpreter, which has not imported flowpipe.
    run_all = (
        "import runpy, sys\n"
        "script, *entries = sys.argv[1:]\n"
        "for entry in entries:\n"
        "    sys.argv = [script, entry, entry + '.npy']\n"
        "    runpy.run_path(script, run_name='__main__')\n"
        "assert 'flowpipe' not in sys.modules\n"
    )
    command = [sys.executable, "-P", "-c", run_all, tmp_path / "read.py", *entries]
    subprocess.run(command, check=True)
    assert len(entries) == 2 * len(FORMS)
    for entry in entries:
        read = np.load(f"{entry}.npy")
        np.testing.assert_allclose(read, Entry(entry).flow[:], rtol=0, atol=1e-5)


def test_format_md_has_the_tables_of_the_schema():
    text = FORMAT_MD.read_text("utf-8")
    assert schema.datasets_table() in text
    assert schema.attributes_table() in text
    assert f"Format version {schema.FORMAT_VERSION}" in text
    assert f"{schema.TRAILER_BYTES} bytes" in text


def test_rgb_goes_with_its_frame(tmp_path, write_entry):
    rgb = np.zeros((4, 16, 24, 3), np.uint8)
    rgb[..., 0] = np.arange(4)[:, None, None] * 60
    rgb[..., 2] = 200
    path = write_entry(tmp_path, np.zeros((3, 16, 24, 2), np.float32), rgb_THWC=rgb)
    entry = Entry(path)
    assert entry.has_rgb
    assert np.abs(entry.rgb[:].astype(int) - rgb).max() <= 4
    np.testing.assert_array_equal(entry.rgb[[3, -4]], entry.rgb[:][[3, 0]])
    assert entry.rgb[2].shape == (16, 24, 3)


@pytest.mark.parametrize("name", ["Käse 猫.avi", "latin\udce9.avi", "a" * 4000])
def test_texts_are_those_written(tmp_path, write_entry, smooth_flow, name):
    path = write_entry(tmp_path, smooth_flow(2, 8, 8), name=name, problem="")
    told = Entry(path).attributes
    assert (told["source_name"], told["problem"], told["format"]) == (name, "", schema.FORMAT)
    assert {key: type(value) for key, value in told.items()} == {
        key: {"text": str, "integer": int, "float": float}[kind]
        for key, (kind, _) in schema.ATTRIBUTES.items()
    }


def test_texts_of_variable_length_are_read(tmp_path, write_entry, smooth_flow):
    path = write_entry(tmp_path, smooth_flow(2, 8, 8))
    before = Entry(path).attributes
    with h5py.File(path, "r+") as file:
        for name in [name for name, value in before.items() if isinstance(value, str)]:
            file.attrs[name] = before[name]
            assert h5py.check_string_dtype(file.attrs.get_id(name).dtype).length is None
    assert Entry(path).attributes == before


def test_no_rgb_says_so(tmp_path, write_entry, smooth_flow):
    entry = Entry(write_entry(tmp_path, smooth_flow(2, 8, 8)))
    assert not entry.has_rgb
    with pytest.raises(EntryNotFound, match="holds no RGB frames, only flow; extract again"):
        entry.rgb  # noqa: B018


@pytest.fixture
def entry(tmp_path, write_entry, smooth_flow):
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


def test_codes_take_rows_in_range_only(entry):
    np.testing.assert_array_equal(entry.flow.codes([-1, 0]), entry.flow.codes([6, 0]))
    with pytest.raises(IndexError, match="index 7 is outside the 7"):
        entry.flow.codes([7])


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


@pytest.fixture
def names_cache(tmp_path, write_entry, smooth_flow):
    uv = smooth_flow(2, 8, 8)
    for number, name in enumerate(["run/a.avi", "walk/a.avi", "walk/b_1.avi", "c.mp4"]):
        label = name.split("/")[0] if "/" in name else None
        write_entry(tmp_path, uv, name=name, digest=f"{number:064x}", label=label)
    return tmp_path


def test_names(names_cache):
    cache = open_cache(names_cache)
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


def test_two_recipes_of_one_name(tmp_path, write_entry, smooth_flow):
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


def test_one_name_of_two_contents(tmp_path, write_entry, smooth_flow):
    uv = smooth_flow(2, 8, 8)
    write_entry(tmp_path, uv, time=2.0)
    later = write_entry(tmp_path, uv, digest="cd" * 32, time=3.0, label="after")
    write_entry(tmp_path, uv, digest="ef" * 32, time=1.0)  # another machine's, read last
    # Same name and path: the video was replaced, and the latest line stands.
    cache = open_cache(tmp_path)
    assert cache["walk.avi"].path == later
    assert cache.labels == {"walk.avi": "after"}
    assert len(read_manifest(tmp_path)) == 1
    # Another path of that name is another video: which one is meant cannot be known.
    write_entry(tmp_path, uv, digest="01" * 32, path="/elsewhere/walk.avi")
    with pytest.raises(EntryNotFound, match=r"stands for 2 entries.*/videos/.*give each source"):
        open_cache(tmp_path)["walk.avi"]


def test_latest_label_stands(tmp_path, write_entry, smooth_flow):
    uv = smooth_flow(2, 8, 8)
    for time, path, label in [(1, "/a/x", "old"), (2, "/b/x", "old"), (3, "/a/x", "new")]:
        write_entry(tmp_path, uv, path=path, label=label, time=float(time))
    assert open_cache(tmp_path).labels == {"walk.avi": "new"}
    assert [row.time for row in read_manifest(tmp_path)] == [2.0, 3.0]


def test_manifest_with_a_torn_line(names_cache, tmp_path):
    file = sorted((tmp_path / "manifest").glob("*.jsonl"))[0]
    line = file.read_bytes()
    file.write_bytes(line + line[: len(line) // 2])
    assert len(read_manifest(tmp_path)) == 4
    file.write_bytes(line + b'[1]\n{"name": "x"}\n\xff\xfe\n' + line)
    assert len(open_cache(tmp_path)) == 4


def test_cache_pickles(names_cache):
    cache = open_cache(names_cache)
    before = cache["c.mp4"].flow[0]
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy["c.mp4"].flow[0], before)


def test_recipe_id_is_stable(recipe_of):
    recipe = recipe_of(Quantiser("u8", bound_px=20.0), size=(256, 340), fps=25.0)
    assert recipe.id == "e5f727eafe7d531c"
    again = FlowRecipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.id == recipe.id
    assert list(json.loads(recipe.to_json())) == sorted(json.loads(recipe.to_json()))


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
def test_whatever_changes_values_changes_the_id(change, recipe_of):
    quantiser = Quantiser("u8", bound_px=20.0)
    assert recipe_of(quantiser, **change).id != recipe_of(quantiser).id


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "not a recipe"), ("[]", "not a recipe"), ('{"flow": "dis"}', "not a recipe")],
)
def test_what_is_no_recipe(text, match):
    with pytest.raises(EntryCorrupt, match=match):
        FlowRecipe.from_json(text)


def test_attributes_are_read_as_h5py_reads_them(tmp_path):
    wanted = {
        "text": np.bytes_("as we write it é".encode()),
        "number": np.int64(-5),
        "share": np.float64(0.25),
        "variable": "as older files have it",
        "flag": np.bool_(True),
        "row": np.arange(3),
        "one in a row": np.array([7]),
        "nothing": h5py.Empty("f4"),
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in wanted.items():
            file.attrs[name] = value
        found = read_attributes(file)
    assert found["text"] == "as we write it é"
    assert (found["number"], found["share"], found["flag"]) == (-5, 0.25, True)
    assert found["variable"] == wanted["variable"]
    assert found["row"].tolist() == [0, 1, 2]
    assert found["nothing"] == wanted["nothing"]
    assert np.array(found["one in a row"]).ravel().tolist() == [7]


def test_a_recipe_without_one_of_its_values(recipe_of):
    table = json.loads(recipe_of().to_json())
    for key in table:
        less = json.dumps({name: value for name, value in table.items() if name != key})
        with pytest.raises(EntryCorrupt, match="not a recipe"):
            FlowRecipe.from_json(less)


def test_recipe_of_a_later_version(recipe_of):
    later = recipe_of(FORMS[0][0], version=2).to_json()
    with pytest.raises(EntryCorrupt, match="recipe of version 2; this flowpipe reads 1"):
        FlowRecipe.from_json(later)
