"""`flowpipe cache`: ls, info, verify, report, export, import, pack, unpack."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .features import import_npy, list_features, tell_features, write_features
from .output import byte_size, counted, print_json, print_table, printable, progress_line, say

if TYPE_CHECKING:
    from flowpipe.cache import Cache, Entry
    from flowpipe.cache.pack import Packed

# A literal copy of flowpipe.cache.export.FORMATS, whose import costs --help half a second.
FORMATS = ("tsn", "denseflow", "flo", "npy", "color-mp4", "color-png")
SHORT_ID = 8
# Likewise flowpipe.extraction's DEFAULT_RGB_QUALITY and flowpipe.cache.manifest's FAILURES_FILE.
RGB_QUALITY = 95
FAILURES_FILE = "failures.jsonl"
# What people look for first; the rest follows as the file has it.
FIRST = ("name", "label", "file", "bytes", "num_frames", "num_flows", "height", "width", "rgb")

cache_argument = click.argument("path", metavar="CACHE", type=click.Path(path_type=Path))
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)
recipe_option = click.option(
    "--recipe", metavar="ID", help="Only the entries of this recipe (the first digits will do)."
)


@click.group()
def cache() -> None:
    """List, inspect, verify, export and pack a cache; CACHE is a directory or a packed file."""


@cache.command()
@cache_argument
@recipe_option
@json_option
def ls(path: Path, recipe: str | None, as_json: bool) -> None:
    """List the videos of a cache, and the recipes they were computed by.

    An entry that cannot be read stands in the list with its problem. Exit status: 0 all entries
    can be read, 1 some cannot.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.features import holds_features

    if holds_features(path):
        list_features(path, recipe, as_json)
        return
    opened = open_cache(path, recipe=recipe)
    with progress_line("ls") as update:
        records = _records(opened, update)
    used = sorted({record["recipe"] for record in records})
    recipes = [
        {
            "id": identity,
            "describe": opened.recipes[identity].describe(),
            "videos": sum(record["recipe"] == identity for record in records),
            **json.loads(opened.recipes[identity].to_json()),
        }
        for identity in (used if opened.recipe or used else sorted(opened.recipes))
    ]
    if as_json:
        print_json({"cache": str(path), "videos": records, "recipes": recipes})
    else:
        header = ("name", "label", "recipe", "frames", "H×W", "size")
        rows = [_row(record) for record in records]
        print_table("", header, rows, text_columns=3)
        told = [(r["id"], r["describe"], str(r["videos"])) for r in recipes]
        print_table("", ("recipe", "values", "videos"), told, text_columns=2)
    for record in records:
        if record.get("partial"):
            say(f"note: {record['name']}: {record['partial']}")
    broken = [record for record in records if record["problem"]]
    for record in broken:
        say(f"{record['name']}: {record['problem']}")
    here = {(record["name"], record["recipe"]) for record in records}
    failures = [
        row
        for row in opened.failures()
        if opened.recipe in (None, row.recipe) and (row.name, row.recipe) not in here
    ]
    if failures:
        told_failures = counted(len(failures), "video has", "videos have")
        say(f"{told_failures} no flow; {path / FAILURES_FILE} says why")
    click.get_current_context().exit(1 if broken else 0)


