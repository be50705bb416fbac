"""`flowpipe detect`: one file a command."""

import click

from .eval import evaluate
from .predict import predict
from .train import train


@click.group()
def detect() -> None:
    """Say who does what, where, and how well."""


detect.add_command(train)
detect.add_command(predict)
detect.add_command(evaluate, "eval")
