"""Tracks of persons over frames, and tubes of actions from tracks."""

import itertools

import numpy as np
import pytest

from flowpipe.detection.linking import Tracker, TubeOptions, link_tubes, smoothed, trim
from flowpipe.errors import InvalidArgument


def box(x, y, width=20, height=50):
    return [x, y, x + width, y + height]


def follow(tracker, frames):
    """Return the ids on each frame, of lists of boxes."""
    return [
        tracker.update(index, np.array(boxes, float).reshape(-1, 4), np.ones(len(boxes))).tolist()
        for index, boxes in frames
    ]


def test_persons_who_cross_keep_their_numbers():
    # They pass each other at different heights, at 4 px a frame; the order of boxes changes.
    frames = []
    for index in range(40):
        boxes = [box(4 * index, 0), box(160 - 4 * index, 20)]
        frames.append((index, boxes if index % 2 else boxes[::-1]))
    ids = follow(Tracker(), frames)
    assert all(
        row == ([0, 1] if index % 2 else [1, 0]) for index, row in enumerate(ids[1:], 1)
    ) or all(row == ([1, 0] if index % 2 else [0, 1]) for index, row in enumerate(ids))


def test_motion_bridges_frames_without_a_box():
    # 6 px a frame for 12 frames: without motion the boxes do not overlap any more.
    frames = [(k, [box(6 * k, 0)]) for k in range(10)]
    frames += [(k, []) for k in range(10, 20)]
    frames += [(20, [box(120, 0)])]
    assert follow(Tracker(), frames)[-1] == [0]
    assert follow(Tracker(max_missed=9), frames)[-1] == [1]


def test_who_runs_leaves_their_box_between_two_looks():
    frames = [(5 * k, [box(24 * k, 0)]) for k in range(8)]
    assert follow(Tracker(), frames) == [[0]] * 8
    assert follow(Tracker(max_distance=0), frames)[1] == [1]
    # A child beside a grown-up is somebody else.
    assert follow(Tracker(), [(0, [box(0, 0)]), (5, [box(22, 0, 10, 25)])]) == [[0], [1]]


def test_frames_may_be_left_out_and_must_ascend():
    assert follow(Tracker(), [(0, [box(0, 0)]), (5, [box(5, 0)]), (10, [box(10, 0)])]) == [[0]] * 3
    tracker = Tracker()
    follow(tracker, [(3, [box(0, 0)])])
    with pytest.raises(InvalidArgument, match="frame 3 comes after frame 3"):
        follow(tracker, [(3, [box(0, 0)])])


def test_weak_boxes_continue_tracks_but_begin_none():
    tracker = Tracker(min_score=0.5)
    boxes = np.array([box(0, 0), box(90, 0)], float)
    assert tracker.update(0, boxes, np.array([0.9, 0.2])).tolist() == [0, -1]
    assert tracker.update(1, boxes, np.array([0.1, 0.2])).tolist() == [0, -1]


def test_no_boxes_at_all():
    assert follow(Tracker(), [(0, []), (1, [])]) == [[], []]


@pytest.mark.parametrize(
    "options", [{"min_overlap": 1.5}, {"max_missed": -1}, {"max_distance": -1}, {"min_score": -0.1}]
)
def test_the_tracker_refuses_values_outside_their_rule(options):
    with pytest.raises(InvalidArgument, match="must"):
        Tracker(**options)


def best_path(evidence, cost):
    """Try every path: the slow twin of Viterbi's algorithm."""
    paths = itertools.product((False, True), repeat=len(evidence))
    return max(
        paths,
        key=lambda path: (
            sum(e for e, on in zip(evidence, path, strict=True) if on)
            - cost * sum(a != b for a, b in itertools.pairwise(path))
        ),
    )


@pytest.mark.parametrize("seed", range(20))
def test_trim_equals_trying_every_path(seed):
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=10)
    cost = rng.uniform(0, 2)
    assert tuple(trim(evidence, cost).tolist()) == best_path(evidence.tolist(), cost)


def track(scores, *, start=0, step=1, number=0):
    frames = start + step * np.arange(len(scores))
    boxes = np.array([box(2 * frame, 10) for frame in frames], float)
    return frames, boxes, np.array(scores, float), np.full(len(scores), number)


