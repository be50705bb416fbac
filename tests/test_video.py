"""flowpipe.video against videos written here, whose frames carry their number as brightness."""

import csv
import hashlib
import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from flowpipe.errors import InvalidArgument, VideoError, VideoNotFound
from flowpipe.video import (
    VIDEO_EXTENSIONS,
    VideoReader,
    content_digest,
    find_videos,
    output_size,
    probe,
)
from flowpipe.video.decoding import Damage
from flowpipe.video.times import fps_rule, resample, with_times

TICKS = Fraction(1, 12800)


def brightness(number):
    return 30 + 10 * number


def numbered(count, height=48, width=64):
    """Grey RGB pictures whose brightness is 30 + 10 · number."""
    return [np.full((height, width, 3), brightness(k), np.uint8) for k in range(count)]


def quadrants(height=48, width=64):
    """A picture whose four quarters differ, so that every turn and flip shows."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    picture[:h, :w], picture[:h, w:] = 40, 100
    picture[h:, :w], picture[h:, w:] = 160, 220
    return picture


def write_video(
    path,
    pictures,
    *,
    times=None,
    fps=10,
    codec="libx264",
    pix_fmt="yuv420p",
    rotation=0,
    options=None,
    full_range=False,
):
    """Write RGB pictures; `times` in seconds, else k/fps."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = TICKS if codec == "libx264" else Fraction(1, fps)
        if codec == "libx264":
            stream.options = {"crf": "1", **(options or {})}
        if full_range:
            stream.codec_context.color_range = 2
        if rotation:
            stream.set_display_rotation(rotation)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if full_range:
                frame = frame.reformat(format=pix_fmt, dst_color_range=2)
            time_s = k / fps if times is None else times[k]
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time_s / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for k in range(4):
            sound = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def number_of(frame):
    """Read the number back from the brightness."""
    return round((float(frame.grey_HW.mean()) - 30) / 10)


# --- frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "b-adapt": "0", "b_strategy": "0"}])
def test_frames_come_in_presentation_order(tmp_path, options):
    path = write_video(tmp_path / "a.mp4", numbered(17), options=options)
    frames = list(VideoReader(path, rgb=True))
    assert [frame.index for frame in frames] == list(range(17))
    assert [number_of(frame) for frame in frames] == list(range(17))
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.arange(17) / 10, atol=1e-4)
    for k, frame in enumerate(frames):
        assert frame.grey_HW.shape == (48, 64)
        assert frame.rgb_HWC.shape == (48, 64, 3)
        assert frame.grey_HW.dtype == frame.rgb_HWC.dtype == np.uint8
        assert abs(frame.rgb_HWC.mean() - brightness(k)) < 2.5
        assert abs(frame.grey_HW.mean() - brightness(k)) < 2.5


def test_a_reader_can_be_iterated_twice_and_left_in_the_middle(tmp_path):
    reader = VideoReader(write_video(tmp_path / "a.mp4", numbered(5)))
    for _ in reader:
        break
    assert [number_of(frame) for frame in reader] == [0, 1, 2, 3, 4]
    assert [number_of(frame) for frame in reader] == [0, 1, 2, 3, 4]
    assert reader.problem is None
    assert next(iter(reader)).rgb_HWC is None


def test_variable_timestamps_are_kept(tmp_path):
    times = [0.0, 0.1, 0.5, 0.52, 2.0]
    path = write_video(tmp_path / "a.mp4", numbered(5), times=times)
    assert [f.pts_s for f in VideoReader(path)] == pytest.approx(times, abs=1e-4)


def test_one_frame_is_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(1))
    reader = VideoReader(path)
    assert [number_of(frame) for frame in reader] == [0]
    assert reader.problem is None
    assert [f.pts_s for f in VideoReader(path, fps=30)] == [0.0]


def test_odd_sizes_give_contiguous_pictures(tmp_path):
    picture = np.zeros((33, 65, 3), np.uint8)
    picture[:, 33:] = 200
    path = write_video(tmp_path / "a.mp4", [picture] * 2, pix_fmt="yuv444p")
    for frame in VideoReader(path, rgb=True):
        assert frame.grey_HW.flags.c_contiguous
        assert frame.rgb_HWC.flags.c_contiguous
        np.testing.assert_allclose(frame.grey_HW, picture[:, :, 0], atol=4)


