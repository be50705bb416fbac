"""Feature entries as they are written and read, aligned, verified, exported and imported."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowpipe.cache as cache_package
from flowpipe.cache import Entry, FeatureRecipe, entry_path, open_cache, schema, write_recipe
from flowpipe.cache.manifest import ManifestRow, ManifestWriter
from flowpipe.cache.pack import pack, unpack
from flowpipe.cache.quality import quality
from flowpipe.cache.store import name_network
from flowpipe.cache.verify import verify, verify_entry
from flowpipe.cache.write import FeatureWriter
from flowpipe.errors import EntryCorrupt, EntryNotFound, InvalidArgument
from flowpipe.features.align import align, nearest_rows
from flowpipe.features.interchange import export_features, import_features

FORMAT_MD = Path(cache_package.__file__).with_name("FORMAT.md")


def recipe(**changes):
    fields = {
        "source": "ab" * 8,
        "input": "rgb",
        "network": "small-cnn",
        "network_parameters": {"width": 4},
        "weights_sha256": "cd" * 32,
        "layer": "input of fc",
        "spatial": False,
        "frames": 1,
        "stride": 1,
        "fps": None,
        "step": 1,
        "crop_size": (16, 16),
        "crop_scale": 0.875,
        "crops": "center",
        "values": "imagenet",
        "storage": "f32",
    }
    return FeatureRecipe(**(fields | changes))


def write(
    store, values, centre_s=None, *, name="walk.avi", network="rgb", digest="ab" * 32, **changes
):
    """One entry, its recipe, name and row; snippets of one frame at 25 per second."""
    made = recipe(**changes)
    count = len(values)
    centres = (np.arange(count) + 0.5) / 25 if centre_s is None else np.asarray(centre_s)
    target = entry_path(store, made.id, digest)
    with FeatureWriter(target, values.shape[1:], made.storage) as writer:
        for start in range(0, count, 7):
            writer.add(values[start : start + 7])
        writer.finish(
            centres,
            np.stack([centres - 0.02, centres + 0.02], 1),
            {
                "recipe": made.to_json(),
                "source_name": name,
                "source_sha256": digest,
                "source": "{}",
                "fps": 25.0,
                "offset_frames": float(centres[0] * 25),
                "step_frames": round(float(np.diff(centres)[0] * 25), 6) if count > 1 else 1.0,
                "snippet_frames": 1.0,
                "problem": "",
                "software": "{}",
            },
        )
    write_recipe(store, made)
    name_network(store, network, made)
    row = ManifestRow(name, "walk", digest, made.id, f"/videos/{name}", 1, 1, 1.0)
    ManifestWriter(store).add(row)
    return target


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 40),
    shape=st.sampled_from([(1,), (7,), (3000,), (5, 2, 3), (300, 7, 7)]),
    storage=st.sampled_from(["f16", "f32"]),
    seed=st.integers(0, 99),
)
def test_round_trip(tmp_path_factory, count, shape, storage, seed):
    folder = tmp_path_factory.mktemp("store")
    values = np.random.default_rng(seed).normal(0, 3, (count, *shape)).astype(np.float32)
    entry = Entry(write(folder, values, storage=storage))
    wanted = values.astype(np.float16).astype(np.float32) if storage == "f16" else values
    np.testing.assert_array_equal(entry.features[:], wanted)
    rows = np.random.default_rng(seed).integers(-count, count, 5)
    np.testing.assert_array_equal(entry.features[rows], wanted[rows])
    np.testing.assert_array_equal(entry.features[count - 1], wanted[-1])
    assert verify_entry(entry.path, deep=True).problem == ""


PLAIN_READER = """
import sys, h5py, hdf5plugin, numpy as np
with h5py.File(sys.argv[1], "r") as file:
    np.save(sys.argv[2], file["features"][:])
