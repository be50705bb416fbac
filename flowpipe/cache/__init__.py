"""The cache: one HDF5 file per (video content, recipe), and names that point to them.

`<cache>/<recipe id>/<first 2 of digest>/<digest>.h5`, `<recipe id>/recipe.json`,
`manifest/*.jsonl`, `failures.jsonl`. See FORMAT.md.
"""

import difflib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from flowpipe.atomic import fsync_folder
from flowpipe.cache.entry import Entry
from flowpipe.cache.manifest import (
    FAILURES_FILE,
    FailureRow,
    ManifestRow,
    failures_of,
    read_manifest,
)
from flowpipe.cache.packed import PackedRows, PackFile
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe, read_recipe, recipe_id
from flowpipe.errors import CacheError, CacheNotFound, EntryCorrupt, EntryNotFound

RECIPE_FILE = "recipe.json"
OPEN_ENTRIES = 256
SHOWN_CANDIDATES = 8
SHOWN_NEAREST = 3


def entry_path(cache: Path, recipe_id: str, digest: str) -> Path:
    """Give the place of an entry file."""
    return cache / recipe_id / digest[:2] / f"{digest}.h5"


def write_recipe(cache: Path, recipe: FlowRecipe | FeatureRecipe) -> None:
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
    """A cache, read by the names of its videos.

    Parameters
    ----------
    path : path
        The directory, or a packed file.
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
        self._pack = PackFile(self.path) if self.path.is_file() else None
        self.recipes = _read_recipes(self.path) if self._pack is None else self._pack.recipes
        self.recipe = None if recipe is None else self._find_recipe(recipe)
        self._rows: Mapping[str, list[ManifestRow]]
        if self._pack is not None:
            self._rows = self._pack.rows(self.recipe)
        else:
            self._rows = {}
            for row in read_manifest(self.path):
                if row.recipe in self.recipes and self.recipe in (None, row.recipe):
                    self._rows.setdefault(row.name, []).append(row)
        self._open: OrderedDict[str, Entry] = OrderedDict()
        self._turned: dict[str, Cache] = {}

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r}, {len(self)} videos, {len(self.recipes)} recipes)"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._stems

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_turned": {}}

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """File name and stem → names."""
        found: dict[str, list[str]] = {}
        for name in self._rows:
            for short in {PurePosixPath(name).stem, PurePosixPath(name).name}:
                found.setdefault(short, []).append(name)
        return found

    @property
    def is_packed(self) -> bool:
        return self._pack is not None

    def failures_text(self) -> bytes:
        """Give failures.jsonl, of a pack as it was when it was packed."""
        if self._pack is not None:
            return self._pack.text("failures")
        file = self.path / FAILURES_FILE
        return file.read_bytes() if file.is_file() else b""

    def failures(self) -> list[FailureRow]:
        """Give the videos that gave no entry, and why."""
        return failures_of(self.failures_text())

    def entry_path(self, row: ManifestRow) -> Path:
        """Give the file in which a row's entry stands."""
        return self.path if self._pack else entry_path(self.path, row.recipe, row.digest)

    def entry_of(self, row: ManifestRow) -> Entry:
        """Open the entry of one of `rows()`.

        Raises
        ------
        EntryNotFound
            If its file is gone.
        EntryCorrupt
            If its header is not what was written.
        """
        if isinstance(self._rows, PackedRows):
            return self._rows.entry(row)
        return Entry(self.entry_path(row), row.name, row.label)

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
            # Backward flow is asked for by `backward`, or by its recipe.
            forward = [row for row in rows if not self.recipes[row.recipe].backward]
            rows = forward or rows
            files = {(row.recipe, row.digest) for row in rows}
            if len(files) > 1:
                raise EntryNotFound(self._ambiguous(full, rows))
            entry = self._open[full] = self.entry_of(rows[-1])
            if len(self._open) > OPEN_ENTRIES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(full)
        return entry

    def backward(self, name: str) -> Entry:
        """Open the backward flow of a name: field i goes from frame i + 1 back to frame i.

        Raises
        ------
        EntryNotFound
            Also if the cache was filled without backward flow.
        EntryCorrupt
            If the entry's header is not what was written.
        """
        entry = self[name]
        recipe = entry.recipe if entry.recipe.backward else entry.recipe.turned()
        if recipe.id not in self.recipes:
            raise EntryNotFound(
                f"{self.path} holds no backward flow of {entry.recipe.describe()}; extract into it "
                "again with --backward"
            )
        if recipe.id not in self._turned:
            self._turned[recipe.id] = Cache(self.path, recipe.id)
        return self._turned[recipe.id][entry.name]

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


def _read_recipes(cache: Path) -> dict[str, FlowRecipe]:
    """Give the recipes of flow; features are read by flowpipe.cache.features."""
    if not cache.is_dir():
        raise CacheNotFound(f"no cache at {cache}; flowpipe extract makes one")
    found = {file.parent.name: _read_recipe(file) for file in recipe_files(cache)}
    of_flow = {identity: r for identity, r in found.items() if isinstance(r, FlowRecipe)}
    if not of_flow:
        what = "holds features and no flow" if found else "is a directory but no cache"
        raise CacheNotFound(f"{cache} {what}; flowpipe extract makes one")
    return of_flow


def _read_recipe(file: Path) -> FlowRecipe | FeatureRecipe:
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


__all__ = [
    "Cache",
    "Entry",
    "FeatureRecipe",
    "FlowRecipe",
    "entry_path",
    "open_cache",
    "write_recipe",
]
