"""`flowpipe test`."""

from dataclasses import replace
from pathlib import Path

import click

from .options import json_option, out_option
from .output import print_json, progress_line, say
from .train import print_results


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--clips", type=int, help="Clips per video. [default: as in the run]")
@click.option("--crops", type=click.Choice(["center", "three", "five", "ten"]), help="Crops.")
@out_option("Write scores here too.")
@json_option
def test(run: Path, clips: int | None, crops: str | None, out: Path | None, as_json: bool) -> None:
    """Test the streams of a finished RUN on its test videos again, and fuse."""
    from flowpipe.experiment.pages import load_run
    from flowpipe.experiment.run import retest

    settings, results = load_run(run)
    changed = replace(
        settings.test,
        clips=clips or settings.test.clips,
        crops=crops or settings.test.crops,  # type: ignore[arg-type]
    )
    names = [str(fold["fold"]) for fold in results["folds"]]
    with progress_line("test") as update:
        result = retest(
            replace(settings, test=changed), run, names, out=out or run / "test", on_share=update
        )
    if as_json:
        print_json(result.as_record())
    else:
        print_results(result)
        say(f"scores: {result.out / 'scores'}")