"""


def test_any_hdf5_reader_reads_them(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (50, 900)).astype(np.float32)
    values[:, ::2] = 0
    path = write(tmp_path, values)
    assert Entry(path).attributes["chunk_snippets"] < 50
    subprocess.run(
        [sys.executable, "-c", PLAIN_READER, path, tmp_path / "x.npy"], check=True, cwd=tmp_path
    )
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values)


def test_flipped_bits_are_never_read_silently(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (40, 600)).astype(np.float32)
    path = write(tmp_path, values)
    whole = path.read_bytes()
    trailer = len(whole) - schema.TRAILER_BYTES
    rng = np.random.default_rng(1)
    for place in range(3, trailer, trailer // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        assert verify_entry(path, deep=True).problem, place
        with pytest.raises(EntryCorrupt):
            Entry(path).features[:]
    path.write_bytes(whole[:-100])
    (finding,) = verify(tmp_path, deep=True)
    assert str(path) in finding.problem
    path.write_bytes(whole)
    assert [finding.problem for finding in verify(tmp_path, deep=True)] == [""]


def test_entry_in_the_folder_of_another_recipe_is_found(tmp_path):
    path = write(tmp_path, np.ones((3, 4), np.float32))
    write(tmp_path, np.ones((3, 4), np.float32), step=2)
    other = entry_path(tmp_path, recipe(step=2).id, "ab" * 32)
    other.write_bytes(path.read_bytes())
    problems = {finding.path: finding.problem for finding in verify(tmp_path)}
    assert problems[path] == ""
    assert "folder of another recipe" in problems[other]


def test_writer_refuses_what_does_not_fit_and_leaves_nothing(tmp_path):
    def with_times(count):
        with FeatureWriter(tmp_path / "a" / "x.h5", (4,), "f16") as writer:
            writer.add(np.zeros((3, 4)))
            writer.finish(np.zeros(count), np.zeros((count, 2)), {})

    with pytest.raises(InvalidArgument, match=r"3 snippets do not go with times of \(2,\)"):
        with_times(2)
    with (
        FeatureWriter(tmp_path / "a" / "x.h5", (4,), "f16") as writer,
        pytest.raises(InvalidArgument, match=r"features of \(5,\) must be \(4,\)"),
    ):
        writer.add(np.zeros((3, 5)))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_nearest_rows_take_the_later_of_two():
    centres = np.array([0.0, 1.0, 2.0])
    wanted = np.array([-5.0, 0.4, 0.5, 0.6, 1.5, 9.0])
    assert nearest_rows(centres, wanted).tolist() == [0, 0, 1, 1, 2, 2]


def test_align_leaves_out_what_a_network_has_not_seen(tmp_path):
    rgb = np.arange(10, dtype=np.float32)[:, None]
    write(tmp_path, rgb)
    # Flow stacks of five frames: the middles are those of frames 2 to 7.
    flow = np.arange(6, dtype=np.float32)[:, None] * 10
    write(tmp_path, flow, (np.arange(6) + 2.5) / 25, network="flow", input="flow")
    store = open_cache(tmp_path)
    found = align([store.select(name)["walk"] for name in ("rgb", "flow")])
    assert found.features.tolist() == [[k + 2, 10 * k] for k in range(6)]
    np.testing.assert_allclose(found.centre_s * 25, np.arange(6) + 2.5)
    assert align([store.select("flow")["walk"]]).features.shape == (6, 1)


def test_align_of_strangers_keeps_the_nearest_instant(tmp_path):
    write(tmp_path, np.ones((3, 2), np.float32), [0.02, 0.06, 0.1])
    write(tmp_path, np.ones((2, 2), np.float32), [5.0, 5.1], network="late", layer="x")
    store = open_cache(tmp_path)
    found = align([store.select(name)["walk.avi"] for name in ("rgb", "late")])
    assert found.features.shape == (1, 4)
    write(tmp_path, np.ones((3, 2, 2, 2), np.float32), network="maps", layer="y", spatial=True)
    store = open_cache(tmp_path)
    with pytest.raises(InvalidArgument, match="do not stand side by side"):
        align([store.select(name)["walk"] for name in ("rgb", "maps")])


def test_names_of_videos_and_networks(tmp_path):
    write(tmp_path, np.ones((3, 2), np.float32), name="walk/a.avi")
    write(tmp_path, np.ones((3, 2), np.float32), name="run/a.avi", digest="cd" * 32)
    write(tmp_path, np.ones((3, 2), np.float32), name="run/b.avi", digest="ef" * 32)
    store = open_cache(tmp_path, recipe="rgb")
    assert store["b"].name == store["elsewhere/b.mp4"].name == "run/b.avi"
    with pytest.raises(EntryNotFound, match=r'"a" is the name of 2 videos.*run/a.avi, walk/a.avi'):
        store["a"]
    with pytest.raises(EntryNotFound, match=r'no video "c" in .*\(features "rgb"\)'):
        store["c"]
    with pytest.raises(EntryNotFound, match=r'no features "rbg" in .*"rgb"\?\); there are: rgb'):
        open_cache(tmp_path, recipe="rbg")


def test_features_and_flow_in_one_directory(tmp_path, write_entry, smooth_flow):
    write(tmp_path, np.ones((3, 2), np.float32))
    alone = open_cache(tmp_path)
    assert alone["walk"].tracks["features"].shape == (3, 2)
    assert alone["walk"].problem == ""
    with pytest.raises(EntryNotFound, match=r'"walk.avi" holds no flow, only features'):
        alone["walk"].flow  # noqa: B018
    with pytest.raises(EntryNotFound, match="has features, and no flow"):
        alone.backward("walk")
    write_entry(tmp_path, smooth_flow(2, 16, 16))
    both = open_cache(tmp_path)
    assert (len(both), len(both.rows()), len(both.recipes)) == (1, 2, 2)
    assert both["walk"].flow.shape == (2, 16, 16, 2)  # flow comes first
    assert both.select("rgb")["walk"].features[:].tolist() == [[1, 1]] * 3
    with pytest.raises(EntryNotFound, match="holds no features, only flow"):
        both["walk"].centre_s  # noqa: B018
    assert [f.problem for f in verify(tmp_path, deep=True)] == ["", ""]


def test_features_of_two_networks_are_not_one(tmp_path):
    write(tmp_path, np.ones((3, 2), np.float32))
    write(tmp_path, np.zeros((3, 2), np.float32), network="flow", input="flow")
    cache = open_cache(tmp_path)
    with pytest.raises(EntryNotFound, match=r"stands for 2 entries.*flow \(small-cnn.*rgb \("):
        cache["walk"]
    assert [row.recipe for row in cache.alternatives("walk")] == [
        cache.networks["flow"],
        cache.networks["rgb"],
    ]
    # A name stands for what was last computed under it; the older features stay on disk.
    write(tmp_path, np.full((3, 2), 7, np.float32), network="flow", input="flow", step=2)
    cache = open_cache(tmp_path)
    assert cache.select("flow")["walk"].features[0].tolist() == [7, 7]
    assert len(cache.recipes) == 3


@pytest.fixture
def mixed(tmp_path, write_entry, smooth_flow):
    """A cache of flow, and of features of three shapes and several chunks."""
    cache = tmp_path / "mixed"
    rng = np.random.default_rng(0)
    write_entry(cache, smooth_flow(3, 16, 20), name="walk.avi", digest="ab" * 32)
    for number, (shape, storage) in enumerate([((700,), "f32"), ((3, 2, 2), "f16"), ((5,), "f16")]):
        for video, count in (("walk.avi", 61), ("run.avi", 24)):
            write(
                cache,
                rng.normal(0, 1, (count, *shape)).astype(np.float32),
                name=video,
                digest=("ab" if video == "walk.avi" else "cd") * 32,
                network=f"n{number}",
                layer=f"l{number}",
                storage=storage,
            )
    return cache


def test_a_pack_holds_features_too(mixed, tmp_path):
    done = pack(mixed, tmp_path / "p.h5")
    assert (done.entries, done.flows, done.snippets) == (7, 3, 3 * (61 + 24))
    here, packed = open_cache(mixed), open_cache(tmp_path / "p.h5")
    assert packed.networks == here.networks
    assert packed.rows() == here.rows()
    assert packed.recipes == here.recipes
    np.testing.assert_array_equal(packed["walk"].flow[:], here["walk"].flow[:])
    rows = [40, 3, 3, 60, 0]
    for name in here.networks:
        for video in ("walk", "run"):
            wanted, given = here.select(name)[video], packed.select(name)[video]
            assert given.attributes == wanted.attributes
            np.testing.assert_array_equal(given.features[:], wanted.features[:])
            np.testing.assert_array_equal(given.span_s, wanted.span_s)
            assert given.num_bytes == wanted.num_bytes
        np.testing.assert_array_equal(
            packed.select(name)["walk"].features[rows], here.select(name)["walk"].features[:][rows]
        )
    assert [f.problem for f in verify(tmp_path / "p.h5", deep=True)] == [""] * 7
    unpack(tmp_path / "p.h5", tmp_path / "again")
    files = {p.relative_to(mixed): p.read_bytes() for p in mixed.rglob("*.h5")}
    again = tmp_path / "again"
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*.h5")} == files
    assert open_cache(again).networks == here.networks


def test_any_hdf5_reader_reads_packed_features(mixed, tmp_path):
    pack(mixed, tmp_path / "p.h5")
    subprocess.run(
        [sys.executable, "-c", PACK_READER, tmp_path / "p.h5", tmp_path / "x.npz"],
        check=True,
        cwd=tmp_path,
    )
    cache = open_cache(mixed)
    with np.load(tmp_path / "x.npz") as read:
        assert len(read.files) == 6
        for row in cache.rows():
            entry = cache.entry_of(row)
            if "features" in entry.tracks:
                given = read[f"{row.recipe}-{row.digest}"]
                np.testing.assert_array_equal(given.astype(np.float32), entry.features[:])


PACK_READER = """
import json, hashlib, sys, h5py, hdf5plugin, numpy as np
found = {}
with h5py.File(sys.argv[1], "r") as file:
    headers = file["headers"][:].tobytes()
    for row in file["feature_entries"][:]:
        start, size = int(row["header_start"]), int(row["header_bytes"])
        told = json.loads(headers[start : start + size])
        first = int(row["form_start"])
        recipe = hashlib.sha256(told["recipe"].encode()).hexdigest()[:16]
        rows = file["features"][str(row["form"])][first : first + int(row["num_snippets"])]
        found[f"{recipe}-{told['source_sha256']}"] = rows
