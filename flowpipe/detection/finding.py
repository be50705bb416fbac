"""Person boxes of the key frames of videos, by the detector that the settings name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.detection.data import DetectionData, Part
from flowpipe.detection.persons import make_person_detector
from flowpipe.detection.settings import DetectSettings, PersonSettings
from flowpipe.video import VideoReader

Floats = npt.NDArray[np.float64]
# A detector of these looks at every frame, not at key frames alone.
NEEDS_ALL_FRAMES = ("background",)


def find_persons(
    settings: DetectSettings, data: DetectionData, part: Part
) -> dict[tuple[str, int], tuple[Floats, Floats]]:
    """Return person boxes in px of the cached frame, and scores, of each key frame of a part."""
    wanted: dict[str, set[int]] = {}
    called = {}
    for example in part.examples:
        wanted.setdefault(example.video, set()).add(example.frame)
        called[example.video] = example.key[0]
    return {
        (name, index): (boxes, scores)
        for name, frames in wanted.items()
        for index, boxes, scores in persons_in(
            settings.persons,
            data.paths[name],
            called[name],
            data.entries[name],
            settings.data.offset_s,
            frames,
        )
    }


def persons_in(
    persons: PersonSettings,
    path: Path,
    name: str,
    entry: Any,
    start_s: float,
    frames: set[int] | None,
) -> Iterator[tuple[int, Floats, Floats]]:
    """Return person boxes of frames of a video (None: of all), in px of the cached frame."""
    assert persons.boxes is not None
    kind, options = persons.boxes.partition(":")[0], dict(persons.options)
    recipe = entry.flow_recipe
    if kind == "csv":
        options |= {"video": name, "fps": rate_of(entry), "start_s": start_s}
    detector = make_person_detector(persons.boxes, **options)
    every = frames is None or kind in NEEDS_ALL_FRAMES
    reader = VideoReader(path, fps=recipe.fps, rgb=True)
    size = json.loads(str(entry.attributes["source"]))
    scale = np.tile((entry.width / size["width"], entry.height / size["height"]), 2)
    pictures = (
        (frame.index, frame.rgb_HWC)
        for frame in reader
        if frame.rgb_HWC is not None and (every or frame.index in (frames or ()))
    )
    for index, boxes, scores in detector.find(pictures):
        if frames is None or index in frames:
            yield index, boxes * scale, scores


def rate_of(entry: Any) -> float:
    times_s = entry.pts_s
    return float((len(times_s) - 1) / (times_s[-1] - times_s[0])) if len(times_s) > 1 else 1.0
