"""Checkpoints: weights, optimiser, settings and history of a training, whole or absent.

They hold tensors and plain values only and are read with `weights_only=True`.
"""

import errno
import importlib.util
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowpipe.atomic import write_aside
from flowpipe.errors import WeightsError, is_refusal
from flowpipe.models.weights import load_state, model_state
from flowpipe.sealed import CHECKSUM, SEALED, check_zip, sealed_line
from flowpipe.training.options import TrainOptions

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
# Differences of digests, in words.
UNSPEAKABLE = {
    "videos.digest": "other training videos, or other labels or contents of them",
    "weights": "other initial weights",
    "held_out": "other videos held out",
}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    update: torch.optim.Optimizer | None,
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    best: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint; without an optimiser for what is fitted at once.

    `best` are the weights of the best epoch, where a validation chose one: those that count.
    """
    others: dict[str, Any] = {}
    if update is not None:
        others["optimiser"] = update.state_dict()
    if best is not None:
        others["best"] = dict(best)
    save_tensors(path, model_state(model), settings, history, **others)


def save_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    **others: Any,
) -> None:
    """Write tensors as the checkpoint of a network."""
    content = {
        "model": dict(tensors),
        # As text: what weights_only reads must be tensors and plain values.
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "history": json.dumps(list(history)),
        **others,
    }
    with write_aside(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of torch's own writer, where the disk takes half of it
            told = "cannot be written whole; is the disk full?"
            raise OSError(errno.EIO, told, str(path)) from error


def load_checkpoint(
    path: Path, model: nn.Module, update: torch.optim.Optimizer | None, settings: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Load a checkpoint into model and optimiser, and return its history; None without one.

    Raises
    ------
    WeightsError
        If it is unreadable, of other settings, or of another network.
    """
    if not path.is_file():
        return None
    content, saved, history = _read_checkpoint(path)
    check_same(path, saved, settings)
    load_state(model, content["model"], where=str(path))
    if update is not None:
        try:
            update.load_state_dict(content["optimiser"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{path}: its optimiser does not fit ({error}); delete it to train anew"
            ) from error
    return history


def read_model(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint's weights into a network and return its settings.

    Raises
    ------
    WeightsError
        If there is none, or it is of another network.
    """
    content, settings, _ = _read_checkpoint(path)
    load_state(model, content.get("best", content["model"]), where=str(path))
    return settings


def check_room(networks: Mapping[Path, nn.Module]) -> None:
    """Refuse networks, made on the device meta, of more weights than their checkpoints hold.

    Settings are a text, in which one may ask for any size.

    Raises
    ------
    WeightsError
        If they are of other networks.
    """
    for path, network in networks.items():
        wanted = sum(p.numel() * p.element_size() for p in network.parameters())
        if path.is_file() and wanted > (size := path.stat().st_size):
            raise WeightsError(
                f"{path} has {size:,} bytes, and the settings of its run ask for {wanted:,} of "
                "weights: they are of another network; copy the run anew"
            )


def read_best(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the weights of the best epoch so far, None where no validation chose one."""
    return _read_checkpoint(path)[0].get("best") if path.is_file() else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors that count: of the best epoch, or of the last."""
    content, _, _ = _read_checkpoint(path)
    weights: dict[str, torch.Tensor] = content.get("best", content["model"])
    return weights


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the tensors and the history of a checkpoint that is of no network."""
    content, _, history = _read_checkpoint(path)
    return content["model"], history


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of a checkpoint, None where there is none."""
    return _read_checkpoint(path, mmap=True)[1] if path.is_file() else None


def check_same(
    path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any], *, whole: bool = True
) -> None:
    """Refuse a checkpoint of other settings, with WeightsError that names each difference.

    With `whole` false, and of an older checkpoint, only what both name is compared.
    """
    former = isinstance(saved.get("train"), str)
    old = _flat(_renewed(saved) if former else saved)
    new = _flat(json.loads(json.dumps(wanted, default=str)))
    # An option that there was not yet had the value that is its default now.
    defaults = json.loads(json.dumps(TrainOptions().learnt()))
    old = {key: value for key, value in defaults.items() if key in new} | old
    keys = {*old, *new} if whole and not former else old.keys() & new.keys()
    differing = sorted(key for key in keys if old.get(key) != new.get(key))
    if differing:
        message = ", ".join(
            UNSPEAKABLE.get(key, f"{key} {old.get(key)!r} → {new.get(key)!r}") for key in differing
        )
        raise WeightsError(
            f"{path} was trained with other settings ({message}); choose another folder, or "
            "delete the checkpoint to train anew",
            parameter="out",
        )


def _renewed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint of version 0.1, which says less, as they are now."""
    train, stream, extract = (json.loads(saved[key]) for key in ("train", "stream", "extract"))
    own = {key: stream.pop(key) for key in ("epochs", "learning_rate", "clips_per_video")}
    del stream["weights"], extract["workers"], extract["codec"]
    clips = own["clips_per_video"] or train["clips_per_video"]
    others = {key: saved[key] for key in saved.keys() - {"train", "videos"}}
    return {
        **train,
        **others,
        "clips_per_video": clips,
        "stream": stream,
        "extract": extract,
        "videos": {"count": saved["videos"]},
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _read_checkpoint(
    path: Path, *, mmap: bool = False
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return (content, settings, history), each of the kind that `save_checkpoint` wrote.

    With `mmap` the weights stay on the disk.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; flowpipe train makes one")
    try:
        check_zip(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        settings, history = json.loads(content["settings"]), json.loads(content["history"])
        if (
            isinstance(content["model"], dict)
            and isinstance(content.setdefault("optimiser", {}), dict)
            and isinstance(content.get("best", {}), dict)
            and isinstance(settings, dict)
            and isinstance(history, list)
        ):
            return content, settings, history
        reason = "other content"
    except pickle.UnpicklingError:
        # torch's own text advises to load the file regardless.
        reason = "damaged, or with Python objects, which are never loaded"
    # Of a damaged file torch raises whatever it meets, assertions included.
    except Exception as error:
        if is_refusal(error):
            raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise WeightsError(
        f"{path} is no checkpoint of flowpipe, or a damaged one ({reason}); delete it to train anew"
    )


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the history as JSON lines, whole: a resumed run has no line twice."""
    with write_aside(path) as file:
        file.writelines(sealed_line({**record, SEALED: CHECKSUM}) for record in history)


def open_board(folder: Path, epochs_done: int) -> Any:
    """Return TensorBoard's writer, which hides what a killed run wrote later; None without it."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs_done + 1)
