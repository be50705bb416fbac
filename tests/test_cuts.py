"""Cuts: found where shots meet, marked in the entry, and no clip leads over one."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_cli

from flowpipe import extract, open_cache
from flowpipe.cache import FlowRecipe
from flowpipe.cache.pack import pack, unpack
from flowpipe.cache.verify import verify
from flowpipe.clips.dataset import ClipDataset, TestClips
from flowpipe.clips.parts import shot_around
from flowpipe.clips.streams import StreamInput
from flowpipe.datasets import Video
from flowpipe.errors import EntryCorrupt
from flowpipe.extraction import ranges
from flowpipe.extraction import run as run_module
from flowpipe.flow import device
from flowpipe.flow.cuts import LOOK, find_cuts
from flowpipe.flow.quantise import Quantiser
from flowpipe.video import Frame

HEIGHT, WIDTH = 120, 160


def shot(frames: int, seed: int, px_per_frame: int = 2) -> np.ndarray:
    """Return T×H×W of a textured plane that moves to the left."""
    rng = np.random.default_rng(seed)
    width = WIDTH + px_per_frame * frames
    plane = cv2.resize(rng.uniform(0, 255, (HEIGHT // 8, width // 8)), (width, HEIGHT))
    return np.stack(
        [plane[:, px_per_frame * t : px_per_frame * t + WIDTH] for t in range(frames)]
    ).astype(np.uint8)


def cuts_of(frames_THW, first: int = 0) -> set[int]:
    cuts: set[int] = set()
    frames = [Frame(i, i / 25, grey_HW, None) for i, grey_HW in enumerate(frames_THW, first)]
    passed = list(find_cuts(frames, cuts))
    assert [frame.index for frame in passed] == [frame.index for frame in frames]
    return cuts


def test_shots_begin_where_they_were_joined():
    lengths = [20, 9, 30, 12]
    joined = np.concatenate([shot(n, seed) for seed, n in enumerate(lengths)])
    assert cuts_of(joined) == {20, 29, 59}
    assert cuts_of(shot(40, 5)) == set()
    assert cuts_of(shot(1, 0)) == set()
    assert cuts_of([]) == set()


def test_flashes_fades_and_fast_motion_are_no_cuts():
    calm = shot(40, 1).astype(np.float32)
    for length in (1, 2, 3):
        flash = calm.copy()
        flash[15 : 15 + length] = np.clip(0.2 * flash[15 : 15 + length] + 220, 0, 255)
        assert cuts_of(flash.astype(np.uint8)) == set()
        broken = calm.copy()
        broken[20 : 20 + length] = shot(length, 9)
        assert cuts_of(broken.astype(np.uint8)) == set()
    ramp = np.linspace(0, 1, 10)[:, None, None]
    through_black = np.concatenate([calm[:10] * ramp[::-1], shot(10, 2) * ramp])
    assert cuts_of(through_black.astype(np.uint8)) == set()
    assert cuts_of(shot(40, 3, px_per_frame=37)) == set()


def test_parts_are_decided_as_the_whole():
    whole = np.concatenate([shot(n, seed) for seed, n in enumerate([8, 5, 14, 3, 11])])
    cuts = cuts_of(whole)
    assert len(cuts) > 2
    for start in range(1, len(whole)):
        first, stop = max(0, start - 1 - LOOK), start + 4
        part = cuts_of(whole[first : stop + LOOK], first)
        inside = range(start, min(stop, len(whole)))
        assert part & set(inside) == cuts & set(inside)


@pytest.fixture
def two_shots(tmp_path, write_video):
    frames = np.concatenate([shot(17, 0), shot(14, 1)])
    return write_video(tmp_path / "two.mp4", np.repeat(frames[..., None], 3, 3))


def entry_bytes(cache: Path) -> bytes:
    (file,) = cache.glob("*/*/*.h5")
    return file.read_bytes()


def test_flow_over_a_cut_is_zero_and_marked(two_shots, tmp_path):
    options = {"flow": "farneback", "cuts": True, "workers": 1}
    extract(two_shots, tmp_path / "c", backward=True, **options)
    extract(two_shots, tmp_path / "plain", flow="farneback", workers=1)
    entry, plain = open_cache(tmp_path / "c")["two.mp4"], open_cache(tmp_path / "plain")["two.mp4"]
    assert entry.cuts.tolist() == [16]
    assert plain.cuts.tolist() == []
    assert "cuts" not in plain.recipe.to_json()
    moving = np.abs(entry.flow[:]).max(axis=(1, 2, 3)) > 0
    assert np.flatnonzero(~moving).tolist() == [16]
    others = np.arange(30) != 16
    np.testing.assert_array_equal(entry.flow[:][others], plain.flow[:][others])
    turned = open_cache(tmp_path / "c").backward("two.mp4")
    assert turned.cuts.tolist() == [16]
    assert not turned.flow[16].any()
    told = run_cli("cache", "info", tmp_path / "c", "two.mp4")
    assert "--cuts" in told.out
    assert "[16]" in told.out


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_ranges_give_the_same_bytes(two_shots, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(ranges, "LEAST_FRAMES", 4)
    options = {"flow": "farneback", "cuts": True}
    extract(two_shots, tmp_path / "one", workers=1, **options)
    extract(two_shots, tmp_path / "many", workers=workers, **options)
    assert entry_bytes(tmp_path / "one") == entry_bytes(tmp_path / "many")


def test_a_gpu_marks_them_too(two_shots, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(device, "gpu_name", lambda: "a GPU for tests")
    monkeypatch.setattr(device, "gpu_bytes", lambda: 80 * 10**9)
    quick = {"scales": 2, "warps": 1, "inner_iterations": 4, "outer_iterations": 1}
    recipe = FlowRecipe.make("tvl1", device="cuda", flow_parameters=quick, cuts=True)
    extract(two_shots, tmp_path / "c", recipe, workers=1)
    entry = open_cache(tmp_path / "c")["two.mp4"]
    assert entry.cuts.tolist() == [16]
    assert np.flatnonzero(~entry.flow[:].any(axis=(1, 2, 3))).tolist() == [16]


def test_packs_carry_them(two_shots, tmp_path, write_entry, smooth_flow):
    extract(two_shots, tmp_path / "c", flow="dis", cuts=True, workers=1)
    made = entry_bytes(tmp_path / "c")
    write_entry(tmp_path / "c", smooth_flow(3, 20, 24), name="plain.avi")
    pack(tmp_path / "c", tmp_path / "p.h5")
    recipe = next(r for r in open_cache(tmp_path / "p.h5").recipes.values() if r.cuts)
    packed = open_cache(tmp_path / "p.h5", recipe=recipe.id)["two.mp4"]
    assert packed.cuts.tolist() == [16]
    assert not packed.flow[16].any()
    assert not [found.problem for found in verify(tmp_path / "p.h5", deep=True) if found.problem]
    unpack(tmp_path / "p.h5", tmp_path / "again")
    (file,) = (tmp_path / "again" / recipe.id).rglob("*.h5")
    assert file.read_bytes() == made
    assert not [found.problem for found in verify(tmp_path / "again", deep=True) if found.problem]


def test_marks_that_were_changed_are_noticed(two_shots, tmp_path):
    extract(two_shots, tmp_path / "c", flow="dis", cuts=True, workers=1)
    (path,) = (tmp_path / "c").glob("*/*/*.h5")
    with h5py.File(path, "r+") as file:
        file["cuts"][3] = 1
    with pytest.raises(EntryCorrupt, match="its header is not what was written"):
        open_cache(tmp_path / "c")["two.mp4"]


@pytest.mark.parametrize(
    ("centre", "num_frames", "cuts", "wanted"),
    [
        (4, 10, [2, 6, 7], (3, 7)),
        (7, 10, [2, 6, 7], (3, 7)),
        (8, 10, [2, 6, 7], (8, 10)),
        (0, 10, [0], (1, 10)),
        (9, 10, [8], (0, 9)),
        (1, 3, [0, 1], (0, 3)),
        (5, 10, [], (0, 10)),
    ],
)
def test_the_shot_of_a_centre(centre, num_frames, cuts, wanted):
    assert shot_around(centre, num_frames, np.array(cuts, int)) == wanted


class Labelled:
    """One video whose field k has the code k, and its cuts."""

    def __init__(self, frames: int, cuts: list[int]) -> None:
        self.frames, self.cuts = frames, np.array(sorted(cuts), int)

    def __getitem__(self, name):
        def codes(rows):
            values = np.asarray(rows, np.int16)[:, None, None, None]
            return np.broadcast_to(values, (len(values), 2, 8, 8)).copy()

        return SimpleNamespace(
            num_frames=self.frames,
            num_flows=self.frames - 1,
            height=8,
            width=8,
            pts_s=np.arange(self.frames) / 25,
            flow=SimpleNamespace(codes=codes),
            quantiser=Quantiser("i16"),
            cuts=self.cuts,
        )


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(4, 40),
    cut_share=st.floats(0, 0.5),
    length=st.integers(1, 8),
    frame_step=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_no_clip_leads_over_a_cut(frames, cut_share, length, frame_step, seed):
    rng = np.random.default_rng(seed)
    cuts = np.flatnonzero(rng.uniform(size=frames - 1) < cut_share).tolist()
    borders = [0, *(cut + 1 for cut in cuts), frames]
    shots = [range(a, b - 1) for a, b in itertools.pairwise(borders) if b - a > 1]
    stream = StreamInput("t", "flow", length, frame_step=frame_step, crop_size=(8, 8))
    cache, video = Labelled(frames, cuts), Video("a", Path("a"), ("x",))
    whole = {"scales": (1.0,), "max_distortion": 0, "crop": "center", "flip": False}
    options = {"classes": ["x"], "clips_per_video": 5, "seed": seed, **whole}
    train = ClipDataset([video], cache, [stream], **options)
    ends = {"clips": 5, "crops": "center", "crop_scale": 1.0}
    tests = TestClips([video], cache, [stream], classes=["x"], **ends)
    clips = [train[i]["t"] for i in range(5)] + [tests[i]["t"][0] for i in range(5)]
    clip_span = (length - 1) * frame_step + 1
    for clip in clips:
        fields = clip[1::2, 0, 0].numpy().tolist()
        if shots:
            (inside,) = [s for s in shots if fields[0] in s]
            assert set(fields) <= set(inside)
            if len(inside) >= clip_span:
                assert np.diff(fields).tolist() == [frame_step] * (length - 1)


@pytest.mark.slow
@pytest.mark.data
def test_cuts_of_joined_clips(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    monkeypatch.setenv("FLOWPIPE_DATA", str(shared_data))
    import common
    import cuts

    for row in cuts.measure(common.ucf101_clips(), seed=21):
        assert row["false %"] <= 0.25, row
    assert row["found %"] >= 99, row
    assert row["false %"] <= 0.1, row
