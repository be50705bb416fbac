"""What a cache is worth: clipped shares, still fields, magnitudes, partial and failed videos.

Of features: how many chunks of them repeat the one before, which features of a video that moves
do not.

All from headers and checksums: no field is decoded.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from flowpipe.cache.cache import Cache
from flowpipe.cache.codec import ZSTD_LEVEL, encode_field, to_stored
from flowpipe.cache.entry import Entry
from flowpipe.cache.manifest import FailureRow
from flowpipe.errors import FlowpipeError
from flowpipe.flow.quantise import Quantiser

EDGES_PX = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Of the histogram of mean magnitudes; the last bin is open."""

MOST_CLIPPED = 0.01
MOST_STILL = 0.2
LEAST_MEAN_PX = 0.02
LONGEST_STEP = 10.0
FEWEST_FLOWS = 5


@dataclass(frozen=True)
class VideoQuality:
    """One entry. `still_share` is the share of fields that are zero everywhere: repeated frames.

    Of features it is the share of chunks that are equal to the one before. `problem` is what was
    wrong with the video when it was decoded, `damage` why the entry cannot be read, `suspicions`
    what a person should look at.
    """

    name: str
    recipe: str
    num_flows: int = 0
    num_snippets: int = 0
    clipped_share: float = 0.0
    zero_share: float = 0.0
    still_share: float = 0.0
    mean_magnitude_px: float = 0.0
    problem: str = ""
    damage: str = ""
    suspicions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quality:
    """All entries of a cache, worst first, and the videos that have none."""

    videos: tuple[VideoQuality, ...]
    failures: tuple[FailureRow, ...]

    @property
    def sound(self) -> list[VideoQuality]:
        """Those that can be read."""
        return [video for video in self.videos if not video.damage]

    @property
    def suspicious(self) -> list[VideoQuality]:
        return [video for video in self.videos if video.suspicions]

    def mean(self, field: str) -> float:
        """Mean of a number over all fields of flow of the cache."""
        flows = sum(video.num_flows for video in self.sound)
        total = sum(float(getattr(v, field)) * v.num_flows for v in self.sound)
        return total / max(1, flows)

    def histogram(self) -> list[tuple[str, int]]:
        """Return (range in px, videos) of the mean magnitudes."""
        means = [video.mean_magnitude_px for video in self.sound if not video.num_snippets]
        counts, _ = np.histogram(means, [*EDGES_PX, np.inf])
        ranges = [f"{a:g}–{b:g}" for a, b in pairwise(EDGES_PX)]
        return list(zip([*ranges, f"{EDGES_PX[-1]:g} and more"], counts.tolist(), strict=True))

    def totals(self) -> dict[str, float]:
        """Return the numbers of the whole cache."""
        return {
            "videos": len(self.videos),
            "flows": sum(video.num_flows for video in self.sound),
            "snippets": sum(video.num_snippets for video in self.sound),
            "failed": len(self.failures),
            "damaged": len(self.videos) - len(self.sound),
            "partial": sum(bool(video.problem) for video in self.sound),
            "suspicious": len(self.suspicious),
            "clipped_share": self.mean("clipped_share"),
            "zero_share": self.mean("zero_share"),
            "still_share": self.mean("still_share"),
            "mean_magnitude_px": self.mean("mean_magnitude_px"),
        }


def quality(cache: Cache, on_progress: Callable[[float, str], None] | None = None) -> Quality:
    """Look at all entries of a cache.

    Parameters
    ----------
    cache : Cache
    on_progress : callable, optional
        Called with (share done, name of a video).
    """
    rows = cache.rows()
    seen: dict[tuple[str, str, str], VideoQuality] = {}
    for position, row in enumerate(rows):
        if on_progress is not None:
            on_progress(position / len(rows), row.name)
        try:
            video = quality_of(cache.entry_of(row))
        except FlowpipeError as error:
            suspicions = ("cannot be read",)
            video = VideoQuality(row.name, row.recipe, damage=str(error), suspicions=suspicions)
        seen[row.name, row.recipe, row.digest] = video
    worst_first = sorted(seen.values(), key=lambda v: (not v.damage, -len(v.suspicions), v.name))
    return Quality(tuple(worst_first), tuple(cache.open_failures()))


def quality_of(entry: Entry) -> VideoQuality:
    """Look at one entry."""
    steps_s = np.diff(entry.pts_s)
    gap = len(steps_s) > 1 and bool(steps_s.max() > LONGEST_STEP * np.median(steps_s))
    rules: list[tuple[bool, str]] = [
        (gap, f"a gap of {steps_s.max(initial=0.0):.1f} s in time"),
        (bool(entry.problem), entry.problem),
    ]
    if "features" in entry.tracks:
        return _quality_of_features(entry, rules)
    header = entry.attributes
    still = 0.0
    if entry.num_flows:
        crc32 = _crc32_of_zero(
            entry.quantiser,
            str(header["codec"]),
            int(header["codec_level"]),
            entry.height,
            entry.width,
        )
        still = float((entry.small["flow_crc32"] == crc32).mean())
    clipped, mean_px = float(header["clipped_share"]), float(header["mean_magnitude_px"])
    bound_px = entry.quantiser.bound_px
    rules = [
        (clipped > MOST_CLIPPED, f"{clipped:.1%} of components clipped; take a larger bound"),
        (still > MOST_STILL, f"{still:.0%} of fields are zero: repeated frames, or a still video"),
        (mean_px < LEAST_MEAN_PX and still < 1, f"mean magnitude {mean_px:.3f} px: hardly motion"),
        (
            bound_px is not None and mean_px > bound_px / 2,
            f"mean magnitude {mean_px:.1f} px, near the bound",
        ),
        (entry.num_flows < FEWEST_FLOWS, f"{entry.num_flows} fields only"),
        *rules,
    ]
    return VideoQuality(
        entry.name,
        entry.recipe.id,
        entry.num_flows,
        clipped_share=clipped,
        zero_share=float(header["zero_share"]),
        still_share=still,
        mean_magnitude_px=mean_px,
        problem=entry.problem,
        suspicions=_suspicions(rules),
    )


def _quality_of_features(entry: Entry, rules: list[tuple[bool, str]]) -> VideoQuality:
    crc32 = entry.small["features_crc32"].astype(np.int64)
    repeated = float((np.diff(crc32) == 0).mean()) if len(crc32) > 1 else 0.0
    rules = [(repeated > 0, f"{repeated:.0%} of chunks repeat the one before"), *rules]
    return VideoQuality(
        entry.name,
        entry.recipe.id,
        num_snippets=entry.num_snippets,
        still_share=repeated,
        problem=entry.problem,
        suspicions=_suspicions(rules),
    )


def _suspicions(rules: list[tuple[bool, str]]) -> tuple[str, ...]:
    return tuple(sentence for holds, sentence in rules if holds)


@lru_cache(maxsize=512)
def _crc32_of_zero(quantiser: Quantiser, codec: str, level: int, height: int, width: int) -> int:
    """Return the CRC-32 of a chunk that holds no motion at all; codecs are deterministic."""
    codes = to_stored(quantiser.encode(np.zeros((2, height, width), np.float32)))
    chunk, _ = encode_field(
        codes.reshape(2 * height, width),
        codec,
        near=quantiser.near if codec == "jpegls" else 0,
        level=level if codec == "zstd" else ZSTD_LEVEL,
    )
    return zlib.crc32(chunk)
