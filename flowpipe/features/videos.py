"""From videos to features as files, in one call: extraction as the networks want it, then .npy.

::

    OUT/bend/daria_bend.npy      T×D float32, the networks' features side by side
    OUT/bend/daria_bend.json     time of each row, which columns are whose, weights and digests
    OUT/flow.cache               flow and frames, kept for the next network
    OUT/features.cache           the features themselves, from which a stopped run goes on
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowpipe.cache import open_cache
from flowpipe.errors import InvalidArgument
from flowpipe.extraction import ExtractionResult, extract
from flowpipe.features.computing import FeaturesResult, compute_features
from flowpipe.features.extractor import Extractor
from flowpipe.features.interchange import ExportedFeatures, export_features
from flowpipe.features.options import wanted_recipe
from flowpipe.runs import Progress

FLOW_CACHE, FEATURES_CACHE = "flow.cache", "features.cache"


@dataclass(frozen=True)
class VideoFeatures:
    """What became of videos.

    Attributes
    ----------
    extraction : ExtractionResult
    features : list of FeaturesResult
        One for each network.
    exported : list of ExportedFeatures
        One for each video that every network has features of.
    """

    extraction: ExtractionResult
    features: list[FeaturesResult]
    exported: list[ExportedFeatures]

    @property
    def failed(self) -> bool:
        """Whether any video lacks features."""
        return self.extraction.failed > 0 or any(result.failed for result in self.features)


def features_of_videos(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    extractors: Mapping[str, Extractor],
    *,
    flow: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    readers: int | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> VideoFeatures:
    """Compute features of videos by one or several networks, and write them as files.

    Parameters
    ----------
    sources : sequence of paths
        Videos, directories or lists, as for `flowpipe.extract`.
    out : path
        Folder of the files; made when missing.
    extractors : mapping of str to Extractor
        Name → a `FeatureExtractor` or a `FlowHistogram`. Rows of several are aligned in time.
    flow : str, optional
        Method of flow; by default the one the networks want.
    cache : path, optional
        Of flow and frames; by default in `out`.
    workers : int, optional
        Processes that extract; by default one per core.
    batch_size, readers : int, optional
        As for `compute_features`.
    on_progress : callable, optional
        Called with (what is done, a `Progress`) about four times a second.

    Raises
    ------
    InvalidArgument
        If the networks want different frames, or `out` is a folder of other features.
    CacheError
        If something cannot be written; what was done is kept.
    """
    recipe = wanted_recipe([one.wanted for one in extractors.values()], flow=flow)
    for name, extractor in extractors.items():
        extractor.wanted.check(f'the network of "{name}"', recipe)
    folder = Path(out)
    store, flow_cache = folder / FEATURES_CACHE, Path(cache or folder / FLOW_CACHE)
    ours = store.is_dir()
    if not ours and folder.is_dir() and next(folder.rglob("*.npy"), None) is not None:
        raise InvalidArgument(
            f"{folder} holds .npy files of another origin; choose an empty folder", parameter="out"
        )
    if folder.is_file():
        raise InvalidArgument(f"{folder} is a file; give a folder", parameter="out")

    def tell(stage: str) -> Callable[[Progress], None] | None:
        return None if on_progress is None else lambda progress: on_progress(stage, progress)

    folder.mkdir(parents=True, exist_ok=True)
    extraction = extract(
        list(sources), flow_cache, recipe, workers=workers, on_progress=tell("extract")
    )
    results: list[FeaturesResult] = []
    exported: list[ExportedFeatures] = []
    if extraction.done + extraction.skipped:
        opened = open_cache(flow_cache, recipe=recipe.id)
        results = [
            compute_features(
                extractor,
                opened,
                store,
                name=name,
                batch_size=batch_size,
                readers=readers,
                on_progress=tell(name),
            )
            for name, extractor in extractors.items()
        ]
    if results and all(result.done + result.skipped for result in results):
        exported = export_features(
            open_cache(store), folder, networks=list(extractors), overwrite=True
        )
    return VideoFeatures(extraction, results, exported)
