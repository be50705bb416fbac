"""A detection experiment: from a configuration to a trained and measured run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowpipe.detection.data import SEVERAL, DetectionData, Part, Told, divided, load_data
from flowpipe.detection.detector import Detector, DetectorSettings
from flowpipe.detection.examples import (
    Say,
    Use,
    with_found,
)
from flowpipe.detection.finding import find_persons
from flowpipe.detection.learning import negatives_in, several_in
from flowpipe.detection.measuring import DETECTIONS, measure
from flowpipe.detection.new_videos import SeenFrame, predict
from flowpipe.detection.settings import DetectSettings, PersonSettings
from flowpipe.detection.weighing import validated_weights
from flowpipe.errors import ConfigError
from flowpipe.registry import own_code, trust
from flowpipe.sealed import FILES, RESULTS, checksums_of, write_table
from flowpipe.training.checkpoint import CHECKPOINT, METRICS

__all__ = [
    "DetectResult", "DetectionData", "Part", "PersonSettings", "SeenFrame", "divided", "load_data",
    "measure", "predict", "train",
]  # fmt: skip
VALIDATION = "validation"


@dataclass(frozen=True)
class DetectResult:
    """What a run of detection came to.

    Attributes
    ----------
    record : dict
        As in results.json.
    """

    record: dict[str, Any]


def train(
    settings: DetectSettings,
    out: Path,
    *,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_use: Callable[[str, Use], None] = lambda part, use: None,
    on_progress: Told | None = None,
    on_epoch: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> DetectResult:
    """Train a detector and measure it; the same call goes on with a run that was interrupted.

    Parameters
    ----------
    settings : DetectSettings
    out : Path
        The run's folder.
    workers : int, optional
        Processes that compute missing flow.
    say, on_use : callable
        Called with lines for people, and with what became of the rows of boxes.
    on_progress, on_epoch : callable, optional
        Called while flow is computed, and with each stream's name and epoch's record.
    """
    trust(*own_code(asdict(settings)))  # of the person's own configuration
    # What can be refused is refused before hours of flow.
    chosen = DetectorSettings(
        streams=settings.streams,
        train=settings.train,
        classes=("",),
        weights=settings.weights,
        flow=json.loads(settings.data.recipe().to_json()),
    )
    chosen.check()
    settings.persons.check()
    data = load_data(
        settings, out, workers=workers, say=say, on_use=on_use, on_progress=on_progress
    )
    examples = data.training.examples
    if settings.persons.teach:
        found = find_persons(settings, data, data.training)
        boxes = {key: boxes for key, (boxes, _) in found.items()}
        examples = with_found(examples, boxes, same=settings.train.found_iou)
    several = several_in(examples)
    softmax = settings.train.loss == "softmax" or (settings.train.loss == "auto" and not several)
    if softmax and several:
        raise ConfigError(SEVERAL)
    first = data.cache[examples[0].video]
    chosen = replace(
        chosen,
        classes=data.classes,
        softmax=softmax,
        nothing=negatives_in(examples),
        size=(first.height, first.width),
        labels=data.names or {},
    )
    if not settings.weights:
        weights = validated_weights(chosen, examples, data.cache, out / VALIDATION, on_epoch)
        if weights:
            shares = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
            say(f"weights of the streams, by held-out training videos: {shares}")
        chosen = replace(chosen, weights=weights)
    detector = Detector(chosen)
    detector.save(out)
    for line in detector.train(examples, data.cache, out, on_epoch):
        say(line)
    record: dict[str, Any] = {
        "title": settings.title,
        "streams": {name: stream.model for name, stream in settings.streams.items()},
        "weights": detector.settings.weights,
        "parameters": detector.num_parameters,
        "classes": list(data.classes),
        "loss": "softmax" if softmax else "sigmoid",
        "flip": detector.settings.flip,
        "training_boxes": data.training.use.boxes,
        "training_key_frames": data.training.use.key_frames,
        "expected": settings.expected,
        **measure(settings, data, detector, out),
    }
    files = [out / name / file for name in detector.networks for file in (CHECKPOINT, METRICS)]
    files += [out / file for part, file in DETECTIONS.items() if part in record]
    write_table(out / RESULTS, {**record, FILES: checksums_of(out, files)})
    return DetectResult(record)
