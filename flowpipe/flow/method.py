"""What a flow method is, and the checks that every method shares."""

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError, InvalidArgument

if TYPE_CHECKING:
    # Flow of arrays works where PyAV is not installed.
    from flowpipe.video.reader import Frame

Made = TypeVar("Made")


@runtime_checkable
class FlowMethod(Protocol):
    """Two frames → dense flow.

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
    takes : str, optional
        "grey" (the default), "rgb" for uint8 H×W×3, or "frame" for `flowpipe.video.Frame`.
    """

    name: str
    version: int
    parameters: dict[str, Any]
    libraries: dict[str, str]

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return `uv_HWC`, float32 px on the grid of the earlier frame; channel 0 = x, 1 = y."""
        ...


@runtime_checkable
class BatchFlowMethod(FlowMethod, Protocol):
    """A method that computes many pairs at once, as on a GPU.

    Attributes
    ----------
    software : dict
        Name of the device and versions of what computes; recorded, but not part of the recipe.
    """

    software: dict[str, str]

    def batch(
        self, prev_BHW: NDArray[np.uint8], next_BHW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return `uv_BHWC` of B pairs of one size; a pair's field does not depend on the others."""
        ...

    def on(self, device: str) -> "BatchFlowMethod":
        """Return the same method on a device of PyTorch, such as "cuda"."""
        ...


def takes(method: FlowMethod) -> str:
    """Return what a method is called with: "grey" (H×W), "rgb" (H×W×3), "frame" (`Frame`).

    "vectors" is a `Frame`, too, of which only the codec's motion vectors are read.
    """
    return str(getattr(method, "takes", "grey"))


def input_of(method: FlowMethod, frame: "Frame") -> Any:
    """Return what a method is called with for a frame of a video."""
    kind = takes(method)
    if kind in ("frame", "vectors"):
        return frame
    return frame.grey_HW if kind == "grey" else frame.rgb_HWC


def grey_of(picture: Any) -> NDArray[np.uint8]:
    """Return the grey H×W of what a method is called with."""
    if not isinstance(picture, np.ndarray):
        grey_HW: NDArray[np.uint8] = picture.grey_HW
        return grey_HW
    if picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    return picture


class RecordMethod:
    """Name, parameters and repr of a method that is made from a frozen record."""

    def __init__(self, record: Any, name: str) -> None:
        self.record, self.name = record, name
        self.parameters: dict[str, Any] = dataclasses.asdict(record)
        self.libraries: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"


def factory(
    make: Callable[[Any, str], Made], record: type, name: str, **changed: Any
) -> Callable[..., Made]:
    """Return what makes a method from keyword parameters: the fields of its record.

    Parameters
    ----------
    make : callable
        (record, name) → method.
    record : type
        A frozen dataclass, which checks its values.
    name : str
        As in the table `FLOWS`.
    **changed
        Other defaults of this name.
    """

    def build(**parameters: Any) -> Made:
        return make(record(**{**changed, **parameters}), name)

    signature = inspect.signature(record)
    fields = [p.replace(default=changed.get(k, p.default)) for k, p in signature.parameters.items()]
    build.__signature__ = signature.replace(parameters=fields)  # type: ignore[attr-defined]
    build.__doc__ = record.__doc__
    return build


class OpenCVFlow(RecordMethod, ABC):
    """Checks and bookkeeping shared by the methods that OpenCV computes."""

    version = 1
    least_side_px = 1

    def __init__(self, record: Any, name: str) -> None:
        super().__init__(record, name)
        self.libraries = {"opencv": cv2.__version__}

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
        try:
            uv_HWC = self._compute(prev_HW, next_HW)
        except cv2.error as error:
            height, width = prev_HW.shape
            raise FlowError(
                f"{self.name} failed on frames of {height}×{width} px: {error.err or error}; "
                "try another size or method"
            ) from error
        return checked_flow(uv_HWC, prev_HW.shape, self.name)

    @abstractmethod
    def _compute(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> object:
        """Call OpenCV with two frames that have been checked."""


def checked_pair(
    prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8], least_side_px: int, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Refuse frames a method cannot take; return them contiguous."""
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
            f"{least_side_px} px on each side; give a short side of {least_side_px} px or more"
        )
    return np.ascontiguousarray(prev_HW), np.ascontiguousarray(next_HW)


def checked_batch(
    prev_BHW: NDArray[np.uint8], next_BHW: NDArray[np.uint8], least_side_px: int, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Refuse batches of frames a method cannot take; return them contiguous."""
    for frames in (prev_BHW, next_BHW):
        if not isinstance(frames, np.ndarray) or frames.ndim != 3 or not len(frames):
            told = f"{type(frames).__name__} {getattr(frames, 'shape', '')}"
            raise FlowError(f"{name} takes one or more grey uint8 frames of B×H×W, not {told}")
    if len(prev_BHW) != len(next_BHW):
        raise FlowError(
            f"{name}: {len(prev_BHW)} earlier and {len(next_BHW)} later frames must be as many"
        )
    checked_pair(prev_BHW[0], next_BHW[0], least_side_px, name)
    return np.ascontiguousarray(prev_BHW), np.ascontiguousarray(next_BHW)


def distinct_frames(
    prev_B: NDArray[np.uint8], next_B: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the frames N×H×W(×C) of a batch, shared by neighbours once, and pairs B×2."""
    frames: list[NDArray[np.uint8]] = []
    pairs = np.empty((len(prev_B), 2), np.int64)
    for index, (prev, next) in enumerate(zip(prev_B, next_B, strict=True)):
        if index == 0 or not np.array_equal(frames[-1], prev):
            frames.append(prev)
        pairs[index] = len(frames) - 1, len(frames)
        frames.append(next)
    return np.stack(frames), pairs


def checked_flow(uv_HWC: object, shape_HW: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """Refuse a result that is not finite float32 H×W×2; a plug-in's should pass here too.

    Raises
    ------
    FlowError
        Names the method and what it gave.
    """
    shape = (*shape_HW, 2)
    if not isinstance(uv_HWC, np.ndarray) or uv_HWC.shape != shape or uv_HWC.dtype != np.float32:
        told = f"{getattr(uv_HWC, 'dtype', type(uv_HWC).__name__)} {getattr(uv_HWC, 'shape', '')}"
        raise FlowError(f"{name} gave {told}; a flow method must give float32 of shape {shape}")
    if not np.isfinite(uv_HWC).all():
        broken = int(np.count_nonzero(~np.isfinite(uv_HWC).all(axis=-1)))
        raise FlowError(
            f"{name} gave {broken} displacements of {uv_HWC[..., 0].size} that are not finite; "
            "try another size or method"
        )
    return uv_HWC


def checked_whole(key: str, value: Any, least: int, *, usual: int) -> int:
    """Return a whole number >= `least`, or raise InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidArgument(
            f"{key} {value!r} must be a whole number >= {least}; {usual} is usual"
        )
    return int(value)


def checked_number(
    key: str,
    value: Any,
    above: float,
    below: float = math.inf,
    *,
    usual: float,
    closed: bool = False,
) -> float:
    """Return a number > `above` and < `below` (or equal, if `closed`), or raise InvalidArgument."""
    if not isinstance(value, bool) and isinstance(value, int | float | np.number):
        number = float(value)
        if above < number < below or (closed and number == below):
            return number
    limit = "" if below == math.inf else f" and {'<=' if closed else '<'} {below:g}"
    raise InvalidArgument(
        f"{key} {value!r} must be a number > {above:g}{limit}; {usual:g} is usual"
    )
