"""Flow to look at or to compute with, of a video file: `compute_flow`, `draw_flow`."""

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.atomic import write_aside
from flowpipe.errors import InvalidArgument
from flowpipe.flow import create
from flowpipe.flow.color import flow_to_color
from flowpipe.flow.files import write_flo
from flowpipe.video import VideoReader

# A picture is not louder than its video: full color is at least this, so that noise stays white.
LEAST_SCALE_PX = 2.0
SCALE_PERCENT = 99.0
TICKS_PER_S = 90_000
ARROW_STEP_PX = 16
ARROW_COLOR = (255, 255, 0)
FORMS = ("mp4", "png", "npy", "flo")


def iterate_flow(
    video: str | os.PathLike[str],
    method: str = "dis+tvl1",
    *,
    short_side: int | None = None,
    fps: float | None = None,
    **parameters: Any,
) -> Iterator[tuple[float, NDArray[np.uint8], NDArray[np.float32]]]:
    """Give (time in s, frame H×W×3, flow H×W×2 in px) for each frame but the last.

    Parameters as for `compute_flow`; memory does not grow with the length of the video.
    """
    compute = create(method, **parameters)
    in_color = getattr(compute, "takes", "grey") == "rgb"
    previous = None
    for frame in VideoReader(os.fspath(video), short_side=short_side, fps=fps, rgb=True):
        assert frame.rgb_HWC is not None
        seen = frame.rgb_HWC if in_color else frame.grey_HW
        if previous is not None:
            time_s, rgb_HWC, before = previous
            yield time_s, rgb_HWC, compute(before, seen)
        previous = frame.pts_s, frame.rgb_HWC, seen


def compute_flow(
    video: str | os.PathLike[str],
    method: str = "dis+tvl1",
    *,
    short_side: int | None = None,
    fps: float | None = None,
    **parameters: Any,
) -> NDArray[np.float32]:
    """Compute the optical flow of a video file.

    Parameters
    ----------
    video : path
    method : str
        A name of `flowpipe.flow.FLOWS`, or your own; see `flowpipe.flow.create`.
    short_side : int, optional
        Bring frames to this size in px before; flow is in px of that size.
    fps : float, optional
        Take frames at this rate, by timestamp.
    **parameters
        Of the method.

    Returns
    -------
    array of T×H×W×2 float32
        px per frame step, x (right) then y (down): N frames have N − 1 flows.

    Raises
    ------
    VideoError
        If the video cannot be read.
    InvalidArgument
        If it has one frame only.
    """
    fields = [uv for _, _, uv in iterate_flow(
        video, method, short_side=short_side, fps=fps, **parameters
    )]  # fmt: skip
    if not fields:
        raise InvalidArgument(f"{video} has one frame; flow needs two")
    return np.stack(fields)


def natural_scale_px(lengths_px: ArrayLike) -> float:
    """Return the length that gets full color: the 99th percentile, in whole px, 2 at least."""
    lengths = np.asarray(lengths_px)
    if not lengths.size:
        return LEAST_SCALE_PX
    return float(max(LEAST_SCALE_PX, np.ceil(np.percentile(lengths, SCALE_PERCENT))))


def draw_flow(uv_HWC: ArrayLike, *, scale_px: float | None = None) -> NDArray[np.uint8]:
    """Draw flow in Middlebury's colors: hue is direction, saturation is length.

    Parameters
    ----------
    uv_HWC : array of H×W×2
        Flow in px.
    scale_px : float, optional
        The length that gets full color; give the same to compare pictures. By default the 99th
        percentile, and 2 px at least, so that stillness stays white.

    Returns
    -------
    array of H×W×3 uint8
        RGB.
    """
    uv = np.asarray(uv_HWC, np.float32)
    if scale_px is None:
        scale_px = natural_scale_px(np.hypot(uv[..., 0], uv[..., 1]))
    return flow_to_color(uv, scale_px)


