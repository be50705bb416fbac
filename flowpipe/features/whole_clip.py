"""What moves in a whole clip, as histograms of its flow: no weights.

What ten flows cannot see, a gesture of two seconds or the order of push and fall, stands in the
histograms of the whole clip. A clip becomes two coarse grids of flow (`flowpipe.flow.histogram`) in
steps of equal time, a grid of where motion changes from place to place, and small blocks of picture
and time (`local_motion`). Its *description* holds some of these; grids are averaged over the clip,
and over its halves, quarters and eighths, of time or of motion. There is an SVM on each description
(`clip_svm`); how much it counts is decided by cross-validation inside the training clips.

Axes: N clips, B steps of time, R×Q cells, K directions (and all), D numbers, C classes.

Boundaries of motion: Dalal, Triggs, Schmid, "Human detection using oriented histograms of flow and
appearance", ECCV 2006, https://doi.org/10.1007/11744047_33.
Parts of parts: Lazebnik, Schmid, Ponce, "Beyond bags of features: spatial pyramid matching", CVPR
2006, https://doi.org/10.1109/CVPR.2006.68.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.features.clip_svm import (
    LOCAL,
    MANY_CLIPS,
    Description,
    Piece,
    decisions_of,
    describe,
    fit_svm,
    inner_folds,
    kernel_of,
    levels,
    roots,
    time_parts,
)
from flowpipe.features.local_motion import LocalMotion, local_motion
from flowpipe.flow.histogram import (
    DIRECTIONS,
    Cells,
    fine_cells,
    fixed_grid,
    grid_of,
    mirrored,
    moving_grid,
)

STEP_S = 0.08
# Lengths are made those of flow between frames this far apart, at this height of the picture.
NOMINAL_S = 0.04
NOMINAL_HEIGHT_PX = 128
FIELDS_AT_ONCE = 64
FIXED, MOVING = (3, 4), (4, 4)
AMOUNT: Piece = ("amount", 1, "no")
BOUNDARIES: Piece = ("boundaries", 4, "time")
# Flow is made so many times smaller before its changes are taken: stored flow has steps.
SMALLER = 2
# Lengths that an amount of motion is counted by, in px; each is twice the one before.
LEAST_AMOUNT_PX, AMOUNTS = 0.02, 10
# Of equal parts of motion: this share of it is spread evenly over the clip.
EVEN_SHARE = 0.2
# So many clips of a class must be judged right, and such a share of them otherwise in a mirror.
LEAST_CLIPS, MIRRORED_SHARE = 5, 0.6


def motion(
    grids: str = "both",
    parts: int = 4,
    pyramid: str = "no",
    local: bool = False,
    amount: bool = False,
    boundaries: bool = False,
    mirror: bool = False,
    cost: float = 10.0,
) -> Description:
    """Return a description of motion.

    Parameters
    ----------
    grids : "fixed", "moving", "both" or "none"
    parts : int
        Equal parts of the clip, whose means stand one after the other.
    pyramid : "no", "time" or "motion"
        Whether the halves, the quarters and so on down to `parts` count as much as the whole, and
        what of the clip is the same in each part.
    local : bool
        Whether small blocks of motion, wherever they are, count as much as the grids.
    amount : bool
        Whether it counts how much moves, and how suddenly. The rest knows shares only.
    boundaries : bool
        Whether it counts, half as much as the rest, where motion changes from place to place: what
        a moving camera does to all of the picture has no boundaries.
    mirror, cost
        As of `Description`.
    """
    chosen = {"fixed": ["fixed"], "moving": ["moving"], "both": ["fixed", "moving"], "none": []}
    pieces: list[Piece] = [(name, parts, pyramid) for name in chosen[grids]]
    count = max(1, len(pieces))
    pieces += [LOCAL] * (count * local) + [AMOUNT] * (count * amount)
    pieces += [BOUNDARIES] * (max(1, len(pieces) // 2) * boundaries)
    return Description(tuple(pieces), mirror=mirror, cost=cost)


def candidates(count: int, *, mirror: bool) -> list[Description]:
    """Return the descriptions to weigh, for `count` clips.

    `mirror` has them train on mirrored clips too. Of many clips, whose kernels are large, there are
    few descriptions and no mirrored ones.
    """
    if count > MANY_CLIPS:
        return [motion("both", 8, "time", local, boundaries=True) for local in (False, True)]
    choices = itertools.product(
        ("moving", "both", "fixed"),
        ((1, "no"), (8, "time"), (8, "motion")),
        (False, True),
        (False, True),
        (False, True),
    )
    listed = [
        motion(grids, parts, pyramid, local, amount, boundaries, mirror)
        for grids, (parts, pyramid), local, amount, boundaries in choices
    ]
    alone = [
        motion("none", local=local, amount=amount, boundaries=boundaries, mirror=mirror)
        for local, amount, boundaries in itertools.product((False, True), repeat=3)
        if local or (boundaries and not amount)
    ]
    return [*listed, *alone]


@dataclass(frozen=True)
class ClipGrids:
    """What all descriptions of a clip are made of: coarse grids B×R×Q×(K+1), and blocks.

    `boundaries` are B×R×Q×2K: where u changes, and where v does, by the direction of the change.
    """

    fixed: Cells
    moving: Cells
    boundaries: Cells
    local: LocalMotion

    def mirrored(self) -> "ClipGrids":
        """Return the same of the clip in a mirror."""
        # In a mirror u has the other sign and x too: its changes along x stay, those of v turn.
        order = [-k % DIRECTIONS for k in range(DIRECTIONS)]
        order += [DIRECTIONS + (DIRECTIONS // 2 - k) % DIRECTIONS for k in range(DIRECTIONS)]
        boundaries = self.boundaries[:, :, ::-1]
        if boundaries.size:
            boundaries = np.ascontiguousarray(boundaries[..., order])
        return ClipGrids(
            mirrored(self.fixed), mirrored(self.moving), boundaries, self.local.mirrored()
        )

    def piece(self, piece: Piece) -> NDArray[np.float32]:
        """Return a piece of the clip's description; it has length one."""
        name, parts, pyramid = piece
        if piece == AMOUNT:
            return _amounts(self.fixed)
        grid: Cells = getattr(self, name)
        if piece == BOUNDARIES:
            return levels([roots(_parts(grid, 2**n, pyramid)) for n in range(parts.bit_length())])
        if pyramid == "no":
            return roots([*_parts(grid, parts, "time"), _change(grid)])
        each = [roots([*_parts(grid, 1, "time"), _change(grid)])]
        each += [roots(_parts(grid, 2**n, pyramid)) for n in range(1, parts.bit_length())]
        return levels(each)

    def candidates(self, count: int, *, mirror: bool) -> list[Description]:
        """Return the descriptions to weigh, for `count` clips."""
        return candidates(count, mirror=mirror)


