"""A trained detector of actions: a network of each stream, and what they say of boxes."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flowpipe.config import from_table, read_json
from flowpipe.detection.clips import DetectStream, Look, joined, see
from flowpipe.detection.examples import Example, mirrored
from flowpipe.detection.fitting import fit_network
from flowpipe.detection.histogram import HistogramNetwork
from flowpipe.detection.learning import DetectTrain, num_outputs, train_network
from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.registry import refuse_foreign_code
from flowpipe.sealed import write_table
from flowpipe.training.checkpoint import CHECKPOINT, check_room, read_model
from flowpipe.training.devices import choose_device

SETTINGS = "detector.json"
Floats = npt.NDArray[np.float64]
# The smallest probability whose logarithm is taken.
FLOOR = 1e-9
# Key frames at a time, where there is nobody on them.
MOST_FRAMES = 256
# Looks of histograms are so many shifts to either side; longer ones cost little.
REACH = 3
MOST_WEIGHT = 1e6
# Weights change nothing of what networks learn; the rest of the training has its own record.
NOT_LEARNT = ("train", "weights")


@dataclass(frozen=True)
class DetectorSettings:
    """What a detector is, beside its weights.

    Attributes
    ----------
    streams : dict of str to DetectStream
    train : DetectTrain
    classes : tuple of str
    softmax : bool
        A person does one thing; else each class is decided by itself.
    nothing : bool
        Of `softmax`: whether persons may do nothing of the classes.
    size : tuple of int
        (height, width) of the training frames; others may have another.
    weights : dict of str to float
        Of the streams where they are fused; 1 where absent. Those of a configuration without any
        are chosen on held-out videos.
    flow : dict
        The recipe of the flow, as JSON has it.
    labels : dict of str to str
        AVA's numbers of the classes.
    """

    streams: dict[str, DetectStream]
    train: DetectTrain = field(default_factory=DetectTrain)
    classes: tuple[str, ...] = ()
    softmax: bool = True
    nothing: bool = False
    size: tuple[int, ...] = (224, 224)
    weights: dict[str, float] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.streams:
            raise InvalidArgument("there must be a stream, such as [streams.flow]")
        for name, weight in self.weights.items():
            if name not in self.streams or not 0 <= weight <= MOST_WEIGHT:
                raise InvalidArgument(
                    f'weight {weight} of "{name}" must be in [0, {MOST_WEIGHT:g}] and of a stream: '
                    f"{', '.join(self.streams)}"
                )
        if not any(self.weights.get(name, 1.0) > 0 for name in self.streams):
            raise InvalidArgument("one weight of a stream must be > 0")
        if len(self.size) != 2:
            raise InvalidArgument(f"size {list(self.size)} must be (height, width)")

    @property
    def flip(self) -> bool:
        """Whether an action in the mirror is the same action."""
        return not mirrored(self.classes) if self.train.flip == "auto" else self.train.flip == "yes"

    @property
    def outputs(self) -> int:
        """Outputs of each network."""
        return num_outputs(len(self.classes), self.softmax, self.nothing)

    def check(self) -> None:
        """Refuse what the networks refuse, without room for their weights.

        Raises
        ------
        FlowpipeError
            For an unknown network, parameter or device, or weights that are missing.
        """
        choose_device(self.train.device)
        for stream in self.streams.values():
            if stream.weights is not None and not stream.weights.is_file():
                raise WeightsError(f"no file of weights at {stream.weights}")
        with torch.device("meta"):
            Detector(self)


class Detector:
    """Networks that say what the person in a box does.

    Parameters
    ----------
    settings : DetectorSettings
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings
        height, width = settings.size
        self.networks = {
            name: stream.network(settings.outputs, (height, width), settings.train.seed).eval()
            for name, stream in settings.streams.items()
        }

    @property
    def num_parameters(self) -> int:
        """Of all networks."""
        return sum(p.numel() for net in self.networks.values() for p in net.parameters())

    def train(
        self,
        examples: Sequence[Example],
        cache: Any,
        out: Path,
        on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> list[str]:
        """Train all networks, or go on with it; return what became of weights from files."""
        table = {key: value for key, value in self._table().items() if key not in NOT_LEARNT}
        height, width = self.settings.size
        loaded = []
        for name, stream in self.settings.streams.items():
            network = self.networks[name]
            if not (out / name / CHECKPOINT).is_file():
                report = stream.load(network, self.settings.outputs, (height, width))
                loaded += [f"{name}: {report}"] if report else []
            learn: Any = fit_network if isinstance(network, HistogramNetwork) else train_network
            learn(
                network,
                stream,
                examples,
                cache,
                self.settings.train,
                out / name,
                softmax=self.settings.softmax,
                flip=self.settings.flip,
                fingerprint={"detector": table},
                on_epoch=None if on_epoch is None else _naming(name, on_epoch),
            )
        return loaded

    def score(self, examples: Iterable[Example], cache: Any) -> Iterator[tuple[Example, Floats]]:
        """Return each key frame with the probability of each class for its boxes, N×K.

        Memory does not grow with the number of key frames.
        """
        batch: list[Example] = []
        for example in examples:
            batch.append(example)
            persons = sum(len(each.boxes) for each in batch)
            if persons >= self.settings.train.batch_size or len(batch) >= MOST_FRAMES:
                yield from self._score(batch, cache)
                batch = []
        yield from self._score(batch, cache)

    def _score(self, batch: Sequence[Example], cache: Any) -> Iterator[tuple[Example, Floats]]:
        shown = [example for example in batch if len(example.boxes)]
        total: Any = 0.0
        weights = {name: self.settings.weights.get(name, 1.0) for name in self.networks}
        if shown:
            for name, weight in weights.items():
                total = total + weight / sum(weights.values()) * self.say(name, shown, cache)
            probabilities_RK = total.softmax(1) if self.settings.softmax else total.sigmoid()
            total = probabilities_RK[:, : len(self.settings.classes)].cpu().numpy()
        else:
            total = np.zeros((0, len(self.settings.classes)))
        start = 0
        for example in batch:
            stop = start + len(example.boxes)
            yield example, total[start:stop]
            start = stop

    def say(self, name: str, shown: Sequence[Example], cache: Any) -> torch.Tensor:
        """Return logits R×K of one stream (softmax: logarithms), over mirror images and shifts.

        Each of the key frames must have a box.
        """
        stream, network = self.settings.streams[name], self.networks[name]
        device = next(network.parameters()).device
        most = round(stream.frames * self.settings.train.shift) if network.moves else 0
        flips = (False, True) if self.settings.flip else (False,)
        outputs = []
        with torch.no_grad():
            if isinstance(network, HistogramNetwork):
                # One long look holds the short ones, and its mirror image theirs.
                longer = replace(stream, frames=stream.frames + 2 * REACH * most)
                # A clip at a time: pictures are large, cells are small.
                parts = (
                    see(longer, cache[e.video], e.frame, e.boxes, network, device) for e in shown
                )
                cells = torch.cat([network.cells(*joined([part])) for part in parts])
                starts = range(0, 2 * REACH * most + 1, max(most, 1))
                for flip, start in itertools.product(flips, starts):
                    of_look = network.mirrored(cells) if flip else cells
                    described = network.describe(of_look[:, start : start + stream.frames])
                    outputs.append(network.classify(described).double())
            else:
                for flip, shift in itertools.product(flips, sorted({-most, 0, most})):
                    look = Look(flip, shift=shift)
                    clips = [
                        see(stream, cache[e.video], e.frame, e.boxes, network, device, look)
                        for e in shown
                    ]
                    outputs.append(network(*joined(clips)).double())
        if not self.settings.softmax:
            return torch.stack(outputs).mean(0)
        return torch.stack([each.softmax(1) for each in outputs]).mean(0).clamp(min=FLOOR).log()

    def save(self, out: Path) -> None:
        """Write the settings beside the weights."""
        out.mkdir(parents=True, exist_ok=True)
        write_table(out / SETTINGS, self._table())

    def _table(self) -> dict[str, Any]:
        table: dict[str, Any] = json.loads(json.dumps(asdict(self.settings), default=str))
        for stream in table["streams"].values():
            # Where initial weights came from is a matter of the training alone.
            stream["weights"] = stream["weights_origin"] = None
        return table


def load_detector(run: Path) -> Detector:
    """Load a trained detector.

    Raises
    ------
    ConfigError
        If the folder holds none.
    WeightsError
        If its weights are missing, damaged or of another network.
    """
    table = read_json(run, SETTINGS, "detect")
    for part in (*table.get("streams", {}).values(), table.get("train", {})):
        for key in [key for key, value in part.items() if value is None]:
            del part[key]
    refuse_foreign_code([table.get("streams"), table.get("flow")], f"the run {run}")
    settings = from_table(DetectorSettings, table, where=str(run / SETTINGS))
    with torch.device("meta"):
        sketched = Detector(settings).networks
    check_room({run / name / CHECKPOINT: network for name, network in sketched.items()})
    detector = Detector(settings)
    for name, network in detector.networks.items():
        read_model(run / name / CHECKPOINT, network)
        network.to(choose_device(detector.settings.train.device))
    return detector


def _naming(
    name: str, on_epoch: Callable[[str, dict[str, Any]], None]
) -> Callable[[dict[str, Any]], None]:
    return lambda record: on_epoch(name, record)
