"""The names of features in a cache, under the name that they had before `Cache.networks`."""

from flowpipe.cache.cache import Cache


class FeatureStore:
    """The features of a cache by their names; `Cache.networks` and `Cache.select` are its heirs."""

    def __init__(self, path: str) -> None:
        self._cache = Cache(path)

    def names(self) -> list[str]:
        """Return the names of the features, sorted."""
        return sorted(self._cache.networks)

    def __getitem__(self, name: str) -> Cache:
        return self._cache.select(name)
