"""Persons who meet before a still background are one part of what differs; here it is divided.

Who was apart before (or is apart later) has a box and a way of moving. Where the boxes of two or
more lie within one part, each of them keeps its width: the leftmost stands at the left edge, the
rightmost at the right one, others where they would be by now. Who passes behind another comes out
at the other side, since the order follows where each would be. Persons who touch from the first
frame to the last of what is looked at remain one box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Boxes

# A person is known after so many frames alone; a part of one that flickers is not.
KNOWN_AFTER = 6
# Of a person's box within a part, and of their height of the part's.
WITHIN, HEIGHT_SHARE = 0.5, 0.6
# Centers of who stand beside each other are this far apart, of their height.
BESIDE = 0.2
# Longer than this nobody is believed to be where nothing tells them apart.
LONGEST_FRAMES = 75
# How fast width and speed follow, of 1.
GAIN = 0.3


@dataclass
class _Person:
    box_4: npt.NDArray[np.float64]
    speed: float = 0.0
    width: float = 0.0
    alone: int = 0
    together: int = 0

    @property
    def center(self) -> float:
        return float(self.box_4[0] + self.box_4[2]) / 2

    def expected(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.box_4 + np.array([self.speed, 0, self.speed, 0]))


def divide(parts: Sequence[Boxes]) -> list[list[Boxes]]:
    """Return the boxes of the persons in each part of each frame of a video, in order.

    Parameters
    ----------
    parts : sequence of N×4
        x1, y1, x2, y2 of what differs, of each frame.

    Returns
    -------
    list of list of M×4
        For each frame and part, its boxes; mostly one, the part itself.
    """
    forward, backward = _forward(parts), _forward(parts[::-1])[::-1]
    return [
        [ours if len(ours) >= len(theirs) else theirs for ours, theirs in zip(*both, strict=True)]
        for both in zip(forward, backward, strict=True)
    ]


def _forward(parts: Sequence[Boxes]) -> list[list[Boxes]]:
    persons: list[_Person] = []
    divided = []
    for boxes_N4 in parts:
        within: list[list[_Person]] = [[] for _ in boxes_N4]
        for person in persons:
            shares = _shares(person.expected(), boxes_N4)
            if len(shares) and shares.max() >= WITHIN:
                within[int(shares.argmax())].append(person)
        persons, here = [], []
        for box_4, group in zip(boxes_N4, within, strict=True):
            known = _known(group, box_4)
            if len(known) > 1:
                here.append(_place(known, box_4))
                persons += known
                continue
            here.append(box_4[None])
            last = min(group, key=lambda p: abs(p.center - (box_4[0] + box_4[2]) / 2), default=None)
            persons.append(_alone(last, box_4))
        divided.append(here)
    return divided


def _shares(box_4: npt.NDArray[np.float64], others_N4: Boxes) -> npt.NDArray[np.float64]:
    """Return how much of a box lies within each of others."""
    sides_N2 = np.minimum(box_4[2:], others_N4[:, 2:]) - np.maximum(box_4[:2], others_N4[:, :2])
    area = max(float((box_4[2:] - box_4[:2]).prod()), 1e-9)
    return np.asarray(np.maximum(sides_N2, 0).prod(axis=1) / area)


def _known(group: Sequence[_Person], box_4: npt.NDArray[np.float64]) -> list[_Person]:
    """Return who of a group surely are persons of their own, from left to right."""
    least = HEIGHT_SHARE * (box_4[3] - box_4[1])
    known = sorted(
        (
            person
            for person in group
            if person.alone >= KNOWN_AFTER
            and person.together < LONGEST_FRAMES
            and person.box_4[3] - person.box_4[1] >= least
        ),
        key=lambda person: person.expected()[0] + person.expected()[2],
    )
    kept: list[_Person] = []
    for person in known:
        height = person.box_4[3] - person.box_4[1]
        # Who are together already may pass each other.
        if kept and not person.together and person.center - kept[-1].center < BESIDE * height:
            continue
        kept.append(person)
    return kept


def _place(persons: Sequence[_Person], box_4: npt.NDArray[np.float64]) -> Boxes:
    for place, person in enumerate(persons):
        width = min(person.width, float(box_4[2] - box_4[0]))
        left = person.expected()[[0, 2]].mean() - width / 2
        if place == 0:
            left = box_4[0]
        elif place == len(persons) - 1:
            left = box_4[2] - width
        person.box_4 = np.array([left, box_4[1], left + width, box_4[3]])
        person.together += 1
    return np.stack([person.box_4 for person in persons])


def _alone(person: _Person | None, box_4: npt.NDArray[np.float64]) -> _Person:
    width = float(box_4[2] - box_4[0])
    if person is None:
        return _Person(box_4, width=width)
    moved = float(box_4[0] + box_4[2]) / 2 - person.center
    person.speed += GAIN * (moved - person.speed)
    person.width += GAIN * (width - person.width)
    person.box_4, person.together = box_4, 0
    person.alone += 1
    return person
