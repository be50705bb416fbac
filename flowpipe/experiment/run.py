"""A configuration from extraction to fused scores: folds × streams, each resumable.

::

    RUN/settings.json           what was asked for
    RUN/results.json            accuracies
    RUN/report.html
    RUN/fold-K/STREAM/checkpoint.pt, metrics.jsonl, scores.npz, training_scores.npz
    RUN/scores/STREAM.npz, fused-METHOD.npz      all tested videos
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from flowpipe.cache import Cache, open_cache
from flowpipe.clips.annotations import from_csv, from_folders
from flowpipe.clips.dataset import ClipDataset
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.official import SPLITS, TEST, TRAIN, from_kinetics, split_numbers
from flowpipe.clips.splits import folds, seeded_split, split_fold
from flowpipe.clips.videos import Annotations, VideoRecord
from flowpipe.errors import ConfigError, EntryNotFound, VideoError
from flowpipe.experiment.cached import feature_records, fit_svm, needs_flow
from flowpipe.experiment.settings import SVM, Settings
from flowpipe.extraction import ExtractionResult, Progress, extract
from flowpipe.extraction.sources import Source
from flowpipe.fusion import fuse
from flowpipe.metrics import hit_at_k, mean_class_accuracy, top_k_accuracy
from flowpipe.models import build_for_clip
from flowpipe.models.heads import build_head
from flowpipe.models.summary import describe
from flowpipe.models.weights import load_weights
from flowpipe.prediction import predict_scores
from flowpipe.ranks import join
from flowpipe.scores import Scores, load_scores
from flowpipe.synthetic import write_videos
from flowpipe.training import CHECKPOINT, METRICS, read_model, train_stream

SETTINGS_FILE, RESULTS_FILE, SCORES_FOLDER = "settings.json", "results.json", "scores"
WHOLE = "split"

Say = Callable[[str], None]


@dataclass
class Fold:
    """One division of the videos, by name, and the scores it gave."""

    name: str
    train: Annotations
    test: Annotations
    scores: dict[str, Scores] = field(default_factory=dict)
    fused: dict[str, Scores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def records(self) -> tuple[VideoRecord, ...]:
        return (*self.train.records, *self.test.records)

    def accuracies(self) -> dict[str, float]:
        """Top-1 accuracy of each stream and of each fusion."""
        found = {name: accuracy(scores) for name, scores in self.scores.items()}
        return found | {f"fused ({name})": accuracy(s) for name, s in self.fused.items()}


@dataclass
class RunResult:
    """What an experiment gave: scores of all tested videos, and the accuracy of each fold."""

    out: Path
    classes: tuple[str, ...]
    streams: dict[str, Scores]
    fused: dict[str, Scores]
    headline: str
    folds: list[dict[str, Any]]
    extraction: ExtractionResult | None = None
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Give what `--json` prints: means over folds, which `folds` has one by one."""
        names = [name for name in self.folds[0] if name not in ("fold", "videos")]
        means = {name: float(np.mean([fold[name] for fold in self.folds])) for name in names}
        own = {name: means[name] for name in self.streams}
        if self.fused:
            own["fused"] = means[f"fused ({self.headline})"]
        return {
            "accuracy": own,
            "fusions": {name: means[f"fused ({name})"] for name in self.fused},
            "mean_class_accuracy": {
                name: mean_class_accuracy(s.probabilities_NK, s.labels_N)
                for name, s in {**self.streams, **self.fused}.items()
                if s.targets_NK is None
            },
            "networks": self.networks,
            "classes": list(self.classes),
            "headline": self.headline if self.fused else next(iter(self.streams)),
            "videos": len(next(iter(self.streams.values())).ids),
            "folds": self.folds,
            "out": str(self.out),
        }


def accuracy(scores: Scores) -> float:
    """Top-1 accuracy at video level; hit@1 where videos have several labels."""
    if scores.targets_NK is not None:
        return hit_at_k(scores.probabilities_NK, scores.targets_NK, 1)
    return top_k_accuracy(scores.probabilities_NK, scores.labels_N, 1)


