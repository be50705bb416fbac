"""What the page lists: the videos, what was answered for each, and which of them a filter leaves.

Nothing here opens a video or an entry; a list of 100,000 videos is filtered in memory.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

from flowpipe.errors import FlowpipeError, InvalidArgument
from flowpipe.view.media import Media

State = Literal["all", "wrong", "unsure", "suspicious", "failed"]
Order = Literal["name", "surest", "least sure"]
# A runner-up that is closer than this to the best class, and a best finding below this score.
UNSURE_MARGIN, UNSURE_SCORE = 0.2, 0.5
NO_ANSWERS: Mapping[str, "Answer"] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one stream, or a fusion, said of a video; `is_right` is None without a truth."""

    label: str
    score: float
    is_right: bool | None
    is_unsure: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One row: a video, or one of its entries. `failure` is why it has none."""

    name: str
    labels: tuple[str, ...] = ()
    recipe: str = ""
    failure: str = ""
    answers: Mapping[str, Answer] = field(default_factory=lambda: NO_ANSWERS)


@dataclass(frozen=True)
class Query:
    """Which rows, and in which order.

    Attributes
    ----------
    label : str
        Of the truth; of what was answered, where nothing of the truth is known.
    taken : str
        The class that was answered: with `label`, a cell of the confusion matrix.
    state : "all", "wrong", "unsure", "suspicious" or "failed"
    by : str
        The stream or fusion that is judged.
    text : str
        Part of the name, upper and lower case alike.
    recipe : str
        Id.
    order : "name", "surest" or "least sure"
    """

    label: str = ""
    taken: str = ""
    state: State = "all"
    by: str = ""
    text: str = ""
    recipe: str = ""
    order: Order = "name"

    def __post_init__(self) -> None:
        for name, known in (("state", get_args(State)), ("order", get_args(Order))):
            if getattr(self, name) not in known:
                raise InvalidArgument(
                    f'{name} "{getattr(self, name)}" is unknown; there are {", ".join(known)}'
                )


class Catalogue:
    """The rows of a page.

    Parameters
    ----------
    title, kind : str
        What is looked at: its path, and "cache", "run", "features", "localisation" …
    items : sequence of Item
    media : Media
        Opens what the rows stand for.
    facts : list of (str, str)
        Recipe and "made with", as people read them.
    answered_by : sequence of str
        Streams and fusions; the first is shown.
    recipes : mapping of str to str
        Id → how it reads, where a cache has several.
    details : callable
        Item → truth, findings, curves, boxes for the time axis.
    """

    def __init__(
        self,
        title: str,
        kind: str,
        items: Sequence[Item],
        media: Media,
        *,
        facts: Sequence[tuple[str, str]] = (),
        answered_by: Sequence[str] = (),
        recipes: Mapping[str, str] | None = None,
        details: Callable[[Item], dict[str, Any]] = lambda item: {},
        notes: Sequence[str] = (),
    ) -> None:
        self.title, self.kind, self.items, self.media = title, kind, items, media
        self.facts, self.answered_by = list(facts), list(answered_by)
        self.recipes, self.details, self.notes = dict(recipes or {}), details, list(notes)
        self.has_truth = any(item.labels for item in items)
        self.quality = QualityScan(self)
        self._lower = [item.name.lower() for item in items]
        self._find = lru_cache(maxsize=8)(self._find_uncached)

    def __len__(self) -> int:
        return len(self.items)

    def find(self, query: Query) -> Sequence[int]:
        """Return the numbers of the rows that a query leaves, in its order."""
        if query.state == "suspicious":  # grows while the entries are looked at
            return self._find_uncached(query)
        return self._find(query)

    def _find_uncached(self, query: Query) -> Sequence[int]:
        text = query.text.lower()
        found: Sequence[int] = range(len(self.items))
        if text:
            found = [number for number in found if text in self._lower[number]]
        if query.recipe:
            found = [number for number in found if self.items[number].recipe == query.recipe]
        if query.label:
            found = [number for number in found if query.label in self._classes_of(number, query)]
        if query.taken:
            found = [n for n in found if (a := self.answer(n, query.by)) and a.label == query.taken]
        if query.state != "all":
            found = [number for number in found if self._is_in(number, query)]
        if query.order != "name":
            sign = 1 if query.order == "least sure" else -1
            found = sorted(found, key=lambda n: sign * self._score(n, query.by))
        return found

    def answer(self, number: int, by: str) -> Answer | None:
        """Return what a stream said of a row; None where it said nothing."""
        return self.items[number].answers.get(by or (self.answered_by or [""])[0])

    def _score(self, number: int, by: str) -> float:
        answer = self.answer(number, by)
        return -1.0 if answer is None else answer.score

    def _classes_of(self, number: int, query: Query) -> tuple[str, ...]:
        if self.has_truth:
            return self.items[number].labels
        answer = self.answer(number, query.by)
        return () if answer is None else (answer.label,)

    def _is_in(self, number: int, query: Query) -> bool:
        if query.state == "failed":
            return bool(self.items[number].failure)
        if query.state == "suspicious":
            return bool(self.quality.suspicions.get(number))
        answer = self.answer(number, query.by)
        if answer is None:
            return False
        return answer.is_right is False if query.state == "wrong" else answer.is_unsure

    def states(self, by: str = "") -> dict[str, int]:
        """Return how many rows each filter leaves; of "suspicious" so far."""
        count = {"all": len(self.items)}
        if self.answered_by:
            if self.has_truth:
                count["wrong"] = len(self.find(Query(state="wrong", by=by)))
            count["unsure"] = len(self.find(Query(state="unsure", by=by)))
        if self.media.has_entries:
            count["suspicious"] = sum(map(bool, self.quality.suspicions.values()))
            count["failed"] = len(self.find(Query(state="failed")))
        return count

    def classes(self, by: str = "") -> dict[str, int]:
        """Return each class and its rows."""
        query = Query(by=by)
        labels = (name for n in range(len(self.items)) for name in self._classes_of(n, query))
        return dict(sorted(Counter(labels).items()))

    def confusion(self, by: str) -> dict[str, Any] | None:
        """Return classes and counts of (truth, answer); None where one of them is not known."""
        counts: Counter[tuple[str, str]] = Counter()
        for number, item in enumerate(self.items):
            answer = self.answer(number, by)
            if answer is not None and len(item.labels) == 1:
                counts[item.labels[0], answer.label] += 1
        if not counts:
            return None
        classes = sorted({name for pair in counts for name in pair})
        place = {name: number for number, name in enumerate(classes)}
        cells = [(place[truth], place[taken], count) for (truth, taken), count in counts.items()]
        return {"classes": classes, "cells": sorted(cells)}


class QualityScan:
    """Looks at the header of every entry, in the background, once the page asks for it.

    Attributes
    ----------
    suspicions : dict of int to tuple of str
        Row → what a person should look at, of those that have been looked at.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.suspicions: dict[int, tuple[str, ...]] = {}
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._started = False
        self.stop = threading.Event()

    @property
    def share(self) -> float:
        """How much has been looked at."""
        return len(self.suspicions) / max(1, len(self._catalogue))

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="quality", daemon=True).start()

    def _run(self) -> None:
        for number in range(len(self._catalogue)):
            if self.stop.is_set():
                return
            self.suspicions[number] = self.of(number)

    def of(self, number: int) -> tuple[str, ...]:
        """Look at one row."""
        item = self._catalogue.items[number]
        if item.failure:
            return ()
        try:
            return self._catalogue.media.suspicions(item.name, item.recipe)
        except FlowpipeError as error:
            return (str(error),)
