"""Decoded items kept in memory: the same as those of the cache, read once, within the limit."""

import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from flowpipe.clips.memory import MemoryCache
from flowpipe.errors import InvalidArgument

ITEM_BYTES = 2 * 3 * 4


class CountingCache:
    """Field k of video n holds 10·n + k; counts what is read."""

    def __init__(self):
        self.reads = Counter()

    def _read(self, kind, name, indices, shape):
        indices = np.asarray(indices)
        self.reads.update((kind, name, int(k)) for k in indices)
        values = (10 * int(name) + indices).astype(np.uint8)
        return np.broadcast_to(values[:, None, None, None], (len(indices), *shape)).copy()

    def __getitem__(self, name):
        cache = self

        class Frames:
            def __getitem__(self, indices):
                return cache._read("rgb", name, indices, (3, 4, 3))

        flow = SimpleNamespace(codes=lambda rows: cache._read("flow", name, rows, (2, 3, 4)))
        return SimpleNamespace(
            cuts=np.empty(0, int),
            num_frames=9,
            num_flows=8,
            height=3,
            width=4,
            pts_s=np.arange(9) / 25,
            flow=flow,
            rgb=Frames(),
            quantiser=f"quantiser {name}",
        )


def values(items):
    return items[:, 0, 0, 0].tolist()


def test_gives_what_the_cache_gives():
    stored = CountingCache()
    kept = MemoryCache(stored, limit_mb=1)
    for _ in range(2):
        for name in ("1", "2"):
            mine, own = kept[name], stored[name]
            rows = np.array([0, 2, 5])
            assert np.array_equal(mine.flow.codes(rows), own.flow.codes(rows))
            assert np.array_equal(mine.rgb[rows], own.rgb[rows])
            assert (mine.num_flows, mine.num_frames, mine.height, mine.width) == (8, 9, 3, 4)
            assert mine.quantiser == f"quantiser {name}"
            assert np.array_equal(mine.pts_s, own.pts_s)


def test_reads_each_item_once_and_keeps_the_order_asked_for():
    stored = CountingCache()
    kept = MemoryCache(stored, limit_mb=1)
    assert values(kept["1"].flow.codes([2, 4])) == [12, 14]
    assert values(kept["1"].flow.codes([4, 0, 2, 4])) == [14, 10, 12, 14]
    assert values(kept["1"].rgb[[4, 2]]) == [14, 12]
    assert set(stored.reads.values()) == {1}
    assert len(stored.reads) == 5


def test_changing_what_was_given_does_not_change_what_is_kept():
    kept = MemoryCache(CountingCache(), limit_mb=1)
    for _ in range(2):
        given = kept["1"].flow.codes([3])
        assert values(given) == [13]
        given[:] = 0


def test_keeps_the_first_items_up_to_the_limit():
    stored = CountingCache()
    kept = MemoryCache(stored, limit_mb=3 * ITEM_BYTES / 1e6)
    for _ in range(3):
        assert values(kept["1"].flow.codes([0, 1])) == [10, 11]
        assert values(kept["2"].flow.codes([0, 1])) == [20, 21]
    counts = [stored.reads["flow", name, row] for name in "12" for row in (0, 1)]
    assert counts == [1, 1, 1, 3]


def test_zero_keeps_nothing():
    stored = CountingCache()
    kept = MemoryCache(stored, limit_mb=0)
    for _ in range(2):
        assert values(kept["1"].flow.codes([6])) == [16]
    assert stored.reads["flow", "1", 6] == 2
    with pytest.raises(InvalidArgument, match=r"memory of -1 MB must be ≥ 0; 0 keeps nothing"):
        MemoryCache(stored, limit_mb=-1)


def test_a_copy_for_another_process_starts_empty_with_all_its_room():
    stored = CountingCache()
    kept = MemoryCache(stored, limit_mb=ITEM_BYTES / 1e6)
    kept["1"].flow.codes([0])
    copy = pickle.loads(pickle.dumps(kept))
    assert values(copy["1"].flow.codes([1])) == [11]
    assert values(copy["1"].flow.codes([1])) == [11]
    assert copy._cache.reads["flow", "1", 1] == 1
