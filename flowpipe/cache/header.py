"""Is the header of an entry possible at all? Checked before anything is allocated by it.

A digest tells that bytes are what was written, not that a friend wrote them: an entry from
elsewhere may claim any size with a digest that fits.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.codec import filters_of, stored_dtype
from flowpipe.cache.hdf import DAMAGED, filters_in
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe
from flowpipe.errors import EntryCorrupt, FlowpipeError, NewerFormat
from flowpipe.flow.confidence import cells
from flowpipe.flow.quantise import Quantiser

FEATURE_CODEC = "zstd"
STORAGES: Mapping[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
"""Precision of features → type in the file."""

MAX_FIELD_PIXELS = 8192 * 8192
MAX_CHUNK_BYTES = 2**28
MAX_PLACE = 2**62  # no file is longer; sums of places do not overflow

_KINDS: dict[str, type | tuple[type, ...]] = {"text": str, "integer": int, "float": (int, float)}


@dataclass(frozen=True)
class TrackShape:
    """How a track is stored: `length` rows of `row` values, `chunk_rows` of them in a chunk."""

    length: int
    row: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: str
    chunk_rows: int = 1

    @property
    def num_chunks(self) -> int:
        return -(-self.length // self.chunk_rows)

    @property
    def chunk(self) -> tuple[int, ...]:
        return (self.chunk_rows, *self.row)

    @property
    def chunk_bytes(self) -> int:
        """Of a chunk that is not compressed."""
        return math.prod(self.chunk) * self.dtype.itemsize


@dataclass(frozen=True)
class Index:
    """What the header of an entry says, checked: enough to read its tracks without HDF5.

    Attributes
    ----------
    attributes, small
        As `flowpipe.cache.schema` has them.
    recipe
        From the attributes.
    shape : TrackShape
        Of the track in chunks, flow or features.
    chunks : array of K×3 int64
        Offset in the file, bytes and filter mask of each chunk.
    rgb_start : int or None
        Where the JPEGs begin in the file; None without frames.
    confidence : (TrackShape, array of K×3 int64), optional
        Of the confidence of flow, as `shape` and `chunks` are of the flow.
    """

    attributes: Mapping[str, Any]
    small: Mapping[str, NDArray[Any]]
    recipe: FlowRecipe | FeatureRecipe
    shape: TrackShape
    chunks: NDArray[np.int64]
    rgb_start: int | None = None
    confidence: tuple[TrackShape, NDArray[np.int64]] | None = None


def layout_of(attributes: Mapping[str, Any], where: str) -> schema.Layout:
    """Return the layout that an entry says it has.

    Raises
    ------
    EntryCorrupt
        If it is none of ours.
    NewerFormat
        If a later flowpipe wrote it.
    """
    layout = schema.LAYOUTS.get(str(attributes.get("format")))
    if layout is None:
        raise EntryCorrupt(f"{where} is an HDF5 file, but no entry of a flowpipe cache")
    version = attributes.get("format_version")
    if version != layout.version:
        problem = f"{where} has format {version}; this flowpipe reads {layout.version}"
        if isinstance(version, int) and version > layout.version:
            raise NewerFormat(f"{problem}: update flowpipe, or take another cache")
        raise EntryCorrupt(problem)
    return layout


@functools.lru_cache(maxsize=64)
def _read_recipe(kind: type[FlowRecipe | FeatureRecipe], text: str) -> FlowRecipe | FeatureRecipe:
    """Read a recipe and its id once for all entries that have it: a run looks at each of them."""
    return kind.from_json(text)


def checked_header(
    attributes: Mapping[str, Any], small: Mapping[str, NDArray[Any]], where: str
) -> FlowRecipe | FeatureRecipe:
    """Refuse a header that is not what was written, or that claims what no entry has.

    Parameters
    ----------
    attributes : mapping
        All attributes of the entry.
    small : mapping
        Its small data sets.
    where : str
        Names the file in messages.

    Raises
    ------
    EntryCorrupt
    """
    layout = layout_of(attributes, where)
    for name, (kind, _) in layout.attributes.items():
        value = attributes.get(name)
        if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
            problem = "is missing" if value is None else f"is no {kind}"
            raise EntryCorrupt(f'{where}: the attribute "{name}" {problem}; {DAMAGED}')
    if content_sha256(attributes, small, layout) != attributes["content_sha256"]:
        raise EntryCorrupt(f"{where}: its header is not what was written; {DAMAGED}")
    shapes = _flow_shapes(attributes, where) if layout is schema.FLOW else _feature_shapes(
        attributes, where
    )  # fmt: skip
    for name, values in small.items():
        if values.shape != shapes[name] or values.dtype != np.dtype(layout.small[name]):
            raise EntryCorrupt(
                f'{where}: "{name}" of {values.shape} {values.dtype} does not go with '
                f"{_count(attributes)}"
            )
    try:
        record = FeatureRecipe if layout is schema.FEATURES else FlowRecipe
        recipe = _read_recipe(record, str(attributes["recipe"]))
    except FlowpipeError as error:
        raise EntryCorrupt(f"{where}: {error}") from error
    if isinstance(recipe, FlowRecipe):
        for name, wanted in (("cuts", recipe.cuts), ("confidence_crc32", recipe.confidence)):
            if wanted != (name in small):
                raise EntryCorrupt(f'{where}: "{name}" does not go with its recipe; {DAMAGED}')
    return recipe


def flow_shape(attributes: Mapping[str, Any], quantiser: Quantiser) -> TrackShape:
    """Return how the flow of an entry is stored."""
    height, width = int(attributes["height"]), int(attributes["width"])
    return TrackShape(
        int(attributes["num_frames"]) - 1,
        (2 * height, width),
        stored_dtype(quantiser),
        str(attributes["codec"]),
    )


def confidence_shape(flow: TrackShape) -> TrackShape:
    """Return how the confidence beside a flow is stored."""
    double_height, width = flow.row
    return TrackShape(flow.length, cells(double_height // 2, width), np.dtype("u1"), flow.codec)


def shape_of(
    attributes: Mapping[str, Any],
    recipe: FlowRecipe | FeatureRecipe,
    row: tuple[int, ...],
    where: str,
) -> TrackShape:
    """Return how the track of an entry is stored; `row` is that of features, (D,) or (D, H', W').

    Raises
    ------
    EntryCorrupt
        For a storage, codec or size that no entry has.
    """
    try:
        if isinstance(recipe, FlowRecipe):
            shape = flow_shape(attributes, recipe.quantiser)
        else:
            chunk_rows = int(attributes["chunk_snippets"])
            shape = TrackShape(
                int(attributes["num_snippets"]),
                row,
                STORAGES[recipe.storage],
                str(attributes["codec"]),
                chunk_rows,
            )
            if len(row) not in (1, 3) or min(row) < 1 or shape.chunk_bytes > MAX_CHUNK_BYTES:
                raise ValueError(f"features of {row}, {chunk_rows} in a chunk")
        if shape.codec not in schema.CODECS:
            raise ValueError(f'codec "{shape.codec}" is unknown')
    except (FlowpipeError, LookupError, TypeError, ValueError) as error:
        raise EntryCorrupt(f"{where}: {error}") from error
    return shape


def check_track(data: Any, shape: TrackShape, where: str) -> None:
    """Refuse an HDF5 data set that is not stored as its header says."""
    if (data.shape, data.dtype, data.chunks) != (
        (shape.length, *shape.row),
        shape.dtype,
        shape.chunk,
    ):
        raise EntryCorrupt(
            f"{where}: {data.name.strip('/')} of {data.shape} {data.dtype} in chunks of "
            f"{data.chunks} does not go with its header"
        )
    if filters_in(data) != filters_of(shape.codec, shape.dtype.itemsize):
        raise EntryCorrupt(f"{where}: filters {filters_in(data)} are not those of {shape.codec}")


def checked_chunks(chunks: NDArray[np.int64], shape: TrackShape, where: str) -> NDArray[np.int64]:
    """Refuse places of chunks, (offset, bytes, filter mask), that no chunk of this size has."""
    places, sizes = chunks[:, 0], chunks[:, 1]
    largest = shape.chunk_bytes
    if (chunks < 0).any() or (sizes > largest).any() or (places > MAX_PLACE).any():
        raise EntryCorrupt(f"{where}: a chunk is missing, or larger than its {largest} bytes")
    return chunks


def check_offsets(offsets: NDArray[np.uint64], num_bytes: int, where: str) -> None:
    """Refuse offsets of JPEGs that run backwards or out of their data set."""
    if (offsets > num_bytes).any() or (offsets[1:] < offsets[:-1]).any():
        raise EntryCorrupt(f"{where}: the places of its RGB frames make no sense; {DAMAGED}")


def content_sha256(
    attributes: Mapping[str, Any],
    small: Mapping[str, NDArray[Any]],
    layout: schema.Layout = schema.FLOW,
) -> str:
    """Digest of all attributes but itself, and of the small data sets in the schema's order."""
    rest = {name: attributes[name] for name in layout.attributes if name != "content_sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())
    for name in layout.datasets:
        if name in small:
            digest.update(np.ascontiguousarray(small[name]).tobytes())
    return digest.hexdigest()


def _count(attributes: Mapping[str, Any]) -> str:
    if "num_frames" in attributes:
        return f"{attributes['num_frames']} frames"
    return f"{attributes['num_snippets']} snippets"


def _flow_shapes(attributes: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    height, width, frames = (int(attributes[key]) for key in ("height", "width", "num_frames"))
    if min(height, width, frames) < 1 or height * width > MAX_FIELD_PIXELS:
        raise EntryCorrupt(
            f"{where}: {frames} frames of {height}×{width} px are outside of what an entry "
            f"has: 1 or more, of {MAX_FIELD_PIXELS} px at most"
        )
    return {
        "flow_crc32": (frames - 1,),
        "pts_s": (frames,),
        "rgb_offsets": (frames + 1,),
        "rgb_crc32": (frames,),
        "confidence_crc32": (frames - 1,),
        "cuts": (frames - 1,),
    }


def _feature_shapes(attributes: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    count, chunk_rows = int(attributes["num_snippets"]), int(attributes["chunk_snippets"])
    if min(count, chunk_rows) < 1:
        raise EntryCorrupt(
            f"{where}: {count} snippets, {chunk_rows} in a chunk, are outside of what an entry "
            "has: 1 or more"
        )
    chunks = -(-count // chunk_rows)
    return {"features_crc32": (chunks,), "centre_s": (count,), "span_s": (count, 2)}
