"""The page of a cache: what it is worth, and which videos a person should look at."""

from pathlib import Path

from flowpipe.cache.quality import Quality
from flowpipe.report.page import write_page

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
    histogram = found.histogram()
    most = max(1, *(count for _, count in histogram))
    suspicious = [[v.name, str(v.num_flows), "; ".join(v.suspicions)] for v in found.suspicious]
    failures = [[row.name, row.reason] for row in found.failures]
    return write_page(
        path,
        "quality.html",
        title=title,
        headline=headline,
        notes=[],
        totals=total_rows(found),
        histogram=[(span, count, count / most) for span, count in histogram],
        suspicious=_first_rows(suspicious),
        failures=_first_rows(failures),
    )


def total_rows(found: Quality) -> list[list[str]]:
    """Return (what, value) as people read it."""
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


def _first_rows(rows: list[list[str]]) -> list[list[str]]:
    more = len(rows) - MOST_ROWS
    return (
        [*rows[:MOST_ROWS], [f"and {more} more", *[""] * (len(rows[0]) - 1)]] if more > 0 else rows
    )
