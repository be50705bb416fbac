"""The cache: one HDF5 file per (video content, recipe), and names that point to them.

`<cache>/<recipe id>/<first 2 of digest>/<digest>.h5`, `<recipe id>/recipe.json`,
`manifest/*.jsonl`, `failures.jsonl`. See FORMAT.md.
"""

import difflib
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flowpipe.cache.entry import Entry
from flowpipe.cache.key import FeatureRecipe, Recipe, read_recipe, recipe_id
from flowpipe.cache.manifest import ManifestRow, read_manifest
from flowpipe.cache.write import fsync_folder
from flowpipe.errors import CacheError, CacheNotFound, EntryCorrupt, EntryNotFound

RECIPE_FILE = "recipe.json"
OPEN_ENTRIES = 256
SHOWN_CANDIDATES = 8
SHOWN_NEAREST = 3


def entry_path(cache: Path, recipe_id: str, digest: str) -> Path:
    """Give the place of an entry file."""
    return cache / recipe_id / digest[:2] / f"{digest}.h5"


def write_recipe(cache: Path, recipe: Recipe | FeatureRecipe) -> None:
    """Leave recipe.json in the recipe's folder."""
    folder = cache / recipe.id
    target = folder / RECIPE_FILE
    if target.is_file():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{RECIPE_FILE}.{os.getpid()}.part"
        aside.write_text(recipe.to_json() + "\n", encoding="utf-8")
        aside.replace(target)
        fsync_folder(folder)
    except OSError as error:
        raise CacheError(f"cache {cache} cannot be written: {error}") from error


