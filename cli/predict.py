"""`flowpipe predict`."""

from pathlib import Path

import click

from .options import json_option
from .output import print_json, print_table, progress_line, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option("--fold", help="The fold whose networks are used. [default: the run's first]")
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show."
)
@json_option
def predict(run: Path, videos: tuple[str, ...], fold: str | None, top: int, as_json: bool) -> None:
    """Name the actions in new videos with the networks of a finished RUN.

    Flow that is not in the run's cache is computed by its recipe and kept in RUN/predict.cache.
    """
    from flowpipe.experiment.experiment import Experiment

    with progress_line("predict") as update:
        experiment = Experiment.of_run(
            run, on_progress=lambda stage, share, text: update(share, text)
        )
        result = experiment.predict(videos, fold)
    for failure in result.failures:
        say(f"{failure.name}: {failure.reason}")
    if as_json:
        print_json(result.as_record(top))
    else:
        for video, rows in result.tables(top).items():
            print_table(video, ("", *result.names), rows)
    click.get_current_context().exit(1 if result.failures else 0)
