"""A cache, read by the names of its videos."""

import difflib
import functools
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from flowpipe.cache.entry import Entry
from flowpipe.cache.manifest import FailureRow, ManifestRow, failures_of
from flowpipe.cache.recipe import FeatureRecipe, FlowRecipe
from flowpipe.cache.store import PackStore, Store, networks_of, open_store
from flowpipe.errors import EntryNotFound, nearest_name
from flowpipe.notebook import html_table
from flowpipe.video import content_digest

OPEN_ENTRIES = 256
"""Kept open at most; a quarter of the descriptors that the system gives, where these are few."""

SHOWN_CANDIDATES = 8
SHOWN_NEAREST = 3


@functools.cache
def _most_open() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return OPEN_ENTRIES
    return min(OPEN_ENTRIES, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class Cache:
    """A cache of entries, each a video's flow and frames, or its features by a network.

    Parameters
    ----------
    path : path
        The directory, or a packed file.
    recipe : str, optional
        Id of the recipe (or its first digits), or the name of features, whose entries are meant;
        needed only where a video was computed by several.

    Attributes
    ----------
    recipes : dict of str to FlowRecipe or FeatureRecipe
        By id; of features also those that no name stands for any more.
    networks : dict of str to str
        Name of features, such as "rgb" → id of the recipe that it stands for.
    recipe : str or None
        The id that was asked for.

    Raises
    ------
    CacheNotFound
        If there is no cache at `path`.
    EntryNotFound
        If `recipe` is none, or several, of the cache's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        recipe: str | None = None,
        *,
        store: Store | None = None,
    ) -> None:
        self.path = Path(path)
        self._store = open_store(self.path) if store is None else store
        self.recipes = self._store.recipes
        self.networks = {
            name: identity
            for name, identity in networks_of(self._store.text("networks")).items()
            if identity in self.recipes
        }
        self.recipe = None if recipe is None else self._find_recipe(recipe)
        self._rows = self._store.rows(self.recipe)
        self._open: OrderedDict[str, Entry] = OrderedDict()
        self._selected: dict[str, Cache] = {}

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r}, {len(self)} videos, {len(self.recipes)} recipes)"

    def _repr_html_(self) -> str:
        counts = Counter(row.recipe for row in self.rows())
        rows = [(r[:12], self.recipes[r].describe(), count) for r, count in counts.items()]
        return html_table(repr(self), ("recipe", "", "entries"), rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._stems

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_selected": {}}

    @property
    def is_packed(self) -> bool:
        return isinstance(self._store, PackStore)

    @property
    def labels(self) -> dict[str, str | None]:
        """The label of each name; None where it has none."""
        return {name: rows[-1].label for name, rows in sorted(self._rows.items())}

    def names(self) -> list[str]:
        """Return the names of the videos, sorted."""
        return sorted(self._rows)

    def rows(self) -> list[ManifestRow]:
        """Return all the rows of the manifest, sorted by name and recipe."""
        rows = [row for rows in self._rows.values() for row in rows]
        return sorted(rows, key=lambda row: (row.name, row.recipe))

    def row(self, name: str) -> ManifestRow:
        """Return the row that `cache[name]` opens the entry of; EntryNotFound as that."""
        rows = self._best_rows(name)
        of_features = isinstance(self.recipes[rows[-1].recipe], FeatureRecipe)
        several = {(row.recipe, "" if of_features else row.digest) for row in rows}
        if len(several) > 1:
            raise EntryNotFound(self._ambiguous(rows), parameter="recipe")
        return rows[-1]

    def alternatives(self, name: str) -> list[ManifestRow]:
        """Return the row of `row`, but those of each network where there are features alone."""
        rows = self._best_rows(name)
        if isinstance(self.recipes[rows[-1].recipe], FlowRecipe):
            return [self.row(name)]
        names = {identity: network for network, identity in self.networks.items()}
        latest = {row.recipe: row for row in rows}
        return sorted(latest.values(), key=lambda row: names.get(row.recipe, row.recipe))

    def _best_rows(self, name: str) -> list[ManifestRow]:
        """Return the rows of the kind that `cache[name]` opens."""
        rows = self._rows_of(name)
        best = min(map(self._rank, rows))
        return [row for row in rows if self._rank(row) == best]

    def select(self, recipe: str) -> "Cache":
        """Return the cache of one recipe, by its id, its first digits, or a name of features.

        Raises
        ------
        EntryNotFound
            If there is no such recipe, or several.
        """
        if recipe not in self._selected:
            self._selected[recipe] = Cache(self.path, recipe, store=self._store)
        return self._selected[recipe]

    def failures_text(self) -> bytes:
        """Return failures.jsonl, of a pack as it was when it was packed."""
        return self._store.text("failures")

    def networks_text(self) -> bytes:
        """Return networks.jsonl, of a pack as it was when it was packed."""
        return self._store.text("networks")

    def failures(self) -> list[FailureRow]:
        """Return the videos that gave no entry, and why."""
        return failures_of(self.failures_text())

    def open_failures(self) -> list[FailureRow]:
        """Return the failures of this recipe, or all, whose videos have no entry since."""
        here = {(row.name, row.recipe) for row in self.rows()}
        return [
            row
            for row in self.failures()
            if self.recipe in (None, row.recipe) and (row.name, row.recipe) not in here
        ]

    def entry_path(self, row: ManifestRow) -> Path:
        """Return the file in which a row's entry lies."""
        return self._store.entry_path(row)

    def entry_of(self, row: ManifestRow) -> Entry:
        """Open the entry of one of `rows()`.

        Raises
        ------
        EntryNotFound
            If its file is gone.
        EntryCorrupt
            If its header is not what was written.
        """
        return self._store.entry(row)

    def __getitem__(self, name: str) -> Entry:
        """Open the entry of a name, of a unique file name or of a unique stem.

        Of several kinds the first that is there: flow, backward flow, features that have a name.

        Raises
        ------
        EntryNotFound
            For a name that no entry has, or several.
        EntryCorrupt
            If the entry's header is not what was written.
        """
        entry = self._open.get(name)
        if entry is None:
            row = self.row(name)
            entry = self._open.get(row.name) or self.entry_of(row)
            self._open[entry.name] = entry
            if len(self._open) > _most_open():
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(entry.name)
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
        recipe = entry.recipe
        if not isinstance(recipe, FlowRecipe):
            raise EntryNotFound(f'"{name}" has features, and no flow, in {self.path}')
        turned = recipe if recipe.backward else recipe.turned()
        if turned.id not in self.recipes:
            raise EntryNotFound(
                f"{self.path} holds no backward flow of {recipe.describe()}; extract into it "
                "again with backward flow"
            )
        return self.select(turned.id)[entry.name]

    def entries(self) -> Iterator[Entry]:
        """Yield each entry in turn, by name."""
        for name in self.names():
            yield self[name]

    def check_current(self, name: str, video: Path) -> None:
        """Refuse the entry of a video whose file has changed since.

        Raises
        ------
        EntryNotFound
            If the file at `video` has other content than the entry is of. A file that is gone,
            or features made elsewhere, cannot be compared.
        """
        row = self.row(name)
        recipe = self.recipes[row.recipe]
        imported = isinstance(recipe, FeatureRecipe) and recipe.source == "import"
        if imported or not video.is_file():
            return
        status = video.stat()
        if (status.st_size, status.st_mtime_ns) != (row.size, row.mtime_ns) and (
            content_digest(video) != row.digest
        ):
            raise EntryNotFound(
                f"{video} has changed since its entry in {self._title} was computed; compute it "
                "again"
            )

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """File name and stem → names."""
        stems: dict[str, list[str]] = {}
        for name in self._rows:
            for short in {PurePosixPath(name).stem, PurePosixPath(name).name}:
                stems.setdefault(short, []).append(name)
        return stems

    @property
    def _title(self) -> str:
        """The cache, and the features that were asked for, in messages."""
        names = [name for name, identity in self.networks.items() if identity == self.recipe]
        return f'{self.path} (features "{names[0]}")' if names else str(self.path)

    def _rank(self, row: ManifestRow) -> int:
        recipe = self.recipes[row.recipe]
        if isinstance(recipe, FlowRecipe):
            return int(recipe.backward)
        return 2 if row.recipe in self.networks.values() else 3

    def _rows_of(self, name: str) -> list[ManifestRow]:
        if rows := self._rows.get(name):
            return rows
        path = PurePosixPath(name)
        # Features from elsewhere may lack the folders and the extension that videos have.
        of_features = isinstance(self.recipes.get(self.recipe or ""), FeatureRecipe)
        for spelling in (name, path.name, path.stem) if of_features else (name,):
            if rows := self._rows.get(spelling):
                return rows
            names = self._stems.get(spelling, [])
            if len(names) == 1:
                return self._rows[names[0]]
            if names:
                raise EntryNotFound(
                    f'"{name}" is the name of {len(names)} videos: {_some(sorted(names))}; give '
                    "one of these"
                )
        damaged = "; ".join(map(str, self._store.problems.values()))
        raise EntryNotFound(
            f'no video "{name}" in {self._title}{self._nearest(name)}; flowpipe cache ls lists '
            f"the names{damaged and f' ({damaged})'}"
        )

    def refuse_unread_recipes(self) -> None:
        """Raise the error of a recipe.json that could not be read, whose entries are left out."""
        for problem in self._store.problems.values():
            raise problem

    def _nearest(self, name: str) -> str:
        """Return ' (did you mean "x" or "y"?)' for names that hold the text or resemble it."""
        inside = [full for full in self.names() if name and name.lower() in full.lower()]
        short = {short: names[0] for short, names in self._stems.items() if len(names) == 1}
        known = [*self._rows, *short]
        alike = difflib.get_close_matches(name, known, n=2 * SHOWN_NEAREST, cutoff=0.6)
        near = [*inside, *(short.get(match, match) for match in alike)]
        shown = [f'"{full}"' for full in dict.fromkeys(near)][:SHOWN_NEAREST]
        if not shown:
            return ""
        return f" (did you mean {' or '.join(filter(None, [', '.join(shown[:-1]), shown[-1]]))}?)"

    def _find_recipe(self, start: str) -> str:
        if start in self.networks:
            return self.networks[start]
        for identity, problem in self._store.problems.items():
            if start and identity.startswith(start):
                raise problem
        starts = [identity for identity in self.recipes if identity.startswith(start)]
        if len(starts) == 1:
            return starts[0]
        if self.networks and not starts:
            raise EntryNotFound(
                f'no features "{start}" in {self.path}{nearest_name(start, self.networks)}; there '
                f"are: {', '.join(sorted(self.networks))}"
            )
        raise EntryNotFound(
            f'recipe "{start}" is the start of {len(starts)} of the recipes of {self.path}: '
            f"{_some(sorted(self.recipes))}"
        )

    def _ambiguous(self, rows: list[ManifestRow]) -> str:
        names = {identity: network for network, identity in self.networks.items()}
        each = []
        for row in rows:
            values = self.recipes[row.recipe].describe()
            each.append(f"{names.get(row.recipe, row.recipe)} ({values}) {row.path}")
        each.sort()
        return (
            f'"{rows[0].name}" stands for {len(rows)} entries of {self.path}: {_some(each)}; '
            "open the cache with recipe=..., or give each source a cache of its own"
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


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN_CANDIDATES} more" if len(items) > SHOWN_CANDIDATES else ""
    return ", ".join(items[:SHOWN_CANDIDATES]) + more
