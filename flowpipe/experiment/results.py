"""What an experiment results in, and where it is kept.

::

    RUN/settings.json           what was asked for
    RUN/results.json            accuracies
    RUN/report.html
    RUN/fold-K/STREAM/checkpoint.pt, metrics.jsonl, scores.npz, training_scores.npz
    RUN/fold-K/STREAM/held-out/                  of a first training, without the held-out videos
    RUN/scores/STREAM.npz, fused-METHOD.npz      all tested videos
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.datasets import Dataset, Video
from flowpipe.errors import ConfigError, EntryCorrupt
from flowpipe.extraction import ExtractionResult, Failure
from flowpipe.notebook import html_table
from flowpipe.report.results import Result, mean_result, results_table
from flowpipe.scores import Scores
from flowpipe.sealed import read_lines, read_table, write_table
from flowpipe.training.checkpoint import METRICS

# Places of settings.json that move with the data.
MOVING = ("data.root", "data.cache", "data.features")
_RESULTS = {"accuracy": dict, "classes": list, "folds": list}
SETTINGS_FILE, RESULTS_FILE, SCORES_FOLDER = "settings.json", "results.json", "scores"
HELD_OUT_FOLDER = "held-out"


@dataclass
class Fold:
    """Training and test videos of one fold, and what came of them."""

    name: str
    train: Dataset
    test: Dataset
    scores: dict[str, Scores] = field(default_factory=dict)
    fused: dict[str, Scores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def videos(self) -> tuple[Video, ...]:
        return (*self.train.videos, *self.test.videos)

    @property
    def untrained(self) -> list[str]:
        """Classes that are tested, but have no training video."""
        trained, tested = (
            {label for video in half.videos for label in video.labels}
            for half in (self.train, self.test)
        )
        return sorted(tested - trained)

    def accuracies(self) -> dict[str, float]:
        """Top-1 accuracy of each stream and of each fusion."""
        found = {name: accuracy(scores) for name, scores in self.scores.items()}
        return found | {f"fused ({name})": accuracy(s) for name, s in self.fused.items()}


@dataclass
class RunResult:
    """Scores of all tested videos, and the accuracy of each fold."""

    out: Path
    classes: tuple[str, ...]
    streams: dict[str, Scores]
    fused: dict[str, Scores]
    headline: str
    folds: list[dict[str, Any]]
    extraction: ExtractionResult | None = None
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    table: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    rates_fps: list[float] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Return what `--json` prints: means over folds, which `folds` has one by one."""
        rows = {row.name: row for row in self.table}
        own = {name: rows[name].top_1 for name in self.streams}
        if self.fused:
            own["fused"] = rows[self.headline].top_1
        return {
            "accuracy": own,
            "fusions": {name: rows[name].top_1 for name in self.fused},
            "mean_class_accuracy": {
                name: row.mean_class for name, row in rows.items() if row.mean_class is not None
            },
            "networks": self.networks,
            "classes": list(self.classes),
            "headline": self.headline if self.fused else next(iter(self.streams)),
            "videos": len(next(iter(self.streams.values())).ids),
            "folds": self.folds,
            "table": [asdict(row) for row in self.table],
            "notes": self.notes,
            "out": str(self.out),
            **({"rates_fps": self.rates_fps} if self.rates_fps else {}),
            **({"factors": self.factors} if self.factors else {}),
        }

    def save(self) -> None:
        """Write results.json."""
        write_table(self.out / RESULTS_FILE, self.as_record())


@dataclass
class Predictions:
    """Scores of each stream and fused, and the videos that could not be read."""

    scores: list[Scores]
    failures: list[Failure]

    @property
    def names(self) -> list[str]:
        return [scores.stream for scores in self.scores]

    def best(self, scores: Scores, row: int, top: int) -> list[tuple[str, float]]:
        """Return the `top` likeliest classes of a video with their probabilities."""
        order = np.argsort(-scores.probabilities_NK[row], kind="stable")[:top]
        return [(scores.classes[k], float(scores.probabilities_NK[row, k])) for k in order]

    def as_record(self, top: int) -> dict[str, Any]:
        """Return what `--json` prints: video → stream → [[class, probability], …]."""
        found: dict[str, Any] = {"videos": {}, "failed": len(self.failures)}
        for row, video in enumerate(self.scores[0].ids if self.scores else ()):
            found["videos"][video] = {s.stream: self.best(s, row, top) for s in self.scores}
        found["failures"] = [{"name": f.name, "reason": f.reason} for f in self.failures]
        return found

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Return header and one row per video: its likeliest classes by the last, fused scores."""
        best = self.scores[-1]
        header = ["video", f"{best.stream}, likeliest first"]
        rows = []
        for row, video in enumerate(best.ids):
            shown = (f"{name} {share:.2f}" for name, share in self.best(best, row, top))
            rows.append([video, "  ".join(shown)])
        return header, rows

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one line per video and stream: video, stream, label, score, then all classes."""
        target = Path(path)
        with write_aside(target, "w") as file:
            writer = csv.writer(file)
            classes = self.scores[0].classes if self.scores else ()
            writer.writerow(["video", "stream", "label", "score", *classes])
            for scores in self.scores:
                for row, video in enumerate(scores.ids):
                    ((label, share),) = self.best(scores, row, 1)
                    values = (f"{value:.6f}" for value in scores.probabilities_NK[row])
                    writer.writerow([video, scores.stream, label, f"{share:.6f}", *values])
        return target

    def __repr__(self) -> str:
        videos = len(self.scores[0].ids) if self.scores else 0
        return f"Predictions({videos} videos, {', '.join(self.names)})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), *self.table(3)) if self.scores else repr(self)