@pytest.mark.parametrize(
    ("pix_fmt", "full_range"),
    [("yuv420p", False), ("yuvj420p", True), ("yuv444p", False), ("yuv420p10le", False)],
)
def test_grey_has_the_scale_of_rgb_whatever_the_format(tmp_path, pix_fmt, full_range):
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 3, axis=2)
    picture = np.repeat(ramp, 48, axis=0)
    path = write_video(tmp_path / "a.mp4", [picture], pix_fmt=pix_fmt, full_range=full_range)
    assert probe(path).pixel_format == pix_fmt
    (frame,) = VideoReader(path, rgb=True)
    grey_of_rgb = cv2.cvtColor(frame.rgb_HWC, cv2.COLOR_RGB2GRAY)
    assert np.abs(frame.grey_HW.astype(int) - picture[:, :, 0]).mean() < 2
    assert np.abs(frame.grey_HW.astype(int) - grey_of_rgb).max() <= 2


@pytest.mark.parametrize(("rotation", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3)])
def test_rotation_is_applied_counterclockwise(tmp_path, rotation, turns):
    picture = quadrants()
    path = write_video(tmp_path / "a.mp4", [picture], rotation=rotation)
    info = probe(path)
    assert info.rotation == rotation % 360
    expected = np.rot90(picture, turns)
    assert (info.height, info.width) == expected.shape[:2]
    (frame,) = VideoReader(path, rgb=True)
    for shown in (frame.grey_HW, frame.rgb_HWC[:, :, 1]):
        assert np.abs(shown.astype(int) - expected[:, :, 0]).mean() < 3


# --- size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "short_side", "size", "expected"),
    [
        ((240, 320), 256, None, (256, 341)),
        ((320, 240), 256, None, (341, 256)),
        ((240, 320), None, (224, 224), (224, 224)),
        ((240, 320), None, None, (240, 320)),
        ((3, 1000), 1, None, (1, 333)),
        ((2, 5), 1, None, (1, 3)),
        ((1080, 1920), 256, None, (256, 455)),
    ],
)
def test_output_size(shape, short_side, size, expected):
    assert output_size(*shape, short_side=short_side, size=size) == expected


@pytest.mark.parametrize("geometry", [{"short_side": 24}, {"size": (100, 90)}, {"short_side": 96}])
def test_size_applies_to_grey_and_rgb_after_rotation(tmp_path, geometry):
    path = write_video(tmp_path / "a.mp4", [quadrants()], rotation=90)
    reader = VideoReader(path, rgb=True, **geometry)
    (frame,) = reader
    assert frame.grey_HW.shape == output_size(64, 48, **geometry) == reader.output_size
    assert frame.rgb_HWC.shape == (*reader.output_size, 3)
    width = reader.output_size[1]
    corners = frame.grey_HW[[2, 2, -3, -3], [2, width - 3, 2, width - 3]]
    np.testing.assert_allclose(corners, [100, 220, 40, 160], atol=6)
    assert frame.grey_HW.flags.c_contiguous


