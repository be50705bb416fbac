"""Crops, flips and resizing: what is true of motion must stay true of its codes."""

import cv2
import numpy as np
import pytest

from flowpipe.clips import transforms
from flowpipe.clips.transforms import View
from flowpipe.errors import InvalidArgument

BOUND_PX = 20.0


def to_u8(flow):
    return (np.rint(flow * 127 / BOUND_PX) + 128).astype(np.uint8)


def from_u8(codes):
    return (codes.astype(np.float32) - 128) * BOUND_PX / 127


def to_i16(flow):
    return np.rint(flow * 64).astype(np.int16)


def from_i16(codes):
    return codes.astype(np.float32) / 64


def to_f16(flow):
    return flow.astype(np.float16)


def from_f16(codes):
    return codes.astype(np.float32)


STORAGES = {
    "u8": (to_u8, from_u8, BOUND_PX / 254),
    "i16": (to_i16, from_i16, 1 / 128),
    "f16": (to_f16, from_f16, 0.005),
}


@pytest.fixture(params=STORAGES)
def storage(request):
    return STORAGES[request.param]


def some_flow(rng, frames=3, rows=12, columns=16):
    return rng.uniform(-9, 9, (frames, 2, rows, columns)).astype(np.float32)


def test_flip_mirrors_and_negates_u_but_not_v_exactly(storage):
    encode, decode, _ = storage
    codes = encode(some_flow(np.random.default_rng(0)))
    flipped = transforms.flip_horizontal(codes, "flow")
    assert flipped.dtype == codes.dtype
    np.testing.assert_array_equal(decode(flipped)[:, 0], -decode(codes)[:, 0, :, ::-1])
    np.testing.assert_array_equal(decode(flipped)[:, 1], decode(codes)[:, 1, :, ::-1])


def test_flip_leaves_the_clip_it_was_given_alone_and_twice_is_nothing(storage):
    encode, _, _ = storage
    codes = encode(some_flow(np.random.default_rng(1)))
    before = codes.copy()
    twice = transforms.flip_horizontal(transforms.flip_horizontal(codes, "flow"), "flow")
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(twice, before)


def test_flip_of_every_mid_tread_code():
    codes = np.arange(1, 256, dtype=np.uint8).reshape(1, 1, 1, 255).repeat(2, axis=1)
    flipped = transforms.flip_horizontal(codes, "flow")
    np.testing.assert_array_equal(flipped[0, 0, 0], np.arange(1, 256))  # 256 − c, mirrored
    np.testing.assert_array_equal(flipped[0, 1, 0], np.arange(255, 0, -1))


def test_flip_of_pictures_and_differences_only_mirrors():
    rgb = np.random.default_rng(2).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    difference = rgb.astype(np.int16) - 100
    np.testing.assert_array_equal(transforms.flip_horizontal(rgb, "rgb"), rgb[..., ::-1])
    np.testing.assert_array_equal(
        transforms.flip_horizontal(difference, "rgbdiff"), difference[..., ::-1]
    )


@pytest.mark.parametrize("box", [(0, 5, 0, 7), (1, 4, 2, 5), (2, 3, 0, 1)])
def test_flip_of_a_view_into_larger_frames(storage, box):
    encode, decode, _ = storage
    top, bottom, left, right = box
    codes = encode(some_flow(np.random.default_rng(4)))[..., top:bottom, left:right]
    flipped = transforms.flip_horizontal(codes, "flow")
    assert flipped.dtype == codes.dtype
    expected = decode(codes)[..., ::-1] * np.float32([-1, 1])[None, :, None, None]
    np.testing.assert_array_equal(decode(flipped), expected)


@pytest.mark.parametrize("output", [(24, 16), (6, 32), (6, 8), (24, 32), (9, 11)])
def test_resizing_a_constant_field_scales_u_by_width_and_v_by_height(storage, output):
    encode, decode, half_step = storage
    flow = np.empty((2, 2, 12, 16), np.float32)
    flow[:, 0], flow[:, 1] = 3.0, -4.0
    codes = transforms.resize(encode(flow), output, "flow")
    assert codes.shape == (2, 2, *output)
    assert codes.dtype == encode(flow).dtype
    tolerance = 4 * half_step  # the input's rounding is scaled too, by at most 2
    assert np.abs(decode(codes)[:, 0] - 3.0 * output[1] / 16).max() <= tolerance
    assert np.abs(decode(codes)[:, 1] + 4.0 * output[0] / 12).max() <= tolerance