def clip_grids(
    entry: Any, start: int = 0, stop: int | None = None, *, boundaries: bool = True
) -> ClipGrids:
    """Return the coarse grids and blocks of an entry's flow in steps of `STEP_S`.

    Lengths are those of flow at a fixed rate and size, so that clips of other frame rates or
    sizes compare.

    Parameters
    ----------
    entry : Entry
        With flow and `pts_s`.
    start, stop : int
        Range of the fields, [start, stop); all by default.
    boundaries : bool
        Whether those of motion are computed; without them the clip has no such piece.
    """
    stop = entry.num_flows if stop is None else min(stop, entry.num_flows)
    if not 0 <= start < stop:
        raise InvalidArgument(f"fields [{start}, {stop}) of {entry.num_flows} must hold one")
    interval_s = np.maximum(np.diff(entry.pts_s[start : stop + 1]), 1e-6)
    scale = NOMINAL_S / interval_s * (NOMINAL_HEIGHT_PX / min(entry.height, entry.width))
    blocks = []
    for first in range(start, stop, FIELDS_AT_ONCE):
        last = min(first + FIELDS_AT_ONCE, stop)
        uv_THWC = np.asarray(entry.flow[first:last], np.float32)
        cells = fine_cells(uv_THWC)
        if boundaries:
            cells = np.concatenate([boundary_cells(uv_THWC), cells], axis=-1)
        blocks.append(cells * scale[first - start : last - start, None, None, None])
    cells = in_steps(np.concatenate(blocks), interval_s)
    # The box of the boundaries follows the motion too, which stands last.
    boxed = moving_grid(cells, *MOVING)
    changes = 2 * DIRECTIONS if boundaries else 0
    motion_cells = np.ascontiguousarray(cells[..., changes:])
    return ClipGrids(
        fixed_grid(motion_cells, *FIXED),
        np.ascontiguousarray(boxed[..., changes:]),
        np.ascontiguousarray(boxed[..., :changes]),
        local_motion(motion_cells),
    )


