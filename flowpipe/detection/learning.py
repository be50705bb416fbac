"""Training of one stream on key frames; resumable to the same numbers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.detection.clips import DetectStream, Look, Network, jittered, joined, see
from flowpipe.detection.examples import Example
from flowpipe.errors import InvalidArgument
from flowpipe.training import TrainOptions
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    load_checkpoint,
    save_checkpoint,
    write_metrics,
)
from flowpipe.training.devices import choose_device
from flowpipe.training.loop import make_optimiser, rate_factor
from flowpipe.training.options import NOT_LEARNT, TRAIN_RULES, Rule, check_rules, is_count

USUAL_PERSONS, FEWEST_EPOCHS, MOST_EPOCHS = 10_000, 3, 100
SAVE_EVERY_S = 10.0


@dataclass(frozen=True)
class DetectTrain:
    """How a detector is trained; the table `[train]` of a configuration.

    Attributes
    ----------
    epochs : int, optional
        Passes over the key frames. [default: about 10,000 persons seen, 3 to 100 passes]
    batch_size : int
        Persons of an update; key frames are taken until there are as many.
    optimiser : "adamw" or "sgd"
    learning_rate : float
        The largest rate.
    momentum : float
        Of SGD.
    weight_decay : float
        Of kernels only, not of biases and normalisation.
    schedule : "cosine" or "steps"
        The rate falls to zero along a cosine, or to a tenth after each epoch of `steps`.
    steps : tuple of int
        Epochs after which the rate falls.
    warmup_share : float
        Share of the epochs over which the rate rises from zero.
    gradient_clip : float, optional
        Largest norm of the gradient.
    loss : "auto", "softmax" or "sigmoid"
        One action of a person, or several; auto: several where the training data have such.
    balanced : bool
        Draw key frames so that classes come equally often.
    jitter : float
        Deviation of a training box's size and, halved, place, as a share of its sides.
    shift : float
        By how much of its length, at most, a clip of the network person is moved in time.
    scales : tuple of float
        Training frames are scaled by one of these.
    flip : "auto", "yes" or "no"
        Mirror training clips; auto: unless a class is called left or right.
    found_iou : float
        A found box teaches what a true one of this IoU does.
    seed : int
        Of initial weights, order, jitter and dropout.
    memory_mb : float
        Room for decoded frames and flow, in 10⁶ bytes.
    device : "auto", "cpu" or "cuda"
        Where the networks run; changes nothing of what is learnt, but for rounding.
    """

    epochs: int | None = None
    batch_size: int = 16
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 4e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Literal["cosine", "steps"] = "cosine"
    steps: tuple[int, ...] = ()
    warmup_share: float = 0.1
    gradient_clip: float | None = 5.0
    loss: Literal["auto", "softmax", "sigmoid"] = "auto"
    balanced: bool = True
    jitter: float = 0.1
    shift: float = 0.125
    scales: tuple[float, ...] = (1.0,)
    flip: Literal["auto", "yes", "no"] = "auto"
    found_iou: float = 0.9
    seed: int = 0
    memory_mb: float = field(default=2000.0, metadata=NOT_LEARNT)
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=NOT_LEARNT)

    def __post_init__(self) -> None:
        check_rules(self, RULES)

    def learnt(self) -> dict[str, Any]:
        """Return the options that determine what a network learns."""
        learnt = [f.name for f in fields(self) if f.metadata.get("learnt", True)]
        return {name: asdict(self)[name] for name in learnt}

    def epochs_for(self, num_persons: int) -> int:
        """Return the number of passes over so many persons."""
        if self.epochs is not None:
            return self.epochs
        return min(max(round(USUAL_PERSONS / max(num_persons, 1)), FEWEST_EPOCHS), MOST_EPOCHS)


_SHARED = (
    "batch_size", "optimiser", "learning_rate", "momentum", "weight_decay", "schedule", "steps",
    "gradient_clip", "seed", "memory_mb", "device",
)  # fmt: skip
RULES: dict[str, Rule] = {name: TRAIN_RULES[name] for name in _SHARED} | {
    "epochs": ("be a whole number ≥ 1, or None", lambda v: v is None or is_count(v)),
    "warmup_share": ("be in [0, 1)", lambda v: 0 <= v < 1),
    "loss": ("be auto, softmax or sigmoid", ("auto", "softmax", "sigmoid").__contains__),
    "jitter": ("be in [0, 1); 0.1 is usual", lambda v: 0 <= v < 1),
    "shift": ("be in [0, 0.5]; 0.125 is usual", lambda v: 0 <= v <= 0.5),
    "scales": (
        "be from 0.1 to 10, such as 1 and 1.25",
        lambda v: v and all(0.1 <= s <= 10 for s in v),
    ),
    "flip": ("be auto, yes or no", ("auto", "yes", "no").__contains__),
    "found_iou": ("be in (0.3, 1]; 0.9 is usual", lambda v: 0.3 < v <= 1),
}


def train_network(
    network: Network,
    stream: DetectStream,
    examples: Sequence[Example],
    cache: Any,
    options: DetectTrain,
    out: Path,
    *,
    softmax: bool,
    flip: bool,
    fingerprint: Mapping[str, Any],
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network on key frames; goes on from the checkpoint in `out`.

    Parameters
    ----------
    network : RoiNetwork or PersonNetwork
        Changed in place. Has one output more than classes where, of `softmax`, a person may do
        nothing of them.
    stream : DetectStream
    examples : sequence of Example
        Those without boxes teach nothing.
    cache : Cache
    options : DetectTrain
    out : Path
        Folder of the checkpoint and of metrics.jsonl.
    softmax, flip : bool
    fingerprint : mapping
        What a checkpoint must share to be gone on with, beside the options.

    Returns
    -------
    list of dict
        One per epoch.

    Raises
    ------
    InvalidArgument
        If fewer than two persons are left, or the loss is no number.
    WeightsError
        If the checkpoint in `out` is of other settings.
    """
    examples = [example for example in examples if len(example.boxes)]
    persons = sum(len(example.boxes) for example in examples)
    if persons < 2:
        raise InvalidArgument(f"{persons} persons are too few to train on; two are needed")
    out.mkdir(parents=True, exist_ok=True)
    settings = {"train": options.learnt(), **fingerprint}
    device = torch.device(choose_device(options.device))
    network.to(device)
    update = make_optimiser(
        network,
        TrainOptions(
            optimiser=options.optimiser,
            learning_rate=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        ),
    )
    history = load_checkpoint(out / CHECKPOINT, network, update, settings) or []
    chances = class_chances(examples) if options.balanced else None
    saved = time.monotonic()
    epochs = options.epochs_for(persons)
    most = round(stream.frames * options.shift) if network.moves else 0
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        rng = np.random.default_rng((options.seed, epoch))
        batches = draw_batches(examples, chances, options.batch_size, rng)
        # Dropout draws from torch's generator: fixed by the epoch, and given back after.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**62)))
            network.train()
            total, right, seen, rate = 0.0, 0, 0, 0.0
            for number, batch in enumerate(batches):
                rate = options.learning_rate * rate_factor(
                    epoch + (number + 0.5) / len(batches),
                    epochs,
                    options.warmup_share * epochs,
                    options.schedule,
                    options.steps,
                )
                for group in update.param_groups:
                    group["lr"] = rate
                shown = [examples[place] for place in batch]
                parts = []
                for example in shown:
                    scale = float(rng.choice(options.scales))
                    mirror = flip and bool(rng.random() < 0.5)
                    shift = int(rng.integers(-most, most + 1))
                    look = Look(mirror, scale, shift)
                    boxes = jittered(example.boxes, options.jitter, rng)
                    entry = cache[example.video]
                    parts.append(see(stream, entry, example.frame, boxes, network, device, look))
                targets = np.concatenate([example.targets for example in shown])
                logits_RK = network(*joined(parts))
                loss, correct = criterion(logits_RK, torch.from_numpy(targets).to(device), softmax)
                if not torch.isfinite(loss):
                    raise InvalidArgument(
                        f"loss is not finite in epoch {epoch + 1}, at learning rate {rate:g}; "
                        "lower the learning rate",
                        parameter="learning_rate",
                    )
                update.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if options.gradient_clip is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
                update.step()
                total += float(loss.detach()) * len(targets)
                right += correct
                seen += len(targets)
        history.append(
            {
                "epoch": epoch + 1,
                "epochs": epochs,
                "loss": total / seen,
                "accuracy": right / seen,
                "learning_rate": rate,
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        if epoch + 1 == epochs or time.monotonic() - saved > SAVE_EVERY_S:
            save_checkpoint(out / CHECKPOINT, network, update, settings, history)
            write_metrics(out / METRICS, history)
            saved = time.monotonic()
        if on_epoch is not None:
            on_epoch(history[-1])
    network.eval()
    return history


def criterion(
    logits_RK: Tensor, targets_RK: Tensor, softmax: bool, weights_R: Tensor | None = None
) -> tuple[Tensor, int]:
    """Return the loss of a batch, and of how many persons the best class is right.

    Of `softmax` an output beyond the classes is that of persons who do nothing of them; without
    it their rows are left out. Without `weights_R` all persons count alike.
    """
    classes = targets_RK.shape[1]
    some = targets_RK.any(1)
    best = logits_RK[:, :classes].argmax(1)
    correct = int(targets_RK.gather(1, best[:, None]).sum())
    if not softmax:
        loss = functional.binary_cross_entropy_with_logits(
            logits_RK, targets_RK.to(logits_RK.dtype), reduction="none"
        ).sum(1)
        return _mean(loss, weights_R), correct
    labels = torch.where(some, targets_RK.to(torch.int8).argmax(1), classes)
    if logits_RK.shape[1] == classes:
        logits_RK, labels = logits_RK[some], labels[some]
        weights_R = None if weights_R is None else weights_R[some]
    return _mean(functional.cross_entropy(logits_RK, labels, reduction="none"), weights_R), correct


def _mean(loss_R: Tensor, weights_R: Tensor | None) -> Tensor:
    return loss_R.mean() if weights_R is None else (loss_R * weights_R).sum() / weights_R.sum()


def person_weights(targets_RK: Tensor) -> Tensor:
    """Return how much each person counts where classes are to count alike; 1 on average."""
    nothing_R1 = ~targets_RK.any(1, keepdim=True)
    has_RK = torch.cat([targets_RK, nothing_R1], 1).to(torch.float32)
    weights_R = (has_RK / has_RK.sum(0).clamp(min=1)).sum(1) / has_RK.sum(1)
    return weights_R / weights_R.mean()


def class_chances(examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    """Return how often each key frame is to be drawn, so that classes come equally often."""
    counts_NK = np.stack(
        [
            np.concatenate([e.targets.sum(0), [len(e.targets) - e.targets.any(1).sum()]])
            for e in examples
        ]
    ).astype(np.float64)
    share_K = np.divide(
        1, counts_NK.sum(0), out=np.zeros(counts_NK.shape[1]), where=counts_NK.any(0)
    )
    # A frame of many persons is no more likely than one of few: all are seen each time.
    chances = (counts_NK @ share_K) / counts_NK.sum(1)
    return np.asarray(chances / chances.sum())


def draw_batches(
    examples: Sequence[Example],
    chances: npt.NDArray[np.float64] | None,
    persons: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Return batches of key frames with about so many persons; a last one of one person joins."""
    count = len(examples)
    order = rng.permutation(count) if chances is None else rng.choice(count, count, p=chances)
    batches: list[list[int]] = [[]]
    room = persons
    for place in order.tolist():
        if room <= 0:
            batches.append([])
            room = persons
        batches[-1].append(place)
        room -= len(examples[place].boxes)
    if len(batches) > 1 and sum(len(examples[place].boxes) for place in batches[-1]) < 2:
        last = batches.pop()
        batches[-1] += last
    return batches


def negatives_in(examples: Sequence[Example]) -> bool:
    """Return whether a person does nothing of the classes."""
    return any(not example.targets.any(1).all() for example in examples)


def several_in(examples: Sequence[Example]) -> bool:
    """Return whether a person has several labels."""
    return any(len(e.targets) and e.targets.sum(1).max() > 1 for e in examples)


def num_outputs(classes: int, softmax: bool, negatives: bool) -> int:
    """Return the outputs of a network: with softmax, "nothing" is one where there is such."""
    return classes + (softmax and negatives)


def probabilities(logits_RK: Tensor, classes: int, softmax: bool) -> npt.NDArray[np.float64]:
    """Return the probability of each class, R×K."""
    values = logits_RK.double()
    values = values.softmax(1) if softmax else values.sigmoid()
    return values[:, :classes].cpu().numpy()
