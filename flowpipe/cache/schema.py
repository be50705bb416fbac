"""What stands in an entry file: data sets and attributes, as FORMAT.md shows them.

FORMAT.md holds the tables that the functions here return; a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = "flowpipe-entry"
FORMAT_VERSION = 1

TRAILER_MAGIC = b"flowpipe-sha256:"
TRAILER_BYTES = len(TRAILER_MAGIC) + 32

# Registered HDF5 filters, https://github.com/HDFGroup/hdf5_plugins
FILTER_SHUFFLE = 2
FILTER_ZSTD = 32015
FILTER_JPEGLS = 32018

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
    "confidence": (
        "(F, ⌈H/8⌉, ⌈W/8⌉) u1",
        "how far to trust cells of 8×8 px: 0 (least) to 15; one field per chunk; absent without",
    ),
    "confidence_crc32": ("(F,) u4", "CRC-32 of each stored chunk of confidence"),
    "cuts": (
        "(F,) u1",
        "1 where a field leads over a cut, and is zero; absent where none was sought",
    ),
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
        "rgb_offsets, rgb_crc32, confidence_crc32 and cuts",
    ),
}

PACK_FORMAT = "flowpipe-pack"
PACK_VERSION = 1  # of flow alone; a pack with features has 2, and the tables of PACK_FEATURES too
PACK_FEATURES_VERSION = 2
PACK_MARKS_VERSION = 3  # with marks of the fields, PACK_MARKS; the tables of features are there too
PACK_VERSIONS = (PACK_VERSION, PACK_FEATURES_VERSION, PACK_MARKS_VERSION)
PACK_SUFFIX = ".h5"

# One-dimensional data sets of a pack: (type, meaning).
PACK_TABLES: dict[str, tuple[Any, str]] = {
    "recipes": ("u1", "recipe.json of each recipe, one line each"),
    "failures": ("u1", "failures.jsonl as it was"),
    "row_text": ("u1", "rows of the manifest as JSON, with the number of their `entry`"),
    "rows": (
        [("start", "<i8"), ("bytes", "<i8"), ("crc32", "<i8")],
        "place and CRC-32 of each row in row_text, in the order of names",
    ),
    "headers": ("u1", "all attributes of the entries, as JSON"),
    "entries": (
        [
            ("header_start", "<i8"),
            ("header_bytes", "<i8"),
            ("num_frames", "<i8"),
            ("form", "<i8"),
            ("form_start", "<i8"),
            ("field_start", "<i8"),
            ("frame_start", "<i8"),
            ("rgb_offset_start", "<i8"),
            ("rgb_start", "<i8"),
        ],
        "of each entry: its header; N; its F fields are flow/<form>[form_start:form_start + F]; "
        "where it begins in the tables below (rgb: −1 for none)",
    ),
    "chunks": (
        [("offset", "<i8"), ("bytes", "<i8"), ("filter_mask", "<i8")],
        "place of each field's chunk in the file",
    ),
    "flow_crc32": ("<u4", "as in an entry, one after the other"),
    "pts_s": ("<f8", "as in an entry, one after the other"),
    "rgb_offsets": ("<u8", "as in an entry; count from rgb_start in rgb_jpeg"),
    "rgb_crc32": ("<u4", "as in an entry, and one unused value after each"),
    "rgb_jpeg": ("u1", "as in an entry, one after the other"),
}

PACK_FEATURES: dict[str, tuple[Any, str]] = {
    "networks": ("u1", "networks.jsonl as it was"),
    "feature_entries": (
        [
            ("header_start", "<i8"),
            ("header_bytes", "<i8"),
            ("num_snippets", "<i8"),
            ("form", "<i8"),
            ("form_start", "<i8"),
            ("chunk_start", "<i8"),
            ("snippet_start", "<i8"),
            ("channels", "<i8"),
            ("rows", "<i8"),
            ("columns", "<i8"),
        ],
        "of each feature entry: its header; T; its rows are "
        "features/<form>[form_start:form_start + T]; where it begins in the tables below; D, H', "
        "W' (0 without maps)",
    ),
    "feature_chunks": (
        [("offset", "<i8"), ("bytes", "<i8"), ("filter_mask", "<i8")],
        "place of each chunk of features in the file",
    ),
    "features_crc32": ("<u4", "as in an entry, one after the other"),
    "centre_s": ("<f8", "as in an entry, one after the other"),
    "span_s": ("<f8", "as in an entry, start and stop one after the other"),
}


# One value for each of `flow_crc32`; zeros for an entry without marks.
PACK_MARKS: dict[str, tuple[Any, str]] = {
    "confidence_chunks": (
        [("offset", "<i8"), ("bytes", "<i8"), ("filter_mask", "<i8")],
        "place of each field's chunk of confidence in the file",
    ),
    "confidence_crc32": ("<u4", "as in an entry, one after the other"),
    "cuts": ("u1", "as in an entry, one after the other"),
}


def pack_tables(version: int) -> dict[str, tuple[Any, str]]:
    """Return the one-dimensional data sets of a pack."""
    tables = dict(PACK_TABLES)
    if version >= PACK_FEATURES_VERSION:
        tables |= PACK_FEATURES
    if version >= PACK_MARKS_VERSION:
        tables |= PACK_MARKS
    return tables


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
    """One kind of entry: its format's name and version, data sets and attributes.

    `track` is the data set in compressed chunks, beside which those of `more_tracks` may be;
    `small` (name to type) are those that are read whole when an entry is opened.
    """

    format: str
    version: int
    track: str
    datasets: Mapping[str, tuple[str, str]]
    small: Mapping[str, str]
    attributes: Mapping[str, tuple[str, str]]
    more_tracks: tuple[str, ...] = ()


FLOW = Layout(
    FORMAT,
    FORMAT_VERSION,
    "flow",
    DATASETS,
    {
        "flow_crc32": "<u4",
        "pts_s": "<f8",
        "rgb_offsets": "<u8",
        "rgb_crc32": "<u4",
        "confidence_crc32": "<u4",
        "cuts": "u1",
    },
    ATTRIBUTES,
    ("confidence",),
)
FEATURES = Layout(
    FEATURES_FORMAT,
    FEATURES_VERSION,
    "features",
    FEATURES_DATASETS,
    {"features_crc32": "<u4", "centre_s": "<f8", "span_s": "<f8"},
    FEATURES_ATTRIBUTES,
)
LAYOUTS = {layout.format: layout for layout in (FLOW, FEATURES)}


def datasets_table(layout: Layout = FLOW) -> str:
    """Return the Markdown table of the data sets."""
    return _table("data set | shape and type | meaning", layout.datasets)


def attributes_table(layout: Layout = FLOW) -> str:
    """Return the Markdown table of the attributes."""
    return _table("attribute | type | meaning", layout.attributes)


def pack_table(tables: Mapping[str, tuple[Any, str]] = PACK_TABLES) -> str:
    """Return the Markdown table of the tables of a pack."""
    rows = {
        name: (kind if isinstance(kind, str) else ", ".join(field for field, _ in kind), meaning)
        for name, (kind, meaning) in tables.items()
    }
    return _table("data set | type, or fields (i8 each) | meaning", rows)


def _table(header: str, rows: Mapping[str, tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {kind.lstrip('<')} | {text} |" for name, (kind, text) in rows.items()]
    return "\n".join([f"| {header} |", "|---|---|---|", *lines])
