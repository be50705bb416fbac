"""`flowpipe verify`."""

from pathlib import Path

import click

from .options import json_option
from .output import counted, print_json, printable, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def verify(run: Path, as_json: bool) -> None:
    """Check that every file of a RUN is what was written: settings, results, weights, scores.

    RUN may be an exported file.
    Its cache is checked by `flowpipe cache verify`. Exit status: 0 all are well, 1 something is
    wrong, 2 no run.
    """
    from flowpipe.experiment.verify import verify_run

    findings = verify_run(run)
    wrong = [finding for finding in findings if finding.problem]
    if as_json:
        record = [{"file": str(finding.path), "problem": finding.problem} for finding in wrong]
        print_json({"run": str(run), "checked": len(findings), "wrong": record})
    else:
        for finding in wrong:
            click.echo(printable(finding.problem))
        say(f"{counted(len(findings), 'file', 'files')} checked, {len(wrong)} wrong")
    click.get_current_context().exit(1 if wrong else 0)
