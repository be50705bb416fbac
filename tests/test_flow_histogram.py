"""Histograms of flow: values by construction, the mirror, and the box that follows the motion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowpipe.errors import InvalidArgument
from flowpipe.flow.histogram import fine_cells, fixed_grid, mirrored, moving_grid

SHAPE = (2, 32, 48, 2)


def constant(u: float, v: float) -> np.ndarray:
    uv_THWC = np.empty(SHAPE, np.float32)
    uv_THWC[..., 0], uv_THWC[..., 1] = u, v
    return uv_THWC


def patch(top: int, left: int, u: float = 2.0, size: int = 8) -> np.ndarray:
    """A square that moves to the right in front of nothing that moves."""
    uv_THWC = np.zeros((60, 64, 96, 2), np.float32)
    uv_THWC[:, top : top + size, left : left + size, 0] = u
    return uv_THWC


@pytest.mark.parametrize(
    ("u", "v", "expected"),
    [
        (3, 0, [3, 0, 0, 0, 0, 0, 0, 0]),  # to the right
        (0, 2, [0, 0, 2, 0, 0, 0, 0, 0]),  # down
        (-1, 0, [0, 0, 0, 0, 1, 0, 0, 0]),  # to the left
        (0, -1, [0, 0, 0, 0, 0, 0, 1, 0]),  # up
        # Half way between right and right-down: shared.
        (np.cos(np.pi / 8), np.sin(np.pi / 8), [0.5, 0.5, 0, 0, 0, 0, 0, 0]),
        (np.cos(-np.pi / 8), np.sin(-np.pi / 8), [0.5, 0, 0, 0, 0, 0, 0, 0.5]),
        (0, 0, [0] * 8),
    ],
)
def test_a_cell_holds_the_mean_length_by_direction(u, v, expected):
    cells = fine_cells(constant(u, v), rows=4)
    assert cells.shape == (2, 4, 6, 9)
    np.testing.assert_allclose(cells[1, 2, 3, :8], expected, atol=1e-5)
    np.testing.assert_allclose(cells[..., 8], np.hypot(u, v), atol=1e-5)


@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_directions_add_up_to_the_length_and_cells_to_the_picture(directions, rows, seed):
    uv_THWC = np.random.default_rng(seed).normal(0, 3, (1, 21, 34, 2)).astype(np.float32)
    cells = fine_cells(uv_THWC, rows=rows, directions=directions)
    np.testing.assert_allclose(cells[..., :-1].sum(-1), cells[..., -1], rtol=1e-4)
    if 21 % rows == 0 and 34 % cells.shape[2] == 0:
        mean = np.linalg.norm(uv_THWC, axis=-1).mean()
        np.testing.assert_allclose(cells[..., -1].mean(), mean, rtol=1e-4)


def test_the_mirror_of_cells_is_the_cells_of_the_mirror():
    uv_THWC = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)
    seen = uv_THWC[:, :, ::-1] * np.float32([-1, 1])
    cells = fine_cells(uv_THWC, rows=4)
    np.testing.assert_allclose(fine_cells(seen, rows=4), mirrored(cells), atol=1e-5)
    np.testing.assert_allclose(mirrored(mirrored(cells)), cells)
    for grid in (lambda c: fixed_grid(c, 3, 4), lambda c: moving_grid(c, 4, 4)):
        np.testing.assert_allclose(grid(mirrored(cells)), mirrored(grid(cells)), atol=1e-5)


def test_the_fixed_grid_says_where():
    grid = fixed_grid(fine_cells(patch(0, 64)), 2, 3)
    amount = grid[0, ..., 8]
    assert amount[0, 2] == pytest.approx(2 * 8 * 8 / (32 * 32), rel=1e-3)
    assert amount.sum() == pytest.approx(amount[0, 2])


def test_the_moving_grid_is_the_same_wherever_something_moves():
    places = [moving_grid(fine_cells(patch(top, left)), 4, 4) for top, left in ((24, 16), (40, 72))]
    np.testing.assert_allclose(places[0], places[1], atol=1e-4)
    assert places[0][0, 1:3, 1:3, 0].min() > 0.3  # its middle moves to the right
    assert places[0][..., 4].max() == 0


def test_the_box_follows_a_moving_patch():
    uv_THWC = np.zeros((60, 64, 160, 2), np.float32)
    for field in range(60):
        uv_THWC[field, 24:40, 2 * field + 10 : 2 * field + 26, 0] = 2
    grid = moving_grid(fine_cells(uv_THWC), 3, 3)
    middle = grid[10:50, 1, 1, 0]
    assert middle.min() > 0.7 * middle.max() > 0


def test_where_nothing_moves_the_box_is_the_picture():
    cells = fine_cells(np.zeros(SHAPE, np.float32))
    assert not moving_grid(cells, 4, 4).any()
    alike = fine_cells(constant(0.01, 0))
    np.testing.assert_allclose(moving_grid(alike, 2, 2)[..., 8], 0.01, rtol=0.2)


def test_what_makes_no_grid_is_refused():
    with pytest.raises(InvalidArgument, match="directions 1 and rows 16 must be"):
        fine_cells(constant(1, 0), directions=1)
    with pytest.raises(InvalidArgument, match="grid 0×4 must have a row"):
        fixed_grid(fine_cells(constant(1, 0)), 0, 4)