def load_annotations(settings: Settings) -> Annotations:
    """Give all labelled videos of `[data]`."""
    data = settings.data
    if data.generate is not None:
        write_videos(data.root, clips=data.generate)
    if not data.root.is_dir():
        raise ConfigError(f"[data] root {data.root} is not a directory")
    form = data.form or ("folders" if data.annotations is None else "csv")
    if form == "folders":
        return from_folders(data.root)
    if data.annotations is None:
        raise ConfigError(f'[data] form "{form}" needs annotations, a path below the root')
    if form in SPLITS:
        splits = [
            SPLITS[form](data.annotations, data.root, number)
            for number in split_numbers(form, data.annotations)
        ]
        records = {record.id: record for split in splits for record in split.records}
        return Annotations(tuple(records.values()), splits[0].classes)
    if form == "kinetics":
        return from_kinetics(data.annotations, data.root, skip_missing=data.skip_missing)
    return from_csv(
        data.annotations,
        data.root,
        video_column=data.video_column,
        label_column=data.label_column,
        fold_column=data.fold_column,
        label_separator=data.label_separator,
    )


def divide(settings: Settings, annotations: Annotations, fold: str | None) -> list[Fold]:
    """Give the folds asked for: one name, "all", or (None) the first; or a seeded split."""
    data = settings.data
    if data.form is not None and data.form in SPLITS and data.annotations is not None:
        numbers = list(map(str, split_numbers(data.form, data.annotations)))
        official = numbers if fold == "all" else [numbers[0] if fold is None else fold]
        if unknown := [name for name in official if name not in numbers]:
            raise ConfigError(f'no split "{unknown[0]}"; there are: {", ".join(numbers)}')
        read = SPLITS[data.form]
        splits = {name: read(data.annotations, data.root, int(name)) for name in official}
        return [Fold(name, *split_fold(split, TEST)) for name, split in splits.items()]
    names = folds(annotations)
    if not names:
        if fold not in (None, "all", WHOLE):
            raise ConfigError(f'fold "{fold}": the data has no folds; set [data] fold_column')
        train, test = seeded_split(
            annotations,
            group_pattern=settings.data.group_pattern,
            test_fraction=settings.data.test_fraction,
            seed=settings.train.seed,
        )
        return [Fold(WHOLE, train, test)]
    # A column of splits ("train", "val", "test") trains on one of them, not on all others.
    tested = [name for name in names if name != TRAIN]
    if len(tested) < len(names) and fold in (None, "all", *tested):
        first = TEST if TEST in tested else tested[0]
        chosen = [first if fold in (None, "all") else str(fold)]
        kept = tuple(r for r in annotations.records if r.fold in (TRAIN, *chosen))
        annotations = replace(annotations, records=kept)
    else:
        chosen = names if fold == "all" else [names[0] if fold is None else fold]
    return [Fold(name, *split_fold(annotations, name)) for name in chosen]


