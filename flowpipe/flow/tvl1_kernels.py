"""The solver of TV-L1 on one pyramid level, compiled; the pyramid is in `flowpipe.flow.tvl1`.

With u the flow, p = (p₁₁, p₁₂, p₂₁, p₂₂) its dual, a and b the derivatives of the warped second
frame, and ρ₀ its difference to the first (minus a·u₁ + b·u₂ at the linearisation), an iteration is

    t  = clip(−(ρ₀ + a·u₁ + b·u₂) / (a² + b²), ±λθ)
    u₁ ← u₁ + t·a + θ·div(p₁₁, p₁₂)         u₂ likewise, with b and p₂
    p₁ ← (p₁ + τ/θ·∇u₁) / (1 + τ/θ·|∇u₁|)   p₂ likewise

(the three cases of the paper's threshold step are that clip). θ·p is stored, which saves
multiplications. Layout, in rows of `pitch` floats with LANES zeros in front of each::

    u   (height + 1) × 2 × pitch     row 0 is zero, image row y is y + 1
    q   (height + 2) × 4 × pitch     the same; θ·p; the last row takes what is written above row 0
    d   height × 4 × pitch          a, b, ρ₀, 1/(a² + b²)

Iterations are blocked in time: iteration k of a block works one row behind iteration k − 1, so
that a block of many reads each row once from memory. A block reads one pair (u, q) and writes
the other, so one that went beyond the stopping criterion is done again, shorter, from what it
read: the number of iterations is OpenCV's.
"""

from typing import Any

import numpy as np
from numba import float32, intp, void
from numba import types as nb

from flowpipe.flow.compiling import compiled
from flowpipe.flow.simd import LANES, Kernel, Vector, rows, vector_kernel
from flowpipe.flow.tvl1_parameters import CUBIC, FLAT

LONGEST_BLOCK = 32
BORDER = 4
"""Zeros around a packed frame, in px: taps of the bicubic kernel outside the frame read them."""

_ints = nb.Array(nb.int32, 1, "C")


def _dual(
    differences: list[Vector], old: list[Vector], tau: Vector, theta: Vector
) -> tuple[Vector, Vector, Vector, Vector]:
    """Give the new θ·p of one place, from ∇u and the old θ·p."""
    x1, y1, x2, y2 = (difference * tau for difference in differences)
    norm1 = (x1 * x1 + y1 * y1).sqrt() + 1.0
    norm2 = (x2 * x2 + y2 * y2).sqrt() + 1.0
    both = (norm1 * norm2).reciprocal()  # one division in place of two
    shrink1, shrink2 = both * norm2, both * norm1
    q11, q12, q21, q22 = old
    return (
        (q11 + x1 * theta) * shrink1,
        (q12 + y1 * theta) * shrink1,
        (q21 + x2 * theta) * shrink2,
        (q22 + y2 * theta) * shrink2,
    )


_ROW = (rows, rows, intp, rows, rows, intp, intp, rows, intp, rows, intp, intp)
_CONSTANTS = (float32, float32, float32)


@vector_kernel(float32(*_ROW, *_CONSTANTS))
def _iterate_row(
    k, u, u_new, u_row, q, q_new, q_row, q_write, d, d_row, mask, pitch, count, reach, tau, theta
):
    """Primal step of a row, dual step of the row above it; gives the squared change of u."""
    reach, tau, theta = k.splat(reach), k.splat(tau), k.splat(theta)
    plane = [k.times(pitch, number) for number in range(4)]
    u_above, q_above = k.at(u_row, k.times(pitch, -2)), k.at(q_row, k.times(pitch, -4))
    change = k.variable(0.0)
    with k.lanes(count) as x:

        def read(buffer: Any, row: Any, number: int, shift: int = 0) -> Vector:
            vector: Vector = k.load(buffer, k.at(row, plane[number], x, shift))
            return vector

        u1, u2 = read(u, u_row, 0), read(u, u_row, 1)
        a, b, rho, inverse = (read(d, d_row, number) for number in range(4))
        q_old = [read(q, q_above, number) for number in range(4)]
        divergence1 = read(q, q_row, 0) - read(q, q_row, 0, -1) + read(q, q_row, 1) - q_old[1]
        divergence2 = read(q, q_row, 2) - read(q, q_row, 2, -1) + read(q, q_row, 3) - q_old[3]
        t = (-((rho + a * u1 + b * u2) * inverse)).maximum(-reach).minimum(reach)
        new1 = u1 + t * a + divergence1
        new2 = u2 + t * b + divergence2
        change1, change2 = new1 - u1, new2 - u2
        squared = change1 * change1 + change2 * change2
        change.set(change.get() + k.load(mask, x).where(">", 0.0, squared, 0.0))
        k.store(new1, u_new, k.at(u_row, x))
        k.store(new2, u_new, k.at(u_row, pitch, x))
        above1, above2 = read(u_new, u_above, 0), read(u_new, u_above, 1)
        differences = [
            read(u_new, u_above, 0, 1) - above1,
            new1 - above1,
            read(u_new, u_above, 1, 1) - above2,
            new2 - above2,
        ]
        for number, value in enumerate(_dual(differences, q_old, tau, theta)):
            k.store(value, q_new, k.at(q_write, plane[number], x))
    return change.get().sum()


