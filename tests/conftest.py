"""Fixtures for all tests: the shared real data, and videos written here."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep OpenCV to one thread, so that times and results do not hang on the machine."""
    cv2.setNumThreads(1)


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
