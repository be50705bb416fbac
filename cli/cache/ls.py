"""`flowpipe cache ls`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import byte_size, counted, print_json, print_table, progress_line, say
from .common import (
    SHORT_ID,
    by_sizes,
    bytes_of,
    cache_argument,
    json_option,
    network_of,
    recipe_option,
)

if TYPE_CHECKING:
    from flowpipe.cache import Cache, Entry


@click.command()
@cache_argument
@recipe_option
@json_option
def ls(path: Path, recipe: str | None, as_json: bool) -> None:
    """List the videos of a cache, and the recipes they were computed by.

    An entry that cannot be read stands in the list with its problem. Exit status: 0 all entries
    can be read, 1 some cannot.
    """
    from flowpipe.cache import open_cache
    from flowpipe.cache.verify import damaged_texts

    opened = open_cache(path, recipe=recipe)
    with progress_line("ls") as update:
        records = _records(opened, update)
    for finding in [] if opened.is_packed or recipe else damaged_texts(path):
        records.append(_damaged_record(finding.name, finding.path, finding.problem))
    recipes = _recipes(opened, [record["recipe"] for record in records])
    if as_json:
        print_json({"cache": str(path), "videos": records, "recipes": recipes})
    else:
        header = ("name", "label", "recipe", "length", "size", "bytes")
        print_table("", header, [_row(record) for record in records], text_columns=3)
        rows = [
            (r["name"] or "–", r["id"], r["describe"], str(r["videos"])) for r in recipes
        ]  # fmt: skip
        print_table("", ("features", "recipe", "values", "videos"), rows, text_columns=3)
    for record in records:
        if record.get("partial"):
            say(f"note: {record['name']}: {record['partial']}")
    broken = [record for record in records if record["problem"]]
    for record in broken:
        say(f"{record['name']}: {record['problem']}")
    if failures := opened.open_failures():
        from flowpipe.cache.manifest import FAILURES_FILE

        videos = counted(len(failures), "video has", "videos have")
        say(f"{videos} no entry; {path / FAILURES_FILE} says why")
    click.get_current_context().exit(1 if broken else 0)


def _records(opened: "Cache", update: Any) -> list[dict[str, Any]]:
    """Return one record for each row of the manifest."""
    from flowpipe.errors import FlowpipeError

    records: dict[tuple[str, str, str], dict[str, Any]] = {}
    rows = opened.rows()
    for position, row in enumerate(rows):
        update(position / len(rows), row.name)
        record: dict[str, Any] = {
            "name": row.name,
            "label": row.label,
            "recipe": row.recipe,
            "features": network_of(opened, row.recipe),
            "file": str(opened.entry_path(row)),
            "source": row.path,
            "problem": "",
        }
        try:
            entry = opened.entry_of(row)
            record |= _sizes(entry) | {
                "bytes": bytes_of(opened, entry),
                "partial": entry.problem,
            }
        except FlowpipeError as error:
            record["problem"] = str(error)
        records[row.name, row.recipe, row.digest] = record
    return list(records.values())


def _damaged_record(name: str, file: Path, problem: str) -> dict[str, Any]:
    """Return the record of a line or a recipe that cannot be read."""
    empty = dict.fromkeys(("label", "recipe", "features", "source"))
    return {"name": name or file.name, **empty, "file": str(file), "problem": problem}


def _sizes(entry: "Entry") -> dict[str, Any]:
    if "features" in entry.tracks:
        return {"shape": list(entry.features.shape)}
    return {
        "frames": entry.num_frames,
        "flows": entry.num_flows,
        "height": entry.height,
        "width": entry.width,
        "rgb": entry.has_rgb,
    }


def _recipes(opened: "Cache", used: list[str]) -> list[dict[str, Any]]:
    """Return a record for each recipe that has videos; for all where none has."""
    return [
        {
            "id": identity,
            "name": network_of(opened, identity),
            "describe": opened.recipes[identity].describe(),
            "videos": used.count(identity),
            **json.loads(opened.recipes[identity].to_json()),
        }
        for identity in sorted(set(filter(None, used)) or opened.recipes)
    ]


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    first = (
        record["name"],
        record["label"] or "–",
        record["features"] or (record["recipe"] or "–")[:SHORT_ID],
    )
    if record["problem"]:
        return *first, "damaged", "–", "–"
    if "shape" in record:
        items, *size = record["shape"]
    else:
        items, *size = record["frames"], record["height"], record["width"]
    return *first, str(items), by_sizes(size), byte_size(record["bytes"])
