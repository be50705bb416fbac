"""From a path to what the page shows: a cache, features, a run, or a file of findings."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.cache import Cache, FlowRecipe
from flowpipe.detection.annotations import read_boxes, read_tubes
from flowpipe.errors import AnnotationError, CacheNotFound, InvalidArgument
from flowpipe.localisation.annotations import read_annotations, read_detections, renamed
from flowpipe.metrics.temporal import Segments, temporal_iou
from flowpipe.scores import Scores, load_scores
from flowpipe.sealed import check_listed
from flowpipe.tables import csv_table, parse_number, read_json
from flowpipe.view.catalogue import UNSURE_MARGIN, UNSURE_SCORE, Answer, Catalogue, Item
from flowpipe.view.media import Media, inside, open_cache_inside

RESULTS_FILE, SCORES_FOLDER, DETECTIONS = "results.json", "scores", "detections.json"
MATCH_TIOU = 0.5
CURVES, CURVE_POINTS = 5, 240
MOST_SEGMENTS, MOST_BOXES = 400, 20_000
# Boxes of a key frame are shown this long to both sides: AVA has one a second.
HALF_KEY_FRAME_S = 0.5
FOUND = "found"
TIMELINE_COLUMNS = ["video", "start_s", "end_s", "label", "score"]


def open_catalogue(
    path: Path,
    *,
    cache: Path | None = None,
    videos: Path | None = None,
    truth: Path | None = None,
) -> Catalogue:
    """Open what a path holds, to be looked at; nothing is written.

    Parameters
    ----------
    path : Path
        A cache (also a packed one, also of features), the folder of a run of recognition or
        localisation, a JSON or CSV file of localisations, a CSV of boxes or tubes, or a CSV of
        scores over time. Of a run its own cache is read where it lies in the run's folder.
    cache : Path, optional
        A cache outside `path` to take flow and frames from.
    videos : Path, optional
        A folder whose videos may be decoded and shown. Without it no video file is opened,
        whatever paths the cache or the run names.
    truth : Path, optional
        Annotations that belong to localisations.

    Raises
    ------
    InvalidArgument
        If the path holds nothing of this, or a link leads out of it.
    AnnotationError
        If a file is of no known form.
    """
    if not path.exists():
        raise InvalidArgument(f"there is nothing at {path}")
    if videos is not None and not videos.is_dir():
        raise InvalidArgument(f"{videos} is no folder of videos", parameter="videos")
    flow = None if cache is None else open_cache_inside(cache)
    if path.is_dir():
        if (path / RESULTS_FILE).is_file() and (path / SCORES_FOLDER).is_dir():
            return _run(path, flow, videos)
        if (path / DETECTIONS).is_file():
            own = path / "cache"
            if flow is None and own.is_dir():
                flow = open_cache_inside(inside(own, path))
            store = path / "features"
            features = open_cache_inside(inside(store, path)) if store.is_dir() else None
            media = Media(flow, features, videos)
            return _findings(path, inside(path / DETECTIONS, path), media, truth)
    elif path.suffix.lower() in (".json", ".csv", ".txt"):
        return _findings(path, path, Media(flow, None, videos), truth)
    try:
        return _cache(path, open_cache_inside(path), flow, videos)
    except CacheNotFound as error:
        raise InvalidArgument(
            f"{path} is no cache, no finished run and no JSON or CSV file of findings ({error})"
        ) from error


def _cache(path: Path, own: Cache, flow: Cache | None, videos: Path | None) -> Catalogue:
    networks = {identity: name for name, identity in own.networks.items()}
    shown = {
        identity: networks.get(identity, recipe.describe())
        for identity, recipe in own.recipes.items()
        if not (isinstance(recipe, FlowRecipe) and recipe.backward)
    }
    kept: dict[tuple[str, str], Item] = {}
    for row in own.rows():
        if row.recipe in shown:
            labels = () if row.label is None else (row.label,)
            kept[row.name, row.recipe] = Item(row.name, labels, row.recipe)
    for failure in own.open_failures():
        item = Item(failure.name, (), failure.recipe, failure.reason)
        kept.setdefault((failure.name, failure.recipe), item)
    items = sorted(kept.values(), key=lambda item: (item.name, item.recipe))
    of_flow = any(isinstance(own.recipes[identity], FlowRecipe) for identity in shown)
    facts = [
        fact for identity in shown for fact in _recipe_facts(shown[identity], own.recipes[identity])
    ]
    return Catalogue(
        str(path),
        "cache" if of_flow else "features",
        items,
        Media(own, None, videos) if of_flow else Media(flow, own, videos),
        facts=facts,
        recipes=shown,
    )


def _recipe_facts(title: str, recipe: Any) -> list[tuple[str, str]]:
    values = json.loads(recipe.to_json())
    return [("recipe", title), ("id", recipe.id), *((k, _text(v)) for k, v in values.items())]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Runs of recognition


def _run(path: Path, flow: Cache | None, videos: Path | None) -> Catalogue:
    # Late: it imports torch, for which a cache need not wait.
    from flowpipe.experiment.results import SETTINGS_FILE, fused_file, read_results, read_run_file

    for name in (RESULTS_FILE, SETTINGS_FILE):
        inside(path / name, path)
    results, settings = read_results(path), read_run_file(path, SETTINGS_FILE)
    notes = [str(note) for note in results.get("notes", ())]
    named = Path(str(settings["data"]["cache"]))
    if flow is None and named.resolve().is_relative_to(path.resolve()) and named.is_dir():
        flow = open_cache_inside(named)
    elif flow is None:
        notes.append(
            f"The run's cache {named} lies outside its folder and is not opened by itself; give "
            "it as the cache to see frames and flow."
        )
    files = {name: fused_file(path, name) for name in results["fusions"]}
    files |= {name: path / SCORES_FOLDER / f"{name}.npz" for name in settings["streams"]}
    first = results["headline"]
    order = [first, *(name for name in files if name != first)]
    scores = {name: load_scores(inside(files[name], path)) for name in order}
    answers: dict[str, dict[str, Answer]] = {}
    labels: dict[str, tuple[str, ...]] = {}
    for name, found in scores.items():
        for video, of_video, answer in _answers(found):
            answers.setdefault(video, {})[name] = answer
            labels.setdefault(video, of_video)
    items = [Item(video, labels[video], answers=answers[video]) for video in sorted(answers)]
    shares = {name: float(value) for name, value in results["accuracy"].items()}
    facts = [(f"accuracy, {name}", f"{value:.1%}") for name, value in shares.items()]
    facts += [(name, _text(value)) for name, value in _flat(settings)]
    return Catalogue(
        settings.get("title") or str(path),
        "run",
        items,
        Media(flow, None, videos),
        facts=facts,
        answered_by=order,
        details=_Probabilities(scores),
        notes=notes,
    )


def _answers(scores: Scores) -> Iterable[tuple[str, tuple[str, ...], Answer]]:
    """Yield (video, labels, answer)."""
    ranked = np.sort(scores.probabilities_NK, axis=1)
    known, right, predicted = scores.labels_N >= 0, scores.correct_N, scores.predictions_N
    for row, video in enumerate(scores.ids):
        if scores.targets_NK is not None:
            true = np.flatnonzero(scores.targets_NK[row])
        else:
            true = scores.labels_N[row : row + 1] if known[row] else np.empty(0, int)
        best, second = float(ranked[row, -1]), float(ranked[row, -2])
        answer = Answer(
            scores.classes[predicted[row]],
            best,
            bool(right[row]) if known[row] else None,
            best - second < UNSURE_MARGIN,
        )
        yield video, tuple(scores.classes[k] for k in true), answer


class _Probabilities:
    """The likeliest classes of a video, by each stream."""

    def __init__(self, scores: Mapping[str, Scores]) -> None:
        self._scores = scores
        self._rows = {
            name: {video: row for row, video in enumerate(found.ids)}
            for name, found in scores.items()
        }

    def __call__(self, item: Item) -> dict[str, Any]:
        streams = []
        for name, scores in self._scores.items():
            row = self._rows[name].get(item.name)
            if row is not None:
                best = np.argsort(-scores.probabilities_NK[row], kind="stable")[:CURVES]
                shares = [
                    (scores.classes[k], round(float(scores.probabilities_NK[row, k]), 4))
                    for k in best
                ]
                streams.append({"name": name, "best": shares})
        return {"streams": streams}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, [], {}):
            yield f"{prefix}{key}", value


# Files of findings


@dataclass
class _Findings:
    """What files say of each video: stretches of time, curves, boxes."""

    true: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    boxes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lengths_s: dict[str, float] = field(default_factory=dict)

    def __call__(self, item: Item) -> dict[str, Any]:
        name = item.name
        found = self.found.get(name, [])
        strongest = sorted(found, key=lambda row: -row["score"])[:MOST_SEGMENTS]
        curves = self.curves.get(name)
        return {
            "true": self.true.get(name, []),
            "found": sorted(strongest, key=lambda row: float(row["start_s"])),
            "curves": _curves_of(strongest) if curves is None else curves,
            "boxes": self.boxes.get(name, [])[:MOST_BOXES],
            "length_s": self.lengths_s.get(name, 0.0),
        }


def _findings(path: Path, file: Path, media: Media, truth: Path | None) -> Catalogue:
    check_listed(file)
    known = None if truth is None else read_annotations(truth)
    details = _Findings()
    kind, videos = "localisation", []
    header = _header(file)
    if header[:5] == TIMELINE_COLUMNS and len(header) > 5:
        kind = "scores over time"
        _read_timelines(file, details)
        videos = list(details.found)
    elif _has_boxes(header):
        kind = "detections"
        _read_boxes(file, header, details)
        videos = list(details.boxes)
    elif _is_truth(file, header):
        known, kind = read_annotations(file), "annotations"
    else:
        numbers = {} if known is None else known.label_numbers
        found = read_detections(file, numbers)
        if known is not None:
            found = renamed(found, known.videos)
        _group(found, details.found)
        videos = list(details.found)
    if known is not None:
        _group(known.segments, details.true)
        details.lengths_s |= known.durations_s
        if kind == "annotations" or not videos:
            videos = list(known.videos)
        else:  # the truth of other subsets is no mistake of these findings
            subset = known.subset_of(set(videos) & set(known.videos))
            videos = list(dict.fromkeys([*videos, *known.of_subset(subset).videos]))
    items = [_finding_item(name, details, known is not None) for name in sorted(videos)]
    return Catalogue(
        str(path),
        kind,
        items,
        media,
        facts=_run_facts(path, file),
        answered_by=[FOUND] if kind != "annotations" else [],
        details=details,
    )


def _run_facts(path: Path, file: Path) -> list[tuple[str, str]]:
    facts = [("file", str(file))]
    for name in (RESULTS_FILE, "localiser.json"):
        if path.is_dir() and (path / name).is_file():
            record = json.loads(inside(path / name, path).read_text("utf-8"))
            facts += [(key, _text(value)) for key, value in _flat(record)]
    return facts


def _finding_item(name: str, details: _Findings, has_truth: bool) -> Item:
    """Return the row of a video: right where every true stretch is found, at tIoU .5."""
    found = details.found.get(name) or details.boxes.get(name, [])
    true = details.true.get(name, [])
    labels = tuple(dict.fromkeys(row["label"] for row in true))
    if not found:
        missed = Answer("nothing found", 0.0, not true, True)
        return Item(name, labels, answers={FOUND: missed} if has_truth else {})
    best = max(found, key=lambda row: row["score"])
    score = float(best["score"])
    is_right = _all_found(true, found) if has_truth else None
    answer = Answer(best["label"], score, is_right, score < UNSURE_SCORE)
    return Item(name, labels, answers={FOUND: answer})


def _all_found(true: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> bool:
    for instance in true:
        same = [[r["start_s"], r["end_s"]] for r in found if r["label"] == instance["label"]]
        times = np.array(same, np.float64).reshape(-1, 2)
        here = np.array([[instance["start_s"], instance["end_s"]]])
        if not (temporal_iou(here, times) >= MATCH_TIOU).any():
            return False
    return True


def _group(segments: Segments, target: dict[str, list[dict[str, Any]]]) -> None:
    scores = np.ones(len(segments)) if segments.scores is None else segments.scores
    rows = zip(
        segments.videos, segments.labels, segments.times_s.tolist(), scores.tolist(), strict=True
    )
    for video, label, (start, end), score in rows:
        target.setdefault(str(video), []).append(_stretch(str(label), start, end, score))


def _stretch(label: str, start: float, end: float, score: float) -> dict[str, Any]:
    return {
        "label": label,
        "start_s": round(start, 3),
        "end_s": round(end, 3),
        "score": round(score, 4),
    }


def _curves_of(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, of the strongest classes, the highest score of what covers each moment."""
    best: dict[str, float] = {}
    for row in found:
        best[row["label"]] = max(best.get(row["label"], 0.0), row["score"])
    if not best:
        return []
    times = np.linspace(0, max(row["end_s"] for row in found), CURVE_POINTS)
    curves = []
    for label in sorted(best, key=lambda name: -best[name])[:CURVES]:
        values = np.zeros(CURVE_POINTS)
        for row in found:
            if row["label"] == label:
                here = (times >= row["start_s"]) & (times <= row["end_s"])
                values[here] = np.maximum(values[here], row["score"])
        points = zip(times.round(3).tolist(), values.round(4).tolist(), strict=True)
        curves.append({"label": label, "points": list(points)})
    return curves


