"""What commands print: progress on stderr for people, tables or JSON on stdout."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

# The console of the bar that is shown, which moves it out of the way of a sentence.
_shown: list[Any] = []


def current_folder() -> list[str]:
    """Return the current folder; nothing where it has been deleted."""
    try:
        return [str(Path.cwd())]
    except FileNotFoundError:
        _load_torch()
        return []


def _load_torch() -> None:
    """Load torch from "/": its mathematics library ends the process in a folder that is gone."""
    here = os.open(".", os.O_RDONLY)
    os.chdir("/")
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("torch._dynamo")  # it asks for the folder too
    finally:
        os.fchdir(here)
        os.close(here)


def prepare_streams() -> None:
    """Have a standard stream for every descriptor, that refuses no character.

    Services and schedulers close them: the next file that is opened would get the number of a
    stream, and what is printed would go into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            opened = os.open(os.devnull, os.O_WRONLY if descriptor else os.O_RDONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
        elif descriptor and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if descriptor == 2 else "replace")


def say(text: str) -> None:
    """Print a line for people, on stderr."""
    if _shown:
        _shown[-1].print(printable(text), markup=False, highlight=False, soft_wrap=True)
    else:
        click.echo(printable(text), err=True)


def hanging(text: str) -> str:
    """Indent a sentence by two; on a terminal break it to its width, indented by four."""
    if not sys.stderr.isatty():
        return f"  {text}"
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False
    )


# Control characters, which a terminal obeys, and those that turn the direction of writing.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Write what must not reach a terminal as \uXXXX, which is also JSON's escape.

    That is control characters but tab and line feed, and bytes of a file name that are no UTF-8.
    """
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: object) -> str:
    r"""Write a text of a file's as `printable`, with line feeds and tabs as \u000a and \u0009."""
    return printable(str(text)).replace("\n", "\\u000a").replace("\t", "\\u0009")


def print_json(record: Any) -> None:
    """Print one JSON object on stdout."""
    click.echo(printable(json.dumps(record, ensure_ascii=False, default=str)))


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1
) -> None:
    """Print a table on stdout; numbers (all but the first `text_columns`) to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        justify: Literal["left", "right"] = "left" if position < text_columns else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(one_line, row))
    width = None if sys.stdout.isatty() else 160
    if title:
        click.echo(printable(title))  # not as the table's own, which is broken to the table's width
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)


@contextmanager
def progress_line(title: str) -> Iterator[Callable[[float, str], None]]:
    """Give `update(share done, text)`: a bar on a terminal, else a line every ten seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            # What does not fit is cut off, not broken into a second line.
            TextColumn(
                "{task.fields[text]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                markup=False,
            ),
        )
        # A bar that is gone when it is done leaves no ghost among the sentences.
        with Progress(*columns, console=console, transient=True, expand=True) as bar:
            task = bar.add_task(title, total=1.0, text="")
            _shown.append(console)
            try:
                yield lambda share, text: bar.update(task, completed=share, text=one_line(text))
            finally:
                _shown.pop()
        return
    yield _plain_lines(title)


RATE_WINDOW_S = 120.0


def _plain_lines(title: str) -> Callable[[float, str], None]:
    import time

    last = time.monotonic()
    # (time, share) of the last minutes: what a resumed run finds done took no time of this one.
    seen = deque([(last, 0.0)])

    def update(share: float, told: str) -> None:
        nonlocal last
        now = time.monotonic()
        seen.append((now, share))
        while len(seen) > 2 and seen[1][0] < now - RATE_WINDOW_S:
            seen.popleft()
        if now - last < 10:
            return
        last = now
        since, done = now - seen[0][0], share - seen[0][1]
        rest = f", about {duration(since * (1 - share) / done)} left" if done > 0 else ""
        say(f"{title}: {share:.0%}, {told}{rest}")

    return update


def duration(seconds: float) -> str:
    """Give a time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def num_asked(sources: Sequence[Path]) -> int:
    """Return how many videos were asked for, a source without any too."""
    from flowpipe.datasets import videos_of

    found, empty = videos_of([str(path) for path in sources])
    return len(found) + len(empty)


def counted(count: int, singular: str, plural: str) -> str:
    """Give "1 entry", "2 entries"."""
    return f"{count} {singular if count == 1 else plural}"


def byte_size(count: float) -> str:
    """Give a size as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