def test_tubes_say_when_who_does_what():
    run = [[0.9, 0.1]] * 50 + [[0.1, 0.8]] * 50
    tubes = link_tubes("v", *track(run), ["run", "wave"], 25.0)
    assert [(t.video, t.label) for t in tubes] == [("v", "run"), ("v", "wave")]
    assert tubes[0].score == pytest.approx(0.9)
    first, second = tubes[0].frames, tubes[1].frames
    assert first[0] == 0
    assert second[-1] == 99
    assert abs(first[-1] - 49) <= 5
    assert abs(second[0] - 50) <= 5
    np.testing.assert_array_equal(tubes[0].boxes, [box(2 * k, 10) for k in first])


def test_a_flicker_neither_ends_nor_begins_an_action():
    scores = np.full((60, 1), 0.9)
    scores[30:32] = 0.0
    assert [len(t.frames) for t in link_tubes("v", *track(scores), ["run"], 25.0)] == [60]
    quiet = np.full((60, 1), 0.02)
    quiet[30] = 0.9
    options = TubeOptions(min_score=0.3)
    assert link_tubes("v", *track(quiet), ["run"], 25.0, options) == []


def test_boxes_between_the_frames_looked_at_are_filled_in():
    (tube,) = link_tubes("v", *track([[0.9]] * 10, step=5), ["run"], 25.0)
    assert tube.frames.tolist() == list(range(46))
    np.testing.assert_allclose(tube.boxes, [box(2 * k, 10) for k in range(46)])


def test_a_long_gap_divides_and_persons_stay_apart():
    frames, boxes, scores, ids = (
        np.concatenate(pair)
        for pair in zip(track([[0.9]] * 20), track([[0.9]] * 20, start=80), strict=True)
    )
    tubes = link_tubes("v", frames, boxes, scores, ids, ["run"], 25.0)
    assert sorted(t.frames[0] for t in tubes) == [0, 80]
    ids = np.arange(40) % 2
    assert len(link_tubes("v", frames, boxes, scores, ids, ["run"], 25.0)) == 4
    assert link_tubes("v", frames, boxes, scores, np.full(40, -1), ["run"], 25.0) == []


def test_weak_actions_get_tubes_of_a_low_score_and_short_ones_none():
    (tube,) = link_tubes("v", *track([[0.2]] * 30), ["run"], 25.0)
    assert tube.score == pytest.approx(0.2)
    assert link_tubes("v", *track([[0.01]] * 30), ["run"], 25.0) == []
    assert link_tubes("v", *track([[0.9]] * 5), ["run"], 25.0) == []


def test_the_score_is_the_mean_of_the_best_boxes():
    scores = np.full((40, 1), 0.6)
    scores[10:30] = 0.8
    (tube,) = link_tubes("v", *track(scores), ["run"], 25.0)
    assert tube.score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.zeros(3, int)}, "there must be a box"),
        ({"class_scores": np.full((30, 1), 1.5)}, r"in \[0, 1\]"),
        ({"fps": 0.0}, "must be > 0"),
        ({"frames": np.zeros(30, int)}, "two boxes on a frame"),
    ],
)
def test_what_cannot_be_linked_is_said(change, message):
    frames, boxes, scores, ids = track([[0.9]] * 30)
    given = {
        "frames": frames,
        "boxes": boxes,
        "class_scores": scores,
        "ids": ids,
        "class_names": ["run"],
        "fps": 25.0,
        **change,
    }
    with pytest.raises(InvalidArgument, match=message):
        link_tubes("v", **given)


@pytest.mark.parametrize("over_s", [0.0, 0.5, 1.0, 100.0])
def test_scores_are_means_over_the_time_around(over_s):
    rng = np.random.default_rng(0)
    moments = []
    for time_s in np.cumsum(rng.choice([0.1, 0.2, 0.7], 40)).tolist():
        ids = rng.permutation(4)[: rng.integers(0, 5)] - 1
        moments.append((time_s, ids, rng.random((len(ids), 3))))
    answers = list(smoothed(moments, over_s))
    assert len(answers) == len(moments)
    for (now_s, ids, scores), answer in zip(moments, answers, strict=True):
        for row, number in enumerate(ids):
            near = [
                theirs[others == number][0]
                for time_s, others, theirs in moments
                if abs(time_s - now_s) <= over_s / 2 + 1e-9 and number in others
            ]
            expected = scores[row] if number < 0 else np.mean(near, axis=0)
            assert answer[row] == pytest.approx(expected)


def test_an_answer_waits_for_no_more_than_its_time():
    asked = []

    def moments():
        for number in range(50):
            asked.append(number)
            yield number / 10, np.array([0]), np.ones((1, 2))

    next(smoothed(moments(), 1.0))
    assert len(asked) == 7
