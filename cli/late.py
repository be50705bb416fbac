"""A group of commands whose modules are imported when they are run."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from flowpipe.errors import nearest_name

# Command → (module, one line), or ("module:function", one line) where it is called otherwise.
Commands = Mapping[str, tuple[str, str]]


class LateGroup(click.Group):
    """A group that lists its commands without importing them.

    Parameters
    ----------
    table : mapping of str to (str, str)
        `Commands`.
    package : str
        Where the modules are.
    """

    def __init__(self, *arguments: Any, table: Commands, package: str | None, **options: Any):
        super().__init__(*arguments, **options)
        self.table, self.package = table, package

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module, _, function = self.table[name][0].partition(":")
        imported = importlib.import_module(f".{module}", self.package)
        command: click.Command = getattr(imported, function or module)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name not in self.table and not name.startswith("-"):
            context.fail(f"No such command '{name}'{nearest_name(name, self.table)}.")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])
