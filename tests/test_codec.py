"""Motion vectors as flow: truth from textures that move, encoded by several codecs."""

import itertools

import av
import cv2
import numpy as np
import pytest

from flowpipe.cache import open_cache
from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.extraction import extract
from flowpipe.flow import create
from flowpipe.flow.codec import FIELDS, dense
from flowpipe.video import VideoReader
from flowpipe.video.pictures import Orientation
from flowpipe.video.vectors import MotionVectors

HEIGHT, WIDTH = 144, 176
MIDDLE = np.s_[32:-32, 32:-32]
RIGHT, DOWN = 3, -1
"""Px per frame step."""

CODECS = {
    "H.264": ("a.mp4", "libx264", {"bf": "0", "refs": "1"}),
    "H.264, B frames": ("a.mp4", "libx264", {"bf": "3", "refs": "1", "x264-params": "b-pyramid=0"}),
    "MPEG-4 part 2": ("a.avi", "mpeg4", {"g": "12", "qscale": "2"}),
    "MPEG-4 part 2, B frames": ("a.avi", "mpeg4", {"bf": "2", "g": "12", "b": "4000000"}),
    "MPEG-2, B frames": ("a.mpg", "mpeg2video", {"bf": "2", "b": "4000000"}),
}


def texture():
    noise = np.random.default_rng(0).random((400, 400)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def moving(count=20):
    big = texture()
    for number in range(count):
        top, left = 100 - DOWN * number, 100 - RIGHT * number
        part = big[top : top + HEIGHT, left : left + WIDTH]
        yield np.ascontiguousarray(np.repeat(part[..., None], 3, -1))


def encode(path, codec, options, frames, pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
        stream.options = {**options, "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=CODECS)
def video(request, tmp_path_factory):
    name, codec, options = CODECS[request.param]
    return encode(tmp_path_factory.mktemp("codec") / name, codec, options, moving())


def test_a_moving_texture_has_its_motion_in_each_frame(video):
    frames = list(VideoReader(video, vectors=True))
    method = create("codec")
    wrong = 0
    for prev, following in itertools.pairwise(frames):
        uv = method(prev, following)
        assert (uv.shape, uv.dtype) == ((HEIGHT, WIDTH, 2), np.float32)
        wrong += np.abs(np.median(uv[MIDDLE], axis=(0, 1)) - [RIGHT, DOWN]).max() > 0.3
        np.testing.assert_array_equal(method(prev, prev), 0)
        back = method(following, prev)
        assert np.median(back[MIDDLE][..., 0]) == -np.median(uv[MIDDLE][..., 0])
    assert wrong == 0


def test_sizes_scale_the_motion(video):
    plain, half = (
        [create("codec")(*list(VideoReader(video, vectors=True, size=size).frames(5, 7)))]
        for size in (None, (HEIGHT // 2, WIDTH // 4))
    )
    assert half[0].shape == (HEIGHT // 2, WIDTH // 4, 2)
    motion = np.median(plain[0][MIDDLE], axis=(0, 1))
    smaller = np.median(half[0][16:-16, 8:-8], axis=(0, 1))
    np.testing.assert_allclose(smaller, motion / [4, 2], atol=0.05)


def test_it_starts_tv_l1(video):
    frames = list(VideoReader(video, vectors=True))
    uv = create("codec+tvl1")(frames[5], frames[6])
    assert np.abs(uv[MIDDLE] - [RIGHT, DOWN]).mean() < 0.1


def test_extraction(video, tmp_path):
    result = extract(video, tmp_path / "cache", flow="codec", workers=1, storage="f16", rgb=False)
    assert not result.failures
    (entry,) = (open_cache(tmp_path / "cache")[name] for name in [video.name])
    uv = entry.flow[:]
    assert len(uv) == 19
    motion = np.median(uv[:, 32:-32, 32:-32], axis=(1, 2))
    np.testing.assert_allclose(motion, [[RIGHT, DOWN]] * 19, atol=0.3)


def test_vectors_are_the_same_without_pictures(video):
    plain, bare = (
        list(VideoReader(video, vectors=True, pictures=pictures)) for pictures in (True, False)
    )
    assert len(plain) == len(bare)
    assert plain[0].grey_HW.shape == (HEIGHT, WIDTH)
    for (a, b), (c, d) in zip(itertools.pairwise(plain), itertools.pairwise(bare), strict=True):
        assert d.grey_HW.size == 0
        np.testing.assert_array_equal(create("codec")(c, d), create("codec")(a, b))
    with pytest.raises(InvalidArgument, match="rgb needs pictures"):
        VideoReader(video, rgb=True, pictures=False)


def test_extraction_with_frames_cuts_or_neither_gives_one_flow(video, tmp_path):
    options = {"flow": "codec", "workers": 1}
    flows = []
    for number, more in enumerate([{"rgb": False}, {"rgb": True}, {"rgb": False, "cuts": True}]):
        result = extract(video, tmp_path / str(number), **options, **more)
        assert not result.failures
        entry = open_cache(tmp_path / str(number))[video.name]
        flows.append(entry.flow[:])
        if more["rgb"]:
            assert entry.rgb[0].std() > 10
    np.testing.assert_array_equal(flows[0], flows[1])
    np.testing.assert_array_equal(flows[0], flows[2])


def test_frames_that_were_left_out_are_refused(video):
    slow = list(VideoReader(video, vectors=True, fps=10))
    with pytest.raises(FlowError, match=r"[12] frames between these two were left out; vectors"):
        create("codec")(slow[2], slow[3])


def test_a_codec_without_vectors_is_a_reasoned_failure(tmp_path):
    path = encode(tmp_path / "a.mp4", "mjpeg", {}, moving(3), "yuvj420p")
    result = extract(path, tmp_path / "cache", flow="codec", workers=1)
    (failure,) = result.failures
    assert "frame 1 has no motion vectors, nor has any before it; videos coded as" in failure.reason
    frames = list(VideoReader(path))
    with pytest.raises(FlowError, match="these frames come without motion vectors"):
        create("codec")(frames[0], frames[1])


def test_blocks_by_hand():
    kind = [(name, int) for name in ("w", "h", "dst_x", "dst_y", "motion_x", "motion_y")]
    blocks = np.zeros(3, [("source", int), ("motion_scale", int), *kind])
    # 8×8 at the upper left moved 4 px right, 2 px down in two frames; 8×8 beside it from a later
    # frame, which counts as unknown; 16×8 below, still.
    blocks["source"], blocks["motion_scale"] = [-1, 1, -1], 2
    blocks["w"], blocks["h"] = [8, 8, 16], 8
    blocks["dst_x"], blocks["dst_y"] = [4, 12, 8], [4, 4, 12]
    blocks["motion_x"], blocks["motion_y"] = [-8, 30, 0], [-4, 30, 0]
    vectors = MotionVectors(1, blocks, 2, 16, 16, Orientation(), (16, 16))
    back = dense(vectors, forward=False)
    assert back[0, 0].tolist() == [-2, -1]
    assert back[12, 3].tolist() == back[12, 12].tolist() == [0, 0]
    # The mean of the cell to the left and, in the lower row, of the still one below.
    assert back[0, 9].tolist() == [-2, -1]
    assert back[5, 9].tolist() == [-1, -0.5]
    left = Orientation(transposed=True, flip_y=True)
    turned = dense(MotionVectors(1, blocks, 2, 16, 16, left, (16, 16)), forward=False)
    assert turned[15, 0].tolist() == [-1, 2]  # the upper left is the lower left now


def test_a_mirrored_field_points_the_other_way():
    blocks = np.zeros(1, [(name, np.float32) for name in FIELDS])
    blocks[0] = (-1, 16, 16, 8, 8, -8, -4, 4)
    plain = dense(MotionVectors(1, blocks, 1, 16, 16, Orientation(), (16, 16)), forward=True)
    u, v = plain[0, 0]
    for orientation, expected in (
        (Orientation(flip_x=True), (-u, v)),
        (Orientation(flip_y=True), (u, -v)),
        (Orientation(transposed=True), (v, u)),
    ):
        shown = dense(MotionVectors(1, blocks, 1, 16, 16, orientation, (16, 16)), forward=True)
        assert shown[0, 0].tolist() == list(expected)