np.savez(sys.argv[2], **found)
"""


@pytest.mark.parametrize(
    "part", ["features", "feature_entries", "feature_chunks", "features_crc32", "span_s"]
)
def test_flipped_bits_of_packed_features_are_never_read_silently(mixed, tmp_path, part):
    path = tmp_path / "p.h5"
    pack(mixed, path)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        if part == "features":
            info = file["features/0"].id.get_chunk_info(1)
            start, size = info.byte_offset, info.size
        else:
            start, size = file[part].id.get_offset(), file[part].nbytes
    wanted = {name: open_cache(mixed).select(name)["walk"].features[:] for name in ("n0", "n1")}
    rng = np.random.default_rng(5)
    refused = 0
    for place in rng.integers(start, start + size, 16):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            cache = open_cache(path)
            for name, values in wanted.items():
                np.testing.assert_array_equal(cache.select(name)["walk"].features[:], values)
            for name in cache.networks:
                cache.select(name)["run"].check()
            cache.select("n2")["walk"].check()
        except EntryCorrupt as error:
            refused += str(path) in str(error)
    # What is told to HDF5 users alone (form, form_start) is not read by flowpipe.
    assert refused == 16 or (part == "feature_entries" and refused >= 4)


def test_quality_of_features(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path, rng.normal(0, 1, (200, 600)).astype(np.float32), name="good.avi")
    write(tmp_path, np.ones((200, 600), np.float32), name="dead.avi", digest="cd" * 32)
    times = np.array([0.02, 0.06, 0.1, 9.0])
    write(tmp_path, np.eye(4, dtype=np.float32), times, name="gap.avi", digest="ef" * 32)
    videos = {video.name: video for video in quality(open_cache(tmp_path)).videos}
    assert videos["good.avi"].suspicions == ()
    assert videos["good.avi"].num_snippets == 200
    assert videos["dead.avi"].still_share > 0.8
    assert "of chunks repeat the one before" in videos["dead.avi"].suspicions[0]
    assert videos["gap.avi"].suspicions == ("a gap of 8.9 s in time",)
    assert quality(open_cache(tmp_path)).totals()["snippets"] == 404


NUMPY_ALONE = """
import json, sys
import numpy as np
features = np.load(sys.argv[1])
told = json.load(open(sys.argv[1].replace(".npy", ".json"), encoding="utf-8"))
middles_s = (told["offset"] + np.arange(len(features)) * told["feature_stride"]) / told["fps"]
assert "flowpipe" not in sys.modules and "torch" not in sys.modules
np.savez(sys.argv[2], features=features, middles_s=middles_s)
"""


def test_export_is_read_by_numpy_alone_and_comes_back(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (9, 6)).astype(np.float32)
    centres = (8 + 4 * np.arange(9)) / 25
    write(tmp_path / "store", values, centres, name="walk/a.avi", frames=16, step=4)
    store = open_cache(tmp_path / "store")
    (one,) = export_features(store, tmp_path / "npy", networks=["rgb"])
    assert one.path == tmp_path / "npy" / "walk" / "a.npy"
    out = tmp_path / "read.npz"
    subprocess.run([sys.executable, "-c", NUMPY_ALONE, one.path, out], check=True, cwd=tmp_path)
    with np.load(out) as read:
        np.testing.assert_array_equal(read["features"], values)
        np.testing.assert_allclose(read["middles_s"], centres, atol=1e-9)
    told = json.loads(one.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (told["fps"], told["feature_stride"], told["offset"]) == (25.0, 4.0, 8.0)
    with pytest.raises(InvalidArgument, match="is there already"):
        export_features(store, tmp_path / "npy", networks=["rgb"])
    export_features(store, tmp_path / "npy", networks=["rgb"], overwrite=True)

    how = {"name": "mine", "fps": 25, "clip_step": 4, "offset": 8}
    result = import_features(tmp_path / "npy", tmp_path / "again", **how)
    assert (result.done, result.skipped, result.failed, result.shape) == (1, 0, 0, (6,))
    back = open_cache(tmp_path / "again", recipe="mine")["walk/a.avi"]
    np.testing.assert_array_equal(back.features[:], values)
    np.testing.assert_allclose(back.centre_s, centres)
    np.testing.assert_allclose(back.span_s[0], [0, 16 / 25], atol=1e-12)
    assert import_features(tmp_path / "npy", tmp_path / "again", **how).skipped == 1
    other = import_features(tmp_path / "npy", tmp_path / "again", **(how | {"offset": 9}))
    assert other.done == 1
    assert open_cache(tmp_path / "again", recipe="mine")["a"].centre_s[0] == pytest.approx(9 / 25)


@pytest.mark.parametrize("wrong", [{"clip_step": np.inf}, {"offset": np.inf}, {"frames": np.inf}])
def test_import_refuses_lengths_without_end(tmp_path, wrong):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    how = {"name": "x", "fps": 25, "clip_step": 4, "offset": 8} | wrong
    with pytest.raises(InvalidArgument, match=r"must be > 0, offset .* ≥ 0"):
        import_features(tmp_path, tmp_path / "store", **how)
    assert not (tmp_path / "store").exists()


def test_import_takes_links_and_the_rest_where_files_are_cut_hidden_or_of_another_kind(tmp_path):
    (tmp_path / "npy").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "npy" / "linked").symlink_to(tmp_path / "elsewhere")
    for name, width in {
        "npy/a.npy": 2,
        "npy/d.NPY": 2,
        "elsewhere/e.npy": 2,
        "npy/b.npy": 3,
    }.items():
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.ones((3, width)))
    (tmp_path / "npy" / "c.npy").touch()
    (tmp_path / "npy" / "._a.npy").write_bytes(b"of a Mac")
    how = {"name": "x", "fps": 25, "clip_step": 4, "offset": 8}
    result = import_features(tmp_path / "npy", tmp_path / "store", **how)
    assert [failure.name for failure in result.failures] == ["b", "c"]
    assert "rows of 3, where those before are of 2" in result.failures[0].reason
    assert open_cache(tmp_path / "store", recipe="x").names() == ["a", "d", "linked/e"]


def test_import_refuses_what_it_cannot_read(tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    how = {"name": "x", "fps": 25, "clip_step": 4, "offset": 8}
    with pytest.raises(InvalidArgument, match=r"holds no \.npy file"):
        import_features(folder, tmp_path / "store", **how)
    np.save(folder / "good.npy", np.ones((3, 2), np.float64))
    np.save(folder / "flat.npy", np.ones(3))
    np.save(folder / "whole.npy", np.ones((3, 2), np.int64))
    np.save(folder / "nan.npy", np.full((3, 2), np.nan))
    np.save(folder / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    (folder / "text.npy").write_text("no array")
    result = import_features(folder, tmp_path / "store", **how)
    assert (result.done, result.failed) == (1, 5)
    assert [failure.name for failure in result.failures] == sorted(
        ["flat", "whole", "nan", "object", "text"]
    )
    assert all(str(folder) in failure.reason for failure in result.failures)
    with pytest.raises(InvalidArgument, match="clip_step 0 and frames must be > 0"):
        import_features(folder, tmp_path / "store", **(how | {"clip_step": 0}))


def test_format_md_has_the_tables_of_the_schema():
    text = FORMAT_MD.read_text(encoding="utf-8")
    assert schema.datasets_table(schema.FEATURES) in text
    assert schema.attributes_table(schema.FEATURES) in text
    assert schema.pack_table(schema.PACK_FEATURES) in text
