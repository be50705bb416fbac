"""Duality-based TV-L1 (DAGM 2007): the project's own solver, numerically OpenCV's CPU solver.

Minimises ∫ λ|I₁(x + u) − I₀(x)| + |∇u| by alternating a pointwise threshold and Chambolle's
projection, coarse to fine with several warps per level. C. Zach, T. Pock, H. Bischof, "A duality
based approach for realtime TV-L1 optical flow", https://doi.org/10.1007/978-3-540-74936-3_22;
symbols as in J. Sánchez et al., https://doi.org/10.5201/ipol.2013.26. As in OpenCV, and unlike the
papers, u and v are filtered by a median before every outer iteration, the frames are not smoothed
and bicubic interpolation is zero outside. OpenCV's γ, an added brightness field, is left out.

This file has the pyramid; `flowpipe.flow.tvl1_kernels` what is done on a level.
"""

import functools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types as nb
from numpy.typing import NDArray

from flowpipe.flow.method import checked_pair
from flowpipe.flow.opencv_tvl1 import checked_parameters
from flowpipe.flow.simd import LANES
from flowpipe.flow.tvl1_kernels import BORDER, LONGEST_BLOCK, interleave, pack, resize, solve_level

LEAST_SIDE_PX = 16
ALL_SCALES = 32

