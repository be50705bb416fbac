"""The solver of one pyramid level of TV-L1 as Triton kernels; `tvl1_torch` is its reference.

Three kernels make a level of a whole batch:

`_linearise`   warps a frame and its gradients in one gather, and gives the linearised data term;
`_median`      the 5×5 (3×3) median of u and v;
`_iterate`     several primal-dual iterations of a tile, held in registers with a border that
               shrinks by one px per iteration ("temporal blocking"), so that memory is read and
               written once per block of iterations.

The host launches a fixed schedule of slots, each a block of iterations, and never asks the device
anything. Every pair has its own stopping rule on the device: `_iterate` adds up the squared updates
of each of its iterations, and the next slot, before it works, sees from these sums how that pair
stands:

- not converged: it does the next block, from the buffer just written into the other one;
- converged after j iterations of the block, fewer than it had: the block went too far, so it is
  done again with j iterations, from the buffer it had started from, which still holds;
- converged with the block's last iteration, or done again, or finished before: nothing to do.

So a pair has exactly the iterations the CPU's rule gives it, whatever stands in the batch beside
it. Sums are integers of 2⁻²⁴ px², whose addition has no order: the result is the same in each run.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from flowpipe.flow.tvl1_parameters import CUBIC, FLAT

if TYPE_CHECKING:
    from flowpipe.flow.tvl1_torch import BatchTVL1Parameters

TILE = 64
"""Side of a tile in px, its border included."""

BLOCK = 6
"""Most iterations of a slot: the border of a tile. Even, so that rows are read by two."""

SUMS = 8
"""Room for a slot's sums, a power of two."""

UNIT = 2**24
"""Of a sum of squared updates, per px²."""

ROW_ALIGNMENT = 16
"""Rows of a plane start at a multiple of so many px."""

TILE_WARPS = 16
MEDIAN_COLUMNS, MEDIAN_ROWS = 128, 32
WARP_PIXELS = 256


