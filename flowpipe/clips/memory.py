"""A cache whose decoded frames and fields stay in memory, as long as there is room.

A network for tens of clips trains faster than its clips decode. Such a data set fits in memory
whole; of a large one the first items read are kept, and the others are read each time.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.clips.streams import EntryLike, QuantiserLike
from flowpipe.errors import InvalidArgument


class MemoryCache:
    """Entries of another cache; what is read from them is kept.

    Parameters
    ----------
    cache : Cache
    limit_mb : float
        Room for decoded items, in 10⁶ bytes; 0 keeps nothing. Every worker process of a loader
        keeps items of its own.

    Raises
    ------
    InvalidArgument
        If `limit_mb` is negative.
    """

    def __init__(self, cache: Any, limit_mb: float) -> None:
        if not limit_mb >= 0:
            raise InvalidArgument(f"memory of {limit_mb} MB must be ≥ 0; 0 keeps nothing")
        self._cache, self._limit = cache, limit_mb * 1e6
        self._room = _Room(self._limit)
        self._entries: dict[str, _KeptEntry] = {}
        self._turned: dict[str, _KeptEntry] = {}

    def __getitem__(self, name: str) -> EntryLike:
        if name not in self._entries:
            self._entries[name] = _KeptEntry(self._cache.__getitem__, name, self._room)
        return self._entries[name]

    def backward(self, name: str) -> EntryLike:
        """Return the backward flow of a name, as `flowpipe.cache.Cache.backward`."""
        if name not in self._turned:
            self._turned[name] = _KeptEntry(self._cache.backward, name, self._room)
        return self._turned[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_room": _Room(self._limit), "_entries": {}, "_turned": {}}


class _Room:
    def __init__(self, left: float) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


class _KeptEntry:
    """Facts of an entry, and its items; the entry itself, an open file, is not held."""

    def __init__(self, opened: Callable[[str], EntryLike], name: str, room: _Room) -> None:
        entry = opened(name)
        self.num_flows: int = entry.num_flows
        self.num_frames: int = entry.num_frames
        self.height: int = entry.height
        self.width: int = entry.width
        self.pts_s: NDArray[np.float64] = entry.pts_s
        self.quantiser: QuantiserLike = entry.quantiser
        self.cuts: NDArray[np.int64] = entry.cuts
        self.flow = _KeptItems(lambda rows: opened(name).flow.codes(rows), room)
        self.rgb = _KeptItems(lambda rows: opened(name).rgb[rows], room)
        self.confidence = _KeptItems(lambda rows: opened(name).confidence[rows], room)


class _KeptItems:
    """Items along time: `codes` as those of a flow, `[...]` as that of frames."""

    def __init__(self, read: Callable[[list[int]], NDArray[Any]], room: _Room) -> None:
        self._read, self._room = read, room
        self._kept: dict[int, NDArray[Any]] = {}

    def codes(self, indices: Iterable[int]) -> NDArray[Any]:
        rows = [int(row) for row in indices]
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        fresh = dict(zip(missing, self._read(missing), strict=True)) if missing else {}
        items = np.stack([fresh[row] if row in fresh else self._kept[row] for row in rows])
        for row, item in fresh.items():
            if self._room.take(item.nbytes):
                self._kept[row] = item.copy()
        return items

    __getitem__ = codes
