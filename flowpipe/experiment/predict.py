"""New videos through the networks of a finished run: flow, every stream, fusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.cache import open_cache
from flowpipe.clips.videos import VideoRecord
from flowpipe.errors import ConfigError, nearest_name
from flowpipe.experiment.cached import refuse_new_videos
from flowpipe.experiment.pages import load_run
from flowpipe.experiment.run import RecordCache, extract_arguments, score_records, trained_model
from flowpipe.extraction import Failure, extract
from flowpipe.extraction.sources import find_sources
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
    """Score new videos with a run's networks.

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
    cache_path = run / PREDICT_CACHE
    sources, _ = find_sources(videos)
    done = extract(
        videos,
        cache_path,
        retry_failed=True,
        on_progress=lambda p: share(0.5 * p.finished / max(1, p.videos), f"{p.flows} flows"),
        **extract_arguments(settings),
    )
    failed = {failure.name for failure in done.failures}
    records = [VideoRecord(s.name, s.path) for s in sources if s.name not in failed]
    if not records:
        return Predictions([], done.failures)
    cache = RecordCache(open_cache(cache_path, recipe=done.recipe), records)
    classes = tuple(results["classes"])
    scores = []
    for number, name in enumerate(settings.streams):
        share(0.5 + 0.5 * number / len(settings.streams), f"{name}: {len(records)} videos")
        model = trained_model(settings, name, fold or folds[0], run, len(classes))
        scores.append(score_records(settings, name, model, records, classes, cache))
    if len(scores) > 1:
        method = settings.fuse.headline
        plain = method if method in PLAIN_FUSIONS else "logsum"
        scores.append(fuse(scores, plain))
    return Predictions(scores, done.failures)
