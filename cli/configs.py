"""`flowpipe configs`."""

import shutil
from pathlib import Path

import click

import flowpipe

from .options import json_option, out_option
from .output import print_json, print_table, say

# In a wheel they are inside of the package, in a checkout beside it.
PLACES = (Path(flowpipe.__file__).parent, Path(flowpipe.__file__).parents[1])
FOLDERS = ("configs", "examples", "docs")


@click.command()
@click.argument("name", required=False)
@out_option("Copy configurations, examples and documents into this folder.")
@click.option("--keys", is_flag=True, help="Print every key with its default and meaning.")
@json_option
def configs(name: str | None, out: Path | None, keys: bool, as_json: bool) -> None:
    """List the configurations that come with flowpipe, or print the one called NAME."""
    from flowpipe.config import read_toml
    from flowpipe.errors import ConfigError, UnknownName, nearest_name

    if keys:
        from flowpipe.experiment.reference import configuration_page

        click.echo(configuration_page(), nl=False)
        return
    place = next((place for place in PLACES if (place / "configs").is_dir()), None)
    if place is None:
        raise ConfigError(f"no configurations in {PLACES[0]}; install flowpipe anew")
    files = {path.stem: path for path in sorted((place / "configs").glob("*.toml"))}
    if out is not None:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty; give a new folder")
        for folder in FOLDERS:
            shutil.copytree(
                place / folder, out / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
        say(f"copied to {out}: {', '.join(FOLDERS)}")
        return
    if name is not None:
        stem = name.removesuffix(".toml")
        if stem not in files:
            raise UnknownName(f'no configuration "{name}"{nearest_name(stem, files)}')
        click.echo(files[stem].read_text(encoding="utf-8"), nl=False)
        return
    rows = [[stem, str(read_toml(path).get("title", ""))] for stem, path in files.items()]
    if as_json:
        print_json({"configs": dict(rows), "folder": str(place / "configs")})
        return
    print_table("", ["configuration", "what it is"], rows, text_columns=2)
    click.echo("flowpipe configs NAME > my.toml, or --out FOLDER for all, with examples and docs")
