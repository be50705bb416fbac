"""One entry: a header and named tracks in time. `entry.flow[10:20]`, `entry.rgb[5]`, `.features`.

HDF5 is asked once, for the attributes and for where the chunks lie. No HDF5 handle stays open, so
an entry may cross a fork, a pickle or a thread.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowpipe.cache.hdf import (
    DAMAGED,
    MALFORMED,
    PACK_DAMAGED,
    FileReader,
    chunk_table,
    read_attributes,
    read_datasets,
)
from flowpipe.cache.header import (
    Index,
    check_offsets,
    check_track,
    checked_chunks,
    checked_header,
    confidence_shape,
    layout_of,
    shape_of,
)
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe
from flowpipe.cache.tracks import Confidence, FeatureRows, FlowFields, RgbFrames, Track
from flowpipe.errors import CacheError, EntryCorrupt, EntryNotFound, FlowpipeError
from flowpipe.flow.color import flow_to_color
from flowpipe.flow.quantise import Quantiser
from flowpipe.notebook import html_picture, html_table


class Entry(FileReader):
    """One video's flow and frames, or its features by one network, as the cache holds them.

    Parameters
    ----------
    path : Path
        An entry file.
    name, label : str
        As the manifest has them; the name the file was written under when absent.
    index : Index, optional
        What the header says, where it has been read already: by a pack, in which `path` holds
        many entries.

    Attributes
    ----------
    attributes : mapping
        Everything that the file says about itself; see cache/FORMAT.md.
    small : mapping of arrays
        The small data sets: checksums, times; see cache/FORMAT.md.
    tracks : dict of Track
        "flow" and perhaps "rgb" and "confidence", or "features"; each also by its name as an
        attribute.
    height, width, num_frames, num_flows : int
        Of flow and frames, in px; 0 of an entry of features.

    Raises
    ------
    EntryNotFound
        If there is no such file.
    CacheError
        If the file cannot be read now, which says nothing of its content.
    EntryCorrupt
        If it is no entry, or one whose header is not what was written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str = "",
        label: str | None = None,
        *,
        index: Index | None = None,
    ) -> None:
        super().__init__(Path(path))
        self.label = label
        self.way_out = DAMAGED if index is None else PACK_DAMAGED
        index = index or read_index(self.path)
        self.attributes: Mapping[str, Any] = index.attributes
        self.small: Mapping[str, NDArray[Any]] = index.small
        self.name = name or str(self.attributes["source_name"])
        self.recipe: FlowRecipe | FeatureRecipe = index.recipe
        self.height = int(self.attributes.get("height", 0))
        self.width = int(self.attributes.get("width", 0))
        self.num_frames = int(self.attributes.get("num_frames", 0))
        self.num_flows = max(0, self.num_frames - 1)
        self.num_snippets = int(self.attributes.get("num_snippets", 0))
        self.tracks: dict[str, Track] = {}
        if isinstance(self.recipe, FlowRecipe):
            self.quantiser: Quantiser = self.recipe.quantiser
            self.tracks["flow"] = FlowFields(self, index, self.quantiser)
            if index.confidence is not None:
                crc32 = index.small["confidence_crc32"]
                self.tracks["confidence"] = Confidence(self, *index.confidence, crc32)
        else:
            self.tracks["features"] = FeatureRows(self, index)
        if index.rgb_start is not None:
            self.tracks["rgb"] = RgbFrames(self, index)

    @property
    def flow(self) -> FlowFields:
        """F×H×W×2 float32 px; EntryNotFound where the entry holds features."""
        return self._track("flow")  # type: ignore[return-value]

    @property
    def rgb(self) -> RgbFrames:
        """N×H×W×3 uint8; EntryNotFound where the cache was made without frames."""
        return self._track("rgb")  # type: ignore[return-value]

    @property
    def confidence(self) -> Confidence:
        """F×H×W uint8, 0 to 15; EntryNotFound where the cache was made without."""
        return self._track("confidence")  # type: ignore[return-value]

    @property
    def features(self) -> FeatureRows:
        """T×D or T×D×H'×W' float32; EntryNotFound where the entry holds flow."""
        return self._track("features")  # type: ignore[return-value]

    @property
    def flow_recipe(self) -> FlowRecipe:
        """The recipe; EntryNotFound where the entry holds features."""
        if not isinstance(self.recipe, FlowRecipe):
            self._track("flow")  # raises
        return self.recipe  # type: ignore[return-value]

    @property
    def has_rgb(self) -> bool:
        return "rgb" in self.tracks

    @property
    def pts_s(self) -> NDArray[np.float64]:
        """Times in seconds: of the N frames; of features, of the middles of the snippets."""
        return self.small["pts_s"] if "pts_s" in self.small else self.small["centre_s"]

    @property
    def cuts(self) -> NDArray[np.int64]:
        """The fields that lead over a cut, and are zero; none where cuts were not sought."""
        return np.flatnonzero(self.small.get("cuts", ()))

    @property
    def centre_s(self) -> NDArray[np.float64]:
        """Middle of each snippet of features in seconds."""
        return self._snippet_times("centre_s")

    @property
    def span_s(self) -> NDArray[np.float64]:
        """T×2: each snippet's [start, stop) in seconds."""
        return self._snippet_times("span_s")

    @property
    def digest(self) -> str:
        """SHA-256 of the video's bytes."""
        return str(self.attributes["source_sha256"])

    @property
    def problem(self) -> str:
        """What was wrong with the video; empty for nothing."""
        return str(self.attributes["problem"])

    @property
    def num_bytes(self) -> int:
        """Bytes that the tracks take in the file."""
        return sum(track.num_bytes for track in self.tracks.values())

    def check(self) -> None:
        """Decode every track; EntryCorrupt where bytes are not what was written."""
        for track in self.tracks.values():
            track.check()

    def __repr__(self) -> str:
        tracks = ", ".join(f"{name} {track.shape}" for name, track in self.tracks.items())
        return f"Entry({self.name!r}, {tracks}, {self.recipe.describe()})"

    def _repr_html_(self) -> str:
        rows = [(name, "×".join(map(str, track.shape))) for name, track in self.tracks.items()]
        rows += [("seconds", f"{np.ptp(self.pts_s):.2f}"), ("recipe", self.recipe.describe())]
        pictures = ""
        if "flow" in self.tracks and self.num_flows:
            middle = self.num_flows // 2
            if self.has_rgb:
                pictures = html_picture(self.rgb[middle], "frame")
            uv_HWC = self.flow[middle]
            largest_px = max(1.0, float(np.abs(uv_HWC).max()))
            pictures += html_picture(flow_to_color(uv_HWC, largest_px), "flow")
        return html_table(self.name, ("", ""), rows) + pictures

    def _track(self, name: str) -> Track:
        if name not in self.tracks:
            more = {"rgb": "frames", "confidence": "confidence"}
            way_out = f"; extract again with {more[name]} into this cache" if name in more else ""
            what = "RGB frames" if name == "rgb" else name
            raise EntryNotFound(
                f'"{self.name}" holds no {what}, only {" and ".join(self.tracks)}{way_out}'
            )
        return self.tracks[name]

    def _snippet_times(self, name: str) -> NDArray[np.float64]:
        if name not in self.small:
            self._track("features")  # raises
        return self.small[name]


