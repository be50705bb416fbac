"""Dense optical flow: a table of methods, `create(name)(prev, next)`."""

import inspect
from typing import Any

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.method import FlowMethod, checked_method
from flowpipe.registry import resolve

FLOWS = {
    "tvl1": "flowpipe.flow.opencv_tvl1:build_tvl1",
    "opencv-tvl1": "flowpipe.flow.opencv_tvl1:build",
    "farneback": "flowpipe.flow.farneback:build",
    "dis": "flowpipe.flow.dis:build",
}


def create(name: str, **parameters: Any) -> FlowMethod:
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
    known = inspect.signature(factory).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        for key in parameters:
            if key not in known:
                raise InvalidArgument(
                    f'flow "{name}" has no parameter "{key}"{nearest_name(key, known)}; '
                    f"it has: {', '.join(known) or 'none'}"
                )
    return checked_method(factory(**parameters), name)


__all__ = ["FLOWS", "FlowMethod", "create"]