@vector_kernel(void(rows, intp, rows, rows, intp, intp, intp, float32, float32))
def _dual_of_last_row(k, u_new, u_row, q, q_new, q_row, pitch, count, tau, theta):
    """Dual step of the last row, below which u does not change."""
    tau, theta = k.splat(tau), k.splat(theta)
    plane = [k.times(pitch, number) for number in range(4)]
    none = k.constant([0.0] * LANES)
    with k.lanes(count) as x:
        across = [
            k.load(u_new, k.at(u_row, plane[number], x, 1))
            - k.load(u_new, k.at(u_row, plane[number], x))
            for number in range(2)
        ]
        old = [k.load(q, k.at(q_row, plane[number], x)) for number in range(4)]
        new = _dual([across[0], none, across[1], none], old, tau, theta)
        for number, value in enumerate(new):
            k.store(value, q_new, k.at(q_row, plane[number], x))


@compiled
def _iterate(u, q, u_new, q_new, d, mask, height, width, pitch, number, reach, tau, theta, changes):
    """Do `number` iterations from (u, q) to (u_new, q_new); gives each one's change of u."""
    changes[:number] = 0.0
    for turn in range(height + number - 1):
        for k in range(max(0, turn - height + 1), min(number, turn + 1)):
            y = turn - k
            u_from = u if k == 0 else u_new
            q_from = q if k == 0 else q_new
            u_row = (y + 1) * 2 * pitch + LANES
            q_row = (y + 1) * 4 * pitch + LANES
            q_write = q_row - 4 * pitch if y > 0 else (height + 1) * 4 * pitch + LANES
            changes[k] += _iterate_row(
                u_from, u_new, u_row, q_from, q_new, q_row, q_write,
                d, y * 4 * pitch + LANES, mask, pitch, width, reach, tau, theta,
            )  # fmt: skip
            # Behind the last column u does not change.
            u_new[u_row + width] = u_new[u_row + width - 1]
            u_new[u_row + pitch + width] = u_new[u_row + pitch + width - 1]
            if y == height - 1:
                _dual_of_last_row(
                    u_new, u_row, q_from, q_new, q_row, pitch, width, tau, theta
                )  # fmt: skip


# Bicubic interpolation with A = −3/4, OpenCV's: weights of the taps at −1, 0, 1, 2 as polynomials
# in the fraction, from the cube down. They sum to one.
_A = CUBIC
_CUBIC = (
    (_A, -2 * _A, _A, 0.0),
    (_A + 2, -(_A + 3), 0.0, 1.0),
    (-(_A + 2), 2 * _A + 3, -_A, 0.0),
    (-_A, _A, 0.0, 0.0),
)


