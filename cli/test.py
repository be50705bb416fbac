"""`flowpipe test`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from flowpipe.training import TestOptions

from .options import json_option, out_option, parse_arguments, record_options
from .output import print_json, progress_line, say
from .train import print_results


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@record_options(TestOptions, only=["clips", "crops"], defaults=False)
@click.option("--flow", metavar="NAME", help="Test on the flow of another method.")
@click.option(
    "--flow-arg",
    "flow_parameters",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_arguments,
    help="A parameter of --flow; may be repeated.",
)
@click.option(
    "--other-flow", is_flag=True, help="Go on where that is not the flow that was trained on."
)
@out_option("Where scores go. [default: RUN/test]")
@json_option
def test(
    run: Path,
    out: Path | None,
    flow: str | None,
    flow_parameters: dict[str, Any],
    other_flow: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Test the streams of a finished RUN on its test videos again, and fuse.

    What is not given is as in the run.
    """
    from flowpipe.experiment.experiment import Experiment

    with progress_line("test") as update:
        experiment = Experiment.of_run(
            run, on_progress=lambda stage, share, text: update(share * (stage == "test"), text)
        )
        experiment.use_flow(flow, flow_parameters, other_flow=other_flow)
        given = {name: value for name, value in options.items() if value is not None}
        result = experiment.test(replace(experiment.settings.test, **given), out)
    if as_json:
        print_json(result.as_record())
    else:
        print_results(result)
        say(f"scores: {result.out / 'scores'}")