def boundary_cells(uv_THWC: NDArray[np.float32]) -> Cells:
    """Return how u and then v change from place to place, by direction: T×R×Q×2K."""
    height, width = uv_THWC.shape[1:3]
    rows, cols = grid_of(height, width)  # as of the whole field
    size = max(cols, width // SMALLER), max(rows, height // SMALLER)
    changes = np.empty((2, len(uv_THWC), size[1], size[0], 2), np.float32)
    for field, uv_HWC in enumerate(uv_THWC):
        small_HWC = cv2.resize(uv_HWC, size, interpolation=cv2.INTER_AREA)
        x_HWC = cv2.Sobel(small_HWC, cv2.CV_32F, 1, 0, scale=1 / 8)
        y_HWC = cv2.Sobel(small_HWC, cv2.CV_32F, 0, 1, scale=1 / 8)
        changes[:, field, ..., 0] = x_HWC.transpose(2, 0, 1)
        changes[:, field, ..., 1] = y_HWC.transpose(2, 0, 1)
    made = [fine_cells(each, rows=rows, cols=cols)[..., :-1] for each in changes]
    return np.concatenate(made, axis=-1)


def in_steps(cells: Cells, interval_s: NDArray[np.float64]) -> Cells:
    """Return means of fields over steps of `STEP_S`; a field counts by its time in a step."""
    ends_s = np.cumsum(interval_s)
    starts_s = ends_s - interval_s
    steps = max(1, round(float(ends_s[-1]) / STEP_S))
    edges_s = np.linspace(0.0, float(ends_s[-1]), steps + 1)
    weights = np.zeros((steps, len(cells)), np.float32)
    for step in range(steps):
        overlap = np.minimum(ends_s, edges_s[step + 1]) - np.maximum(starts_s, edges_s[step])
        weights[step] = np.maximum(overlap, 0)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, cells, axes=1).astype(np.float32)


def _parts(grid: Cells, parts: int, equal: str) -> list[Cells]:
    """Return means over parts of the clip that have the same time, or as much motion."""
    if equal == "time":
        return time_parts(grid, parts)
    steps = len(grid)
    amount_B = grid[..., -1].sum((1, 2), dtype=np.float64)
    amount_B += EVEN_SHARE * amount_B.mean() + 1e-6
    passed = np.concatenate([[0.0], amount_B.cumsum() / amount_B.sum()])
    edges = np.interp(np.linspace(0, 1, parts + 1), passed, np.arange(steps + 1))
    step_B = np.arange(steps)
    means = []
    for first, stop in itertools.pairwise(edges):
        inside_B = np.minimum(step_B + 1, stop) - np.maximum(step_B, first)
        weights_B = np.maximum(inside_B, 0).astype(np.float32)
        means.append(np.tensordot(weights_B / weights_B.sum(), grid, axes=1))
    return means


def _amounts(grid: Cells) -> NDArray[np.float32]:
    """Return how often so much moves: in all, in the liveliest cell, in any; and how it changes."""
    length_BC = grid[..., -1].reshape(len(grid), -1)
    change_B = np.abs(np.diff(length_BC, axis=0)).mean(1) if len(grid) > 1 else np.zeros(1)
    counts = []
    for lengths in (length_BC.mean(1), length_BC.max(1), length_BC.ravel(), change_B):
        place = np.log2(np.maximum(lengths, 1e-6) / LEAST_AMOUNT_PX).clip(0, AMOUNTS - 1.001)
        low, share = place.astype(int), place % 1
        count = np.bincount(low, 1 - share, AMOUNTS) + np.bincount(low + 1, share, AMOUNTS)
        counts.append((count / len(place)).astype(np.float32))
    return roots(counts)


def _change(grid: Cells) -> Cells:
    """Return the mean change from step to step."""
    return np.abs(np.diff(grid, axis=0)).mean(0) if len(grid) > 1 else np.zeros_like(grid[0])


def mirror_images(
    clips: Sequence[ClipGrids],
    labels_N: NDArray[np.int64],
    num_classes: int,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[int, int]:
    """Return the classes whose clips, in a mirror, are taken for each other: class → the other.

    Each clip is judged by an SVM that has not seen its group. A class counts if it has
    `LEAST_CLIPS` clips that are judged right, and most of those are judged to be of one other
    class in a mirror, as those of the other are to be of this.
    """
    how = motion("fixed", 4)
    (piece,) = how.pieces
    seen_ND = np.stack([describe(clip, how) for clip in clips])
    turned_ND = np.stack([describe(clip.mirrored(), how) for clip in clips])
    seen_NN, turned_NN = (kernel_of(how, {piece: r @ seen_ND.T}) for r in (seen_ND, turned_ND))
    folds_N = inner_folds(labels_N, groups, seed)
    judged_N, turned_N = np.full((2, len(clips)), -1)
    for fold in np.unique(folds_N):
        train, held = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        if len(np.unique(labels_N[train])) < 2:
            continue
        svm = fit_svm(seen_NN[np.ix_(train, train)], labels_N[train], how.cost)
        for kernel, found_N in ((seen_NN, judged_N), (turned_NN, turned_N)):
            held_kernel = kernel[np.ix_(held, train)]
            found_N[held] = decisions_of(svm, held_kernel, num_classes).argmax(1)
    images = {}
    for label in np.unique(labels_N):
        right = (labels_N == label) & (judged_N == label)
        counts = np.bincount(turned_N[right], minlength=num_classes)
        image = int(counts.argmax())
        enough = right.sum() >= max(LEAST_CLIPS, 0.6 * (labels_N == label).sum())
        if enough and image != label and counts[image] > MIRRORED_SHARE * right.sum():
            images[int(label)] = image
    return {one: other for one, other in images.items() if images.get(other) == one}