def accuracy_names(row: dict[str, Any]) -> list[str]:
    """Return which of the values of a fold's row are accuracies."""
    return [name for name in row if name not in ("fold", "videos", "weights")]


def accuracy(scores: Scores) -> float:
    """Top-1 accuracy of the labelled videos; hit@1 where videos have several labels."""
    (row,) = results_table([scores], {})
    return math.nan if row.top_1 is None else row.top_1


def mean_table(folds: Sequence[Fold]) -> list[Result]:
    """Return the table of results: the mean over folds of each stream and fusion."""
    tables = [results_table(list(fold.scores.values()), fold.fused) for fold in folds]
    videos = len({video.id for fold in folds for video in fold.test.videos if video.labels})
    return [mean_result(rows, videos) for rows in zip(*tables, strict=True)]


def concatenate(parts: Sequence[Scores], folds: Sequence[str]) -> Scores:
    """Join the scores of folds; a video that an earlier fold tests too gets the fold behind its id.

    The tests of the official splits of HMDB51 overlap.
    """
    first = parts[0]
    ids: dict[str, None] = {}
    for fold, part in zip(folds, parts, strict=True):
        ids |= dict.fromkeys(i if i not in ids else f"{i} (fold {fold})" for i in part.ids)
    targets_NK = None
    if any(part.targets_NK is not None for part in parts):
        targets_NK = np.concatenate([_targets(part) for part in parts])
    return Scores(
        ids=tuple(ids),
        labels_N=np.concatenate([part.labels_N for part in parts]),
        probabilities_NK=np.concatenate([part.probabilities_NK for part in parts]),
        logits_NK=np.concatenate([part.logits_NK for part in parts]),
        classes=first.classes,
        stream=first.stream,
        protocol=_common([part.protocol for part in parts]),
        activation=first.activation,
        targets_NK=targets_NK,
    )


def _targets(scores: Scores) -> npt.NDArray[np.bool_]:
    if scores.targets_NK is not None:
        return scores.targets_NK
    targets_NK: npt.NDArray[np.bool_] = scores.labels_N[:, None] == np.arange(len(scores.classes))
    return targets_NK


def _common(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all folds share: the rest, such as searched weights, is that of one fold."""
    first, *others = protocols
    shared: dict[str, Any] = {}
    for key, value in first.items():
        values = [value, *(other.get(key) for other in others)]
        if all(isinstance(each, Mapping) for each in values):
            shared[key] = _common(values)
        elif isinstance(value, list) and all(isinstance(v, Mapping) for v in value) and value:
            shared[key] = [_common(row) for row in zip(*values, strict=True)]
        elif all(each == value for each in values):
            shared[key] = value
    return shared


def stream_folder(out: Path, fold: str, stream: str) -> Path:
    return out / f"fold-{fold}" / stream


def fused_file(out: Path, name: str) -> Path:
    """Return the score file of a fusion, by its method or its streams."""
    return out / SCORES_FOLDER / f"fused-{name.replace(' ', '')}.npz"


def read_results(out: Path) -> dict[str, Any]:
    """Return what results.json of a run holds.

    Raises
    ------
    ConfigError
        If there is no finished run in the folder.
    """
    results = read_run_file(out, RESULTS_FILE)
    for key, kind in _RESULTS.items():
        if not isinstance(results.get(key), kind) or not results[key]:
            raise ConfigError(
                f'the run at {out} is damaged (results.json has no "{key}"); train again'
            )
    return results


def read_run_file(out: Path, name: str) -> dict[str, Any]:
    """Return the table in a JSON file of a run."""
    try:
        return read_table(out / name, MOVING)
    except FileNotFoundError as error:
        raise ConfigError(f"no finished run at {out}; flowpipe train makes one") from error
    except OSError as error:
        raise ConfigError(f"the run at {out} cannot be read: {error}") from error
    except EntryCorrupt as error:
        raise ConfigError(f"the run at {out} is damaged ({error}); train again") from error


def read_history(out: Path, fold: str, stream: str) -> list[dict[str, Any]]:
    """Return the records of training of one stream on one fold.

    What they say of held-out videos is, after a second training, of the first.
    """
    folder = stream_folder(out, fold, stream)
    history = read_metrics(folder / METRICS)
    first = {record["epoch"]: record for record in read_metrics(folder / HELD_OUT_FOLDER / METRICS)}
    return [{**first.get(record["epoch"], {}), **record} for record in history]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a training; none where there is no file.

    Raises
    ------
    ConfigError
        If a line is not what was written.
    """
    if not path.is_file():
        return []
    lines = read_lines(path.read_bytes(), None)
    if lines.damaged or lines.cut:
        raise ConfigError(f"{path} is damaged; give the train command again, which writes it anew")
    return lines.records