@cache.command()
@cache_argument
@click.argument("name", metavar="NAME")
@recipe_option
@json_option
def info(path: Path, name: str, recipe: str | None, as_json: bool) -> None:
    """Say how one video's entry was made: recipe, versions, sizes, clipped share.

    NAME is a name that `ls` lists, or its file name or stem where that is unique.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.features import holds_features

    if holds_features(path):
        tell_features(path, name, recipe, as_json)
        return
    opened = open_cache(path, recipe=recipe)
    entry = opened[name]
    row = [
        row
        for row in opened.rows()
        if (row.name, row.recipe) == (entry.name, entry.recipe.id) and row.digest == entry.digest
    ][-1]
    record = _full_record(entry, opened.is_packed) | {"reproduce": _command(entry, row.path)}
    if as_json:
        print_json(record)
        return
    click.echo(printable(f"{entry.name}: {entry.recipe.describe()}"))
    _print_section("entry", record["entry"])
    _print_section("source", {"path": row.path, **record["source"]})
    _print_section(f"recipe {entry.recipe.id}", record["recipe"])
    _print_section("software", record["software"])
    click.echo("\nto compute it again")
    click.echo(printable(f"  {record['reproduce']}"))
    if entry.recipe.rgb and entry.recipe.rgb_quality != RGB_QUALITY:
        quality = entry.recipe.rgb_quality
        say(f"note: rgb_quality={quality} is an argument of flowpipe.extract, in Python only")


@cache.command()
@cache_argument
@click.option("--deep", is_flag=True, help="Also decode every field and digest every file.")
@click.option(
    "--recompute",
    type=click.IntRange(1),
    metavar="N",
    help="Also compute N entries anew, drawn at random, and compare.",
)
@json_option
def verify(path: Path, deep: bool, recompute: int | None, as_json: bool) -> None:
    """Check that every entry is what was written.

    Exit status: 0 all are well, 1 something is wrong: each problem is listed with its way out.
    Files that are no part of the cache, or that a killed process left, are listed too; they do
    no harm.
    """
    from flowpipe.cache import Cache, open_cache
    from flowpipe.cache.features import FeatureStore, holds_features
    from flowpipe.cache.verify import left_over
    from flowpipe.cache.verify import verify as findings_of

    opened: Cache | FeatureStore = FeatureStore(path) if holds_features(path) else open_cache(path)
    if recompute is not None and not isinstance(opened, Cache):
        raise click.UsageError("--recompute is for flow; flowpipe features makes features anew")
    is_packed = path.is_file()
    wanted = {opened.entry_path(row): row.name for row in opened.rows()}
    expected = len({(row.recipe, row.digest) for row in opened.rows()})
    problems: list[dict[str, Any]] = []
    checked: set[Path] = set()
    count = 0
    with progress_line("verify") as update:
        for finding in findings_of(path, deep=deep):
            checked.add(finding.path)
            count += 1
            update(min(1.0, count / max(1, expected)), counted(count, "entry", "entries"))
            if finding.problem:
                name = finding.name if is_packed else wanted.get(finding.path)
                problems.append(_problem(finding.path, name, finding.problem))
    for missing in sorted(set(wanted) - checked):
        told = f"{missing} is gone; extract the video again"
        problems.append(_problem(missing, wanted[missing], told))
    others = [] if is_packed else left_over(path)
    if recompute is not None and isinstance(opened, Cache):
        problems += _recomputed(opened, recompute)
    unnamed = len(checked - set(wanted))
    if as_json:
        record = {"cache": str(path), "deep": deep, "checked": count, "wrong": problems}
        print_json(record | {"left_over": [str(finding.path) for finding in others]})
    else:
        for problem in problems:
            click.echo(printable(f"{problem['name'] or 'no name'}: {problem['problem']}"))
        how = "every byte" if deep else "headers; --deep reads every byte"
        for finding in others:
            say(f"note: {finding.problem}")
        if unnamed:
            told = counted(unnamed, "entry has", "entries have")
            say(f"note: {told} no name; the next extract of the video gives it one")
        told = counted(count, "entry", "entries")
        say(f"{told} checked ({how}), {len(problems)} wrong")
    if problems and not is_packed:
        say(
            "For an entry that is wrong: delete its file, then give the extract command again; "
            "what is well is kept."
        )
    click.get_current_context().exit(1 if problems else 0)


@cache.command()
@cache_argument
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--format", "form", required=True, type=click.Choice(FORMATS), help="See above.")
@click.option(
    "--features",
    "networks",
    metavar="NAME,...",
    help="Of a store of features: which; several stand side by side.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Each video gets a folder of its own in this one.",
)
@click.option(
    "--bound",
    "bound_px",
    type=float,
    default=20.0,
    show_default=True,
    metavar="PX",
    help="Bound of tsn and denseflow.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="JPEG quality of tsn and denseflow.",
)
@recipe_option
@click.option("--overwrite", is_flag=True, help="Replace earlier exports.")
@json_option
def export(
    path: Path,
    names: tuple[str, ...],
    form: str,
    networks: str | None,
    out: Path,
    recipe: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write entries in other tools' forms; all of them where no NAME is given.

    \b
    tsn        flow_x_00001.jpg, flow_y_00001.jpg, img_00001.jpg
    denseflow  flow_x_00000.jpg, flow_y_00000.jpg, img_00000.jpg
    flo        flow_00000.flo (Middlebury)
    npy        flow.npy (F×H×W×2 float32), pts_s.npy; of features NAME.npy (T×D), NAME.json
    color-mp4  the frame beside its flow in Middlebury's colours, one video
    color-png  the same, one picture per flow

    tsn and denseflow hold rounded 8-bit values (zero is 128). flowpipe-export.json in each folder
    says how to read it.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.export import check_target, folder_of
    from flowpipe.cache.export import export as run
    from flowpipe.cache.features import holds_features
    from flowpipe.errors import InvalidArgument

    if holds_features(path):
        if form != "npy":
            raise InvalidArgument(f"{path} holds features, which can be npy, not {form}")
        write_features(path, names, networks, out, options["overwrite"], as_json)
        return
    if networks:
        raise InvalidArgument(f"--features is for stores of features; {path} holds flow")

    opened = open_cache(path, recipe=recipe)
    entries = [opened[name].name for name in names] if names else opened.names()
    folders: dict[Any, str] = {}
    for name in entries:
        other = folders.setdefault(folder_of(name), name)
        if other != name:
            raise InvalidArgument(
                f'"{other}" and "{name}" would both become {out / folder_of(name)}; export them '
                "one by one into different folders"
            )
    for folder in folders:  # before the first is written
        check_target(out / folder, options["overwrite"])
    records = []
    with progress_line("export") as update:
        for position, name in enumerate(folders.values()):
            update(position / len(folders), name)
            result = run(opened[name], out, form, **options)  # type: ignore[arg-type]
            records.append({"folder": str(result.folder), **result.record})
            if result.note:
                say(f"note: {name}: {result.note}")
    if as_json:
        print_json({"cache": str(path), "format": form, "exported": records})
        return
    for record in records:
        click.echo(printable(record["folder"]))
    told = ""
    if form in ("tsn", "denseflow") and records:
        told = f': rounding family "{records[0]["rounding_family"]}", ±{options["bound_px"]:g} px'
    say(f"{counted(len(records), 'video', 'videos')} as {form} in {out}{told}")


@cache.command()
@cache_argument
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page.")
@recipe_option
@json_option
def report(path: Path, html: Path | None, recipe: str | None, as_json: bool) -> None:
    """Tell what a cache is worth: clipped and still shares, magnitudes, videos to look at.

    Everything is read from headers and checksums, so that it takes as long as ls. Exit status: 0
    all entries can be read, 1 some cannot.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.quality import quality

    with progress_line("report") as update:
        found = quality(open_cache(path, recipe=recipe), update)
    if html is not None or not as_json:
        from flowpipe.report.quality import total_rows, write_quality_page
    if html is not None:
        write_quality_page(html, str(path), found)
        say(f"page: {html}")
    if as_json:
        record = {"cache": str(path), "totals": found.totals(), "histogram": found.histogram()}
        videos = [asdict(video) for video in found.videos]
        print_json(record | {"videos": videos, "failures": [asdict(f) for f in found.failures]})
    else:
        print_table("", ("whole cache", ""), total_rows(found))
        told = [(f"{span} px", str(count)) for span, count in found.histogram()]
        print_table("", ("mean magnitude", "videos"), told)
        looked = [(video.name, "; ".join(video.suspicions)) for video in found.suspicious]
        if looked:
            print_table("", ("to look at", "why"), looked, text_columns=2)
        if found.failures:
            failed = [(row.name, row.reason) for row in found.failures]
            print_table("", ("without flow", "reason"), failed, text_columns=2)
    click.get_current_context().exit(1 if found.totals()["damaged"] else 0)


