"""`flowpipe cache`: a group of commands, one file each."""

import importlib

import click

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "ls": ("ls", "List the videos of a cache, and the recipes they were computed by."),
    "info": ("info", "Say how one video's entry was made: recipe, versions, sizes, clipped share."),
    "verify": ("verify", "Check that every entry is what was written."),
    "report": ("report", "Tell what a cache is worth: clipped and still shares, magnitudes."),
    "export": ("export", "Write entries in other tools' forms."),
    "import": ("take", "Take features made elsewhere, .npy files, into a cache."),
    "pack": ("pack", "Join a cache directory into one HDF5 file."),
    "unpack": ("pack", "Make a cache directory of a packed file."),
}


class CacheGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, "take" if name == "import" else name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=CacheGroup)
def cache() -> None:
    """List, inspect, verify, export and pack a cache; CACHE is a directory or a packed file."""
