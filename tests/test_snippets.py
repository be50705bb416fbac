"""Snippets: their items and times, for entries of constant and varying rate."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowpipe.clips.streams import StreamInput
from flowpipe.features.snippets import cut_snippets


def entry(pts_s):
    return SimpleNamespace(
        num_frames=len(pts_s), num_flows=len(pts_s) - 1, pts_s=np.asarray(pts_s, float)
    )


@pytest.mark.parametrize(
    ("drawing", "frames", "frame_step", "clip_step"),
    [
        (["ffff.....", "..ffff...", "....ffff."], 4, 1, 2),
        (["fff......", "...fff...", "......fff"], 3, 1, None),
        (["fxf......", "...fxf...", "......fxf"], 2, 2, None),
        (["fffffffff"], None, 1, None),
    ],
)
def test_items_are_those_of_the_drawing(drawing, frames, frame_step, clip_step):
    stream = StreamInput("s", "rgb", 1, frame_step=frame_step)
    found = cut_snippets(entry(np.arange(9) / 10), stream, frames, clip_step)
    wanted = [[k for k, letter in enumerate(row) if letter == "f"] for row in drawing]
    assert found.rows_TF.tolist() == wanted
    starts = [min(row) / 10 for row in wanted]
    stops = [(max(row) + 1) / 10 for row in wanted]
    np.testing.assert_allclose(found.span_s, np.stack([starts, stops], 1), atol=1e-9)


def test_times_are_those_of_the_frames_where_the_rate_varies():
    """The first frame is not at zero, and a gap lies in the middle."""
    pts_s = [0.5, 0.6, 0.7, 1.7, 1.8, 1.9]
    flow = cut_snippets(entry(pts_s), StreamInput("f", "flow", 1), 2, 1)
    np.testing.assert_allclose(
        flow.span_s, [[0.5, 0.7], [0.6, 1.7], [0.7, 1.8], [1.7, 1.9]], atol=1e-9
    )
    rgb = cut_snippets(entry(pts_s), StreamInput("r", "rgb", 1), 6)
    np.testing.assert_allclose(rgb.span_s, [[0.5, 2.0]], atol=1e-9)
    np.testing.assert_allclose(rgb.centre_s, [1.25], atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    num_frames=st.integers(2, 60),
    frames=st.one_of(st.none(), st.integers(1, 20)),
    frame_step=st.integers(1, 4),
    clip_step=st.one_of(st.none(), st.integers(1, 20)),
    content=st.sampled_from(["rgb", "flow"]),
)
def test_snippets_lie_inside_and_rise(num_frames, frames, frame_step, clip_step, content):
    stream = StreamInput("s", content, 1, frame_step=frame_step)
    found = cut_snippets(entry(np.arange(num_frames) / 25), stream, frames, clip_step)
    length = num_frames - (content == "flow")
    assert found.rows_TF.min() >= 0
    assert found.rows_TF.max() < length
    assert (np.diff(found.centre_s) > 0).all()
    assert (found.span_s[:, 1] > found.span_s[:, 0]).all()
    assert found.span_s.max() <= num_frames / 25 + 1e-9
    assert found.rows_TF.shape[1] == (frames or length)
