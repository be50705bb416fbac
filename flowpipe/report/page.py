"""The page: results, folds, curves, confusion, samples and mistakes in one file of HTML.

The page carries its style, its drawings (SVG) and its pictures (PNG) inside, runs no script and
refers to nothing outside, so that it can be sent as one file and opened without a network.
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from flowpipe.atomic import write_aside
from flowpipe.errors import InvalidArgument
from flowpipe.metrics import confusion_matrix
from flowpipe.report.drawings import confusion_drawing, curves_drawing
from flowpipe.report.results import (
    NETWORK_COLUMNS,
    Result,
    header_cells,
    network_cells,
    results_table,
    row_cells,
)
from flowpipe.scores import Scores

MAX_MISTAKES = 20
# Of what a classifier looks at, this share and more is shown.
LEAST_SHARE = 0.01
# What a key of a training record must hold to be drawn, and in which panel.
CURVES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "top_": "accuracy",
    "learning_rate": "learning rate",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A frame beside its flow in colour: two H×W×3 uint8 RGB images.

    Raises
    ------
    InvalidArgument
        If an image is of another shape or type.
    """

    title: str
    rgb_HWC: npt.NDArray[np.uint8]
    flow_rgb_HWC: npt.NDArray[np.uint8]
    caption: str = ""

    def __post_init__(self) -> None:
        for name in ("rgb_HWC", "flow_rgb_HWC"):
            image = getattr(self, name)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise InvalidArgument(
                    f'{name} of sample "{self.title}" of shape {image.shape} and type '
                    f"{image.dtype} must be H×W×3 uint8"
                )


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    streams: Sequence[Scores],
    fused: Mapping[str, Scores],
    headline: str,
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    protocol: Mapping[str, Any],
    versions: Mapping[str, str],
    samples: Sequence[Sample] = (),
    mistaken: Sequence[Sample] = (),
    published: Mapping[str, Any] | None = None,
    folds: Sequence[Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    factors: Mapping[str, float] | None = None,
    networks: Mapping[str, Mapping[str, Any]] | None = None,
    table: Sequence[Result] | None = None,
) -> Path:
    """Write the report of an experiment as one HTML file, whole or not at all.

    Parameters
    ----------
    path : path
        Where; the folder is made when missing.
    title, headline : str
        Name of the experiment and its result in one line, such as "92.1 % on 30 videos".
    streams : sequence of Scores
        Test scores of each stream.
    fused : mapping of str to Scores
        Method → fused scores. The mistakes shown are those of the first.
    history : mapping of str to sequence of mappings
        Stream → records of training, one per epoch: `epoch`, and numbers whose names hold
        "loss", "accuracy" (or "top_") or "learning_rate"; each kind is drawn in its own panel.
    protocol, versions : mapping
        How it was tested and with what; nested mappings are shown by dotted keys.
    samples : sequence of Sample
        Frames beside their flow.
    mistaken : sequence of Sample
        The same of videos that were mistaken, such as the first of `worst_mistakes`.
    published : mapping, optional
        `source`, and `accuracy`: name of a stream or fusion → the share published there.
    folds : sequence of mapping of str to number, optional
        One mapping per fold. A float in 0 to 1 is shown in per cent; means and sample standard
        deviations of the float columns stand below. A key "fold" names the row.
    notes : sequence of str
        Sentences below the headline.
    factors : mapping of str to float, optional
        Accuracy of a stream on the factor of the classes that it can see.
    networks : mapping of str to mapping, optional
        Stream → model, input, parameters, macs, clip_accuracy, video_accuracy, seconds.
    table : sequence of Result, optional
        The table of results, where it is not that of these scores: means over folds.

    Raises
    ------
    InvalidArgument
        If there are no scores at all.
    """
    named = [(scores.stream, scores) for scores in streams]
    named += [(f"fused: {name}", scores) for name, scores in fused.items()]
    if not named:
        raise InvalidArgument("no scores of a stream or a fusion; a report needs one at least")
    results = table or results_table(streams, fused)
    fold_header, fold_rows = _folds_table(folds or ())
    return write_page(
        Path(path),
        "report.html",
        title=title,
        headline=headline,
        notes=notes,
        result_header=header_cells(results),
        results=[(row_cells(result, results), result) for result in results],
        network_header=["stream", *NETWORK_COLUMNS],
        networks=[[name, *network_cells(row)] for name, row in (networks or {}).items()],
        fold_header=fold_header,
        folds=fold_rows,
        factors={name: _number(value) for name, value in (factors or {}).items()},
        samples=samples,
        mistaken=mistaken,
        published=_published(published, results),
        history={name: _panels(log) for name, log in history.items()},
        looks_at={name: _shares(log) for name, log in history.items()},
        confusions={
            name: confusion_drawing(_confusion(scores), scores.classes)
            for name, scores in named
            if scores.targets_NK is None and (scores.labels_N >= 0).any()
        },
        mistakes=_mistakes(streams, fused),
        protocol=dict(_flatten(protocol)),
        versions=versions,
    )


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill a template and write it as one file, whole or not at all."""
    text = _templates().get_template(template).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path, "w") as file:
        file.write(text)
    return path


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["png"] = _png
    return templates


def _folds_table(folds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    columns = list(dict.fromkeys(key for fold in folds for key in fold if key != "fold"))
    rows = [
        [str(fold.get("fold", number)), *(_number(fold.get(key)) for key in columns)]
        for number, fold in enumerate(folds, start=1)
    ]
    if len(folds) > 1:
        summary = [_mean_and_deviation([f[key] for f in folds if key in f]) for key in columns]
        rows.append(["mean ± deviation", *summary])
    return ["fold", *columns], rows


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.4g}"
    return "–" if value is None else str(value)


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2 or not all(isinstance(value, float) for value in values):
        return ""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if all(0 <= value <= 1 for value in values):
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    return f"{mean:.4g} ± {deviation:.2g}"


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(
                value, ensure_ascii=False, default=str
            )  # fmt: skip
            yield f"{prefix}{key}", text


def _png(rgb_HWC: npt.NDArray[np.uint8]) -> str:
    import cv2

    written, data = cv2.imencode(".png", np.ascontiguousarray(rgb_HWC[..., ::-1]))
    if not written:
        raise InvalidArgument(f"image of shape {rgb_HWC.shape} cannot be written as PNG")
    return base64.b64encode(data.tobytes()).decode("ascii")


def _panels(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the drawing of each kind of number that the records of training hold."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    if any("looks_at" in record for record in records):
        return {}  # fitted at once: there is no curve
    for position, record in enumerate(records, start=1):
        epoch = float(record.get("epoch", position))
        for key, value in record.items():
            kind = next((name for word, name in CURVES.items() if word in key), None)
            # A record without a test has None there; a diverged loss (NaN) leaves a gap.
            if kind is not None and isinstance(value, int | float):
                panels.setdefault(kind, {}).setdefault(key, []).append((epoch, float(value)))
    kinds = [kind for kind in dict.fromkeys(CURVES.values()) if kind in panels]
    return {kind: curves_drawing(panels[kind]) for kind in kinds}


def _shares(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what a classifier of histograms looks at, and the share of it in its answer."""
    shares: dict[str, float] = next(
        (record["looks_at"] for record in records if "looks_at" in record), {}
    )
    return {name: f"{share:.0%}" for name, share in shares.items() if share >= LEAST_SHARE}