def test_both_sizes_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(1))
    with pytest.raises(InvalidArgument, match="give one of the two"):
        VideoReader(path, short_side=20, size=(20, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_side": 0}, "short_side 0 px must be >= 1"),
        ({"size": (0, 3)}, r"size \(0, 3\) must be \(height, width\)"),
        ({"fps": 0.0}, "fps 0.0 must be > 0"),
        ({"fps": float("nan")}, "fps nan must be > 0"),
        ({"decode_threads": 0}, "decode_threads 0 must be >= 1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    path = write_video(tmp_path / "a.mp4", numbered(1))
    with pytest.raises(InvalidArgument, match=message):
        VideoReader(path, **arguments)


def test_max_pixels_guards_before_and_after_the_change_of_size(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(1))
    with pytest.raises(VideoError, match="more than max_pixels 3000; raise max_pixels"):
        VideoReader(path, max_pixels=3000)
    with pytest.raises(VideoError, match="would be brought to 480 × 640 px"):
        VideoReader(path, max_pixels=4000, size=(480, 640))


# --- rate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "fps", "shown"),
    [
        ([k / 8 for k in range(7)], 4, [0, 2, 4, 6]),
        ([k / 8 for k in range(7)], 16, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]),
        ([k / 8 for k in range(7)], 8, [0, 1, 2, 3, 4, 5, 6]),
        ([0.0, 0.033, 0.067, 0.1, 0.133], 30, [0, 1, 2, 3, 4]),  # Matroska's milliseconds
        ([0.0, 0.1, 0.5, 0.6], 10, [0, 1, 1, 1, 1, 2, 3]),
        ([5.0, 5.1, 5.2, 5.3], 5, [0, 2]),
        ([k / 25 for k in range(10)], 10, [0, 2, 5, 7]),
    ],
)
def test_resampling_takes_the_frame_on_show(tmp_path, times, fps, shown):
    path = write_video(tmp_path / "a.mkv", numbered(len(times)), times=times)
    frames = list(VideoReader(path, fps=fps))
    assert [number_of(frame) for frame in frames] == shown
    start_s = frames[0].pts_s
    assert start_s == pytest.approx(times[0], abs=1e-3)
    instants = start_s + np.arange(len(shown)) / fps
    np.testing.assert_allclose([frame.pts_s for frame in frames], instants, atol=1e-9)
    assert [frame.index for frame in frames] == list(range(len(shown)))


class Stamped:
    """A decoded frame as far as times go."""

    time_base = Fraction(1, 10)
    duration = 1

    def __init__(self, pts, dts):
        self.pts, self.dts = pts, dts


@pytest.mark.parametrize(
    ("pts", "dts", "expected", "moved"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3], 0),
        ([0, None, None, 3], [None] * 4, [0.0, 0.1, 0.2, 0.3], 0),
        ([None, None], [None] * 2, [0.0, 0.1], 0),
        ([0, 1, 1, 2, 3], [None] * 5, [0.0, 0.1, 0.15, 0.2, 0.3], 1),
        # XviD with packed B frames: pts turn back once and dts are taken from there on.
        ([1, 2, 3, 5, 4, 6, 8, 7], [1, 2, 3, 4, 5, 6, 7, 8], "5 moved", 1),
        # H.264 with missing pts where dts run backwards: pts stay.
        ([0, 1, 2, 3], [0, 2, 1, 3], [0.0, 0.1, 0.2, 0.3], 0),
    ],
)
def test_times_always_increase(pts, dts, expected, moved):
    damage = Damage()
    frames = [Stamped(p, d) for p, d in zip(pts, dts, strict=True)]
    times = [t for _, t in with_times(iter(frames), 10.0, damage)]
    if expected == "5 moved":
        expected = [0.1, 0.2, 0.3, 0.5, 0.55, 0.6, 0.7, 0.8]
    assert times == pytest.approx(expected)
    assert damage.moved_times == moved


def test_times_of_an_avi_are_its_dts():
    frames = [Stamped(p, d) for p, d in zip([1, 3, 2, 4], [1, 2, 3, 4], strict=True)]
    damage = Damage()
    times = [t for _, t in with_times(iter(frames), 10.0, damage, stores_no_pts=True)]
    assert times == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert damage.reason() is None


@pytest.mark.parametrize(
    ("times", "expected", "restarts", "moved"),
    [
        # Two files joined: the second goes on where the first ended, however often.
        ([3, 4, 5, 6, 7, 8, 9, 0, 1, 2], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 1, 0),
        ([*range(8), *range(8), *range(8)], [*range(24)], 2, 0),
        # One damaged timestamp, ahead or behind: only its own frame is moved.
        ([0, 1, 2, 90000, 4, 5], [0, 1, 2, 3, 4, 5], 0, 1),
        ([10, 11, 12, 0, 14, 15], [10, 11, 12, 12.5, 14, 15], 0, 1),
        # A long still is no fault; in a broadcast such a step is a cut.
        ([0, 1, 2, 7000, 7001], [0, 1, 2, 7000, 7001], 0, 0),
    ],
)
def test_times_that_jump(times, expected, restarts, moved):
    damage = Damage()
    frames = [Stamped(t, None) for t in times]
    found = [t for _, t in with_times(iter(frames), 10.0, damage)]
    assert found == pytest.approx([t / 10 for t in expected])
    assert (damage.restarts, damage.moved_times) == (restarts, moved)
    assert ("begin anew" in (damage.reason() or "")) == bool(restarts)


def test_a_broadcast_that_jumps_ahead_goes_on_without_a_gap():
    damage = Damage()
    frames = [Stamped(t, None) for t in (0, 1, 2, 7000, 7001, 7002, 9000, 9001)]
    times = [t for _, t in with_times(iter(frames), 10.0, damage, is_broadcast=True)]
    assert times == pytest.approx([k / 10 for k in range(8)])
    assert damage.restarts == 2


