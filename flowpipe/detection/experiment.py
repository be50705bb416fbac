"""A detection experiment: from a configuration to a trained and measured run, and to new videos."""

import fnmatch
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.cache import FlowRecipe, open_cache
from flowpipe.clips.memory import MemoryCache
from flowpipe.datasets import Video, videos_of
from flowpipe.detection.annotations import read_person_boxes
from flowpipe.detection.detector import Detector, DetectorSettings, load_detector
from flowpipe.detection.examples import (
    Example,
    KeyFrames,
    Say,
    Truth,
    Use,
    boxes_of,
    classes_in,
    excluded_of,
    labels_of,
    make_examples,
    read_truth,
    with_found,
)
from flowpipe.detection.learning import negatives_in, several_in
from flowpipe.detection.linking import Moment, Tracker, smoothed
from flowpipe.detection.persons import make_person_detector
from flowpipe.detection.settings import DetectSettings, PersonSettings
from flowpipe.errors import AnnotationError, ConfigError, InvalidArgument
from flowpipe.extraction import extract
from flowpipe.localisation.annotations import names_in
from flowpipe.metrics.boxes import Boxes, box_precision
from flowpipe.registry import own_code, trust
from flowpipe.runs import Progress
from flowpipe.video import VideoReader, find_videos

RESULTS = "results.json"
TRUE_DETECTIONS, FOUND_DETECTIONS = "detections_true.csv", "detections_found.csv"
Told = Callable[[Progress], None]
Floats = npt.NDArray[np.float64]
# A detector of these looks at every frame, not at key frames alone.
NEEDS_ALL_FRAMES = ("background",)


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
        raise ConfigError(
            "a person has several labels, but [train] loss is softmax; set sigmoid or auto"
        )
    first = data.cache[examples[0].video]
    detector = Detector(
        DetectorSettings(
            streams=settings.streams,
            train=settings.train,
            classes=data.classes,
            softmax=softmax,
            nothing=negatives_in(examples),
            size=(first.height, first.width),
            weights=settings.weights,
            flow=json.loads(settings.data.recipe().to_json()),
            labels=data.names or {},
        )
    )
    detector.save(out)
    for line in detector.train(examples, data.cache, out, on_epoch):
        say(line)
    record: dict[str, Any] = {
        "title": settings.title,
        "streams": {name: stream.model for name, stream in settings.streams.items()},
        "parameters": detector.num_parameters,
        "classes": list(data.classes),
        "loss": "softmax" if softmax else "sigmoid",
        "flip": detector.settings.flip,
        "training_boxes": data.training.use.boxes,
        "training_key_frames": data.training.use.key_frames,
        "expected": settings.expected,
        **measure(settings, data, detector, out),
    }
    with write_aside(out / RESULTS, "w") as file:
        json.dump(record, file, indent=1)
    return DetectResult(record)


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
    annotated = videos_in(truth) | (set() if test_truth is None else videos_in(test_truth))
    files = _files_of(sorted(annotated), data.videos)
    cache = _flow_of(
        list(files.values()), data.cache or out / "cache", data.recipe(), workers, say, on_progress
    )
    excluded = excluded_of(data.exclude)

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


def measure(
    settings: DetectSettings, data: DetectionData, detector: Detector, out: Path
) -> dict[str, Any]:
    """Return frame mAP on the test videos, with true boxes and with found ones; write detections.

    Returns
    -------
    dict
        test_boxes, true_boxes and found_boxes, each with mAP, AP and errors; {} without tests.
    """
    test = data.test
    if test is None:
        return {}
    smooth_s = settings.persons.smooth_s
    true = _precision(detector, data, test, test.examples, {}, smooth_s, out / TRUE_DETECTIONS)
    record: dict[str, Any] = {"test_boxes": test.use.boxes, "true_boxes": true}
    if settings.persons.boxes is not None:
        found = find_persons(settings, data, test)
        nobody = (np.zeros((0, 4)), np.zeros(0))
        seen = [_with_boxes(e, found.get((e.video, e.frame), nobody)[0]) for e in test.examples]
        weights = {key: value for key, (_, value) in found.items() if settings.persons.weigh}
        path = out / FOUND_DETECTIONS
        precision = _precision(detector, data, test, seen, weights, smooth_s, path)
        record["found_boxes"] = {"boxes": settings.persons.boxes, **precision}
    return record


def _with_boxes(example: Example, boxes: Floats) -> Example:
    targets = np.zeros((len(boxes), example.targets.shape[1]), bool)
    return replace(example, boxes=boxes, targets=targets)


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
        options |= {"video": name, "fps": _rate_of(entry), "start_s": start_s}
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


