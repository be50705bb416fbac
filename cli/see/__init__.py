"""`flowpipe see`: a group of commands, one file each."""

import importlib

import click

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "filters": ("filters", "Show the filters of a stream's first layer."),
    "why": ("why", "Show where and when in a video the evidence for a class lies."),
    "class": ("maximised", "Show what a class likes best, slow and fast."),
}


class SeeGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, COMMANDS[name][0])
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=SeeGroup)
def see() -> None:
    """Look into a trained RUN, or an exported MODEL (.flowpipe)."""
