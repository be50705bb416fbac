"""What stands in an entry file: data sets and attributes, as FORMAT.md shows them.

FORMAT.md holds the tables that `datasets_table()` and `attributes_table()` give; a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FORMAT = "flowpipe-entry"
FORMAT_VERSION = 1

TRAILER_MAGIC = b"flowpipe-sha256:"
TRAILER_BYTES = len(TRAILER_MAGIC) + 32

# Registered HDF5 filters, https://github.com/HDFGroup/hdf5_plugins
FILTER_SHUFFLE = 2
FILTER_ZSTD = 32015
FILTER_JPEGLS = 32018
ALLOWED_FILTERS = frozenset((FILTER_SHUFFLE, FILTER_ZSTD, FILTER_JPEGLS))

CODECS = ("jpegls", "zstd")

DATASETS = {
    "flow": (
        "(F, 2H, W) u1, u2 or f2",
        "codes, one field per chunk (1, 2H, W), u above v; F = N − 1",
    ),
    "flow_crc32": ("(F,) u4", "CRC-32 of each stored chunk, as it stands in the file"),
    "pts_s": ("(N,) f8", "time of each frame in seconds; flow i goes from frame i to i + 1"),
    "rgb_jpeg": ("(bytes,) u1", "the N frames as JPEG, one after the other; absent without RGB"),
    "rgb_offsets": ("(N + 1,) u8", "frame i is rgb_jpeg[rgb_offsets[i]:rgb_offsets[i + 1]]"),
    "rgb_crc32": ("(N,) u4", "CRC-32 of each JPEG"),
}

ATTRIBUTES = {
    "format": ("text", f'"{FORMAT}"'),
    "format_version": ("integer", f"{FORMAT_VERSION}"),
    "recipe": ("text", "canonical JSON of the recipe; the folder's name is its id"),
    "source_name": ("text", "name of the video when it was computed"),
    "source_sha256": ("text", "digest of the bytes of the video"),
    "source": ("text", "JSON: codec, pixel format, size, rotation, average rate of the video"),
    "num_frames": ("integer", "N"),
    "height": ("integer", "H in px"),
    "width": ("integer", "W in px"),
    "codec": ("text", '"jpegls" or "zstd"'),
    "codec_level": ("integer", "level of zstd; NEAR of JPEG-LS"),
    "code_zero": ("integer", "code of zero displacement; displacement = (code − zero) · step"),
    "code_step_px": ("float", "px per code; 0 for f16, whose values are px themselves"),
    "bound_px": ("float", "displacements beyond ±bound were clipped; 0 for none"),
    "rounding": ("text", "rule from displacement to code"),
    "clipped_share": ("float", "share of components that were clipped"),
    "zero_share": ("float", "share of vectors whose codes are zero, before NEAR"),
    "mean_magnitude_px": ("float", "mean length of the vectors before they were coded"),
    "problem": ("text", "what was wrong with the video; empty for nothing"),
    "software": ("text", "JSON: versions of flowpipe and of the libraries that took part"),
    "content_sha256": (
        "text",
        "SHA-256 of all other attributes (canonical JSON) and of the bytes of flow_crc32, pts_s, "
        "rgb_offsets and rgb_crc32",
    ),
}


FEATURES_FORMAT = "flowpipe-features"
FEATURES_VERSION = 1

FEATURES_DATASETS = {
    "features": (
        "(T, D) or (T, D, H', W') f2 or f4",
        "one row per snippet; some snippets per chunk, see `chunk_snippets`",
    ),
    "features_crc32": ("(chunks,) u4", "CRC-32 of each stored chunk, in the order of time"),
    "centre_s": ("(T,) f8", "middle of each snippet in seconds, on the clock of the video"),
    "span_s": ("(T, 2) f8", "each snippet's [start, stop) in seconds"),
}

FEATURES_ATTRIBUTES = {
    "format": ("text", f'"{FEATURES_FORMAT}"'),
    "format_version": ("integer", f"{FEATURES_VERSION}"),
    "recipe": ("text", "canonical JSON of the recipe; the folder's name is its id"),
    "source_name": ("text", "name of the video when it was computed"),
    "source_sha256": ("text", "digest of the bytes of the video (of the .npy file, if imported)"),
    "source": ("text", "JSON: what the entry was computed from; the whole recipe of the flow"),
    "num_snippets": ("integer", "T"),
    "fps": ("float", "frames per second of the frames that snippets are counted in"),
    "offset_frames": ("float", "middle of the first snippet, in such frames"),
    "step_frames": ("float", "from snippet to snippet, in such frames"),
    "snippet_frames": ("float", "length of a snippet, in such frames"),
    "chunk_snippets": ("integer", "snippets per chunk; the last chunk is filled up with zeros"),
    "codec": ("text", '"zstd", behind HDF5\'s byte shuffle'),
    "codec_level": ("integer", "level of zstd"),
    "problem": ("text", "what was wrong with the video; empty for nothing"),
    "software": ("text", "JSON: versions of flowpipe and of the libraries, the device"),
    "content_sha256": (
        "text",
        "SHA-256 of all other attributes (canonical JSON) and of the bytes of features_crc32, "
        "centre_s and span_s",
    ),
}


@dataclass(frozen=True)
class Layout:
    """One kind of entry: its format's name and version, data sets and attributes."""

    format: str
    version: int
    datasets: Mapping[str, tuple[str, str]]
    attributes: Mapping[str, tuple[str, str]]


FLOW = Layout(FORMAT, FORMAT_VERSION, DATASETS, ATTRIBUTES)
FEATURES = Layout(FEATURES_FORMAT, FEATURES_VERSION, FEATURES_DATASETS, FEATURES_ATTRIBUTES)


def datasets_table(layout: Layout = FLOW) -> str:
    """Give the Markdown table of the data sets."""
    rows = [f"| `{name}` | {shape} | {told} |" for name, (shape, told) in layout.datasets.items()]
    return "\n".join(["| data set | shape and type | meaning |", "|---|---|---|", *rows])


def attributes_table(layout: Layout = FLOW) -> str:
    """Give the Markdown table of the attributes."""
    rows = [f"| `{name}` | {kind} | {told} |" for name, (kind, told) in layout.attributes.items()]
    return "\n".join(["| attribute | type | meaning |", "|---|---|---|", *rows])
