"""Whole-clip histograms: rates, mirrors, what is chosen, and that validation keeps groups whole."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from flowpipe.errors import InvalidArgument, WeightsError
from flowpipe.features.clip_svm import LOCAL, ClipClassifier, describe
from flowpipe.features.whole_clip import (
    boundary_cells,
    candidates,
    clip_grids,
    in_steps,
    mirror_images,
    motion,
)

PARTS_OF_ALL = ("fixed", "moving", "both")


def entry(
    path_px: np.ndarray, *, fps: float = 25.0, at: tuple[int, int] = (24, 40), side: int = 16
) -> SimpleNamespace:
    """A square in front of stillness, whose flow at each field is one row of `path_px` (x, y)."""
    flow = np.zeros((len(path_px), 64, 96, 2), np.float32)
    top, left = at
    flow[:, top : top + side, left : left + side] = np.asarray(path_px)[:, None, None]
    times = np.arange(len(path_px) + 1) / fps
    return SimpleNamespace(num_flows=len(path_px), pts_s=times, height=64, width=96, flow=flow)


def clips(kinds: list[np.ndarray], count: int, seed: int = 0):
    """`count` noisy clips of each kind: (grids, labels)."""
    rng = np.random.default_rng(seed)
    grids, labels = [], []
    for label, path in enumerate(kinds):
        for _ in range(count):
            noisy = path * rng.uniform(0.7, 1.3) + rng.normal(0, 0.1, path.shape)
            place = int(rng.integers(8, 40)), int(rng.integers(8, 72))
            grids.append(clip_grids(entry(noisy, at=place)))
            labels.append(label)
    return grids, np.array(labels)


RIGHT, DOWN = np.tile([2.0, 0.0], (20, 1)), np.tile([0.0, 2.0], (20, 1))


@pytest.mark.parametrize("grids", PARTS_OF_ALL)
def test_a_clip_is_described_alike_at_every_frame_rate_and_size(grids):
    how = motion(grids=grids, parts=4)
    # The same motion in the world: twice the rate, half the displacement per frame.
    slow = describe(clip_grids(entry(np.concatenate([RIGHT, DOWN]), fps=25)), how)
    fast = describe(
        clip_grids(entry(np.concatenate([RIGHT, DOWN]).repeat(2, axis=0) / 2, fps=50)), how
    )
    np.testing.assert_allclose(slow, fast, atol=0.02)
    assert np.linalg.norm(slow) == pytest.approx(1, abs=1e-4)


def test_a_mirrored_clip_is_described_as_the_mirror_of_its_grids():
    how = motion(grids="both", parts=2, boundaries=True)
    right = clip_grids(entry(RIGHT, at=(24, 8)))
    left = clip_grids(entry(-RIGHT, at=(24, 96 - 8 - 16)))
    np.testing.assert_allclose(describe(right.mirrored(), how), describe(left, how), atol=1e-3)
    assert np.abs(describe(right, how) - describe(left, how)).max() > 0.1


def test_boundaries_of_motion_do_not_see_a_moving_camera():
    still = entry(RIGHT)
    panned = entry(RIGHT)
    panned.flow += np.array([3.0, 1.0], np.float32)
    cells = boundary_cells(still.flow[:2])
    assert cells.shape[-1] == 16
    np.testing.assert_allclose(boundary_cells(panned.flow[:2]), cells, atol=1e-5)
    # A square that goes right: u changes at its four sides, v nowhere.
    assert cells[..., 8:].max() == 0
    assert (cells[..., [0, 2, 4, 6]].max((0, 1, 2)) > 0).all()


def test_a_clip_without_boundaries_has_the_same_grids_and_a_mirror():
    whole, part = clip_grids(entry(RIGHT)), clip_grids(entry(RIGHT), boundaries=False)
    assert part.boundaries.shape == (*whole.moving.shape[:3], 0)
    how = motion("both", 2, local=False, amount=True)
    for one, other in ((whole, part), (whole.mirrored(), part.mirrored())):
        np.testing.assert_array_equal(describe(one, how), describe(other, how))


def test_steps_weigh_fields_by_their_time():
    cells = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    means = in_steps(cells, np.array([0.04, 0.04, 0.08]))
    assert means[:, 0, 0, 0].tolist() == pytest.approx([0.5, 2.0])


def test_the_order_of_two_motions_is_seen_in_parts_only():
    grids, labels = clips([np.concatenate([RIGHT, DOWN]), np.concatenate([DOWN, RIGHT])], 12)
    found = ClipClassifier.fit(grids, labels, 2)
    assert found.validation_accuracy == 1.0
    assert all(parts > 1 for _, parts, _ in found.description.pieces)
    shares = found.looks_at()
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(share for name, share in shares.items() if "over time" in name) > 0.2
    without = ClipClassifier.fit(grids, labels, 2, choices=[motion(parts=1)])
    assert without.validation_accuracy < 0.8


def test_what_says_the_class_in_a_place_chooses_the_fixed_grid():
    paths = [entry(RIGHT, at=(8, 8 + 5 * k)) for k in range(14)]
    low = [entry(RIGHT, at=(40, 8 + 5 * k)) for k in range(14)]
    grids = [clip_grids(e) for e in (*paths, *low)]
    labels = np.repeat([0, 1], 14)
    found = ClipClassifier.fit(grids, labels, 2)
    assert found.validation_accuracy == 1.0
    assert "fixed" in {name for name, _, _ in found.description.pieces}


def test_equal_parts_of_motion_do_not_mind_a_pause_before_it():
    how = motion(grids="both", parts=4, pyramid="motion")
    path = np.concatenate([RIGHT, DOWN])
    idle = np.zeros((30, 2))
    prompt = clip_grids(entry(path))
    late, early = (clip_grids(entry(np.concatenate(p))) for p in ((idle, path), (path, idle)))
    by_time = motion("both", 4, "time")
    for other in (late, early):
        apart = describe(prompt, how) - describe(other, how)
        assert np.linalg.norm(apart) < 0.6 * np.linalg.norm(
            describe(prompt, by_time) - describe(other, by_time)
        )
    assert np.linalg.norm(describe(prompt, how)) == pytest.approx(1, abs=1e-4)


def test_an_amount_is_told_from_another_of_the_same_directions():
    grids, labels = [], []
    for label, speed in enumerate((0.3, 1.0)):
        for k in range(12):
            grids.append(clip_grids(entry(RIGHT * speed, at=(8 + 2 * k, 8 + 4 * k))))
            labels.append(label)
    amounts = [motion("moving", 1, amount=True)]
    found = ClipClassifier.fit(grids, np.array(labels), 2, choices=amounts)
    assert found.validation_accuracy == 1.0
    shares = [motion("moving", 1)]
    without = ClipClassifier.fit(grids, np.array(labels), 2, choices=shares)
    assert without.validation_accuracy < 1.0


def test_two_that_change_places_are_the_same_blocks():
    """Two squares, one moves right and one down: which is where says nothing of the class."""
    rng = np.random.default_rng(0)
    kinds = [(RIGHT, DOWN), (RIGHT, RIGHT)]
    grids, labels = [], []
    for label, pair in enumerate(kinds):
        for _ in range(14):
            flow = np.zeros((20, 64, 96, 2), np.float32)
            for side, path in enumerate(rng.permutation(2)):
                left, top = 48 * side + int(rng.integers(4, 24)), int(rng.integers(4, 40))
                flow[:, top : top + 16, left : left + 16] = pair[path][:, None, None]
            made = entry(RIGHT)
            made.flow = flow
            grids.append(clip_grids(made))
            labels.append(label)
    labels_N = np.array(labels)
    blocks = ClipClassifier.fit(grids, labels_N, 2, choices=[motion("none", local=True)])
    assert blocks.validation_accuracy == 1.0
    found = ClipClassifier.fit(grids, labels_N, 2)
    assert LOCAL in found.members[0].how.pieces


def test_what_all_clips_are_right_by_is_still_not_beyond_doubt():
    grids, labels = clips([RIGHT, DOWN], 8)
    found = ClipClassifier.fit(grids, labels, 2)
    assert found.validation_accuracy == 1.0
    powers = np.exp(found.validation_logits)
    shares = powers / powers.sum(1, keepdims=True)
    assert 0.9 < shares.max(1).mean() < 1 - 1e-4


def test_many_clips_are_described_in_few_ways():
    assert len(candidates(300, mirror=True)) == 77
    assert all(how.mirror for how in candidates(300, mirror=True))
    many = candidates(5000, mirror=True)
    assert len(many) == 2
    assert not any(how.mirror for how in many)


def test_mirrored_training_teaches_the_other_side():
    grids, labels = clips([RIGHT, DOWN], 8)
    mirror = ClipClassifier.fit(grids, labels, 2, choices=[motion(mirror=True)], mirror=True)
    turned = [clip.mirrored() for clip in grids]
    assert (mirror.logits(turned).argmax(1) == labels).all()


def test_a_restored_classifier_gives_the_same_logits():
    grids, labels = clips([RIGHT, DOWN, -RIGHT], 6)
    found = ClipClassifier.fit(grids, labels, 4)  # a class without a clip
    again = ClipClassifier.from_state(found.state())
    np.testing.assert_allclose(again.logits(grids), found.logits(grids), rtol=1e-9)
    assert again.members == found.members
    assert found.logits(grids)[:, 3].max() < found.logits(grids)[:, :3].min()


def test_a_classifier_of_one_description_is_to_be_trained_again():
    facts = {"grids": "both", "parts": 4, "num_classes": 2, "temperature": 1.0}
    state = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    with pytest.raises(WeightsError, match="of an older flowpipe; train its stream again"):
        ClipClassifier.from_state(state)


def test_groups_are_never_on_both_sides_of_the_validation():
    # Each group has a look of its own and random labels: only a torn group could be guessed.
    rng = np.random.default_rng(1)
    grids, labels, groups = [], [], []
    for group in range(12):
        path = rng.normal(0, 2, (20, 2))
        for _ in range(4):
            grids.append(clip_grids(entry(path + rng.normal(0, 0.01, path.shape))))
            labels.append(group % 2)
            groups.append(f"g{group}")
    labels_N = np.array(labels)
    whole = ClipClassifier.fit(grids, labels_N, 2, groups=groups)
    torn = ClipClassifier.fit(grids, labels_N, 2)
    assert torn.validation_accuracy > 0.95
    assert whole.validation_accuracy < 0.85


def test_one_class_is_refused():
    grids, _ = clips([RIGHT], 3)
    with pytest.raises(InvalidArgument, match="of one class only"):
        ClipClassifier.fit(grids, np.zeros(3, np.int64), 2)


def test_a_range_without_fields_is_refused():
    with pytest.raises(InvalidArgument, match=r"fields \[5, 5\) of 20"):
        clip_grids(entry(RIGHT), 5, 5)


LEFT, UP = -RIGHT, -DOWN


@pytest.mark.parametrize(
    ("kinds", "images"),
    [
        ([LEFT, RIGHT, UP, DOWN], {0: 1, 1: 0}),
        ([UP, DOWN], {}),
        # What goes one way only, beside what goes up: no clip of it is of the other class.
        ([RIGHT, UP], {}),
        # Too few clips to say.
        ([LEFT[:1], RIGHT[:1]], {}),
    ],
)
def test_classes_that_a_mirror_turns_into_each_other_are_found(kinds, images):
    grids, labels = clips(kinds, 8 if len(kinds[0]) > 1 else 3)
    assert mirror_images(grids, labels, len(kinds)) == images


def test_clips_that_go_either_way_are_not_taken_for_mirror_images():
    grids, labels = clips([LEFT, RIGHT, UP, DOWN], 6)
    assert mirror_images(grids, labels // 2, 2) == {}
