"""One training loop for every stream; a resumed run ends with the numbers of an unbroken one.

Under torchrun each process takes its part of every batch; the first writes the files. Each
epoch's randomness is made from (seed, epoch), never carried over, and a checkpoint is written
after every epoch.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from flowpipe.clips.dataset import ClipDataset, to_network_input
from flowpipe.clips.order import EpochSampler, class_balanced_weights
from flowpipe.errors import InvalidArgument
from flowpipe.models.weights import load_state, model_state
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    load_checkpoint,
    open_board,
    read_best,
    save_checkpoint,
    write_metrics,
)
from flowpipe.training.devices import choose_device, place
from flowpipe.training.options import TrainOptions
from flowpipe.training.ranks import Ranks, join, noticing_loss


def _epochs_left(history: Sequence[Any], options: TrainOptions, patience: int) -> Iterator[int]:
    """Give the next epoch, from 0, until all are in `history` or the held-out loss falls no more.

    `patience` is how many epochs may pass without a lower one; 0 is any number.
    """
    while len(history) < options.epochs:
        losses = [record["validation_loss"] for record in history] if patience else []
        if losses and len(losses) - 1 - losses.index(min(losses)) >= patience:
            return
        yield len(history)


def train_stream(
    model: nn.Module,
    data: ClipDataset,
    options: TrainOptions,
    out: str | os.PathLike[str],
    *,
    fingerprint: Mapping[str, Any] | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network on the clips of one stream; goes on from the checkpoint in `out`.

    Parameters
    ----------
    model : nn.Module
        Changed in place; at return it holds the weights of the last epoch, or of the best by
        `validate`. It gives logits B×K,
        or B×T×K: then the loss is the mean over the frames.
    data : ClipDataset
        With one stream.
    options : TrainOptions
        How; what concerns the drawing of clips is that of `data`.
    out : path
        Folder of the checkpoint and of metrics.jsonl; made when missing. Where TensorBoard is
        installed (extra `tensorboard`), its event files stand there too.
    fingerprint : mapping, optional
        What a checkpoint must share to be gone on with, beside the options that determine what
        is learnt. Its keys must not be names of options.
    validate : callable, optional
        Called with the network after each epoch; what it returns, `validation_loss` and others,
        joins the epoch's record. With `options.keep` "best" the weights of the least loss count.
    on_epoch : callable, optional
        Called with each epoch's record.

    Returns
    -------
    list of dict
        One per epoch: epoch, loss, accuracy (of the training clips), learning_rate, seconds,
        clips_per_s.

    Raises
    ------
    InvalidArgument
        For a batch that the processes cannot share, a network that gives something else than
        logits, or a loss that is no number.
    WeightsError
        If the checkpoint in `out` is of other settings or of another network.
    """
    settings = options.learnt()
    if taken := ", ".join(sorted(settings.keys() & (fingerprint or {}).keys())):
        raise InvalidArgument(f"fingerprint names {taken} are taken; rename them")
    settings |= fingerprint or {}
    ranks = join()
    own_batch = ranks.share_of(options.batch_size)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    target = torch.device(choose_device(options.device))
    place(model, target, single=own_batch == 1)
    update = make_optimiser(model, options)
    history = load_checkpoint(folder / CHECKPOINT, model, update, settings) or []
    keep_best = validate is not None and options.keep == "best"
    best = read_best(folder / CHECKPOINT) if keep_best else None
    if ranks.first:
        write_metrics(folder / METRICS, history)
    weights = class_balanced_weights(data.labels) if options.balanced else None
    sampler = EpochSampler(
        len(data), seed=options.seed, weights=weights, rank=ranks.rank, world_size=ranks.world_size
    )
    loader = DataLoader(
        data,
        batch_sampler=WholeBatches(sampler, own_batch),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=target.type == "cuda",
        # A loader draws a number when its workers start, which a resumed run does in a later
        # epoch than an unbroken one; from torch's own generator that would move the dropout.
        generator=torch.Generator(),
    )
    patience = options.patience if validate is not None else 0
    going_on = next(_epochs_left(history, options, patience), None) is not None
    board = open_board(folder, len(history)) if ranks.first and going_on else None
    criterion = Criterion(options, data.record_targets, len(data.classes))
    # All have read the checkpoint before the first writes another.
    ranks.barrier()
    wrapped = ranks.wrapped(model, target)
    for epoch in _epochs_left(history, options, patience):
        started = time.perf_counter()
        sampler.set_epoch(epoch)
        # Dropout draws from torch's generator: fixed by (seed, epoch), and given back after.
        with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
            _seed_torch((options.seed * 100_003 + epoch) * ranks.world_size + ranks.rank, target)
            numbers = _train_epoch(
                wrapped, loader, data, update, criterion, options, epoch, target, ranks
            )
        if validate is not None:
            numbers |= validate(model)
        seconds = time.perf_counter() - started
        speed = {"seconds": round(seconds, 3), "clips_per_s": round(len(data) / seconds, 1)}
        record = {"epoch": epoch + 1, **numbers, **speed}
        history.append(record)
        if keep_best and record is min(history, key=lambda each: each["validation_loss"]):
            best = {name: tensor.cpu().clone() for name, tensor in model_state(model).items()}
        if ranks.first:
            save_checkpoint(folder / CHECKPOINT, model, update, settings, history, best)
            write_metrics(folder / METRICS, history)
        if board is not None:
            for name, value in record.items():
                board.add_scalar(name, value, epoch + 1)
            board.flush()
        if on_epoch is not None:
            on_epoch(record)
    if board is not None:
        board.close()
    if best is not None:
        load_state(model, best, where="best epoch")
    return history


