"""Weights from files and checkpoints into networks, by rule and with a report.

`load_weights` starts a network from weights made elsewhere: another number of input channels or
classes is adapted by rule, any other difference is an error. `load_state` continues a network of
our own: everything must fit. `model_state` returns what `load_state` takes.

Public files are recognised by their names and shapes (`flowpipe.models.weights.origins`) and
converted. Nothing is ever unpickled: `.pth` and its like are read by torch with
`weights_only=True`, and `.safetensors` holds no code. A network is changed only after every tensor
has been checked.
"""

import argparse
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flowpipe.errors import WeightsError, is_refusal
from flowpipe.models.table import TABLE
from flowpipe.models.weights.families import default_parameters, plain
from flowpipe.models.weights.inflation import inflate_filter
from flowpipe.models.weights.origins import Recognised, recognise
from flowpipe.sealed import check_zip

# Keys under which common training scripts keep the state dict of the network.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
# Prefixes that DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
_ENDINGS = (".pth", ".pt", ".pyth", ".pth.tar", ".tar", ".ckpt", ".bin", ".pickle")
# Plain values that training scripts keep beside the tensors; none of them runs code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")),
]
_MANY = 8
# Parameters that change what a network computes and not the names or shapes of its tensors.
VARIANTS = frozenset(
    {
        "alpha",
        "average",
        "bn_eps",
        "head",
        "nonlocal_form",
        "nonlocal_variant",
        "pool1",
        "pool2",
        "slow_frames",
        "stem_pool",
        "stem_time_strides",
        "strides",
        "window",
    }
)
# What a row is given for the weights of an origin: those, and parts that its tensors ask for.
SWITCHED = VARIANTS | {"lateral_norm", "nonlocal_blocks"}


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file and of a network; `str()` is for people.

    Attributes
    ----------
    path
        The file.
    loaded
        Tensors of the network that were copied as they are.
    adapted
        The stem's weight (of each pathway), if it was averaged to another number of channels.
    inflated
        Filters of a 2D network that were copied along time and divided (`inflation`).
    left
        Tensors of the network that keep their initial values.
    unused
        Names in the file, as they stand there, that the network does not have.
    channels
        Input channels (file, network) of an adapted stem, else None.
    classes
        Classes (file, network) of a classifier left as initialised, else None.
    recognised
        What a file of known origin was recognised as, else None.
    """

    path: Path
    loaded: tuple[str, ...]
    adapted: tuple[str, ...] = ()
    inflated: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    channels: tuple[int, int] | None = None
    classes: tuple[int, int] | None = None
    recognised: Recognised | None = None

    def __str__(self) -> str:
        count = len(self.loaded)
        parts = [f"loaded {count} tensor{'' if count == 1 else 's'}"]
        if self.recognised is not None:
            parts.insert(0, self.recognised.summary)
            if self.recognised.note:
                parts.insert(1, self.recognised.note)
            if self.recognised.preprocessing is not None:
                parts.append(f"made for this input: {self.recognised.preprocessing}")
        if self.adapted:
            change = f" {self.channels[0]}→{self.channels[1]} channels" if self.channels else ""
            parts.append(f"adapted {_some(self.adapted)}{change} by averaging")
        if self.inflated:
            parts.append(f"inflated {_some(self.inflated)}")
        if self.left:
            change = f" ({self.classes[0]}→{self.classes[1]} classes)" if self.classes else ""
            parts.append(f"left as initialised {_some(self.left)}{change}")
        if self.unused:
            parts.append(f"unused in the file {_some(self.unused)}")
        return f"{self.path}: {'; '.join(parts)}"


def load_weights(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    rename: Mapping[str, str] | None = None,
    origin: str | None = None,
) -> LoadReport:
    """Start a network from the weights of a file, adapting stem and classifier where needed.

    A stem of three channels (RGB) is fitted to C' channels by cross-modality initialisation [1]:
    the mean of its weights over R, G and B stands for each of the C' channels. As in [1], it is
    **not** rescaled by 3/C', so its responses grow with C'; the batch normalisation or the
    training that follows absorbs it. Filters of a 2D network are inflated where the network's are
    3D (`flowpipe.models.weights.inflation`): a 2D ResNet-50 starts `i3d-resnet50`. A classifier
    of another number of classes, or absent from the file, is left as initialised. Batch counters
    (`num_batches_tracked`), which old files do not have, are left too.

    Parameters
    ----------
    model
        A network with `stem_name` and `classifier_name` (`flowpipe.models.build`); changed in
        place, and not at all if there is an error.
    path
        A state dict as `read_state` takes it, perhaps with a word before all names. Names of a
        known origin are converted; the network must compute as that origin does
        (`variant_parameters`).
    origin
        A name of `ORIGINS`, where several origins have such tensors.
    rename
        Beginnings of names in the file and what they are called in the network, such as
        {"backbone.": ""}; the longest that fits is replaced.

    Returns
    -------
    LoadReport

    Raises
    ------
    WeightsError
        If the file is missing, holds more than tensors, holds values that are not finite, lacks a
        tensor of the network's body, has one of another shape, or nothing in it fits.

    References
    ----------
    [1] Wang et al.: Temporal segment networks, ECCV 2016, doi:10.1007/978-3-319-46484-8_2,
        section 3.2.
    """
    path = Path(path)
    target = model.state_dict()
    originals, recognised = _originals(model, path, rename=rename, origin=origin)
    common = [name for name in target if name in originals]
    if not common:
        raise WeightsError(
            f"{path}: nothing in it fits the network; the file has {_some(originals)}, the network "
            f"has {_some(target)}; choose the network these weights were trained in"
        )
    source = {name: originals[name][1] for name in common}
    odd = [n for n in common if source[n].is_meta or source[n].layout != torch.strided]
    if odd:
        raise WeightsError(
            f"{path}: no plain values in {_some(odd)}, but sparse ones or none at all; save the "
            "state_dict of a network with dense weights"
        )
    whole = [n for n in common if target[n].is_floating_point() > source[n].is_floating_point()]
    if whole:
        raise WeightsError(
            f"{path}: whole numbers in {_some(whole)}, where the network has fractions; take the "
            "weights before they were quantised"
        )
    stems = [f"{name}.weight" for name in stem_names(model)]
    head = f"{_layer_name(model, 'classifier_name')}."
    left = _left_names(target, source, head)
    inflated = _inflate(target, source)
    adapted = [stem for stem in stems if _adaptable(target, source, stem)]
    _refuse_differences(
        f"{path} does not fit the network",
        missing=[name for name in target if name not in source and name not in left],
        unexpected=[],
        shapes=[
            (name, value.shape, target[name].shape)
            for name, value in source.items()
            if value.shape != target[name].shape and name not in left and name not in adapted
        ],
        way_out="choose the network these weights were trained in",
    )
    values = {name: value for name, value in source.items() if name not in left}
    if not values:
        raise WeightsError(
            f"{path}: nothing in it fits the network but a classifier of another number of "
            "classes; choose the network these weights were trained in"
        )
    _refuse_not_finite(path, values)
    for name in adapted:
        values[name] = _average_channels(values[name], target[name].shape[1])
    _copy(target, values)
    return LoadReport(
        path=path,
        loaded=tuple(name for name in values if name not in {*adapted, *inflated}),
        adapted=tuple(adapted),
        inflated=tuple(inflated),
        left=tuple(name for name in target if name in left),
        unused=tuple(raw for name, (raw, _) in originals.items() if name not in target),
        channels=(source[adapted[0]].shape[1], target[adapted[0]].shape[1]) if adapted else None,
        classes=_class_change(target, source, head),
        recognised=recognised,
    )


def classes_of(
    model: nn.Module, path: str | PathLike[str], *, origin: str | None = None
) -> int | None:
    """Return K of the classifier in a file of weights for a network; None if it has none.

    Parameters
    ----------
    model
        With any number of classes, perhaps on the meta device.
    path, origin
        As for `load_weights`.
    """
    originals, _ = _originals(model, Path(path), rename=None, origin=origin)
    found = originals.get(f"{_layer_name(model, 'classifier_name')}.weight")
    return None if found is None else int(found[1].shape[0])


def _originals(
    model: nn.Module, path: Path, *, rename: Mapping[str, str] | None, origin: str | None
) -> tuple[dict[str, tuple[str, Tensor]], Recognised | None]:
    """Return {name in the network: (name in the file, tensor)}, and what the file is."""
    state = read_state(path)
    recognised = None
    if rename is None and (origin is not None or not _fits(model, model.state_dict(), state)):
        recognised = _recognised_for(model, state, path, origin)
    if recognised is None:
        if rename is None:
            state = _without_wrapper(state, model.state_dict())
        return _rename(state, rename or {}, path), None
    return {name: (raw, value) for name, raw, value in converted(recognised, state)}, recognised


def converted(
    recognised: Recognised, state: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield each known tensor of a file: its name in the network, its name there, its values."""
    for raw, name in recognised.names.items():
        value = state[raw]
        order = recognised.columns.get(name)
        yield name, raw, value if order is None else order(value)