@cache.command()
@cache_argument
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The packed file, *.h5."
)
@recipe_option
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@json_option
def pack(path: Path, out: Path, recipe: str | None, overwrite: bool, as_json: bool) -> None:
    """Join a cache directory into one HDF5 file, without compressing anew.

    All commands and open_cache read the file like the directory, which is left as it is. Further
    videos go into the directory; then pack it again.
    """
    from flowpipe.cache.pack import pack as run

    with progress_line("pack") as update:
        done = run(path, out, recipe=recipe, overwrite=overwrite, on_progress=update)
    for name in done.missing:
        say(f"note: {name}: its entry is gone; left out")
    _tell_packed(done, out, as_json)


@cache.command()
@cache_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The cache directory.")
@json_option
def unpack(path: Path, out: Path, as_json: bool) -> None:
    """Make a cache directory of a packed file; entries that are there already are left alone."""
    from flowpipe.cache.pack import unpack as run

    with progress_line("unpack") as update:
        done = run(path, out, on_progress=update)
    _tell_packed(done, out, as_json)


def _recomputed(opened: "Cache", count: int) -> list[dict[str, Any]]:
    """Compute entries anew, tell how it went, and give what differs."""
    from flowpipe.extraction.recompute import recompute as run

    differing, computed = [], 0
    with progress_line("recompute") as update:
        for told in run(opened, count, on_progress=update):
            computed += not told.note
            if told.note:
                say(f"note: {told.name} cannot be computed anew: {told.note}")
            if told.problem:
                differing.append(_problem(opened.path, told.name, told.problem))
    entries = counted(computed, "entry", "entries")
    say(f"{entries} computed anew, {len(differing)} differ")
    return differing


