"""Duality-based TV-L1 (DAGM 2007): the project's own solver, numerically OpenCV's CPU solver.

The energy and its parameters are those of `flowpipe.flow.tvl1_parameters`. As in OpenCV, and unlike
the papers, u and v are filtered by a median before every outer iteration, the frames are not
smoothed and bicubic interpolation is zero outside. OpenCV's γ, an added brightness field, is left
out. This file has the buffers; `flowpipe.flow.tvl1_kernels` what is done on a level.
"""

import functools
import sys
import threading
from dataclasses import dataclass

import numpy as np
from numba import types as nb
from numpy.typing import NDArray

from flowpipe.flow.compiling import on_missing
from flowpipe.flow.method import RecordMethod, checked_pair, factory
from flowpipe.flow.pyramid import LEAST_SIDE_PX, coarse_to_fine, level_sizes
from flowpipe.flow.simd import LANES
from flowpipe.flow.tvl1_kernels import BORDER, LONGEST_BLOCK, interleave, pack, resize, solve_level
from flowpipe.flow.tvl1_parameters import FAST, NO_MEDIAN, TVL1Parameters

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
        self.levels = [Level(*size) for size in level_sizes(*shape_HW, scales, scale_step)]
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

    def begin(self, start_HWC: NDArray[np.float32] | None) -> None:
        """Put the flow to begin with on the grid of the coarsest level."""
        if start_HWC is None:
            self.u[-1][:] = 0.0
            return
        finest = self.levels[0]
        rows = self.u[0].reshape(finest.height + 1, 2, finest.pitch)
        rows[:] = 0.0
        rows[1:, :, LANES : LANES + finest.width] = start_HWC.transpose(0, 2, 1)
        for number in range(1, len(self.levels)):
            self._resize(self.u[number - 1], number - 1, number, self.scale_step)

    def enlarge(self, u: Floats, number: int) -> Floats:
        """Bring the flow of the level above to the grid of a level, in its px."""
        self._resize(u, number + 1, number, 1 / self.scale_step)
        return self.u[number]

    def _resize(self, u: Floats, number: int, to: int, gain: float) -> None:
        source, target = self.levels[number], self.levels[to]
        for component in range(2):
            resize(
                *(u, source.first(component), 2 * source.pitch, source.height, source.width),
                *(self.u[to], target.first(component), 2 * target.pitch),
                *(target.height, target.width),
                *(source.height / target.height, source.width / target.width),
                np.float32(gain),
            )


class TVL1(RecordMethod):
    """TV-L1; an object may be used from several threads.

    No library computes here: caches outlive updates of all of them.
    """

    version = 1
    record: TVL1Parameters

    def __init__(self, record: TVL1Parameters, name: str) -> None:
        super().__init__(record, name)
        self._local = threading.local()
        compile_once()

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
        self,
        prev_HW: NDArray[np.uint8],
        next_HW: NDArray[np.uint8],
        start_HWC: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], list[int]]:
        """Compute the flow, and the number of iterations on each level from the finest up.

        `start_HWC` is the flow in px to begin with, on the grid of the earlier frame; zero when
        absent.
        """
        prev_HW, next_HW = checked_pair(prev_HW, next_HW, LEAST_SIDE_PX, self.name)
        space = self._workspace(prev_HW.shape)
        space.take(prev_HW, next_HW)
        space.begin(start_HWC)
        iterations = [0] * len(space.levels)

        def solve(u: Floats, number: int) -> Floats:
            iterations[number] = self._solve_level(space, number)
            return u

        u = coarse_to_fine(space.levels, space.u[-1], space.enlarge, solve)
        finest = space.levels[0]
        uv = np.empty(finest.height * finest.width * 2, np.float32)
        interleave(u, uv, finest.height, finest.width, finest.pitch)
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
            p = self.record
            space = Workspace((shape_HW[0], shape_HW[1]), p.scales, p.scale_step)
            self._local.space = space
        return space

    def _solve_level(self, space: Workspace, number: int) -> int:
        level, p = space.levels[number], self.record
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
                p.warps,
                p.outer_iterations,
                p.inner_iterations,
                p.median_size,
                p.stopping_threshold**2 * height * width,
                np.float32(p.most_update),
                np.float32(p.dual_step),
                np.float32(p.tightness),
            )
        )


@functools.cache
def compile_once() -> None:
    """Compile the solver, or load it from numba's cache on disk; tell a person who has to wait."""
    with on_missing(lambda: sys.stderr.write(f"{NOTICE}\n")):
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


def aligned(size: int) -> Floats:
    """Zeros that begin on a cache line (a vector across two costs twice), with room behind."""
    buffer = np.zeros(size + 16 + LANES, np.float32)
    first = (-buffer.ctypes.data // 4) % 16
    return buffer[first : first + size]


build = factory(TVL1, TVL1Parameters, "tvl1")
build_nomedian = factory(TVL1, TVL1Parameters, "tvl1-nomedian", **NO_MEDIAN)
build_fast = factory(TVL1, TVL1Parameters, "tvl1-fast", **FAST)
