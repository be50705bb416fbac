"""The motion vectors that a video's own codec has, frame by frame.

An encoder (MPEG-1/2/4, H.263, H.264) says of each block where in a reference frame it comes from.
libavcodec hands these vectors out beside the picture, but not how far away the reference is: the
nearest one is taken that is shown and decoded earlier. In H.264 a B frame may be a reference too,
which its packet says. Where an encoder used one further back, a vector counts as too long::

    shown        0  1  2  3  4  5
                 I  b  B  b  P  P      B: a B frame that is a reference
    decoded      0  3  2  4  1  5
    distance     -  1  2  1  4  1

Of the B frames of MPEG-4 part 2 libavcodec keeps no vectors: they take those of the frame after
them, which lead over them.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import PictureType
from numpy.typing import NDArray

from flowpipe.video.pictures import Orientation

EXPORT = {"flags2": "+export_mvs"}
"""The decoder's option."""

UNFILTERED = {"skip_loop_filter": "all"}
"""Pictures are not smoothed at the edges of blocks, which vectors do not depend on."""

MOST_REFERENCES = 16
"""Of H.264."""


@dataclass(frozen=True, repr=False)
class MotionVectors:
    """Where the blocks of a frame come from.

    Attributes
    ----------
    number : int
        Of the frame, in the order in which frames are shown.
    blocks : array of N
        libavcodec's records: `w`, `h`, `dst_x`, `dst_y` (a block's size and centre in px),
        `motion_x`, `motion_y` (from it to its source, in 1/`motion_scale` px) and `source`
        (below 0: the reference is an earlier frame).
    distance : int
        Frames from the earlier reference to this one.
    height, width : int
        Of the coded picture.
    orientation : Orientation
        How that is shown.
    size : (int, int)
        Height and width of the frame as the reader returns it.
    """

    number: int
    blocks: NDArray[Any]
    distance: int
    height: int
    width: int
    orientation: Orientation
    size: tuple[int, int]

    def __repr__(self) -> str:
        return f"MotionVectors({self.number}, {len(self.blocks)} blocks, {self.distance} back)"


@dataclass(frozen=True)
class Shown:
    """What a decoded frame carries as `opaque`: its number, blocks and their distance."""

    number: int
    blocks: NDArray[Any]
    distance: int


class VectorTracker:
    """Take the vectors of frames in the order in which they are shown.

    A frame without vectors (an I frame) is given those of the frame before it: motion goes on.
    """

    def __init__(self) -> None:
        self._packets: dict[int, tuple[int, bool]] = {}
        self._references: deque[tuple[int, int]] = deque(maxlen=MOST_REFERENCES)
        self._last = Shown(-1, np.empty(0), 1)

    def note_packets(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Pass packets on; of H.264 keep when a frame is decoded, and if others refer to it."""
        for order, packet in enumerate(packets):
            if packet.pts is not None and packet.stream.codec_context.name == "h264":
                self._packets[packet.pts] = order, is_reference(packet)
            yield packet

    def follow(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Pass frames on, each with its vectors as `opaque`."""
        waiting: list[tuple[int, Any]] = []
        for number, frame in enumerate(frames):
            blocks = self._blocks(frame)
            is_b = frame.pict_type == PictureType.B
            if is_b and (blocks is None or not _any_motion(blocks)):
                waiting.append((number, frame))
                continue
            order, refers = self._packets.pop(frame.pts, (number, not is_b))
            if blocks is not None:
                # Nearest of those that are shown, and were decoded, before this one.
                nearest = max((n for n, o in self._references if o < order), default=number - 1)
                self._last = Shown(number, blocks, number - nearest)
            if refers:
                self._references.append((number, order))
            yield from self._with_vectors([*waiting, (number, frame)])
            waiting = []
        yield from self._with_vectors(waiting)

    def _with_vectors(self, frames: list[tuple[int, Any]]) -> Iterator[Any]:
        for number, frame in frames:
            frame.opaque = replace(self._last, number=number)
            yield frame

    def _blocks(self, frame: Any) -> NDArray[Any] | None:
        data = frame.side_data.get(Type.MOTION_VECTORS)
        blocks: NDArray[Any] | None = None if data is None else data.to_ndarray()
        return None if blocks is None or not len(blocks) else blocks


def _any_motion(blocks: NDArray[Any]) -> bool:
    return bool(blocks["motion_x"].any() or blocks["motion_y"].any())


def is_reference(packet: Any) -> bool:
    """Whether a packet of H.264 holds a frame that others refer to (nal_ref_idc of its slices)."""
    data = bytes(packet)
    extra = packet.stream.codec_context.extradata or b""
    if extra[:1] == b"\1":  # units with their length in front, as in MP4
        size = (extra[4] & 3) + 1
        place = 0
        while place + size < len(data):
            head = data[place + size]
            if head & 31 in (1, 5):
                return head & 96 != 0
            place += size + int.from_bytes(data[place : place + size], "big")
        return True
    for unit in data.split(b"\0\0\1")[1:]:
        if unit and unit[0] & 31 in (1, 5):
            return unit[0] & 96 != 0
    return True