def _read_timelines(file: Path, details: _Findings) -> None:
    """Read the CSV of scores over time: a row for each window, a column for each class."""
    windows: dict[str, list[tuple[float, float, str, list[float]]]] = {}
    (_, header), *rows = csv_table(file)
    classes = header[len(TIMELINE_COLUMNS) :]
    for where, row in rows:
        if len(row) != len(header):
            raise AnnotationError(f"{where} has {len(row)} values, not {len(header)}")
        video, start, end, label, _, *values = row
        if label not in classes:
            raise AnnotationError(f'{where}: label "{label}" has no column of scores')
        scores = [parse_number(value, where) for value in values]
        window = (parse_number(start, where), parse_number(end, where), label, scores)
        windows.setdefault(video, []).append(window)
    for video, of_video in windows.items():
        scores_TK = np.array([scores for *_, scores in of_video])
        middles = [(start + end) / 2 for start, end, *_ in of_video]
        strongest = np.argsort(-scores_TK.max(axis=0), kind="stable")[:CURVES]
        details.curves[video] = [
            {
                "label": classes[k],
                "points": [
                    (round(t, 3), round(float(score), 4))
                    for t, score in zip(middles, scores_TK[:, k], strict=True)
                ],
            }
            for k in strongest
        ]
        details.found[video] = _runs_of(
            of_video, middles, dict(zip(classes, scores_TK.T, strict=True))
        )
        details.lengths_s[video] = max(end for _, end, *_ in of_video)


