"""Index arithmetic of clips: the drawings of the docstrings, as rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowpipe.clips import sampling
from flowpipe.errors import InvalidArgument


def taken(drawing: str) -> list[int]:
    return [place for place, letter in enumerate(drawing) if letter in "fC"]


@pytest.mark.parametrize(
    ("drawing", "start", "frames", "frame_step", "length"),
    [
        ("fxxfxxf", 0, 3, 3, 7),
        (".fxfxf", 1, 3, 2, 6),
        ("..ffff", 2, 4, 1, 6),
        ("f", 0, 1, 9, 1),
    ],
)
def test_clip_indices_are_those_of_the_drawing(drawing, start, frames, frame_step, length):
    indices = sampling.clip_indices(start, frames, frame_step, length)
    assert indices.tolist() == taken(drawing)
    assert sampling.span(frames, frame_step) == indices[-1] - indices[0] + 1


@pytest.mark.parametrize(
    ("start", "frames", "frame_step", "length", "repeated", "looped"),
    [
        (0, 4, 1, 2, [0, 1, 1, 1], [0, 1, 0, 1]),
        (2, 4, 1, 4, [2, 3, 3, 3], [2, 3, 0, 1]),
        (0, 3, 2, 3, [0, 2, 2], [0, 2, 1]),
        (5, 1, 1, 4, [3], [1]),
    ],
)
def test_a_short_video_repeats_its_last_item_or_loops(
    start, frames, frame_step, length, repeated, looped
):
    assert sampling.clip_indices(start, frames, frame_step, length).tolist() == repeated
    assert sampling.clip_indices(start, frames, frame_step, length, "loop").tolist() == looped


@pytest.mark.parametrize(
    ("drawing", "frames", "frame_step"),
    [("fxxCxxf", 3, 3), ("ffCf..", 4, 1), ("..ffCf", 4, 1), ("C....", 1, 4), ("fxCx", 2, 2)],
)
def test_centred_clip_takes_the_centre_as_its_middle_item(drawing, frames, frame_step):
    centre = drawing.index("C")
    indices = sampling.centred_indices(centre, frames, frame_step, len(drawing))
    assert indices.tolist() == taken(drawing)
    assert indices[frames // 2] == centre
    first, stop = sampling.centre_range(frames, frame_step, len(drawing))
    assert first <= centre < stop


@pytest.mark.parametrize(
    ("frames", "frame_step", "length", "expected"),
    [(3, 3, 7, (3, 4)), (4, 1, 6, (2, 5)), (10, 1, 10, (5, 6)), (1, 1, 11, (0, 11))],
)
def test_centre_range(frames, frame_step, length, expected):
    assert sampling.centre_range(frames, frame_step, length) == expected


def test_the_rgb_frame_of_ten_flows_is_the_sixth_of_their_eleven_frames():
    centre, _ = sampling.centre_range(10, 1, 10)
    assert sampling.centred_indices(centre, 10, 1, 10).tolist() == list(range(10))
    assert sampling.centred_indices(centre, 1, 1, 11).tolist() == [5]
    assert sampling.centred_indices(centre, 4, 2, 11).tolist() == [1, 3, 5, 7]


def test_centre_range_of_a_short_video_is_empty_and_its_first_clip_begins_at_zero():
    first, stop = sampling.centre_range(10, 1, 4)
    assert stop <= first
    assert sampling.centred_indices(first, 10, 1, 4).tolist() == [0, 1, 2] + [3] * 7


@given(
    frames=st.integers(1, 40),
    frame_step=st.integers(1, 9),
    length=st.integers(1, 120),
    short=st.sampled_from(["repeat-last", "loop"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=200)
def test_every_index_is_inside_and_no_clip_is_cut_where_the_video_is_long_enough(
    frames, frame_step, length, short, data
):
    first, stop = sampling.centre_range(frames, frame_step, length)
    centre = data.draw(st.integers(first, max(stop - 1, first)))
    indices = sampling.centred_indices(centre, frames, frame_step, length, short)
    assert indices.shape == (frames,)
    assert indices.min() >= 0
    assert indices.max() < length
    if length >= sampling.span(frames, frame_step):
        assert (stop - first) == length - sampling.span(frames, frame_step) + 1
        assert (np.diff(indices) == frame_step).all()


@pytest.mark.parametrize(
    ("length", "span", "clips", "expected"),
    [
        (9, 1, 3, taken("fxxxfxxxf")),
        (9, 1, 1, taken("xxxxfxxxx")),
        (2, 5, 3, [0, 0, 0]),
        (12, 10, 3, [0, 1, 2]),
        (11, 10, 3, [0, 1, 1]),
        (6, 1, 2, [0, 5]),
    ],
)
def test_test_starts_reach_from_the_first_to_the_last(length, span, clips, expected):
    assert sampling.test_starts(length, span, clips).tolist() == expected


@given(length=st.integers(1, 400), span=st.integers(1, 60), clips=st.integers(2, 30))
@settings(deadline=None, max_examples=100)
def test_test_starts_are_equally_spaced_to_within_rounding(length, span, clips):
    starts = sampling.test_starts(length, span, clips)
    last = max(length - span, 0)
    assert len(starts) == clips
    assert starts[0] == 0
    assert starts[-1] == last
    assert np.abs(starts - np.linspace(0, last, clips)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("length", "span", "step", "expected"),
    [(7, 3, 2, [0, 2, 4]), (7, 3, 3, [0, 3]), (3, 7, 1, [0]), (5, 5, 1, [0])],
)
def test_dense_starts(length, span, step, expected):
    assert sampling.dense_starts(length, span, step).tolist() == expected


@pytest.mark.parametrize(
    ("length", "span", "segments", "expected"),
    [
        (9, 1, 3, taken("xfxxfxxfx")),
        (2, 1, 4, [0, 0, 1, 1]),
        (11, 3, 3, [1, 4, 7]),
        (1, 4, 2, [0, 0]),
    ],
)
def test_segment_starts_take_the_middle_of_each_part(length, span, segments, expected):
    assert sampling.segment_starts(length, span, segments).tolist() == expected


def test_random_segment_starts_fill_each_part_and_leave_none():
    rng = np.random.default_rng(3)
    drawn = np.array([sampling.segment_starts(9, 1, 3, rng) for _ in range(200)])
    for part in range(3):
        assert set(drawn[:, part].tolist()) == {3 * part, 3 * part + 1, 3 * part + 2}


@given(length=st.integers(1, 50), segments=st.integers(1, 12), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_random_segment_starts_rise_and_stay_inside(length, segments, seed):
    starts = sampling.segment_starts(length, 3, segments, np.random.default_rng(seed))
    assert (np.diff(starts) >= 0).all()
    assert starts.min() >= 0
    assert starts.max() <= max(length - 3, 0)


def test_low_rate_clip_of_a_steady_video_takes_every_fifth_frame():
    pts_s = np.arange(100) / 25
    indices = sampling.low_rate_indices(pts_s, 0.4, frames=16, fps=5)
    assert indices.tolist() == list(range(10, 90, 5))


def test_low_rate_clip_follows_the_clock_of_a_video_of_varying_rate():
    #        0    1    2    3    4    5    6
    pts_s = [0.0, 0.1, 0.2, 0.3, 1.0, 1.2, 1.3]
    indices = sampling.low_rate_indices(np.array(pts_s), 0.0, frames=8, fps=5)
    # shown at     0.0 0.2 0.4 0.6 0.8 1.0 1.2 1.4
    assert indices.tolist() == [0, 2, 3, 3, 3, 4, 5, 6]


def test_low_rate_clip_starts_on_the_videos_own_clock_and_clamps():
    pts_s = 7.0 + np.arange(5) / 5
    assert sampling.low_rate_indices(pts_s, 6.0, frames=3, fps=1).tolist() == [0, 0, 4]


def test_low_rate_clip_forgives_rounded_timestamps():
    pts_s = np.round(np.arange(60) / 30, 3)  # milliseconds: 0.067, not 0.0667
    assert sampling.low_rate_indices(pts_s, 0.0, 4, 15).tolist() == [0, 2, 4, 6]


def test_low_rate_centres_keep_the_clip_inside():
    pts_s = np.arange(50) / 25
    first, stop = sampling.low_rate_centre_range(pts_s, frames=4, fps=5)
    assert (first, stop) == (10, 45)
    for centre, expected in [(10, [0, 5, 10, 15]), (44, [34, 39, 44, 49])]:
        assert sampling.low_rate_centred_indices(pts_s, centre, 4, 5).tolist() == expected
    short_first, short_stop = sampling.low_rate_centre_range(pts_s[:8], frames=4, fps=5)
    assert short_stop <= short_first
    indices = sampling.low_rate_centred_indices(pts_s[:8], short_first, 4, 5)
    assert indices.tolist() == [0, 5, 7, 7]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.span(0), "frames 0 must be ≥ 1"),
        (lambda: sampling.clip_indices(0, 3, 0, 9), "frame_step 0 must be ≥ 1"),
        (lambda: sampling.clip_indices(-1, 3, 1, 9), "start -1 must be ≥ 0"),
        (lambda: sampling.clip_indices(0, 3, 1, 9, "mirror"), 'short "mirror" must be'),
        (lambda: sampling.clip_indices(0, 3, 1, 0), "length 0 must be ≥ 1"),
        (lambda: sampling.test_starts(9, 3, 0), "clips 0 must be ≥ 1"),
        (lambda: sampling.low_rate_indices(np.zeros(0), 0, 2, 5), r"pts_s of shape \(0,\)"),
        (lambda: sampling.low_rate_indices(np.array([1.0, 0.0]), 0, 2, 5), "rising list"),
        (lambda: sampling.low_rate_indices(np.zeros(2), 0, 2, 0.0), "fps 0.0 must be > 0"),
    ],
)
def test_a_number_outside_of_its_rule_is_refused(call, message):
    with pytest.raises(InvalidArgument, match=message):
        call()
