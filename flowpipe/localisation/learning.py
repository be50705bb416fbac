"""Training of one localisation network on random windows; resumable to the same numbers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.localisation.timeline import Example
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
from flowpipe.training.options import COUNT, SHARE, TRAIN_RULES, Rule, check_rules, is_count

# An instance of which a window shows less than this share is not asked for there.
MIN_INSIDE = 0.5
SAVE_EVERY_S = 10.0
USUAL_UPDATES, FEWEST_EPOCHS, MOST_EPOCHS = 1000, 15, 100


@dataclass(frozen=True)
class LearnOptions:
    """How a localisation network is trained; the table `[train]` of a configuration.

    Attributes
    ----------
    epochs : int, optional
        Passes over the training videos, one window of each. [default: about 1,000 updates, 15 to
        100 passes]
    batch_size : int
        Windows of an update.
    learning_rate : float
        The largest rate of AdamW.
    weight_decay : float
        Of kernels only, not of biases and normalisation.
    warmup_share : float
        Share of the epochs over which the rate rises from zero; then it falls along a cosine.
    gradient_clip : float, optional
        Largest norm of the gradient.
    window_share : float
        A window is a random share of its video, at least this one.
    max_steps : int
        The longest window, in steps of the features.
    seed : int
        Of initial weights, order, windows and noise.
    device : "auto", "cpu" or "cuda"
        Where the networks run; changes nothing of what is learnt, but for rounding.
    """

    epochs: int | None = None
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    gradient_clip: float | None = 1.0
    window_share: float = 0.6
    max_steps: int = 2304
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_rules(self, RULES)

    def learnt(self) -> dict[str, Any]:
        """Return the options that determine what a network learns."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

    def epochs_for(self, num_videos: int) -> int:
        """Return the number of passes over so many videos."""
        if self.epochs is not None:
            return self.epochs
        passes = round(USUAL_UPDATES * self.batch_size / max(num_videos, 1))
        return min(max(passes, FEWEST_EPOCHS), MOST_EPOCHS)


_SHARED_RULES = ("batch_size", "learning_rate", "weight_decay", "gradient_clip", "seed", "device")
RULES: dict[str, Rule] = {name: TRAIN_RULES[name] for name in _SHARED_RULES} | {
    "epochs": ("be a whole number ≥ 1, or None", lambda v: v is None or is_count(v)),
    "warmup_share": ("be in [0, 1)", lambda value: 0 <= value < 1),
    "window_share": SHARE,
    "max_steps": COUNT,
}


def train_network(
    network: nn.Module,
    examples: Sequence[Example],
    columns: slice,
    options: LearnOptions,
    out: Path,
    *,
    seed: int = 0,
    fingerprint: Mapping[str, Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network; goes on from the checkpoint in `out`.

    Parameters
    ----------
    network : nn.Module
        A row of `METHODS`; its features must have been standardised. Changed in place.
    examples : sequence of Example
        At least one; videos without instances teach what nothing looks like.
    columns : slice
        Which of the examples' features the network sees.
    options : LearnOptions
    out : Path
        Folder of the checkpoint and of metrics.jsonl; made when missing.
    seed : int
        Added to that of the options: several networks of one run differ by it.
    fingerprint : mapping, optional
        What a checkpoint must share to be gone on with, beside the options.
    on_epoch : callable, optional
        Called with each epoch's record.

    Returns
    -------
    list of dict
        One per epoch: epoch, of how many epochs, loss, learning_rate, seconds.

    Raises
    ------
    InvalidArgument
        Without examples, or where the loss is no number.
    WeightsError
        If the checkpoint in `out` is of other settings.
    """
    if not examples:
        raise InvalidArgument("there is no training video")
    out.mkdir(parents=True, exist_ok=True)
    settings = {"train": options.learnt(), "network_seed": seed, **(fingerprint or {})}
    network.to(choose_device(options.device))
    update = make_optimiser(
        network,
        TrainOptions(
            optimiser="adamw",
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
        ),
    )
    history = load_checkpoint(out / CHECKPOINT, network, update, settings) or []
    saved = time.monotonic()
    epochs = options.epochs_for(len(examples))
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        rng = np.random.default_rng((options.seed, seed, epoch))
        # Dropout and noise draw from torch's generator: fixed by the epoch, and given back after.
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**62)))
            loss, rate = _train_epoch(network, examples, columns, update, options, epoch, rng)
        record = {
            "epoch": epoch + 1,
            "epochs": epochs,
            "loss": loss,
            "learning_rate": rate,
            "seconds": round(time.perf_counter() - started, 3),
        }
        history.append(record)
        last = epoch + 1 == epochs
        if last or time.monotonic() - saved > SAVE_EVERY_S:
            save_checkpoint(out / CHECKPOINT, network, update, settings, history)
            write_metrics(out / METRICS, history)
            saved = time.monotonic()
        if on_epoch is not None:
            on_epoch(record)
    network.eval()
    return history


def _train_epoch(
    network: Any,
    examples: Sequence[Example],
    columns: slice,
    update: torch.optim.Optimizer,
    options: LearnOptions,
    epoch: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    network.train()
    device = next(network.parameters()).device
    epochs = options.epochs_for(len(examples))
    order = rng.permutation(len(examples))
    total, rate = 0.0, 0.0
    for start in range(0, len(order), options.batch_size):
        batch = order[start : start + options.batch_size]
        moment = epoch + (start + len(batch) / 2) / len(order)
        rate = options.learning_rate * rate_factor(
            moment, epochs, options.warmup_share * epochs, "cosine", ()
        )
        for group in update.param_groups:
            group["lr"] = rate
        update.zero_grad(set_to_none=True)
        for place in batch:
            window = draw_window(examples[place], columns, options, rng)
            loss = network.loss(*(part.to(device) for part in window)) / len(batch)
            if not torch.isfinite(loss):
                raise InvalidArgument(
                    f"loss is not finite in epoch {epoch + 1}, at learning rate {rate:g}; lower "
                    "the learning rate",
                    parameter="learning_rate",
                )
            loss.backward()
            total += float(loss.detach()) * len(batch)
        if options.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
        update.step()
    return total / len(order), rate


def draw_window(
    example: Example, columns: slice, options: LearnOptions, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, instances (in steps of the window) and labels of a random window."""
    steps = len(example.sample)
    share = rng.uniform(options.window_share, 1.0)
    length = min(max(1, round(share * steps)), options.max_steps)
    start = int(rng.integers(steps - length + 1))
    features = example.sample.features[start : start + length, columns]
    segments, labels = clip_to_window(example.segments, example.labels, start, length)
    return torch.from_numpy(features), torch.from_numpy(segments), torch.from_numpy(labels)


def clip_to_window(
    segments_M2: npt.NDArray[np.float32], labels_M: npt.NDArray[np.int64], start: int, length: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cut instances at the ends of [start, start + length); drop those mostly outside."""
    # The first and the last snippet reach half a step beyond their middles.
    inside = np.clip(segments_M2 - start, -0.5, length - 0.5).astype(np.float32)
    shown = inside[:, 1] - inside[:, 0]
    kept = shown >= MIN_INSIDE * (segments_M2[:, 1] - segments_M2[:, 0])
    kept &= shown > 0
    return inside[kept], labels_M[kept]
