"""Exports: the values and names that other tools expect, the pictures, and nothing else touched."""

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from flowpipe.cache import Entry, open_cache
from flowpipe.cache.export import (
    CAPTION_PX,
    FORMATS,
    RECORD_FILE,
    color_scale_px,
    export,
    folder_of,
)
from flowpipe.errors import CacheError, EntryCorrupt, InvalidArgument
from flowpipe.flow.color import color_key, flow_to_color
from flowpipe.flow.files import read_flo
from flowpipe.flow.quantise import Quantiser

I16 = Quantiser("i16")


@pytest.fixture
def frames_THWC():
    """Five frames, each with a red corner at the left top and a grey of its own."""
    frames = np.zeros((5, 16, 32, 3), np.uint8)
    frames[:] = (np.arange(5) * 40 + 40)[:, None, None, None]
    frames[:, :8, :8] = 220, 10, 10
    return frames


@pytest.fixture
def entry(tmp_path, write_entry, smooth_flow, frames_THWC):
    uv = smooth_flow(4, 16, 32)
    path = write_entry(tmp_path / "cache", uv, I16, rgb_THWC=frames_THWC, name="walk/b 1.avi")
    return Entry(path, "walk/b 1.avi", "walk")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbered(*patterns: str, rows: range) -> list[str]:
    return [pattern % row for pattern in patterns for row in rows]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (
            "tsn",
            numbered("flow_x_%05d.jpg", "flow_y_%05d.jpg", "img_%05d.jpg", rows=range(1, 5)),
        ),
        (
            "denseflow",
            numbered("flow_x_%05d.jpg", "flow_y_%05d.jpg", rows=range(4))
            + numbered("img_%05d.jpg", rows=range(5)),
        ),
        ("flo", numbered("flow_%05d.flo", rows=range(4))),
        ("npy", ["flow.npy", "pts_s.npy"]),
        ("color-png", numbered("flow_scale-7px_%05d.png", rows=range(4))),
        ("color-mp4", ["flow_scale-7px.mp4"]),
    ],
)
def test_files_of_each_format(tmp_path, entry, format, expected):
    result = export(entry, tmp_path / "out", format)
    folder = tmp_path / "out" / "walk" / "b 1"
    assert result.folder == folder
    assert names_in(folder) == sorted([*expected, RECORD_FILE])
    assert [path.name for path in result.files] == sorted(expected)
    assert names_in(tmp_path / "out" / "walk") == ["b 1"]  # nothing of the work is left
    record = json.loads((folder / RECORD_FILE).read_text("utf-8"))
    assert record == result.record
    assert record["name"] == "walk/b 1.avi"
    assert record["label"] == "walk"
    assert record["index_base"] == (1 if format == "tsn" else 0)
    assert record["rounding_family"] == ("round" if format in ("tsn", "denseflow") else None)
    assert record["scale_px"] == (7 if format.startswith("color") else None)
    assert (record["num_flows"], record["num_frames"]) == (4, 5)


def test_formats_are_those_tested():
    (mark,) = test_files_of_each_format.pytestmark
    assert sorted(case[0] for case in mark.args[1]) == sorted(FORMATS)


def constant_fields(values_px: list[float]) -> np.ndarray:
    """One field for each value, u = value and v = −value: JPEG keeps constants exactly."""
    uv = np.empty((len(values_px), 16, 16, 2), np.float32)
    uv[..., 0] = np.float32(values_px)[:, None, None]
    uv[..., 1] = -uv[..., 0]
    return uv


def read_jpegs(folder: Path, axis: str, rows: range) -> np.ndarray:
    paths = [folder / f"flow_{axis}_{row:05d}.jpg" for row in rows]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