def _seed_torch(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: it also seeds GPUs that fork_rng does not give back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def rate_factor(
    epoch: float, epochs: int, warmup_epochs: float, schedule: str, steps: Sequence[int]
) -> float:
    """Return the share of the learning rate at a moment, in epochs since the start.

    ::

        cosine, 10 epochs, 2 of warm-up    0: 0   1: ½   2: 1   6: ½   10: 0
        steps = (5, 8)                     0: 1   5: 0.1   8: 0.01
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if schedule == "steps":
        return float(0.1 ** sum(epoch >= step for step in steps))
    share = (epoch - warmup_epochs) / max(1e-9, epochs - warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def make_optimiser(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or AdamW; biases and normalisation scales are not decayed."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if options.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)


@contextlib.contextmanager
def needing_two_clips(count: int) -> Iterator[None]:
    """Say what it means when batch normalisation refuses a single clip."""
    try:
        yield
    except ValueError as error:
        if count > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise InvalidArgument(
            "a batch of one clip has no deviation, by which the network's batch normalisation "
            "divides; set batch_size to 2 or more",
            parameter="batch_size",
        ) from error


def check_logits(logits: object, num_clips: int, num_classes: int) -> None:
    """Refuse what a network answered if it is not logits B×K, or B×T×K."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if (
        not isinstance(logits, Tensor)
        or logits.ndim not in (2, 3)
        or (logits.shape[0], logits.shape[-1]) != (num_clips, num_classes)
    ):
        raise InvalidArgument(
            f"the network gave {shape} for {num_clips} clips and {num_classes} classes; it must "
            f"give logits {num_clips}×{num_classes}, or {num_clips}×T×{num_classes}: build it "
            f"with num_classes={num_classes}"
        )