class Cache:
    """A cache directory, read by the names of its videos.

    Parameters
    ----------
    path : path
        The directory.
    recipe : str, optional
        Id of the recipe (or its first digits) whose entries are meant; needed only where a name
        was computed by several.

    Raises
    ------
    CacheNotFound
        If there is no cache at `path`.
    EntryNotFound
        If `recipe` is none, or several, of the cache's.
    """

    def __init__(self, path: str | os.PathLike[str], recipe: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CacheNotFound(f"no cache at {self.path}; flowpipe extract makes one")
        found = {file.parent.name: _read_recipe(file) for file in recipe_files(self.path)}
        # Features may stand in the same directory; flowpipe.cache.features reads them.
        self.recipes = {k: recipe for k, recipe in found.items() if isinstance(recipe, Recipe)}
        if not self.recipes:
            raise CacheNotFound(
                f"{self.path} is a directory but no cache; flowpipe extract makes one"
            )
        self.recipe = None if recipe is None else self._find_recipe(recipe)
        self._rows: dict[str, list[ManifestRow]] = {}
        for row in read_manifest(self.path):
            if row.recipe in self.recipes and self.recipe in (None, row.recipe):
                self._rows.setdefault(row.name, []).append(row)
        self._stems: dict[str, list[str]] = {}
        for name in self._rows:
            for short in {PurePosixPath(name).stem, PurePosixPath(name).name}:
                self._stems.setdefault(short, []).append(name)
        self._open: OrderedDict[str, Entry] = OrderedDict()

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r}, {len(self)} videos, {len(self.recipes)} recipes)"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._stems

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def names(self) -> list[str]:
        """Give the names of the videos, sorted."""
        return sorted(self._rows)

    @property
    def labels(self) -> dict[str, str | None]:
        """The label of each name; None where it has none."""
        return {name: rows[-1].label for name, rows in sorted(self._rows.items())}

    def rows(self) -> list[ManifestRow]:
        """Give all the rows of the manifest, sorted by name and recipe."""
        found = [row for rows in self._rows.values() for row in rows]
        return sorted(found, key=lambda row: (row.name, row.recipe))

    def __getitem__(self, name: str) -> Entry:
        """Open the entry of a name, of a unique file name or of a unique stem.

        Raises
        ------
        EntryNotFound
            For a name that no entry has, or several.
        EntryCorrupt
            If the entry's header is not what was written.
        """
        full = self._full_name(name)
        entry = self._open.get(full)
        if entry is None:
            rows = self._rows[full]
            files = {(row.recipe, row.digest) for row in rows}
            if len(files) > 1:
                raise EntryNotFound(self._ambiguous(full, rows))
            row = rows[-1]
            path = entry_path(self.path, row.recipe, row.digest)
            entry = self._open[full] = Entry(path, row.name, row.label)
            if len(self._open) > OPEN_ENTRIES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(full)
        return entry

    def entries(self) -> Iterator[Entry]:
        """Give each entry in turn, by name."""
        for name in self.names():
            yield self[name]

    def _full_name(self, name: str) -> str:
        if name in self._rows:
            return name
        found = self._stems.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise EntryNotFound(
                f'"{name}" is the name of {len(found)} videos: {_some(sorted(found))}; give one '
                "of these"
            )
        raise EntryNotFound(
            f'no video "{name}" in {self.path}{self._nearest(name)}; flowpipe cache ls lists the '
            "names"
        )

    def _nearest(self, name: str) -> str:
        """Give ' (did you mean "x" or "y"?)' for names that hold the text or resemble it."""
        inside = [full for full in self.names() if name and name.lower() in full.lower()]
        short = {short: names[0] for short, names in self._stems.items() if len(names) == 1}
        known = [*self._rows, *short]
        alike = difflib.get_close_matches(name, known, n=2 * SHOWN_NEAREST, cutoff=0.6)
        found = [*inside, *(short.get(match, match) for match in alike)]
        shown = [f'"{full}"' for full in dict.fromkeys(found)][:SHOWN_NEAREST]
        if not shown:
            return ""
        return f" (did you mean {' or '.join(filter(None, [', '.join(shown[:-1]), shown[-1]]))}?)"

    def _find_recipe(self, start: str) -> str:
        found = [identity for identity in self.recipes if identity.startswith(start)]
        if len(found) != 1:
            raise EntryNotFound(
                f'recipe "{start}" is the start of {len(found)} of the recipes of {self.path}: '
                f"{_some(sorted(self.recipes))}"
            )
        return found[0]

    def _ambiguous(self, name: str, rows: list[ManifestRow]) -> str:
        told = [f"{row.recipe} ({self.recipes[row.recipe].describe()}) {row.path}" for row in rows]
        return (
            f'"{name}" stands for {len(rows)} entries of {self.path}: {_some(told)}; '
            "open the cache with recipe=... (--recipe), or give each source a cache of its own"
        )


def open_cache(path: str | os.PathLike[str], *, recipe: str | None = None) -> Cache:
    """Open a cache for reading; see `Cache`.

    Examples
    --------
    >>> cache = open_cache("ucf101.cache")                         # doctest: +SKIP
    >>> cache["Archery/v_Archery_g02_c02.avi"].flow[10:20].shape   # doctest: +SKIP
    (10, 240, 320, 2)
    """
    return Cache(path, recipe)


def recipe_files(cache: Path) -> list[Path]:
    """Give the recipe.json of each recipe of a cache."""
    return sorted(cache.glob(f"*/{RECIPE_FILE}"))


def _read_recipe(file: Path) -> Recipe | FeatureRecipe:
    way_out = "delete it, and the next extract by this recipe writes it again"
    try:
        text = file.read_text(encoding="utf-8")
        recipe = read_recipe(text)
    except (EntryCorrupt, UnicodeDecodeError) as error:
        raise EntryCorrupt(f"{file}: {error}; {way_out}") from error
    if recipe_id(text.removesuffix("\n")) != file.parent.name:
        raise EntryCorrupt(f"{file}: its id is not the name of its folder; {way_out}")
    return recipe


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN_CANDIDATES} more" if len(items) > SHOWN_CANDIDATES else ""
    return ", ".join(items[:SHOWN_CANDIDATES]) + more


__all__ = ["Cache", "Entry", "FeatureRecipe", "Recipe", "entry_path", "open_cache", "write_recipe"]
