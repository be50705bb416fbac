"""Whether an action in the mirror is another: by the names of classes, or by their flow."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from flowpipe.datasets import Dataset, Video
from flowpipe.experiment.histograms import described
from flowpipe.experiment.streams import class_numbers
from flowpipe.features.whole_clip import ClipGrids, clip_grids, mirror_images

WORDS = (("left", "right"), ("clockwise", "counterclockwise"), ("cw", "ccw"))
# So many clips of each class are looked at.
CLIPS_PER_CLASS = 20


def named_pair(classes: Iterable[str]) -> tuple[str, ...]:
    """Return two classes that a mirror turns into each other, by their names; () for none."""
    words = {name: re.split(r"[^a-z]+", name.lower()) for name in classes}
    for one, other in (*WORDS, *(pair[::-1] for pair in WORDS)):
        for name, parts in words.items():
            if one in parts:
                turned = [other if part == one else part for part in parts]
                for twin, twin_parts in words.items():
                    if twin_parts == turned:
                        return (name, twin)
    return ()


def mirror_note(
    data: Dataset,
    cache: Any | None,
    known: dict[str, ClipGrids],
    seed: int,
    *,
    boundaries: bool = True,
) -> str:
    """Return why training clips are not to be mirrored; "" where nothing is against it.

    Parameters
    ----------
    data : Dataset
        Training videos.
    cache : Cache, optional
        With their flow; without it names alone are looked at.
    known : dict of str to ClipGrids
        Histograms that have been computed, by video; what is computed is put there.
    seed : int
    boundaries : bool
        Whether what is computed is for a stream that needs boundaries of motion.
    """
    if pair := named_pair(data.classes):
        return f"no mirrored clips: {' and '.join(pair)} are mirror images by their names"
    if cache is None or any(len(video.labels) != 1 for video in data.videos):
        return ""
    videos = _some_of_each(data)
    chosen = Dataset(tuple(videos), data.classes)
    images = mirror_images(
        described(videos, cache, known, partial(clip_grids, boundaries=boundaries)),
        class_numbers(chosen),
        len(data.classes),
        groups=[video.group or video.id for video in videos],
        seed=seed,
    )
    if not images:
        return ""
    label, image = next(iter(images.items()))
    return (
        f"no mirrored clips: in a mirror, the flow of {data.classes[label]} is that of "
        f"{data.classes[image]}"
    )


def _some_of_each(data: Dataset) -> list[Video]:
    of_class: dict[str, list[Video]] = {}
    for video in data.videos:
        of_class.setdefault(str(video.label), []).append(video)
    return [
        video
        for videos in of_class.values()
        for video in videos[:: -(-len(videos) // CLIPS_PER_CLASS)]
    ]
