"""Flow in other people's files, and in colour."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow.color import color_key, color_wheel, flow_to_color
from flowpipe.flow.files import read_flo, read_kitti_png, write_flo


@pytest.fixture
def uv():
    return np.random.default_rng(0).normal(0, 30, (7, 11, 2)).astype(np.float32)


def test_flo_is_the_layout_of_the_benchmark(tmp_path):
    uv = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    write_flo(tmp_path / "a.flo", uv)
    by_hand = b"PIEH" + struct.pack("<ii12f", 3, 2, *range(12))
    assert (tmp_path / "a.flo").read_bytes() == by_hand
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), uv)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flo"]


def test_flo_round_trip_is_exact(tmp_path, uv):
    uv[0, 0] = 1e10  # unknown
    write_flo(tmp_path / "a.flo", uv)
    read = read_flo(tmp_path / "a.flo")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, uv)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "does not start with 202021.25"),
        (b"HEIP" + bytes(20), "does not start with 202021.25"),
        (b"PIEH" + struct.pack("<ii", 0, 4), "a size of 4×0 px, which must be 1 to 99999"),
        (b"PIEH" + struct.pack("<ii", 2, 200_000), "a size of 200000×2 px"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "has 43 bytes, must have 44 for 2×2 px"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(33), "has 45 bytes, must have 44"),
    ],
)
def test_damaged_flo(tmp_path, content, match):
    path = tmp_path / "bad.flo"
    path.write_bytes(content)
    with pytest.raises(FlowError, match=rf"bad\.flo .*{match}"):
        read_flo(path)


def test_missing_files(tmp_path, uv):
    for read in (read_flo, read_kitti_png):
        with pytest.raises(FlowError, match=r"none.x cannot be read: No such file"):
            read(tmp_path / "none.x")
    with pytest.raises(FlowError, match=r"cannot be written: No such file"):
        write_flo(tmp_path / "none" / "a.x", uv)


def test_what_is_no_field_is_refused(tmp_path):
    for shape in ((4, 5), (4, 5, 3), (0, 5, 2)):
        with pytest.raises(InvalidArgument, match="must be H×W×2, at least one pixel"):
            write_flo(tmp_path / "a", np.zeros(shape))
    assert list(tmp_path.iterdir()) == []


def test_flo_refuses_nan(tmp_path, uv):
    uv[1, 1, 0] = np.nan
    with pytest.raises(InvalidArgument, match="1 displacements are not finite; write unknown"):
        write_flo(tmp_path / "a.flo", uv)


def png16(rgb: np.ndarray) -> bytes:
    """A 16-bit RGB PNG without OpenCV."""

    def part(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = rgb.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(rows))
        + part(b"IEND", b"")
    )


def test_kitti_channels_are_u_v_valid(tmp_path):
    pixels = np.uint16([[[32768 + 64, 32768 - 128, 1], [1, 2, 0]]])
    (tmp_path / "a.png").write_bytes(png16(pixels))
    uv, valid = read_kitti_png(tmp_path / "a.png")
    assert uv.tolist() == [[[1.0, -2.0], [0.0, 0.0]]]
    assert valid.tolist() == [[True, False]]
    assert uv.dtype == np.float32


def test_kitti_refuses(tmp_path):
    cv2.imwrite(str(tmp_path / "8bit.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FlowError, match=r"is uint8 \(4, 4, 3\); KITTI flow is a PNG of three 16-"):
        read_kitti_png(tmp_path / "8bit.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(FlowError, match="is no picture"):
        read_kitti_png(tmp_path / "text.png")


def test_the_wheel_has_55_colours_from_red_and_back():
    wheel = color_wheel().astype(int)
    assert wheel.shape == (55, 3)
    corners = {0: "ff0000", 15: "ffff00", 21: "00ff00", 25: "00ffff", 36: "0000ff", 49: "ff00ff"}
    for index, color in corners.items():
        assert wheel[index].tolist() == list(bytes.fromhex(color))
    assert (wheel.max(axis=1) == 255).all()
    assert (wheel.min(axis=1) == 0).all()


@pytest.mark.parametrize(
    ("uv", "color"),
    [
        ((0, 0), (255, 255, 255)),
        ((4, 0), (255, 0, 0)),
        ((8, 0), (191, 0, 0)),  # beyond the scale: darker by a quarter
        ((2, 0), (255, 127, 127)),
        ((np.nan, 0), (0, 0, 0)),
        ((1e10, 1e10), (0, 0, 0)),
        ((0, np.inf), (0, 0, 0)),
    ],
)
def test_colours_by_hand(uv, color):
    assert flow_to_color(uv, 4.0).tolist() == list(color)


def test_directions_go_clockwise_from_red():
    right, down, left, up = flow_to_color([(1, 0), (0, 1), (-1, 0), (0, -1)], 1.0).astype(int)
    assert right.tolist() == [255, 0, 0]
    assert down[0] > 200  # yellow
    assert down[1] > 150
    assert left[2] > 200  # cyan to blue
    assert left[0] == 0
    assert up[2] > 200  # blue to magenta
    assert up[1] == 0


def test_any_leading_axes_and_one_scale():
    uv = np.random.default_rng(0).normal(0, 3, (2, 3, 4, 2))
    whole = flow_to_color(uv, 5.0)
    assert (whole.shape, whole.dtype) == ((2, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(whole[1, 2], flow_to_color(uv[1, 2], 5.0))
    with pytest.raises(InvalidArgument, match=r"flow of shape \(4, 3\) must end in 2"):
        flow_to_color(np.zeros((4, 3)), 1.0)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InvalidArgument, match=r"max_px .* must be > 0"):
            flow_to_color(uv, wrong)


def test_the_legend_is_a_disc():
    key = color_key(41)
    assert (key[0, 0] == 255).all()
    assert (key[20, 20] > 250).all()
    assert key[20, 40].astype(int)[0] > 240
    assert key[20, 40].astype(int)[1] < 40
