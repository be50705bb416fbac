"""A trained localiser: networks of one or several streams, their settings, and what they find."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from flowpipe.config import from_table, read_json
from flowpipe.errors import InvalidArgument
from flowpipe.localisation.learning import LearnOptions, train_network
from flowpipe.localisation.methods import build, options_of
from flowpipe.localisation.nms import Suppression, suppress
from flowpipe.localisation.timeline import Example, Sample, standard_of
from flowpipe.metrics.temporal import Segments
from flowpipe.registry import refuse_foreign_code
from flowpipe.sealed import write_table
from flowpipe.training.checkpoint import CHECKPOINT, METRICS, check_room, read_model
from flowpipe.training.devices import choose_device

SETTINGS = "localiser.json"
# Longer videos are looked at in windows of this many steps.
WINDOW_STEPS = 8192
# `Suppression.keep` is for videos of this many steps at most, the longest of ActionFormer's.
STEPS_OF_KEPT = 2304
NUM_QUANTILES = 101
MOST_NETWORKS = 100


@dataclass(frozen=True)
class LocaliserSettings:
    """What a localiser is, beside its weights.

    Attributes
    ----------
    method : str
        A row of `METHODS`.
    parameters : dict
        Of the method.
    features : tuple of str
        Names in the cache of features, side by side.
    fusion : "early" or "late"
        One network on all features, or one on each, averaged.
    networks : int
        Of each stream, which differ by their seed; averaged.
    train : LearnOptions
    suppression : Suppression
    classes : tuple of str
    widths : tuple of int
        Of each of `features`, its numbers per snippet.
    lengths : tuple of float
        Quantiles of the training instances' lengths in steps.
    extensions : bool
        Whether videos are named with their extension, as the training annotations name them.
    source : dict
        How the features came about: flow recipe and feature parameters.
    """

    method: str = "pyramid"
    parameters: dict[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ("flow-histogram", "flow-histogram-follow")
    fusion: Literal["early", "late"] = "late"
    networks: int = 1
    train: LearnOptions = field(default_factory=LearnOptions)
    suppression: Suppression = field(default_factory=Suppression)
    classes: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    lengths: tuple[float, ...] = ()
    extensions: bool = False
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fusion not in ("early", "late"):
            raise InvalidArgument(f'fusion "{self.fusion}" must be early or late')
        if not 1 <= self.networks <= MOST_NETWORKS or not self.features:
            raise InvalidArgument(
                f"networks {self.networks} must be 1 to {MOST_NETWORKS} and there must be "
                "features, such as flow-histogram"
            )
        if len(set(self.features)) < len(self.features):
            raise InvalidArgument(
                f"features {', '.join(self.features)} must differ from each other"
            )
        options_of(self.method, self.parameters)
        if not (self.classes or self.widths or self.lengths):
            return  # of data that are not read yet
        if len(self.widths) != len(self.features) or min(self.widths) < 1:
            raise InvalidArgument(
                f"widths {list(self.widths)} must be ≥ 1, one of each of {len(self.features)} "
                "features"
            )
        if not all(0 <= length < math.inf for length in self.lengths):
            raise InvalidArgument(f"lengths {min(self.lengths)} … must be ≥ 0 and finite")

    @property
    def streams(self) -> dict[str, slice]:
        """The columns of each stream, by its name."""
        ends = np.cumsum((0, *self.widths)).tolist()
        if self.fusion == "early":
            return {"+".join(self.features): slice(0, ends[-1])}
        return {
            name: slice(start, stop)
            for name, start, stop in zip(self.features, ends[:-1], ends[1:], strict=True)
        }


class Localiser:
    """Networks that find actions in features.

    Parameters
    ----------
    settings : LocaliserSettings
        With classes, widths and lengths.
    """

    def __init__(self, settings: LocaliserSettings) -> None:
        self.settings = settings
        self.members = {
            f"{stream}-{number}" if settings.networks > 1 else stream: (columns, number)
            for stream, columns in settings.streams.items()
            for number in range(settings.networks)
        }
        self.networks = {
            name: self._build(columns, number) for name, (columns, number) in self.members.items()
        }

    def _build(self, columns: slice, number: int) -> Any:
        chosen = self.settings
        options = options_of(chosen.method, chosen.parameters)
        with torch.random.fork_rng():
            torch.manual_seed(chosen.train.seed * 1009 + number)
            width = columns.stop - columns.start
            network = build(chosen.method, width, len(chosen.classes), chosen.lengths, options)
        return network.eval()

    def files(self, out: Path) -> list[Path]:
        """Return the files that training writes into the folder of a run."""
        return [
            out / _folder(name) / file for name in self.networks for file in (CHECKPOINT, METRICS)
        ]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        first: torch.Tensor = next(next(iter(self.networks.values())).parameters())
        return first.device

    @property
    def num_parameters(self) -> int:
        """Of all networks."""
        return sum(p.numel() for net in self.networks.values() for p in net.parameters())

    def train(
        self,
        examples: Sequence[Example],
        out: Path,
        on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        """Train all networks, or go on with it; see `train_network`."""
        mean_D, deviation_D = standard_of([example.sample for example in examples])
        settings = {key: value for key, value in self._table().items() if key != "train"}
        for name, (columns, number) in self.members.items():
            network = self.networks[name]
            network.standardise.fit(mean_D[columns], deviation_D[columns])
            told = None if on_epoch is None else _naming(name, on_epoch)
            train_network(
                network,
                examples,
                columns,
                self.settings.train,
                out / _folder(name),
                seed=number,
                fingerprint={"localiser": settings},
                on_epoch=told,
            )

    def find(
        self, sample: Sample, *, window_steps: int = WINDOW_STEPS
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return segments in seconds, scores and places of labels in `classes`, the best first.

        A video longer than `window_steps` is looked at in windows that overlap by as much as the
        networks see, and by the longest instance; memory does not grow with its length.
        """
        networks = list(self.networks.values())
        columns = [columns for columns, _ in self.members.values()]
        expected = sum(self.settings.widths)
        if sample.features.shape[1] != expected:
            raise InvalidArgument(
                f"features of {sample.video} have {sample.features.shape[1]} numbers per snippet; "
                f"the localiser was trained on {expected} ({', '.join(self.settings.features)})"
            )
        margin = max(int(network.reach()) for network in networks)
        margin += int(np.ceil(max(self.settings.lengths, default=0.0)))
        found = []
        for start, stop, low, high in windows(
            len(sample), window_steps, margin, networks[0].alignment()
        ):
            window = torch.from_numpy(sample.features[start:stop])
            parts = [window[:, part].to(self.device) for part in columns]
            segments, scores, labels = networks[0].localise(networks, parts)
            segments = segments + start
            center = segments.mean(axis=1)
            inner = (center >= low) & (center < high)
            found.append(
                suppress(
                    segments[inner], scores[inner], labels[inner], self._suppression(stop - start)
                )
            )
        segments, scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        best = np.argsort(-scores, kind="stable")[: self._suppression(len(sample)).keep]
        segments, scores, labels = segments[best], scores[best], labels[best]
        return sample.to_seconds(segments), scores, labels

    def _suppression(self, steps: int) -> Suppression:
        """Return what thins out so many steps: a long video may hold more than a short one."""
        chosen = self.settings.suppression
        return replace(chosen, keep=chosen.keep * -(-steps // STEPS_OF_KEPT))

    def localise(self, samples: Sequence[Sample], *, window_steps: int = WINDOW_STEPS) -> Segments:
        """Return what is found in several videos."""
        rows: list[tuple[str, str, float, float]] = []
        scores: list[float] = []
        for sample in samples:
            segments, score, labels = self.find(sample, window_steps=window_steps)
            for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True):
                rows.append((sample.video, self.settings.classes[label], start, end))
            scores += score.tolist()
        return Segments.of(rows, scores)

    def save(self, out: Path) -> None:
        """Write the settings beside the weights."""
        out.mkdir(parents=True, exist_ok=True)
        write_table(out / SETTINGS, self._table())

    def _table(self) -> dict[str, Any]:
        return asdict(self.settings)


def load_localiser(run: Path) -> Localiser:
    """Load a trained localiser.

    Raises
    ------
    ConfigError
        If the folder holds none.
    WeightsError
        If its weights are missing, damaged or of another network.
    """
    table = read_json(run, SETTINGS, "localise")
    named = {key: value for key, value in table.items() if key != "classes"}
    refuse_foreign_code(named, f"the run {run}")
    settings = from_table(LocaliserSettings, table, where=str(run / SETTINGS))
    with torch.device("meta"):
        sketched = Localiser(settings).networks
    check_room({run / _folder(name) / CHECKPOINT: net for name, net in sketched.items()})
    localiser = Localiser(settings)
    for name, network in localiser.networks.items():
        read_model(run / _folder(name) / CHECKPOINT, network)
        network.to(choose_device(localiser.settings.train.device))
    return localiser


def quantiles_of(examples: Sequence[Example]) -> tuple[float, ...]:
    """Return quantiles of the instances' lengths in steps; empty without instances."""
    lengths = np.concatenate([e.segments[:, 1] - e.segments[:, 0] for e in examples])
    if not lengths.size:
        return ()
    shares = np.linspace(0, 1, min(NUM_QUANTILES, lengths.size))
    return tuple(round(float(value), 4) for value in np.quantile(lengths, shares))


def windows(
    steps: int, size: int, margin: int, alignment: int
) -> list[tuple[int, int, float, float]]:
    """Return windows [start, stop) and the part [low, high) of each whose findings count.

    ::

        size 8, margin 2      |0 1 2 3 4 5 6 7|                  counts: … – 5.5
                                      |4 5 6 7 8 9 10 11|                5.5 – …
    """
    if steps <= size:
        return [(0, steps, -np.inf, np.inf)]
    stride = max(size - 2 * margin, alignment)
    stride -= stride % alignment
    starts = list(range(0, max(steps - 2 * margin, 1), stride))
    found = []
    for start in starts:
        low = -np.inf if start == 0 else start + margin - 0.5
        last = start == starts[-1]
        high = np.inf if last else start + margin + stride - 0.5
        found.append((start, min(start + stride + 2 * margin, steps), low, high))
    return found


def _naming(
    name: str, on_epoch: Callable[[str, dict[str, Any]], None]
) -> Callable[[dict[str, Any]], None]:
    return lambda record: on_epoch(name, record)


def _folder(name: str) -> str:
    return name.replace("/", "_")
