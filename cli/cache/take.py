"""`flowpipe cache import`."""

from pathlib import Path
from typing import Any

import click

from ..features import as_record, print_failures, print_result
from ..output import print_json, progress_line
from .common import json_option


@click.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The cache.")
@click.option("--name", required=True, help="What the features are called in it.")
@click.option("--fps", required=True, type=float, metavar="F", help="Frames per second.")
@click.option("--stride", "clip_step", required=True, type=float, help="Frames from row to row.")
@click.option(
    "--offset", required=True, type=float, help="Middle of the first row's snippet, in frames."
)
@click.option("--frames", type=float, help="Frames a snippet covers. [default: 2 × offset]")
@click.option(
    "--dtype",
    "storage",
    type=click.Choice(["f16", "f32"]),
    default="f32",
    show_default=True,
    help="Precision in the cache.",
)
@json_option
def take(folder: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Take features made elsewhere, FOLDER's .npy files (T×D), into a cache.

    A file's path without .npy is the video's name; folders and extensions that annotations have
    beside may be missing. Exit status: 0 all were taken, 1 some not, 2 misuse.
    """
    from flowpipe.features.interchange import import_features

    with progress_line("import") as update:
        result = import_features(
            folder,
            out,
            on_progress=lambda p: update(p.share, f"{p.finished}/{p.videos}"),
            **options,
        )
    if as_json:
        print_json(as_record(result))
    else:
        print_result(result, out)
    print_failures(result)
    click.get_current_context().exit(1 if result.failed else 0)
