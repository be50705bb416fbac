"""Blocks of small motions and their kinds: by construction, in a mirror, and restored."""

import numpy as np
import pytest

from flowpipe.features.local_motion import LocalMotion, Vocabulary, local_motion
from flowpipe.flow.histogram import fine_cells, mirrored


def cells_of(uv_THWC: np.ndarray) -> np.ndarray:
    return fine_cells(uv_THWC.astype(np.float32))


def noise(seed: int, steps: int = 10) -> np.ndarray:
    return cells_of(np.random.default_rng(seed).normal(0, 2, (steps, 64, 96, 2)))


def test_a_block_holds_the_roots_of_sums_over_its_halves():
    cells = noise(0)
    found = local_motion(cells)
    # The block that begins at step 3, row 2 and column 4, by loops.
    expected = np.zeros((2, 2, 2, 8))
    for a, b, c in np.ndindex(2, 2, 2):
        first = np.array([3, 2, 4]) + 2 * np.array([a, b, c])
        part = tuple(slice(f, f + 2) for f in first)
        expected[a, b, c] = cells[part][..., :8].sum((0, 1, 2))
    expected = np.sqrt(expected) / np.linalg.norm(np.sqrt(expected))
    distances = np.abs(found.blocks - expected).reshape(len(found.times), -1).max(1)
    assert distances.min() < 1e-5
    assert found.times[distances.argmin()] == pytest.approx(3 / 6)
    np.testing.assert_allclose(
        np.linalg.norm(found.blocks.reshape(len(found.times), -1), axis=1), 1
    )


def test_blocks_in_a_mirror_are_the_blocks_of_the_mirror():
    cells = noise(1)
    one, other = local_motion(cells).mirrored(), local_motion(mirrored(cells))
    assert len(one.times) == len(other.times)
    for block in one.blocks[::40]:
        assert np.abs(other.blocks - block).reshape(len(other.times), -1).max(1).min() < 1e-4


def test_only_what_moves_gives_blocks():
    flow = np.zeros((12, 64, 96, 2))
    flow[:, 8:24, 8:24] = 2.0
    found = local_motion(cells_of(flow))
    sums = found.blocks.reshape(len(found.times), -1).sum(1)
    assert 0 < len(found.times) < 200
    assert (sums > 0).all()


@pytest.mark.parametrize("shape", [(1, 64, 96, 2), (3, 2, 64, 2), (5, 64, 3, 2)])
def test_clips_and_pictures_smaller_than_a_block_have_one(shape):
    for flow in (np.ones(shape), np.zeros(shape)):
        found = local_motion(cells_of(flow))
        assert len(found.times) >= 1
        assert np.isfinite(found.blocks).all()


def test_a_vocabulary_tells_kinds_apart_and_is_restored():
    flows = [np.zeros((12, 64, 96, 2)) for _ in range(3)]
    flows[0][:, 16:40, 16:40, 0] = 2.0
    flows[1][:, 16:40, 48:72, 0] = 2.0  # the same elsewhere
    flows[2][:, 16:40, 16:40, 1] = 2.0
    clips = [local_motion(cells_of(flow)) for flow in flows]
    found = Vocabulary.learn(clips)
    same, elsewhere, other = (found.describe(clip) for clip in clips)
    assert np.linalg.norm(same) == pytest.approx(1, abs=1e-5)
    assert same @ elsewhere > 0.95
    assert same @ other < 0.5
    again = Vocabulary.from_state(found.state())
    np.testing.assert_array_equal(again.describe(clips[0]), same)


def test_a_vocabulary_of_clips_that_are_all_alike_is_finite():
    clip = LocalMotion(np.zeros((3, 2, 2, 2, 8), np.float32), np.zeros(3, np.float32))
    numbers = Vocabulary.learn([clip, clip]).describe(clip)
    assert np.isfinite(numbers).all()