def _cubic_weights(k: Kernel, fraction: Any, repeat: int) -> Vector:
    """Weights of the four taps, each `repeat` times."""
    lanes = 4 * repeat
    f = k.splat(fraction, lanes)
    powers = [
        k.constant([_CUBIC[lane // repeat][power] for lane in range(lanes)]) for power in range(4)
    ]
    weights: Vector = ((powers[0] * f + powers[1]) * f + powers[2]) * f + powers[3]
    return weights


@vector_kernel(void(rows, intp, _ints, rows, rows, rows, intp))
def _gather_row(k, packed, packed_pitch, places, fraction_x, fraction_y, warped, count):
    """Interpolate frame and derivatives, four floats a pixel, at the places of a row."""
    with k.lanes(count, step=1) as x:
        place = k.builder.sext(k.load_scalar(places, x), x.type)
        across = _cubic_weights(k, k.load_scalar(fraction_x, x), 4)
        down = _cubic_weights(k, k.load_scalar(fraction_y, x), 1)
        # Each line is four pixels of four floats that follow each other.
        lines = [k.load(packed, k.at(place, k.times(packed_pitch, tap)), 16) for tap in range(4)]
        upper = lines[0] * down.pick([0] * 16) + lines[1] * down.pick([1] * 16)
        lower = lines[2] * down.pick([2] * 16) + lines[3] * down.pick([3] * 16)
        taps = (upper + lower) * across
        halves = taps.pick(list(range(8))) + taps.pick(list(range(8, 16)))
        pixel = halves.pick(list(range(4))) + halves.pick(list(range(4, 8)))
        k.store(pixel, warped, k.times(x, 4))


@vector_kernel(void(rows, rows, intp, rows, intp, rows, intp, intp, intp))
def _linearise_row(k, warped, first, first_row, u, u_row, d, d_row, pitch, count):
    """Fill a row of d from the warped second frame, the first frame and u."""
    with k.lanes(count) as x:
        pixels = k.load(warped, k.times(x, 4), 4 * LANES)
        grey, a, b = (pixels.pick(list(range(n, 4 * LANES, 4))) for n in range(3))
        u1, u2 = k.load(u, k.at(u_row, x)), k.load(u, k.at(u_row, pitch, x))
        squared = a * a + b * b
        rho = grey - a * u1 - b * u2 - k.load(first, k.at(first_row, x))
        inverse = squared.where(">", FLAT, squared.reciprocal(), 0.0)
        for number, value in enumerate((a, b, rho, inverse)):
            k.store(value, d, k.at(d_row, k.times(pitch, number), x))


@compiled
def _place_row(u1, u2, y, height, width, packed_pitch, places, fraction_x, fraction_y):
    """Give where the taps of a row begin in the packed frame, and the fractions."""
    for x in range(width):
        # Further outside all taps are zero anyway.
        at_x = min(max(np.float32(x) + u1[x], np.float32(-3.0)), np.float32(width + 1))
        at_y = min(max(np.float32(y) + u2[x], np.float32(-3.0)), np.float32(height + 1))
        left, top = np.floor(at_x), np.floor(at_y)
        fraction_x[x] = at_x - left
        fraction_y[x] = at_y - top
        column = np.int32(left) + np.int32(BORDER - 1)
        row = np.int32(top) + np.int32(BORDER - 1)
        places[x] = row * np.int32(packed_pitch) + column * np.int32(4)


@compiled
def _warp(first, packed, u, d, height, width, pitch, places, fraction_x, fraction_y, warped):
    """Warp the second frame by u and linearise the data term there."""
    packed_pitch = 4 * (width + 2 * BORDER)
    for y in range(height):
        u_row = (y + 1) * 2 * pitch + LANES
        _place_row(
            u[u_row : u_row + width], u[u_row + pitch : u_row + pitch + width],
            y, height, width, packed_pitch, places, fraction_x, fraction_y,
        )  # fmt: skip
        _gather_row(packed, packed_pitch, places, fraction_x, fraction_y, warped, width)
        _linearise_row(
            warped, first, y * width, u, u_row, d, y * 4 * pitch + LANES, pitch, width
        )  # fmt: skip


@compiled
def pack(frame, packed, height, width):
    """Fill a packed frame: grey, its x and y derivative (centred differences), 0; zeros around.

    Parameters
    ----------
    frame : height·width float32
    packed : (height + 2·BORDER)·(width + 2·BORDER)·4 float32, zero around the frame
    """
    for y in range(height):
        above, below = max(y - 1, 0) * width, min(y + 1, height - 1) * width
        here = y * width
        start = ((y + BORDER) * (width + 2 * BORDER) + BORDER) * 4
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            packed[start + 4 * x] = frame[here + x]
            packed[start + 4 * x + 1] = np.float32(0.5) * (frame[here + right] - frame[here + left])
            packed[start + 4 * x + 2] = np.float32(0.5) * (frame[below + x] - frame[above + x])


def _sort(values: list[Vector]) -> list[Vector]:
    """Sort lane by lane. What nobody reads of the result is left out by the compiler."""
    if len(values) < 2:
        return values
    half = len(values) // 2
    return _merge(_sort(values[:half]), _sort(values[half:]))


def _merge(left: list[Vector], right: list[Vector]) -> list[Vector]:
    """Merge two sorted lists of any lengths: Batcher's odd-even merge."""
    if not left or not right:
        return left or right
    if len(left) == len(right) == 1:
        return [left[0].minimum(right[0]), left[0].maximum(right[0])]
    odd = _merge(left[0::2], right[0::2])
    even = _merge(left[1::2], right[1::2])
    merged = odd[:1]
    for larger, smaller in zip(odd[1:], even, strict=False):
        merged += [smaller.minimum(larger), smaller.maximum(larger)]
    return merged + odd[1 + len(even) :] + even[max(0, len(odd) - 1) :]


def _median_of_sorted_columns(columns: list[list[Vector]]) -> Vector:
    """Median of n × n values from n sorted columns.

    Once the rows are sorted too, (i + 1)(j + 1) values are not above the one in row i and
    column j, and (n − i)(n − j) not below: most cannot be the median.
    """
    n = len(columns)
    middle = (n * n + 1) // 2
    candidates: list[Vector] = []
    for i in range(n):
        line = _sort([column[i] for column in columns])
        possible = [
            value
            for j, value in enumerate(line)
            if (i + 1) * (j + 1) <= middle and (n - i) * (n - j) <= middle
        ]
        candidates = _merge(candidates, possible)
    return candidates[len(candidates) // 2]


@vector_kernel(void(rows, intp, intp, intp, intp, intp, intp, rows, intp))
def _sort_columns(k, source, row0, row1, row2, row3, row4, pitch, target, count):
    """Sort five rows in each column."""
    with k.lanes(count) as x:
        column = [k.load(source, k.at(row, x)) for row in (row0, row1, row2, row3, row4)]
        for number, value in enumerate(_sort(column)):
            k.store(value, target, k.at(k.times(pitch, number), x, LANES))


@vector_kernel(void(rows, intp, intp, intp, intp, rows, intp))
def _sort_columns_of_three(k, source, row0, row1, row2, pitch, target, count):
    """Sort three rows in each column."""
    with k.lanes(count) as x:
        column = [k.load(source, k.at(row, x)) for row in (row0, row1, row2)]
        for number, value in enumerate(_sort(column)):
            k.store(value, target, k.at(k.times(pitch, number), x, LANES))


@vector_kernel(void(rows, intp, rows, intp, intp))
def _median_row(k, columns, pitch, target, row, count):
    """Median of 5 × 5 from sorted columns."""
    _median_of(k, 5, columns, pitch, target, row, count)


@vector_kernel(void(rows, intp, rows, intp, intp))
def _median_row_of_three(k, columns, pitch, target, row, count):
    """Median of 3 × 3 from sorted columns."""
    _median_of(k, 3, columns, pitch, target, row, count)


def _median_of(
    k: Kernel, size: int, columns: Any, pitch: Any, target: Any, row: Any, count: Any
) -> None:
    reach = size // 2
    with k.lanes(count) as x:
        window = [
            [
                k.load(columns, k.at(k.times(pitch, number), x, LANES + shift))
                for number in range(size)
            ]
            for shift in range(-reach, reach + 1)
        ]
        k.store(_median_of_sorted_columns(window), target, k.at(row, x))


@compiled
def _median(u, u_new, columns, height, width, pitch, size):
    """Filter both components by a median over size × size px (3 or 5), borders repeated."""
    reach = size // 2
    for y in range(height):
        for component in range(2):
            base = LANES + component * pitch
            here = base + (y + 1) * 2 * pitch
            up1, up2 = base + max(y, 1) * 2 * pitch, base + max(y - 1, 1) * 2 * pitch
            down1 = base + min(y + 2, height) * 2 * pitch
            down2 = base + min(y + 3, height) * 2 * pitch
            if size == 5:
                _sort_columns(u, up2, up1, here, down1, down2, pitch, columns, width)
            else:
                _sort_columns_of_three(u, up1, here, down1, pitch, columns, width)
            for number in range(size):
                first = number * pitch + LANES
                for shift in range(1, reach + 1):
                    columns[first - shift] = columns[first]
                    columns[first + width - 1 + shift] = columns[first + width - 1]
            if size == 5:
                _median_row(columns, pitch, u_new, here, width)
            else:
                _median_row_of_three(columns, pitch, u_new, here, width)


@compiled
def resize(
    source, source_start, source_pitch, source_height, source_width,
    target, target_start, target_pitch, height, width, scale_y, scale_x, gain,
):  # fmt: skip
    """Bilinear resize of one plane into another, times `gain`; pixel centres as in OpenCV.

    `scale_y` and `scale_x` are source px per target px.
    """
    columns = np.empty(width, np.int32)
    fractions = np.empty(width, np.float32)
    for x in range(width):
        at = (x + 0.5) * scale_x - 0.5
        column = min(max(np.floor(at), 0.0), source_width - 1.0)
        columns[x] = np.int32(column)
        inside = 0.0 <= at < source_width - 1
        fractions[x] = np.float32(at - column) if inside else np.float32(0.0)
    for y in range(height):
        at = (y + 0.5) * scale_y - 0.5
        row = np.intp(min(max(np.floor(at), 0.0), source_height - 1.0))
        fraction = np.float32(at - row) if 0.0 <= at < source_height - 1 else np.float32(0.0)
        upper = source_start + row * source_pitch
        lower = source_start + min(row + 1, source_height - 1) * source_pitch
        out = target_start + y * target_pitch
        for x in range(width):
            left, right = columns[x], min(columns[x] + 1, source_width - 1)
            f = fractions[x]
            above = source[upper + left] * (np.float32(1.0) - f) + source[upper + right] * f
            below = source[lower + left] * (np.float32(1.0) - f) + source[lower + right] * f
            target[out + x] = (above * (np.float32(1.0) - fraction) + below * fraction) * gain


@compiled
def interleave(u, uv, height, width, pitch):
    """Write u as H×W×2, flat."""
    for y in range(height):
        u_row = (y + 1) * 2 * pitch + LANES
        for x in range(width):
            uv[2 * (y * width + x)] = u[u_row + x]
            uv[2 * (y * width + x) + 1] = u[u_row + pitch + x]


@compiled
def _next_block(change, previous, enough, left):
    """Guess how many iterations are needed yet, from the last two changes; at least one."""
    if not previous > change > enough:
        return 1
    needed = np.log(change / enough) / np.log(previous / change)
    return max(1, min(left, np.intp(min(needed, 1000.0))))


@compiled
def solve_level(
    first, packed, u, u_other, q, q_other, d, mask, scratch, places, changes,
    height, width, pitch, warps, outer_iterations, inner_iterations, median_size,
    threshold, reach, tau, theta,
):  # fmt: skip
    """Refine u on one pyramid level, in place.

    Parameters
    ----------
    first : height·width (and LANES behind) float32
        The first frame, grey 0..255.
    packed : float32
        The second frame, by `pack`.
    u, u_other, q, q_other, d, mask : float32
        See the module's docstring; mask is 1 for the columns of the image.
    scratch, places : float32, int32
        For rows that are needed for a moment.
    changes : float64 of LONGEST_BLOCK
    threshold : float
        Iterations end when the summed squared change of u is at most this, ε²·height·width.
    reach, tau, theta : float
        λθ, τ/θ and θ.

    Returns
    -------
    int
        Number of iterations.
    """
    total, exchanges = 0, 0
    scratch[:] = 0.0
    fraction_x, fraction_y = scratch[:pitch], scratch[pitch : 2 * pitch]
    warped, columns = scratch[2 * pitch : 6 * pitch], scratch[6 * pitch : 11 * pitch]
    now, other = u, u_other
    q_now, q_next = q, q_other
    q_now[:] = 0.0
    q_next[:] = 0.0
    block = 1
    for _ in range(warps):
        _warp(first, packed, now, d, height, width, pitch, places, fraction_x, fraction_y, warped)
        change, previous = np.inf, np.inf
        in_warp = 0
        for _ in range(outer_iterations):
            if change <= threshold:
                break
            if median_size > 1:
                _median(now, other, columns, height, width, pitch, median_size)
                now, other = other, now
                exchanges += 1
            done = 0
            while done < inner_iterations and change > threshold:
                left = min(inner_iterations - done, LONGEST_BLOCK)
                if done > 0:
                    block = _next_block(change, previous, threshold, left)
                block = min(block, left)
                _iterate(
                    now, q_now, other, q_next, d, mask,
                    height, width, pitch, block, reach, tau, theta, changes,
                )  # fmt: skip
                taken = 1
                while taken < block and changes[taken - 1] > threshold:
                    taken += 1
                if taken < block:
                    _iterate(
                        now, q_now, other, q_next, d, mask,
                        height, width, pitch, taken, reach, tau, theta, changes,
                    )  # fmt: skip
                previous = changes[taken - 2] if taken > 1 else change
                change = changes[taken - 1]
                now, other = other, now
                q_now, q_next = q_next, q_now
                exchanges += 1
                done += taken
            in_warp += done
        total += in_warp
        # The next warp needs fewer iterations than this one, rarely less than a third.
        block = max(1, in_warp // 3)
    if exchanges % 2:
        u[:] = now
    return total