def solve_level(
    frames_NHW: Tensor,
    pairs_B2: Tensor,
    u_B2HW: Tensor,
    s: "BatchTVL1Parameters",
    note: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Solve one level of the pyramid; arguments and result as `tvl1_torch.solve_level`.

    `note` is given, after each warp, the iterations of each pair in each slot (negative where
    a block was done again), on the device.
    """
    batch, _, height, width = u_B2HW.shape
    stride = -(-width // ROW_ALIGNMENT) * ROW_ALIGNMENT
    zeros = u_B2HW.new_zeros
    # Two buffers each: a slot reads one and writes the other.
    u, p = zeros((2, batch, 2, height, stride)), zeros((2, batch, 4, height, stride))
    u[0, ..., :width] = u_B2HW
    filtered, linear = zeros((batch, 2, height, stride)), zeros((batch, 3, height, stride))
    plan = slots(s)
    start = torch.zeros(batch, dtype=torch.int32, device=u.device)
    runs, buffers = torch.zeros((2, len(plan), batch), dtype=torch.int32, device=u.device)
    sums = torch.zeros((len(plan), batch, SUMS), dtype=torch.int64, device=u.device)
    limit = int(s.stopping_threshold**2 * height * width * UNIT)
    checked = not s.fixed_iterations
    tiles = tiles_along(height) * tiles_along(width)
    strips = triton.cdiv(width, MEDIAN_COLUMNS) * triton.cdiv(height, MEDIAN_ROWS)
    books = (start, runs, buffers, sums)

    for _ in range(s.warps):
        _linearise[(triton.cdiv(height * stride, WARP_PIXELS), batch)](
            frames_NHW, pairs_B2, u, start, linear, height, width, stride,
            CUBIC=CUBIC, PIXELS=WARP_PIXELS,
        )  # fmt: skip
        planned_before, median_before = 0, False
        for slot, (planned, wants_median) in enumerate(plan):
            if wants_median:
                _median[(strips, 2 * batch)](
                    u, filtered, *books, batch, slot, planned, planned_before, limit,
                    height, width, stride,
                    SIZE=s.median_size, CHECKED=checked, SUMS=SUMS,
                    COLUMNS=MEDIAN_COLUMNS, ROWS=MEDIAN_ROWS,
                )  # fmt: skip
            _iterate[(tiles, batch)](
                u, p, filtered, linear, *books, batch, slot, planned, planned_before, limit,
                int(wants_median), int(median_before), height, width, stride,
                s.most_update, s.tightness, s.dual_step,
                FLAT=FLAT, UNIT=UNIT, CHECKED=checked, SUMS=SUMS, TILE=TILE, BORDER=BLOCK,
                num_warps=TILE_WARPS,
            )  # fmt: skip
            planned_before, median_before = planned, wants_median
        start = buffers[-1] ^ (runs[-1] != 0).int()
        books = (start, runs, buffers, sums)
        sums.zero_()
        if note is not None:
            note(runs.clone())
    result = torch.where((start == 0)[:, None, None, None], u[0], u[1])
    return result[..., :width]


def tiles_along(side: int) -> int:
    """Return how many tiles cover a side; at the ends of the image they need no border."""
    return max(1, -(-(side - 2 * BLOCK) // (TILE - 2 * BLOCK)))


def slots(s: "BatchTVL1Parameters") -> list[tuple[int, bool]]:
    """Return the schedule of a warp: (iterations, whether a median goes before) of each slot.

    The last slot has none planned: there a pair that converged in the one before is done again.
    """
    outer, inner = (
        (1, s.fixed_iterations) if s.fixed_iterations else (s.outer_iterations, s.inner_iterations)
    )
    blocks = [min(BLOCK, inner - done) for done in range(0, inner, BLOCK)]
    once = [(planned, index == 0 and s.median_size > 1) for index, planned in enumerate(blocks)]
    return once * outer + ([] if s.fixed_iterations else [(0, False)])


# What changes from slot to slot and from level to level is not to be compiled in.
VARYING = (
    "batch", "slot", "planned", "planned_before", "limit", "median_now", "median_before",
    "height", "width",
)  # fmt: skip


@triton.jit
def _standing(
    start, runs, buffers, sums, batch, slot, pair, planned, planned_before, limit,
    CHECKED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Return (iterations, buffer to read) of a pair in a slot; negative: a block done again."""
    run = planned
    buffer = tl.load(start + pair)
    if slot > 0:
        before = tl.load(runs + (slot - 1) * batch + pair)
        read = tl.load(buffers + (slot - 1) * batch + pair)
        written = read ^ (before != 0).to(tl.int32)
        buffer = written
        if CHECKED:
            index = tl.arange(0, SUMS)
            squares = tl.load(sums + ((slot - 1) * batch + pair) * SUMS + index)
            met = (squares <= limit) & (index < planned_before)
            needed = tl.min(tl.where(met, index + 1, SUMS + 1))
            if (before <= 0) | (needed == planned_before):
                run = 0
            elif needed < planned_before:
                run = -needed
                buffer = read
    return run, buffer


@triton.jit(do_not_specialize=VARYING)
def _iterate(
    u_all, p_all, filtered, linear, start, runs, buffers, sums,
    batch, slot, planned, planned_before, limit, median_now, median_before,
    height, width, stride, most_update, tightness, dual_step,
    FLAT: tl.constexpr, UNIT: tl.constexpr, CHECKED: tl.constexpr, SUMS: tl.constexpr,
    TILE: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """Do a slot's iterations on one tile of one pair."""
    pair = tl.program_id(1)
    run, buffer = _standing(
        start, runs, buffers, sums, batch, slot, pair, planned, planned_before, limit,
        CHECKED, SUMS,
    )  # fmt: skip
    if tl.program_id(0) == 0:
        tl.store(runs + slot * batch + pair, run)
        tl.store(buffers + slot * batch + pair, buffer)
    if run == 0:
        return
    from_median = tl.where(run > 0, median_now, median_before)

    INNER: tl.constexpr = TILE - 2 * BORDER
    across = tl.maximum(tl.cdiv(width - 2 * BORDER, INNER), 1)
    row = tl.arange(0, TILE)[:, None]
    column = tl.arange(0, TILE)[None, :]
    y = tl.program_id(0) // across * INNER + row
    x = tl.program_id(0) % across * INNER + column
    place = y * stride + x
    plane = height * stride
    # Up to the stride, not the width, so that two px at a time are in or out; what lies between
    # is read by nobody: the neighbour to the right of the last column is that column.
    inside = (y < height) & (x < stride)
    # What no other tile gives: all but the border, and that too where the image ends.
    mine_down = (row < TILE - BORDER) | (tl.program_id(0) >= tl.num_programs(0) - across)
    mine_across = (column < TILE - BORDER) | (tl.program_id(0) % across == across - 1)
    mine = inside & (mine_down & ((row >= BORDER) | (y < BORDER)))
    mine = mine & (mine_across & ((column >= BORDER) | (x < BORDER)))
    left = tl.broadcast_to(tl.maximum(column - 1, 0), (TILE, TILE))
    above = tl.broadcast_to(tl.maximum(row - 1, 0), (TILE, TILE))
    has_right = (x < width - 1) & (column < TILE - 1)
    has_below = (y < height - 1) & (row < TILE - 1)
    right = tl.broadcast_to(tl.where(has_right, column + 1, column), (TILE, TILE))
    below = tl.broadcast_to(tl.where(has_below, row + 1, row), (TILE, TILE))

    own = buffer.to(tl.int64) * batch + pair
    other = (1 - buffer).to(tl.int64) * batch + pair
    if from_median != 0:
        u_from = filtered + pair.to(tl.int64) * 2 * plane + place
    else:
        u_from = u_all + own * 2 * plane + place
    p_from = p_all + own * 4 * plane + place
    linear_from = linear + pair.to(tl.int64) * 3 * plane + place
    u = tl.load(u_from, inside, 0.0)
    v = tl.load(u_from + plane, inside, 0.0)
    ux = tl.load(p_from, inside, 0.0)
    uy = tl.load(p_from + plane, inside, 0.0)
    vx = tl.load(p_from + 2 * plane, inside, 0.0)
    vy = tl.load(p_from + 3 * plane, inside, 0.0)
    gx = tl.load(linear_from, inside, 0.0)
    gy = tl.load(linear_from + plane, inside, 0.0)
    constant = tl.load(linear_from + 2 * plane, inside, 0.0)
    inverse_square = 1 / tl.maximum(gx * gx + gy * gy, FLAT)

    for iteration in range(tl.abs(run)):
        residual = constant + gx * u + gy * v
        step = tl.minimum(tl.maximum(-residual * inverse_square, -most_update), most_update)
        du = step * gx + tightness * _divergence(ux, uy, left, above, row, column)
        dv = step * gy + tightness * _divergence(vx, vy, left, above, row, column)
        u += du
        v += dv
        if CHECKED:
            squares = tl.sum(tl.where(mine & (x < width), du * du + dv * dv, 0.0))
            total = sums + (slot * batch + pair) * SUMS + iteration
            # Relaxed: nobody reads it before the next launch.
            tl.atomic_add(total, (squares * UNIT).to(tl.int64), sem="relaxed")
        ux, uy = _ascend(ux, uy, tl.gather(u, right, 1) - u, tl.gather(u, below, 0) - u, dual_step)
        vx, vy = _ascend(vx, vy, tl.gather(v, right, 1) - v, tl.gather(v, below, 0) - v, dual_step)

    u_to = u_all + other * 2 * plane + place
    p_to = p_all + other * 4 * plane + place
    tl.store(u_to, u, mine)
    tl.store(u_to + plane, v, mine)
    tl.store(p_to, ux, mine)
    tl.store(p_to + plane, uy, mine)
    tl.store(p_to + 2 * plane, vx, mine)
    tl.store(p_to + 3 * plane, vy, mine)


@triton.jit
def _divergence(px, py, left, above, row, column):
    """Return ∂px/∂x + ∂py/∂y by differences to the left and above, where at the edge is nothing."""
    before_x = tl.where(column > 0, tl.gather(px, left, 1), 0.0)
    before_y = tl.where(row > 0, tl.gather(py, above, 0), 0.0)
    return px - before_x + py - before_y


@triton.jit
def _ascend(px, py, slope_x, slope_y, dual_step):
    """Move the dual field of one component along its gradient, and back into the unit disc."""
    scale = 1 / (1 + dual_step * tl.sqrt(slope_x * slope_x + slope_y * slope_y))
    return (px + dual_step * slope_x) * scale, (py + dual_step * slope_y) * scale


@triton.jit(do_not_specialize=VARYING[-2:])
def _linearise(
    frames, pairs, u_all, start, linear, height, width, stride,
    CUBIC: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Warp a pair's later frame and its gradients by u; see `tvl1_torch.linearise`."""
    pair = tl.program_id(1)
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    plane = height * stride
    x0, y0 = place % stride, place // stride
    inside = (place < plane) & (x0 < width)
    own = tl.load(start + pair).to(tl.int64) * tl.num_programs(1) + pair
    u = tl.load(u_all + own * 2 * plane + place, inside, 0.0)
    v = tl.load(u_all + own * 2 * plane + plane + place, inside, 0.0)
    earlier = frames + tl.load(pairs + 2 * pair) * height * width
    later = frames + tl.load(pairs + 2 * pair + 1) * height * width

    first_x, weights_x, slopes_x = _cubic(x0 + u, width, CUBIC)
    first_y, weights_y, slopes_y = _cubic(y0 + v, height, CUBIC)
    warped = tl.zeros((PIXELS,), tl.float32)
    warped_x = tl.zeros((PIXELS,), tl.float32)
    warped_y = tl.zeros((PIXELS,), tl.float32)
    for i in tl.static_range(6):
        row = tl.minimum(tl.maximum(first_y + (i - 2), 0), height - 1) * width
        value = tl.zeros((PIXELS,), tl.float32)
        slope = tl.zeros((PIXELS,), tl.float32)
        for j in tl.static_range(6):
            # The corners of the 6×6 weigh nothing.
            if (i > 0 and i < 5) or (j > 0 and j < 5):
                column = tl.minimum(tl.maximum(first_x + (j - 2), 0), width - 1)
                pixel = tl.load(later + row + column, inside, 0.0)
                value += weights_x[j] * pixel
                slope += slopes_x[j] * pixel
        warped += weights_y[i] * value
        warped_x += weights_y[i] * slope
        warped_y += slopes_y[i] * value
    still = tl.load(earlier + y0 * width + x0, inside, 0.0)
    to = linear + pair.to(tl.int64) * 3 * plane + place
    tl.store(to, warped_x, inside)
    tl.store(to + plane, warped_y, inside)
    tl.store(to + 2 * plane, warped - warped_x * u - warped_y * v - still, inside)


@triton.jit
def _cubic(at, size, a: tl.constexpr):
    """Return the px before a place, and weights and derived weights of the six px about it."""
    at = tl.minimum(tl.maximum(at, -3.0), size + 2.0)
    first = tl.floor(at)
    t = at - first
    w0 = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    w1 = ((a + 2) * t - (a + 3)) * t * t + 1
    w2 = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1
    w3 = 1 - w0 - w1 - w2
    base = first.to(tl.int32)
    w0 = tl.where((base >= 1) & (base <= size), w0, 0.0)
    w1 = tl.where((base >= 0) & (base < size), w1, 0.0)
    w2 = tl.where((base >= -1) & (base < size - 1), w2, 0.0)
    w3 = tl.where((base >= -2) & (base < size - 2), w3, 0.0)
    nothing = tl.zeros_like(w0)
    weights = (nothing, w0, w1, w2, w3, nothing)
    slopes = (-0.5 * w0, -0.5 * w1, 0.5 * (w0 - w2), 0.5 * (w1 - w3), 0.5 * w2, 0.5 * w3)
    return base, weights, slopes


@triton.jit(do_not_specialize=VARYING[:5] + VARYING[-2:])
def _median(
    u_all, filtered, start, runs, buffers, sums,
    batch, slot, planned, planned_before, limit, height, width, stride,
    SIZE: tl.constexpr, CHECKED: tl.constexpr, SUMS: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Filter a strip of one component of one pair that goes on; walks down with sorted rows."""
    pair = tl.program_id(1) // 2
    component = tl.program_id(1) % 2
    run, buffer = _standing(
        start, runs, buffers, sums, batch, slot, pair, planned, planned_before, limit,
        CHECKED, SUMS,
    )  # fmt: skip
    if run <= 0:
        return
    across = tl.cdiv(width, COLUMNS)
    x = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(0) // across * ROWS
    plane = height * stride
    own = buffer.to(tl.int64) * batch + pair
    source = u_all + (own * 2 + component) * plane
    target = filtered + (pair.to(tl.int64) * 2 + component) * plane
    if SIZE == 5:
        a = _sorted_row(source, x, first - 2, height, width, stride, SIZE)
        b = _sorted_row(source, x, first - 1, height, width, stride, SIZE)
        c = _sorted_row(source, x, first, height, width, stride, SIZE)
        d = _sorted_row(source, x, first + 1, height, width, stride, SIZE)
        for y in range(first, min(first + ROWS, height)):
            e = _sorted_row(source, x, y + 2, height, width, stride, SIZE)
            tl.store(target + y * stride + x, _middle_of_25(a, b, c, d, e), x < width)
            a, b, c, d = b, c, d, e
    else:
        a = _sorted_row(source, x, first - 1, height, width, stride, SIZE)
        b = _sorted_row(source, x, first, height, width, stride, SIZE)
        for y in range(first, min(first + ROWS, height)):
            c = _sorted_row(source, x, y + 1, height, width, stride, SIZE)
            tl.store(target + y * stride + x, _middle_of_9(a, b, c), x < width)
            a, b = b, c


@triton.jit
def _sorted_3(a, b, c):
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    return a, b, c


@triton.jit
def _sorted_5(a, b, c, d, e):
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    d, e = tl.minimum(d, e), tl.maximum(d, e)
    c, e = tl.minimum(c, e), tl.maximum(c, e)
    c, d = tl.minimum(c, d), tl.maximum(c, d)
    b, e = tl.minimum(b, e), tl.maximum(b, e)
    a, d = tl.minimum(a, d), tl.maximum(a, d)
    a, c = tl.minimum(a, c), tl.maximum(a, c)
    b, d = tl.minimum(b, d), tl.maximum(b, d)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    return a, b, c, d, e


@triton.jit
def _sorted_row(source, x, y, height, width, stride, SIZE: tl.constexpr):
    """Return the 5 (3) px about x in row y in order, the border replicated."""
    row = source + min(max(y, 0), height - 1) * stride
    last = width - 1
    b = tl.load(row + tl.minimum(tl.maximum(x - 1, 0), last))
    c = tl.load(row + tl.minimum(x, last))
    d = tl.load(row + tl.minimum(x + 1, last))
    if SIZE == 3:
        result = _sorted_3(b, c, d)
    else:
        a = tl.load(row + tl.minimum(tl.maximum(x - 2, 0), last))
        e = tl.load(row + tl.minimum(x + 2, last))
        result = _sorted_5(a, b, c, d, e)
    return result


@triton.jit
def _middle_of_9(a, b, c):
    """Return the median of three sorted rows."""
    low = tl.maximum(tl.maximum(a[0], b[0]), c[0])
    high = tl.minimum(tl.minimum(a[2], b[2]), c[2])
    middle = _sorted_3(a[1], b[1], c[1])[1]
    return _sorted_3(low, middle, high)[1]


@triton.jit
def _middle_of_25(a, b, c, d, e):
    """Return the median of five sorted rows.

    With the columns sorted too, the entry in row i and column j has (i+1)(j+1) − 1 entries that
    are not greater, so only the 13 of the middle can be the median. The 22 minima and maxima that
    are left of a sorting network, once all are taken out that change nothing for any of the 252
    0-1 matrices with sorted rows and columns, find it.
    """
    _, _, _, m30, m40 = _sorted_5(a[0], b[0], c[0], d[0], e[0])
    _, _, m21, m31, m41 = _sorted_5(a[1], b[1], c[1], d[1], e[1])
    _, m12, m22, m32, _ = _sorted_5(a[2], b[2], c[2], d[2], e[2])
    m03, m13, m23, _, _ = _sorted_5(a[3], b[3], c[3], d[3], e[3])
    m04, m14, _, _, _ = _sorted_5(a[4], b[4], c[4], d[4], e[4])
    low = tl.maximum(tl.maximum(m12, m30), tl.maximum(m21, m03))
    m22, m31 = tl.minimum(m22, m31), tl.maximum(m22, m31)
    m04, m40 = tl.minimum(m04, m40), tl.maximum(m04, m40)
    m04 = tl.maximum(m22, m04)
    m31 = tl.minimum(m31, m40)
    m31, m04 = tl.minimum(m31, m04), tl.maximum(m31, m04)
    low, m31 = tl.minimum(low, m31), tl.maximum(low, m31)
    m31, m04 = tl.minimum(m31, m04), tl.maximum(m31, m04)
    m31 = tl.maximum(low, tl.minimum(m31, tl.minimum(m14, m23)))
    m04 = tl.minimum(tl.minimum(m04, m41), tl.minimum(m13, m32))
    return tl.maximum(m31, m04)
