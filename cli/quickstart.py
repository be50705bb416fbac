"""`flowpipe quickstart`."""

from pathlib import Path

import click

from .options import json_option, out_option
from .output import duration, print_json, print_table, progress_line, say


@click.command()
@out_option("Folder for videos, cache, run and report.", default=Path("flowpipe-quickstart"))
@json_option
def quickstart(out: Path, as_json: bool) -> None:
    """Run the whole pipeline on generated videos: extract, train two streams, fuse, report.

    Nothing is downloaded. A second run reuses the cache and the trained streams.
    """
    say(
        "flowpipe quickstart: 297 videos of 3 textures × 3 motions. A still frame shows only the "
        "texture,\nflow only the motion: each stream alone can name a third of the nine classes."
    )
    from flowpipe.experiment.quickstart import quickstart as run

    with progress_line("quickstart") as update:
        result = run(out, on_message=say, on_progress=update)
    if as_json:
        print_json(result.as_record())
        return
    record = result.as_record()
    own = list(result.run.factors.values())
    rows = [
        ("spatial (frames)", f"{record['accuracy']['spatial']:.1%}", f"{own[0]:.1%} of textures"),
        ("temporal (flow)", f"{record['accuracy']['temporal']:.1%}", f"{own[1]:.1%} of motions"),
        ("fused, sum of log p", f"{record['fusions']['logsum']:.1%}", ""),
        ("fused, average", f"{record['fusions']['average']:.1%}", ""),
    ]
    print_table(
        f"{record['videos']} test videos, nine classes", ("", "accuracy", "its own factor"), rows
    )
    say(", ".join(f"{name} {duration(value)}" for name, value in result.seconds.items()))
    if result.reused:
        say("the cache was reused: no flow was computed")
    say(f"report: {result.page}")
