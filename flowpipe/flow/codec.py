"""Flow that a video already holds: the motion vectors of its codec, as a dense field.

No frame is compared: what the encoder searched, block by block, is painted. Units, sign and grid
are those of every other method: px per frame step, on the earlier frame's grid. A vector over
several frames is divided by their number. The field is made on cells of 4×4 px, the smallest blocks
there are; cells without a vector (blocks coded as still pictures) take the mean of their
neighbours, until none is left; a frame without any takes the vectors of the frame before. Coarse,
and an encoder looks for cheap blocks, not for motion: a start (`codec+tvl1`), no measurement.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError
from flowpipe.flow.compiling import compiled
from flowpipe.flow.method import RecordMethod, factory
from flowpipe.video.reader import Frame
from flowpipe.video.vectors import MotionVectors

CELL = 4
FIELDS = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")


@dataclass(frozen=True, kw_only=True)
class CodecParameters:
    """The method has no parameters."""


class CodecFlow(RecordMethod):
    """Motion vectors as flow; takes frames of `VideoReader(…, vectors=True)`."""

    version = 1
    takes = "vectors"

    def __call__(self, prev: Frame, next: Frame) -> NDArray[np.float32]:
        """Return the field between neighbouring frames, in either direction of time.

        Raises
        ------
        FlowError
            For a video whose codec has no vectors, and frames that are not neighbours.
        """
        for frame in (prev, next):
            if not isinstance(frame, Frame) or frame.vectors is None:
                raise FlowError(
                    f"{self.name}: these frames come without motion vectors, which videos coded "
                    "as MPEG-1, -2, -4, H.263 or H.264 have; take another method"
                )
        before, after = prev.vectors, next.vectors
        assert before is not None
        assert after is not None
        steps = after.number - before.number
        if steps == 0:
            return np.zeros((*after.size, 2), np.float32)
        if abs(steps) > 1:
            raise FlowError(
                f"{self.name}: {abs(steps) - 1} frames between these two were left out; vectors "
                "lead from frame to frame: keep every frame (no fps)"
            )
        later = after if steps == 1 else before
        if not len(later.blocks):
            raise FlowError(
                f"{self.name}: frame {later.number} has no motion vectors, nor has any before it; "
                "videos coded as MPEG-1, -2, -4, H.263 or H.264 have them: take another method"
            )
        return dense(later, forward=steps == 1)


def dense(vectors: MotionVectors, *, forward: bool) -> NDArray[np.float32]:
    """Return the field H×W×2 from the frame before to this one, or (not `forward`) back to it."""
    blocks = vectors.blocks
    rows, columns = -(-vectors.height // CELL), -(-vectors.width // CELL)
    uv = np.zeros((rows, columns, 2), np.float32)
    known = np.zeros((rows, columns), np.bool_)
    _paint(*(blocks[name] for name in FIELDS), vectors.distance, uv, known)
    if not known.all() and known.any():
        _fill(uv, known)
    field = np.empty((vectors.height, vectors.width, 2), np.float32)
    _spread(uv, field.reshape(vectors.height, -1), forward)
    shown = vectors.orientation
    if shown.transposed:
        field = field.transpose(1, 0, 2)[..., ::-1]
    if shown.flip_x:
        field = field[:, ::-1] * np.array([-1, 1], np.float32)
    if shown.flip_y:
        field = field[::-1] * np.array([1, -1], np.float32)
    field = np.ascontiguousarray(field)
    height, width = field.shape[:2]
    if (height, width) != vectors.size:
        scale = np.array([vectors.size[1] / width, vectors.size[0] / height], np.float32)
        resized = cv2.resize(field, vectors.size[::-1], interpolation=cv2.INTER_LINEAR)
        field = np.asarray(resized, np.float32) * scale
    return field


@compiled
def _paint(source, w, h, dst_x, dst_y, motion_x, motion_y, scale, distance, uv, known):
    """Paint the blocks that come from an earlier frame, px per frame step, into their cells."""
    rows, columns = known.shape
    for i in range(len(source)):
        if source[i] >= 0:
            continue
        gain = np.float32(-1.0) / (scale[i] * distance)
        left, top = dst_x[i] - w[i] // 2, dst_y[i] - h[i] // 2
        for y in range(max(top // 4, 0), min((top + h[i] + 3) // 4, rows)):
            for x in range(max(left // 4, 0), min((left + w[i] + 3) // 4, columns)):
                uv[y, x, 0] = motion_x[i] * gain
                uv[y, x, 1] = motion_y[i] * gain
                known[y, x] = True


@compiled
def _fill(uv, known):
    """Give cells without a vector the mean of their known neighbours, until none is left."""
    rows, columns = known.shape
    left = known.size - known.sum()
    while left:
        new = np.zeros_like(known)
        for y in range(rows):
            for x in range(columns):
                if known[y, x]:
                    continue
                count, u, v = 0, np.float32(0.0), np.float32(0.0)
                for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= ny < rows and 0 <= nx < columns and known[ny, nx]:
                        count += 1
                        u += uv[ny, nx, 0]
                        v += uv[ny, nx, 1]
                if count:
                    uv[y, x, 0], uv[y, x, 1] = u / count, v / count
                    new[y, x] = True
        left -= new.sum()
        known |= new


@compiled
def _spread(uv, field, forward):
    """Bring cells to px. Vectors stand at the later frame; a forward field at the earlier one's."""
    rows, columns = uv.shape[:2]
    height, width = field.shape[0], field.shape[1] // 2
    row = np.empty(2 * width, np.float32)
    sign = np.float32(1.0) if forward else np.float32(-1.0)
    for y in range(rows):
        for x in range(columns):
            u, v = uv[y, x, 0], uv[y, x, 1]
            if forward:
                # What moved here from this place's motion: one step of a fixed point.
                to_x = min(max(int(x + np.float32(0.25) * u + np.float32(0.5)), 0), columns - 1)
                to_y = min(max(int(y + np.float32(0.25) * v + np.float32(0.5)), 0), rows - 1)
                u, v = uv[to_y, to_x, 0], uv[to_y, to_x, 1]
            for px in range(4 * x, min(4 * x + 4, width)):
                row[2 * px] = sign * u
                row[2 * px + 1] = sign * v
        for py in range(4 * y, min(4 * y + 4, height)):
            for place in range(2 * width):
                field[py, place] = row[place]


build = factory(CodecFlow, CodecParameters, "codec")
