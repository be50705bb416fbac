"""Training and test halves of a list of videos: by fold, or at random by group."""

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import AnnotationError, InvalidArgument

TRAIN, VAL, TEST = "train", "val", "test"


def folds(dataset: Dataset) -> list[str]:
    """Return the names of the folds that can be tested: "test", then numbers by their value.

    A fold "train" is none of them, its videos only train; nor is one without a label, as the test
    half of Kinetics.
    """
    labelled = [video for video in dataset.videos if video.labels or not dataset.classes]
    names = {fold for video in labelled for fold in video.folds} - {TRAIN}
    return sorted(
        names, key=lambda name: (name != TEST, not name.isdecimal(), name.zfill(20), name)
    )


def tested_folds(dataset: Dataset) -> list[str]:
    """Return the folds that together test a data set once.

    All of them; of those beside a fold "train", which share its videos for training, the first.
    """
    names = folds(dataset)
    shared = any(TRAIN in video.folds for video in dataset.videos)
    return names[:1] if shared else names


def split_fold(dataset: Dataset, fold: str | int) -> tuple[Dataset, Dataset]:
    """Return `(train, test)`: the videos of one fold are the test set.

    All other videos train that are not unused in this fold; where there is a fold "train", only
    its videos do. Unlabelled videos are in neither half.

    Raises
    ------
    AnnotationError
        If there is no such fold, or nothing is left to train on.
    """
    known, fold = folds(dataset), str(fold)
    if fold not in known:
        raise AnnotationError(
            f'fold "{fold}" must be one of: {", ".join(known) or "(the list has no folds)"}'
        )
    only_train = any(TRAIN in video.folds for video in dataset.videos)
    labelled = [video for video in dataset.videos if video.labels or not dataset.classes]
    test = [video for video in labelled if fold in video.folds]
    train = [
        video
        for video in labelled
        if fold not in (*video.folds, *video.unused) and (TRAIN in video.folds or not only_train)
    ]
    if not train:
        raise AnnotationError(f'fold "{fold}" holds all videos; none is left to train on')
    return replace(dataset, videos=tuple(train)), replace(dataset, videos=tuple(test))


def equal_folds(dataset: Dataset, count: int, *, seed: int = 0) -> Dataset:
    """Put every video into one of `count` folds at random: "0", "1", …, even within each class.

    Videos of one group get the same fold. A class of fewer groups than folds is missing from some.

    Raises
    ------
    InvalidArgument
        If there are fewer than two folds, or more folds than groups.
    """
    members = _members_of_groups(dataset)
    if not 2 <= count <= len(members):
        raise InvalidArgument(
            f"{count} folds of {len(members)} groups: at least 2, at most one for each group"
        )
    order = np.random.default_rng(seed).permutation(len(members))
    names = [sorted(members)[position] for position in order]
    used: dict[tuple[str | None, ...], int] = Counter()
    fold_of: dict[str, str] = {}
    next_first = 0
    for name in names:
        labels = tuple(sorted({str(video.label) for video in members[name]}))
        if labels not in used:
            used[labels], next_first = next_first, next_first + 1
        fold = str(used[labels] % count)
        used[labels] += 1
        fold_of.update({video.id: fold for video in members[name]})
    videos = tuple(replace(video, folds=(fold_of[video.id],)) for video in dataset.videos)
    return replace(dataset, videos=videos)


def seeded_split(
    dataset: Dataset,
    *,
    group_pattern: str | None = None,
    test_fraction: float = 0.25,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    r"""Split at random into `(train, test)` without tearing groups apart.

    Groups are drawn for the test set such that every class comes near `test_fraction` of its
    videos, and at least one. A group is never taken if a class would have no video left to
    train on; a class with a single group therefore stays out of the test set.

    Parameters
    ----------
    dataset : Dataset
    group_pattern : str, optional
        Regular expression searched in the id: the captured text (or the whole match) names the
        group; a video that does not match is its own group. `r"(g\d+)_c\d+"` joins group 1 of
        *all* classes, `r"(v_.+_g\d+)_c\d+"` only that of a class. Default: the videos'
        groups.
    test_fraction : float
        Share of test videos, between 0 and 1.
    seed : int
        The same seed and list give the same split, whatever the order of the list.

    Raises
    ------
    InvalidArgument
        If the fraction is not inside (0, 1), or the pattern is not a regular expression.
    AnnotationError
        If the groups leave one half empty.
    """
    if not 0.0 < test_fraction < 1.0:
        raise InvalidArgument(
            f"test_fraction {test_fraction} must be between 0 and 1; 0.25 is a usual choice"
        )
    grouped = dataset if group_pattern is None else grouped_by(dataset, group_pattern)
    members = _members_of_groups(grouped)
    names = sorted(members)
    order = np.random.default_rng(seed).permutation(len(names))
    shuffled = [names[position] for position in order]
    test_groups = _choose_test_groups([members[name] for name in shuffled], test_fraction)
    test_ids = {v.id for position in test_groups for v in members[shuffled[position]]}
    if not test_ids:
        raise AnnotationError(
            f"{len(names)} group(s) cannot be split: every class has one group only; "
            "give a group_pattern that tells more groups apart"
        )
    train = tuple(video for video in dataset.videos if video.id not in test_ids)
    test = tuple(video for video in dataset.videos if video.id in test_ids)
    return replace(dataset, videos=train), replace(dataset, videos=test)


def grouped_by(dataset: Dataset, group_pattern: str) -> Dataset:
    """Return the data set with the groups that a pattern finds in the ids, see `seeded_split`.

    Raises
    ------
    InvalidArgument
        If the pattern is not a regular expression.
    """
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise InvalidArgument(
            f'group_pattern "{group_pattern}" must be a regular expression: {error}'
        ) from error

    def group_of(video: Video) -> str | None:
        found = pattern.search(video.id)
        return found and "|".join(part or "" for part in (found.groups() or (found.group(),)))

    return replace(dataset, videos=tuple(replace(v, group=group_of(v)) for v in dataset.videos))


def _members_of_groups(dataset: Dataset) -> dict[str, list[Video]]:
    members: dict[str, list[Video]] = defaultdict(list)
    for video in dataset.videos:
        # An id cannot hold a control character, so this prefix keeps it apart from group names.
        members["\0" + video.id if video.group is None else video.group].append(video)
    return members


def _choose_test_groups(groups: Sequence[Sequence[Video]], fraction: float) -> list[int]:
    """Choose groups greedily by how much nearer they bring the classes to their test share.

    The gain of a group only falls while others are taken, so a heap of old gains suffices.
    """
    sizes = [Counter(video.label for video in group) for group in groups]
    left: Counter[str | None] = Counter()
    for size in sizes:
        left.update(size)
    wanted = {label: max(1.0, fraction * count) for label, count in left.items()}

    def gain(position: int) -> float:
        size = sizes[position]
        if any(left[label] <= count for label, count in size.items()):
            return -math.inf
        return sum(abs(wanted[label]) - abs(wanted[label] - count) for label, count in size.items())

    heap = [(-gain(position), position) for position in range(len(groups))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap:
        _, position = heapq.heappop(heap)
        current = gain(position)
        if heap and -current > heap[0][0]:
            heapq.heappush(heap, (-current, position))
            continue
        # The first is taken though it be larger than the share asked for.
        if current <= 1e-9 and (chosen or current == -math.inf):
            break
        chosen.append(position)
        for label, count in sizes[position].items():
            wanted[label] -= count
            left[label] -= count
    return chosen
