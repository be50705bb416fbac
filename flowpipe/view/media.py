"""What the rows of a page stand for: entries of caches, and frames of video files.

Only files below the folders that were given are opened: a link that leads out of them is refused,
and a path that a cache or a run names is never followed.
"""

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Cache, Entry, open_cache
from flowpipe.cache.quality import quality_of
from flowpipe.clips.parts import EntryPart
from flowpipe.datasets.video import video_of_id
from flowpipe.errors import AnnotationError, EntryNotFound, InvalidArgument, VideoError
from flowpipe.localisation.annotations import names_in
from flowpipe.video import find_videos, probe
from flowpipe.video.pictures import fit, orientation_of, output_size, to_rgb

OPEN_ENTRIES, OPEN_VIDEOS = 64, 4
VIDEO_SHORT_SIDE = 240
FALLBACK_FPS = 25.0
# A frame further ahead than this is reached by a jump to a key frame.
JUMP_S = 2.0
HALF_A_TICK_S = 1e-3

Picture = NDArray[np.uint8]


def inside(path: Path, root: Path) -> Path:
    """Return a path that lies below `root`, links followed.

    Raises
    ------
    InvalidArgument
        If it does not.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidArgument(f"{path} is a link that leads out of {root}; it is not followed")
    return path


def _id_of(name: str) -> str:
    """Return a video's id: a run has a video that several folds test once for each."""
    return re.sub(r" \(fold [^)]*\)$", "", name)


def open_cache_inside(path: Path) -> Cache:
    """Open a cache none of whose lists leads out of it."""
    for file in (path, *path.glob("*"), *path.glob("manifest/*"), *path.glob("*/*.json")):
        inside(file, path)
    return open_cache(path)


@dataclass
class Clip:
    """One row, opened.

    Attributes
    ----------
    entry : Entry or EntryPart or None
        Flow, and perhaps frames.
    features : Entry or None
    video : VideoFrames or None
        The file itself, where a folder of videos was given.
    """

    entry: Any = None
    features: Entry | None = None
    video: "VideoFrames | None" = None

    @cached_property
    def times_s(self) -> list[float]:
        """When each frame is."""
        if self.entry is not None:
            return [float(t) for t in self.entry.pts_s]
        if self.video is not None:
            return self.video.times_s
        return []

    @property
    def tracks(self) -> list[str]:
        """Which pictures there are: "frame", "flow"."""
        frames = self.video is not None or (self.entry is not None and self.entry.has_rgb)
        return ["frame"] * frames + ["flow"] * (self.entry is not None)

    @property
    def num_flows(self) -> int:
        return 0 if self.entry is None else int(self.entry.num_flows)

    def frame(self, number: int) -> Picture:
        """Return a frame, H×W×3."""
        if self.entry is not None and self.entry.has_rgb:
            picture: Picture = self.entry.rgb[number]
            return picture
        if self.video is None:
            raise EntryNotFound("there are no frames; give the folder of the videos")
        return self.video.at(self.times_s[number])

    def flow(self, number: int) -> NDArray[np.float32]:
        """Return the flow from a frame to the next, H×W×2 px; the last frame has the one before."""
        if not self.num_flows:
            raise EntryNotFound("there is no flow; give the cache that holds it")
        uv_HWC: NDArray[np.float32] = self.entry.flow[min(number, self.num_flows - 1)]
        return uv_HWC

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the video itself in px, in which boxes may be given."""
        if self.video is not None:
            return self.video.info.height, self.video.info.width
        whole = getattr(self.entry, "entry", self.entry)
        if whole is None:
            return None
        source = json.loads(str(whole.attributes["source"]))
        if "height" not in source:
            return whole.height, whole.width
        return int(source["height"]), int(source["width"])


class Media:
    """Opens rows, from caches and a folder of videos; the last few stay open.

    Parameters
    ----------
    cache : Cache, optional
    features : Cache, optional
        A store of features, where it is another.
    videos : Path, optional
        The only folder whose videos are decoded.
    """

    def __init__(
        self, cache: Cache | None = None, features: Cache | None = None, videos: Path | None = None
    ) -> None:
        self.cache, self.store, self.videos = cache, features, videos
        self._lock = threading.RLock()
        self._clip = lru_cache(maxsize=OPEN_ENTRIES)(self._open)
        self._video = lru_cache(maxsize=OPEN_VIDEOS)(VideoFrames)

    @property
    def has_entries(self) -> bool:
        return self.cache is not None or self.store is not None

    def clip(self, name: str, recipe: str = "") -> Clip:
        """Open a row.

        Raises
        ------
        EntryCorrupt
            If its entry is not what was written.
        InvalidArgument
            If a file of it is a link out of the folder.
        """
        with self._lock:
            return self._clip(_id_of(name), recipe)

    def suspicions(self, name: str, recipe: str) -> tuple[str, ...]:
        """Return what a person should look at in the entry of a row."""
        whole = video_of_id(_id_of(name)).name
        entry = self._entry(self.cache, whole, recipe) or self._entry(self.store, whole, recipe)
        if entry is None:
            return ("no entry in the cache",)
        return quality_of(entry).suspicions

    def path_of(self, name: str) -> Path | None:
        """Return the file of a video below the folder of videos."""
        if self.videos is None:
            return None
        for spelling in (name, PurePosixPath(name).name):
            try:
                found = names_in(list(self._files), [spelling])
            except AnnotationError:  # two files could be meant: show neither
                return None
            if spelling in found:
                return inside(self._files[found[spelling]], self.videos)
        return None

    def _open(self, name: str, recipe: str) -> Clip:
        video = video_of_id(name)
        entry = self._entry(self.cache, video.name, recipe)
        features = self._entry(self.store, video.name, recipe)
        if entry is not None and "features" in entry.tracks:
            entry, features = None, entry
        path = self.path_of(video.name)
        part = entry if entry is None or video.span is None else EntryPart(entry, video)
        return Clip(part, features, None if path is None else self._video(path))

    def _entry(self, cache: Cache | None, name: str, recipe: str) -> Entry | None:
        """Open an entry; None where the cache has none of this name."""
        if cache is None:
            return None
        known = cache.select(recipe) if recipe in cache.recipes else cache
        try:
            row = known.alternatives(name)[0]
        except EntryNotFound:
            return None
        root = cache.path if cache.path.is_dir() else cache.path.parent
        inside(known.entry_path(row), root)
        return known.entry_of(row)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Name below the folder of videos → file."""
        assert self.videos is not None
        paths: Iterable[Path] = find_videos(self.videos)
        return {path.relative_to(self.videos).as_posix(): path for path in paths}


