"""Coarse to fine: the sizes of a pyramid's levels, and the loop over them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

LEAST_SIDE_PX = 16
"""Where the pyramid stops."""

U = TypeVar("U")


def level_sizes(height: int, width: int, scales: int, scale_step: float) -> list[tuple[int, int]]:
    """Return (height, width) of the levels, finest first, each rounded from the one before it."""
    sizes = [(height, width)]
    while len(sizes) < scales:
        # Python's rounding sends halves to the even neighbour, as OpenCV's does.
        size = round(sizes[-1][0] * scale_step), round(sizes[-1][1] * scale_step)
        if min(size) < LEAST_SIDE_PX:
            break
        sizes.append(size)
    return sizes


def coarse_to_fine(
    levels: Sequence[object], first: U, enlarge: Callable[[U, int], U], solve: Callable[[U, int], U]
) -> U:
    """Solve the coarsest level from a first flow, then each finer one from the level above.

    Parameters
    ----------
    levels : sequence
        Finest first; only their number matters here.
    first
        The flow to begin with, on the grid of the coarsest level.
    enlarge : callable
        (flow of the level above, number of the level) → flow on the level's grid, in its px.
    solve : callable
        (flow, number of the level) → refined flow.
    """
    coarsest = len(levels) - 1
    u = first
    for number in range(coarsest, -1, -1):
        u = solve(u if number == coarsest else enlarge(u, number), number)
    return u
