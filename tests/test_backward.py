"""Backward flow in the cache; bi-directional and trajectory stacking."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from flowpipe.cache import FlowRecipe, open_cache
from flowpipe.cache.pack import pack
from flowpipe.clips.dataset import ClipDataset, StreamInput, to_network_input
from flowpipe.clips.memory import MemoryCache
from flowpipe.clips.network_input import follow_trajectories
from flowpipe.datasets.video import Video
from flowpipe.errors import EntryCorrupt, EntryNotFound, InvalidArgument
from flowpipe.extraction import extract
from flowpipe.flow import create

FRAMES, HEIGHT, WIDTH = 9, 48, 64


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(HEIGHT + 64, WIDTH + 64))
    for axis in (0, 1):
        for _ in range(3):
            noise = (noise + np.roll(noise, 1, axis)) / 2
    noise -= noise.min()
    return (255 * noise / noise.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video, texture) -> Path:
    """One video whose content moves 2 px to the right and 1 px down a frame, with both flows."""
    path = tmp_path_factory.mktemp("backward")
    frames = [
        np.repeat(texture[20 - k : 20 - k + HEIGHT, 32 - 2 * k : 32 - 2 * k + WIDTH, None], 3, 2)
        for k in range(FRAMES)
    ]
    write_video(path / "moves.mp4", np.stack(frames))
    options = {"flow": "farneback", "storage": "f16", "workers": 1}
    both = extract(path / "moves.mp4", path / "cache", backward=True, **options)
    assert (both.videos, both.done, both.flows, both.failed) == (1, 1, 2 * (FRAMES - 1), 0)
    again = extract(path / "moves.mp4", path / "cache", backward=True, **options)
    assert (again.done, again.skipped, again.flows) == (0, 1, 0)
    return path


def inner_mean(uv_THWC: np.ndarray) -> np.ndarray:
    return uv_THWC[:, 12:-12, 12:-12].mean((0, 1, 2))


def test_backward_flow_is_the_method_on_the_pair_turned_round(folder: Path) -> None:
    cache = open_cache(folder / "cache")
    forward, backward = cache["moves"], cache.backward("moves")
    assert inner_mean(forward.flow[:]) == pytest.approx([2, 1], abs=0.2)
    assert inner_mean(backward.flow[:]) == pytest.approx([-2, -1], abs=0.2)
    assert forward.has_rgb
    assert not backward.has_rgb
    method = create("farneback")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in forward.rgb[:2]]
    np.testing.assert_allclose(backward.flow[0], method(grey[1], grey[0]), atol=0.3)
    assert backward.recipe == forward.recipe.turned()


def test_a_cache_filled_before_keeps_its_ids() -> None:
    recipe = FlowRecipe(
        flow="dis", flow_version=1, flow_parameters={}, libraries={}, storage="u8", bound_px=20.0,
        tolerance_px=0.0, short_side=None, size=None, fps=None, rgb=True, rgb_quality=95,
        grey_rule="g", resize_rule="r", fps_rule="f",
    )  # fmt: skip
    assert "backward" not in json.loads(recipe.to_json())
    turned = recipe.turned()
    assert json.loads(turned.to_json())["backward"] is True
    assert turned.id != recipe.id
    assert FlowRecipe.from_json(turned.to_json()) == turned
    assert "dis backward" in turned.describe()
    with pytest.raises(EntryCorrupt, match='"backward" must be true'):
        FlowRecipe.from_json(turned.to_json().replace("true", "1"))


def test_forward_only_caches_say_how_to_get_it(tmp_path: Path, folder: Path) -> None:
    extract(folder / "moves.mp4", tmp_path / "cache", flow="farneback", workers=1)
    with pytest.raises(
        EntryNotFound, match=r"no backward flow of farneback.* again with backward flow"
    ):
        open_cache(tmp_path / "cache").backward("moves")


def test_packed_caches_hold_both(tmp_path: Path, folder: Path) -> None:
    pack(folder / "cache", tmp_path / "cache.h5")
    packed = open_cache(tmp_path / "cache.h5")
    expected = open_cache(folder / "cache")
    for entry, other in (
        (packed["moves"], expected["moves"]),
        (packed.backward("moves"), expected.backward("moves")),
    ):
        np.testing.assert_array_equal(entry.flow[:], other.flow[:])


def test_the_command_takes_backward(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    arguments = ["extract", str(folder / "moves.mp4"), "--out", str(tmp_path / "c")]
    with pytest.raises(SystemExit, match="0"):
        script.load()([*arguments, "--flow", "farneback", "--workers", "1", "--backward", "--json"])
    assert json.loads(capsys.readouterr().out)["flows"] == 2 * (FRAMES - 1)


class LabelledCache:
    """Field k is the number k + 1, backward 100 + k."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __getitem__(self, name: str) -> SimpleNamespace:
        return self._entry(1)

    def backward(self, name: str) -> SimpleNamespace:
        return self._entry(100)

    def _entry(self, offset: int) -> SimpleNamespace:
        def codes(indices: np.ndarray) -> np.ndarray:
            numbers = np.asarray(indices, np.float16)[:, None, None, None] + offset
            return np.broadcast_to(numbers, (len(numbers), 2, 8, 8)).copy()

        return SimpleNamespace(
            num_frames=self.frames,
            num_flows=self.frames - 1,
            height=8,
            width=8,
            pts_s=np.arange(self.frames) / 25,
            flow=SimpleNamespace(codes=codes),
            quantiser=SimpleNamespace(storage="f16"),
            cuts=np.empty(0, int),
        )