# 255 · (f + B) / 2B by hand. At B = 15.9375 a step is 1/8 px, and f = 1/16 px lies between two.
BY_HAND = {
    20.0: {0: 128, 1: 134, -1: 121, 19.984375: 255, -20: 0, 25: 255, -25: 0, 0.03125: 128},
    15.9375: {0: 128, 0.0625: 128, -0.0625: 127, 0.125: 128, 0.1875: 129, 16: 255, -15.875: 0},
}


@pytest.mark.parametrize(("format", "base"), [("tsn", 1), ("denseflow", 0)])
@pytest.mark.parametrize("bound_px", BY_HAND)
def test_values_are_rounded(tmp_path, write_entry, format, base, bound_px):
    by_hand = BY_HAND[bound_px]
    values_px = [*by_hand, *np.random.default_rng(0).integers(-1500, 1500, 20) / 64]
    path = write_entry(tmp_path / "cache", constant_fields(values_px), I16)
    result = export(Entry(path), tmp_path / "out", format, bound_px=bound_px)
    rows = range(base, base + len(values_px))
    for axis, sign in (("x", 1), ("y", -1)):
        read = read_jpegs(result.folder, axis, rows)
        assert (read == read[:, :1, :1]).all()
        assert read.dtype == np.uint8
        flow_px = np.clip(sign * np.array(values_px), -bound_px, bound_px)
        wanted = [int(value) for value in np.rint(255 * (flow_px + bound_px) / (2 * bound_px))]
        assert read[:, 0, 0].tolist() == wanted
        if sign > 0:
            assert wanted[: len(by_hand)] == list(by_hand.values())
    beyond = np.count_nonzero(np.abs(values_px) > bound_px) / len(values_px)
    assert result.record["clipped_share"] == pytest.approx(beyond)
    assert f"{beyond:.1%} of the components are clipped at ±{bound_px:g} px" in result.note


def test_decode_rule_has_the_right_centre(tmp_path, write_entry):
    values_px = np.linspace(-19, 19, 256)
    path = write_entry(
        tmp_path / "cache", constant_fields(list(values_px)), Quantiser("f16"), "zstd"
    )
    result = export(Entry(path), tmp_path / "out", "denseflow")
    value = read_jpegs(result.folder, "x", range(256))[:, 0, 0]
    assert result.record["decode"] == "px = value · 2 · bound_px / 255 − bound_px"
    decoded = value.astype(float) * 2 * result.record["bound_px"] / 255 - 20.0
    error = decoded - values_px
    half_step = 20 / 255
    assert np.abs(error).max() <= half_step + 0.01  # f16 is within 0.01 px there
    assert abs(error.mean()) < half_step / 10  # the other family's centre is half a step off


def test_images_are_the_stored_bytes(tmp_path, entry):
    for format, base, count in (("tsn", 1, 4), ("denseflow", 0, 5)):
        folder = export(entry, tmp_path / format, format).folder
        for row in range(count):
            assert (folder / f"img_{row + base:05d}.jpg").read_bytes() == entry.rgb.jpeg(row)


def test_flo_and_npy_are_exact(tmp_path, entry):
    flow = entry.flow[:]
    folder = export(entry, tmp_path / "flo", "flo").folder
    read = [read_flo(folder / f"flow_{row:05d}.flo") for row in range(4)]
    np.testing.assert_array_equal(np.stack(read), flow)
    folder = export(entry, tmp_path / "npy", "npy").folder
    loaded = np.load(folder / "flow.npy", allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, flow)
    np.testing.assert_array_equal(np.load(folder / "pts_s.npy"), entry.pts_s)


def test_color_png_is_frame_flow_and_caption(tmp_path, entry):
    result = export(entry, tmp_path / "out", "color-png")
    scale_px = result.record["scale_px"]
    lengths = np.linalg.norm(entry.flow[:], axis=-1)
    assert scale_px == np.ceil(np.percentile(lengths, 99)) == color_scale_px(entry)
    for row, path in enumerate(result.files):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == (16 + CAPTION_PX, 64, 3)
        np.testing.assert_array_equal(picture[:16, :32], entry.rgb[row])
        wanted = flow_to_color(entry.flow[row], scale_px)  # one scale for all of them
        np.testing.assert_array_equal(picture[:16, 32:], wanted)
        caption = picture[16:]
        assert caption[0].min() == 255
        assert (caption < 128).all(axis=-1).any()  # letters
        hues = np.ptp(caption[..., -28:, :].astype(int), axis=-1)
        assert hues.max() > 240  # the legend


