"""`flowpipe cache`: a group of commands, one file each."""

import click

from ..late import LateGroup

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "ls": ("ls", "List the videos of a cache, and the recipes they were computed by."),
    "info": ("info", "Say how one video's entry was made: recipe, versions, sizes, clipped share."),
    "verify": ("verify", "Check that every entry is what was written."),
    "report": ("report", "Summarise its quality: clipped and still shares, magnitudes."),
    "export": ("export", "Write entries in other tools' forms."),
    "import": ("take", "Take features made elsewhere, .npy files, into a cache."),
    "pack": ("pack", "Join a cache directory into one HDF5 file."),
    "unpack": ("pack:unpack", "Make a cache directory of a packed file."),
}


@click.group(cls=LateGroup, table=COMMANDS, package=__package__)
def cache() -> None:
    """List, inspect, verify, export and pack a cache; CACHE is a directory or a packed file."""