def variant_parameters(
    model: str, path: str | PathLike[str], *, origin: str | None = None
) -> dict[str, Any]:
    """Return the parameters with which a row computes as the origin of a file does.

    Empty where the names in the file are the network's own, or its origin is not known.

    Parameters
    ----------
    model
        A name of the table.
    path, origin
        As for `load_weights`.

    Raises
    ------
    WeightsError
        If the file cannot be read, its origin is ambiguous, or it is of another architecture.
    """
    state = read_state(path)
    try:
        recognised = recognise(shapes_of(state), where=str(path), origin=origin)
    except WeightsError:
        if origin is not None:
            raise
        return {}
    row = TABLE.get(model)
    if row is None or row.callable != TABLE[recognised.model].callable:
        return {}
    wanted = {**TABLE[recognised.model].parameters, **recognised.parameters}
    defaults = default_parameters(row.callable)
    has = {**defaults, **row.parameters}
    return {
        key: value
        for key, value in {**defaults, **wanted}.items()
        if key in SWITCHED and plain(value) != plain(has.get(key))
    }


def _fits(model: nn.Module, target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether a file has all tensors of a network's body under the network's own names."""
    head = f"{_layer_name(model, 'classifier_name')}."
    return all(
        name in state
        for name in target
        if not name.startswith(head) and not name.endswith(".num_batches_tracked")
    )


def _recognised_for(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, origin: str | None
) -> Recognised | None:
    """Recognise a file for a network that was built; None if no origin is known."""
    try:
        recognised = recognise(shapes_of(state), where=str(path), origin=origin)
    except WeightsError:
        if origin is not None:
            raise
        return None
    target = model.state_dict()
    if not any(name in target for name in recognised.names.values()):
        return None
    defaults = default_parameters(TABLE[recognised.model].callable)
    wanted = {**defaults, **TABLE[recognised.model].parameters, **recognised.parameters}
    has = {**defaults, **getattr(model, "build_parameters", wanted)}
    differing = {
        key: (value, has[key])
        for key, value in wanted.items()
        if key in VARIANTS and plain(value) != plain(has[key])
    }
    if differing:
        told = ", ".join(
            f"{key} {value!r}, not {ours!r}" for key, (value, ours) in differing.items()
        )
        raise WeightsError(
            f"{path}: these are weights of {recognised.summary}, which computes otherwise than the "
            f"network: {told}; give the network these parameters"
        )
    return recognised


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name."""
    return {name: tuple(value.shape) for name, value in state.items()}


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a network to main memory, under the names of the bare network.

    The prefixes of DistributedDataParallel and torch.compile are taken off, so that a checkpoint
    does not depend on how the network was run.
    """
    return _strip_prefixes(
        {
            name: value.detach().to("cpu", copy=True)
            for name, value in model.state_dict(keep_vars=True).items()
        }
    )


def load_state(model: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Put a state back into the network it came from; every tensor must fit.

    Parameters
    ----------
    model
        Changed in place, and not at all if there is an error.
    state
        What `model_state` gave.
    where
        Where the state comes from, for the message, such as the path of the checkpoint.

    Raises
    ------
    WeightsError
        If a tensor is missing, unexpected or of another shape.
    """
    check_state(model, state, where=where)
    _copy(_strip_prefixes(model.state_dict()), _strip_prefixes(_tensors(state)))


def check_state(model: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Raise the errors of `load_state`, and change nothing; the network may be on "meta"."""
    values = _strip_prefixes(_tensors(state))
    target = _strip_prefixes(model.state_dict())
    if len(values) != len(state):
        strangers = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
        raise WeightsError(f"{where}: not tensors: {_some(strangers)}; a state has tensors only")
    _refuse_differences(
        f"{where} does not fit the network",
        missing=[name for name in target if name not in values],
        unexpected=[name for name in values if name not in target],
        shapes=[
            (name, value.shape, target[name].shape)
            for name, value in values.items()
            if name in target and value.shape != target[name].shape
        ],
        way_out="build the network with the parameters of the run that wrote this state",
    )


def read_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a file into main memory; half precision becomes float32.

    Parameters
    ----------
    path
        A state dict as torch saves it (.pth, .pt, .pyth, .pth.tar, .ckpt, .bin) or .safetensors;
        also within {"state_dict": …}, {"model_state": …} or {"model": …}, and with "module." (of
        DistributedDataParallel) before every name.

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, damaged, or holds more than tensors and plain
        values.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; weights are a .pth, .pt or .safetensors file")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif path.suffix == ".pkl":
        raise WeightsError(f"{path}: {_PICKLE}")
    elif path.suffix in _ENDINGS:
        content = _read_torch(path)
    else:
        raise WeightsError(
            f'{path}: ending "{path.suffix}" must be one of {", ".join(_ENDINGS[:4])}, .ckpt, .bin '
            "or .safetensors; rename the file, or save it as one of them"
        )
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = _tensors(content) if isinstance(content, Mapping) else {}
    if not tensors:
        raise WeightsError(
            f"{path}: holds no named tensors but a {type(content).__name__}; save the network's "
            "state_dict()"
        )
    half = (torch.float16, torch.bfloat16)
    return {
        name: value.float() if value.dtype in half else value
        for name, value in _strip_prefixes(tensors).items()
    }


_PICKLE = (
    "a pickle can run any code and is not read; where you trust it, convert it once: "
    'python -c "import pickle, sys, torch; '
    "d = pickle.load(open(sys.argv[1], 'rb'), encoding='latin1'); d = d.get('blobs', d); "
    "torch.save({k: torch.as_tensor(v) for k, v in d.items() if hasattr(v, 'shape')}, "
    'sys.argv[2])" FILE.pkl FILE.pth'
)


def _without_wrapper(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off a word before every name, as of a trainer that holds the network as its `model`."""
    words = {name.partition(".")[0] for name in state}
    if len(words) != 1 or not state.keys().isdisjoint(target):
        return state
    inner = {name.partition(".")[2]: value for name, value in state.items()}
    return state if inner.keys().isdisjoint(target) else inner


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open("rb").close()  # safetensors' own errors do not say why
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        _refuse_unreadable(path, error)
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); fetch it again"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        check_zip(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, because it is damaged or holds Python objects other than tensors, "
            "and loading those could run any code; save only the network's state_dict(), or "
            "convert it to .safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        _refuse_unreadable(path, error)
        # What torch raises for a cut-off or foreign file depends on where the bytes end.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: not a readable torch file ({reason}); fetch it again"
        ) from error