class WholeBatches:
    """Batches of an order of items; a last one of a single item joins the one before it.

    Batch normalisation cannot train on a single clip::

        7 items, batches of 3     abc  defg
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __len__(self) -> int:
        count, rest = divmod(len(self.sampler), self.batch_size)
        return max(1, count + (rest > 1))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        items = list(self.sampler)
        for number in range(len(self)):
            first = number * self.batch_size
            last = number == len(self) - 1
            yield items[first:] if last else items[first : first + self.batch_size]


class Criterion:
    """The loss of a batch, and how many of its clips are right.

    Parameters
    ----------
    options : TrainOptions
        Its loss and label_smoothing.
    targets_NK : array of N×K bool, optional
        The classes of each record, where some have several.
    num_classes : int
    """

    def __init__(
        self, options: TrainOptions, targets_NK: npt.NDArray[np.bool_] | None, num_classes: int
    ) -> None:
        self.loss = options.loss
        self.label_smoothing = options.label_smoothing
        self.targets_NK = None if targets_NK is None else torch.from_numpy(targets_NK)
        self.num_classes = num_classes

    def __call__(self, logits_BK: Tensor, labels_B: Tensor, records_B: Tensor) -> Tensor:
        if self.loss == "softmax" and self.targets_NK is None:
            return functional.cross_entropy(
                logits_BK, labels_B, label_smoothing=self.label_smoothing
            )
        targets_BK = self._targets(labels_B, records_B).to(logits_BK.dtype)
        if self.loss == "softmax":
            shares_BK = targets_BK / targets_BK.sum(1, keepdim=True)
            return functional.cross_entropy(
                logits_BK, shares_BK, label_smoothing=self.label_smoothing
            )
        every = functional.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none")
        return every.sum(1).mean()

    def count_correct(self, logits_BK: Tensor, labels_B: Tensor, records_B: Tensor) -> int:
        """Count the clips whose most probable class is right, or one of theirs."""
        best_B = logits_BK.argmax(1)
        if self.targets_NK is None:
            return int((best_B == labels_B).sum())
        targets_BK = self._targets(labels_B, records_B)
        return int(targets_BK.gather(1, best_B[:, None]).sum())

    def _targets(self, labels_B: Tensor, records_B: Tensor) -> Tensor:
        if self.targets_NK is None:
            return functional.one_hot(labels_B, self.num_classes)
        return self.targets_NK[records_B].to(labels_B.device)


def _train_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    data: ClipDataset,
    update: torch.optim.Optimizer,
    criterion: Criterion,
    options: TrainOptions,
    epoch: int,
    device: torch.device,
    ranks: Ranks,
) -> dict[str, float]:
    model.train()
    stream = data.streams[0]
    quantiser = data.quantiser if stream.has_flow else None
    bfloat16 = options.mixed_precision and device.type == "cuda"
    loss_sum, correct, seen, rate = 0.0, 0, 0, 0.0
    for number, batch in enumerate(loader):
        moment = epoch + (number + 0.5) / len(loader)
        rate = options.learning_rate * rate_factor(
            moment, options.epochs, options.warmup_epochs, options.schedule, options.steps
        )
        for group in update.param_groups:
            group["lr"] = rate
        moved = {stream.name: batch[stream.name].to(device, non_blocking=True)}
        labels: Tensor = batch["label"].to(device, non_blocking=True)
        update.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            with needing_two_clips(len(labels)):
                logits = model(to_network_input(moved, stream, quantiser))
            check_logits(logits, len(labels), len(data.classes))
            if logits.ndim == 3:  # a score per frame, each of which has the clip's label
                labels = labels.repeat_interleave(logits.shape[1])
                batch["index"] = batch["index"].repeat_interleave(logits.shape[1])
                logits = logits.flatten(0, 1)
            loss: Tensor = criterion(logits.float(), labels, batch["index"])
        loss_value = float(ranks.total(loss.detach().clone())) / ranks.world_size
        if not math.isfinite(loss_value):
            raise InvalidArgument(
                f"loss is not finite in epoch {epoch + 1}, at learning rate {rate:g}; lower the "
                "learning rate, or set gradient_clip",
                parameter=("learning_rate", "gradient_clip"),
            )
        with noticing_loss():
            loss.backward()  # type: ignore[no-untyped-call]
        if options.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        update.step()
        loss_sum += loss_value * len(labels)
        correct += criterion.count_correct(logits, labels, batch["index"])
        seen += len(labels)
    # The loss is that of all processes already.
    correct, seen_by_all = ranks.total(torch.tensor([correct, seen], device=device)).tolist()
    return {"loss": loss_sum / seen, "accuracy": correct / seen_by_all, "learning_rate": rate}
