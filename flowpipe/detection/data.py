"""Videos, their flow and the boxes of persons: what a detector learns from and is tested on."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.cache import FlowRecipe, open_cache
from flowpipe.clips.memory import MemoryCache
from flowpipe.datasets import Video
from flowpipe.detection.examples import (
    SHARE_SLACK,
    Example,
    KeyFrames,
    Say,
    Truth,
    Use,
    classes_in,
    excluded_of,
    labels_of,
    make_examples,
    read_truth,
)
from flowpipe.detection.settings import DetectSettings
from flowpipe.errors import AnnotationError, ConfigError
from flowpipe.extraction import extract
from flowpipe.localisation.annotations import names_in
from flowpipe.runs import Progress
from flowpipe.video import find_videos

Told = Callable[[Progress], None]
SEVERAL = "a person has several labels, but [train] loss is softmax; set sigmoid or auto"


@dataclass(frozen=True)
class Part:
    """The training or the test part: key frames, and what became of the rows."""

    examples: list[Example]
    use: Use
    places: KeyFrames


@dataclass(frozen=True)
class DetectionData:
    """What a detector learns from and is tested on.

    Attributes
    ----------
    training, test : Part
        `test` may be None.
    classes : tuple of str
    names : dict of str to str, optional
        The label map.
    cache : MemoryCache
    entries : Cache
        The same, without memory.
    paths : dict of str to Path
        The file of each video, by its name in the cache.
    """

    training: Part
    test: Part | None
    classes: tuple[str, ...]
    names: dict[str, str] | None
    cache: MemoryCache
    entries: Any
    paths: dict[str, Path]


def load_data(
    settings: DetectSettings,
    out: Path,
    *,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_use: Callable[[str, Use], None] = lambda part, use: None,
    on_progress: Told | None = None,
) -> DetectionData:
    """Read boxes, compute flow that is missing, and find the frames of all key frames.

    Raises
    ------
    AnnotationError
        If a file cannot be read, a box lies outside of its frame, or no box can be used.
    """
    data = settings.data
    names = labels_of(data.labels)
    truth = read_truth(data.boxes, names, data.normalised)
    test_truth = None
    if data.test_boxes is not None:
        test_truth = read_truth(data.test_boxes, names, data.normalised)
    elif data.test:
        truth, test_truth = divided(truth, data.test)
    classes = classes_in(truth, names)
    if not classes:
        raise AnnotationError(f"{data.boxes} has no label")
    _refuse(settings, truth, classes)
    if test_truth is not None:
        _refuse_px(test_truth, data.test_boxes or data.boxes)
        if shared := videos_in(truth) & videos_in(test_truth):
            say(
                f"note: {len(shared)} videos are trained on and tested on, such as {min(shared)}; "
                "what is measured on them says little of other videos"
            )
    excluded = excluded_of(data.exclude)
    annotated = videos_in(truth) | (set() if test_truth is None else videos_in(test_truth))
    files = _files_of(sorted(annotated), data.videos)
    cache = flow_of(
        list(files.values()), data.cache or out / "cache", data.recipe(), workers, say, on_progress
    )

    def part(name: str, rows: Truth) -> Part:
        named = _Named(cache, files)
        made = Part(*make_examples(rows, classes, named, offset_s=data.offset_s, excluded=excluded))
        on_use(name, made.use)
        return made

    return DetectionData(
        part("training", truth),
        None if test_truth is None else part("test", test_truth),
        classes,
        names,
        MemoryCache(cache, settings.train.memory_mb),
        cache,
        {video.id: video.path for video in files.values()},
    )


def _refuse(settings: DetectSettings, truth: Truth, classes: Sequence[str]) -> None:
    """Refuse, before flow is computed, boxes that the settings cannot learn from."""
    path = settings.data.boxes
    _refuse_px(truth, path)
    boxes = truth.boxes
    if len(classes) == 1 and all(boxes.labels) and not settings.persons.teach:
        raise AnnotationError(
            f"{path} has one label, {classes[0]}, for every person; there must be two, or persons "
            "with an empty label, who do nothing of it"
        )
    if settings.train.loss == "softmax":
        persons: dict[Any, set[str]] = {}
        for key, label, box in zip(boxes.frames, boxes.labels, boxes.boxes.tolist(), strict=True):
            persons.setdefault((key, *box), set()).add(label)
        if any(len(labels & set(classes)) > 1 for labels in persons.values()):
            raise ConfigError(SEVERAL)


def _refuse_px(truth: Truth, path: Path) -> None:
    """Refuse corners in px where they must be shares."""
    boxes = truth.boxes.boxes
    if truth.normalised and boxes.size and boxes.max() > 1 + SHARE_SLACK:
        raise AnnotationError(
            f"{path} has a corner at {boxes.max():g}, which is no share of a side; [data] "
            "normalised = false says that corners are px"
        )


def divided(truth: Truth, patterns: Sequence[str]) -> tuple[Truth, Truth]:
    """Return the rows of other videos, and those of videos that match a pattern.

    Raises
    ------
    AnnotationError
        If a pattern matches no video, or all are for testing.
    """
    videos = videos_in(truth)
    if not videos:
        raise AnnotationError("[data] boxes has no row; each is a box of a person on a key frame")
    chosen = set()
    for pattern in patterns:
        matching = set(fnmatch.filter(videos, pattern))
        if not matching:
            raise AnnotationError(
                f'[data] test "{pattern}" matches none of {len(videos)} videos, such as '
                f"{min(videos)}; * stands for any text"
            )
        chosen |= matching
    if chosen == videos:
        raise AnnotationError("[data] test matches all videos; some must be left to train on")
    boxes = truth.boxes
    inside = np.array([key[0] in chosen for key in boxes.frames], bool)

    def side(rows: npt.NDArray[np.bool_], test: bool) -> Truth:
        empty = frozenset(k for k in boxes.empty_frames if (k[0] in chosen) == test)  # type: ignore[index]
        return replace(truth, boxes=replace(boxes[rows], empty_frames=empty))

    return side(~inside, False), side(inside, True)


def videos_in(truth: Truth) -> set[str]:
    """Return the videos that a truth names."""
    return {key[0] for key in (*truth.boxes.frames, *truth.boxes.empty_frames)}


def flow_of(
    videos: Sequence[Video],
    cache: Path,
    recipe: FlowRecipe,
    workers: int | None,
    say: Say,
    on_progress: Told | None,
) -> Any:
    done = extract(list(videos), cache, recipe, workers=workers, on_progress=on_progress)
    for failure in done.failures:
        say(f"note: {failure.name}: {failure.reason}")
    return open_cache(cache, recipe=recipe.id)


def _files_of(annotated: Sequence[str], folder: Path) -> dict[str, Video]:
    paths = {path.relative_to(folder).as_posix(): path for path in find_videos(folder)}
    names = names_in(sorted(paths), annotated)
    if not names:
        raise AnnotationError(
            f"no video of {folder} has a name that the boxes have, such as {annotated[0]}"
        )
    return {name: Video(file, paths[file]) for name, file in names.items()}


class _Named:
    """A cache of which only some videos count."""

    def __init__(self, cache: Any, files: Mapping[str, Video]) -> None:
        self._cache, self._names = cache, sorted(video.id for video in files.values())

    def names(self) -> list[str]:
        here = set(self._cache.names())
        return [name for name in self._names if name in here]

    def __getitem__(self, name: str) -> Any:
        return self._cache[name]