def _runs_of(
    windows: Sequence[tuple[float, float, str, list[float]]],
    middles: Sequence[float],
    scores: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return stretches of equal labels; a window speaks for the time around its middle."""
    found, first = [], 0
    for place in range(1, len(windows) + 1):
        if place < len(windows) and windows[place][2] == windows[first][2]:
            continue
        start = windows[0][0] if not first else (middles[first - 1] + middles[first]) / 2
        last = place == len(windows)
        end = windows[-1][1] if last else (middles[place - 1] + middles[place]) / 2
        label = windows[first][2]
        found.append(_stretch(label, start, end, float(np.mean(scores[label][first:place]))))
        first = place
    return found


def _read_boxes(file: Path, header: Sequence[str], details: _Findings) -> None:
    if "frame" in header and "w" in header:
        for tube in read_tubes(file, scored="score" in header):
            for frame, corners in zip(tube.frames.tolist(), tube.boxes.tolist(), strict=True):
                row = {"frame": int(frame), "box": corners}
                row |= {"label": tube.label, "score": round(float(tube.score), 4)}
                details.boxes.setdefault(tube.video, []).append(row)
        return
    boxes = read_boxes(file, scored=header[0] != "video" or "score" in header)
    scores = np.ones(len(boxes)) if boxes.scores is None else boxes.scores
    rows = zip(boxes.frames, boxes.labels, boxes.boxes.tolist(), scores.tolist(), strict=True)
    by_frame = "frame" in header
    for (video, moment), label, corners, score in rows:
        when = moment / 1e6
        place = {"frame": round(when)} if by_frame else {"time_s": when, "half_s": HALF_KEY_FRAME_S}
        row = {**place, "box": corners, "label": str(label), "score": round(score, 4)}
        details.boxes.setdefault(str(video), []).append(row)


def _header(file: Path) -> list[str]:
    """Return the first row of a CSV; nothing of other files."""
    if file.suffix.lower() != ".csv":
        return []
    return next((values for _, values in csv_table(file)), [])


def _has_boxes(header: Sequence[str]) -> bool:
    """Whether a CSV holds boxes: by its columns, or a first row of AVA's, which has no header."""
    if {"x1", "w"} & set(header):
        return True
    return len(header) in (2, 7, 8) and header[1].replace(".", "", 1).isdigit()


def _is_truth(file: Path, header: Sequence[str]) -> bool:
    """Whether a file has no scores, so that it holds annotations."""
    if file.suffix.lower() != ".json":
        return bool(header) and "score" not in header
    record = read_json(file)
    return not (isinstance(record, dict) and "results" in record)
