"""Generated videos: counts, split, repeatability, and that texture and motion stay apart."""

import csv
from collections import Counter

import numpy as np
import pytest

from flowpipe.datasets.synthetic import (
    _RANGES,
    MOTIONS,
    NUM_FRAMES,
    SIZE_PX,
    TEXTURES,
    _draw_scene,
    write_videos,
)
from flowpipe.errors import InvalidArgument
from flowpipe.video import VideoReader, find_videos

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    seen = []
    path = write_videos(folder, clips=40, seed=3, on_progress=lambda *done: seen.append(done))
    with path.open(newline="") as stream:
        return folder, path, list(csv.DictReader(stream)), seen


def scenes(count, **fixed):
    for k in range(count):
        rng = np.random.default_rng([7, k])
        chosen = {
            "texture": TEXTURES[k % 3],
            "motion": MOTIONS[(k // 3) % 3],
            "split": SPLITS[k % 2],
            **fixed,
        }
        yield _draw_scene(rng, chosen["texture"], chosen["motion"], chosen["split"])


def moved(scene, t):
    return scene.displacement_px(scene.motion, t)


def flow_of(scene, t):
    """Give the true flow of the patch from frame t to t+1 at the pixels inside, and positions."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float64)
    here = np.stack(scene.to_texture(x, y, t))
    inside = np.hypot(*here) < scene.radius_px
    # Both maps are affine; where does the texture point of (x, y) stand one frame later?
    origin = np.array(scene.to_texture(np.zeros(1), np.zeros(1), t + 1))[:, 0]
    columns = [
        np.array(scene.to_texture(np.eye(2)[k][:1], np.eye(2)[k][1:], t + 1))[:, 0] - origin
        for k in range(2)
    ]
    matrix = np.stack(columns, axis=1)
    points = here[:, inside]
    there = np.linalg.solve(matrix, points - origin[:, None])
    positions = np.stack([x[inside], y[inside]])
    return there - positions, positions


def test_list_and_files_agree(written):
    folder, path, rows, _ = written
    assert path == folder / "annotations.csv"
    assert list(rows[0]) == ["video", "label", "texture", "motion", "split"]
    assert sorted(row["video"] for row in rows) == [
        video.relative_to(folder).as_posix() for video in find_videos(folder)
    ]
    for row in rows:
        assert row["label"] == f"{row['texture']}-{row['motion']}" == row["video"].split("/")[0]
    assert not list(folder.rglob("*.part"))


def test_clips_are_spread_over_the_classes(written):
    _, _, rows, seen = written
    counts = Counter(row["label"] for row in rows)
    assert len(counts) == 9
    assert sum(counts.values()) == 40
    assert set(counts.values()) == {4, 5}
    assert {(row["label"], row["split"]) for row in rows} == {
        (f"{texture}-{motion}", split)
        for texture in TEXTURES
        for motion in MOTIONS
        for split in SPLITS
    }
    assert seen == [(k + 1, 40) for k in range(40)]


def test_the_videos_are_those_computed(written):
    folder, _, rows, _ = written
    row = next(row for row in rows if row["label"] == "stripes-rotate")
    number = [f"{t}-{m}" for t in TEXTURES for m in MOTIONS].index(row["label"])
    scene = _draw_scene(np.random.default_rng([3, number, 0]), "stripes", "rotate", row["split"])
    reader = VideoReader(folder / row["video"], rgb=True)
    frames = list(reader)
    assert len(frames) == NUM_FRAMES
    assert reader.problem is None
    for t in (0, 11, 23):
        computed = scene.picture(t).mean(axis=2)
        assert np.abs(frames[t].rgb_HWC.mean(axis=2) - computed).mean() < 4


def test_the_same_seed_gives_the_same_videos_and_another_seed_others(written, tmp_path):
    def pictures(path):
        return np.stack([frame.rgb_HWC for frame in VideoReader(path, rgb=True)]).astype(float)

    folder, path, rows, _ = written
    again = write_videos(tmp_path / "again", clips=40, seed=3)
    assert again.read_bytes() == path.read_bytes()
    for row in rows[::7]:
        # Not byte for byte: x264 chooses now and then differently for the same pictures.
        first, second = pictures(folder / row["video"]), pictures(again.parent / row["video"])
        assert np.abs(first - second).mean() < 0.5
    other = write_videos(tmp_path / "other", clips=18, seed=4)
    video = rows[0]["video"]
    assert np.abs(pictures(other.parent / video) - pictures(folder / video)).mean() > 5


def test_a_second_call_writes_nothing_and_a_lost_video_is_written_again(tmp_path):
    path = write_videos(tmp_path, clips=18)
    videos = find_videos(tmp_path)
    before = [video.stat().st_mtime_ns for video in videos]
    calls = []
    assert write_videos(tmp_path, clips=18, on_progress=lambda *done: calls.append(done)) == path
    assert calls == []
    assert [video.stat().st_mtime_ns for video in videos] == before
    content = videos[4].read_bytes()
    videos[4].unlink()
    write_videos(tmp_path, clips=18)
    assert videos[4].read_bytes() == content


def test_a_folder_of_other_settings_is_refused(tmp_path):
    write_videos(tmp_path / "a", clips=18)
    with pytest.raises(InvalidArgument, match=r"of the settings .* give another folder"):
        write_videos(tmp_path / "a", clips=18, seed=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "annotations.csv").write_text("my own list\n")
    with pytest.raises(InvalidArgument, match="not of generated videos; give another folder"):
        write_videos(tmp_path / "b", clips=18)
    assert (tmp_path / "b" / "annotations.csv").read_text() == "my own list\n"


@pytest.mark.parametrize(
    ("arguments", "message"), [({"clips": 17}, "clips 17 must be >= 18"), ({"seed": -1}, "seed -1")]
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        write_videos(tmp_path, **arguments)


def test_ranges_of_training_and_testing_do_not_meet():
    for ranges in _RANGES.values():
        for low, high in ranges["train"]:
            for other_low, other_high in ranges["test"]:
                assert high < other_low or other_high < low


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_stay_in_the_ranges_of_their_split(split):
    middle = (SIZE_PX - 1) / 2
    for scene in scenes(60, split=split):
        for name, value in (
            ("speed", scene.speed),
            ("radius", scene.radius_px),
            ("wavelength", scene.wavelength_px),
        ):
            assert any(low <= value <= high for low, high in _RANGES[name][split])
        bin_15_degrees = int(scene.orientation // (np.pi / 12))
        assert bin_15_degrees % 2 == (split == "test")
        x, y = scene.centre_xy[0] - middle, scene.centre_xy[1] - middle
        assert (x * y < 0) == (split == "test")


def test_each_motion_is_what_it_is_called():
    for scene in scenes(36):
        uv, positions = flow_of(scene, 0.25)
        position = positions - positions.mean(axis=1, keepdims=True)
        radius_squared = (position**2).sum()
        # Least squares of the field as drift + turn · (−y, x) + growth · (x, y).
        turn = abs((uv[1] * position[0] - uv[0] * position[1]).sum() / radius_squared)
        growth = abs((uv * position).sum() / radius_squared)
        drift = np.hypot(*uv.mean(axis=1))
        share = {
            "translate": drift,
            "rotate": turn * scene.radius_px * 2 / 3,
            "zoom": growth * scene.radius_px * 2 / 3,
        }
        if max(share.values()) < 0.3:
            continue  # a turning point lies between the two frames
        assert max(share, key=share.__getitem__) == scene.motion


def test_mean_speed_says_nothing_of_the_motion():
    ratios = []
    for k, scene in enumerate(scenes(90, texture="blobs")):
        assert scene.motion == MOTIONS[k // 3 % 3]
        times = np.arange(0, 23, 0.5)
        steps = [
            np.hypot(*flow_of(scene, t)[0]).mean()
            for t in times
            if abs(abs(moved(scene, t + 1) - moved(scene, t)) - scene.speed) < 1e-6
        ]
        assert len(steps) > 5
        assert np.mean(steps) == pytest.approx(scene.speed, rel=0.5)
        ratios.append(np.mean(steps) / scene.speed)
    means = np.array(ratios).reshape(-1, 3, 3).mean(axis=(0, 2))
    np.testing.assert_allclose(means, 1, atol=0.1)


def test_the_patch_stays_inside_the_picture_and_the_background_stands_still():
    for scene in scenes(36):
        first, *others = (scene.picture(t) for t in range(0, NUM_FRAMES, 3))
        border = np.ones((SIZE_PX, SIZE_PX), bool)
        border[1:-1, 1:-1] = False
        for later in others:
            np.testing.assert_array_equal(first[border], later[border])
        assert max(np.abs(first.astype(int) - later).max() for later in others) > 50


@pytest.mark.parametrize("texture", TEXTURES)
def test_one_frame_says_nothing_of_the_motion(texture):
    """The same draws give the same first picture, whatever the motion."""
    first = [
        _draw_scene(np.random.default_rng(5), texture, motion, "train").picture(0)
        for motion in MOTIONS
    ]
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[0], first[2])


def test_later_frames_are_distributed_as_the_first():
    """Place, turn and scale are uniform over the travel at every instant."""
    for motion in MOTIONS:
        drawn = list(scenes(600, motion=motion))
        for t in (0, 5, 23):
            for name in MOTIONS:
                places = [scene.displacement_px(name, t) / scene.travel_px for scene in drawn]
                share, _ = np.histogram(places, bins=4, range=(-0.5, 0.5))
                np.testing.assert_allclose(share / len(drawn), 0.25, atol=0.075)


def test_the_texture_does_not_change_the_motion():
    for motion in MOTIONS:
        fields = [
            flow_of(_draw_scene(np.random.default_rng(5), texture, motion, "test"), 2)[0]
            for texture in TEXTURES
        ]
        np.testing.assert_allclose(fields[0], fields[1])
        np.testing.assert_allclose(fields[0], fields[2])