def fill_cache(
    settings: Settings,
    records: Sequence[VideoRecord],
    cache: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractionResult:
    """Extract what is missing; a video without flow is an error, as no fold may lose it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    sources = [Source(record.path, record.id, record.label) for record in records]
    result = extract(sources, cache, on_progress=on_progress, **extract_arguments(settings))
    if result.failed:
        first = result.failures[0]
        raise VideoError(
            f"{result.failed} videos have no flow, the first: {first.reason}; take them off the "
            "annotations (an empty fold leaves a row out)"
        )
    return result


def extract_arguments(settings: Settings) -> dict[str, Any]:
    """Give the keyword arguments of `extract` that `[extract]` stands for."""
    wanted = settings.extract
    options = {f.name: getattr(wanted, f.name) for f in dataclasses.fields(wanted)}
    options["size"] = None if wanted.size is None else (wanted.size[0], wanted.size[-1])
    backward = any(stream.stacking == "bidirectional" for stream in settings.streams.values())
    return {**options, "rgb": True, "backward": backward}


class RecordCache:
    """A cache by the ids of records: the entry of the file at a record's path."""

    def __init__(self, cache: Cache, records: Sequence[VideoRecord]) -> None:
        self._cache = cache
        by_path = {row.path: row.name for row in cache.rows()}
        self._names = {}
        for record in records:
            name = by_path.get(os.path.abspath(record.path))  # noqa: PTH100 — links are not followed
            if name is None:
                raise EntryNotFound(f"{record.path} is not in the cache {cache.path}")
            self._names[record.id] = name

    def __getitem__(self, record_id: str) -> Any:
        return self._cache[self._names[record_id]]

    def backward(self, record_id: str) -> Any:
        return self._cache.backward(self._names[record_id])


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
    records = annotations.records
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
        stored = RecordCache(open_cache(cache_path, recipe=extraction.recipe), records)
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
    stream, train = settings.streams[name], settings.train
    classes = division.train.classes
    folder = stream_folder(out, division.name, name)
    shape = getattr(cache, "feature_shape", ())
    stream_input = settings.stream_input(name, shape)
    model = make_model(settings, name, len(classes), load=True, say=say, feature_shape=shape)
    same = fingerprint(settings, name, division, getattr(cache, "recipes", ()))
    dataset = ClipDataset(
        division.train.records,
        cache,
        [stream_input],
        classes=classes,
        seed=train.seed,
        clips_per_video=stream.clips_per_video or train.clips_per_video,
        scales=train.scales,
        max_distortion=train.max_distortion,
        crop=train.crop,
        flip=settings.data.flip,
    )
    epochs = stream.epochs or train.epochs

    def on_epoch(record: dict[str, Any]) -> None:
        told = (
            f"fold {division.name}, {name}: epoch {record['epoch']}/{epochs}, "
            f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s"
        )
        share(0.9 * record["epoch"] / epochs, told)

    ranks = join()
    if stream.model == SVM and stream.input == "features":
        if ranks.first:
            fit_svm(model, division.train, cache, out=folder, fingerprint=same, seed=train.seed)
        history: list[dict[str, Any]] = []
    else:
        history = train_stream(
            model,
            dataset,
            out=folder,
            epochs=epochs,
            batch_size=train.batch_size,
            optimiser=train.optimiser,
            learning_rate=stream.learning_rate or train.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            schedule=train.schedule,
            steps=train.steps,
            warmup_epochs=train.warmup_epochs,
            gradient_clip=train.gradient_clip,
            label_smoothing=train.label_smoothing,
            loss=train.loss,
            balanced=train.balanced,
            seed=train.seed,
            workers=train.workers,
            device=train.device,
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
    annotations: Annotations,
    cache: Any,
    *,
    clips: int | None = None,
) -> Scores:
    """Score videos with the clips and crops of `[test]`."""
    return score_records(
        settings, name, model, annotations.records, annotations.classes, cache, clips=clips
    )


def score_records(
    settings: Settings,
    name: str,
    model: nn.Module,
    records: Sequence[VideoRecord],
    classes: Sequence[str],
    cache: Any,
    *,
    clips: int | None = None,
) -> Scores:
    """Score videos, labelled or not, with the clips and crops of `[test]`."""
    return predict_scores(
        model,
        records,
        cache,
        settings.stream_input(name, getattr(cache, "feature_shape", ())),
        classes=classes,
        clips=clips or settings.test.clips,
        crops=settings.test.crops,
        crop_scale=settings.test.crop_scale,
        batch_size=settings.test.batch_size,
        workers=settings.train.workers,
        device=settings.train.device,
        activation=settings.train.loss,
        protocol={"model": settings.streams[name].model},
    )


def make_model(
    settings: Settings,
    name: str,
    num_classes: int,
    *,
    load: bool,
    say: Say = lambda text: None,
    feature_shape: tuple[int, ...] = (),
) -> nn.Module:
    """Build the network of a stream, its initial weights fixed by the seed."""
    stream = settings.streams[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.train.seed)
        if stream.input == "features":
            model = build_head(
                stream.model, feature_shape, num_classes=num_classes, **stream.model_parameters
            )
        else:
            model = build_for_clip(
                stream.model,
                settings.stream_input(name).clip_CTHW,
                num_classes=num_classes,
                **stream.model_parameters,
            )
    if load and stream.weights is not None:
        say(f"{name}: {load_weights(model, stream.weights)}")
    return model


def trained_model(
    settings: Settings,
    name: str,
    fold: str,
    out: Path,
    classes: int,
    feature_shape: tuple[int, ...] = (),
) -> nn.Module:
    """Build the network of a stream with the weights that a run gave it."""
    model = make_model(settings, name, classes, load=False, feature_shape=feature_shape)
    read_model(stream_folder(out, fold, name) / CHECKPOINT, model)
    return model


def fingerprint(
    settings: Settings, name: str, division: Fold, recipes: Sequence[str] = ()
) -> dict[str, Any]:
    """What a checkpoint must share to be gone on with."""
    stream = asdict(settings.streams[name])
    train = asdict(settings.train)
    for key in ("workers", "device", "memory_mb"):  # these do not change what is learnt
        del train[key]
    return {
        "stream": json.dumps(stream, default=str, sort_keys=True),
        "train": json.dumps(train, sort_keys=True),
        "extract": json.dumps(asdict(settings.extract), default=str, sort_keys=True),
        "flip": settings.data.flip,
        "fold": division.name,
        "videos": len(division.train.records),
        **({"features": list(recipes)} if recipes else {}),
    }


def stream_folder(out: Path, fold: str, stream: str) -> Path:
    return out / f"fold-{fold}" / stream


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
        [{"fold": d.name, "videos": len(d.test.records), **d.accuracies()} for d in divisions],
        extraction,
        describe_networks(settings, divisions, streams),
    )
    (out / RESULTS_FILE).write_text(
        json.dumps(result.as_record(), indent=2) + "\n", encoding="utf-8"
    )
    return result