def read_index(path: Path) -> Index:
    """Read and check the header of an entry file; see `Entry` for the errors."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError as error:
        raise EntryNotFound(
            f"no entry at {path}; it was removed after the cache was opened"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(kind):  # HDF5 would wait for ever for a pipe
        raise EntryCorrupt(f"{path} is no file, so no entry; {DAMAGED}")
    try:
        with h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
            return _index_of(file, path)
    except FlowpipeError:
        raise
    except MALFORMED as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        raise EntryCorrupt(
            f"{path} is not an entry of a flowpipe cache, or a damaged one ({error}); {DAMAGED}"
        ) from error


def unreadable(path: Path, error: OSError) -> CacheError:
    """Return the error of a file that the system does not let us read now: it may be sound."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CacheError(f"{path} cannot be read: {reason}")


def _index_of(file: Any, path: Path) -> Index:
    where = str(path)
    attributes = read_attributes(file)
    layout = layout_of(attributes, where)
    data = read_datasets(file, path, layout)
    small = {name: data[name][()] for name in layout.small if name in data}
    recipe = checked_header(attributes, small, where)
    track = data[layout.track]
    shape = shape_of(attributes, recipe, tuple(map(int, track.shape[1:])), where)
    check_track(track, shape, where)
    chunks = checked_chunks(chunk_table(track, shape.num_chunks), shape, where)
    confidence = None
    if "confidence" in data or "confidence_crc32" in data:
        own = confidence_shape(shape)
        check_track(data["confidence"], own, where)
        places = chunk_table(data["confidence"], own.num_chunks)
        confidence = own, checked_chunks(places, own, where)
    rgb_start = None
    if "rgb_jpeg" in data:
        frames = data["rgb_jpeg"]
        check_offsets(small["rgb_offsets"], len(frames), where)
        rgb_start = int(frames.id.get_offset() or 0)
    return Index(attributes, small, recipe, shape, chunks, rgb_start, confidence)