def _rate_of(entry: Any) -> float:
    times_s = entry.pts_s
    return float((len(times_s) - 1) / (times_s[-1] - times_s[0])) if len(times_s) > 1 else 1.0


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
    flows = _flow_of(found, cache or run / "cache", recipe, workers, say, on_progress)
    here = set(flows.names())
    known = [video for video in found if video.id in here]
    if not known:
        raise InvalidArgument("no video has flow", parameter="videos")

    def frames() -> Iterator[SeenFrame]:
        for video in known:
            yield from _look(detector, video, flows, persons, every_s)

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

    tracker = Tracker(max_missed=round(every_s * _rate_of(entry)) * 3)
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
    frames = moments if boxes.in_frames else moments * _rate_of(entry)
    return set(np.rint(frames).astype(int).tolist()), called[video]


def _followed(
    scored: Iterable[tuple[Example, Floats]], entries: Any, smooth_s: float
) -> Iterator[tuple[Example, Floats]]:
    """Return key frames with probabilities that are means over time for each person."""
    for name, of_video in itertools.groupby(scored, key=lambda each: each[0].video):
        entry, looks = entries[name], list(of_video)
        tracker = Tracker(max_missed=round(smooth_s * _rate_of(entry)))
        moments: list[Moment] = []
        last = -1
        for example, probabilities_NK in looks:
            # Two key frames may be nearest to one frame.
            last = max(example.frame, last + 1)
            ids_N = tracker.update(last, example.boxes, np.ones(len(example.boxes)))
            moments.append((float(entry.pts_s[example.frame]), ids_N, probabilities_NK))
        for (example, _), means_NK in zip(looks, smoothed(moments, smooth_s), strict=True):
            yield example, means_NK


def detections_of(
    scored: Iterable[tuple[Example, Floats]],
    classes: Sequence[str],
    person_scores: Mapping[tuple[str, int], Floats],
) -> Boxes:
    """Return one row for each box and class, boxes in px of the cached frame."""
    rows, scores = [], []
    for example, probabilities_NK in scored:
        weights = person_scores.get((example.video, example.frame))
        for row, (box, values) in enumerate(zip(example.boxes, probabilities_NK, strict=True)):
            weight = 1.0 if weights is None else float(weights[row])
            for name, value in zip(classes, values.tolist(), strict=True):
                rows.append((example.key, name, box))
                scores.append(value * weight)
    return boxes_of(rows, scores)


def _precision(
    detector: Detector,
    data: DetectionData,
    test: Part,
    examples: Sequence[Example],
    person_scores: Mapping[tuple[str, int], Floats],
    smooth_s: float,
    path: Path,
) -> dict[str, Any]:
    classes = data.classes
    # Persons are followed through each video.
    in_order = sorted(examples, key=lambda example: (example.video, example.frame))
    scored = _followed(detector.score(in_order, data.cache), data.entries, smooth_s)
    detections = detections_of(scored, classes, person_scores)
    write_boxes(path, detections, test.places)
    truth_rows = [
        (example.key, name, box)
        for example in test.examples
        for box, targets in zip(example.boxes, example.targets, strict=True)
        for name, has in zip(classes, targets.tolist(), strict=True)
        if has
    ]
    truth = boxes_of(truth_rows, empty=[example.key for example in test.examples])
    if not truth_rows:
        return {}
    result = box_precision(truth, detections, classes, cap=None)
    return {
        "mAP": result.mean_ap,
        "AP": {name: None if np.isnan(ap) else ap for name, ap in result.ap.items()},
        "errors": {kind.name: kind.count for kind in result.errors},
    }


def write_boxes(path: Path, detections: Boxes, places: KeyFrames) -> None:
    """Write rows in the plain form, in the unit and px of the annotations."""
    assert detections.scores is not None
    time = "frame" if places.unit == "frame" else "time_s"
    with write_aside(path, "w") as file:
        file.write(f"video,{time},x1,y1,x2,y2,label,score\n")
        for key, label, box, score in zip(
            detections.frames, detections.labels, detections.boxes, detections.scores, strict=True
        ):
            corners = ",".join(f"{v:.6g}" for v in (box / places.scale(key[0])).tolist())
            file.write(
                f"{_quoted(key[0])},{key[1] / 1e6:g},{corners},{_quoted(label)},{score:.6g}\n"
            )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


class _Named:
    """A cache of which only some videos count."""

    def __init__(self, cache: Any, files: Mapping[str, Video]) -> None:
        self._cache, self._names = cache, sorted(video.id for video in files.values())

    def names(self) -> list[str]:
        here = set(self._cache.names())
        return [name for name in self._names if name in here]

    def __getitem__(self, name: str) -> Any:
        return self._cache[name]


def _files_of(annotated: Sequence[str], folder: Path) -> dict[str, Video]:
    paths = {path.relative_to(folder).as_posix(): path for path in find_videos(folder)}
    names = names_in(sorted(paths), annotated)
    if not names:
        raise AnnotationError(
            f"no video of {folder} has a name that the boxes have, such as {annotated[0]}"
        )
    return {name: Video(file, paths[file]) for name, file in names.items()}


def _flow_of(
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