class VideoFrames:
    """Frames of a video file by time; frames in a row are decoded once."""

    def __init__(self, path: Path) -> None:
        self.path, self.info = path, probe(path)
        self._size = output_size(
            self.info.height,
            self.info.width,
            short_side=min(VIDEO_SHORT_SIDE, self.info.height, self.info.width),
        )
        self._lock = threading.Lock()
        self._frames: Any = None
        self._last: tuple[float, Any] | None = None

    @cached_property
    def times_s(self) -> list[float]:
        """Time of each frame by the file's header, near enough to look at."""
        rate = self.info.average_fps or FALLBACK_FPS
        return [
            number / rate for number in range(max(1, round((self.info.duration_s or 0) * rate)))
        ]

    def at(self, time_s: float) -> Picture:
        """Return the frame on show at a time.

        Raises
        ------
        VideoError
            If nothing can be decoded there.
        """
        with self._lock:
            if self._last is None or not 0 <= time_s - self._last[0] <= JUMP_S:
                self._seek(time_s)
            while self._last is None or self._last[0] < time_s - HALF_A_TICK_S:
                frame = next(self._frames, None)
                if frame is None:
                    break
                self._last = (float(frame.time or 0.0) - self._start_s, frame)
            if self._last is None:
                raise VideoError(f"{self.path}: no frame decodes at {time_s:.2f} s")
            frame = self._last[1]
            orientation, _ = orientation_of(frame)
            return fit(to_rgb(frame), orientation, self._size)

    def _seek(self, time_s: float) -> None:
        try:
            container = av.open(str(self.path))
            stream = container.streams.video[0]
            base = float(stream.time_base or 1)
            self._start_s = float(stream.start_time or 0) * base
            container.seek(round((time_s + self._start_s) / base), stream=stream)
        except (av.FFmpegError, OSError, IndexError) as error:
            raise VideoError(f"{self.path} cannot be read: {error}") from error
        self._frames, self._last = _decoded(container), None


def _decoded(container: Any) -> Any:
    """Yield the frames that decode; a damaged video ends early."""
    with container:
        try:
            yield from container.decode(video=0)
        except (av.FFmpegError, OSError):
            return
