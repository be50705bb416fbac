"""What the commands on a cache share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flowpipe.cache import Cache, Entry

SHORT_ID = 8

cache_argument = click.argument("path", metavar="CACHE", type=click.Path(path_type=Path))
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)
recipe_option = click.option(
    "--recipe",
    metavar="ID|NAME",
    help="Only this recipe: the first digits of its id, or a name of features.",
)


def network_of(opened: "Cache", recipe: str) -> str | None:
    """Return the name of features that stands for a recipe; None of flow, and of older ones."""
    names = [name for name, identity in opened.networks.items() if identity == recipe]
    return names[0] if names else None


def bytes_of(opened: "Cache", entry: "Entry") -> int:
    """Return the size of an entry: of its file, or of its tracks in a pack."""
    return entry.num_bytes if opened.is_packed else entry.path.stat().st_size


def by_sizes(shape: Any) -> str:
    """Return "20×24" for (20, 24)."""
    return "×".join(map(str, shape))
