"""Hostile files: whatever is in them, only our own errors come out, and nothing is overwritten.

A byte-level fuzzer over every kind of file that a person may get from elsewhere. Each target has
a second here; for minutes on demand, with another seed each time:

    FLOWPIPE_FUZZ_S=120 pytest tests/test_fuzz.py
"""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowpipe import load_scores, open_cache
from flowpipe.cache import Entry, schema
from flowpipe.cache.hdf import fixed_text
from flowpipe.cache.header import checked_header, content_sha256, shape_of
from flowpipe.cache.manifest import read_failures, read_manifest
from flowpipe.cache.pack import pack
from flowpipe.cache.tracks import jpeg_size
from flowpipe.cache.verify import damaged_texts, verify
from flowpipe.datasets import from_csv, from_list, from_segments, from_ucf101, videos_of
from flowpipe.errors import EntryCorrupt, FlowpipeError
from flowpipe.experiment.settings import load_settings
from flowpipe.flow.files import read_flo, write_flo
from flowpipe.scores import Scores

ON_DEMAND_S = float(os.environ.get("FLOWPIPE_FUZZ_S", "0"))
SECONDS = ON_DEMAND_S or 0.5
SEED = int(time.time()) if ON_DEMAND_S else 5
WORDS = [b"..", b"/", b"\n", b"\0", b"\xff\xfe", b"nan", b"1e999", b"-1", b"[", b"]]", b"{", b'"',
         b",", b"=", b"\x89HDF", b"PK\x03\x04", b"true", b"null", b" ", b"\\", b"%s"]  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat, insert, overwrite: one to eight times."""
    text = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        place = int(rng.integers(0, len(text) + 1))
        stop = min(len(text), place + int(rng.integers(1, 40)))
        kind = int(rng.integers(7))
        if kind == 0 and place < len(text):
            text[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del text[place:stop]
        elif kind == 2:
            text[place:place] = text[place:stop]
        elif kind == 3:
            text[place:place] = WORDS[int(rng.integers(len(WORDS)))]
        elif kind == 4:
            text[place:stop] = rng.bytes(stop - place)
        elif kind == 5:
            number = (0, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)[int(rng.integers(5))]
            text[place : place + 8] = struct.pack("<Q", number)
        elif rng.random() < 0.2:
            del text[place:]
    return bytes(text)


def fuzz(files: list[Path], read: Callable[[Path], object]) -> int:
    """Read mutations of files until the time is over; give how many were refused.

    Anything but our own errors ends it.
    """
    rng = np.random.default_rng(SEED)
    whole = [file.read_bytes() for file in files]
    until, tries, refused = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < until or tries < 10:
        tries += 1
        which = int(rng.integers(len(files)))
        text = mutated(whole[which], rng)
        files[which].write_bytes(text)
        try:
            read(files[which])
        except FlowpipeError:
            refused += 1
        except Exception as error:
            kept = files[which].with_suffix(f".found{files[which].suffix}")
            kept.write_bytes(text)
            raise AssertionError(f"seed {SEED}, try {tries}, {kept}: {error!r}") from error
        finally:
            files[which].write_bytes(whole[which])
    return refused


def test_the_fuzzer_tells_of_errors_that_are_not_ours(tmp_path):
    file = tmp_path / "f.txt"
    file.write_bytes(b"some text")

    def read(path):
        if path.read_bytes() != b"some text":
            raise KeyError("not ours")

    with pytest.raises(AssertionError, match="KeyError"):
        fuzz([file], read)
    assert file.read_bytes() == b"some text"


@pytest.fixture
def cache(tmp_path, write_entry, smooth_flow):
    rng = np.random.default_rng(0)
    for number in range(3):
        frames = rng.integers(0, 256, (4, 20, 24, 3), np.uint8) if number else None
        codec = ("jpegls", "zstd")[number % 2]
        write_entry(
            tmp_path / "c", smooth_flow(3, 20, 24, number), codec=codec, rgb_THWC=frames,
            name=f"{number}.avi", digest=f"{number:064x}",
        )  # fmt: skip
    return tmp_path / "c"


def read_everything(cache: Path) -> None:
    opened = open_cache(cache)
    for name in opened:
        entry = opened[name]
        assert np.isfinite(entry.flow[:]).all()
        if entry.has_rgb:
            assert entry.rgb[:].dtype == np.uint8


def test_entry_files(cache, tmp_path):
    """In processes of their own: HDF5 may crash or hang on what is not HDF5."""
    files = sorted(cache.glob("*/*/*.h5"))
    rng = np.random.default_rng(SEED)
    until, tries = time.monotonic() + SECONDS, 0
    while time.monotonic() < until or tries < 64:
        many = tmp_path / "many"
        for number in range(64):
            file = files[number % len(files)]
            target = many / file.parent.parent.name / "00" / f"{number:064x}.h5"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(mutated(file.read_bytes(), rng))
        findings = list(verify(many, deep=True))
        assert len(findings) == 64
        # An entry that is untouched is in the wrong place here, and told as well.
        assert all(finding.problem for finding in findings)
        tries += 64
        shutil.rmtree(many)


def test_tables_of_a_pack(cache, tmp_path):
    """The bytes behind HDF5's structure, which flowpipe reads by itself."""
    path = tmp_path / "c.h5"
    pack(cache, path)
    whole = path.read_bytes()
    spans = {}
    with h5py.File(path, locking=False) as file:
        for name in schema.PACK_TABLES:
            spans[name] = (file[name].id.get_offset(), file[name].nbytes)
    rng = np.random.default_rng(SEED)
    until, tries, refused = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < until or tries < 30:
        tries += 1
        name = list(spans)[int(rng.integers(len(spans)))]
        start, size = spans[name]
        if not size:
            continue
        part = mutated(whole[start : start + size], rng)[:size].ljust(size, b"\0")
        path.write_bytes(whole[:start] + part + whole[start + size :])
        try:
            read_everything(path)
        except FlowpipeError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {SEED}, try {tries}, {name}: {error!r}") from error
    assert refused


