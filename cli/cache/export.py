"""`flowpipe cache export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import counted, print_json, printable, progress_line, say
from .common import cache_argument, json_option, recipe_option

if TYPE_CHECKING:
    from flowpipe.cache import Cache

# A literal copy of flowpipe.cache.export.FORMATS, whose import costs --help half a second.
FORMATS = ("tsn", "denseflow", "flo", "npy", "color-mp4", "color-png")


@click.command()
@cache_argument
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--format", "form", required=True, type=click.Choice(FORMATS), help="See above.")
@click.option(
    "--features",
    "networks",
    metavar="NAME,...",
    help="Of a cache of features: which; several stand side by side.",
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
    from flowpipe.cache import FlowRecipe, open_cache

    opened = open_cache(path, recipe=recipe)
    failures: list[str] = []
    holds_flow = any(isinstance(opened.recipes[row.recipe], FlowRecipe) for row in opened.rows())
    if networks is None and (holds_flow or not opened.networks):
        records, failures = _export_flow(opened, names, form, out, options)
    else:
        records = _export_features(opened, names, form, networks, out, options["overwrite"])
    if as_json:
        print_json({"cache": str(path), "format": form, "exported": records, "failures": failures})
    else:
        for record in records:
            click.echo(printable(record.get("folder") or record["file"]))
        rounding, first = "", records[0] if records else {}
        if first.get("rounding_family"):
            rounding = (
                f': rounding family "{first["rounding_family"]}", ±{options["bound_px"]:g} px'
            )
        say(f"{counted(len(records), 'video', 'videos')} as {form} in {out}{rounding}")
    for failure in failures:
        say(f"flowpipe: {failure}")
    if failures:
        click.get_current_context().exit(1)


def _export_flow(
    opened: "Cache", names: tuple[str, ...], form: str, out: Path, options: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    from flowpipe.cache.export import check_target, folder_of
    from flowpipe.cache.export import export as run
    from flowpipe.errors import CacheError, EntryCorrupt, InvalidArgument

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
    records, failures = [], []
    with progress_line("export") as update:
        for position, name in enumerate(folders.values()):
            update(position / len(folders), name)
            try:
                result = run(opened[name], out, form, **options)  # type: ignore[arg-type]
            except (CacheError, EntryCorrupt) as error:
                failures.append(str(error))
                continue
            records.append({"folder": str(result.folder), **result.record})
            if result.note:
                say(f"note: {name}: {result.note}")
    return records, failures


def _export_features(
    opened: "Cache",
    names: tuple[str, ...],
    form: str,
    networks: str | None,
    out: Path,
    overwrite: bool,
) -> list[dict[str, Any]]:
    from flowpipe.errors import InvalidArgument
    from flowpipe.features.interchange import export_features

    if not opened.networks:
        raise InvalidArgument(f"--features is for caches of features; {opened.path} holds flow")
    if form != "npy":
        raise InvalidArgument(f"{opened.path} holds features, which can be npy, not {form}")
    known = sorted(opened.networks)
    if networks is None and len(known) != 1 and opened.recipe is None:
        raise InvalidArgument(
            f"{opened.path} has the features {', '.join(known)}; choose with --features, several "
            "with commas"
        )
    chosen = networks.split(",") if networks else [opened.recipe or known[0]]
    with progress_line("export") as update:
        written = export_features(
            opened,
            out,
            networks=chosen,
            videos=names or None,
            overwrite=overwrite,
            on_progress=lambda done, of: update(done / of, f"{done}/{of} videos"),
        )
    return [{"file": str(one.path), **one.record} for one in written]
