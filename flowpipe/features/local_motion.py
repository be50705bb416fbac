"""Describe a clip by the kinds of small motions in it, wherever in the picture they are.

A grid over the picture sees another clip when two people change places or one of them stands
further away. Here the clip is cut into small blocks of picture and time; what counts is how often
each kind of block occurs and how far the blocks are from the mean of their kind: a Fisher vector.
The kinds are found in the training clips and know nothing of classes.

Axes: B steps of time, R×Q fine cells, K directions; L blocks of E numbers; G kinds of P numbers;
D = 2·G·P numbers of a clip.

Blocks: Laptev et al., "Learning realistic human actions from movies", CVPR 2008,
https://doi.org/10.1109/CVPR.2008.4587756. Fisher vector: Perronnin, Sánchez, Mensink, "Improving
the Fisher kernel for large-scale image classification", ECCV 2010,
https://doi.org/10.1007/978-3-642-15561-1_11.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.flow.histogram import Cells, mirrored

# A block is 2×2×2 halves, each of so many steps, rows and columns of fine cells.
HALF = 2
BLOCK = 2 * HALF
# From a block to the next, in steps, rows and columns.
STRIDES = (1, 2, 2)
# Blocks with less motion (px) are noise; where a clip has no more, its liveliest are taken.
LEAST_MOTION_PX, STILL_SHARE, LIVELIEST_SHARE = 0.03, 0.3, 0.9
BLOCKS_PER_CLIP = 800
LEARNT_PER_CLIP, LEARNT = 200, 20_000
KINDS, NUMBERS = 24, 24
# How much the place in the clip's time counts beside the motion.
TIME_WEIGHT = 2.0
LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class LocalMotion:
    """The blocks of a clip.

    Attributes
    ----------
    blocks : array of L×2×2×2×K float32
        Roots of the motion in each half of time, rows and columns by direction; length one.
    times : array of L float32
        Where in the clip, 0 to 1.
    """

    blocks: NDArray[np.float32]
    times: NDArray[np.float32]

    def mirrored(self) -> "LocalMotion":
        """Return the blocks of the clip in a mirror."""
        # `mirrored` takes grids, of K directions and all: the last is put there and taken off.
        padded = np.concatenate([self.blocks, self.blocks[..., :1]], axis=-1)
        return LocalMotion(mirrored(padded)[..., :-1], self.times)


def local_motion(cells: Cells) -> LocalMotion:
    """Return the blocks of a clip.

    Parameters
    ----------
    cells : array of B×R×Q×(K+1) float32
        Fine cells in steps of equal time. Where there are less than a block, the last repeat.
    """
    missing = [(0, max(0, BLOCK - size)) for size in cells.shape[:3]]
    motion = np.pad(cells[..., :-1], [*missing, (0, 0)], mode="edge")
    # Sums over boxes are differences of running sums.
    sums = np.pad(motion, [(1, 0)] * 3 + [(0, 0)]).astype(np.float64)
    halves = sums.cumsum(0).cumsum(1).cumsum(2)
    for axis in range(3):
        size = halves.shape[axis]
        halves = np.take(halves, range(HALF, size), axis) - np.take(
            halves, range(size - HALF), axis
        )
    starts = np.meshgrid(
        *(range(0, n - BLOCK + 1, step) for n, step in zip(motion.shape[:3], STRIDES, strict=True)),
        indexing="ij",
    )
    t_L, r_L, q_L = (axis.ravel() for axis in starts)
    blocks = np.stack(
        [
            halves[t_L + a, r_L + b, q_L + c]
            for a in (0, HALF)
            for b in (0, HALF)
            for c in (0, HALF)
        ],
        axis=1,
    )
    mean_L = blocks.sum((1, 2)) / BLOCK**3
    lively, liveliest = np.quantile(mean_L, [STILL_SHARE, LIVELIEST_SHARE])
    chosen = np.flatnonzero(mean_L >= min(max(LEAST_MOTION_PX, lively), liveliest))
    if len(chosen) > BLOCKS_PER_CLIP:
        chosen = chosen[np.linspace(0, len(chosen) - 1, BLOCKS_PER_CLIP).astype(int)]
    roots = np.sqrt(np.maximum(blocks[chosen], 0))
    roots /= np.maximum(np.linalg.norm(roots, axis=(1, 2), keepdims=True), 1e-6)
    shape = (len(chosen), 2, 2, 2, motion.shape[-1])
    times = t_L[chosen] / max(1, len(motion) - BLOCK)
    return LocalMotion(roots.reshape(shape).astype(np.float32), times.astype(np.float32))


@dataclass(frozen=True)
class Vocabulary:
    """The kinds of blocks that clips are made of: a mixture of Gaussians in few dimensions.

    Attributes
    ----------
    mean_E, axes_EP : array of float32
        Of the principal components of blocks.
    weights_G, means_GP, variances_GP : array of float32
        How frequent each kind is, its middle and its spread; the last of P is the time.
    """

    mean_E: NDArray[np.float32]
    axes_EP: NDArray[np.float32]
    weights_G: NDArray[np.float32]
    means_GP: NDArray[np.float32]
    variances_GP: NDArray[np.float32]

    @classmethod
    def learn(cls, clips: Sequence[LocalMotion], seed: int = 0) -> "Vocabulary":
        """Find the kinds of blocks in training clips."""
        from sklearn.cluster import KMeans

        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(len(clip.times))[:LEARNT_PER_CLIP] for clip in clips]
        blocks_LE = np.concatenate(
            [
                clip.blocks[rows].reshape(len(rows), -1)
                for clip, rows in zip(clips, drawn, strict=True)
            ]
        )
        times_L = np.concatenate(
            [clip.times[rows] for clip, rows in zip(clips, drawn, strict=True)]
        )
        some = rng.permutation(len(times_L))[:LEARNT]
        blocks_LE, times_L = blocks_LE[some], times_L[some]
        mean_E = blocks_LE.mean(0)
        values, vectors = np.linalg.eigh(np.cov((blocks_LE - mean_E).T.astype(np.float64)))
        axes_EP = vectors[:, : -NUMBERS - 1 : -1] / np.sqrt(max(1e-9, values[-NUMBERS:].mean()))
        reduced = cls(mean_E, axes_EP.astype(np.float32), *(np.empty(0, np.float32),) * 3)
        points_LP = reduced._points(blocks_LE, times_L)
        kinds = min(KINDS, len(np.unique(points_LP, axis=0)))
        machine = KMeans(kinds, n_init=1, max_iter=50, random_state=seed).fit(points_LP)
        kind_L = machine.labels_
        variances = [points_LP[kind_L == kind].var(0) for kind in range(kinds)]
        return cls(
            mean_E,
            reduced.axes_EP,
            (np.bincount(kind_L, minlength=kinds) / len(kind_L)).astype(np.float32),
            machine.cluster_centers_.astype(np.float32),
            np.maximum(variances, LEAST_VARIANCE).astype(np.float32),
        )

    def describe(self, clip: LocalMotion) -> NDArray[np.float32]:
        """Return the Fisher vector of a clip, D float32 of length one."""
        points_LP = self._points(clip.blocks.reshape(len(clip.times), -1), clip.times)
        away_LGP = (points_LP[:, None] - self.means_GP) / np.sqrt(self.variances_GP)
        log_LG = np.log(self.weights_G) - 0.5 * (
            np.square(away_LGP).sum(2) + np.log(self.variances_GP).sum(1)
        )
        share_LG = np.exp(log_LG - log_LG.max(1, keepdims=True))
        share_LG /= share_LG.sum(1, keepdims=True) * len(points_LP)
        root_G1 = np.sqrt(self.weights_G)[:, None]
        shift_GP = np.einsum("lg,lgp->gp", share_LG, away_LGP) / root_G1
        spread_GP = np.einsum("lg,lgp->gp", share_LG, away_LGP**2 - 1) / (root_G1 * np.sqrt(2))
        numbers_D = np.concatenate([shift_GP.ravel(), spread_GP.ravel()])
        numbers_D = np.sign(numbers_D) * np.sqrt(np.abs(numbers_D))
        return np.asarray(numbers_D / max(1e-6, float(np.linalg.norm(numbers_D))), np.float32)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return what `from_state` needs, as arrays."""
        return {f"vocabulary_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> "Vocabulary":
        """Return the vocabulary whose `state()` is among these arrays."""
        named = {f.name: state[f"vocabulary_{f.name}"] for f in fields(cls)}
        return cls(**{name: np.asarray(values, np.float32) for name, values in named.items()})

    def _points(
        self, blocks_LE: NDArray[np.float32], times_L: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return what the Gaussians are over: principal components, and the time."""
        reduced_LP = (blocks_LE - self.mean_E) @ self.axes_EP
        return np.concatenate([reduced_LP, TIME_WEIGHT * (times_L[:, None] - 0.5)], axis=1)