def test_manifest_recipe_and_failures(cache):
    (cache / "failures.jsonl").write_text('{"name":"a","path":"/a","digest":"d"}\n')
    files = [*cache.glob("manifest/*.jsonl"), *cache.glob("*/recipe.json")]

    whole, told = set(read_manifest(cache)), []

    def read(file: Path) -> None:
        read_failures(cache)
        read_everything(cache)
        rows = set(read_manifest(cache))
        assert rows <= whole
        told.extend(damaged_texts(cache))
        # Lines that are gone, whole, leave no trace; nor does a file of no lines.
        assert rows == whole or told or not file.read_bytes().strip(), file

    fuzz(files, read)
    assert told
    read_everything(cache)


def test_lists_of_sources(tmp_path):
    (tmp_path / "list.csv").write_text("clip,label\nrun/a.mp4,fast\n../b.mp4,slow\n/c.mp4,x\n")
    (tmp_path / "list.txt").write_text("run/a.mp4 1\n# none\nwalk/b c.mp4\n")

    def read(file: Path) -> None:
        for source in videos_of(file)[0]:
            assert source.id.isprintable()
            assert not source.id.startswith("/")
            assert ".." not in Path(source.id).parts

    assert fuzz([tmp_path / "list.csv", tmp_path / "list.txt"], read)


def test_split_files(tmp_path):
    (tmp_path / "all.csv").write_text('video,label,fold\na.avi,run,1\n"b, c.avi",walk,2\n')
    (tmp_path / "list.txt").write_text("run/a.avi 1\nwalk/b.avi 2\n")
    (tmp_path / "trainlist01.txt").write_text(
        "run/v_run_g01_c01.avi 1\nwalk/v_walk_g02_c01.avi 2\n"
    )
    (tmp_path / "testlist01.txt").write_text("run/v_run_g03_c01.avi\n")
    (tmp_path / "classInd.txt").write_text("1 run\n2 walk\n")

    def read(file: Path) -> None:
        if file.name == "all.csv":
            found = from_csv(file, tmp_path, fold_column="fold", missing="keep")
        elif file.name == "list.txt":
            found = from_list(file, tmp_path, missing="keep")
        else:
            found = from_ucf101(tmp_path, tmp_path, missing="keep")
        for record in found.videos:
            assert ".." not in Path(record.id).parts
            assert not Path(record.id).is_absolute()
            assert "\n" not in record.id

    assert fuzz(sorted(tmp_path.iterdir()), read)