def _refuse_unreadable(path: Path, error: Exception) -> None:
    """Raise WeightsError where the system refuses a file, which says nothing of its content."""
    if is_refusal(error):
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _strip_prefix(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Only when every name has one: a network may have a layer called "module".
    if all(name.startswith(_PREFIXES) for name in tensors):
        return {_strip_prefix(name): value for name, value in tensors.items()}
    return tensors


def _rename(
    state: Mapping[str, Tensor], rename: Mapping[str, str], path: Path
) -> dict[str, tuple[str, Tensor]]:
    """Return {name in the network: (name in the file, tensor)}."""
    for beginning in rename:
        if not any(name.startswith(beginning) for name in state):
            raise WeightsError(
                f'{path}: no tensor begins with "{beginning}", which rename speaks of; '
                f"the file has {_some(state)}"
            )
    renamed: dict[str, tuple[str, Tensor]] = {}
    for raw, value in state.items():
        beginning = max((old for old in rename if raw.startswith(old)), key=len, default="")
        name = rename.get(beginning, "") + raw[len(beginning) :]
        if name in renamed:
            raise WeightsError(
                f'{path}: rename calls both "{renamed[name][0]}" and "{raw}" "{name}"; '
                "every tensor needs a name of its own"
            )
        renamed[name] = (raw, value)
    return renamed


def stem_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all layers that see the input: two where there are two pathways."""
    others: tuple[str, ...] = getattr(model, "other_stem_names", ())
    return (_layer_name(model, "stem_name"), *others)


def _layer_name(model: nn.Module, attribute: str) -> str:
    name = getattr(model, attribute, None)
    if not isinstance(name, str):
        raise WeightsError(
            f"{type(model).__name__} has no {attribute}; set it to the dotted name of a layer, "
            "as flowpipe.models describes"
        )
    return name


def _left_names(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], head: str
) -> frozenset[str]:
    """Names of the network that may keep their initial values."""
    names = [name for name in target if name.startswith(head)]
    # Both or neither: a bias belongs to the classes of its weight.
    whole = all(name in source and source[name].shape == target[name].shape for name in names)
    other_classes = all(
        name not in source or source[name].shape[1:] == target[name].shape[1:] for name in names
    )
    left = [] if whole or not other_classes else names
    left += [n for n in target if n.endswith(".num_batches_tracked") and n not in source]
    return frozenset(left)


def _class_change(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], head: str
) -> tuple[int, int] | None:
    weight = f"{head}weight"
    if weight not in source or source[weight].shape == target[weight].shape:
        return None
    return source[weight].shape[0], target[weight].shape[0]


def _inflate(target: Mapping[str, Tensor], source: dict[str, Tensor]) -> list[str]:
    """Inflate the filters of `source` that are 3D in `target`; return their names."""
    names = [
        name
        for name, value in source.items()
        if value.ndim == 4 and target[name].ndim == 5 and value.shape[2:] == target[name].shape[3:]
    ]
    for name in names:
        source[name] = inflate_filter(source[name], target[name].shape[2])
    return names


def _adaptable(target: Mapping[str, Tensor], source: Mapping[str, Tensor], stem: str) -> bool:
    if stem not in source:
        return False
    ours, theirs = target[stem].shape, source[stem].shape
    fits = len(ours) == len(theirs) > 1 and theirs[1] == 3 != ours[1]
    same_otherwise = ours[:1] == theirs[:1] and ours[2:] == theirs[2:]
    return fits and same_otherwise


def _average_channels(weight: Tensor, in_channels: int) -> Tensor:
    repeats = [1] * weight.dim()
    repeats[1] = in_channels
    return weight.mean(dim=1, keepdim=True).repeat(repeats)


def _refuse_differences(
    opening: str,
    *,
    missing: list[str],
    unexpected: list[str],
    shapes: list[tuple[str, torch.Size, torch.Size]],
    way_out: str,
) -> None:
    parts = []
    if missing:
        parts.append(f"missing {_some(missing)}")
    if unexpected:
        parts.append(f"unexpected {_some(unexpected)}")
    if shapes:
        lines = [f"{name} is {_shape(theirs)}, not {_shape(ours)}" for name, theirs, ours in shapes]
        parts.append(f"other shapes: {_some(lines)}")
    if parts:
        raise WeightsError(f"{opening}: {'; '.join(parts)}; {way_out}")


def _refuse_not_finite(path: Path, values: Mapping[str, Tensor]) -> None:
    broken = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(
            f"{path}: NaN or infinity in {_some(broken)}; the training that made these weights "
            "broke down, or the file is damaged"
        )


def _copy(target: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            target[name].copy_(value)


def _shape(shape: torch.Size) -> str:
    return "×".join(map(str, shape)) or "a single number"


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MANY} more" if len(every) > _MANY else ""
    return ", ".join(every[:_MANY]) + more
