"""A video with the evidence for a class laid over it, and the curve of it below."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from flowpipe.clips.streams import EntryLike, StreamInput
from flowpipe.clips.transforms import apply_view
from flowpipe.flow.color import flow_to_color
from flowpipe.visualize.drawing import Picture, column, curve_strip, enlarge, row, write_movie
from flowpipe.visualize.explain import VideoEvidence

SHOWN_PX = 192
OPACITY = 0.7


def write_overlay(
    path: Path, entry: EntryLike, stream: StreamInput, evidence: VideoEvidence
) -> None:
    """Write frame, flow (of streams that see it) and overlay side by side, the curve below.

    One scale for the whole video: evidence that one pixel in a thousand exceeds is fully opaque.
    """
    pts_s = np.asarray(entry.pts_s)
    step_s = float(np.median(np.diff(pts_s))) if len(pts_s) > 1 else 0.04
    write_movie(path, _pictures(entry, stream, evidence), 1 / max(step_s, 1e-3))


def _pictures(entry: EntryLike, stream: StreamInput, evidence: VideoEvidence) -> Iterator[Picture]:
    size, view = stream.crop_size, evidence.view
    largest = float(np.percentile(evidence.heat_NHW, 99.9)) or 1.0
    curve_N = evidence.curve_N
    reach_px = _reach_px(entry) if stream.has_flow else 1.0
    for number in range(int(entry.num_frames)):
        frame_TCHW = entry.rgb[np.array([number])].transpose(0, 3, 1, 2)
        seen = apply_view(frame_TCHW, view, size, "rgb")[0].transpose(1, 2, 0)
        shown = [seen]
        if stream.has_flow:
            place = np.array([min(number, int(entry.num_flows) - 1)])
            codes = apply_view(entry.flow.codes(place), view, size, "flow")
            uv_HWC = entry.quantiser.decode(codes)[0].transpose(1, 2, 0)
            shown.append(flow_to_color(uv_HWC, reach_px))
        shown.append(_laid_over(seen, np.minimum(1, evidence.heat_NHW[number] / largest)))
        line = row([enlarge(picture, SHOWN_PX) for picture in shown], 4)
        yield column([line, curve_strip(curve_N, number, line.shape[1])], 2)


def _reach_px(entry: EntryLike) -> float:
    """Return the largest 99th percentile of magnitudes of some fields, for one scale."""
    count = int(entry.num_flows)
    codes = entry.flow.codes(np.unique(np.linspace(0, count - 1, min(count, 16)).astype(int)))
    uv = entry.quantiser.decode(codes)
    return max(0.1, float(np.percentile(np.hypot(uv[:, 0], uv[:, 1]), 99, axis=(1, 2)).max()))


def _laid_over(picture: Picture, share_HW: np.ndarray) -> Picture:
    colours = cv2.applyColorMap(np.rint(255 * share_HW).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = picture.mean(axis=2, keepdims=True)
    opacity = OPACITY * share_HW[..., None]
    mixed = (1 - opacity) * grey + opacity * cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    return np.asarray(np.rint(mixed), np.uint8)