def _confusion(scores: Scores) -> npt.NDArray[np.int64]:
    known_N = scores.labels_N >= 0
    return confusion_matrix(
        scores.labels_N[known_N], scores.predictions_N[known_N], len(scores.classes)
    )


def _published(
    published: Mapping[str, Any] | None, results: Sequence[Result]
) -> dict[str, Any] | None:
    if not published or not published["accuracy"]:
        return None
    own = {result.name: result.top_1 for result in results}
    return {
        "source": published["source"],
        "header": ["", "published", "here"],
        "rows": [[name, _number(float(share)), _number(own.get(name))]
                 for name, share in published["accuracy"].items()],
    }  # fmt: skip


def worst_mistakes(scores: Scores) -> npt.NDArray[np.int64]:
    """Return the rows of mistaken videos, least probable truth first."""
    rows_known = np.flatnonzero(scores.labels_N >= 0)
    wrong = rows_known[~scores.correct_N[rows_known]]
    return wrong[np.argsort(scores.probabilities_NK[wrong, scores.labels_N[wrong]], kind="stable")]


def _mistakes(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> dict[str, Any] | None:
    """Return the videos whose true class was least probable, with each stream's probabilities."""
    name, scores = next(iter(fused.items())) if fused else (streams[0].stream, streams[0])
    rows_known = np.flatnonzero(scores.labels_N >= 0)
    if not rows_known.size:
        return None
    wrong = worst_mistakes(scores)
    worst = wrong[:MAX_MISTAKES]
    others = [(s, {i: row for row, i in enumerate(s.ids)}) for s in streams]
    rows = []
    for row in worst:
        truth, taken = int(scores.labels_N[row]), int(scores.predictions_N[row])
        pairs = [_pair(scores, int(row), truth, taken)] if fused else []
        for stream, place in others:
            there = place.get(scores.ids[row])
            pairs.append("–" if there is None else _pair(stream, there, truth, taken))
        rows.append([scores.ids[row], scores.classes[truth], scores.classes[taken], *pairs])
    shown = f"; the {len(worst)} worst" if len(worst) < len(wrong) else ""
    names = [*([name] if fused else []), *(stream.stream for stream in streams)]
    return {
        "sentence": f"{len(wrong)} of {len(rows_known)} videos are mistaken by {name}{shown}",
        "header": ["video", "truth", "taken for", *names],
        "rows": rows,
    }


def _pair(scores: Scores, row: int, truth: int, taken: int) -> str:
    own, other = scores.probabilities_NK[row, [truth, taken]]
    return f"{100 * own:.1f} → {100 * other:.1f}"
