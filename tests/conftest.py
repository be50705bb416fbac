"""Fixtures for all tests: the shared real data, and videos and cache entries written here."""

import os
import signal
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

# Before torch is imported: two test processes on two cores, each with two threads that wait for
# each other in a loop, take several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before triton is imported, by whichever test comes first: kernels are interpreted without a GPU.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import av
import cv2
import numpy as np
import pytest
from browser import CHROMIUM, Browser

from flowpipe.cache import FlowRecipe, entry_path, write_recipe
from flowpipe.cache.manifest import ManifestRow, ManifestWriter
from flowpipe.cache.write import EntryWriter
from flowpipe.flow.quantise import Quantiser

# Whoever starts the tests in the background has them ignore Ctrl-C, and their children too.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep OpenCV to one thread, so that times and results do not hang on the machine."""
    cv2.setNumThreads(1)


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium here; apt install chromium")
    with Browser(tmp_path / "profile") as window:
        yield window
        assert window.errors == []


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real data: FLOWPIPE_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("FLOWPIPE_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set FLOWPIPE_DATA")
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Give `write(path, frames_THWC, fps=25)`, which encodes uint8 RGB frames as H.264."""

    def write(path: Path, frames_THWC: np.ndarray, fps: int = 25) -> Path:
        frames = np.asarray(frames_THWC, np.uint8)
        height, width = frames.shape[1:3]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.options = {"crf": "10", "threads": "1"}
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return write


U8 = Quantiser("u8", bound_px=20.0)


def _recipe_of(quantiser: Quantiser = U8, *, rgb: bool = False, **changes: Any) -> FlowRecipe:
    return FlowRecipe(
        **{
            "flow": "dis",
            "flow_version": 1,
            "flow_parameters": {"preset": "medium"},
            "libraries": {"opencv": "5.0.0"},
            "storage": quantiser.storage,
            "bound_px": quantiser.bound_px,
            "tolerance_px": quantiser.tolerance_px,
            "short_side": None,
            "size": None,
            "fps": None,
            "rgb": rgb,
            "rgb_quality": 90 if rgb else 0,
            "grey_rule": "luma-full-range-1",
            "resize_rule": "area-1",
            "fps_rule": "nearest-1",
            **changes,
        }
    )


def _smooth_flow(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two sine waves that travel: flow as it looks, but known."""
    rng = np.random.default_rng(seed)
    t, y, x, c = np.ogrid[:count, :height, :width, :2]
    phase = rng.uniform(0, 6)
    return (3 * np.sin(x / 7 + t / 3 + phase + c) + 2 * np.cos(y / 5 - t)).astype(np.float32)


def _write_entry(
    cache: Path,
    uv_THWC: np.ndarray,
    quantiser: Quantiser = U8,
    codec: str = "jpegls",
    *,
    rgb_THWC: np.ndarray | None = None,
    name: str = "walk.avi",
    digest: str = "ab" * 32,
    label: str | None = None,
    path: str | None = None,
    time: float = 1.0,
    problem: str = "",
    rate: float = 25.0,
    **changes: Any,
) -> Path:
    recipe = _recipe_of(quantiser, rgb=rgb_THWC is not None, **changes)
    target = entry_path(cache, recipe.id, digest)
    height, width = uv_THWC.shape[1:3]
    sizes = {"height": height, "width": width, "rgb_quality": recipe.rgb_quality}
    attributes = {
        "recipe": recipe.to_json(),
        "source_name": name,
        "source_sha256": digest,
        "source": '{"codec":"h264"}',
        "problem": problem,
        "software": '{"flowpipe":"0"}',
    }
    with EntryWriter(target, quantiser=quantiser, codec=codec, **sizes) as writer:
        for uv_HWC in uv_THWC:
            writer.add_flow(uv_HWC)
        for rgb_HWC in () if rgb_THWC is None else rgb_THWC:
            writer.add_rgb(rgb_HWC)
        writer.finish(np.arange(len(uv_THWC) + 1) / rate, attributes)
    write_recipe(cache, recipe)
    row = ManifestRow(name, label, digest, recipe.id, path or f"/videos/{name}", 1, 1, time)
    ManifestWriter(cache).add(row)
    return target


@pytest.fixture(scope="session")
def write_entry() -> Callable[..., Path]:
    """Give `write(cache, uv_THWC, quantiser, codec, ...)`: one entry, its recipe and its row.

    The N frames are at `rate` per second; keywords that are fields of a recipe change the recipe.
    """
    return _write_entry


@pytest.fixture(scope="session")
def recipe_of() -> Callable[..., FlowRecipe]:
    """Give `recipe_of(quantiser, rgb=False, **changes)`."""
    return _recipe_of


@pytest.fixture(scope="session")
def smooth_flow() -> Callable[..., np.ndarray]:
    """Give `smooth(count, height, width, seed=0)`: two sine waves that travel, up to 5 px."""
    return _smooth_flow