def draw_arrows(
    rgb_HWC: NDArray[np.uint8], uv_HWC: NDArray[np.float32], *, step_px: int = ARROW_STEP_PX
) -> NDArray[np.uint8]:
    """Return the frame with an arrow every `step_px`, as long as the flow there, where it moves."""
    drawn = rgb_HWC.copy()
    height, width = uv_HWC.shape[:2]
    for y in range(step_px // 2, height, step_px):
        for x in range(step_px // 2, width, step_px):
            u, v = (float(value) for value in uv_HWC[y, x])
            if u * u + v * v >= 1.0:
                end = round(x + u), round(y + v)
                cv2.arrowedLine(drawn, (x, y), end, ARROW_COLOR, 1, cv2.LINE_AA, tipLength=0.3)
    return drawn


def write_flow(
    videos: Sequence[Path],
    out: Path,
    form: str = "mp4",
    *,
    method: str = "dis+tvl1",
    short_side: int | None = None,
    fps: float | None = None,
    scale_px: float | None = None,
    arrows: bool = False,
    on_progress: Callable[[float, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Write the flow of videos as files to look at or to load.

    Parameters
    ----------
    videos : sequence of Path
    out : Path
        A folder, made when missing.
    form : "mp4", "png", "npy" or "flo"
        NAME.mp4 (each frame beside its flow), NAME/flow_00000.png, NAME.npy (T×H×W×2 float32,
        px), NAME/flow_00000.flo.
    method, short_side, fps
        As for `compute_flow`.
    scale_px : float, optional
        Length that gets full color; by default one for all videos, of their 99th percentile.
    arrows : bool
        Draw arrows on the frames.
    on_progress : callable, optional
        Called with (share of the videos done, name).

    Returns
    -------
    list of dict
        `video`, `file`, `flows` and `scale_px` of each.

    Raises
    ------
    InvalidArgument
        For an unknown form, a scale that is not > 0, or two videos of one name.
    """
    if form not in FORMS:
        raise InvalidArgument(f'form "{form}" must be one of {", ".join(FORMS)}')
    if scale_px is not None and not scale_px > 0:
        raise InvalidArgument(f"scale {scale_px} px must be > 0", parameter="scale")
    names = [video.stem for video in videos]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"videos of one name ({sorted(names)}) need folders of their own")
    options: dict[str, Any] = {"short_side": short_side, "fps": fps}
    report = on_progress or (lambda share, text: None)
    passes = 2 if form in ("mp4", "png") and scale_px is None else 1
    if passes == 2:
        lengths: list[NDArray[np.float32]] = [np.zeros(1, np.float32)]
        for number, video in enumerate(videos):
            report(number / len(videos) / 2, f"{video.name}: measuring")
            for _, _, uv in iterate_flow(video, method, **options):
                lengths.append(np.hypot(uv[::4, ::4, 0], uv[::4, ::4, 1]).ravel())
        scale_px = natural_scale_px(np.concatenate(lengths))
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for number, video in enumerate(videos):
        share = (passes - 1 + number / len(videos)) / passes
        report(share, video.name)
        fields = iterate_flow(video, method, **options)
        file = out / (video.stem if form in ("png", "flo") else f"{video.stem}.{form}")
        count = _write(file, form, fields, float(scale_px or 1.0), arrows)
        if not count:
            raise InvalidArgument(f"{video} has one frame; flow needs two")
        made.append({"video": str(video), "file": file, "flows": count, "scale_px": scale_px})
    return made


def _write(file: Path, form: str, fields: Iterator[Any], scale_px: float, arrows: bool) -> int:
    """Write the flow of one video in a form; return how many fields."""
    if form == "mp4":
        return _write_mp4(file, fields, scale_px, arrows)
    if form == "npy":
        whole = [uv for _, _, uv in fields]
        with write_aside(file) as target:
            np.save(target, np.stack(whole) if whole else np.zeros((0, 0, 0, 2), np.float32))
        return len(whole)
    file.mkdir(exist_ok=True)
    count = 0
    for count, (_, rgb_HWC, uv) in enumerate(fields, start=1):
        numbered = file / f"flow_{count - 1:05}.{form}"
        if form == "flo":
            write_flo(numbered, uv)
        else:
            picture = _beside(rgb_HWC, uv, scale_px, arrows)
            cv2.imwrite(str(numbered), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return count


def _beside(
    rgb_HWC: NDArray[np.uint8], uv_HWC: NDArray[np.float32], scale_px: float, arrows: bool
) -> NDArray[np.uint8]:
    left = draw_arrows(rgb_HWC, uv_HWC) if arrows else rgb_HWC
    return np.concatenate([left, draw_flow(uv_HWC, scale_px=scale_px)], axis=1)


def _write_mp4(file: Path, fields: Iterator[Any], scale_px: float, arrows: bool) -> int:
    """Write frames beside their flow, at their times; return how many."""
    count, first_s = 0, 0.0
    with write_aside(file) as target, av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(30))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18", "preset": "veryfast"}
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        for time_s, rgb_HWC, uv in fields:
            picture = _beside(rgb_HWC, uv, scale_px, arrows)
            height, width = picture.shape[:2]
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if not count:
                first_s = time_s
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts = round((time_s - first_s) * TICKS_PER_S)
            frame.time_base = Fraction(1, TICKS_PER_S)
            container.mux(stream.encode(frame))
            count += 1
        if count:
            container.mux(stream.encode(None))
    return count
