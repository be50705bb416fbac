"""New videos through the networks of a finished run: flow, every stream, fusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.cache import open_cache
from flowpipe.cache.manifest import read_manifest
from flowpipe.datasets import Video, videos_of
from flowpipe.errors import ConfigError, nearest_name
from flowpipe.experiment.cached import refuse_new_videos
from flowpipe.experiment.data import extract_arguments
from flowpipe.experiment.networks import trained_model
from flowpipe.experiment.pages import load_run
from flowpipe.experiment.run import score_records
from flowpipe.experiment.settings import Settings
from flowpipe.extraction import extract
from flowpipe.extraction.results import Failure
from flowpipe.fusion import fuse
from flowpipe.scores import Scores

PREDICT_CACHE = "predict.cache"
# Of these the others need scores of training videos of the same fold.
PLAIN_FUSIONS = ("logsum", "average", "sum")


@dataclass
class Predictions:
    """Scores of each stream and fused, and the videos that could not be read."""

    scores: list[Scores]
    failures: list[Failure]

    @property
    def names(self) -> list[str]:
        return [scores.stream for scores in self.scores]

    def best(self, scores: Scores, row: int, top: int) -> list[tuple[str, float]]:
        """Give the `top` likeliest classes of a video with their probabilities."""
        order = np.argsort(-scores.probabilities_NK[row], kind="stable")[:top]
        return [(scores.classes[k], float(scores.probabilities_NK[row, k])) for k in order]

    def as_record(self, top: int) -> dict[str, Any]:
        """Give what `--json` prints: video → stream → [[class, probability], …]."""
        found: dict[str, Any] = {"videos": {}, "failed": len(self.failures)}
        for row, video in enumerate(self.scores[0].ids if self.scores else ()):
            found["videos"][video] = {s.stream: self.best(s, row, top) for s in self.scores}
        found["failures"] = [{"name": f.name, "reason": f.reason} for f in self.failures]
        return found

    def tables(self, top: int) -> dict[str, list[list[str]]]:
        """Give rows of (rank, class and probability of each stream) for each video."""
        found = {}
        for row, video in enumerate(self.scores[0].ids if self.scores else ()):
            columns = [self.best(scores, row, top) for scores in self.scores]
            ranks = zip(*columns, strict=True)
            found[video] = [
                [str(rank), *(f"{name} {share:.1%}" for name, share in cells)]
                for rank, cells in enumerate(ranks, start=1)
            ]
        return found


def predict_videos(
    run: Path,
    videos: Sequence[str | Path],
    *,
    fold: str | None = None,
    on_share: Callable[[float, str], None] | None = None,
) -> Predictions:
    """Score videos with a run's networks.

    Flow comes from the run's own cache if it has all of the videos; else it is computed by the
    run's recipe and kept in the run's predict.cache.

    Parameters
    ----------
    run : Path
        Folder of a finished run.
    videos : sequence of paths
        Videos, directories or lists.
    fold : str, optional
        Whose networks; the run's first by default.
    """
    settings, results = load_run(run)
    refuse_new_videos(settings)
    folds = [str(row["fold"]) for row in results["folds"]]
    if fold is not None and fold not in folds:
        raise ConfigError(
            f'{run} has no fold "{fold}"{nearest_name(fold, folds)}; it has {", ".join(folds)}'
        )
    share = on_share or (lambda part, told: None)
    sources, empty = videos_of(videos)
    stored = [] if empty else _stored(settings, run, sources)
    cache_path = _own_cache(settings, run) if stored else run / PREDICT_CACHE
    done = extract(
        stored or videos,
        cache_path,
        retry_failed=True,
        on_progress=lambda p: share(0.5 * p.finished / max(1, p.videos), f"{p.flows} flows"),
        **extract_arguments(settings),
    )
    failed = {failure.name for failure in done.failures}
    # Scored under their names in the cache, shown under those of the sources.
    pairs = zip(sources, stored or sources, strict=True)
    shown = {entry.id: source.id for source, entry in pairs if entry.id not in failed}
    records = [replace(v, labels=()) for v in stored or sources if v.id in shown]
    if not records:
        return Predictions([], done.failures)
    cache = open_cache(cache_path, recipe=done.recipe)
    classes = tuple(results["classes"])
    scores = []
    for number, name in enumerate(settings.streams):
        share(0.5 + 0.5 * number / len(settings.streams), f"{name}: {len(records)} videos")
        model = trained_model(settings, name, fold or folds[0], run, len(classes))
        own = score_records(settings, name, model, records, classes, cache)
        scores.append(replace(own, ids=tuple(shown[entry_id] for entry_id in own.ids)))
    if len(scores) > 1:
        method = settings.fuse.headline
        plain = method if method in PLAIN_FUSIONS else "logsum"
        scores.append(fuse(scores, plain))
    return Predictions(scores, done.failures)


def _own_cache(settings: Settings, run: Path) -> Path:
    return settings.data.cache or run / "cache"


def _stored(settings: Settings, run: Path, sources: Sequence[Video]) -> list[Video]:
    """Give the videos by their names in the run's own cache, if it has the flow of all of them."""
    cache = _own_cache(settings, run)
    names = {row.path: row.name for row in read_manifest(cache)} if cache.is_dir() else {}
    if not all(str(source.path) in names for source in sources):
        return []
    stored = [replace(source, id=names[str(source.path)]) for source in sources]
    if len({video.id for video in stored}) < len(stored):
        return []
    plan = extract(stored, cache, dry_run=True, **extract_arguments(settings))
    return [] if plan.to_do or plan.failed else stored
