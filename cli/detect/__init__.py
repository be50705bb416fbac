"""`flowpipe detect`: one file a command."""

import click

from .eval import evaluate


@click.group()
def detect() -> None:
    """Say who does what, where, and how well."""


detect.add_command(evaluate, "eval")
