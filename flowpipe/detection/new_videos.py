"""Who does what in new videos, and where: a trained detector at work."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.cache import FlowRecipe
from flowpipe.datasets import Video, videos_of
from flowpipe.detection.annotations import read_person_boxes
from flowpipe.detection.data import Told, flow_of
from flowpipe.detection.detector import Detector, load_detector
from flowpipe.detection.examples import (
    Example,
    Say,
)
from flowpipe.detection.finding import persons_in, rate_of
from flowpipe.detection.linking import Moment, Tracker, smoothed
from flowpipe.detection.persons import make_person_detector
from flowpipe.detection.settings import PersonSettings
from flowpipe.errors import FlowpipeError, InvalidArgument
from flowpipe.localisation.annotations import names_in

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeenFrame:
    """The persons on one frame of a new video.

    Attributes
    ----------
    video : str
    frame : int
    time_s : float
        As the video counts, from its first frame on.
    boxes : array of N×4
        x1, y1, x2, y2 in px of the video.
    ids : array of N int
        Numbers of their tracks.
    person_scores : array of N
    probabilities : array of N×K
    """

    video: str
    frame: int
    time_s: float
    boxes: Floats
    ids: npt.NDArray[np.int64]
    person_scores: Floats
    probabilities: Floats


def predict(
    run: Path,
    videos: Sequence[Path],
    persons: PersonSettings,
    *,
    every_s: float = 0.2,
    cache: Path | None = None,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_progress: Told | None = None,
    on_fault: Callable[[str, FlowpipeError], None] | None = None,
) -> tuple[tuple[str, ...], dict[str, Path], Iterator[SeenFrame]]:
    """Find persons in new videos, number them, and say what each does.

    Parameters
    ----------
    run : Path
        A trained detector.
    videos : sequence of Path
        Videos, folders or lists.
    persons : PersonSettings
        Where person boxes come from.
    every_s : float
        From one frame that is looked at to the next; of csv:FILE the frames of the file are.
    cache : Path, optional
        The flow cache. [default: RUN/cache]
    on_fault : callable, optional
        Called with a video's name and what ends it; the others go on. Without it, it is raised.

    Returns
    -------
    classes : tuple of str
    paths : dict
        The file of each video.
    iterator of SeenFrame
        Memory does not grow with the length of a video.

    Raises
    ------
    InvalidArgument
        If there is no video, or none has flow.
    """
    if not every_s > 0:
        raise InvalidArgument(f"every_s {every_s} must be > 0; 0.2 is usual", parameter="every_s")
    if persons.boxes is not None and not persons.boxes.startswith("csv:"):
        make_person_detector(persons.boxes, **persons.options)
    detector = load_detector(run)
    found, _ = videos_of([str(path) for path in videos])
    if not found:
        raise InvalidArgument("there is no video at the paths given", parameter="videos")
    recipe = FlowRecipe.from_json(json.dumps(detector.settings.flow))
    flows = flow_of(found, cache or run / "cache", recipe, workers, say, on_progress)
    here = set(flows.names())
    known = [video for video in found if video.id in here]
    if not known:
        raise InvalidArgument("no video has flow", parameter="videos")

    def frames() -> Iterator[SeenFrame]:
        for video in known:
            try:
                yield from _look(detector, video, flows, persons, every_s)
            except FlowpipeError as error:
                if on_fault is None or len(known) == 1:
                    raise
                on_fault(video.id, error)

    return detector.settings.classes, {video.id: video.path for video in known}, frames()


def _look(
    detector: Detector, video: Video, cache: Any, persons: PersonSettings, every_s: float
) -> Iterator[SeenFrame]:
    entry = cache[video.id]
    times_s = entry.pts_s - entry.pts_s[0]
    wanted, name = _frames_to_see(video.id, entry, persons, every_s)
    source = json.loads(str(entry.attributes["source"]))
    scale = np.tile((entry.width / source["width"], entry.height / source["height"]), 2)
    classes = len(detector.settings.classes)
    scores: dict[int, Floats] = {}

    def examples() -> Iterator[Example]:
        for index, boxes, confidence in persons_in(persons, video.path, name, entry, 0.0, wanted):
            if index < entry.num_frames:
                scores[index] = confidence
                targets = np.zeros((len(boxes), classes), bool)
                yield Example((video.id, index), video.id, index, boxes, targets)

    tracker = Tracker(max_missed=round(every_s * rate_of(entry)) * 3)
    waiting: deque[SeenFrame] = deque()

    def moments() -> Iterator[Moment]:
        for example, probabilities_NK in detector.score(examples(), cache):
            confidence = scores.pop(example.frame)
            weight = confidence[:, None] if persons.weigh else 1.0
            ids_N = tracker.update(example.frame, example.boxes, confidence)
            time_s = float(times_s[example.frame])
            boxes_N4 = example.boxes / scale
            waiting.append(
                SeenFrame(
                    video.id, example.frame, time_s, boxes_N4, ids_N, confidence, probabilities_NK
                )
            )
            yield time_s, ids_N, probabilities_NK * weight

    for probabilities_NK in smoothed(moments(), persons.smooth_s):
        yield replace(waiting.popleft(), probabilities=probabilities_NK)


def _frames_to_see(
    video: str, entry: Any, persons: PersonSettings, every_s: float
) -> tuple[set[int], str]:
    """Return which frames of a video are looked at, and what the boxes' file calls it."""
    assert persons.boxes is not None
    kind, _, file = persons.boxes.partition(":")
    times_s = entry.pts_s - entry.pts_s[0]
    if kind != "csv":
        moments_s = np.arange(0, times_s[-1] + 1e-9, every_s)
        nearest = np.searchsorted((times_s[1:] + times_s[:-1]) / 2, moments_s)
        return set(nearest.tolist()), video
    boxes = read_person_boxes(file)
    called = {theirs: ours for ours, theirs in names_in([video], sorted(set(boxes.videos))).items()}
    if video not in called:
        raise InvalidArgument(f"{file} has no box of {video}", parameter="boxes")
    moments = boxes.moments[boxes.videos == called[video]]
    frames = moments if boxes.in_frames else moments * rate_of(entry)
    return set(np.rint(frames).astype(int).tolist()), called[video]
