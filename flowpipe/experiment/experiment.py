"""A configuration from its videos to a report: extract, train, test, fuse, predict."""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from flowpipe.cache import Cache, open_cache
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.parts import PartCache
from flowpipe.datasets import Dataset, Video, seeded_split, synthetic, time_only, videos_of
from flowpipe.errors import ConfigError, FlowpipeError, VideoError, nearest_name, some
from flowpipe.experiment import checks
from flowpipe.experiment.data import choose_folds, make_fold, read_dataset, read_pack
from flowpipe.experiment.histograms import HistogramStream
from flowpipe.experiment.mirror import mirror_note
from flowpipe.experiment.pages import write_page
from flowpipe.experiment.results import (
    HELD_OUT_FOLDER,
    MOVING,
    SCORES_FOLDER,
    SETTINGS_FILE,
    Fold,
    Predictions,
    RunResult,
    accuracy,
    concatenate,
    fused_file,
    mean_table,
    read_history,
    read_results,
    stream_folder,
)
from flowpipe.experiment.settings import (
    FLOW_HISTOGRAM,
    HISTOGRAMS,
    Settings,
    StreamSettings,
    as_weights_compute,
    read_run_settings,
)
from flowpipe.experiment.streams import ClipStream, FeatureStream
from flowpipe.extraction import ExtractionResult, Failure, extract
from flowpipe.fusion import fuse
from flowpipe.registry import own_code, refuse_foreign_code, trust
from flowpipe.scores import Scores, load_scores
from flowpipe.sealed import write_table
from flowpipe.training import TestOptions
from flowpipe.training.checkpoint import CHECKPOINT, check_same, read_settings
from flowpipe.training.ranks import join
from flowpipe.video import probe

PREDICT_CACHE = "predict.cache"
VALIDATION_SCORES = "validation_scores.npz"
# The flow scale "auto" is measured on about so many videos.
SCALED_VIDEOS = 50
# The scores of training videos that a fusion learns from.
FITTED_TO = {
    "svm": "training_scores.npz",
    "weighted": "training_scores.npz",
    "validated": VALIDATION_SCORES,
}

OnMessage = Callable[[str], None]
# Stage ("extract", "train", "test" or "predict"), share of it that is done, text.
OnProgress = Callable[[str, float, str], None]


