"""The page of every command, made from what `--help` prints."""

from collections.abc import Iterator

import click

from flowpipe.cli.main import app

WIDTH = 80


def walk(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """Yield the contexts of a command and of all below it, in the order of their lists."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, click.Context(below, parent=context, info_name=name))


def contexts() -> Iterator[click.Context]:
    """Yield the context of `flowpipe` and of each of its commands."""
    settings = {**app.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return walk(app, click.Context(app, info_name="flowpipe", **settings))


def commands_page() -> str:
    """Return the commands as Markdown: a heading and the help of each."""
    parts = []
    for context in contexts():
        level = 2 if context.parent is None else context.command_path.count(" ") + 1
        heading = f"{'#' * level} {context.command_path}"
        parts += [heading, f"```text\n{context.get_help()}\n```"]
    return "\n\n".join(parts) + "\n"