def test_zero_flow_stays_exactly_zero_when_resized(storage):
    encode, decode, _ = storage
    codes = transforms.resize(encode(np.zeros((1, 2, 7, 5), np.float32)), (13, 9), "flow")
    assert (decode(codes) == 0).all()


def test_resizing_agrees_with_resizing_the_flow_in_pixels(storage):
    encode, decode, half_step = storage
    rng = np.random.default_rng(3)
    flow = cv2.GaussianBlur(rng.uniform(-60, 60, (24, 32)).astype(np.float32), (0, 0), 3)
    codes = encode(np.stack([flow, flow])[None])
    expected = cv2.resize(decode(codes)[0, 0], (48, 36), interpolation=cv2.INTER_LINEAR) * 1.5
    got = decode(transforms.resize(codes, (36, 48), "flow"))[0, 0]
    assert np.abs(got - expected).max() <= half_step * 1.01


def test_resized_u8_flow_is_clipped_at_the_bound_and_never_becomes_code_zero():
    codes = np.zeros((1, 2, 4, 4), np.uint8)
    codes[:, 0], codes[:, 1] = 250, 5
    resized = transforms.resize(codes, (8, 8), "flow")
    assert (resized[:, 0] == 255).all()
    assert (resized[:, 1] == 1).all()


def test_resizing_pictures_keeps_black_and_white():
    rgb = np.zeros((1, 3, 6, 6), np.uint8)
    rgb[:, 1] = 255
    resized = transforms.resize(rgb, (9, 9), "rgb")
    assert (resized[:, 0] == 0).all()
    assert (resized[:, 1] == 255).all()


def test_resizing_to_half_averages_areas():
    rgb = np.array([[0, 10], [20, 30]], np.uint8).reshape(1, 1, 2, 2).repeat(3, axis=1)
    assert (transforms.resize(rgb, (1, 1), "rgb") == 15).all()


def test_apply_view_crops_before_it_resizes_and_flips_last():
    rows, columns = np.mgrid[0:20, 0:30]
    rgb = np.stack([rows, columns, rows])[None].astype(np.uint8)
    seen = transforms.apply_view(rgb, View(4, 6, 8, 10, flip=True), (8, 10), "rgb")
    np.testing.assert_array_equal(seen[0, 0], rows[4:12, 6:16])
    np.testing.assert_array_equal(seen[0, 1], columns[4:12, 6:16][:, ::-1])
    assert seen.flags.c_contiguous


def test_cropped_flow_without_resize_is_untouched(storage):
    encode, _, _ = storage
    codes = encode(some_flow(np.random.default_rng(4)))
    seen = transforms.apply_view(codes, View(2, 3, 5, 7), (5, 7), "flow")
    np.testing.assert_array_equal(seen, codes[..., 2:7, 3:10])


def test_a_view_beyond_the_frame_is_refused():
    rgb = np.zeros((1, 3, 10, 10), np.uint8)
    with pytest.raises(InvalidArgument, match="reaches beyond the frame of 10×10"):
        transforms.apply_view(rgb, View(4, 0, 8, 8), (8, 8), "rgb")
    with pytest.raises(InvalidArgument, match="must begin inside the frame"):
        View(-1, 0, 4, 4)


@pytest.mark.parametrize(
    ("frame", "output", "scale", "expected"),
    [
        ((256, 340), (224, 224), 0.875, (224, 224)),
        ((256, 340), (224, 224), 1.0, (256, 256)),
        ((144, 180), (224, 224), 1.0, (144, 144)),
        ((100, 300), (112, 224), 1.0, (100, 200)),
        ((300, 100), (112, 224), 0.5, (25, 50)),
        ((1, 1), (9, 9), 0.1, (1, 1)),
    ],
)
def test_box_size(frame, output, scale, expected):
    assert transforms.box_size(frame, output, scale) == expected


def test_drawn_views_stay_inside_and_take_corners_and_centre_alone():
    rng = np.random.default_rng(5)
    views = [transforms.draw_view((64, 90), (56, 56), rng, scales=(0.875,)) for _ in range(300)]
    assert {(view.top, view.left) for view in views} == {(0, 0), (0, 34), (8, 0), (8, 34), (4, 17)}
    assert {view.flip for view in views} == {False, True}
    assert {(view.height, view.width) for view in views} == {(56, 56)}


