"""`flowpipe cache report`."""

from dataclasses import asdict
from pathlib import Path

import click

from ..output import print_json, print_table, progress_line, say
from .common import cache_argument, json_option, recipe_option


@click.command()
@cache_argument
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page.")
@recipe_option
@json_option
def report(path: Path, html: Path | None, recipe: str | None, as_json: bool) -> None:
    """Summarise the quality of a cache: clipped and still shares, magnitudes, videos to look at.

    Everything is read from headers and checksums, so that it takes as long as ls. Exit status: 0
    all entries can be read, 1 some cannot.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.quality import quality

    with progress_line("report") as update:
        result = quality(open_cache(path, recipe=recipe), update)
    if html is not None or not as_json:
        from flowpipe.report.quality import total_rows, write_quality_page
    if html is not None:
        write_quality_page(html, str(path), result)
        say(f"page: {html}")
    if as_json:
        record = {"cache": str(path), "totals": result.totals(), "histogram": result.histogram()}
        videos = [asdict(video) for video in result.videos]
        print_json(record | {"videos": videos, "failures": [asdict(f) for f in result.failures]})
    else:
        print_table("", ("whole cache", ""), total_rows(result))
        rows = [(f"{span} px", str(count)) for span, count in result.histogram()]
        print_table("", ("mean magnitude", "videos"), rows)
        looked = [(video.name, "; ".join(video.suspicions)) for video in result.suspicious]
        if looked:
            print_table("", ("to look at", "why"), looked, text_columns=2)
        if result.failures:
            failed = [(row.name, row.reason) for row in result.failures]
            print_table("", ("without entry", "reason"), failed, text_columns=2)
    click.get_current_context().exit(1 if result.totals()["damaged"] else 0)