def test_exports_of_annotation_programs(tmp_path):
    (tmp_path / "a.mp4").touch()
    value = {"timelinelabels": ["run"], "ranges": [{"start": 1, "end": 9}]}
    result = {"type": "timelinelabels", "value": value}
    task = {"data": {"video": "a.mp4"}, "annotations": [{"result": [result]}]}
    anet = {"a": {"subset": "training", "annotations": [{"segment": [0, 1], "label": "x"}]}}
    texts = {
        "boris": "Media file\tBehavior\tStart (s)\tStop (s)\na.mp4\trun\t0\t1.5\n",
        "elan": "tier\t\t00:00:01.000\t00:00:02.500\trun\n",
        "label-studio": json.dumps([task]),
        "via": '"1","[""a.mp4""]",0,"[0.5,2]","[]","{""1"":""run""}"\n',
        "activitynet": json.dumps({"database": anet}),
    }
    for form, text in texts.items():
        (tmp_path / f"{form}.txt").write_text(text)

    def read(file: Path) -> None:
        for video in from_segments(file, tmp_path, file.stem, missing="keep").videos:
            assert ".." not in Path(video.id).parts
            assert not Path(video.id).is_absolute()
            assert video.labels

    assert fuzz([tmp_path / f"{form}.txt" for form in texts], read)


def test_configurations(tmp_path):
    source = Path(__file__).resolve().parents[1] / "configs" / "weizmann_two_stream.toml"
    shutil.copy(source, tmp_path / "c.toml")
    assert fuzz([tmp_path / "c.toml"], load_settings)


def test_score_files_and_flo(tmp_path):
    Scores(
        ids=("a", "b"),
        labels_N=np.array([0, 1]),
        probabilities_NK=np.eye(2),
        logits_NK=np.eye(2, dtype=np.float32),
        classes=("x", "y"),
        stream="temporal",
        protocol={"clips": 1},
    ).save(tmp_path / "s.npz")
    assert fuzz([tmp_path / "s.npz"], load_scores)
    write_flo(tmp_path / "f.flo", np.zeros((3, 4, 2), np.float32))
    assert fuzz([tmp_path / "f.flo"], read_flo)


def test_checkpoints(tmp_path):
    from torch import nn

    from flowpipe.training import TrainOptions
    from flowpipe.training.checkpoint import read_model, save_checkpoint
    from flowpipe.training.loop import make_optimiser

    model = nn.Linear(3, 2)
    update = make_optimiser(model, TrainOptions())
    save_checkpoint(tmp_path / "c.pt", model, update, {"epochs": 1}, [])
    assert fuzz([tmp_path / "c.pt"], lambda file: read_model(file, nn.Linear(3, 2)))


