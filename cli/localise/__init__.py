"""`flowpipe localise`: one file a command."""

import click

from .eval import evaluate


@click.group()
def localise() -> None:
    """Say when what happens in long videos, and how well."""


localise.add_command(evaluate, "eval")
