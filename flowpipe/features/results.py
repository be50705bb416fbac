"""What computing or importing features did."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeatureFailure:
    """A video without features, and why."""

    name: str
    reason: str


@dataclass
class FeaturesResult:
    """What a computation of features did.

    Attributes
    ----------
    name, recipe : str
        The network's name in the store, and the id of the recipe.
    videos, done, skipped, failed : int
        All, computed now, already there, without features.
    snippets, snippets_total : int
        Computed now, and in the store for these videos.
    seconds, snippets_per_s : float
        Wall clock; snippets computed now per second.
    bytes : int
        Size of the entries of these videos.
    shape : tuple of int
        Of one snippet's features.
    stage_seconds : dict
        Time of the reading threads ("read") and of the network ("network"), which overlap.
    failures : list of FeatureFailure
    """

    name: str
    recipe: str
    videos: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    snippets: int = 0
    snippets_total: int = 0
    seconds: float = 0.0
    snippets_per_s: float = 0.0
    bytes: int = 0
    shape: tuple[int, ...] = ()
    stage_seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "network": 0.0})
    failures: list[FeatureFailure] = field(default_factory=list)


@dataclass(frozen=True)
class FeaturesProgress:
    """How far a computation is."""

    videos: int
    finished: int
    failed: int
    snippets: int
    seconds: float