@given(
    name=st.sampled_from(sorted(set(schema.ATTRIBUTES) - {"content_sha256"})),
    value=st.one_of(
        st.integers(-(2**40), 2**40),
        st.floats(),
        st.text(max_size=20),
        st.booleans(),
        st.lists(st.integers(0, 255), min_size=1, max_size=4),
        st.sampled_from(["{}", "[]", "null", '{"flow":1}', "9" * 400, '{"a":' * 500]),
    ),
)
@settings(
    max_examples=500 if ON_DEMAND_S else 80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_attributes_with_a_digest_that_fits(tmp_path, cache, name, value):
    """What a forger would write: any value, and the digest of it."""
    path = next(cache.glob("*/*/*1.h5"))
    target = tmp_path / "forged.h5"
    shutil.copy(path, target)
    attributes = {**Entry(path).attributes, name: value}
    try:
        digest = content_sha256(attributes, Entry(path).small)
    except (TypeError, ValueError, UnicodeEncodeError):
        digest = "0" * 64
    with h5py.File(target, "r+") as file:
        for key, told in ((name, value), ("content_sha256", digest)):
            del file.attrs[key]
            try:
                file.attrs[key] = fixed_text(told) if isinstance(told, str) else told
            except (ValueError, OverflowError, UnicodeEncodeError):
                return  # HDF5 has no such value
    try:
        entry = Entry(target)
        assert entry.flow[:].shape == entry.flow.shape
        assert entry.recipe.describe()
    except FlowpipeError as error:
        told = str(error)
    else:
        told = str(target)
    assert str(target) in told


def forged(path: Path, change: Callable[[h5py.File], None]) -> Path:
    target = path.with_name("forged.h5")
    shutil.copy(path, target)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def replace(name: str, value: object, **options: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if isinstance(value, h5py.SoftLink | h5py.ExternalLink):
            file[name] = value
        elif value is not None:
            file.create_dataset(name, data=value, **options)

    return change


def virtual(file: h5py.File) -> None:
    del file["pts_s"]
    layout = h5py.VirtualLayout((4,), np.float64)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(4,))
    file.create_virtual_dataset("pts_s", layout)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (replace("flow", h5py.ExternalLink("/etc/passwd", "x")), '"flow" has no place'),
        (replace("pts_s", h5py.SoftLink("/flow_crc32")), '"pts_s" has no place'),
        (replace("more", np.zeros(3)), '"more" has no place in an entry'),
        (lambda file: file.create_group("more"), '"more" has no place in an entry'),
        (replace("pts_s", None), "pts_s missing"),
        (replace("rgb_crc32", None), "rgb_crc32 missing"),
        (virtual, '"pts_s" points into another file'),
        (replace("pts_s", np.zeros(4), chunks=(4,)), "larger than the file"),
        (replace("pts_s", np.zeros(7)), "is not what was written"),
        (replace("flow", np.zeros((3, 40, 24), np.uint8)), "does not go with its header"),
        (
            replace("flow", np.zeros((3, 40, 24), np.uint8), chunks=(1, 40, 24)),
            r"filters \(\) are not those of",
        ),
        (
            replace(
                "flow", np.zeros((3, 40, 24), np.uint8), chunks=(1, 40, 24), compression="gzip"
            ),
            r"filters \(1,\) are not those of",
        ),
    ],
)
def test_structures_that_no_entry_has(cache, change, match):
    path = next(cache.glob("*/*/*1.h5"))
    with pytest.raises(EntryCorrupt, match=match):
        Entry(forged(path, change))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"height": 65535, "width": 65535}, "outside of what an entry has"),
        ({"num_frames": 10**12}, "does not go with 1000000000000 frames"),
        ({"num_frames": 0}, "outside of what an entry has"),
        ({"codec": "gzip"}, 'codec "gzip" is unknown'),
    ],
)
def test_headers_that_claim_too_much(cache, changes, match):
    entry = Entry(next(cache.glob("*/*/*1.h5")))
    attributes = {**entry.attributes, **changes}
    attributes["content_sha256"] = content_sha256(attributes, entry.small)
    with pytest.raises(EntryCorrupt, match=match):
        shape_of(attributes, checked_header(attributes, entry.small, "x.h5"), (), "x.h5")


def test_a_jpeg_that_claims_65535_squared_takes_no_memory(tmp_path, write_entry, smooth_flow):
    import zlib

    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    path = write_entry(tmp_path, smooth_flow(2, 20, 24), rgb_THWC=frames)
    entry = Entry(path)
    jpeg = bytearray(entry.rgb.jpeg(0))
    assert jpeg_size(bytes(jpeg)) == (20, 24)
    place = jpeg.index(struct.pack(">HH", 20, 24))
    jpeg[place : place + 4] = struct.pack(">HH", 65535, 65535)
    assert jpeg_size(bytes(jpeg)) == (65535, 65535)
    entry.rgb._crc32[0] = zlib.crc32(jpeg)
    entry.read_at = lambda offset, size: bytes(jpeg)
    with pytest.raises(EntryCorrupt, match="RGB frame 0: it is no JPEG of"):
        entry.rgb[0]
    for text in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\xd8" + b"\xff\xe0\x00\x00" * 9):
        assert jpeg_size(text) is None


def test_names_of_lists_lead_nowhere_else(tmp_path, write_video):
    """`..`, absolute paths, newlines: names in the cache stay below it, in one line."""
    from flowpipe import extract

    videos = tmp_path / "videos"
    videos.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)
    write_video(tmp_path / "outside.mp4", frames)
    write_video(videos / "in\nside.mp4", frames[::-1])
    label = '"../../evil\nlabel"'
    (videos / "list.csv").write_text(
        f"video,label\n../outside.mp4,{label}\n{tmp_path / 'outside.mp4'},x\n"
    )
    extract([videos / "list.csv", videos], tmp_path / "c", flow="farneback", workers=1)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert before == ["c", "outside.mp4", "videos"]
    cache = open_cache(tmp_path / "c")
    for name in cache:
        assert name.isprintable()
        assert ".." not in Path(name).parts
        assert not Path(name).is_absolute()
    lines = b"".join(p.read_bytes() for p in (tmp_path / "c").glob("manifest/*.jsonl"))
    assert all(json.loads(line) for line in lines.splitlines())