def test_a_long_still_is_kept_and_an_endless_one_refused():
    timed = [("a", 0.0), ("b", 0.1), ("c", 1200.0), ("d", 1200.1)]
    names = [name for name, _ in resample(iter(timed), 10)]
    assert names == ["a", *["b"] * 11_999, "c", "d"]
    with pytest.raises(VideoError, match=r"jump from 0\.1 s to 95000\.0 s: at 10 frames/s"):
        list(resample(iter([("a", 0.0), ("b", 0.1), ("c", 95000.0)]), 10))


@pytest.mark.parametrize(
    ("source_fps", "fps", "expected"),
    [
        (1000, 1000, [*range(40)]),
        (1000, 500, [*range(0, 40, 2)]),
        (1000, 250, [*range(0, 40, 4)]),
        (500, 250, [*range(0, 40, 2)]),
        (240, 120, [*range(0, 40, 2)]),
        (25, 1000, [k // 40 for k in range(39 * 40 + 1)]),
    ],
)
def test_high_rates(source_fps, fps, expected):
    timed = ((k, k / source_fps) for k in range(40))
    assert [name for name, _ in resample(timed, fps)] == expected


@pytest.mark.parametrize("source_fps", [24, 25, 30, 60, 120, 240])
def test_times_in_whole_milliseconds_lose_and_repeat_no_frame(source_fps):
    timed = ((k, round(1000 * k / source_fps) / 1000) for k in range(500))
    assert [name for name, _ in resample(timed, source_fps)] == [*range(500)]


def test_the_rule_of_high_rates_has_a_name_of_its_own():
    assert fps_rule(None) == fps_rule(25.0) == fps_rule(250.0) == "frame-on-show-1"
    assert fps_rule(300.0) == "frame-on-show-2"


# --- which stream, and how it is turned -----------------------------------------------------


def set_matrix(path, *abcd):
    """Give the first track of an MP4 the display matrix (a b; c d)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    place = start + (52 if data[start] else 40)
    a, b, c, d = (value * 65536 for value in abcd)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "shown", "rotation", "mirrored"),
    [
        ((1, 0, 0, 1), lambda p: p, 0, False),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1), 90, False),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2), 180, False),
        ((0, 1, -1, 0), lambda p: np.rot90(p, 3), 270, False),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1], 0, True),
        ((1, 0, 0, -1), lambda p: p[::-1], 180, True),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1), 90, True),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1), 270, True),
    ],
)
def test_all_eight_orientations_of_the_display_matrix(tmp_path, matrix, shown, rotation, mirrored):
    picture = quadrants()
    path = set_matrix(write_video(tmp_path / "a.mp4", [picture]), *matrix)
    info = probe(path)
    assert (info.rotation, info.mirrored) == (rotation, mirrored)
    expected = shown(picture[:, :, 0])
    assert (info.height, info.width) == expected.shape
    (frame,) = VideoReader(path, rgb=True)
    for found in (frame.grey_HW, frame.rgb_HWC[:, :, 1]):
        assert np.abs(found.astype(int) - expected).mean() < 3
    turned = np.rot90(picture[:, ::-1] if mirrored else picture, rotation // 90)[:, :, 0]
    np.testing.assert_array_equal(turned, expected)


def test_a_matrix_that_turns_by_no_quarter_is_left_out_and_said(tmp_path):
    path = set_matrix(write_video(tmp_path / "a.mp4", numbered(3)), 1, 1, -1, 1)
    reader = VideoReader(path)
    assert [number_of(frame) for frame in reader] == [0, 1, 2]
    assert "a rotation of -45° is left out" in reader.problem


def write_tracks(path, *tracks):
    """Write tracks of (pictures, codec, disposition)."""
    with av.open(str(path), "w") as container:
        streams = []
        for pictures, codec, disposition in tracks:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            stream.disposition = disposition
            streams.append(stream)
        for stream, (pictures, _, _) in zip(streams, tracks, strict=True):
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


COVER = ([np.full((96, 96, 3), 250, np.uint8)], "mjpeg", Disposition.attached_pic)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("first", [True, False], ids=["cover first", "cover last"])
def test_cover_pictures_are_not_the_video(tmp_path, name, first):
    film = (numbered(5), "libx264", Disposition.default)
    path = write_tracks(tmp_path / name, *((COVER, film) if first else (film, COVER)))
    with av.open(str(path)) as container:
        kinds = [bool(s.disposition & Disposition.attached_pic) for s in container.streams.video]
    # Matroska keeps such a track as a film of one frame.
    assert sorted(kinds) == [False, name.endswith("mp4")]
    assert (probe(path).height, probe(path).width) == (48, 64)
    assert [number_of(frame) for frame in VideoReader(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_default_track_is_taken_wherever_it_stands(tmp_path, name):
    other = (numbered(8, 32, 32), "libx264", Disposition(0))
    film = (numbered(5), "libx264", Disposition.default)
    path = write_tracks(tmp_path / name, other, film)
    if name.endswith("mp4"):
        data = bytearray(path.read_bytes())
        flags = data.index(b"tkhd") + 4 + 3
        data[flags] &= 0xFE  # the first track is switched off
        path.write_bytes(data)
    assert [number_of(frame) for frame in VideoReader(path)] == [0, 1, 2, 3, 4]


# --- what is missing ------------------------------------------------------------------------


def test_an_avi_that_was_cut_says_how_many_of_its_frames_are_there(tmp_path):
    path = write_video(tmp_path / "a.avi", numbered(20), codec="mjpeg", pix_fmt="yuvj420p")
    reader = VideoReader(path)
    assert len(list(reader)) == 20
    assert reader.problem is None
    data = path.read_bytes()
    start = data.index(b"movi")
    chunks = [match.start() for match in re.finditer(b"00dc", data[start:])]
    path.write_bytes(data[: start + chunks[8]])
    assert len(list(reader)) == 8
    assert "partial: 8 of 20 frames" in reader.problem


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_lost_packets_of_a_transport_stream_are_said(tmp_path, codec):
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.ts", list(noise), codec=codec, fps=25)
    reader = VideoReader(path)
    assert len(list(reader)) == 30
    assert reader.problem is None
    data = path.read_bytes()
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    path.write_bytes(b"".join(p for i, p in enumerate(packets) if i % 40 != 30))
    list(reader)
    assert "packets are damaged or parts before them lost" in reader.problem


@pytest.mark.parametrize("written", [b"inf:00:00.00000000", b"00:nan:00.00000000"])
def test_durations_that_are_no_number_are_none(tmp_path, written):
    path = write_video(tmp_path / "a.mkv", numbered(3))
    data = path.read_bytes()
    path.write_bytes(data.replace(re.search(rb"\d\d:\d\d:\d\d\.\d{9}", data)[0], written))
    duration_s = probe(path).duration_s
    assert duration_s is None or 0 < duration_s < 1
    assert len(list(VideoReader(path))) == 3


# --- what cannot be read --------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(VideoNotFound, match=r"no\.mp4 does not exist; check the path"):
        VideoReader(tmp_path / "no.mp4")
    with pytest.raises(VideoError, match="is not a file; find_videos lists"):
        VideoReader(tmp_path)


def test_files_that_are_no_video_are_refused_with_the_cause(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("no video at all\n" * 40)
    write_audio(tmp_path / "audio.mp4")
    with pytest.raises(VideoError, match=r"empty\.mp4 has no bytes; copy or download it again"):
        VideoReader(tmp_path / "empty.mp4")
    with pytest.raises(VideoError, match=r"text\.avi cannot be opened as a video: Invalid data"):
        VideoReader(tmp_path / "text.avi")
    with pytest.raises(VideoError, match=r"audio\.mp4 has no video stream; leave it out"):
        VideoReader(tmp_path / "audio.mp4")


def test_a_video_whose_frames_are_all_lost_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(12), options={"x264-params": "keyint=50"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes([255]) * (end - start)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="no frame of the video stream can be decoded"):
        VideoReader(path)


def test_a_truncated_video_gives_its_frames_and_the_reason(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "a.mkv", pictures)
    whole = VideoReader(path)
    assert len(list(whole)) == 40
    assert whole.problem is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoReader(path)
    count = len(list(reader))
    assert 10 < count < 30
    assert f"partial: ends at {count / 10:.1f} s of 4.0 s" in reader.problem


def test_broken_packets_are_passed_over(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(20), options={"g": "1", "bf": "0"})
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in places[5:7]:
        data[position : position + size] = bytes([255]) * size
    path.write_bytes(data)
    reader = VideoReader(path)
    numbers = [number_of(frame) for frame in reader]
    assert numbers == [k for k in range(20) if k not in (5, 6)]
    assert "2 packets failed to decode (Invalid data" in reader.problem


def test_a_playlist_does_not_reach_other_files(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(3))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/a.mp4\n")
    with pytest.raises(VideoError, match=r"list\.mp4"):
        list(VideoReader(tmp_path / "list.mp4"))


# --- files ----------------------------------------------------------------------------------


def test_names_that_look_like_options_or_protocols_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-i.mp4", "http:a.mp4", "te[s]t ' %03d.mp4"):
        source = write_video(tmp_path / "plain.mp4", numbered(2))
        source.rename(tmp_path / name)
        assert len(list(VideoReader(name))) == 2


def test_find_videos(tmp_path):
    root = tmp_path / "root"
    names = ["b/z.MP4", "a.avi", "b/a.webm", ".hidden/x.mp4", "b/.y.mp4", "notes.txt", "B.mkv"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "outside.mp4").touch()
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "inner.mp4").symlink_to(root / "a.avi")
    (root / "folder.mp4").mkdir()
    found = [path.relative_to(root).as_posix() for path in find_videos(root)]
    assert found == sorted(["B.mkv", "a.avi", "b/a.webm", "b/z.MP4", "inner.mp4", "link.mp4"])
    assert ".3gp" in VIDEO_EXTENSIONS
    with pytest.raises(VideoNotFound, match="is not a directory"):
        find_videos(tmp_path / "nowhere")


def test_find_videos_behind_links_to_folders_once(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    for name in ("run/a.mp4", "walk/b.mp4"):
        (disk / name).parent.mkdir(parents=True)
        (disk / name).touch()
    (root / "own").mkdir(parents=True)
    (root / "own" / "c.mp4").touch()
    (root / "run").symlink_to(disk / "run")
    (root / "run again").symlink_to(disk / "run")
    (root / "own" / "up").symlink_to(root)  # a circle
    (disk / "run" / "back").symlink_to(root)
    (root / "gone.mp4").symlink_to(disk / "none.mp4")
    found = [path.relative_to(root).as_posix() for path in find_videos(root)]
    assert found == ["own/c.mp4", "run/a.mp4"]
    (root / "all").symlink_to(disk)
    # "all" comes first now, and holds what "run" is.
    found = [path.relative_to(root).as_posix() for path in find_videos(root)]
    assert found == ["all/run/a.mp4", "all/walk/b.mp4", "own/c.mp4"]


def test_content_digest(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"flow" * 1000)
    assert content_digest(path) == hashlib.sha256(b"flow" * 1000).hexdigest()
    with pytest.raises(VideoNotFound, match="does not exist"):
        content_digest(tmp_path / "b.mp4")


def test_probe_tells_what_the_header_and_the_first_frame_say(tmp_path):
    info = probe(write_video(tmp_path / "a.mp4", numbered(20)))
    assert (info.height, info.width, info.rotation) == (48, 64, 0)
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert info.average_fps == pytest.approx(10)
    assert info.duration_s == pytest.approx(2.0, abs=0.11)


# --- real files -----------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_difficult_videos_give_the_frames_of_the_manifest(shared_data: Path, long):
    folder = shared_data / "robustness"
    wrong = []
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 50
    for row in rows:
        if (int(row["coded_w"] or 0) * int(row["frames_pyav"] or 0) > 100_000) != long:
            continue
        path = folder / row["file"]
        try:
            reader = VideoReader(path, short_side=16)
            frames = list(reader)
        except VideoError as error:
            if row["frames_pyav"] not in ("", "0") or path.name not in str(error):
                wrong.append((row["file"], str(error)))
            continue
        times = np.array([frame.pts_s for frame in frames])
        if not (np.diff(times) > 0).all():
            wrong.append((row["file"], "times"))
        # The manifest counts the first of two tracks, players show the other.
        two_tracks = {"codec/nasa_13013.mp4": 390}
        expected = two_tracks.get(row["file"], int(row["frames_pyav"]))
        if row["error"]:  # the manifest's count stops at the first error; the reader goes on
            if len(frames) < expected or reader.problem is None:
                wrong.append((row["file"], len(frames), reader.problem))
        elif len(frames) != expected or reader.info.rotation != int(row["rotation"]) % 360:
            wrong.append((row["file"], len(frames), reader.info.rotation))
    assert wrong == []


@pytest.mark.data
@pytest.mark.parametrize("name", ["video_270.mov", "video_rotation_90.mp4"])
def test_rotation_agrees_with_opencv(shared_data: Path, name):
    path = shared_data / "robustness" / "rotation" / name
    ok, bgr_HWC = cv2.VideoCapture(str(path)).read()
    assert ok
    frame = next(iter(VideoReader(path, rgb=True)))
    assert np.abs(frame.rgb_HWC[:, :, ::-1].astype(int) - bgr_HWC).max() <= 3
