"""`flowpipe localise`: a group of commands, one file each."""

import click

from ..late import LateGroup

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "train": ("train", "Train a localiser on long videos with annotated segments."),
    "predict": ("predict", "Say when what happens in videos."),
    "eval": ("eval:evaluate", "Measure detections against the truth."),
}


@click.group(cls=LateGroup, table=COMMANDS, package=__package__)
def localise() -> None:
    """Say when what happens in long videos, and how well."""