class Experiment:
    """A configuration and the folder of its run.

    Parameters
    ----------
    settings : Settings
    out : Path
        Folder of the run.
    on_message, on_progress : callable, optional
        Called with a sentence; with (stage, share done, text).

    Attributes
    ----------
    dataset : Dataset
        The labelled videos; read when first used, and nothing is written by that.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        *,
        on_message: OnMessage | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.settings, self.out = settings, out
        speaks = join().first
        self._message = on_message if on_message and speaks else lambda text: None
        self._progress = on_progress if on_progress and speaks else lambda stage, share, text: None
        self._cache: Cache | PartCache | None = None
        self._memory: MemoryCache | None = None
        self._loaded: set[str] = set()  # what was said of weights, once for all folds
        # By input and weights of a stream, by video.
        self._known: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self._costs: dict[str, dict[str, Any]] = {}
        self._other_flow = False
        self._lost: set[str] = set()  # names of videos without flow

    @classmethod
    def of_run(cls, run: Path, **callbacks: Any) -> "Experiment":
        """Return the experiment of a finished run.

        Raises
        ------
        ConfigError
            If there is no finished run in the folder.
        """
        if run.is_file():
            raise ConfigError(
                f"{run} is no folder of a run; an exported file predicts, and its page can be "
                "written, but its videos and trainings are with the run that it was made of"
            )
        experiment = cls(read_run_settings(run), run, **callbacks)
        assert experiment.results
        return experiment

    def use_flow(
        self, flow: str | None, flow_parameters: Mapping[str, Any], *, other_flow: bool = False
    ) -> None:
        """Have the networks of a finished run look at the flow of a method.

        Parameters
        ----------
        flow : str, optional
            The method; None for that of the run.
        flow_parameters : mapping
            Of the method, where one is given.
        other_flow : bool
            Go on even where it is not the flow that they were trained on.

        Raises
        ------
        ConfigError
            For other flow, without leave.
        """
        self._check_code()
        asked = self.settings.extract
        if flow is not None:
            asked = replace(asked, flow=flow, flow_parameters=dict(flow_parameters))
        trained, now = self.settings.extract.recipe(), asked.recipe()
        if trained.id != now.id:
            if not other_flow:
                raise ConfigError(
                    f"{self.out} was trained on flow by {trained.describe()}, and is given flow by "
                    f"{now.describe()}, on which its answers may be wrong; allow other flow to "
                    "see how wrong",
                    parameter="other_flow",
                )
            self._message(f"trained on {trained.describe()}; here on {now.describe()}")
        self._other_flow = other_flow
        self.settings = replace(self.settings, extract=asked)

    def _check_code(self) -> None:
        """Refuse a run from elsewhere whose settings name code to be run here."""
        table = json.loads(self.settings.to_json())
        refuse_foreign_code([table["extract"], table["streams"]], f"the run {self.out}")

    @cached_property
    def dataset(self) -> Dataset:
        return read_dataset(self.settings.data)

    @cached_property
    def results(self) -> dict[str, Any]:
        """What results.json holds; ConfigError where the run is not finished."""
        return read_results(self.out)

    @property
    def cache_path(self) -> Path:
        """Where the flow and frames are."""
        return self.settings.data.cache or self.out / "cache"

    def run(self, fold: str | None = None) -> RunResult:
        """Extract, train, test and fuse. What a killed run has done is kept and gone on with.

        Under torchrun all processes call it: they train together, and the first does the rest.

        Parameters
        ----------
        fold : str, optional
            A fold's name, "all", or None for the first.
        """
        ranks = join()
        trust(*own_code(json.loads(self.settings.to_json())))  # of the person's own configuration
        self.settings = as_weights_compute(self.settings)
        self.prepare()
        for note in self.dataset.notes:
            self._message(note)
        folds = [self._fold(name) for name in choose_folds(self.dataset, fold)]
        self.check(folds)
        for each in folds:
            if each.untrained:
                self._message(
                    f"fold {each.name}: no training video of {some(each.untrained)}; its tests of "
                    "them cannot be right"
                )
        self._check_checkpoints(folds, contents=False)
        extraction = self.extract()
        folds = [self._fold(each.name) for each in folds]  # without what was left out
        checks.check_folds(self.dataset, folds)
        self._choose_flip(folds[0])
        streams = {
            name: self._scale(name, stream, folds[0].train.videos)
            for name, stream in self.settings.streams.items()
        }
        self.settings = replace(self.settings, streams=streams)
        self._check_checkpoints(folds)
        ranks.barrier()
        if ranks.first:
            self.out.mkdir(parents=True, exist_ok=True)
            write_table(self.out / SETTINGS_FILE, json.loads(self.settings.to_json()), MOVING)
        parts = len(folds) * len(self.settings.streams)
        for number, each in enumerate(folds):
            for place, name in enumerate(self.settings.streams):
                before = number * len(self.settings.streams) + place

                def report(part: float, text: str, before: int = before) -> None:
                    self._progress("train", (before + part) / parts, text)

                self._train(each, name, report)
            self._fuse_fold(each)
            shown = ", ".join(f"{k} {v:.3f}" for k, v in each.accuracies().items())
            self._message(f"fold {each.name}: {shown}")
        return self._collect(folds, self.out, extraction)

    def check(self, folds: Sequence[Fold]) -> None:
        """Refuse what can be refused before anything is extracted or trained.

        Raises
        ------
        FlowpipeError
            For folds without videos to learn from or to test, streams that cannot be built, and
            fusions that cannot be made.
        """
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file; a run is a folder", parameter="out")
        if self.settings.needs_flow and self.cache_path.is_file():
            read_pack(self.cache_path, self.settings.extract.recipe().id, ())
        checks.check_folds(self.dataset, folds)
        checks.check_parts(self.dataset)
        checks.check_test(self.settings, self.settings.test)
        checks.check_fusion(self.settings, self._several_labels)
        if self.settings.needs_flow:
            self.settings.extract.recipe()
        for fold in folds:
            for name in self.settings.streams:
                stream = self.stream(name, fold.name, fold.videos)
                if fold is folds[0]:
                    self._costs[name] = checks.check_stream(stream, len(self.dataset.classes))

    @property
    def _several_labels(self) -> bool:
        return any(len(video.labels) > 1 for video in self.dataset.videos)

    def prepare(self) -> None:
        """Make the generated videos, of a configuration that has them."""
        ranks, data = join(), self.settings.data
        if data.generate is not None and ranks.first:
            generator = time_only if data.generator == "time-only" else synthetic
            generator.write_videos(data.root, clips=data.generate)
        ranks.barrier()

    def extract(self) -> ExtractionResult | None:
        """Extract what is missing in the cache; None if no stream needs flow or frames."""
        if not self.settings.needs_flow:
            return None
        ranks = join()
        if not ranks.first:
            ranks.barrier()  # then all is there, and nothing is left to compute
        result = self._extract()
        if ranks.first:
            ranks.barrier()
        return result

    def _extract(self) -> ExtractionResult:
        path, videos = self.cache_path, self.dataset.videos
        if path.is_file():
            result = read_pack(path, self.settings.extract.recipe().id, videos)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            result = extract(
                list(videos),
                path,
                on_progress=lambda p: self._progress(
                    "extract",
                    p.finished / max(1, p.videos),
                    f"extracting flow: {p.finished}/{p.videos} videos, {p.flows} flows",
                ),
                **self.settings.extract_arguments(),
            )
        if result.failed and self.settings.data.skip_missing:
            self._leave_out(result)
        elif result.failed:  # no fold may lose a video without a word
            raise VideoError(
                f"{result.failed} videos have no flow, the first: {result.failures[0].reason}; "
                "take them off the annotations (an empty fold leaves a row out)"
            )
        self._message(
            f"cache {path}: {result.done} videos computed, {result.skipped} reused, "
            f"{result.flows_total} flows"
        )
        self._open(path, result.recipe, videos)
        return result

    def _leave_out(self, result: ExtractionResult) -> None:
        """Go on without the videos that have no flow, and say which."""
        self._listed = self.dataset
        self._lost = {failure.name for failure in result.failures}
        kept = self._with_flow(self.dataset.videos)
        if not kept:
            raise VideoError(f"no video has flow; the first: {result.failures[0].reason}")
        count = len(self._lost)
        note = f"left out: {count} videos without flow, such as {result.failures[0].reason}"
        self._message(note)
        self.dataset = replace(self.dataset, videos=kept, notes=(*self.dataset.notes, note))

    def _with_flow(self, videos: Sequence[Video]) -> tuple[Video, ...]:
        return tuple(video for video in videos if video.name not in self._lost)

    def _scale(self, name: str, stream: StreamSettings, videos: Sequence[Video]) -> StreamSettings:
        """Return a stream whose flow scale is a number: that of the flow of some videos."""
        if stream.flow_scale_px != "auto":
            return stream
        assert self._cache is not None
        sample = videos[:: max(1, len(videos) // SCALED_VIDEOS)]
        fields = [
            self._cache[v.id].flow[:: max(1, self._cache[v.id].num_flows // 8)] for v in sample
        ]
        mean_square = float(np.mean([np.square(uv_THWC).mean() for uv_THWC in fields]))
        scale_px = round(max(0.05, float(np.sqrt(mean_square))), 3)
        self._message(f"{name}: flow is divided by {scale_px:g} px, its root mean square")
        return replace(stream, flow_scale_px=scale_px)

    def _choose_flip(self, fold: Fold) -> None:
        """Settle whether training clips are mirrored, where the settings leave it open."""
        if self.settings.data.flip != "auto":
            return
        whole = any(each.input == FLOW_HISTOGRAM for each in self.settings.streams.values())
        known = self._known[FLOW_HISTOGRAM, None]
        note = mirror_note(
            fold.train, self._cache, known, self.settings.train.seed, boundaries=whole
        )
        if note:
            self._message(note)
        self.settings = replace(self.settings, data=replace(self.settings.data, flip=not note))
        checks.check_test(self.settings, self.settings.test)

    def _open(self, path: Path, recipe: str, videos: Iterable[Video] = ()) -> None:
        self._cache = open_cache(path, recipe=recipe)
        if any(video.span is not None for video in videos):
            self._cache = PartCache(self._cache, videos)
        self._memory = MemoryCache(self._cache, self.settings.train.memory_mb)

    def _fold(self, name: str) -> Fold:
        """Return a fold, which is made of all videos and then loses those without flow."""
        whole = self._listed if self._lost else self.dataset
        fold = make_fold(self.settings.data, whole, name, seed=self.settings.train.seed)
        for half in ("train", "test") if self._lost else ():
            listed: Dataset = getattr(fold, half)
            kept = self._with_flow(listed.videos)
            if not kept:
                raise ConfigError(
                    f'fold "{name}": none of its {len(listed)} {half} videos has flow; choose '
                    "another fold, or restore the videos",
                    parameter="fold",
                )
            setattr(fold, half, replace(listed, videos=kept))
        return fold

    def training_videos(self, fold: str) -> tuple[PartCache, dict[str, list[str]]]:
        """Return the cache of the training videos, and of each class the ids of those in it.

        Raises
        ------
        FlowpipeError
            If the videos' list or the cache is not at hand, as of an exported model.
        """
        videos = self._fold(fold).train.videos
        recipe = self.settings.extract.recipe().id
        cache = PartCache(open_cache(self.cache_path, recipe=recipe), videos)
        known = {row.name for row in cache.rows()}
        ids: dict[str, list[str]] = {}
        for video in videos:
            if video.id in known and video.label is not None:
                ids.setdefault(video.label, []).append(video.id)
        return cache, ids

    def stream(self, name: str, fold: str, videos: Iterable[Video] = ()) -> ClipStream:
        """Return a stream; one on features needs features of these videos."""
        settings, options = self.settings.streams[name], self.settings.train_options(name)
        flip = self.settings.data.flip is not False
        if settings.input in HISTOGRAMS:
            known = self._known[settings.input, settings.weights]
            return HistogramStream(name, settings, options, self._cache, flip=flip, known=known)
        if settings.input != "features":
            return ClipStream(name, settings, options, self._cache, memory=self._memory, flip=flip)
        features = self.settings.data.features
        assert features is not None
        return FeatureStream(
            name, settings, options, open_cache(features), fold=fold, videos=videos
        )

    def trained(self, stream: ClipStream, fold: str, num_classes: int) -> nn.Module:
        """Return the network of a stream with the weights that the run gave it."""
        self._check_code()
        folder = stream_folder(self.out, fold, stream.name)
        saved = read_settings(folder / CHECKPOINT)
        if saved is not None:
            wanted = stream.facts() | {"fold": fold, "classes": self.results["classes"]}
            wanted |= self._flow_facts(stream)
            check_same(folder / CHECKPOINT, saved, wanted, whole=False)
        return stream.trained(folder, num_classes)

    def _train(self, fold: Fold, name: str, report: Callable[[float, str], None]) -> None:
        """Train and test one stream on one fold."""
        ranks = join()
        stream = self.stream(name, fold.name, fold.videos)
        folder = stream_folder(self.out, fold.name, name)
        epochs, test = stream.options.epochs, self.settings.test
        held_out, fingerprint = self._held_out(fold), self.fingerprint(stream, fold)
        trainings = [(folder, held_out)]
        if held_out is not None and stream.leaves_out and stream.options.keep == "refit":
            trainings = [(folder / HELD_OUT_FOLDER, held_out), (folder, None)]
        history: list[dict[str, Any]] = []
        testing_s = 0.0
        for number, (place, away) in enumerate(trainings):
            model, loaded = stream.start(len(fold.train.classes))
            if loaded and number == 0 and loaded not in self._loaded:
                self._message(loaded)
                self._loaded.add(loaded)

            def on_epoch(record: dict[str, Any], number: int = number) -> None:
                text = (
                    f"epoch {record['epoch']}/{epochs}, loss {record['loss']:.3f}, "
                    f"{record['clips_per_s']:.0f} clips/s"
                )
                if stream.settings.input in HISTOGRAMS:
                    text = "fitted"  # at once
                share = (number + record["epoch"] / epochs) / len(trainings)
                report(0.9 * share, f"fold {fold.name}, {name}: {text}")

            history += stream.train(
                model, fold.train, place, fingerprint=fingerprint, held_out=away, on_epoch=on_epoch
            )
            if away is not None and ranks.first:
                started = time.perf_counter()
                stream.held_out_scores(model, away, test).save(folder / VALIDATION_SCORES)
                testing_s += time.perf_counter() - started
        if not ranks.first:
            ranks.barrier()
            fold.scores[name] = load_scores(folder / "scores.npz")
            return
        report(0.9, f"fold {fold.name}, {name}: testing")
        started = time.perf_counter()
        clips = self.settings.fuse.training_clips
        if len(self.settings.streams) > 1 and clips > 0:
            fitted = stream.predict(model, fold.train, replace(test, clips=clips))
            fitted.save(folder / "training_scores.npz")
        fold.scores[name] = stream.predict(model, fold.test, test)
        fold.scores[name].save(folder / "scores.npz")
        trained_s = sum(record["seconds"] for record in history)
        fold.seconds[name] = trained_s + testing_s + time.perf_counter() - started
        ranks.barrier()

    def _held_out(self, fold: Fold) -> Dataset | None:
        """Return the training videos that choices are made by; None without validation."""
        share = self.settings.train.validation
        if share == 0:
            return None
        _, held_out = seeded_split(
            fold.train,
            test_fraction=share,
            seed=self.settings.train.seed,
        )
        return held_out

    def fingerprint(
        self, stream: ClipStream, fold: Fold, *, contents: bool = True
    ) -> dict[str, Any]:
        """Return what determines what a stream learns on a fold, beside its options of training.

        The contents of the videos are known once they are in the cache.
        """
        videos, held_out = fold.train.videos, self._held_out(fold)
        weights = stream.settings.weights
        facts = {
            **stream.facts(),
            **self._flow_facts(stream),
            "fold": fold.name,
            "classes": list(fold.train.classes),
            "weights": None if weights is None else _file_digest(weights),
        }
        # What is left open is known once the flow is there.
        if self.settings.data.flip == "auto":
            facts.pop("flip", None)
        if stream.settings.flow_scale_px == "auto":
            facts.get("stream", {}).pop("flow_scale_px", None)
        if contents or not self.settings.data.skip_missing:  # else some may be left out yet
            facts["videos"] = {"count": len(videos)}
            if held_out is not None:
                facts["held_out"] = _digest([video.id for video in held_out.videos])
        if contents:
            digests = stream.digests([video.id for video in videos])
            listed = [[v.id, v.labels, own] for v, own in zip(videos, digests, strict=True)]
            facts["videos"]["digest"] = _digest(listed)
        return facts

    def flow_facts(self) -> dict[str, dict[str, Any]]:
        """Return what determines the flow that each stream has learnt from."""
        fold = self.fold_name(None)
        return {name: self._flow_facts(self.stream(name, fold)) for name in self.settings.streams}

    def _flow_facts(self, stream: ClipStream) -> dict[str, Any]:
        """Return what determines the flow and frames that a stream learns from."""
        if isinstance(stream, FeatureStream) or self._other_flow:
            return {}
        extract = asdict(self.settings.extract)
        del extract["workers"], extract["codec"]
        for later in ("cuts", "confidence"):
            if not extract[later]:
                del extract[later]  # checkpoints of before there was such a thing
        return {"extract": extract, "flow_version": self.settings.extract.recipe().flow_version}

    def _check_checkpoints(self, folds: Sequence[Fold], *, contents: bool = True) -> None:
        """Refuse checkpoints of other settings before anything is written."""
        for fold in folds:
            for name in self.settings.streams:
                path = stream_folder(self.out, fold.name, name) / CHECKPOINT
                saved = read_settings(path)
                if saved is not None:
                    stream = self.stream(name, fold.name, fold.videos)
                    own = self.fingerprint(stream, fold, contents=contents)
                    whole = contents and not self._other_flow
                    check_same(path, saved, stream.learnt() | own, whole=whole)

    def fuse_scores(self, scores: Sequence[Scores], fold: str, method: str) -> Scores:
        """Fuse streams; weights and SVM see scores of the fold's training videos only."""
        training = None
        file = FITTED_TO.get(method)
        if file is not None:
            folders = [stream_folder(self.out, fold, each.stream) for each in scores]
            training = [load_scores(folder / file) for folder in folders]
        return fuse(
            scores,
            method,  # type: ignore[arg-type]
            training=training,
            seed=self.settings.train.seed,
        )

    def _fuse_fold(self, fold: Fold) -> None:
        if len(self.settings.streams) < 2:
            return
        wanted, scores = self.settings.fuse, list(fold.scores.values())
        several = self._several_labels or self.settings.train.loss == "sigmoid"
        for method in wanted.all_methods(several):
            fold.fused[method] = self.fuse_scores(scores, fold.name, method)
        for group in wanted.groups:
            members = [fold.scores[name] for name in group]
            fold.fused[" + ".join(group)] = self.fuse_scores(members, fold.name, wanted.headline)

    def _collect(
        self, folds: Sequence[Fold], out: Path, extraction: ExtractionResult | None
    ) -> RunResult:
        """Join the scores of the folds and write results.json."""
        names = [fold.name for fold in folds]
        streams = {
            n: concatenate([f.scores[n] for f in folds], names) for n in self.settings.streams
        }
        fused = {n: concatenate([f.fused[n] for f in folds], names) for n in folds[0].fused}
        for name, scores in streams.items():
            scores.save(out / SCORES_FOLDER / f"{name}.npz")
        for name, scores in fused.items():
            scores.save(fused_file(out, name))
        result = RunResult(
            out,
            folds[0].train.classes,
            streams,
            fused,
            self.settings.fuse.headline,
            [
                {"fold": f.name, "videos": len(f.test), **f.accuracies(), **self._weights(f)}
                for f in folds
            ],
            extraction,
            {name: self._network_row(name, folds) for name in self.settings.streams},
            mean_table(folds),
            [*self.dataset.notes, *self._doubts(folds)],
            rates_fps=self._rates(folds[0].train.videos),
        )
        result.save()
        return result

    def _rates(self, videos: Sequence[Video]) -> list[float]:
        """Return the least and the largest rate of flow of (up to `SCALED_VIDEOS`) videos."""
        if self._cache is None:
            return []
        sample = videos[:: max(1, len(videos) // SCALED_VIDEOS)]
        steps_s = [np.diff(self._cache[video.id].pts_s) for video in sample]
        rates = [1 / max(1e-6, float(np.median(each))) for each in steps_s if each.size]
        return [round(min(rates), 3), round(max(rates), 3)] if rates else []

    def rate_fault(self, video: Path) -> str:
        """Return why the run cannot judge a video of this frame rate; "" where it can."""
        try:
            own_fps = probe(video).average_fps
        except FlowpipeError:
            return ""  # what reads it will say what is wrong with it
        return checks.rate_fault(self.settings, self.results.get("rates_fps", ()), own_fps)

    def _weights(self, fold: Fold) -> dict[str, Any]:
        """Return the weight of each stream in the headline fusion, where it has found some."""
        fused = fold.fused.get(self.settings.fuse.headline)
        weights = None if fused is None else fused.protocol.get("weights")
        if weights is None:
            return {}
        names = self.settings.streams
        return {"weights": dict(zip(names, (float(w) for w in weights), strict=True))}

    def _doubts(self, folds: Sequence[Fold]) -> list[str]:
        """Return what makes one doubt the results."""
        histories = {
            name: [read_history(self.out, fold.name, name) for fold in folds]
            for name in self.settings.streams
        }
        fuse = self.settings.fuse.headline
        notes = checks.doubts(folds, histories, fuse, loss=self.settings.train.loss)
        if self._cache is not None:
            digests = {row.name: row.digest for row in self._cache.rows()}
            notes += [note for fold in folds for note in checks.same_contents(fold, digests)]
            notes += checks.still_videos(self.dataset, self._cache)
            rates_fps = self._rates(folds[0].train.videos)
            notes += checks.mixed_rates(self.settings, rates_fps)
            inputs = [
                stream.clip_input(name)
                for name, stream in self.settings.streams.items()
                if stream.input not in ("features", *HISTOGRAMS)
            ]
            notes += checks.long_clips(inputs, self.dataset, self._cache)
        return notes

    def _network_row(self, name: str, folds: Sequence[Fold]) -> dict[str, Any]:
        """Return what a stream's network is, what it cost and what it reached."""
        tested = [fold.scores[name] for fold in folds]
        # A test of a finished run trained nothing.
        spent = [fold.seconds[name] for fold in folds if name in fold.seconds]
        return {
            **self._cost(name, folds[0].name),
            "clip_accuracy": float(np.mean([s.protocol["clip_accuracy"] for s in tested])),
            "video_accuracy": float(np.mean([accuracy(scores) for scores in tested])),
            "seconds": round(sum(spent), 1) if spent else None,
        }

    def _cost(self, name: str, fold: str) -> dict[str, Any]:
        if name not in self._costs:
            self._costs[name] = self.stream(name, fold).cost(len(self.dataset.classes))
        return self._costs[name]

    def test(self, options: TestOptions | None = None, out: Path | None = None) -> RunResult:
        """Test the networks of a finished run again, on the folds that were trained.

        Parameters
        ----------
        options : TestOptions, optional
            By default those of the run.
        out : Path, optional
            Where scores and results go; by default the folder "test" of the run.
        """
        self._check_code()
        options = self.settings.test if options is None else options
        out = self.out / "test" if out is None else out
        checks.check_test(self.settings, options)
        extraction = self.extract()
        folds = [self._fold(str(row["fold"])) for row in self.results["folds"]]
        self._check_checkpoints(folds)
        parts = [(fold, name) for fold in folds for name in self.settings.streams]
        for number, (fold, name) in enumerate(parts):
            self._progress("test", number / len(parts), f"fold {fold.name}, {name}")
            stream = self.stream(name, fold.name, fold.videos)
            model = self.trained(stream, fold.name, len(fold.train.classes))
            fold.scores[name] = stream.predict(model, fold.test, options)
        for fold in folds:
            self._fuse_fold(fold)
        return self._collect(folds, out, extraction)

    def fold_name(self, fold: str | None) -> str:
        """Return the name of a trained fold; None is the first."""
        folds = [str(row["fold"]) for row in self.results["folds"]]
        if fold is None:
            return folds[0]
        if fold not in folds:
            raise ConfigError(
                f'{self.out} has no fold "{fold}"{nearest_name(fold, folds)}; it has '
                f"{', '.join(folds)}",
                parameter="fold",
            )
        return fold

    def predict(self, videos: Sequence[str | Path], fold: str | None = None) -> Predictions:
        """Score videos with the networks of a finished run.

        Flow comes from the run's own cache if it has all of the videos; else it is computed by
        the run's recipe and kept in the run's predict.cache.

        Parameters
        ----------
        videos : sequence of paths
            Videos, directories or lists.
        fold : str, optional
            Whose networks; the run's first by default.
        """
        self._check_code()
        settings, fold = self.settings, self.fold_name(fold)
        self.refuse_features()
        given, empty = videos_of(videos)
        faults = {video.id: fault for video in given if (fault := self.rate_fault(video.path))}
        refused = [Failure(v.id, v.path, faults[v.id]) for v in given if v.id in faults]
        given = [video for video in given if video.id not in faults]
        if not given and not empty:
            return Predictions([], refused)
        stored = [] if empty else self._stored(given)
        path = self.cache_path if stored else self.predict_cache()
        entries = stored or [replace(video, id=_own_name(video)) for video in given]
        done = extract(
            [*entries, *empty],
            path,
            retry_failed=True,
            on_progress=lambda p: self._progress(
                "predict", 0.5 * p.finished / max(1, p.videos), f"{p.flows} flows"
            ),
            **settings.extract_arguments(),
        )
        failed = {failure.name for failure in done.failures}
        # Scored under their names in the cache, shown under those of the sources.
        shown = {entry.id: video.id for video, entry in zip(given, entries, strict=True)}
        refused += [replace(f, name=shown.get(f.name, f.name)) for f in done.failures]
        chosen = tuple(replace(entry, labels=()) for entry in entries if entry.id not in failed)
        if not chosen:
            return Predictions([], refused)
        self._open(path, done.recipe)
        data = Dataset(chosen, tuple(self.results["classes"]))
        scores = []
        for number, name in enumerate(settings.streams):
            share = 0.5 + 0.5 * number / len(settings.streams)
            self._progress("predict", share, f"{name}: {len(chosen)} videos")
            stream = self.stream(name, fold)
            model = self.trained(stream, fold, len(data.classes))
            own = stream.predict(model, data, settings.test)
            # A fusion refuses videos that it was fitted to; here it may well be shown one.
            scores.append(replace(own, ids=tuple(map(str, range(len(chosen))))))
        if len(scores) > 1:
            scores.append(self.fuse_scores(scores, fold, settings.fuse.headline))
        names = tuple(shown[video.id] for video in chosen)
        found = [replace(each, ids=names) for each in scores]
        return Predictions(found, refused)

    def refuse_features(self) -> None:
        """New videos have no cached features."""
        cached = [n for n, stream in self.settings.streams.items() if stream.input == "features"]
        if cached:
            raise ConfigError(
                f"streams {', '.join(cached)} look at cached features, which new videos have not; "
                "compute them with flowpipe features into the store, list the videos in the "
                "annotations, and give flowpipe test"
            )

    def predict_cache(self) -> Path:
        """Return where flow of new videos goes: in the run, or for now where it is another's."""
        path = self.out / PREDICT_CACHE
        if os.access(path if path.exists() else self.out, os.W_OK):
            return path
        return _folder_for_now() / PREDICT_CACHE

    def _stored(self, videos: Sequence[Video]) -> list[Video]:
        """Return the videos by their names in the run's cache, if it has the flow of them all."""
        path = self.cache_path
        names = {row.path: row.name for row in open_cache(path).rows()} if path.is_dir() else {}
        if not all(str(video.path) in names for video in videos):
            return []
        stored = [replace(video, id=names[str(video.path)]) for video in videos]
        if len({video.id for video in stored}) < len(stored):
            return []
        plan = extract(stored, path, dry_run=True, **self.settings.extract_arguments())
        return [] if plan.to_do or plan.failed else stored

    def report(self, path: Path | None = None, *, notes: Sequence[str] = ()) -> Path:
        """Write the page of a finished run and return its path; no video is touched."""
        return write_page(
            self.settings, self.results, self.out, self.cache_path, path=path, notes=notes
        )


@cache
def _folder_for_now() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="flowpipe-predict-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _own_name(video: Video) -> str:
    """Return a name that videos called alike in other folders do not have."""
    folder = hashlib.sha256(str(video.path.parent).encode()).hexdigest()[:8]
    return f"{folder}/{video.id}"


def _digest(listed: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


@cache
def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
