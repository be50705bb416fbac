"""Features of flow histograms: constructed fields, mirror images, blocks, the cache."""

from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest

from flowpipe.cache import open_cache
from flowpipe.errors import InvalidArgument
from flowpipe.features.computing import compute_features
from flowpipe.features.histogram import FlowHistogram, HistogramOptions
from flowpipe.flow.histogram import fine_cells, fixed_grid, moving_grid
from flowpipe.flow.quantise import Quantiser

FPS = 25


@pytest.fixture
def entry_of(tmp_path, write_entry):
    """Store a flow and open its entry."""

    def store(flow_THWC, name="a.avi", **options):
        flow = flow_THWC.astype(np.float32)
        digest = sha256(flow.tobytes() + name.encode()).hexdigest()
        write_entry(
            tmp_path / "cache", flow, Quantiser("f16"), "zstd", name=name, digest=digest, **options
        )
        return open_cache(tmp_path / "cache")[name]

    return store


def random_flow(seed, fields=11, height=12, width=16):
    flow = np.random.default_rng(seed).normal(0, 2, (fields, height, width, 2))
    flow[:, ::3] = 0
    return flow.astype(np.float16).astype(np.float32)


def slow_row(flow_FHWC, options, height):
    """Put one snippet together from the cells of each field, as the docstring has it."""
    fields = fixed_grid(fine_cells(flow_FHWC, directions=options.directions), *options.grid)
    bounds = [k * len(flow_FHWC) // options.windows for k in range(options.windows + 1)]
    parts = [fields[start:stop].mean(0) for start, stop in pairwise(bounds)]
    return np.sqrt(np.stack(parts) * FPS / height).ravel()


@pytest.mark.parametrize(
    ("direction", "uv"),
    [(0, (3, 0)), (1, (3, 3)), (2, (0, 3)), (4, (-3, 0)), (6, (0, -3)), (7, (3, -3))],
)
def test_a_constant_field_fills_one_direction(entry_of, direction, uv):
    flow = np.zeros((8, 12, 16, 2))
    flow[4:, :, :4] = uv  # later half, left quarter
    found = FlowHistogram(HistogramOptions(8, windows=2, grid=(1, 4))).of(entry_of(flow))
    values = found.features.reshape(2, 4, 9)
    wanted = np.zeros((2, 4, 9))
    wanted[1, 0, direction] = np.sqrt(np.hypot(*uv) * FPS / 12)
    wanted[1, 0, 8] = wanted[1, 0, direction]
    np.testing.assert_allclose(values, wanted, atol=2e-3)
    np.testing.assert_allclose(found.span_s, [[0, 8 / FPS]], atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        HistogramOptions(4, 3, windows=2),
        HistogramOptions(5, 2, windows=3, grid=(2, 3), directions=6),
        HistogramOptions(None, windows=4, grid=(5, 1), directions=3),
    ],
)
def test_equals_a_slow_count(entry_of, options):
    flow = random_flow(0)
    found = FlowHistogram(options).of(entry_of(flow))
    frames = options.frames or len(flow)
    starts = range(0, len(flow) - frames + 1, options.clip_step or frames)
    wanted = [slow_row(flow[start : start + frames], options, 12) for start in starts]
    np.testing.assert_allclose(found.features, wanted, atol=1e-4)
    np.testing.assert_allclose(found.centre_s * FPS, np.array(starts) + frames / 2, atol=1e-6)


def test_speed_is_in_frame_heights_per_second(entry_of):
    """The same motion at twice the size, or half the rate, gives the same numbers."""
    flow = np.tile(random_flow(1, fields=1, height=16), (8, 1, 1, 1))
    histogram = FlowHistogram(HistogramOptions(4, 4, windows=1))
    small = histogram.of(entry_of(flow)).features
    large = np.repeat(np.repeat(flow, 2, 1), 2, 2) * 2
    np.testing.assert_allclose(histogram.of(entry_of(large, "b.avi")).features, small, atol=2e-3)
    slow = entry_of(flow * 2, "c.avi", rate=FPS / 2)
    np.testing.assert_allclose(histogram.of(slow).features, small, atol=2e-3)


