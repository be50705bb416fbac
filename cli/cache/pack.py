"""`flowpipe cache pack` and `unpack`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..output import byte_size, counted, print_json, printable, progress_line, say
from .common import cache_argument, json_option, recipe_option

if TYPE_CHECKING:
    from flowpipe.cache.pack import Packed


@click.command()
@cache_argument
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The packed file, *.h5."
)
@recipe_option
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@json_option
def pack(path: Path, out: Path, recipe: str | None, overwrite: bool, as_json: bool) -> None:
    """Join a cache directory into one HDF5 file, without compressing anew.

    All commands and open_cache read the file like the directory, which is left as it is. Further
    videos go into the directory; then pack it again.
    """
    from flowpipe.cache.pack import pack as run

    with progress_line("pack") as update:
        done = run(path, out, recipe=recipe, overwrite=overwrite, on_progress=update)
    for name in done.missing:
        say(f"note: {name}: its entry is gone; left out")
    _print_packed(done, out, as_json)


@click.command()
@cache_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The cache directory.")
@json_option
def unpack(path: Path, out: Path, as_json: bool) -> None:
    """Make a cache directory of a packed file; entries that are there already are left alone."""
    from flowpipe.cache.pack import unpack as run

    with progress_line("unpack") as update:
        done = run(path, out, on_progress=update)
    _print_packed(done, out, as_json)


def _print_packed(done: "Packed", out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(out), **asdict(done)})
        return
    parts = [counted(done.entries, "entry", "entries"), counted(done.flows, "flow", "flows")]
    if done.snippets:
        parts.append(counted(done.snippets, "snippet of features", "snippets of features"))
    click.echo(printable(f"{out}: {', '.join(parts)}, {byte_size(done.num_bytes)}"))
