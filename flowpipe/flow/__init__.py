"""Dense optical flow: a table of methods, `create(name)(prev, next)`."""

import inspect
from collections.abc import Callable
from typing import Any

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.method import BatchFlowMethod, FlowMethod, checked_method
from flowpipe.registry import resolve

FLOWS = {
    "tvl1": "flowpipe.flow.tvl1:build",
    "tvl1-nomedian": "flowpipe.flow.tvl1:build_nomedian",
    "tvl1-fast": "flowpipe.flow.tvl1:build_fast",
    "opencv-tvl1": "flowpipe.flow.opencv_tvl1:build",
    "farneback": "flowpipe.flow.farneback:build",
    "dis": "flowpipe.flow.dis:build",
}

# Methods that compute many pairs at once on a GPU, by the same names; they need PyTorch.
BATCHED = {
    "tvl1": "flowpipe.flow.tvl1_torch:build",
    "tvl1-nomedian": "flowpipe.flow.tvl1_torch:build_nomedian",
    "tvl1-fast": "flowpipe.flow.tvl1_torch:build_fast",
}


def create(name: str, /, **parameters: Any) -> FlowMethod:
    """Make a flow method.

    Parameters
    ----------
    name : str
        A name of `FLOWS`, or `package.module:callable`, a factory of FlowMethod objects.
    **parameters
        Of the method; what is left out has the published value.

    Returns
    -------
    FlowMethod
        Takes two grey uint8 H×W frames, gives float32 H×W×2 px.

    Raises
    ------
    UnknownName
        For a name that is in no table and does not import.
    InvalidArgument
        For a parameter the method does not have, or a value outside its rule.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.zeros((64, 64), np.uint8)
    >>> create("dis", preset="fast")(frame, frame).shape
    (64, 64, 2)
    """
    factory = resolve(FLOWS, name, kind="flow method")
    _check_parameters(factory, name, parameters)
    return checked_method(factory(**parameters), name)


def create_batched(name: str, device: str, /, **parameters: Any) -> BatchFlowMethod:
    """Make the form of a method that computes many pairs at once.

    Parameters
    ----------
    name : str
        A name of `BATCHED`.
    device : str
        Of PyTorch, such as "cuda".
    **parameters
        Of the method on the CPU, and those that only the batched form has.

    Raises
    ------
    InvalidArgument
        For a method without such a form, a parameter it does not have, or a value outside its
        rule.
    """
    if name not in BATCHED:
        raise InvalidArgument(
            f'flow "{name}" has no form for a GPU; use device cpu, or one of {", ".join(BATCHED)}'
        )
    factory = resolve(BATCHED, name, kind="flow method")
    _check_parameters(factory, name, parameters)
    method: BatchFlowMethod = factory(**parameters)
    return method.on(device)


def _check_parameters(factory: Callable[..., Any], name: str, given: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none
        return
    known = signature.parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    unknown = [key for key in given if key not in known]
    if unknown and not open_ended:
        raise InvalidArgument(
            f'flow "{name}" has no parameter "{unknown[0]}"{nearest_name(unknown[0], known)}; '
            f"it has: {', '.join(known) or 'none'}"
        )
    try:
        signature.bind(**given)
    except TypeError as error:
        raise InvalidArgument(
            f'flow "{name}": {error}; a flow method must be made from keyword parameters alone'
        ) from error


__all__ = ["BATCHED", "FLOWS", "BatchFlowMethod", "FlowMethod", "create", "create_batched"]
