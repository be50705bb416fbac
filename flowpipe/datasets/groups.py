"""Which videos belong together, read from their names: clips of one film, scene or person.

A random split that puts clips of one film on both sides measures memory, not recognition.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from flowpipe.datasets.video import Dataset, Video

# Share of the videos whose names must match for a pattern to be taken.
MATCHING = 0.9

# What is looked for → pattern in the file's stem; the captured text names the group.
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "films, as in UCF101 (v_NAME_gNN_cNN)": re.compile(r"(.*_g\d+)_c\d+"),
    "films, as in HMDB51": re.compile(r"(.+)_[fuhl]_(?:nm|cm)_np\d_(?:fr|ba|le|ri)_\w+_\d+"),
    "YouTube videos (ID_start_end)": re.compile(r"([\w-]{11})_\d+(?:\.\d+)?_\d+(?:\.\d+)?"),
    "persons (person01)": re.compile(r"(?:.*_)?((?:person|subject|actor|user|s|p)_?\d+)(?:_.*)?"),
    "scenes (sceneNN, videoNN)": re.compile(r"(?:.*_)?((?:scene|video|film|clip|seq)_?\d+)_.*"),
}
_FIRST_WORD = re.compile(r"([A-Za-z]+\d*)[_\- ].*")
_NUMBERED = re.compile(r"(.*\d.*?)[_\- .]+[a-z]{0,4}\d+", re.IGNORECASE)


def with_groups(dataset: Dataset) -> Dataset:
    """Give videos without groups those that their names tell, and note which were used.

    Tried in this order: the file (of parts of videos), the names of `PATTERNS`, a first word that
    several classes share (`daria_run`, `daria_walk`), what stands before the last number where it
    holds a number itself (`street12_003`). A pattern is taken if nine tenths of the videos match,
    some videos share a group, and every class has two groups at least, so that it can be split.
    """
    if any(video.group is not None for video in dataset.videos):
        return _noted(dataset, "groups: as given")
    for what, group_of in _candidates(dataset):
        groups = {video.id: group_of(video) for video in dataset.videos}
        if _suits(dataset, groups):
            videos = tuple(replace(v, group=groups[v.id]) for v in dataset.videos)
            count = len({group for group in groups.values() if group is not None})
            return _noted(replace(dataset, videos=videos), f"groups: {count} {what}")
    return _noted(
        dataset,
        "groups: none found in the names; if several videos show one scene or person, name it in a "
        "column of groups, or scores come out too high",
    )


def _candidates(
    dataset: Dataset,
) -> list[tuple[str, Callable[[Video], str | None]]]:
    def by(pattern: re.Pattern[str]) -> Callable[[Video], str | None]:
        def group_of(video: Video) -> str | None:
            match = pattern.fullmatch(PurePosixPath(video.name).stem)
            return match[1] if match else None

        return group_of

    found: list[tuple[str, Callable[[Video], str | None]]] = []
    if any(video.span is not None for video in dataset.videos):
        found.append(("files that the parts are of", lambda video: video.name))
    found += [(what, by(pattern)) for what, pattern in PATTERNS.items()]
    classes_of: dict[str | None, set[str | None]] = defaultdict(set)
    first_word = by(_FIRST_WORD)
    for video in dataset.videos:
        classes_of[first_word(video)].add(video.label)
    if all(len(classes) > 1 for classes in classes_of.values()):
        found.append(("first words that classes share", first_word))
    return [*found, ("prefixes before the last number", by(_NUMBERED))]


def _suits(dataset: Dataset, groups: Mapping[str, str | None]) -> bool:
    named = [group for group in groups.values() if group is not None]
    if len(named) < MATCHING * len(groups) or len(set(named)) == len(named):
        return False
    of_class: dict[str, set[str]] = defaultdict(set)
    for video in dataset.videos:
        for label in video.labels:
            of_class[label].add(groups[video.id] or video.id)
    largest = Counter(named).most_common(1)[0][1]
    return all(len(own) > 1 for own in of_class.values()) and largest <= len(named) / 2


def _noted(dataset: Dataset, note: str) -> Dataset:
    return replace(dataset, notes=(*dataset.notes, note))
