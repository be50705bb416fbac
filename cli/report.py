"""`flowpipe report`."""

from pathlib import Path

import click

from .options import out_option
from .output import printable


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN|MODEL")
@out_option("The page. [default: RUN/report.html]")
def report(run: Path, out: Path | None) -> None:
    """Write the page of a finished RUN or an exported MODEL: one HTML file, all inside."""
    from flowpipe.experiment.sharing import open_run

    target = out or (Path(f"{run.stem}.html") if run.is_file() else None)
    click.echo(printable(str(open_run(run).report(target))))
