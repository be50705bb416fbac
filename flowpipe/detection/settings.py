"""What a detection experiment is made from: the tables of its configuration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flowpipe.cache import FlowRecipe
from flowpipe.config import apply_overrides, from_table, read_toml
from flowpipe.detection.annotations import read_person_boxes
from flowpipe.detection.clips import DetectStream
from flowpipe.detection.learning import DetectTrain
from flowpipe.detection.network import HISTOGRAM
from flowpipe.detection.persons import divide_spec, make_person_detector
from flowpipe.errors import InvalidArgument


@dataclass(frozen=True)
class DetectData:
    """Where videos and boxes are; the table `[data]` of a configuration.

    Attributes
    ----------
    videos : Path
        The folder of the videos.
    boxes : Path
        Persons with their actions: AVA's CSV, plain CSV, tubes as CSV, UCF101-24's finalAnnots.mat,
        JHMDB's folder of puppet masks.
    test_boxes : Path, optional
        The same, of the test videos.
    test : tuple of str
        Without `test_boxes`: which videos of `boxes` are for testing, as patterns like "*_lena_*".
    labels : Path, optional
        AVA's label map.
    exclude : Path, optional
        CSV of video,second that are left out.
    normalised : bool, optional
        Whether corners are shares of the picture's sides. [default: those of AVA's CSV are]
    offset_s : float
        Time of a video's first frame as the CSV counts: 900 for AVA's excerpts.
    cache : Path, optional
        The flow cache. [default: RUN/cache]
    flow : str
        The flow method, where flow is missing.
    short_side : int, optional
        Shorter side of cached frames in px.
    fps : float, optional
        Frames per second of the cache.
    storage : "i16", "u8" or "f16"
        Form of the stored flow.
    """

    videos: Path
    boxes: Path
    test_boxes: Path | None = None
    test: tuple[str, ...] = ()
    labels: Path | None = None
    exclude: Path | None = None
    normalised: bool | None = None
    offset_s: float = 0.0
    cache: Path | None = None
    flow: str = "dis"
    short_side: int | None = None
    fps: float | None = None
    storage: Literal["i16", "u8", "f16"] = "i16"

    def __post_init__(self) -> None:
        if not math.isfinite(self.offset_s):
            raise InvalidArgument(f"offset_s {self.offset_s} must be finite; 0 is usual")

    def recipe(self) -> FlowRecipe:
        """Return how flow is computed."""
        return FlowRecipe.make(
            self.flow, short_side=self.short_side, fps=self.fps, storage=self.storage
        )


@dataclass(frozen=True)
class PersonSettings:
    """Where person boxes of tests and new videos come from; the table `[persons]`.

    Attributes
    ----------
    boxes : str, optional
        csv:FILE, onnx:FILE, background or hog. Without it tests are on true boxes only.
    options : dict
        Of that detector, such as min_score.
    teach : bool
        Found boxes of the training videos teach too: what a true box there does, or nothing.
    weigh : bool
        Scores are the action's probability times the person's score.
    smooth_s : float
        Probabilities are means over this time for each person, who is followed from look to look;
        0: each look speaks for itself.
    """

    boxes: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    teach: bool = False
    weigh: bool = False
    smooth_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.smooth_s >= 0:
            raise InvalidArgument(f"smooth_s {self.smooth_s} must be ≥ 0; 1 is usual")
        if self.boxes is None and self.teach:
            raise InvalidArgument("teach needs boxes that are found: set boxes = background")
        # What is wrong here is said before hours of flow: of csv the video is still missing.
        if self.boxes is not None and divide_spec(self.boxes)[0] in ("background", "hog"):
            make_person_detector(self.boxes, **self.options)

    def check(self) -> None:
        """Refuse a file of boxes, or of a network, that is missing or no such file."""
        kind, file = (None, "") if self.boxes is None else divide_spec(self.boxes)
        if kind == "csv":
            read_person_boxes(file)
        elif kind == "onnx":
            make_person_detector(str(self.boxes), **self.options)


@dataclass(frozen=True)
class DetectSettings:
    """A configuration of `flowpipe detect train`.

    Attributes
    ----------
    data : DetectData
    title : str
    streams : dict of str to DetectStream
        Fused per box. [default: flow, by flow-histogram]
    weights : dict of str to float
        Of the streams; 1 where absent. [default: chosen on training videos that are held out, for
        which the streams are trained once more]
    train : DetectTrain
    persons : PersonSettings
    expected : dict
        What published results say, to stand beside the measured.
    """

    data: DetectData
    title: str = ""
    streams: dict[str, DetectStream] = field(
        default_factory=lambda: {"flow": DetectStream(model=HISTOGRAM)}
    )
    weights: dict[str, float] = field(default_factory=dict)
    train: DetectTrain = field(default_factory=DetectTrain)
    persons: PersonSettings = field(default_factory=PersonSettings)
    expected: dict[str, Any] = field(default_factory=dict)


def load_settings(source: Path, overrides: Sequence[str] = ()) -> DetectSettings:
    """Read a configuration; its paths are relative to it.

    Raises
    ------
    ConfigError
        For an unknown key, or a value of the wrong kind.
    """
    table, base = read_toml(source), source.parent
    apply_overrides(table, overrides)
    settings = from_table(DetectSettings, table, where=str(source))
    names = ("videos", "boxes", "test_boxes", "labels", "exclude", "cache")
    paths = {
        name: base / value for name in names if (value := getattr(settings.data, name)) is not None
    }
    streams = {
        name: stream if stream.weights is None else replace(stream, weights=base / stream.weights)
        for name, stream in settings.streams.items()
    }
    persons, spec = settings.persons, settings.persons.boxes
    if spec is not None and ":" in spec:
        kind, _, file = spec.partition(":")
        persons = replace(persons, boxes=f"{kind}:{base / file}")
    return replace(settings, data=replace(settings.data, **paths), streams=streams, persons=persons)
