"""Cached features by the ids of videos, as clips are cut from them.

An entry here is a video's features on one grid of time, several networks side by side; items are
snippets. What is read stays in memory as long as there is room.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache.features import FeatureStore, align
from flowpipe.datasets.video import Video
from flowpipe.errors import AnnotationError


@dataclass(frozen=True)
class FeatureClips:
    """One video: T items of features, as `flowpipe.clips.streams.EntryLike` has them."""

    features: NDArray[np.float32]
    pts_s: NDArray[np.float64]
    # Nothing can be cropped.
    height: int = 1
    width: int = 1

    @property
    def num_flows(self) -> int:
        return len(self.features)

    num_frames = num_flows

    @property
    def flow(self) -> Any:
        raise AnnotationError("features hold no flow")

    rgb = quantiser = flow


class FeatureRecords:
    """Features of records: `records[id]` gives `FeatureClips`.

    Parameters
    ----------
    store : FeatureStore
    networks : sequence of str
        Names in the store; their features stand side by side.
    records : iterable of Video
        Each must have features of every network, of the video as it is now.
    temporal_average : bool
        One item per video: the mean over its whole length.
    memory_mb : float
        Room for features, in 10⁶ bytes.

    Raises
    ------
    EntryNotFound
        If features are missing, or of another content of the video.
    """

    def __init__(
        self,
        store: FeatureStore,
        networks: Sequence[str],
        records: Iterable[Video],
        *,
        temporal_average: bool = False,
        memory_mb: float = 2000.0,
    ) -> None:
        self._networks = [store[name] for name in networks]
        for record in records:
            for network in self._networks:
                network.check_current(record.id, record.path)
        self._average, self._left = temporal_average, memory_mb * 1e6
        self._kept: dict[str, FeatureClips] = {}

    @property
    def recipes(self) -> list[str]:
        """Ids of the recipes: what a training on these features depends on."""
        return [network.recipe.id for network in self._networks]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one snippet: (D,), or (D, H', W') of maps; D over all networks."""
        shapes = [network[network.names()[0]].features.shape[1:] for network in self._networks]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def __getitem__(self, record_id: str) -> FeatureClips:
        if record_id in self._kept:
            return self._kept[record_id]
        found = align([network[record_id] for network in self._networks])
        features, times = found.features_TD, found.centre_s
        if self._average:
            features, times = features.mean(axis=0, keepdims=True), times.mean(keepdims=True)
        clips = FeatureClips(features, times)
        if features.nbytes <= self._left:
            self._left -= features.nbytes
            self._kept[record_id] = clips
        return clips