@pytest.mark.parametrize("memory", [False, True])
def test_bidirectional_stacks_meet_at_the_centre(memory: bool) -> None:
    """Of four fields around frame c: c−1→c−2 and c→c−1 backward, c→c+1 and c+1→c+2 forward."""
    stream = StreamInput("t", "flow", 4, crop_size=(8, 8), stacking="bidirectional", layout="TCHW")
    cache = LabelledCache(7)
    data = ClipDataset(
        [Video("a", Path("a"), ("x",))],
        MemoryCache(cache, 1) if memory else cache,
        [stream],
        classes=["x"],
        training=False,
        scales=(1.0,),
    )
    # Six fields, centres 2 to 4, the middle one is 3: fields 1 and 2, then 3 and 4.
    assert data[0]["t"][:, 0, 0, 0].tolist() == [101, 102, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 5, "stacking": "bidirectional"}, "even number of fields, not 5"),
        ({"frames": 4, "stacking": "trajectory", "frame_step": 2}, "consecutive fields of flow"),
        ({"frames": 4, "stacking": "trajektory"}, 'did you mean "trajectory"'),
    ],
)
def test_wrong_stackings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        StreamInput("t", "flow", **arguments)


def test_stacking_is_for_flow() -> None:
    with pytest.raises(InvalidArgument, match="consecutive fields of flow"):
        StreamInput("s", "rgb", 4, stacking="trajectory")


def slow_trajectories(fields_TCHW: np.ndarray) -> np.ndarray:
    """Point by point, bilinear by hand, coordinates held at the border."""
    frames, _, height, width = fields_TCHW.shape
    out = np.empty_like(fields_TCHW)
    for row in range(height):
        for column in range(width):
            x, y = float(column), float(row)
            for k in range(frames):
                xc, yc = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                left, top = min(int(xc), width - 2), min(int(yc), height - 2)
                fx, fy = xc - left, yc - top
                field = fields_TCHW[k]
                value = (
                    field[:, top, left] * (1 - fx) * (1 - fy)
                    + field[:, top, left + 1] * fx * (1 - fy)
                    + field[:, top + 1, left] * (1 - fx) * fy
                    + field[:, top + 1, left + 1] * fx * fy
                )
                out[k, :, row, column] = value
                x, y = x + value[0], y + value[1]
    return out


@pytest.mark.parametrize("layout", ["TCHW", "CTHW", "CHW"])
def test_trajectories_against_a_walk_point_by_point(layout: str) -> None:
    fields = np.random.default_rng(0).normal(scale=1.5, size=(2, 4, 2, 6, 9))
    expected = torch.from_numpy(np.stack([slow_trajectories(clip) for clip in fields]))
    clip = torch.from_numpy(fields)
    if layout == "CTHW":
        clip, expected = clip.transpose(1, 2), expected.transpose(1, 2)
    elif layout == "CHW":
        clip, expected = clip.flatten(1, 2), expected.flatten(1, 2)
    torch.testing.assert_close(follow_trajectories(clip, layout), expected)


def test_a_trajectory_follows_a_moving_patch() -> None:
    """A patch moves 2 px right a frame: plain stacks lose it, trajectories stay on it."""
    fields = np.zeros((1, 5, 2, 8, 24), np.float16)
    for k in range(5):
        fields[0, k, 0, :, 4 + 2 * k : 8 + 2 * k] = 2
    stream = StreamInput("t", "flow", 5, crop_size=(8, 24), layout="TCHW", flow_scale_px=1.0)
    followed = StreamInput(
        "t", "flow", 5, crop_size=(8, 24), layout="TCHW", flow_scale_px=1.0, stacking="trajectory"
    )
    quantiser = SimpleNamespace(storage="f16")
    batch = {"t": torch.from_numpy(fields)}
    assert to_network_input(batch, stream, quantiser)[0, :, 0, 4, 5].tolist() == [2, 0, 0, 0, 0]
    assert to_network_input(batch, followed, quantiser)[0, :, 0, 4, 5].tolist() == [2] * 5
