"""Videos that only time tells apart: frames are noise, motion draws the class."""

import csv

import cv2
import numpy as np
import pytest

from flowpipe.datasets.time_only import (
    BLUR_SIGMA_PX,
    CLASSES,
    DIRECTIONS,
    KINDS,
    NUM_FRAMES,
    SIZE_PX,
    frames,
    outline,
    write_videos,
)
from flowpipe.errors import InvalidArgument
from flowpipe.flow import create
from flowpipe.video import VideoReader


def drawn(label, noise, speed, seed=0):
    """Frames of a clip, its outline and direction: the generator is drawn from alike."""
    pictures = frames(np.random.default_rng(seed), label, noise, speed)
    rng = np.random.default_rng(seed)
    return pictures, outline(rng, label), DIRECTIONS[rng.integers(len(DIRECTIONS))]


@pytest.mark.parametrize(("noise", "speed"), KINDS)
def test_inside_moves_one_way_and_outside_the_other(noise, speed):
    pictures, inside, (dx, dy) = drawn("square", noise, speed)
    first, second = (picture.astype(float) for picture in pictures[:2])
    reach = int(4 * BLUR_SIGMA_PX) + speed
    for region, sign in ((inside, 1), (~inside, -1)):
        moved = np.roll(first, (sign * dy * speed, sign * dx * speed), (0, 1))
        around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        edge = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
        deep = cv2.erode(region.astype(np.uint8), around, **edge).astype(bool)
        assert deep.sum() > 500
        np.testing.assert_allclose(second[deep], moved[deep], atol=1)


@pytest.mark.parametrize("noise", ["raw", "blurred"])
def test_a_frame_is_noise_inside_outside_and_along_the_seam(noise):
    values = {"inside": [], "outside": [], "seam": []}
    for seed in range(12):
        pictures, inside, _ = drawn("circle", noise, 1, seed)
        seam = inside ^ np.roll(inside, 1, 1)
        step = np.abs(np.diff(pictures[3].astype(float), axis=1, prepend=0))
        values["seam"].append(step[seam].mean())
        values["inside"].append(step[inside & ~seam].mean())
        values["outside"].append(step[:, 1:][~(inside | seam)[:, 1:]].mean())
    means = {name: np.mean(v) for name, v in values.items()}
    errors = {name: np.std(v) / np.sqrt(len(v)) for name, v in values.items()}
    assert abs(means["seam"] - means["inside"]) < 4 * (errors["seam"] + errors["inside"])
    assert abs(means["outside"] - means["inside"]) < 4 * (errors["outside"] + errors["inside"])


def test_flow_sees_the_outline():
    pictures, inside, direction = drawn("ring", "blurred", 1)
    method = create("tvl1", attachment=0.05)
    uv = sum(method(*pictures[n : n + 2]) for n in range(3))
    seen = uv @ np.array(direction) > 0
    assert (seen & inside).sum() / (seen | inside).sum() > 0.8


def test_outlines_differ_and_have_room():
    areas = set()
    for label in CLASSES:
        masks = [outline(np.random.default_rng(seed), label) for seed in range(5)]
        for mask in masks:
            assert 400 < mask.sum() < SIZE_PX**2 / 2
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert border.mean() < 0.1
        areas.add(int(masks[0].sum()))
    assert len(areas) == len(CLASSES)


def test_files_are_lossless_and_written_once(tmp_path):
    path = write_videos(tmp_path / "videos", clips=80, seed=3)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 80
    assert {row["label"] for row in rows} == set(CLASSES)
    assert sum(row["split"] == "test" for row in rows) == 20
    assert {(row["noise"], int(row["speed_px"])) for row in rows} == set(KINDS)
    number = 17
    row = rows[number]
    drawn_again = frames(
        np.random.default_rng([3, number]), row["label"], row["noise"], int(row["speed_px"])
    )
    decoded = [frame.grey_HW for frame in VideoReader(path.parent / row["video"])]
    assert len(decoded) == NUM_FRAMES
    for ours, theirs in zip(decoded, drawn_again, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1  # 220 levels in the file
    video = path.parent / rows[0]["video"]
    before = video.stat().st_mtime_ns
    assert write_videos(tmp_path / "videos", clips=80, seed=3) == path
    assert video.stat().st_mtime_ns == before
    with pytest.raises(InvalidArgument, match="holds generated videos of the settings"):
        write_videos(tmp_path / "videos", clips=90)


def test_refusals(tmp_path):
    with pytest.raises(InvalidArgument, match="clips 20 must be >= 80 and seed 0 >= 0"):
        write_videos(tmp_path, clips=20)
    (tmp_path / "annotations.csv").write_text("video,label\n")
    with pytest.raises(InvalidArgument, match="not of generated videos; give another folder"):
        write_videos(tmp_path)