NOTICE_AFTER_S = 1.0
NOTICE = "flowpipe: compiling TV-L1 for this machine, once; it takes about ten seconds"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """Size of a pyramid level, and the length of its rows in the solver's buffers."""

    height: int
    width: int

    @property
    def pitch(self) -> int:
        """LANES zeros, the row, and at least one place behind it, in whole vectors."""
        return LANES * (1 + (self.width + LANES) // LANES)

    def first(self, component: int) -> int:
        """Place of the first pixel of a component of u."""
        return (2 + component) * self.pitch + LANES


class Frame:
    """A frame's pyramid: grey levels, and what warping reads, packed when it is first needed."""

    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels
        self.image: NDArray[np.uint8] | None = None
        self.grey = [aligned(level.height * level.width + LANES) for level in levels]
        self._packed = [
            aligned((level.height + 2 * BORDER) * (level.width + 2 * BORDER) * 4)
            for level in levels
        ]
        self._is_packed = False

    def fill(self, image_HW: NDArray[np.uint8], scale_step: float) -> None:
        """Take a new frame."""
        self.image = image_HW.copy()
        self._is_packed = False
        self.grey[0][: image_HW.size] = image_HW.reshape(-1)
        for number in range(1, len(self.levels)):
            finer, coarser = self.levels[number - 1], self.levels[number]
            resize(
                *(self.grey[number - 1], 0, finer.width, finer.height, finer.width),
                *(self.grey[number], 0, coarser.width, coarser.height, coarser.width),
                *(1 / scale_step, 1 / scale_step, np.float32(1.0)),
            )

    @property
    def packed(self) -> list[Floats]:
        """Grey and derivatives of each level."""
        if not self._is_packed:
            for grey, packed, level in zip(self.grey, self._packed, self.levels, strict=True):
                pack(grey, packed, level.height, level.width)
            self._is_packed = True
        return self._packed


class Workspace:
    """All buffers for one size of frames; the second frame of a pair is kept for the next pair."""

    def __init__(self, shape_HW: tuple[int, int], scales: int, scale_step: float) -> None:
        self.shape_HW = shape_HW
        self.scale_step = scale_step
        self.levels = pyramid(shape_HW, scales, scale_step)
        self.first, self.second = Frame(self.levels), Frame(self.levels)
        self.u = [aligned((level.height + 1) * 2 * level.pitch) for level in self.levels]
        finest = self.levels[0]
        self.u_other = aligned((finest.height + 1) * 2 * finest.pitch)
        self.q = aligned((finest.height + 2) * 4 * finest.pitch)
        self.q_other = aligned((finest.height + 2) * 4 * finest.pitch)
        self.d = aligned(finest.height * 4 * finest.pitch)
        self.mask = [aligned(level.pitch) for level in self.levels]
        for level, mask in zip(self.levels, self.mask, strict=True):
            mask[: level.width] = 1.0
        self.scratch = aligned(11 * finest.pitch)
        self.places = np.zeros(finest.pitch, np.int32)
        self.changes = np.zeros(LONGEST_BLOCK)

    def take(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> None:
        """Take a pair; where the first frame was the last second one, its pyramid is there."""
        if self.second.image is not None and np.array_equal(self.second.image, prev_HW):
            self.first, self.second = self.second, self.first
        else:
            self.first.fill(prev_HW, self.scale_step)
        self.second.fill(next_HW, self.scale_step)


class TVL1:
    """TV-L1; made by `build`. An object may be used from several threads."""

    version = 1

    def __init__(self, parameters: dict[str, Any], name: str = "tvl1") -> None:
        self.name = name
        self.parameters = parameters
        # No library computes here: caches outlive updates of all of them.
        self.libraries: dict[str, str] = {}
        self._local = threading.local()
        compile_once()

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow of two grey uint8 frames of the same size.

        Raises
        ------
        FlowError
            For frames of another type, of different sizes or too small.
        """
        return self.solve(prev_HW, next_HW)[0]

    def solve(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], list[int]]:
        """Compute the flow, and the number of iterations on each level from the finest up."""
        prev_HW, next_HW = checked_pair(prev_HW, next_HW, LEAST_SIDE_PX, self.name)
        space = self._workspace(prev_HW.shape)
        space.take(prev_HW, next_HW)
        iterations = [0] * len(space.levels)
        for number in reversed(range(len(space.levels))):
            self._start(space, number)
            iterations[number] = self._solve_level(space, number)
        finest = space.levels[0]
        uv = np.empty(finest.height * finest.width * 2, np.float32)
        interleave(space.u[0], uv, finest.height, finest.width, finest.pitch)
        return uv.reshape(finest.height, finest.width, 2), iterations

    def pixel_iterations(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> int:
        """Count the work of a pair: inner iterations times pixels, summed over levels."""
        _, iterations = self.solve(prev_HW, next_HW)
        levels = self._workspace(prev_HW.shape).levels
        return sum(
            count * level.height * level.width
            for count, level in zip(iterations, levels, strict=True)
        )

    def _workspace(self, shape_HW: tuple[int, ...]) -> Workspace:
        space: Workspace | None = getattr(self._local, "space", None)
        if space is None or space.shape_HW != shape_HW:
            p = self.parameters
            space = Workspace((shape_HW[0], shape_HW[1]), p["scales"], p["scale_step"])
            self._local.space = space
        return space

    def _start(self, space: Workspace, number: int) -> None:
        """Zero flow on the coarsest level; below, that of the level above, enlarged."""
        level = space.levels[number]
        if number + 1 == len(space.levels):
            space.u[number][:] = 0.0
            return
        above = space.levels[number + 1]
        gain = np.float32(1 / self.parameters["scale_step"])
        for component in range(2):
            resize(
                space.u[number + 1],
                above.first(component),
                2 * above.pitch,
                above.height,
                above.width,
                space.u[number],
                level.first(component),
                2 * level.pitch,
                level.height,
                level.width,
                above.height / level.height,
                above.width / level.width,
                gain,
            )

    def _solve_level(self, space: Workspace, number: int) -> int:
        level, p = space.levels[number], self.parameters
        height, width, pitch = level.height, level.width, level.pitch
        return int(
            solve_level(
                space.first.grey[number],
                space.second.packed[number],
                space.u[number],
                space.u_other[: (height + 1) * 2 * pitch],
                space.q[: (height + 2) * 4 * pitch],
                space.q_other[: (height + 2) * 4 * pitch],
                space.d[: height * 4 * pitch],
                space.mask[number],
                space.scratch[: 11 * pitch],
                space.places,
                space.changes,
                height,
                width,
                pitch,
                p["warps"],
                p["outer_iterations"],
                p["inner_iterations"],
                p["median_size"],
                p["stopping_threshold"] ** 2 * height * width,
                np.float32(p["attachment"] * p["tightness"]),
                np.float32(p["time_step"] / p["tightness"]),
                np.float32(p["tightness"]),
            )
        )


@functools.cache
def compile_once() -> None:
    """Compile the solver, or load it from numba's cache on disk; tell a person who has to wait."""
    notice = threading.Timer(NOTICE_AFTER_S, print, (NOTICE,), {"file": sys.stderr})
    notice.daemon = True
    notice.start()
    try:
        level = Level(LEAST_SIDE_PX, LEAST_SIDE_PX)
        one = np.float32(1.0)
        grey, u = aligned(LEAST_SIDE_PX**2), aligned(level.first(0) * (LEAST_SIDE_PX + 2))
        resize(grey, 0, 1, 1, 1, grey, 0, 1, 1, 1, 1.0, 1.0, one)
        pack(grey, aligned(4 * (1 + 2 * BORDER) ** 2), 1, 1)
        interleave(u, grey, 1, 1, level.pitch)
        floats, ints, number = nb.float32[::1], nb.int32[::1], nb.float32
        solve_level.compile(
            (*(floats,) * 9, ints, nb.float64[::1], *(nb.int64,) * 7, nb.float64, *(number,) * 3)
        )
    finally:
        notice.cancel()


def pyramid(shape_HW: tuple[int, int], scales: int, scale_step: float) -> list[Level]:
    """Give the levels from the finest up: rounded sizes, none below 16 px."""
    levels = [Level(*shape_HW)]
    while len(levels) < scales:
        last = levels[-1]
        level = Level(round(last.height * scale_step), round(last.width * scale_step))
        if min(level.height, level.width) < LEAST_SIDE_PX:
            break
        levels.append(level)
    return levels


def aligned(size: int) -> Floats:
    """Zeros that begin on a cache line (a vector across two costs twice), with room behind."""
    buffer = np.zeros(size + 16 + LANES, np.float32)
    first = (-buffer.ctypes.data // 4) % 16
    return buffer[first : first + size]


def build(
    *,
    time_step: float = 0.25,
    attachment: float = 0.15,
    tightness: float = 0.3,
    scales: int = 5,
    scale_step: float = 0.8,
    warps: int = 5,
    stopping_threshold: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    median_size: int = 5,
) -> TVL1:
    """Make the method; the defaults are those of OpenCV's CPU solver.

    Parameters
    ----------
    time_step : float
        τ, step of the dual update, in (0, 0.25], where its convergence is proven.
    attachment : float
        λ, weight of the data term for grey values 0..255; smaller is smoother.
    tightness : float
        θ, coupling of the data and smoothness parts; smaller is closer.
    scales, scale_step : int, float
        Levels of the pyramid (fewer where one would fall below 16 px), and their ratio, (0, 1).
    warps : int
        Warps per level.
    stopping_threshold : float
        ε: an inner loop ends when the mean squared update falls to ε².
    inner_iterations, outer_iterations : int
        Per warp.
    median_size : int
        Side in px of the median filter before each outer iteration: 1 (none), 3 or 5.

    Raises
    ------
    InvalidArgument
        For a value outside its rule.
    """
    return TVL1(
        checked_parameters(
            time_step=time_step,
            attachment=attachment,
            tightness=tightness,
            scales=scales,
            scale_step=scale_step,
            warps=warps,
            stopping_threshold=stopping_threshold,
            inner_iterations=inner_iterations,
            outer_iterations=outer_iterations,
            median_size=median_size,
        )
    )


def _preset(name: str, **changed: Any) -> Callable[..., TVL1]:
    """Give `build` with other defaults, under a name of its own."""

    @functools.wraps(build)
    def made(**parameters: Any) -> TVL1:
        method = build(**{**changed, **parameters})
        method.name = name
        return method

    return made


build_nomedian = _preset("tvl1-nomedian", median_size=1)
"""Without the median filter, as OpenCV's CUDA solver, whose flow two-stream and TSN data had."""

build_fast = _preset("tvl1-fast", scale_step=0.5, scales=ALL_SCALES)
"""Pyramid step ½, as deep as the frame allows: better on larger motion, and faster."""
