"""`flowpipe cache info`."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import one_line, print_json, printable, say
from .common import bytes_of, cache_argument, json_option, network_of, recipe_option

if TYPE_CHECKING:
    from flowpipe.cache import Cache, Entry
    from flowpipe.cache.manifest import ManifestRow

# What `extract` takes where nothing is said.
RGB_QUALITY = 95
# What people look for first; the rest follows as the file has it.
FIRST = ("name", "label", "file", "bytes", "num_frames", "num_flows", "height", "width", "rgb")


@click.command()
@cache_argument
@click.argument("name", metavar="NAME")
@recipe_option
@json_option
def info(path: Path, name: str, recipe: str | None, as_json: bool) -> None:
    """Say how one video's entry was made: recipe, versions, sizes, clipped share.

    NAME is a name that `ls` lists, or its file name or stem where that is unique. Of a cache of
    features, those of each network are shown.
    """
    from flowpipe.cache import open_cache

    opened = open_cache(path, recipe=recipe)
    records = [_full_record(opened, row) for row in opened.alternatives(name)]
    if as_json:
        print_json({"entries": records} if records[0]["features"] else records[0])
        return
    for record in records:
        entry = record["entry"]
        click.echo(one_line(f"{entry['name']}: {record['describe']}"))
        _print_section("entry", entry)
        _print_section("source", record["source"])
        _print_section(f"recipe {entry['recipe_id']}", record["recipe"])
        _print_section("software", record["software"])
        if record["reproduce"]:
            click.echo("\nto compute it again")
            click.echo(printable(f"  {record['reproduce']}"))
        quality = record["recipe"].get("rgb_quality")
        if quality not in (None, 0, RGB_QUALITY):
            say(f"note: rgb_quality={quality} is an argument of flowpipe.extract, in Python only")


def _full_record(opened: "Cache", row: "ManifestRow") -> dict[str, Any]:
    """Return everything an entry says about itself, its JSON texts opened."""
    from flowpipe.cache import FlowRecipe

    entry = opened.entry_of(row)
    attributes = dict(entry.attributes)
    nested = {key: _opened(attributes.pop(key)) for key in ("recipe", "source", "software")}
    nested["source"] = {"path": row.path, **nested["source"]}
    times = {"first_pts_s": float(entry.pts_s[0]), "last_pts_s": float(entry.pts_s[-1])}
    tracks = {name: list(track.shape) for name, track in entry.tracks.items()}
    table = {
        "name": entry.name,
        "label": entry.label,
        "file": str(entry.path),
        "bytes": bytes_of(opened, entry),
        "recipe_id": entry.recipe.id,
        "tracks": tracks,
        **times,
        **attributes,
    }
    if isinstance(entry.recipe, FlowRecipe):
        table |= {"num_flows": entry.num_flows, "rgb": entry.has_rgb}
        table |= {"cuts": entry.cuts.tolist()} if entry.recipe.cuts else {}
    first = [key for key in FIRST if key in table]
    ordered = {key: table[key] for key in (*first, *(key for key in table if key not in FIRST))}
    return {
        "features": network_of(opened, row.recipe),
        "describe": entry.recipe.describe(),
        "entry": ordered,
        **nested,
        "reproduce": _command(entry, row.path) if isinstance(entry.recipe, FlowRecipe) else None,
    }


def _print_section(title: str, table: dict[str, Any]) -> None:
    width = max(map(len, table), default=0)
    click.echo(printable(f"\n{title}"))
    for key, value in table.items():
        click.echo(f"  {key:{width}}  {one_line(_shown(value))}")


def _command(entry: "Entry", source: str) -> str:
    """Return the command that computes an entry anew, into a cache of its own."""
    recipe = entry.flow_recipe
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
    words += ["--cuts"] if recipe.cuts else []
    words += ["--confidence"] if recipe.confidence else []
    words += ["--codec", str(entry.attributes["codec"])]
    if recipe.bound_px is not None:
        words += ["--bound", repr(recipe.bound_px)]
    if recipe.tolerance_px:
        words += ["--tolerance", repr(recipe.tolerance_px)]
    return shlex.join(words)


def _opened(text: Any) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text}
    return table if isinstance(table, dict) else {"value": table}


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
