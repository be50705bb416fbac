"""A network from a file of weights alone: what it is, is recognised by the file's tensors."""

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowpipe.errors import WeightsError
from flowpipe.models import TABLE, build
from flowpipe.models.layers import Undrawn
from flowpipe.models.weights.origins import Recognised, recognise
from flowpipe.models.weights.reading import converted, read_state, shapes_of, stem_names


def load_network(
    path: str | PathLike[str], origin: str | None = None, **parameters: Any
) -> nn.Module:
    """Load a public or own checkpoint as the network it belongs to, in evaluation mode.

    Parameters
    ----------
    path
        A file of weights (see `flowpipe.models.weights.read_state`), with its authors' names.
    origin
        A name of `flowpipe.models.weights.ORIGINS`, where several origins have the same names and
        shapes; the error says so.
    **parameters
        Of the network, in place of those that its origin computes with, such as
        `head="windows-softmax"`.

    Returns
    -------
    nn.Module
        Maps a batch to logits B×K, with its own classifier. Attributes: `input_layout` (axes of
        one sample: "CHW", "CTHW" or "TCHW"), `num_classes`, `in_channels`, `model` (row of the
        table), `origin`, `preprocessing` (a record, or None), `weights_sha256`, and `report`
        (what it was recognised as, and what was left).

    Raises
    ------
    UnknownName
        If there is no such origin.
    WeightsError
        If the file cannot be read, its origin is not known or ambiguous, or tensors are missing
        or of other shapes.

    Examples
    --------
    >>> network = load_network("SLOWFAST_8x8_R50.pyth")  # doctest: +SKIP
    >>> print(network.report)  # doctest: +SKIP
    PySlowFast slowfast-8x8-r50, 400 classes, 3 channels; 662 tensors
    """
    path = Path(path)
    network = network_of(read_state(path), where=str(path), origin=origin, **parameters)
    network.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[assignment]
    return network


def network_of(
    state: Mapping[str, Tensor], *, where: str, origin: str | None = None, **parameters: Any
) -> nn.Module:
    """Return the network that tensors under their authors' names belong to, as `load_network`."""
    recognised = recognise(shapes_of(state), where=where, origin=origin)
    values = {name: value for name, _, value in converted(recognised, state)}
    network = build_recognised(recognised, values, **parameters)
    target = network.state_dict()
    head = f"{network.classifier_name}."
    missing = [n for n in target if n not in values and not n.endswith(".num_batches_tracked")]
    without_head = bool(missing) and all(name.startswith(head) for name in missing)
    wrong = [n for n in target if n in values and values[n].shape != target[n].shape]
    if wrong or (missing and not without_head):
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [
            f"{n} is {tuple(values[n].shape)}, not {tuple(target[n].shape)}" for n in wrong[:4]
        ]
        raise WeightsError(
            f"{where}: recognised as {recognised.summary}, but {'; '.join(parts)}; is the file "
            "whole, and of this network?"
        )
    complete = {}
    for name, empty in target.items():
        value = values.get(name)
        # A classifier that is not there, and batch counters, which old files do not have.
        complete[name] = (
            torch.zeros(empty.shape, dtype=empty.dtype) if value is None else value.to(empty.dtype)
        )
    network.load_state_dict(complete, assign=True)
    left = [name for name in state if recognised.names.get(name) not in target]
    _describe(network, recognised, left=left, without_head=without_head)
    return network.requires_grad_(True).eval()


def build_recognised(
    recognised: Recognised, values: Mapping[str, Tensor], **parameters: Any
) -> nn.Module:
    """Build the network of a recognised file on the meta device, for its channels and classes."""
    given = {**recognised.parameters, **parameters}
    # Other packages' networks may have tables that are no part of their state.
    device = "cpu" if TABLE[recognised.model].needs else "meta"
    with torch.device(device), Undrawn():
        network = build(recognised.model, num_classes=2, **given)
        stem = values.get(f"{stem_names(network)[0]}.weight")
        classifier = values.get(f"{network.classifier_name}.weight")
        classes = TABLE[recognised.model].num_classes if classifier is None else len(classifier)
        channels = 3 if stem is None else stem.shape[1]
        return build(recognised.model, num_classes=classes, in_channels=channels, **given)


def _describe(
    network: nn.Module,
    recognised: Recognised,
    *,
    left: list[str],
    without_head: bool,
) -> None:
    """Set the attributes that `load_network` promises."""
    channels = network.get_submodule(stem_names(network)[0]).weight.shape[1]  # type: ignore[index]
    classes = len(network.get_submodule(str(network.classifier_name)).weight)  # type: ignore[arg-type]
    parts = [
        f"{recognised.summary}, {classes} classes, {channels} channels; "
        f"{len(network.state_dict())} tensors"
    ]
    if without_head:
        parts.append(f"no classifier in the file: {network.classifier_name} is zero")
    if left:
        parts.append(f"left in the file: {_some(left)}")
    if recognised.note:
        parts.append(recognised.note)
    facts = {
        "model": recognised.model,
        "origin": recognised.origin,
        "preprocessing": recognised.preprocessing,
        "num_classes": classes,
        "in_channels": channels,
        "report": "; ".join(parts),
    }
    for name, value in facts.items():
        setattr(network, name, value)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
