"""`flowpipe see`: a group of commands, one file each."""

import click

from ..late import LateGroup

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "filters": ("filters", "Show the filters of a stream's first layer."),
    "why": ("why", "Show where and when in a video the evidence for a class lies."),
    "class": ("maximised", "Show what a class likes best, slow and fast."),
}


@click.group(cls=LateGroup, table=COMMANDS, package=__package__)
def see() -> None:
    """Look into a trained RUN, or an exported MODEL (.flowpipe)."""
