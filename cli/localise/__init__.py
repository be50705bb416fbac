"""`flowpipe localise`: one file a command."""

import click

from .eval import evaluate
from .predict import predict
from .train import train


@click.group()
def localise() -> None:
    """Say when what happens in long videos, and how well."""


localise.add_command(train)
localise.add_command(predict)
localise.add_command(evaluate, "eval")
