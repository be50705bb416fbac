"""The page of a cache: what it is worth, and which videos a person should look at."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from flowpipe.cache.quality import Quality
from flowpipe.report.page import table_html, whole_page, write_aside

MOST_ROWS = 200


def write_quality_page(path: Path, title: str, found: Quality) -> Path:
    """Write the quality of a cache as one HTML file, whole or not at all.

    Parameters
    ----------
    path : Path
    title : str
        Names the cache.
    found : Quality
    """
    totals = found.totals()
    headline = (
        f"{totals['videos']} videos, {totals['flows']} flows; {totals['suspicious']} to look at, "
        f"{totals['failed']} failed"
    )
    sections = [
        ("Whole cache", table_html([], total_rows(found), kind="pairs")),
        ("Mean magnitude", _histogram_html(found)),
        ("To look at", _suspicious_html(found)),
        ("Videos without flow", _failures_html(found)),
    ]
    return write_aside(path, whole_page(title, headline, [], sections))


def total_rows(found: Quality) -> list[list[str]]:
    """Give (what, value) as people read it."""
    shares = {"clipped_share", "zero_share", "still_share"}
    names = {
        "clipped_share": "clipped components",
        "zero_share": "vectors stored as zero",
        "still_share": "fields that are zero everywhere",
        "mean_magnitude_px": "mean magnitude",
    }
    rows = []
    for key, value in found.totals().items():
        told = f"{value:.3%}" if key in shares else str(value)
        rows.append([names.get(key, key), f"{value:.3f} px" if key.endswith("_px") else told])
    return rows


def _histogram_html(found: Quality) -> str:
    """One bar per range; the bars are text, so that they are also read aloud and copied."""
    histogram = found.histogram()
    most = max(1, *(count for _, count in histogram))
    rows = [[f"{escape(span)} px", str(count), _bar(count / most)] for span, count in histogram]
    return table_html(["mean of a video", "videos", ""], rows)


def _bar(share: float) -> str:
    width = 240 * share
    return (
        '<svg width="240" height="12" role="img" aria-label="bar">'
        f'<path class="bar" style="stroke-width:10" d="M0 6H{width:.1f}"/></svg>'
    )


def _suspicious_html(found: Quality) -> str:
    rows = [
        [escape(video.name), str(video.num_flows), escape("; ".join(video.suspicions))]
        for video in found.suspicious
    ]
    return table_html(["video", "flows", "why"], _some(rows), kind="mistakes")


def _failures_html(found: Quality) -> str:
    rows = [[escape(row.name), escape(row.reason)] for row in found.failures]
    return table_html(["video", "reason"], _some(rows), kind="mistakes")


def _some(rows: list[list[str]]) -> Iterator[list[str]]:
    yield from rows[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        more = [f"and {len(rows) - MOST_ROWS} more; --json lists all"]
        yield [*more, *[""] * (len(rows[0]) - 1)]
