"""Histograms of flow over snippets: features without weights, of motion longer than ten fields.

A snippet of F fields is cut into W equal parts of time, each field into cells (see
`flowpipe.flow.histogram`). Of each cell of each part are kept the mean speed in each of K
directions, and of all; the square root is taken of everything::

    16 fields, 4 parts      |0 1 2 3|4 5 6 7|8 9 … |12 … 15|
    3 × 4 cells             a b c d
                            e f g h         each: → ↘ ↓ ↙ ← ↖ ↑ ↗ and all of them
                            i j k l         K = 8: 9 numbers, 4 · 12 · 9 = 432 of a snippet

Speeds are in frame heights per second, so that videos of several sizes and rates compare.

From Python, of one video and of a whole cache::

    histogram = FlowHistogram(HistogramOptions(follow=True))   # by default: cells of the picture
    found = histogram.of(cache["a.avi"])             # .features T×D float32, .centre_s, .span_s
    compute_features(histogram, cache, "store", name="flow-histogram")
    histogram.mirrored(found.features)               # as of the mirrored video, for training
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import Entry, FeatureRecipe
from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument
from flowpipe.features.align import AlignedFeatures
from flowpipe.features.options import Storage, WantedInput
from flowpipe.features.snippets import Snippets, cut_snippets
from flowpipe.flow.histogram import (
    CENTER_FIELDS,
    SIZE_FIELDS,
    fine_cells,
    fixed_grid,
    mirrored,
    moving_grid,
)

NAME = "flow-histogram"
VERSION = 1
PARAMETERS = ("windows", "grid", "follow", "directions")
# Fields decoded and counted at a time, and put on a grid at a time.
BATCH_FIELDS = 32
BLOCK_FIELDS = 1000
# What a box that follows the motion sees to both sides of a field.
MARGIN_FIELDS = SIZE_FIELDS + CENTER_FIELDS
FLOW = StreamInput("flow", "flow", 1)


@dataclass(frozen=True)
class HistogramOptions:
    """What is counted, and over which snippets.

    Attributes
    ----------
    frames : int, optional
        Fields of a snippet; None: the whole video is one snippet.
    clip_step : int, optional
        Fields from the start of a snippet to that of the next; None: no gap, no overlap.
    windows : int
        Parts of a snippet, one behind the other.
    grid : (int, int)
        Rows and columns of cells.
    follow : bool
        Cells of a box that follows the motion, not of the picture.
    directions : int
        Directions, the first to the right, the next towards below.
    storage : "f16" or "f32"
        Precision in the cache of features.
    """

    frames: int | None = 16
    clip_step: int | None = 4
    windows: int = 4
    grid: tuple[int, int] = (3, 4)
    follow: bool = False
    directions: int = 8
    storage: Storage = "f16"

    def __post_init__(self) -> None:
        smallest = min(self.windows, *self.grid, 1 if self.clip_step is None else self.clip_step)
        if smallest < 1 or self.directions < 2:
            raise InvalidArgument(
                f"windows {self.windows}, grid {self.grid} and clip_step {self.clip_step} must be "
                f">= 1, and directions {self.directions} >= 2"
            )
        if self.frames is not None and self.frames < self.windows:
            raise InvalidArgument(
                f"snippets of {self.frames} fields have no {self.windows} parts; take windows <= "
                "frames",
                parameter=("frames", "windows"),
            )
        if self.frames is None:
            object.__setattr__(self, "clip_step", None)  # there is one snippet


class FlowHistogram:
    """Histograms of flow of an entry's snippets, for `compute_features` or of one entry.

    Parameters
    ----------
    options : HistogramOptions, optional

    Attributes
    ----------
    shape : tuple of int
        Of one snippet: (windows · rows · columns · (directions + 1),).
    """

    input = "flow"
    wanted = WantedInput(flow="dis")
    weights: str | None = "none needed"
    batch_size = BATCH_FIELDS
    # Decoding takes longer than counting.
    readers = os.cpu_count() or 1

    def __init__(self, options: HistogramOptions | None = None) -> None:
        self.options = options or HistogramOptions()
        self._shape = (self.options.windows, *self.options.grid, self.options.directions + 1)
        self.shape: tuple[int, ...] = (int(np.prod(self._shape)),)

    def of(self, entry: Entry) -> AlignedFeatures:
        """Return the histograms of one video, T×D float32, and the times of its snippets."""
        snippets = self.snippets(entry)
        units = self.units(snippets)
        batches = (units[start : start + BATCH_FIELDS] for start in range(0, len(units), 32))
        counted = (self.compute(self.read(entry, batch), entry) for batch in batches)
        rows = np.concatenate(list(self.rows(entry, snippets, counted)))
        return AlignedFeatures(rows, snippets.centre_s, snippets.span_s)

    def snippets(self, entry: Entry) -> Snippets:
        """Return the snippets of a video; one where the whole video is one."""
        return cut_snippets(entry, FLOW, self.options.frames, self.options.clip_step)

    def units(self, snippets: Snippets) -> NDArray[np.int64]:
        """Return the fields that are counted, each once however snippets overlap, U×1."""
        return np.arange(snippets.rows_TF.max() + 1)[:, None]

    def read(self, entry: Entry, units_U1: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read fields of a video, U×H×W×2 px."""
        return entry.flow[units_U1[:, 0]]

    def compute(self, uv_UHWC: NDArray[np.float32], entry: Entry) -> NDArray[np.float32]:
        """Return the fine cells of fields, U×R×Q×(K+1) px."""
        return fine_cells(uv_UHWC, directions=self.options.directions)

    def rows(
        self, entry: Entry, snippets: Snippets, computed: Iterable[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the histograms of the snippets, 1×D each, from the cells of the fields in turn."""
        step_s = float(np.median(np.diff(entry.pts_s)))
        grid_FRQK = np.concatenate(list(self._grids(computed))) / (entry.height * step_s)
        for row_F in snippets.rows_TF:
            bounds = np.arange(self.options.windows + 1) * len(row_F) // self.options.windows
            parts = [
                # A whole video may have fewer fields than parts.
                grid_FRQK[row_F[start : max(stop, start + 1)]].mean(axis=0)
                for start, stop in pairwise(bounds)
            ]
            yield np.sqrt(np.stack(parts)).reshape(1, -1).astype(np.float32)

    def _grids(self, computed: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the coarse cells of blocks of fields; memory does not grow with the video's.

        A box that follows the motion looks `MARGIN_FIELDS` to both sides, which stay in hand.
        """
        if not self.options.follow:
            for cells in computed:
                yield fixed_grid(cells, *self.options.grid)
            return
        waiting: list[NDArray[np.float32]] = []
        done = 0  # fields at the head of `waiting` that are there for their neighbours only
        for cells in computed:
            waiting.append(cells)
            if sum(map(len, waiting)) - done < BLOCK_FIELDS + MARGIN_FIELDS:
                continue
            block = np.concatenate(waiting)
            stop = len(block) - MARGIN_FIELDS
            yield moving_grid(block, *self.options.grid)[done:stop]
            waiting, done = [block[stop - MARGIN_FIELDS :]], MARGIN_FIELDS
        yield moving_grid(np.concatenate(waiting), *self.options.grid)[done:]

    def mirrored(self, features_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the mirrored video would give: training data for nothing.

        Raises
        ------
        InvalidArgument
            For an odd number of directions, whose mirror images are none of them.
        """
        if self.options.directions % 2:
            raise InvalidArgument(
                f"{self.options.directions} directions are not their own mirror images; take an "
                "even number"
            )
        return mirrored(features_TD.reshape(-1, *self._shape)).reshape(features_TD.shape)

    def recipe(self, source: str) -> FeatureRecipe:
        """Return the recipe of histograms of flow entries of the recipe `source` (its id)."""
        options = self.options
        return FeatureRecipe(
            source=source,
            input="flow",
            network=NAME,
            network_parameters={
                "version": VERSION,
                "windows": options.windows,
                "grid": list(options.grid),
                "follow": options.follow,
                "directions": options.directions,
            },
            weights_sha256="",
            layer="",
            spatial=False,
            frames=options.frames or 0,
            stride=1,
            fps=None,
            step=options.clip_step or options.frames or 0,
            crop_size=(0, 0),
            crop_scale=1.0,
            crops="center",
            values="frame heights / s",
            storage=options.storage,
        )

    def software(self) -> dict[str, str]:
        """Return the device, and no version beside flowpipe's: numba changes no value."""
        return {"device": "cpu"}
