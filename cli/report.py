"""`flowpipe report`."""

from pathlib import Path

import click

from .options import out_option
from .output import printable


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@out_option("The page. [default: RUN/report.html]")
def report(run: Path, out: Path | None) -> None:
    """Write the page of a finished RUN: one HTML file that needs nothing else."""
    from flowpipe.experiment.experiment import Experiment

    click.echo(printable(str(Experiment.of_run(run).report(out))))
