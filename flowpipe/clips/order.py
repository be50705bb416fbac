"""The order in which an epoch takes its items: counter-based, balanced, resumable."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.errors import InvalidArgument


def class_balanced_weights(labels: ArrayLike) -> NDArray[np.float64]:
    """Return for each item the weight 1 / (items of its class), scaled to sum to 1.

    Drawn with these weights, all classes that occur are equally likely, as in Simonyan and
    Zisserman (2014), section 4.

    Raises
    ------
    InvalidArgument
        If there is no label or one is negative (unknown).
    """
    numbers = np.asarray(labels, dtype=np.int64)
    if numbers.size == 0 or int(numbers.min()) < 0:
        raise InvalidArgument(
            f"labels of shape {numbers.shape} must be class numbers ≥ 0, and at least one"
        )
    counts = np.bincount(numbers)
    weights = 1.0 / counts[numbers]
    return weights / weights.sum()  # type: ignore[no-any-return]


class EpochSampler:
    """Order of an epoch's items, drawn from (seed, epoch) alone; resumes at any position.

    It gives pairs `(epoch, item)` for `ClipDataset`. Without weights, an epoch is a permutation
    of all items. With weights, `num_draws` items are drawn with replacement; the n-th further
    draw of item i comes as `i + n · num_items`, so that it is another clip of the same video.

    Parameters
    ----------
    num_items : int
        Length of the data set.
    seed : int
    shuffle : bool
        False keeps the order.
    weights : (num_items,) array, optional
        For instance `class_balanced_weights(dataset.labels)`.
    num_draws : int, optional
        Items per epoch over all processes; only with weights. Default `num_items`.
    rank, world_size : int
        This process takes every `world_size`-th item; the order is continued from its
        beginning until all processes have equally many.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        weights: ArrayLike | None = None,
        num_draws: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_items < 1:
            raise InvalidArgument(f"num_items {num_items} must be ≥ 1")
        check_seed(seed)
        if not 0 <= rank < world_size:
            raise InvalidArgument(f"rank {rank} must be in [0, {world_size}), the world size")
        if num_draws is not None and (weights is None or num_draws < 1):
            raise InvalidArgument(
                f"num_draws {num_draws} must be ≥ 1 and needs weights; an epoch without weights "
                "is every item once"
            )
        self.num_items = num_items
        self.seed = seed
        self.shuffle = shuffle
        self.probabilities = None if weights is None else _probabilities(weights, num_items)
        self.num_draws = num_items if num_draws is None else num_draws
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the epoch, and how many of this process's items are done already."""
        if epoch < 0 or not 0 <= position <= self.items_per_epoch:
            raise InvalidArgument(
                f"epoch {epoch} must be ≥ 0 and position {position} in [0, {self.items_per_epoch}]"
            )
        self.epoch = epoch
        self.position = position

    @property
    def items_per_epoch(self) -> int:
        """Items of this process in a whole epoch."""
        return -(-self.num_draws // self.world_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the items of an epoch over all processes."""
        # A spawn key keeps this apart from the samples' own generators: SeedSequence pads with
        # zeros, so that [seed, epoch] alone would be the generator of item 0.
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(1,)))
        if self.probabilities is None:
            items = rng.permutation(self.num_items) if self.shuffle else np.arange(self.num_items)
            return items.astype(np.int64)
        drawn = rng.choice(self.num_items, size=self.num_draws, p=self.probabilities)
        seen: dict[int, int] = {}
        order = np.empty(self.num_draws, dtype=np.int64)
        for place, item in enumerate(drawn.tolist()):
            order[place] = item + seen.get(item, 0) * self.num_items
            seen[item] = seen.get(item, 0) + 1
        return order

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = self.order(epoch)
        padded = np.resize(order, self.items_per_epoch * self.world_size)
        mine = padded[self.rank :: self.world_size]
        for item in mine[self.position :].tolist():
            yield epoch, item

    def __len__(self) -> int:
        return self.items_per_epoch - self.position


def _probabilities(weights: ArrayLike, num_items: int) -> NDArray[np.float64]:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_items,) or not (values >= 0).all() or not values.sum() > 0:
        raise InvalidArgument(
            f"weights of shape {values.shape} must be {num_items} numbers ≥ 0, not all 0"
        )
    return values / values.sum()  # type: ignore[no-any-return]


def check_seed(seed: int) -> None:
    """Refuse a negative seed, which NumPy would refuse with less to go by."""
    if seed < 0:
        raise InvalidArgument(f"seed {seed} must be ≥ 0")
