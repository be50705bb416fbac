"""Dense optical flow: a table of methods, `create(name)(prev, next)`."""

import inspect
from collections.abc import Callable
from typing import Any

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.method import FlowMethod, checked_method
from flowpipe.registry import resolve

FLOWS = {
    "tvl1": "flowpipe.flow.tvl1:build",
    "tvl1-nomedian": "flowpipe.flow.tvl1:build_nomedian",
    "tvl1-fast": "flowpipe.flow.tvl1:build_fast",
    "opencv-tvl1": "flowpipe.flow.opencv_tvl1:build",
    "farneback": "flowpipe.flow.farneback:build",
    "dis": "flowpipe.flow.dis:build",
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


__all__ = ["FLOWS", "FlowMethod", "create"]
