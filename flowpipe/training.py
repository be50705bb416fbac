"""One training loop for every stream; a resumed run ends with the numbers of an unbroken one.

Under torchrun each process takes its part of every batch; the first writes the files.
Each epoch's randomness is made from (seed, epoch), never carried over, and a checkpoint is
written aside and renamed in after every epoch. Checkpoints hold tensors and plain values only
and are read with `weights_only=True`.
"""

import importlib.util
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from flowpipe.clips.dataset import ClipDataset, to_network_input
from flowpipe.clips.order import EpochSampler, class_balanced_weights
from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.models.weights import load_state, model_state
from flowpipe.ranks import Ranks, join, noticing_loss

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


def train_stream(
    model: nn.Module,
    dataset: ClipDataset,
    *,
    out: str | os.PathLike[str],
    epochs: int,
    batch_size: int = 32,
    optimiser: Literal["sgd", "adamw"] = "sgd",
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Literal["cosine", "steps"] = "cosine",
    steps: Sequence[int] = (),
    warmup_epochs: float = 0.0,
    gradient_clip: float | None = None,
    label_smoothing: float = 0.0,
    loss: Literal["softmax", "sigmoid"] = "softmax",
    balanced: bool = False,
    seed: int = 0,
    workers: int = 0,
    device: str = "auto",
    mixed_precision: bool = True,
    fingerprint: Mapping[str, Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network on the clips of one stream; goes on from the checkpoint in `out`.

    Parameters
    ----------
    model : nn.Module
        Changed in place; at return it holds the weights of the last epoch. It gives logits B×K,
        or B×T×K: then the loss is the mean over the frames.
    dataset : ClipDataset
        With one stream.
    out : path
        Folder of the checkpoint and of metrics.jsonl; made when missing. Where TensorBoard is
        installed (extra `tensorboard`), its event files stand there too.
    epochs, batch_size : int
        A batch is that of all processes together.
    optimiser : "sgd" (with `momentum`) or "adamw"
    learning_rate, weight_decay : float
    schedule : "cosine" (to zero), or "steps": a tenth after each epoch of `steps`
        Every update takes the rate of its middle, so that none is made at rate zero.
    warmup_epochs : float
        Epochs over which the rate rises linearly from zero.
    gradient_clip : float, optional
        Largest norm of the gradient.
    label_smoothing : float
    loss : "softmax" or "sigmoid"
        Cross-entropy over the classes, of which a video with n labels has 1/n each; or of each
        class for itself, summed over the classes.
    balanced : bool
        Draw classes, not videos, with equal probability; of several labels the first counts.
    seed : int
    workers : int
        Processes that read clips; 0 reads in this one.
    device : "auto", "cpu" or "cuda"
    mixed_precision : bool
        bfloat16 where the device is a GPU.
    fingerprint : mapping, optional
        Settings that a checkpoint must share to be gone on with, beside those above; `workers`
        and `device` are not compared. Its keys must not be those of the arguments above.
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
        For settings outside their rules, or a loss that is no number.
    WeightsError
        If the checkpoint in `out` is of other settings or of another network.
    """
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "steps": list(steps),
        "warmup_epochs": warmup_epochs,
        "gradient_clip": gradient_clip,
        "label_smoothing": label_smoothing,
        "loss": loss,
        "balanced": balanced,
        "seed": seed,
        "mixed_precision": mixed_precision,
    }
    check_settings(settings, workers)
    own = fingerprint or {}
    if taken := ", ".join(sorted(settings.keys() & own.keys())):
        raise InvalidArgument(f"fingerprint names {taken} are taken; rename them")
    settings |= own
    ranks = join()
    own_batch = ranks.share_of(batch_size)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    target = torch.device(choose_device(device))
    place(model, target, single=own_batch == 1)
    update = make_optimiser(model, optimiser, learning_rate, momentum, weight_decay)
    history = load_checkpoint(folder / CHECKPOINT, model, update, settings)
    if ranks.first:
        write_metrics(folder / METRICS, history)
    weights = class_balanced_weights(dataset.labels) if balanced else None
    sampler = EpochSampler(
        len(dataset), seed=seed, weights=weights, rank=ranks.rank, world_size=ranks.world_size
    )
    loader = DataLoader(
        dataset,
        batch_size=own_batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=target.type == "cuda",
        # A loader draws a number when its workers start, which a resumed run does in a later
        # epoch than an unbroken one; from torch's own generator that would move the dropout.
        generator=torch.Generator(),
    )
    board = open_board(folder, len(history)) if ranks.first and len(history) < epochs else None
    criterion = Criterion(loss, label_smoothing, dataset.record_targets, len(dataset.classes))
    # All have read the checkpoint before the first writes another.
    ranks.barrier()
    wrapped = ranks.wrapped(model, target)
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        sampler.set_epoch(epoch)

        def rate_at(step: float, epoch: int = epoch) -> float:
            factor = rate_factor(epoch + step, epochs, warmup_epochs, schedule, steps)
            return factor * learning_rate

        # Dropout draws from torch's generator: fixed by (seed, epoch), and given back after.
        with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
            _seed_torch((seed * 100_003 + epoch) * ranks.world_size + ranks.rank, target)
            record = _train_epoch(
                wrapped,
                loader,
                dataset,
                update,
                criterion,
                rate_at=rate_at,
                gradient_clip=gradient_clip,
                mixed_precision=mixed_precision,
                device=target,
                epoch=epoch + 1,
                ranks=ranks,
            )
        seconds = time.perf_counter() - started
        speed = {"seconds": round(seconds, 3), "clips_per_s": round(len(dataset) / seconds, 1)}
        record = {"epoch": epoch + 1, **record, **speed}
        history.append(record)
        if ranks.first:
            save_checkpoint(folder / CHECKPOINT, model, update, settings, history)
            write_metrics(folder / METRICS, history)
        if board is not None:
            for name, value in record.items():
                board.add_scalar(name, value, epoch + 1)
            board.flush()
        if on_epoch is not None:
            on_epoch(record)
    if board is not None:
        board.close()
    return history


def check_settings(settings: Mapping[str, Any], workers: int) -> None:
    """Refuse settings of `train_stream` outside their rules, with InvalidArgument."""

    def is_count(v: object) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and v >= 1

    rules = {
        "epochs": ("be a whole number ≥ 1", is_count),
        "batch_size": ("be a whole number ≥ 1; 32 is usual", is_count),
        "optimiser": ("be sgd or adamw", ("sgd", "adamw").__contains__),
        "schedule": ("be cosine or steps", ("cosine", "steps").__contains__),
        "learning_rate": ("be > 0; 0.01 is usual for sgd", lambda v: 0 < v < math.inf),
        "momentum": ("be in [0, 1); 0.9 is usual", lambda v: 0 <= v < 1),
        "weight_decay": ("be ≥ 0; 0.0005 is usual", lambda v: 0 <= v < math.inf),
        "steps": ("be epochs ≥ 0", lambda v: all(0 <= step < math.inf for step in v)),
        "warmup_epochs": ("be ≥ 0; 0 is none", lambda v: 0 <= v < math.inf),
        "loss": ("be softmax or sigmoid", ("softmax", "sigmoid").__contains__),
        "gradient_clip": ("be > 0, or None for no limit", lambda v: v is None or 0 < v < math.inf),
        "label_smoothing": ("be in [0, 1); 0 is none", lambda v: 0 <= v < 1),
    }
    for name, (rule, holds) in rules.items():
        if not holds(settings[name]):
            raise InvalidArgument(f"{name} {settings[name]!r} must {rule}")
    if settings["loss"] == "sigmoid" and settings["label_smoothing"]:
        raise InvalidArgument(
            f"label_smoothing {settings['label_smoothing']} must be 0 with loss sigmoid"
        )
    if workers < 0:
        raise InvalidArgument(f"workers {workers} must be ≥ 0; 0 reads clips in this process")


def _seed_torch(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: it also seeds GPUs that fork_rng does not give back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def rate_factor(
    epoch: float, epochs: int, warmup_epochs: float, schedule: str, steps: Sequence[int]
) -> float:
    """Give the share of the learning rate at a moment, in epochs since the start.

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


def make_optimiser(
    model: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD or AdamW; biases and normalisation scales are not decayed."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)


def choose_device(device: str) -> str:
    """Give "cuda" or "cpu" for "auto"; refuse a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InvalidArgument(f'device "{device}" must be auto, cpu or cuda')
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("device cuda: torch finds no GPU; use --set train.device=cpu")
    return device


def place(model: nn.Module, device: torch.device, *, single: bool = False) -> nn.Module:
    """Move a network to a device, its kernels with channels last: a CPU is up to twice as fast.

    With one clip at a time (`single`) kernels of three dimensions stay: some networks are slower.
    """
    layouts = {4: torch.channels_last}
    if device.type == "cpu" and not single:
        layouts[5] = torch.channels_last_3d
    for weight in model.to(device).parameters():
        if weight.ndim in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.ndim])
    return model


def save_checkpoint(
    path: Path,
    model: nn.Module,
    update: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write a checkpoint aside, fsync, rename in."""
    content = {
        "model": model_state(model),
        "optimiser": update.state_dict(),
        # As text: what weights_only reads must be tensors and plain values.
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "history": json.dumps(list(history)),
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, model: nn.Module, update: torch.optim.Optimizer | None, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Load a checkpoint into model and optimiser, and give its history; [] where there is none.

    Raises
    ------
    WeightsError
        If it is unreadable, of other settings, or of another network.
    """
    if not path.is_file():
        return []
    content, saved, history = _read_checkpoint(path)
    wanted = json.loads(json.dumps(settings, sort_keys=True, default=str))
    differing = [key for key in {*saved, *wanted} if saved.get(key) != wanted.get(key)]
    if differing:
        told = ", ".join(
            f"{key} {saved.get(key)!r} → {wanted.get(key)!r}" for key in sorted(differing)
        )
        raise WeightsError(
            f"{path} was trained with other settings ({told}); give another --out, or delete it "
            "to train anew"
        )
    load_state(model, content["model"], where=str(path))
    if update is not None:
        try:
            update.load_state_dict(content["optimiser"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"{path}: its optimiser does not fit ({error}); delete it to train anew"
            raise WeightsError(told) from error
    return history


def read_model(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint's weights into a network and give its settings.

    Raises
    ------
    WeightsError
        If there is none, or it is of another network.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; flowpipe train makes one")
    content, settings, _ = _read_checkpoint(path)
    load_state(model, content["model"], where=str(path))
    return settings


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Give (content, settings, history), each of the kind that `save_checkpoint` wrote."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings, history = json.loads(content["settings"]), json.loads(content["history"])
        whole = isinstance(content["model"], dict) and isinstance(content["optimiser"], dict)
        if whole and isinstance(settings, dict) and isinstance(history, list):
            return content, settings, history
        reason = "other content"
    except pickle.UnpicklingError:
        # torch's own text advises to load the file regardless.
        reason = "damaged, or with Python objects, which are never loaded"
    # Of a damaged file torch raises whatever it meets, assertions included.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise WeightsError(
        f"{path} is no checkpoint of flowpipe, or a damaged one ({reason}); delete it to train anew"
    )


def open_board(folder: Path, epochs_done: int) -> Any:
    """Give TensorBoard's writer, which hides what a killed run wrote later; None without it."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs_done + 1)


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the history as JSON lines, aside and renamed in: a resumed run has no line twice."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")
    aside.replace(path)


class Criterion:
    """The loss of a batch, and how many of its clips are right.

    Parameters
    ----------
    loss : "softmax" or "sigmoid"
    label_smoothing : float
    targets_NK : array of N×K bool, optional
        The classes of each record, where some have several.
    num_classes : int
    """

    def __init__(
        self,
        loss: str,
        label_smoothing: float,
        targets_NK: npt.NDArray[np.bool_] | None,
        num_classes: int,
    ) -> None:
        self.loss = loss
        self.label_smoothing = label_smoothing
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
    dataset: ClipDataset,
    update: torch.optim.Optimizer,
    criterion: "Criterion",
    *,
    rate_at: Callable[[float], float],
    gradient_clip: float | None,
    mixed_precision: bool,
    device: torch.device,
    epoch: int,
    ranks: Ranks,
) -> dict[str, float]:
    model.train()
    stream = dataset.streams[0]
    quantiser = dataset.quantiser if stream.has_flow else None
    loss_sum, correct, seen, rate = 0.0, 0, 0, 0.0
    for number, batch in enumerate(loader):
        rate = rate_at((number + 0.5) / len(loader))
        for group in update.param_groups:
            group["lr"] = rate
        moved = {stream.name: batch[stream.name].to(device, non_blocking=True)}
        labels: Tensor = batch["label"].to(device, non_blocking=True)
        update.zero_grad(set_to_none=True)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=mixed_precision and device.type == "cuda"
        ):
            logits = model(to_network_input(moved, stream, quantiser))
            if logits.ndim == 3:  # a score per frame, each of which has the clip's label
                labels = labels.repeat_interleave(logits.shape[1])
                batch["index"] = batch["index"].repeat_interleave(logits.shape[1])
                logits = logits.flatten(0, 1)
            loss: Tensor = criterion(logits.float(), labels, batch["index"])
        loss_value = float(ranks.total(loss.detach().clone())) / ranks.world_size
        if not math.isfinite(loss_value):
            raise InvalidArgument(
                f"loss is not finite in epoch {epoch}, at learning rate {rate:g}; lower the "
                "learning rate, or set gradient_clip"
            )
        with noticing_loss():
            loss.backward()  # type: ignore[no-untyped-call]
        if gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        update.step()
        loss_sum += loss_value * len(labels)
        correct += criterion.count_correct(logits, labels, batch["index"])
        seen += len(labels)
    # The loss is that of all processes already.
    correct, seen_by_all = ranks.total(torch.tensor([correct, seen], device=device)).tolist()
    return {"loss": loss_sum / seen, "accuracy": correct / seen_by_all, "learning_rate": rate}