@pytest.mark.parametrize("follow", [False, True])
def test_mirrored_is_what_the_mirrored_video_gives(entry_of, follow):
    flow = random_flow(2)
    turned = flow[:, :, ::-1] * [-1, 1]
    histogram = FlowHistogram(HistogramOptions(6, 2, windows=3, grid=(2, 4), follow=follow))
    found = histogram.of(entry_of(flow)).features
    mirrored = histogram.of(entry_of(turned, "b.avi")).features
    np.testing.assert_allclose(histogram.mirrored(found), mirrored, atol=1e-5)
    np.testing.assert_array_equal(histogram.mirrored(histogram.mirrored(found)), found)
    odd = FlowHistogram(HistogramOptions(directions=3))
    with pytest.raises(InvalidArgument, match="3 directions are not their own mirror images"):
        odd.mirrored(found)


def test_a_box_that_follows_is_the_same_in_blocks(entry_of, monkeypatch):
    entry = entry_of(random_flow(4, fields=160, height=20, width=30) * 0.1)
    histogram = FlowHistogram(HistogramOptions(8, 8, grid=(2, 2), follow=True))
    whole = histogram.of(entry).features
    cells = fine_cells(entry.flow[:], directions=8)
    fields = np.sqrt(moving_grid(cells, 2, 2)[:8].reshape(4, 2, -1).mean(1).ravel() * FPS / 20)
    np.testing.assert_allclose(whole[0], fields, atol=1e-5)
    monkeypatch.setattr("flowpipe.features.histogram.BLOCK_FIELDS", 30)
    np.testing.assert_allclose(histogram.of(entry).features, whole, atol=1e-5)


def test_a_video_shorter_than_its_parts_is_counted(entry_of):
    flow = random_flow(3, fields=2)
    whole = FlowHistogram(HistogramOptions(None)).of(entry_of(flow))
    assert whole.features.shape == (1, 432)
    assert np.isfinite(whole.features).all()
    repeated = FlowHistogram().of(entry_of(flow, "b.avi"))  # 16 fields, the last one 15 times
    assert repeated.features.shape == (1, 432)
    last = repeated.features.reshape(4, -1)
    np.testing.assert_allclose(last[1], last[3], atol=1e-6)


def test_a_cache_of_histograms_holds_what_one_video_gives(tmp_path, entry_of):
    entries = {name: entry_of(random_flow(seed), name) for seed, name in enumerate("ab")}
    cache = open_cache(tmp_path / "cache")
    histogram = FlowHistogram(HistogramOptions(4, 2, storage="f32"))
    result = compute_features(histogram, cache, tmp_path / "store", name="motion")
    assert (result.done, result.failed, result.shape) == (2, 0, (432,))
    store = open_cache(tmp_path / "store", recipe="motion")
    for name in entries:
        found = histogram.of(cache[name])
        np.testing.assert_array_equal(store[name].features[:], found.features)
        np.testing.assert_array_equal(store[name].centre_s, found.centre_s)
    assert compute_features(histogram, cache, tmp_path / "store", name="motion").skipped == 2
    recipes = {
        FlowHistogram(options).recipe("ab").id
        for options in (
            HistogramOptions(),
            HistogramOptions(windows=2),
            HistogramOptions(grid=(4, 3)),
            HistogramOptions(directions=4),
            HistogramOptions(follow=True),
            HistogramOptions(frames=None),
            HistogramOptions(clip_step=1),
            HistogramOptions(storage="f32"),
        )
    }
    assert len(recipes) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 3}, "snippets of 3 fields have no 4 parts"),
        ({"grid": (0, 4)}, "must be >= 1"),
        ({"directions": 1}, "directions 1 >= 2"),
        ({"clip_step": 0}, "clip_step 0 must be"),
    ],
)
def test_options_outside_their_rules_are_refused(fields, message):
    with pytest.raises(InvalidArgument, match=message):
        HistogramOptions(**fields)