def _tell_packed(done: "Packed", out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(out), **asdict(done)})
        return
    entries, flows = counted(done.entries, "entry", "entries"), counted(done.flows, "flow", "flows")
    click.echo(f"{out}: {entries}, {flows}, {byte_size(done.num_bytes)}")


cache.add_command(import_npy)


def _records(opened: "Cache", update: Any) -> list[dict[str, Any]]:
    """Give one record for each row of the manifest."""
    from flowpipe.errors import FlowpipeError

    records: dict[tuple[str, str, str], dict[str, Any]] = {}
    rows = opened.rows()
    for position, row in enumerate(rows):
        update(position / len(rows), row.name)
        path = opened.entry_path(row)
        record: dict[str, Any] = {
            "name": row.name,
            "label": row.label,
            "recipe": row.recipe,
            "file": str(path),
            "source": row.path,
            "problem": "",
        }
        try:
            entry = opened.entry_of(row)
            record |= {
                "frames": entry.num_frames,
                "flows": entry.num_flows,
                "height": entry.height,
                "width": entry.width,
                "rgb": entry.has_rgb,
                "bytes": entry.num_bytes if opened.is_packed else path.stat().st_size,
                "partial": str(entry.attributes["problem"]),
            }
        except FlowpipeError as error:
            record["problem"] = str(error)
        records[row.name, row.recipe, row.digest] = record
    return list(records.values())


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    identity = record["recipe"][:SHORT_ID]
    if record["problem"]:
        return record["name"], record["label"] or "–", identity, "damaged", "–", "–"
    size = f"{record['height']}×{record['width']}"
    told = byte_size(record["bytes"])
    return record["name"], record["label"] or "–", identity, str(record["frames"]), size, told


def _full_record(entry: "Entry", packed: bool) -> dict[str, Any]:
    """Give everything an entry says about itself, its JSON texts opened."""
    attributes = dict(entry.attributes)
    nested = {key: _opened(attributes.pop(key)) for key in ("recipe", "source", "software")}
    own = {
        "name": entry.name,
        "label": entry.label,
        "file": str(entry.path),
        "bytes": entry.num_bytes if packed else entry.path.stat().st_size,
        "recipe_id": entry.recipe.id,
        "num_flows": entry.num_flows,
        "rgb": entry.has_rgb,
        "first_pts_s": float(entry.pts_s[0]),
        "last_pts_s": float(entry.pts_s[-1]),
    }
    table = {**own, **attributes}
    ordered = {key: table[key] for key in (*FIRST, *(key for key in table if key not in FIRST))}
    return {"entry": ordered, **nested}


def _print_section(title: str, table: dict[str, Any]) -> None:
    width = max(map(len, table), default=0)
    click.echo(f"\n{title}")
    for key, value in table.items():
        click.echo(printable(f"  {key:{width}}  {_shown(value)}"))


def _command(entry: "Entry", source: str) -> str:
    """Give the command that computes an entry anew, into a cache of its own."""
    recipe = entry.recipe
    words = ["flowpipe", "extract", source, "--out", "again.cache", "--flow", recipe.flow]
    for key, value in recipe.flow_parameters.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--flow-arg", f"{key}={text}"]
    if recipe.device != "cpu":
        words += ["--device", recipe.device]
    if recipe.short_side is not None:
        words += ["--short-side", str(recipe.short_side)]
    if recipe.size is not None:
        words += ["--size", f"{recipe.size[0]}x{recipe.size[1]}"]
    if recipe.fps is not None:
        words += ["--fps", repr(recipe.fps)]
    words += ["--rgb" if recipe.rgb else "--no-rgb", "--storage", recipe.storage]
    words += ["--backward"] if recipe.backward else []
    words += ["--codec", str(entry.attributes["codec"])]
    if recipe.bound_px is not None:
        words += ["--bound", repr(recipe.bound_px)]
    if recipe.tolerance_px:
        words += ["--tolerance", repr(recipe.tolerance_px)]
    return shlex.join(words)


def _opened(text: Any) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except ValueError:
        return {"text": text}
    return table if isinstance(table, dict) else {"value": table}


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _problem(path: Path, name: str | None, told: str) -> dict[str, Any]:
    return {"name": name, "file": str(path), "problem": told}
