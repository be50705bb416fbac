"""Parts of videos as entries: a cache by the ids of videos, whose entries begin and end there.

::

    frames     0  1  2  3  4  5  6  7        a part from frame 2 up to 6:  num_frames 4
    flow        0  1  2  3  4  5  6                                         num_flows  3
                      └──────┘ fields 2, 3, 4
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Cache, Entry
from flowpipe.cache.manifest import ManifestRow
from flowpipe.datasets import Video
from flowpipe.errors import AnnotationError


class PartCache:
    """Entries of a cache by the ids of videos; of a part of a video only this part.

    Parameters
    ----------
    cache : Cache
        Holds the whole files.
    videos : iterable of Video
    """

    def __init__(self, cache: Cache, videos: Iterable[Video]) -> None:
        self._cache = cache
        self._videos = {video.id: video for video in videos}

    def __getitem__(self, video_id: str) -> Any:
        return self._part(video_id, self._cache[self._videos[video_id].name])

    def backward(self, video_id: str) -> Any:
        return self._part(video_id, self._cache.backward(self._videos[video_id].name))

    def rows(self) -> list[ManifestRow]:
        """Return the rows of the files, one for each video that is (part of) one."""
        rows = {row.name: row for row in self._cache.rows()}
        return [
            replace(rows[video.name], name=video.id)
            for video in self._videos.values()
            if video.name in rows
        ]

    def _part(self, video_id: str, entry: Entry) -> Any:
        video = self._videos[video_id]
        return entry if video.span is None else EntryPart(entry, video)


class FramesPart:
    """The frames [first, stop) of an entry, with the fields of flow between them."""

    def __init__(self, entry: Any, first: int, stop: int) -> None:
        self.num_frames, self.num_flows = stop - first, stop - first - 1
        self.pts_s: NDArray[np.float64] = entry.pts_s[first:stop]
        self.height, self.width = entry.height, entry.width
        self.quantiser = entry.quantiser
        cuts = np.asarray(entry.cuts) - first
        self.cuts: NDArray[np.int64] = cuts[(cuts >= 0) & (cuts < self.num_flows)]
        self.flow = TrackPart(entry, "flow", first, self.num_flows)
        self.confidence = TrackPart(entry, "confidence", first, self.num_flows)
        self.rgb = TrackPart(entry, "rgb", first, self.num_frames)


class EntryPart(FramesPart):
    """The frames of an entry within a video's span, with the fields of flow between them.

    Raises
    ------
    AnnotationError
        If fewer than two frames are in the span.
    """

    def __init__(self, entry: Entry, video: Video) -> None:
        self.entry, self.has_rgb = entry, entry.has_rgb
        first, stop = _frames_of(entry, video)
        if stop - first < 2:
            raise AnnotationError(
                f'"{video.id}" holds {max(0, stop - first)} of the {entry.num_frames} frames; two '
                f"at least are needed, and the video ends at {entry.pts_s[-1]:.3f} s"
            )
        super().__init__(entry, first, stop)


def shot_around(centre: int, num_frames: int, cuts: Iterable[int]) -> tuple[int, int]:
    """Return the frames [first, stop) of the shot that clips centred on a frame are cut from.

    It is the shot of that frame, or, where this has one frame only and so no flow, the nearest one
    that has more; the earlier of two as near. Without any, it is the whole video::

        frames   0 1 2|3 4 5 6|7|8 9      cuts 2, 6, 7
        centre 4                [3, 7)
        centre 7                [3, 7)
    """
    borders = [0, *(int(cut) + 1 for cut in cuts), num_frames]
    shots = [(a, b) for a, b in itertools.pairwise(borders) if b - a > 1]
    if not shots:
        return 0, num_frames
    return min(shots, key=lambda shot: max(shot[0] - centre, centre - shot[1] + 1, 0))


class TrackPart:
    """Items [first, first + length) of a track, indexed from 0."""

    def __init__(self, entry: Any, name: str, first: int, length: int) -> None:
        self._entry, self._name = entry, name
        self._rows = np.arange(first, first + length)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows = self._rows[index]
        track: Any = getattr(self._entry, self._name)
        items: NDArray[Any] = track[rows.tolist()]
        return items

    def codes(self, indices: Iterable[int]) -> NDArray[Any]:
        codes: NDArray[Any] = self._entry.flow.codes(self._rows[list(indices)].tolist())
        return codes


def _frames_of(entry: Entry, video: Video) -> tuple[int, int]:
    """Return the frames [first, stop) of the entry that are in the span.

    Frame numbers count the frames of the file: where the entry has another rate they are turned
    into times by the file's.
    """
    assert video.span is not None
    start, end = video.span.start, video.span.end
    if video.span.unit == "frame":
        if entry.flow_recipe.fps is None:
            return round(start), min(round(end), entry.num_frames)
        rate = json.loads(str(entry.attributes["source"])).get("average_fps")
        if not rate:
            raise AnnotationError(f'"{video.id}": the file tells no rate; give times in seconds')
        start, end = start / rate, end / rate
    times_s = entry.pts_s - entry.pts_s[0]
    # Half a millisecond less: 1.2 s written with three digits is the frame at 1.2000001 s.
    first, stop = np.searchsorted(times_s, [start - 5e-4, end - 5e-4])
    return int(first), int(stop)
