"""The pictures of a page: frames, flow in color, features as strips; made on demand and kept."""

import math
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowpipeError
from flowpipe.flow.color import color_key, flow_to_color
from flowpipe.view.media import Clip, Picture

KEPT_BYTES = 256 * 2**20
THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 108, 144
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
LEAST_SCALE_PX = 0.5
FIELDS_FOR_SCALE, FIELDS_FOR_MOTION = 5, 160
STRIP_ROWS, STRIP_COLUMNS = 64, 512
WHEEL_PX = 88


class PictureStore:
    """Pictures on disk, in a temporary folder that goes with the server; the oldest are dropped.

    Parameters
    ----------
    most_bytes : int
        Of all pictures.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="flowpipe-view-")
        self.path = Path(self._folder.name)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the picture of a key, which may serve as a file name; made if not kept."""
        with self._lock:
            kept = key in self._sizes
            if kept:
                self._sizes.move_to_end(key)
        if kept:
            try:
                return (self.path / key).read_bytes()
            except OSError:  # a cleaner of temporary files was here
                self._forget(key)
        data = make()
        try:
            part = self.path / f"{key}.{threading.get_ident()}.part"
            part.write_bytes(data)
            part.replace(self.path / key)
        except OSError:  # no folder or no space: made again the next time
            return data
        with self._lock:
            self.num_bytes += len(data) - self._sizes.pop(key, 0)
            self._sizes[key] = len(data)
            oldest = []
            while self.num_bytes > self._most_bytes and len(self._sizes) > 1:
                name, size = self._sizes.popitem(last=False)
                self.num_bytes -= size
                oldest.append(name)
        for name in oldest:
            (self.path / name).unlink(missing_ok=True)
        return data

    def _forget(self, key: str) -> None:
        with self._lock:
            self.num_bytes -= self._sizes.pop(key, 0)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def jpeg(picture_HWC: Picture) -> bytes:
    """Return a picture as JPEG with colors at full resolution, which flow needs."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture_HWC[..., ::-1]), JPEG)
    return data.tobytes()


def png(picture: Picture) -> bytes:
    """Return a picture, grey or RGB, as PNG."""
    _, data = cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1].copy())
    return data.tobytes()


def scale_of(clip: Clip) -> float:
    """Return the magnitude in px that only 1 % of some fields of a video pass, for full color."""
    return _some_fields(clip)[1] if clip.num_flows else 1.0


def _some_fields(clip: Clip) -> tuple[int, float]:
    """Look at some fields: return the one that moves most, and the scale."""
    count = clip.num_flows
    some = np.unique(np.linspace(0, count - 1, min(count, FIELDS_FOR_SCALE)).round().astype(int))
    fields = clip.entry.flow[some.tolist()]
    magnitude_THW = np.hypot(fields[..., 0], fields[..., 1])
    largest = float(np.percentile(magnitude_THW, 99))
    most = int(some[magnitude_THW.mean(axis=(1, 2)).argmax()])
    return most, max(LEAST_SCALE_PX, float(f"{largest:.2g}"))


def flow_picture(clip: Clip, number: int, scale_px: float) -> Picture:
    """Return the flow of a frame in color."""
    return flow_to_color(clip.flow(number), scale_px)


def motion_of(clip: Clip) -> list[tuple[float, float]]:
    """Return (seconds, mean magnitude in px) of at most 160 fields."""
    count = clip.num_flows
    places = np.unique(np.linspace(0, count - 1, min(count, FIELDS_FOR_MOTION)).astype(int))
    curve = []
    for place in places.tolist():
        uv_HWC = clip.flow(place)
        mean_px = float(np.hypot(uv_HWC[..., 0], uv_HWC[..., 1]).mean())
        curve.append((round(clip.times_s[place], 3), round(mean_px, 3)))
    return curve


def features_picture(features_T: NDArray[np.float32]) -> Picture:
    """Return features as a strip: time to the right, channels down, each from blue to yellow."""
    rows_TD = np.abs(features_T.reshape(len(features_T), features_T.shape[1], -1)).mean(2)
    strip_DT = rows_TD.T.astype(np.float32)
    height, width = min(STRIP_ROWS, strip_DT.shape[0]), min(STRIP_COLUMNS, strip_DT.shape[1])
    small = cv2.resize(strip_DT, (width, height), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(np.percentile(small, 99.5))
    grey = np.clip((small - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    picture: Picture = cv2.applyColorMap(grey, cv2.COLORMAP_CIVIDIS)[..., ::-1].astype(np.uint8)
    return picture


def wheel() -> Picture:
    """Return the key of the flow's colors."""
    return color_key(WHEEL_PX)


def thumbnail(clip: Clip) -> Picture:
    """Return a frame beside its flow, where the video moves most, or what of these there is."""
    number, scale_px = len(clip.times_s) // 2, 1.0
    if clip.num_flows:
        number, scale_px = _some_fields(clip)
    parts: list[Picture] = []
    if "frame" in clip.tracks:
        parts.append(clip.frame(number))
    if clip.num_flows:
        parts.append(flow_picture(clip, number, scale_px))
    if not parts and clip.features is not None:
        return _fit(features_picture(clip.features.features[:]), 2 * THUMBNAIL_WIDTH)
    if not parts:
        raise FlowpipeError("there is nothing to show of this video")
    return np.concatenate([_fit(part, THUMBNAIL_WIDTH) for part in parts], axis=1)


def _fit(picture: Picture, width: int) -> Picture:
    """Return the picture filling height × width, its middle where it is longer."""
    height = THUMBNAIL_HEIGHT
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = tuple(max(1, math.ceil(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    how: Any = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    large = cv2.resize(picture, size, interpolation=how)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    cut: Picture = large[top : top + height, left : left + width].astype(np.uint8)
    return cut
