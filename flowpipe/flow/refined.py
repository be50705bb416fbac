"""START+tvl1: the flow of any method as the start of the project's TV-L1, which refines it.

A start that is right to a pixel or two leaves TV-L1 only the finest levels and few warps, where its
sub-pixel accuracy comes from; a zero start needs a deep pyramid and loses what is small and fast.
Errors of the start that TV-L1's coarsest level can reach are mended there, and so is the motion
that a start sees in the noise of a still scene: TV-L1 smooths it away before the first warp.
Parameters of the start have the prefix `start_`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import FlowMethod, RecordMethod, factory, grey_of, takes
from flowpipe.flow.tvl1 import TVL1
from flowpipe.flow.tvl1_parameters import TVL1Parameters
from flowpipe.registry import check_parameters

SUFFIX = "+tvl1"
PREFIX = "start_"
VERSION = "start_version"

SHORT = {"scales": 3, "scale_step": 0.5, "warps": 3, "outer_iterations": 1}
"""After a start that is right to a pixel or two: the best of those in a third of `tvl1`'s time."""

FINEST = {"scales": 1}
"""After a start that coarse levels would spoil."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # DIS's own refinement is what TV-L1 does better.
    "dis": {**SHORT, "start_preset": "fast"},
    "gmflow": FINEST,
    "raft": FINEST,
}


class RefinedTVL1(RecordMethod):
    """TV-L1 from the flow of another method; it takes the frames that the other takes."""

    version = TVL1.version

    def __init__(self, start: FlowMethod, record: TVL1Parameters, name: str) -> None:
        super().__init__(record, name)
        kind = takes(start)
        self.start, self.takes = start, "frame" if kind == "vectors" else kind
        self.parameters[VERSION] = start.version
        self.parameters |= {f"{PREFIX}{key}": value for key, value in start.parameters.items()}
        self.libraries = dict(start.libraries)
        self.refiner = TVL1(record, name)

    def __call__(self, prev_HW: Any, next_HW: Any) -> NDArray[np.float32]:
        """Compute the flow of two frames of the same size."""
        start_HWC = self.start(prev_HW, next_HW)
        return self.refiner.solve(grey_of(prev_HW), grey_of(next_HW), start_HWC)[0]


def build(start: str, /, **parameters: Any) -> RefinedTVL1:
    """Make START+tvl1 from parameters of TV-L1, and of the start with the prefix `start_`.

    Raises
    ------
    UnknownName
        For a start that is no flow method.
    InvalidArgument
        For a parameter that neither has, a value outside its rule, or a start of another version
        than the one whose flow the parameters describe.
    """
    from flowpipe.flow import create

    name = start + SUFFIX
    defaults = DEFAULTS.get(start, SHORT)
    of_start = {key: value for key, value in defaults.items() if key.startswith(PREFIX)}
    of_start |= {key: value for key, value in parameters.items() if key.startswith(PREFIX)}
    version = of_start.pop(VERSION, None)
    begin = create(start, **{key.removeprefix(PREFIX): of_start[key] for key in of_start})
    if version not in (None, begin.version):
        raise InvalidArgument(
            f'flow "{name}": {start} was of version {version}, here it is {begin.version}; '
            "compute the flow anew"
        )
    make = factory(
        functools.partial(RefinedTVL1, begin),
        TVL1Parameters,
        name,
        **{key: value for key, value in defaults.items() if not key.startswith(PREFIX)},
    )
    given = {key: value for key, value in parameters.items() if not key.startswith(PREFIX)}
    check_parameters(make, name, given, kind="flow method")
    return make(**given)


def _row(start: str) -> Callable[..., RefinedTVL1]:
    return functools.partial(build, start)


dis = _row("dis")
gmflow = _row("gmflow")
raft = _row("raft")
