"""Dense optical flow: a table of methods, `create(name)(prev, next)`."""

from typing import Any

from flowpipe import registry
from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import BatchFlowMethod, FlowMethod

FLOWS = {
    "tvl1": "flowpipe.flow.tvl1:build",
    "tvl1-nomedian": "flowpipe.flow.tvl1:build_nomedian",
    "tvl1-fast": "flowpipe.flow.tvl1:build_fast",
    "opencv-tvl1": "flowpipe.flow.opencv_tvl1:build",
    "farneback": "flowpipe.flow.farneback:build",
    "dis": "flowpipe.flow.dis:build",
    "dis+tvl1": "flowpipe.flow.refined:dis",
    "gmflow": "flowpipe.flow.gmflow:build",
    "gmflow+tvl1": "flowpipe.flow.refined:gmflow",
    "raft": "flowpipe.flow.raft:build",
    "raft-small": "flowpipe.flow.raft:build_small",
    "raft+tvl1": "flowpipe.flow.refined:raft",
    "codec": "flowpipe.flow.codec:build",
}

# Methods that compute many pairs at once on a GPU, by the same names; they need PyTorch.
BATCHED = {
    "tvl1": "flowpipe.flow.tvl1_torch:build",
    "tvl1-nomedian": "flowpipe.flow.tvl1_torch:build_nomedian",
    "tvl1-fast": "flowpipe.flow.tvl1_torch:build_fast",
    "gmflow": "flowpipe.flow.gmflow:build",
    "raft": "flowpipe.flow.raft:build",
    "raft-small": "flowpipe.flow.raft:build_small",
}


def create(name: str, /, **parameters: Any) -> FlowMethod:
    """Make a flow method.

    Parameters
    ----------
    name : str
        A name of `FLOWS`; NAME+tvl1, the flow of any of them refined by TV-L1; or your own as
        `package.module:callable`: a function of two frames, or a factory of FlowMethod objects.
    **parameters
        Of the method; what is left out has the published value.

    Returns
    -------
    FlowMethod
        Takes two grey uint8 H×W frames (or what its `takes` says), returns float32 H×W×2 px.

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
    if name.endswith("+tvl1") and name not in FLOWS:
        from flowpipe.flow import refined

        return refined.build(name.removesuffix(refined.SUFFIX), **parameters)
    if ":" in name:
        from flowpipe.flow.plugin import make_plugin

        return make_plugin(registry.resolve(FLOWS, name, kind="flow method"), name, parameters)
    method: FlowMethod = registry.create(FLOWS, name, parameters, kind="flow method")
    return method


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
    method: BatchFlowMethod = registry.create(BATCHED, name, parameters, kind="flow method")
    return method.on(device)


__all__ = ["BATCHED", "FLOWS", "BatchFlowMethod", "FlowMethod", "create", "create_batched"]
