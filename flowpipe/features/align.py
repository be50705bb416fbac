"""Features of several networks, or of one, on one grid of time.

The grid is that of the network whose snippets are furthest apart (the first of equals); to each of
its snippets belong, of every other network, the one whose centre is nearest and, of two equally
near, the later. Instants for which some network has nothing within half its own step are left out,
unless nothing would be left::

    rgb    centres   0   1   2   3   4   5
    flow   centres     .5    2.5   4.5          grid
    rows of rgb         1     3     5           of two equally near, the later
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Cache, Entry
from flowpipe.datasets.video import Video
from flowpipe.errors import InvalidArgument

# Times that differ by less are the same instant: containers count in ticks of about 1e-5 s.
SAME_INSTANT_S = 1e-6


@dataclass(frozen=True)
class AlignedFeatures:
    """Features of one video, of one or several networks, at the same instants.

    Attributes
    ----------
    features : array of T×D float32
        Side by side, in the order the networks were named. (T×D×H×W of maps.)
    centre_s : array of T float64
        On the grid of the network whose snippets are furthest apart.
    span_s : array of T×2 float64
        Each snippet's [start, stop).
    """

    features: NDArray[np.float32]
    centre_s: NDArray[np.float64]
    span_s: NDArray[np.float64]

    def mean(self) -> "AlignedFeatures":
        """Return one item: the mean over the whole length."""
        return AlignedFeatures(
            self.features.mean(axis=0, keepdims=True),
            self.centre_s.mean(keepdims=True),
            np.array([[self.span_s[:, 0].min(), self.span_s[:, 1].max()]]),
        )


class FeatureTracks:
    """Features by the ids of videos, as clips are cut from them: `tracks[id]`, an AlignedFeatures.

    Parameters
    ----------
    store : Cache
    networks : sequence of str
        Names in the store; their features stand side by side.
    videos : iterable of Video
        Each must have features of every network, of the video as it is now.
    average : bool
        One item per video: the mean over its whole length.
    memory_mb : float
        Room for what has been read, in 10⁶ bytes; what does not fit is read again.

    Raises
    ------
    EntryNotFound
        If features are missing, or of another content of the video.
    """

    def __init__(
        self,
        store: Cache,
        networks: Sequence[str],
        videos: Iterable[Video],
        *,
        average: bool = False,
        memory_mb: float = 2000.0,
    ) -> None:
        self._networks = [store.select(name) for name in networks]
        for video in videos:
            for network in self._networks:
                network.check_current(video.id, video.path)
        self._average, self._left = average, memory_mb * 1e6
        self._kept: dict[str, AlignedFeatures] = {}

    @property
    def recipes(self) -> list[str]:
        """Ids of the recipes: what a training on these features depends on."""
        return [str(network.recipe) for network in self._networks]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one snippet: (D,), or (D, H, W) of maps; D over all networks."""
        shapes = [network[network.names()[0]].features.shape[1:] for network in self._networks]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def __getitem__(self, name: str) -> AlignedFeatures:
        if name in self._kept:
            return self._kept[name]
        found = align([network[name] for network in self._networks])
        if self._average:
            found = found.mean()
        if found.features.nbytes <= self._left:
            self._left -= found.features.nbytes
            self._kept[name] = found
        return found


def align(entries: Sequence[Entry]) -> AlignedFeatures:
    """Bring the features of one video by several networks onto one grid; see the module.

    Raises
    ------
    InvalidArgument
        If maps of several sizes would stand side by side.
    """
    grid = max(entries, key=_step_s)
    chosen: list[NDArray[np.int64]] = []
    far_T = np.zeros(len(grid.centre_s))
    for entry in entries:
        rows = nearest_rows(entry.centre_s, grid.centre_s)
        away = np.abs(entry.centre_s[rows] - grid.centre_s)
        far_T = np.maximum(far_T, away / max(_step_s(entry) / 2, SAME_INSTANT_S))
        chosen.append(rows)
    kept = np.flatnonzero(far_T <= 1 + 1e-3)
    if kept.size == 0:
        kept = np.array([int(far_T.argmin())])
    parts = [entry.features[rows[kept]] for entry, rows in zip(entries, chosen, strict=True)]
    shapes = {part.shape[2:] for part in parts}
    if len(shapes) > 1:
        shown = ", ".join(f"{entry.features.shape[1:]}" for entry in entries)
        raise InvalidArgument(
            f"features of {shown} do not stand side by side; take networks with maps of one size, "
            "or their means"
        )
    return AlignedFeatures(np.concatenate(parts, axis=1), grid.centre_s[kept], grid.span_s[kept])


def nearest_rows(centre_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each instant the row of the nearest centre; of two equally near, the later.

    ::

        centres    0   1   2         wanted 0.4 → 0     0.5 → 1     9 → 2
    """
    after = np.clip(np.searchsorted(centre_s, wanted_s), 0, len(centre_s) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = wanted_s - centre_s[before] < np.abs(centre_s[after] - wanted_s) - (
        SAME_INSTANT_S
    )
    return np.where(nearer_before, before, after).astype(np.int64)


def _step_s(entry: Entry) -> float:
    """Return the time from centre to centre; of a single snippet, its length."""
    if len(entry.centre_s) > 1:
        return float(np.median(np.diff(entry.centre_s)))
    return float(entry.span_s[0, 1] - entry.span_s[0, 0])
