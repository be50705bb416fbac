"""A configuration from extraction to fused scores: folds × streams, each resumable."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from flowpipe.cache import Cache, open_cache
from flowpipe.clips.dataset import ClipDataset
from flowpipe.clips.memory import MemoryCache
from flowpipe.datasets.video import Dataset, Video
from flowpipe.experiment.cached import feature_records, fit_svm, needs_flow
from flowpipe.experiment.data import divide, fill_cache, load_annotations
from flowpipe.experiment.networks import Say, describe_networks, make_model, trained_model
from flowpipe.experiment.results import (
    RESULTS_FILE,
    SCORES_FOLDER,
    SETTINGS_FILE,
    Fold,
    RunResult,
    concatenate,
    fused_file,
    stream_folder,
)
from flowpipe.experiment.settings import SVM, Settings
from flowpipe.extraction.results import ExtractionResult, Progress
from flowpipe.fusion import fuse
from flowpipe.prediction import predict_scores
from flowpipe.scores import Scores, load_scores
from flowpipe.training import train_stream
from flowpipe.training.ranks import join


def run_experiment(
    settings: Settings,
    out: Path,
    *,
    fold: str | None = None,
    say: Say = lambda text: None,
    on_extract: Callable[[Progress], None] | None = None,
    on_share: Callable[[float, str], None] | None = None,
) -> RunResult:
    """Extract, train, test, fuse. What a killed run has done is kept and gone on with.

    Parameters
    ----------
    settings : Settings
    out : Path
        Folder of the run.
    fold : str, optional
        A fold's name, "all", or None for the first.
    say, on_extract, on_share : callable
        Sentences, progress of the extraction, and (share done, text) of training and testing.

    Under torchrun all processes call it: they train together, and the first does the rest.
    """
    ranks = join()
    if not ranks.first:
        say, on_extract, on_share = lambda text: None, None, None
    annotations = load_annotations(settings)
    divisions = divide(settings, annotations, fold)
    out.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        (out / SETTINGS_FILE).write_text(settings.to_json() + "\n", encoding="utf-8")
    records = annotations.videos
    extraction: ExtractionResult | None = None
    cache: MemoryCache | None = None
    if needs_flow(settings):
        cache_path = settings.data.cache or out / "cache"
        if not ranks.first:
            ranks.barrier()  # then all is there, and nothing is left to compute
        extraction = fill_cache(settings, records, cache_path, on_extract)
        if ranks.first:
            ranks.barrier()
        say(
            f"cache {cache_path}: {extraction.done} videos computed, {extraction.skipped} reused, "
            f"{extraction.flows_total} flows"
        )
        stored = open_cache(cache_path, recipe=extraction.recipe)
        cache = MemoryCache(stored, settings.train.memory_mb)
    done = 0.0
    parts = len(divisions) * len(settings.streams)
    for division in divisions:
        for name in settings.streams:

            def share(part: float, told: str, before: float = done) -> None:
                if on_share is not None:
                    on_share((before + part) / parts, told)

            features = feature_records(settings, name, division.name, division.records)
            own = cache if features is None else features
            division.scores[name] = run_stream(settings, name, division, own, out, share, say)
            done += 1
        _fuse_fold(settings, division, out)
        told = ", ".join(f"{k} {v:.3f}" for k, v in division.accuracies().items())
        say(f"fold {division.name}: {told}")
    return collect(settings, divisions, out, extraction)


def run_stream(
    settings: Settings,
    name: str,
    division: Fold,
    cache: Any,
    out: Path,
    share: Callable[[float, str], None],
    say: Say,
) -> Scores:
    """Train and test one stream on one fold."""
    stream, options = settings.streams[name], settings.train_options(name)
    classes = division.train.classes
    folder = stream_folder(out, division.name, name)
    shape = getattr(cache, "feature_shape", ())
    stream_input = settings.stream_input(name, shape)
    model = make_model(settings, name, len(classes), load=True, say=say, feature_shape=shape)
    same = fingerprint(settings, name, division, getattr(cache, "recipes", ()))
    dataset = ClipDataset(
        division.train.videos,
        cache,
        [stream_input],
        classes=classes,
        seed=options.seed,
        clips_per_video=options.clips_per_video,
        sampling=options.sampling,
        scales=options.scales,
        max_distortion=options.max_distortion,
        crop=options.crop,
        flip=settings.data.flip,
    )

    def on_epoch(record: dict[str, Any]) -> None:
        told = (
            f"fold {division.name}, {name}: epoch {record['epoch']}/{options.epochs}, "
            f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s"
        )
        share(0.9 * record["epoch"] / options.epochs, told)

    ranks = join()
    if stream.model == SVM and stream.input == "features":
        if ranks.first:
            fit_svm(model, division.train, cache, out=folder, fingerprint=same, seed=options.seed)
        history: list[dict[str, Any]] = []
    else:
        history = train_stream(
            model,
            dataset,
            options,
            folder,
            fingerprint=same,
            on_epoch=on_epoch,
        )
    if not ranks.first:
        ranks.barrier()
        return load_scores(folder / "scores.npz")
    share(0.9, f"fold {division.name}, {name}: testing")
    started = time.perf_counter()
    if len(settings.streams) > 1 and settings.fuse.training_clips > 0:
        fitted = score_stream(
            settings, name, model, division.train, cache, clips=settings.fuse.training_clips
        )
        fitted.save(folder / "training_scores.npz")
    scores = score_stream(settings, name, model, division.test, cache)
    scores.save(folder / "scores.npz")
    trained_s = sum(record["seconds"] for record in history)
    division.seconds[name] = trained_s + time.perf_counter() - started
    ranks.barrier()
    return scores


def score_stream(
    settings: Settings,
    name: str,
    model: nn.Module,
    annotations: Dataset,
    cache: Any,
    *,
    clips: int | None = None,
) -> Scores:
    """Score videos with the clips and crops of `[test]`."""
    return score_records(
        settings, name, model, annotations.videos, annotations.classes, cache, clips=clips
    )


def score_records(
    settings: Settings,
    name: str,
    model: nn.Module,
    records: Sequence[Video],
    classes: Sequence[str],
    cache: Any,
    *,
    clips: int | None = None,
) -> Scores:
    """Score videos, labelled or not, with the clips and crops of `[test]`."""
    test = settings.test if clips is None else replace(settings.test, clips=clips)
    return predict_scores(
        model,
        Dataset(tuple(records), tuple(classes)),
        cache,
        settings.stream_input(name, getattr(cache, "feature_shape", ())),
        test,
        workers=settings.train.workers,
        device=settings.train.device,
        activation=settings.train.loss,
        protocol={"model": settings.streams[name].model},
    )


def fingerprint(
    settings: Settings, name: str, division: Fold, recipes: Sequence[str] = ()
) -> dict[str, Any]:
    """What a checkpoint must share to be gone on with."""
    stream = asdict(settings.streams[name])
    for key in ("epochs", "learning_rate", "clips_per_video", "weights"):
        del stream[key]
    extract = asdict(settings.extract)
    for key in ("workers", "codec"):
        del extract[key]
    return {
        "stream": stream,
        "extract": extract,
        "flip": settings.data.flip,
        "fold": division.name,
        "videos": {"count": len(division.train.videos)},
        **({"features": list(recipes)} if recipes else {}),
    }


def collect(
    settings: Settings,
    divisions: Sequence[Fold],
    out: Path,
    extraction: ExtractionResult | None = None,
) -> RunResult:
    """Join the scores of the folds and write results.json."""
    streams = {n: concatenate([d.scores[n] for d in divisions]) for n in settings.streams}
    fused = {n: concatenate([d.fused[n] for d in divisions]) for n in divisions[0].fused}
    for name, scores in streams.items():
        scores.save(out / SCORES_FOLDER / f"{name}.npz")
    for name, scores in fused.items():
        scores.save(fused_file(out, name))
    result = RunResult(
        out,
        divisions[0].train.classes,
        streams,
        fused,
        settings.fuse.headline,
        [{"fold": d.name, "videos": len(d.test.videos), **d.accuracies()} for d in divisions],
        extraction,
        describe_networks(settings, divisions, streams),
    )
    (out / RESULTS_FILE).write_text(
        json.dumps(result.as_record(), indent=2) + "\n", encoding="utf-8"
    )
    return result


def retest(
    settings: Settings,
    run: Path,
    names: Sequence[str],
    *,
    out: Path,
    on_share: Callable[[float, str], None] | None = None,
) -> RunResult:
    """Test the networks of a finished run again, with the `[test]` of these settings."""
    annotations = load_annotations(settings)
    divisions = [d for d in divide(settings, annotations, "all") if d.name in names]
    extraction: ExtractionResult | None = None
    cache: Cache | None = None
    if needs_flow(settings):
        cache_path = settings.data.cache or run / "cache"
        extraction = fill_cache(settings, annotations.videos, cache_path)
        cache = open_cache(cache_path, recipe=extraction.recipe)
    parts = [(division, name) for division in divisions for name in settings.streams]
    for number, (division, name) in enumerate(parts):
        if on_share is not None:
            on_share(number / len(parts), f"fold {division.name}, {name}")
        features = feature_records(settings, name, division.name, division.records)
        own = cache if features is None else features
        shape = getattr(own, "feature_shape", ())
        classes = len(annotations.classes)
        model = trained_model(settings, name, division.name, run, classes, shape)
        division.scores[name] = score_stream(settings, name, model, division.test, own)
    for division in divisions:
        _fuse_fold(settings, division, run)
    return collect(settings, divisions, out, extraction)


def _fuse_fold(settings: Settings, division: Fold, out: Path) -> None:
    """Fuse the streams; weights and SVM see scores of the training videos only."""
    if len(settings.streams) < 2:
        return

    def fused(names: Sequence[str], method: str) -> Scores:
        training = None
        if method in ("svm", "weighted"):
            folder = out / f"fold-{division.name}"
            training = [load_scores(folder / n / "training_scores.npz") for n in names]
        return fuse(
            [division.scores[name] for name in names],
            method,  # type: ignore[arg-type]
            training=training,
            seed=settings.train.seed,
        )

    for method in dict.fromkeys((settings.fuse.headline, *settings.fuse.methods)):
        division.fused[method] = fused(list(settings.streams), method)
    for group in settings.fuse.groups:
        division.fused[" + ".join(group)] = fused(group, settings.fuse.headline)
