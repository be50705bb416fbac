"""`verify`, and what reading says of files that are damaged, missing or of another kind."""

import numpy as np
import pytest

from flowpipe.cache import Entry, schema
from flowpipe.cache.verify import verify, verify_entry
from flowpipe.errors import EntryCorrupt, EntryNotFound
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
        "flow": [int(offset) + at for offset, *_ in before.flow._chunks for at in (0, 9, 30)],
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


def test_verify_finds_the_one(tmp_path, write_entry, smooth_flow):
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


def test_entry_in_the_wrong_place_is_noticed(tmp_path, write_entry, smooth_flow):
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


def test_later_format_is_refused(tmp_path, write_entry, smooth_flow):
    import h5py

    path = write_entry(tmp_path, smooth_flow(2, 8, 8))
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(EntryCorrupt, match="has format 99; this flowpipe reads 1"):
        Entry(path)
