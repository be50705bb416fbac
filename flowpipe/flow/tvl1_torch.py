"""Duality-based TV-L1 of many pairs at once, in PyTorch: `tvl1` on a GPU.

The energy and its parameters are those of `flowpipe.flow.tvl1_parameters`, the numerics those of
OpenCV 5's CPU solver: 5×5 median before every outer iteration, bicubic warps that are zero outside,
no smoothing of the frames.

This file has the pyramid and, in plain PyTorch for any device, the solver of one level: the
reference for the Triton kernels of `tvl1_triton`, which take its place on a GPU. A batch stands as
frames N×H×W and pairs B×2 of indices into them, so that a frame of two pairs is uploaded, and its
pyramid made, once.
"""

import functools
import importlib.metadata
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowpipe.errors import FlowError
from flowpipe.flow.method import (
    RecordMethod,
    checked_batch,
    checked_whole,
    distinct_frames,
    factory,
)
from flowpipe.flow.pyramid import LEAST_SIDE_PX, coarse_to_fine, level_sizes
from flowpipe.flow.tvl1_parameters import CUBIC, FAST, FLAT, NO_MEDIAN, TVL1Parameters


@dataclass(frozen=True, kw_only=True)
class BatchTVL1Parameters(TVL1Parameters):
    """Parameters of the batched solver.

    Attributes
    ----------
    fixed_iterations : int
        0: every pair stops where the CPU solver stops. More: so many iterations after each warp
        for every pair, after one median. This bounds the time of a batch, and is no longer the
        CPU's result: with 30, twelve UCF101 pairs at 340×256 differ by 0.05 px in the mean.
    others
        As `TVL1Parameters` has them.
    """

    fixed_iterations: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = checked_whole("fixed_iterations", self.fixed_iterations, 0, usual=0)
        object.__setattr__(self, "fixed_iterations", fixed)


class BatchTVL1(RecordMethod):
    """TV-L1 of a batch. One thread at a time may use it.

    Nobody else's code computes here; caches outlive updates of PyTorch and Triton.

    Parameters
    ----------
    record : BatchTVL1Parameters
    name : str
    device : str
        Of PyTorch.
    kernels : "auto", "torch" or "triton"
        Who solves a level; by default Triton on a CUDA device, where it is installed.
    """

    version = 1
    record: BatchTVL1Parameters

    def __init__(
        self, record: BatchTVL1Parameters, name: str, device: str = "cpu", kernels: str = "auto"
    ) -> None:
        super().__init__(record, name)
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        if kernels == "auto":
            has_triton = importlib.util.find_spec("triton") is not None
            kernels = "triton" if on_gpu and has_triton else "torch"
        self.kernels = kernels
        self.software = {"torch": str(torch.__version__)}
        if on_gpu:
            self.software["gpu"] = torch.cuda.get_device_name(self.device)
        if kernels == "triton":
            self.software["triton"] = importlib.metadata.version("triton")
        # Of its own, so that one batch is copied while another is computed.
        self._stream: Any = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]

    def on(self, device: str) -> "BatchTVL1":
        """Return the same method on another device of PyTorch."""
        return BatchTVL1(self.record, self.name, device)

    def __repr__(self) -> str:
        return f"{super().__repr__()} on {self.device} by {self.kernels}"

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow of one pair; see `batch`."""
        uv_HWC: NDArray[np.float32] = self.batch(prev_HW[None], next_HW[None])[0]
        return uv_HWC

    def batch(
        self, prev_BHW: NDArray[np.uint8], next_BHW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow of B pairs of grey uint8 frames of one size.

        Where a pair's later frame is the next pair's earlier one, it is uploaded once.

        Returns
        -------
        array of B×H×W×2 float32
            px, on the grid of the earlier frames.

        Raises
        ------
        FlowError
            For frames of another type, of different sizes or too small, and for a broken result.
        """
        prev_BHW, next_BHW = checked_batch(prev_BHW, next_BHW, LEAST_SIDE_PX, self.name)
        frames, pairs = distinct_frames(prev_BHW, next_BHW)
        with torch.cuda.stream(self._stream):
            uv_BHWC = self.flow_of(*(self._to_device(array) for array in (frames, pairs)))
            broken = (~torch.isfinite(uv_BHWC)).any(-1).sum()
            result = self._to_host(uv_BHWC)
        if int(broken):
            raise FlowError(
                f"{self.name} gave {int(broken)} displacements of {result[..., 0].size} that are "
                "not finite; try another size or method"
            )
        return result

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._stream is None:
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        if self._stream is not None:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            tensor = pinned.copy_(tensor, non_blocking=True)
            self._stream.synchronize()
        result: NDArray[np.float32] = tensor.cpu().numpy()
        return result

    def flow_of(self, frames_NHW: Tensor, pairs_B2: Tensor) -> Tensor:
        """Compute flow B×H×W×2 on the device from uint8 frames and int64 pairs of indices.

        Nothing here waits for the device when the level is solved by Triton.
        """
        solve_level = _solver(self.kernels)
        p = self.record
        height, width = frames_NHW.shape[1:]
        sizes = level_sizes(height, width, p.scales, p.scale_step)
        pyramid = [frames_NHW.float()]
        for size in sizes[1:]:
            pyramid.append(resize(pyramid[-1], size, 1 / p.scale_step))

        def enlarge(u: Tensor, number: int) -> Tensor:
            return resize(u, sizes[number]) * (1 / p.scale_step)

        def solve(u: Tensor, number: int) -> Tensor:
            solved: Tensor = solve_level(pyramid[number], pairs_B2, u.contiguous(), p)
            return solved

        start = pyramid[0].new_zeros((len(pairs_B2), 2, *sizes[-1]))
        u = coarse_to_fine(sizes, start, enlarge, solve)
        return u.movedim(1, -1).contiguous()


