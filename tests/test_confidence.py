"""Confidence of flow: what forward and backward flow agree on, stored beside it and used."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support import run_cli

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.cache.export import export
from flowpipe.cache.pack import pack, unpack
from flowpipe.cache.verify import verify
from flowpipe.clips.dataset import ClipDataset
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.streams import StreamInput
from flowpipe.datasets import Video
from flowpipe.errors import EntryNotFound, InvalidArgument
from flowpipe.extraction import ranges
from flowpipe.extraction import run as run_module
from flowpipe.flow import create, create_batched, device
from flowpipe.flow.color import flow_to_color
from flowpipe.flow.confidence import (
    CELL,
    TRUSTED,
    cells,
    confidence_codes,
    difference_px,
    spread,
)
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import VideoReader

HEIGHT, WIDTH = 92, 131


def test_codes_tell_how_far_the_fields_disagree():
    uv = np.broadcast_to(np.float32([3, -2]), (HEIGHT, WIDTH, 2)).copy()
    assert (confidence_codes(uv, -uv) == 15).all()
    seen = []
    for apart_px in (0.005, 0.011, 0.02, 0.3, 1.0, 1.2, 6.0, 50.0):
        back = -uv + np.float32([apart_px * 0.6, apart_px * 0.8])
        (code,) = np.unique(confidence_codes(uv, back))
        at_most = difference_px(np.array([code], np.uint8))[0]
        assert apart_px < at_most * 1.0001 or code == 0
        assert apart_px > at_most / 1.6001 or code == 15
        seen.append(int(code))
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (15, 0)
    assert seen[4] >= TRUSTED > seen[5]


def test_doubt_lies_where_the_fields_disagree():
    uv = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    uv[..., 0] = 8
    back = -uv
    back[40:56, 64:88] += 5  # seen from x = 56 to 80
    codes = confidence_codes(uv, back)
    assert codes.shape == cells(HEIGHT, WIDTH) == (12, 17)
    wrong = np.zeros_like(codes, dtype=bool)
    wrong[5:7, 7:10] = True
    assert (codes[wrong] < TRUSTED).all()
    assert (codes[~wrong] == 15).all()
    wide = spread(codes[None], HEIGHT, WIDTH)
    assert wide.shape == (1, HEIGHT, WIDTH)
    assert (wide[0, ::CELL, ::CELL] == codes).all()


@pytest.fixture
def two_shots(tmp_path, write_video):
    """Two shots in which a square passes in front of a moving plane."""

    def shot(frames: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        plane = cv2.resize(rng.uniform(0, 255, (12, 40)), (WIDTH + 1 + 3 * frames, HEIGHT))
        shown = np.stack([plane[:, 3 * t : 3 * t + WIDTH + 1] for t in range(frames)])
        square = rng.uniform(0, 255, (30, 30))
        for t in range(frames):
            shown[t, 30:60, 7 * t + 4 : 7 * t + 34] = square
        return shown.astype(np.uint8)

    frames = np.concatenate([shot(13, 0), shot(10, 1)])
    return write_video(tmp_path / "two.mp4", np.repeat(frames[..., None], 3, 3))


def entry_bytes(cache: Path) -> bytes:
    (file,) = cache.glob("*/*/*.h5")
    return file.read_bytes()


OPTIONS = {"flow": "dis", "cuts": True, "confidence": True}


def test_entries_hold_it_beside_the_flow(two_shots, tmp_path):
    extract(two_shots, tmp_path / "c", workers=1, backward=True, **OPTIONS)
    extract(two_shots, tmp_path / "plain", flow="dis", workers=1)
    entry, plain = open_cache(tmp_path / "c")["two.mp4"], open_cache(tmp_path / "plain")["two.mp4"]
    frames = [frame.grey_HW for frame in VideoReader(two_shots)]
    method = create("dis")
    assert entry.confidence.shape == (22, HEIGHT, WIDTH + 1)
    assert entry.confidence[3].shape == (HEIGHT, WIDTH + 1)
    assert entry.confidence.num_bytes <= 22 * 12 * 17
    for row in range(22):
        one, other = frames[row : row + 2]
        wanted = confidence_codes(method(one, other), method(other, one))
        shown = spread(wanted, HEIGHT, WIDTH + 1)
        np.testing.assert_array_equal(entry.confidence[row], 0 if row == 12 else shown)
    assert entry.cuts.tolist() == [12]
    np.testing.assert_array_equal(entry.flow[:12], plain.flow[:12])
    with pytest.raises(EntryNotFound, match=r"holds no confidence.*again with confidence"):
        plain.confidence  # noqa: B018
    assert "confidence" not in plain.recipe.to_json()
    assert "confidence" not in open_cache(tmp_path / "c").backward("two.mp4").tracks


@pytest.mark.parametrize("codec", ["jpegls", "zstd"])
def test_ranges_and_packs_carry_it(two_shots, tmp_path, monkeypatch, codec):
    monkeypatch.setattr(ranges, "LEAST_FRAMES", 4)
    extract(two_shots, tmp_path / "one", workers=1, codec=codec, **OPTIONS)
    extract(two_shots, tmp_path / "many", workers=3, codec=codec, **OPTIONS)
    made = entry_bytes(tmp_path / "one")
    assert made == entry_bytes(tmp_path / "many")
    extract(two_shots, tmp_path / "one", workers=1, codec=codec, flow="dis")
    pack(tmp_path / "one", tmp_path / "p.h5")
    recipe = FlowRecipe.make(**OPTIONS).id
    packed = open_cache(tmp_path / "p.h5", recipe=recipe)["two.mp4"]
    entry = open_cache(tmp_path / "many")["two.mp4"]
    np.testing.assert_array_equal(packed.confidence[:], entry.confidence[:])
    unpack(tmp_path / "p.h5", tmp_path / "again")
    (file,) = (tmp_path / "again" / recipe).rglob("*.h5")
    assert file.read_bytes() == made
    for cache in (tmp_path / "p.h5", tmp_path / "again"):
        assert not [found.problem for found in verify(cache, deep=True) if found.problem]


def test_verify_finds_a_changed_byte(two_shots, tmp_path):
    extract(two_shots, tmp_path / "c", workers=1, **OPTIONS)
    (path,) = (tmp_path / "c").glob("*/*/*.h5")
    entry = open_cache(tmp_path / "c")["two.mp4"]
    content = bytearray(path.read_bytes())
    content[int(entry.confidence.chunks[5, 0]) + 3] ^= 1
    path.write_bytes(content)
    (found,) = verify(tmp_path / "c", deep=True)
    assert "confidence of flow 5: its bytes are not what was written" in found.problem


def test_a_gpu_computes_it_too(two_shots, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(device, "gpu_name", lambda: "a GPU for tests")
    monkeypatch.setattr(device, "gpu_bytes", lambda: 80 * 10**9)
    quick = {"scales": 2, "warps": 1, "inner_iterations": 4, "outer_iterations": 1}
    recipe = FlowRecipe.make("tvl1", device="cuda", flow_parameters=quick, confidence=True)
    extract(two_shots, tmp_path / "c", recipe, workers=1)
    frames = np.stack([frame.grey_HW for frame in VideoReader(two_shots)])
    method = create_batched("tvl1", "cpu", **quick)
    both = method.batch(frames[:1], frames[1:2])[0], method.batch(frames[1:2], frames[:1])[0]
    first = open_cache(tmp_path / "c")["two.mp4"].confidence[0]
    np.testing.assert_array_equal(first, spread(confidence_codes(*both), HEIGHT, WIDTH + 1))


def test_export_and_pictures_use_it(two_shots, tmp_path):
    extract(two_shots, tmp_path / "c", workers=1, rgb=False, **OPTIONS)
    entry = open_cache(tmp_path / "c")["two.mp4"]
    done = export(entry, tmp_path / "e", "npy")
    np.testing.assert_array_equal(np.load(done.folder / "confidence.npy"), entry.confidence[:])
    done = export(entry, tmp_path / "p", "color-png")
    picture = cv2.imread(str(done.files[4]))[:HEIGHT, :, ::-1]
    doubtful = entry.confidence[4] < TRUSTED
    assert 0 < doubtful.mean() < 0.5
    assert (picture[doubtful] == 0).all()
    painted = flow_to_color(entry.flow[4], done.record["scale_px"])
    np.testing.assert_array_equal(picture[~doubtful], painted[~doubtful])
    told = run_cli("cache", "info", tmp_path / "c", "two.mp4")
    assert "--confidence" in told.out


class Labelled:
    """One video whose field k has the code k + 1, trusted in its left half."""

    def __getitem__(self, name):
        def codes(rows):
            values = np.asarray(rows, np.int16)[:, None, None, None] + np.int16(1)
            return np.broadcast_to(values, (len(values), 2, 8, 8)).copy()

        half = np.where(np.arange(8) < 4, 15, TRUSTED - 1).astype(np.uint8)
        return SimpleNamespace(
            num_frames=9,
            num_flows=8,
            height=8,
            width=8,
            pts_s=np.arange(9) / 25,
            flow=SimpleNamespace(codes=codes),
            quantiser=Quantiser("i16"),
            cuts=np.array([4]),
            confidence=np.broadcast_to(half, (8, 8, 8)),
        )


@pytest.mark.parametrize("memory", [False, True])
def test_clips_may_leave_out_what_is_not_trusted(memory):
    cache = MemoryCache(Labelled(), 1) if memory else Labelled()
    whole = {"scales": (1.0,), "max_distortion": 0, "crop": "center", "flip": False}
    for untrusted in ("keep", "zero"):
        stream = StreamInput("t", "flow", 2, crop_size=(8, 8), untrusted=untrusted)
        data = ClipDataset([Video("a", Path("a"), ("x",))], cache, [stream], classes=["x"], **whole)
        clip = data[0]["t"].numpy()
        assert (clip[..., :4] > 0).all()
        assert (clip[..., 4:] > 0).all() == (untrusted == "keep")
        assert clip[..., 4:].any() == (untrusted == "keep")


def test_streams_that_have_none_are_refused():
    with pytest.raises(InvalidArgument, match='untrusted "zero" is for forward flow'):
        StreamInput("s", "rgb", 1, untrusted="zero")
    with pytest.raises(InvalidArgument, match="backward flow has no confidence"):
        StreamInput("t", "flow", 4, stacking="bidirectional", untrusted="zero")


@pytest.mark.slow
@pytest.mark.data
def test_it_ranks_errors_at_a_tenth_of_the_bytes(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    monkeypatch.setenv("FLOWPIPE_DATA", str(shared_data))
    import common
    import confidence

    *_, mean = confidence.measure("dis", shared_data / "flow_gt" / "middlebury")
    assert mean["by error"] < mean["area"] < 0.56
    assert confidence.sizes("dis", common.ucf101_clips(3))["share"] < 0.1