@pytest.mark.parametrize("width", [1, 8, 20, 27, 40, 100, 300])
def test_caption_fits_any_width(tmp_path, write_entry, width):
    path = write_entry(tmp_path / "cache", np.ones((1, 3, width, 2), np.float32), I16)
    (file,) = export(Entry(path, "Käse.avi"), tmp_path / "out", "color-png").files
    assert cv2.imread(str(file)).shape == (3 + CAPTION_PX, width, 3)


def test_legend_and_wheel_point_the_same_way():
    east, south, west, north = flow_to_color([[1, 0], [0, 1], [-1, 0], [0, -1]], 1.0).tolist()
    assert east == [255, 0, 0]  # as in Middlebury's own pictures
    assert south == [255, 229, 0]
    assert west == [0, 209, 255]
    assert north == [88, 0, 255]
    key = color_key(41).astype(int)
    for place, wanted in (((20, 40), east), ((40, 20), south), ((20, 0), west), ((0, 20), north)):
        assert np.abs(key[place] - wanted).max() < 16
    assert key[20, 20].tolist() == key[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("shape", [(16, 32), (15, 33), (9, 1)], ids=str)
def test_color_mp4_keeps_frames_and_times(tmp_path, write_entry, shape):
    height, width = shape
    uv = np.zeros((6, height, width, 2), np.float32)
    uv[:, :, width // 2 :, 0] = 4
    entry = Entry(write_entry(tmp_path / "cache", uv, I16))
    result = export(entry, tmp_path / "out", "color-mp4")
    assert "no RGB in this entry: the pictures show the flow alone" in result.note
    with av.open(str(result.files[0])) as container:
        frames = list(container.decode(video=0))
    times = [frame.time for frame in frames]
    np.testing.assert_allclose(times, np.arange(6) / 25, atol=1e-3)
    picture = frames[3].to_ndarray(format="rgb24").astype(int)
    assert picture.shape == (height + CAPTION_PX + height % 2, width + width % 2, 3)
    if width > 1:
        assert np.abs(picture[height // 2, -6] - [255, 0, 0]).max() < 60
        assert picture[height // 2, 4].min() > 230


def test_without_fields_or_rgb(tmp_path, write_entry):
    entry = Entry(write_entry(tmp_path / "cache", np.zeros((0, 8, 8, 2), np.float32), I16))
    for format in FORMATS:
        result = export(entry, tmp_path / format, format)
        assert [path.name for path in result.files if path.suffix != ".npy"] == []


def test_scale_of_no_motion_is_one_px(tmp_path, write_entry):
    entry = Entry(write_entry(tmp_path / "cache", np.zeros((2, 8, 8, 2), np.float32), I16))
    assert color_scale_px(entry) == 1


def test_notes_say_what_was_lost(tmp_path, write_entry):
    uv = np.zeros((2, 16, 16, 2), np.float32)
    uv[:, :4] = 6
    path = write_entry(tmp_path / "cache", uv, Quantiser("u8", bound_px=5.0))
    note = export(Entry(path), tmp_path / "out", "tsn").note
    assert "the entry itself was clipped at ±5 px, below the bound 20 px" in note
    assert "no RGB in this entry: no img files" in note


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a/b/v_Walk_g01.avi", "a/b/v_Walk_g01"),
        ("v.with.dots.MP4", "v.with.dots"),
        ("no extension", "no extension"),
        ("clip.v2", "clip.v2"),
        ("..hidden.mp4", "..hidden"),
        ("Käse 猫.mkv", "Käse 猫"),
    ],
)
def test_folder_of_a_name(name, folder):
    assert str(folder_of(name)) == folder


@pytest.mark.parametrize(
    "name", ["../x.avi", "a/../../x.avi", "/etc/x.avi", "..", "a/..", "", ".", "a\0b.avi"]
)
def test_names_that_lead_out_are_refused(tmp_path, write_entry, smooth_flow, name):
    entry = Entry(write_entry(tmp_path / "cache", smooth_flow(2, 8, 8)))
    entry.name = name
    with pytest.raises(InvalidArgument, match="must be a path inside the folder of the export"):
        export(entry, tmp_path / "in" / "out", "npy")
    assert not (tmp_path / "in").exists()


def test_two_names_of_one_stem_get_two_folders(tmp_path, write_entry, smooth_flow):
    for number, name in enumerate(["run/a.avi", "walk/a.avi"]):
        write_entry(tmp_path / "cache", smooth_flow(2, 8, 8), name=name, digest=f"{number:064x}")
    folders = [
        export(entry, tmp_path / "out", "npy").folder.relative_to(tmp_path / "out").as_posix()
        for entry in open_cache(tmp_path / "cache").entries()
    ]
    assert folders == ["run/a", "walk/a"]


def test_earlier_export_is_replaced_when_asked_only(tmp_path, entry):
    folder = export(entry, tmp_path / "out", "flo").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InvalidArgument, match=r"is there already; overwrite replaces it"):
        export(entry, tmp_path / "out", "npy")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export(entry, tmp_path / "out", "npy", overwrite=True)
    assert names_in(folder) == ["flow.npy", RECORD_FILE, "pts_s.npy"]
    assert names_in(folder.parent) == ["b 1"]


def test_a_folder_of_others_is_never_replaced(tmp_path, entry):
    folder = tmp_path / "out" / "walk" / "b 1"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(InvalidArgument, match="no export alone, so it stays"):
        export(entry, tmp_path / "out", "npy", overwrite=True)
    (folder / RECORD_FILE).write_text("{}")
    (folder / "sub").mkdir()
    with pytest.raises(InvalidArgument, match="no export alone, so it stays"):
        export(entry, tmp_path / "out", "npy", overwrite=True)
    assert (folder / "thesis.tex").read_text() == "all of it"


def test_failure_leaves_nothing_and_keeps_the_earlier(tmp_path, entry):
    folder = export(entry, tmp_path / "out", "npy").folder
    offset = int(entry.flow.chunks[2, 0])
    data = bytearray(entry.path.read_bytes())
    data[offset + 5] ^= 16
    entry.path.write_bytes(data)
    for format in FORMATS:
        with pytest.raises(EntryCorrupt, match="flow 2: its bytes are not what was written"):
            export(entry, tmp_path / "out", format, overwrite=True)
    assert names_in(folder) == ["flow.npy", RECORD_FILE, "pts_s.npy"]
    assert names_in(folder.parent) == ["b 1"]


def test_out_that_is_a_file(tmp_path, entry):
    (tmp_path / "out").write_text("")
    with pytest.raises(CacheError, match=r'"walk/b 1.avi" cannot be exported to .*out/walk/b 1: '):
        export(entry, tmp_path / "out", "npy")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"format": "avi"}, 'format "avi" must be one of tsn, denseflow, flo, npy, color-mp4'),
        ({"format": "tsn", "quality": 0}, "quality 0 must be 1 to 100; 95 is the usual choice"),
        ({"format": "tsn", "bound_px": 0.0}, "bound 0.0 px must be > 0; 20 is the usual choice"),
        ({"format": "tsn", "bound_px": float("nan")}, "bound nan px must be > 0"),
    ],
)
def test_options_out_of_range(tmp_path, entry, options, match):
    with pytest.raises(InvalidArgument, match=match):
        export(entry, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