build = factory(BatchTVL1, BatchTVL1Parameters, "tvl1")
build_nomedian = factory(BatchTVL1, BatchTVL1Parameters, "tvl1-nomedian", **NO_MEDIAN)
build_fast = factory(BatchTVL1, BatchTVL1Parameters, "tvl1-fast", **FAST)


def _solver(kernels: str) -> Any:
    if kernels == "triton":
        from flowpipe.flow import tvl1_triton

        return tvl1_triton.solve_level
    return solve_level


def resize(image: Tensor, size: tuple[int, int], scale: float | None = None) -> Tensor:
    """Resize …×H×W linearly as OpenCV does.

    Parameters
    ----------
    image : Tensor
    size : (height, width)
    scale : float, optional
        Source px per result px; by default the ratio of the sizes, which rounding makes another.
    """
    rows, rows_after, share_H = _linear_table(image.shape[-2], size[0], scale, image.device)
    columns, columns_after, share_W = _linear_table(image.shape[-1], size[1], scale, image.device)
    across = image[..., columns] * (1 - share_W) + image[..., columns_after] * share_W
    share = share_H[:, None]
    return across[..., rows, :] * (1 - share) + across[..., rows_after, :] * share


@functools.lru_cache(maxsize=256)
def _linear_table(
    source: int, target: int, scale: float | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    places = (np.arange(target) + 0.5) * (source / target if scale is None else scale) - 0.5
    places = np.clip(places.astype(np.float32), 0, source - 1)
    before = np.floor(places).astype(np.int64)
    after = np.minimum(before + 1, source - 1)
    share = places - before.astype(np.float32)
    tables = (torch.from_numpy(table) for table in (before, after, share))
    return tuple(table.to(device) for table in tables)  # type: ignore[return-value]


def solve_level(
    frames_NHW: Tensor, pairs_B2: Tensor, u_B2HW: Tensor, s: BatchTVL1Parameters
) -> Tensor:
    """Solve one level of the pyramid in plain PyTorch, from a first flow.

    A pair that meets its stopping rule is frozen until the next warp. The loop ends when all are,
    which asks the device after every iteration.

    Parameters
    ----------
    frames_NHW : Tensor
        float32 of grey values 0..255.
    pairs_B2 : Tensor
        int64 indices of the earlier and the later frame.
    u_B2HW : Tensor
        float32 px.
    s : BatchTVL1Parameters

    Returns
    -------
    Tensor
        Flow B×2×H×W, px.
    """
    earlier, later = frames_NHW[pairs_B2[:, 0]], frames_NHW[pairs_B2[:, 1]]
    u = u_B2HW
    # The dual field of u and v, along x and along y.
    px, py = torch.zeros_like(u), torch.zeros_like(u)
    fixed = s.fixed_iterations
    outer, inner = (1, fixed) if fixed else (s.outer_iterations, s.inner_iterations)
    for _ in range(s.warps):
        gradient, constant = linearise(earlier, later, u)
        active = torch.ones(len(u), dtype=torch.bool, device=u.device)
        for iteration in range(outer * inner):
            if not (fixed or bool(active.any())):
                break
            mask = active[:, None, None, None]
            if iteration % inner == 0 and s.median_size > 1:
                u = torch.where(mask, median(u, s.median_size), u)
            new_u, new_px, new_py = iterate(u, px, py, gradient, constant, s)
            if fixed:
                u, px, py = new_u, new_px, new_py
                continue
            mean_square = ((new_u - u) ** 2).sum((1, 2, 3), dtype=torch.float64)
            u = torch.where(mask, new_u, u)
            px, py = torch.where(mask, new_px, px), torch.where(mask, new_py, py)
            active = active & (mean_square > s.stopping_threshold**2 * math.prod(u.shape[2:]))
    return u


def iterate(
    u: Tensor, px: Tensor, py: Tensor, gradient: Tensor, constant: Tensor, s: BatchTVL1Parameters
) -> tuple[Tensor, Tensor, Tensor]:
    """Do one step of the threshold and one of the dual field; all B×2×H×W, `constant` B×1×H×W."""
    residual = constant + (gradient * u).sum(1, keepdim=True)
    square = (gradient * gradient).sum(1, keepdim=True).clamp_min(FLAT)
    step = (-residual / square).clamp(-s.most_update, s.most_update)
    divergence = px + py
    divergence[..., 1:] -= px[..., :-1]
    divergence[..., 1:, :] -= py[..., :-1, :]
    u = u + step * gradient + s.tightness * divergence

    ux, uy = torch.zeros_like(u), torch.zeros_like(u)
    ux[..., :-1] = u[..., 1:] - u[..., :-1]
    uy[..., :-1, :] = u[..., 1:, :] - u[..., :-1, :]
    norm = 1 + s.dual_step * (ux * ux + uy * uy).sqrt()
    return u, (px + s.dual_step * ux) / norm, (py + s.dual_step * uy) / norm


def linearise(earlier: Tensor, later: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Warp the later frames and their gradients by u, bicubically, zero outside.

    Gradients are centred differences that replicate the border. One pass over the 6×6
    neighbourhood (without its corners) gives all three: the weight of a pixel for the gradient is
    half the difference of its neighbours' weights.

    Returns
    -------
    gradient : Tensor
        B×2×H×W, ∇I₁(x + u).
    constant : Tensor
        B×1×H×W, I₁(x + u) − ∇I₁(x + u)·u − I₀(x): the linearised residual at zero flow.
    """
    height, width = later.shape[1:]
    x = u[:, 0] + torch.arange(width, device=u.device)
    y = u[:, 1] + torch.arange(height, device=u.device)[:, None]
    columns, weights_x, slopes_x = _cubic(x, width)
    rows, weights_y, slopes_y = _cubic(y, height)
    flat = later.flatten(1)
    warped, warped_x, warped_y = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for row, weight_y, slope_y in zip(rows, weights_y, slopes_y, strict=True):
        value, slope = torch.zeros_like(x), torch.zeros_like(x)
        for column, weight_x, slope_x in zip(columns, weights_x, slopes_x, strict=True):
            pixel = flat.gather(1, (row * width + column).flatten(1)).view_as(x)
            value += weight_x * pixel
            slope += slope_x * pixel
        warped += weight_y * value
        warped_x += weight_y * slope
        warped_y += slope_y * value
    gradient = torch.stack((warped_x, warped_y), 1)
    constant = warped - warped_x * u[:, 0] - warped_y * u[:, 1] - earlier
    return gradient, constant[:, None]


def _cubic(place: Tensor, size: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return indices, weights and derived weights of the six pixels about a place on one axis."""
    # Two px beyond the border nothing is left; the limit keeps huge vectors from overflowing.
    place = place.clamp(-3, size + 2)
    first = place.floor()
    t = place - first
    a = CUBIC
    before = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    at = ((a + 2) * t - (a + 3)) * t * t + 1
    after = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1
    taps = [before, at, after, 1 - before - at - after]
    base = first.long()
    nothing = torch.zeros_like(t)
    inside = [((base + i >= 0) & (base + i < size)).to(t.dtype) for i in range(-1, 3)]
    weights = [
        nothing,
        *(tap * within for tap, within in zip(taps, inside, strict=True)),
        nothing,
    ]
    padded = [nothing, *weights, nothing]
    slopes = [0.5 * (padded[i] - padded[i + 2]) for i in range(6)]
    return [(base + i).clamp(0, size - 1) for i in range(-2, 4)], weights, slopes


def median(u: Tensor, size: int) -> Tensor:
    """Filter B×2×H×W by the median of size×size px, the border replicated."""
    reach = size // 2
    padded = torch.nn.functional.pad(u, (reach,) * 4, mode="replicate")
    height, width = u.shape[2:]
    around = [padded[..., i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return torch.stack(around, -1).median(-1).values
