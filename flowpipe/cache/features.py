"""Feature entries, the second level of the cache: what a network makes of a flow entry.

They are written and read like flow entries: one HDF5 file per (video content, recipe), aside and
renamed in, with a CRC-32 for every chunk and digests for the rest. A store of features is a cache
directory; `networks.jsonl` in it says which recipe a name such as "rgb" stands for. A name stands
for what was last computed under it, so that features of older weights, layers or flow are never
read, though they stay on disk.
"""

import difflib
import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowpipe.cache import RECIPE_FILE, Entry, entry_path, recipe_files
from flowpipe.cache.feature_entry import FeatureEntry
from flowpipe.cache.manifest import ManifestRow, append_lines, objects_of, read_manifest
from flowpipe.cache.recipe import FeatureRecipe, read_recipe
from flowpipe.errors import CacheNotFound, EntryNotFound, InvalidArgument
from flowpipe.video import content_digest

NETWORKS_FILE = "networks.jsonl"


class NetworkFeatures:
    """The features that one network left in a store, by the names of videos.

    A name may be the video's name, its file name or its stem, with or without an extension,
    where that is unique.
    """

    def __init__(self, path: Path, name: str, recipe: FeatureRecipe, rows: list[ManifestRow]):
        self.path, self.name, self.recipe = path, name, recipe
        self._rows = {row.name: row for row in rows if row.recipe == recipe.id}
        self._short: dict[str, list[str]] = {}
        for full in self._rows:
            for short in {PurePosixPath(full).name, PurePosixPath(full).stem} - {full}:
                self._short.setdefault(short, []).append(full)

    def __repr__(self) -> str:
        return f"NetworkFeatures({self.name!r}, {len(self)} videos, {self.recipe.describe()})"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Give the names of the videos, sorted."""
        return sorted(self._rows)

    def row(self, name: str) -> ManifestRow:
        """Give the row of the manifest that a name stands for.

        Raises
        ------
        EntryNotFound
            For a name that no entry has, or several.
        """
        path = PurePosixPath(name)
        for form in (name, path.name, path.stem):
            if form in self._rows:
                return self._rows[form]
            found = self._short.get(form, [])
            if len(found) == 1:
                return self._rows[found[0]]
            if found:
                raise EntryNotFound(
                    f'"{name}" is the name of {len(found)} videos in {self.path}: '
                    f"{', '.join(sorted(found)[:8])}; give one of these"
                )
        near = difflib.get_close_matches(name, self._rows, n=1, cutoff=0.5)
        meant = f' (did you mean "{near[0]}"?)' if near else ""
        raise EntryNotFound(
            f'no features "{self.name}" of "{name}" in {self.path}{meant}; it has '
            f"{len(self)} videos by recipe {self.recipe.id}: flowpipe features computes what is "
            "missing"
        )

    def __getitem__(self, name: str) -> FeatureEntry:
        """Open the entry of a video; EntryNotFound where there is none."""
        row = self.row(name)
        return FeatureEntry(entry_path(self.path, row.recipe, row.digest), row.name, row.label)

    def check_current(self, name: str, video: Path) -> None:
        """Refuse features of a video whose file has changed since.

        Raises
        ------
        EntryNotFound
            If the file at `video` has other content than the one the features are of. A file
            that is gone, or features made elsewhere, cannot be compared.
        """
        row = self.row(name)
        if self.recipe.source == "import" or not video.is_file():
            return
        status = video.stat()
        if (status.st_size, status.st_mtime_ns) != (row.size, row.mtime_ns) and (
            content_digest(video) != row.digest
        ):
            raise EntryNotFound(
                f'{video} has changed since the features "{self.name}" of it were computed; '
                "extract it again, then give the features command again"
            )


class FeatureStore:
    """A directory of features of one or several networks.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    recipes : dict of str to FeatureRecipe
        By id; older ones are among them.
    networks : dict of str to str
        Name → id of the recipe it stands for.

    Raises
    ------
    CacheNotFound
        If there are no features at `path`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        way_out = "flowpipe features makes one"
        if not self.path.is_dir():
            raise CacheNotFound(f"no features at {self.path}; {way_out}")
        self.recipes = read_feature_recipes(self.path)
        if not self.recipes:
            raise CacheNotFound(f"{self.path} is a directory without features; {way_out}")
        self.networks = {
            name: identity
            for name, identity in read_networks(self.path).items()
            if identity in self.recipes
        }
        self._manifest = read_manifest(self.path)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, {', '.join(self.networks)})"

    def names(self) -> list[str]:
        """Give the names of the networks, sorted."""
        return sorted(self.networks)

    def rows(self) -> list[ManifestRow]:
        """Give the rows of the manifest that are of features, sorted by name and recipe."""
        rows = [row for row in self._manifest if row.recipe in self.recipes]
        return sorted(rows, key=lambda row: (row.name, row.recipe))

    def entry_path(self, row: ManifestRow) -> Path:
        """Give the file in which a row's entry stands."""
        return entry_path(self.path, row.recipe, row.digest)

    def __getitem__(self, name: str) -> NetworkFeatures:
        """Give the features of a network, by its name in the store.

        Raises
        ------
        EntryNotFound
            If no network has this name.
        """
        if name not in self.networks:
            raise EntryNotFound(
                f'no features "{name}" in {self.path}; there are: {", ".join(self.names())}'
            )
        return NetworkFeatures(self.path, name, self.recipes[self.networks[name]], self._manifest)


def holds_features(path: Path) -> bool:
    """Whether a directory is a store of features, with no flow beside them."""
    if not path.is_dir():
        return False
    kinds = {type(read_recipe(file.read_text(encoding="utf-8"))) for file in recipe_files(path)}
    return kinds == {FeatureRecipe}


def open_entry(path: Path) -> Entry | FeatureEntry:
    """Open an entry file of either kind, by the recipe beside it."""
    recipe = path.parent.parent / RECIPE_FILE
    try:
        of_features = isinstance(read_recipe(recipe.read_text("utf-8")), FeatureRecipe)
    except (OSError, ValueError):
        of_features = False  # as verification says of it
    return FeatureEntry(path) if of_features else Entry(path)


def read_feature_recipes(store: Path) -> dict[str, FeatureRecipe]:
    """Give the recipes of features in a directory, by id."""
    found = {}
    for file in recipe_files(store):
        recipe = read_recipe(file.read_text(encoding="utf-8"))
        if isinstance(recipe, FeatureRecipe) and recipe.id == file.parent.name:
            found[recipe.id] = recipe
    return found


def read_networks(store: Path) -> dict[str, str]:
    """Give name → recipe id: the last line for each name."""
    file = store / NETWORKS_FILE
    text = file.read_bytes() if file.is_file() else b""
    return {str(row.get("name")): str(row.get("recipe")) for row in objects_of(text)}


def name_network(store: Path, name: str, recipe: FeatureRecipe) -> None:
    """Let a name stand for a recipe from now on."""
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidArgument(f'name "{name}" must be of letters, digits, . - and _, like rgb')
    if read_networks(store).get(name) != recipe.id:
        line = {"name": name, "recipe": recipe.id, "time": time.time()}
        append_lines(store / NETWORKS_FILE, [line])
