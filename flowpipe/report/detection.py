"""The page of a detection: per video the persons over the picture, and what each does when.

Like the page of a localisation it is one file with the videos inside, small and as H.264, and a
script of a few lines: boxes follow the video, a click on a stretch shows its moment, and a class
can be picked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.detection.tracks import MAX_GAP_S, Track, labels_of
from flowpipe.errors import VideoError, VideoNotFound
from flowpipe.report.annotated import PERSON_COLORS
from flowpipe.report.localisation import MOST_VIDEO_BYTES, MOST_VIDEOS, small_video, ticks
from flowpipe.report.page import write_page
from flowpipe.video import probe

MOST_PERSONS = 40


@dataclass(frozen=True)
class Stretch:
    """A bar of a person's lane: one action, in per cent of the video's length."""

    left: float
    width: float
    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True)
class Lane:
    """What one person does over the video."""

    number: int
    color: int
    stretches: list[Stretch]

    @property
    def summary(self) -> list[tuple[str, float]]:
        """Seconds of each action, the longest first."""
        seconds: dict[str, float] = {}
        for stretch in self.stretches:
            seconds[stretch.label] = (
                seconds.get(stretch.label, 0.0) + stretch.end_s - stretch.start_s
            )
        return sorted(seconds.items(), key=lambda item: -item[1])


def write_detection_page(
    path: Path,
    title: str,
    tracks: Mapping[str, Sequence[Track]],
    classes: Sequence[str],
    *,
    paths: Mapping[str, Path] | None = None,
    min_score: float = 0.3,
    record: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write what persons do as one HTML file, whole or not at all.

    Parameters
    ----------
    path : Path
    title : str
    tracks : mapping of str to sequence of Track
        Video → its persons. The first 40 videos and the first 40 persons of each are shown.
    classes : sequence of str
        Those of the tracks' scores.
    paths : mapping, optional
        The file of each video, to be carried in the page.
    min_score : float
        Of an action that is written beside a person's best one.
    record : mapping, optional
        `mAP`, `AP` and `errors` of a test, as `flowpipe detect eval` gives them.
    notes : sequence of str
        Sentences that stand above the videos.
    """
    room = MOST_VIDEO_BYTES
    cards = []
    for name, persons in list(tracks.items())[:MOST_VIDEOS]:
        source = (paths or {}).get(name)
        video = "" if source is None or room <= 0 else small_video(source)
        room -= len(video)
        cards.append(_card(name, persons[:MOST_PERSONS], classes, source, video, min_score))
    notes = list(notes)
    if len(tracks) > MOST_VIDEOS:
        notes.append(f"The first {MOST_VIDEOS} of {len(tracks)} videos are shown.")
    if any(len(persons) > MOST_PERSONS for persons in tracks.values()):
        notes.append(f"Of each video the {MOST_PERSONS} persons who are seen longest are shown.")
    count = sum(len(persons) for persons in tracks.values())
    headline = (
        f"{count} person{'s' * (count != 1)} in {len(tracks)} video{'s' * (len(tracks) != 1)}"
    )
    record = record or {}
    if isinstance(record.get("mAP"), float):
        headline = f"mAP {record['mAP']:.3f}"
    doing = {s.label for card in cards for lane in card["lanes"] for s in lane.stretches}
    ap = [[k, "–" if v is None else f"{v:.3f}"] for k, v in record.get("AP", {}).items()]
    errors = [
        [kind, str(e["count"]), f"{e['cost']:.3f}"] for kind, e in record.get("errors", {}).items()
    ]
    return write_page(
        path,
        "detection.html",
        title=title,
        headline=headline,
        notes=notes,
        cards=cards,
        classes=[label for label in classes if label in doing],
        colors=[f"rgb{color}" for color in PERSON_COLORS],
        ap=ap,
        errors=errors,
    )


def _card(
    name: str,
    persons: Sequence[Track],
    classes: Sequence[str],
    source: Path | None,
    video: str,
    min_score: float,
) -> dict[str, Any]:
    corners = [track.boxes_T4[:, 2:].max(axis=0) for track in persons]
    width, height = np.ceil(np.max([(320, 240), *corners], axis=0)).astype(int).tolist()
    length_s = max((float(t.times_s[-1]) + t.step_s for t in persons), default=1.0)
    if source is not None:
        try:
            info = probe(source)
            width, height = info.width, info.height
            length_s = max(length_s, info.duration_s or 0.0)
        except (VideoError, VideoNotFound):
            pass  # its boxes are known: they are shown without the picture
    return {
        "name": name,
        "video": video,
        "length_s": length_s,
        "width": width,
        "height": height,
        "lanes": [_lane(track, classes, length_s) for track in persons],
        "ticks": ticks(length_s),
        "data": {
            "size": [width, height],
            "length": round(length_s, 3),
            "gap": MAX_GAP_S,
            "persons": [_numbers(track, classes, min_score) for track in persons],
        },
    }


def _numbers(track: Track, classes: Sequence[str], min_score: float) -> dict[str, Any]:
    """Return what the script draws of a person; labels as [name, per cent]."""
    labels = [labels_of(row, classes, min_score=min_score) for row in track.scores_TK]
    return {
        "n": track.number,
        "c": track.number % len(PERSON_COLORS),
        "hold": round(track.step_s / 2, 3),
        "t": np.round(track.times_s, 3).tolist(),
        "b": np.rint(track.boxes_T4).astype(int).tolist(),
        "l": [[[label, round(100 * score)] for label, score in row] for row in labels],
    }


def _lane(track: Track, classes: Sequence[str], length_s: float) -> Lane:
    """Return the stretches over which a person's best class stays the same."""
    best_T = track.scores_TK.argmax(axis=1)
    gaps = np.diff(track.times_s) > MAX_GAP_S
    starts = np.flatnonzero(np.concatenate(([True], (np.diff(best_T) != 0) | gaps)))
    stretches = []
    for start, stop in zip(starts, [*starts[1:], len(best_T)], strict=True):
        # A stretch lasts until the next look, or as long as a look stands for.
        ends = track.times_s[stop - 1] + track.step_s
        if stop < len(best_T) and not gaps[stop - 1]:
            ends = track.times_s[stop]
        begins, ends = float(track.times_s[start]), float(min(ends, length_s))
        stretches.append(
            Stretch(
                100 * begins / length_s,
                max(100 * (ends - begins) / length_s, 0.2),
                begins,
                ends,
                classes[int(best_T[start])],
                float(track.scores_TK[start:stop, best_T[start]].mean()),
            )
        )
    return Lane(track.number, track.number % len(PERSON_COLORS), stretches)
