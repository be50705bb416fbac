"""Is the header of an entry possible at all? Checked before anything is allocated by it.

A digest tells that bytes are what was written, not that a friend wrote them: an entry from
elsewhere may claim any size with a digest that fits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import schema
from flowpipe.cache.recipe import FlowRecipe
from flowpipe.cache.write import content_sha256, stored_dtype
from flowpipe.errors import EntryCorrupt, FlowpipeError
from flowpipe.flow.quantise import Quantiser

MAX_FIELD_PIXELS = 8192 * 8192
MAX_PLACE = 2**62  # no file is longer; sums of places do not overflow

_KINDS: dict[str, type | tuple[type, ...]] = {"text": str, "integer": int, "float": (int, float)}
_WAY_OUT = "delete it and extract the video again"


def checked_header(
    attributes: Mapping[str, Any], small: Mapping[str, NDArray[Any]], where: str
) -> tuple[FlowRecipe, Quantiser]:
    """Refuse a header that is not what was written, or that claims what no entry has.

    Parameters
    ----------
    attributes : mapping
        All attributes of the entry.
    small : mapping
        Its small data sets, `flow_crc32` … `rgb_crc32`.
    where : str
        Names the file in messages.

    Raises
    ------
    EntryCorrupt
    """
    for name, (kind, _) in schema.ATTRIBUTES.items():
        value = attributes.get(name)
        if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
            told = "is missing" if value is None else f"is no {kind}"
            raise EntryCorrupt(f'{where}: the attribute "{name}" {told}; {_WAY_OUT}')
    if content_sha256(attributes, small) != attributes["content_sha256"]:
        raise EntryCorrupt(f"{where}: its header is not what was written; {_WAY_OUT}")
    height, width, num_frames = (int(attributes[k]) for k in ("height", "width", "num_frames"))
    if min(height, width, num_frames) < 1 or height * width > MAX_FIELD_PIXELS:
        raise EntryCorrupt(
            f"{where}: {num_frames} frames of {height}×{width} px are outside of what an entry "
            f"has: 1 or more, of {MAX_FIELD_PIXELS} px at most"
        )
    lengths = {
        "flow_crc32": num_frames - 1,
        "pts_s": num_frames,
        "rgb_offsets": num_frames + 1,
        "rgb_crc32": num_frames,
    }
    for name, values in small.items():
        if values.shape != (lengths[name],) or values.dtype != np.dtype(
            schema.SMALL_DATASETS[name]
        ):
            raise EntryCorrupt(
                f'{where}: "{name}" of {values.shape} {values.dtype} does not go with '
                f"{num_frames} frames"
            )
    try:
        recipe = FlowRecipe.from_json(str(attributes["recipe"]))
        quantiser = Quantiser(
            recipe.storage,  # type: ignore[arg-type]
            bound_px=recipe.bound_px,
            tolerance_px=recipe.tolerance_px,
        )
        codec = str(attributes["codec"])
        if codec not in schema.CODECS:
            raise EntryCorrupt(f'codec "{codec}" is unknown')
    except (FlowpipeError, TypeError, ValueError) as error:
        raise EntryCorrupt(f"{where}: {error}") from error
    return recipe, quantiser


def checked_chunks(
    chunks: NDArray[np.int64], attributes: Mapping[str, Any], quantiser: Quantiser, where: str
) -> NDArray[np.int64]:
    """Refuse places of chunks, (offset, bytes, filter mask), that no field of this size has."""
    raw = (
        2 * int(attributes["height"]) * int(attributes["width"]) * stored_dtype(quantiser).itemsize
    )
    places, sizes = chunks[:, 0], chunks[:, 1]
    if (chunks < 0).any() or (sizes > raw).any() or (places > MAX_PLACE).any():
        raise EntryCorrupt(f"{where}: a field is missing, or larger than its {raw} bytes")
    return chunks


def checked_offsets(offsets: NDArray[np.uint64], num_bytes: int, where: str) -> NDArray[np.int64]:
    """Refuse offsets of JPEGs that run backwards or out of their data set; give them signed."""
    if (offsets > num_bytes).any() or (offsets[1:] < offsets[:-1]).any():
        raise EntryCorrupt(f"{where}: the places of its RGB frames make no sense; {_WAY_OUT}")
    return offsets.astype(np.int64)
