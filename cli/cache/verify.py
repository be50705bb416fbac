"""`flowpipe cache verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import counted, print_json, printable, progress_line, say
from .common import cache_argument, json_option

if TYPE_CHECKING:
    from flowpipe.cache import Cache


@click.command()
@cache_argument
@click.option("--deep", is_flag=True, help="Also decode every track and digest every file.")
@click.option(
    "--recompute",
    type=click.IntRange(1),
    metavar="N",
    help="Also compute N entries of flow anew, drawn at random, and compare.",
)
@json_option
def verify(path: Path, deep: bool, recompute: int | None, as_json: bool) -> None:
    """Check that every entry is what was written.

    Exit status: 0 all are well, 1 something is wrong: each problem is listed with its way out.
    Files that are no part of the cache, or that a killed process left, are listed too; they do
    no harm.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.hdf import DAMAGED
    from flowpipe.cache.verify import damaged_texts, left_over
    from flowpipe.cache.verify import verify as findings_of

    opened = open_cache(path)
    wanted = {opened.entry_path(row): row.name for row in opened.rows()}
    expected = len({(row.recipe, row.digest) for row in opened.rows()})
    problems: list[dict[str, Any]] = []
    checked: set[Path] = set()
    count = unread = 0
    with progress_line("verify") as update:
        for finding in findings_of(path, deep=deep):
            checked.add(finding.path)
            count += not finding.unread
            unread += finding.unread
            update(
                min(1.0, (count + unread) / max(1, expected)), counted(count, "entry", "entries")
            )
            if finding.problem:
                name = finding.name if opened.is_packed else wanted.get(finding.path)
                problems.append(_problem(finding.path, name, finding.problem))
    for missing in sorted(set(wanted) - checked):
        reason = _hidden(missing)
        unread += bool(reason)
        why = f"cannot be read: {reason}" if reason else "is gone; compute it again"
        problems.append(_problem(missing, wanted[missing], f"{missing} {why}"))
    others = [] if opened.is_packed else left_over(path)
    for finding in [] if opened.is_packed else damaged_texts(path):
        problems.append(_problem(finding.path, finding.name, finding.problem))
    if recompute is not None:
        problems += _recomputed(opened, recompute)
    if as_json:
        record = {"cache": str(path), "deep": deep, "checked": count, "unread": unread}
        record["wrong"] = problems
        print_json(record | {"left_over": [str(finding.path) for finding in others]})
    else:
        for problem in problems:
            click.echo(printable(f"{problem['name'] or 'no name'}: {problem['problem']}"))
        for finding in others:
            say(f"note: {finding.problem}")
        if unnamed := len(checked - set(wanted)):
            entries = counted(unnamed, "entry has", "entries have")
            say(f"note: {entries} no name; the next extract of the video gives it one")
        how = "every byte" if deep else "headers; --deep reads every byte"
        wrong = f"{len(problems) - unread} wrong"
        if unread:
            wrong += f", {unread} could not be read"
        say(f"{counted(count, 'entry', 'entries')} checked ({how}), {wrong}")
    if any(DAMAGED in problem["problem"] for problem in problems):
        say(
            "For an entry that is wrong: delete its file, then give the extract command again; "
            "what is well is kept."
        )
    click.get_current_context().exit(1 if problems else 0)


def _hidden(missing: Path) -> str:
    """Return why the folder of an entry cannot be looked into; "" where the entry is gone."""
    try:
        missing.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error.strerror)
    return "its folder cannot be listed"


def _recomputed(opened: "Cache", count: int) -> list[dict[str, Any]]:
    """Compute entries anew, tell how it went, and return what differs."""
    from flowpipe.extraction.recompute import recompute as run

    differing, computed = [], 0
    with progress_line("recompute") as update:
        for result in run(opened, count, on_progress=update):
            computed += not result.note
            if result.note:
                say(f"note: {result.name} cannot be computed anew: {result.note}")
            if result.problem:
                differing.append(_problem(opened.path, result.name, result.problem))
    entries = counted(computed, "entry", "entries")
    say(f"{entries} computed anew, {len(differing)} differ")
    return differing


def _problem(path: Path, name: str | None, problem: str) -> dict[str, Any]:
    return {"name": name, "file": str(path), "problem": problem}