def fused_file(out: Path, name: str) -> Path:
    """Give the score file of a fusion, by its method or its streams."""
    return out / SCORES_FOLDER / f"fused-{name.replace(' ', '')}.npz"


def describe_networks(
    settings: Settings, divisions: Sequence[Fold], scores: Mapping[str, Scores]
) -> dict[str, dict[str, Any]]:
    """Give what each stream's network is and what it cost: rows of the table of results."""
    found = {}
    for name, stream in settings.streams.items():
        classes = len(divisions[0].train.classes)
        features = feature_records(settings, name, divisions[0].name, ())
        if features is None:
            clip: tuple[int, ...] = settings.stream_input(name).clip_CTHW
            summary = describe(
                stream.model,
                num_classes=classes,
                clip=settings.stream_input(name).clip_CTHW,
                **stream.model_parameters,
            )
            parameters, macs = summary.parameters, summary.macs
        else:
            # The cost of a head is next to nothing beside the network's, which is paid once.
            shape = features.feature_shape
            clip, macs = settings.stream_input(name, shape).input_shape, None
            head = make_model(settings, name, classes, load=False, feature_shape=shape)
            parameters = sum(p.numel() for p in head.parameters())
        tested = [division.scores[name] for division in divisions]
        # A test of a finished run trained nothing.
        spent = [d.seconds[name] for d in divisions if name in d.seconds]
        seconds = round(sum(spent), 1) if spent else None
        clip_accuracies = [part.protocol["clip_accuracy"] for part in tested]
        found[name] = {
            "model": stream.model,
            "input": f"{stream.input} {'×'.join(map(str, clip))}",
            "parameters": parameters,
            "macs": macs,
            "clip_accuracy": float(np.mean(clip_accuracies)),
            "video_accuracy": float(np.mean([accuracy(part) for part in tested])),
            "seconds": seconds,
        }
    return found


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Join scores of different videos."""
    first = parts[0]
    targets_NK = None
    if any(part.targets_NK is not None for part in parts):
        targets_NK = np.concatenate([_targets(part) for part in parts])
    return Scores(
        ids=tuple(i for part in parts for i in part.ids),
        labels_N=np.concatenate([part.labels_N for part in parts]),
        probabilities_NK=np.concatenate([part.probabilities_NK for part in parts]),
        logits_NK=np.concatenate([part.logits_NK for part in parts]),
        classes=first.classes,
        stream=first.stream,
        protocol=first.protocol,
        activation=first.activation,
        targets_NK=targets_NK,
    )


def _targets(scores: Scores) -> npt.NDArray[np.bool_]:
    if scores.targets_NK is not None:
        return scores.targets_NK
    targets_NK: npt.NDArray[np.bool_] = scores.labels_N[:, None] == np.arange(len(scores.classes))
    return targets_NK


def read_history(out: Path, fold: str, stream: str) -> list[dict[str, Any]]:
    """Give the records of training of one stream on one fold."""
    path = stream_folder(out, fold, stream) / METRICS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    cache: RecordCache | None = None
    if needs_flow(settings):
        cache_path = settings.data.cache or run / "cache"
        extraction = fill_cache(settings, annotations.records, cache_path)
        cache = RecordCache(open_cache(cache_path, recipe=extraction.recipe), annotations.records)
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