def test_multi_scale_views_are_no_more_distorted_than_asked():
    rng = np.random.default_rng(6)
    views = [transforms.draw_view((100, 130), (32, 32), rng) for _ in range(400)]
    sides = [100, 88, 75, 66]
    pairs = {(view.height, view.width) for view in views}
    assert pairs == {
        (first, second)
        for row, first in enumerate(sides)
        for column, second in enumerate(sides)
        if abs(row - column) <= 1
    }
    square = [transforms.draw_view((100, 130), (32, 32), rng, max_distortion=0) for _ in range(50)]
    assert all(view.height == view.width for view in square)


def test_random_views_reach_every_place():
    rng = np.random.default_rng(7)
    views = [
        transforms.draw_view((10, 12), (8, 8), rng, scales=(0.8,), crop="random", flip=False)
        for _ in range(500)
    ]
    assert {view.top for view in views} == {0, 1, 2}
    assert {view.left for view in views} == {0, 1, 2, 3, 4}
    assert not any(view.flip for view in views)


def test_the_same_generator_state_draws_the_same_view():
    first, second = (
        transforms.draw_view((64, 64), (32, 32), np.random.default_rng(8), crop="random")
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("crops", "expected"),
    [
        ("center", [(2, 6)]),
        ("three", [(2, 0), (2, 6), (2, 12)]),
        ("five", [(0, 0), (0, 12), (4, 0), (4, 12), (2, 6)]),
    ],
)
def test_views_of_a_test_clip(crops, expected):
    views = transforms.make_test_views((20, 28), (8, 8), crops=crops, scale=0.8)
    assert [(view.top, view.left) for view in views] == expected
    assert {(view.height, view.width, view.flip) for view in views} == {(16, 16, False)}


def test_three_views_follow_the_long_side_of_an_upright_frame():
    views = transforms.make_test_views((28, 20), (8, 8), crops="three", scale=0.8)
    assert [(view.top, view.left) for view in views] == [(0, 2), (6, 2), (12, 2)]


def test_ten_views_are_five_and_their_mirror_images():
    five = transforms.make_test_views((20, 28), (8, 8), crops="five")
    ten = transforms.make_test_views((20, 28), (8, 8), crops="ten")
    assert ten[:5] == five
    assert [(v.top, v.left, v.flip) for v in ten[5:]] == [(v.top, v.left, True) for v in five]
    assert len(transforms.make_test_views((20, 28), (8, 8), crops="ten", flip=True)) == 10
    assert len(transforms.make_test_views((20, 28), (8, 8), crops="three", flip=True)) == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: transforms.box_size((8, 8), (4, 4), 0.0), r"scale 0.0 must be in \(0, 1\]"),
        (lambda rng: transforms.draw_view((8, 8), (4, 4), rng, scales=()), "scales is empty"),
        (lambda rng: transforms.draw_view((8, 8), (4, 4), rng, crop="edge"), 'crop "edge"'),
        (
            lambda rng: transforms.draw_view((8, 8), (4, 4), rng, max_distortion=-1),
            "max_distortion -1 must be ≥ 0",
        ),
        (lambda rng: transforms.make_test_views((8, 8), (4, 4), crops="six"), 'crops "six"'),
        (lambda rng: transforms.to_layout(np.zeros((1, 2, 3, 3)), "HWC"), 'layout "HWC"'),
    ],
)
def test_an_argument_outside_of_its_rule_is_refused(call, message):
    with pytest.raises(InvalidArgument, match=message):
        call(np.random.default_rng(0))


def test_layouts_put_the_first_frame_first():
    labels = np.arange(4 * 2).reshape(4, 2, 1, 1) + np.zeros((4, 2, 3, 5), np.int64)
    # frame t, channel c carries 2 t + c
    stack = transforms.to_layout(labels, "CHW")
    assert stack.shape == (8, 3, 5)
    assert stack[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # u0 v0 u1 v1 …
    volume = transforms.to_layout(labels, "CTHW")
    assert volume.shape == (2, 4, 3, 5)
    assert volume[:, :, 0, 0].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert transforms.to_layout(labels, "TCHW").shape == (4, 2, 3, 5)
