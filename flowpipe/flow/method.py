"""What a flow method is, and the checks that every method shares."""

import json
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError


@runtime_checkable
class FlowMethod(Protocol):
    """Two grey frames → dense flow.

    Attributes
    ----------
    name : str
        As in the table `FLOWS`.
    version : int
        Raised whenever a change alters values.
    parameters : dict
        Plain JSON values that, with name, version and libraries, determine the output.
    libraries : dict
        Versions of the libraries that compute, such as {"opencv": "5.0.0"}.
    """

    name: str
    version: int
    parameters: dict[str, Any]
    libraries: dict[str, str]

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Give `uv_HWC`, float32 px on the grid of the earlier frame; channel 0 = x, 1 = y."""
        ...


class OpenCVFlow:
    """Checks and bookkeeping shared by the methods that OpenCV computes."""

    name: str
    version = 1
    least_side_px = 1

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self.libraries = {"opencv": cv2.__version__}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow of two grey uint8 frames of the same size.

        Raises
        ------
        FlowError
            For frames of another type, of different sizes or too small, and for a broken result.
        """
        prev_HW, next_HW = checked_pair(prev_HW, next_HW, self.least_side_px, self.name)
        return checked_flow(self._compute(prev_HW, next_HW), prev_HW.shape, self.name)

    def _compute(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> Any:
        raise FlowError(f"{type(self).__name__} computes nothing")


def checked_pair(
    prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8], least_side_px: int, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Refuse frames a method cannot take; give them contiguous."""
    for frame in (prev_HW, next_HW):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 2:
            told = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}"
            raise FlowError(f"{name} takes grey uint8 frames of H×W, not {told}")
    if prev_HW.shape != next_HW.shape:
        raise FlowError(f"{name}: frames of {prev_HW.shape} and {next_HW.shape} must be one size")
    height, width = prev_HW.shape
    if min(height, width) < least_side_px:
        raise FlowError(
            f"frames of {height}×{width} px are too small for {name}, which needs "
            f"{least_side_px} px on each side; enlarge them with --short-side {least_side_px}"
        )
    return np.ascontiguousarray(prev_HW), np.ascontiguousarray(next_HW)


def checked_flow(flow: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """Refuse a result that is not finite float32 H×W×2."""
    if not isinstance(flow, np.ndarray) or flow.shape != (*shape, 2) or flow.dtype != np.float32:
        told = f"{getattr(flow, 'dtype', type(flow).__name__)} {getattr(flow, 'shape', '')}"
        raise FlowError(f"{name} gave {told}, not float32 {(*shape, 2)}")
    if not np.isfinite(flow).all():
        raise FlowError(f"{name} gave displacements that are not finite")
    return flow


def checked_method(made: Any, name: str) -> FlowMethod:
    """Refuse what a plug-in's factory gave if it is no FlowMethod."""
    for attribute, kind in (("name", str), ("version", int), ("parameters", dict)):
        if not isinstance(getattr(made, attribute, None), kind):
            raise FlowError(
                f'flow "{name}" gave {made!r:.60}, whose .{attribute} is no {kind.__name__}; '
                "the callable must be a factory of objects like flowpipe.flow.FlowMethod"
            )
    if not callable(made):
        raise FlowError(f'flow "{name}" gave {made!r:.60}, which cannot be called with two frames')
    if not isinstance(getattr(made, "libraries", None), dict):
        raise FlowError(f'flow "{name}": .libraries must be a dict of versions; {{}} for none')
    try:
        json.dumps([made.parameters, made.libraries], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FlowError(f'flow "{name}": parameters must be plain JSON values ({error})') from error
    return made  # type: ignore[no-any-return]
