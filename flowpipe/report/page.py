"""The page: results, folds, curves, confusion, samples and mistakes in one file of HTML.

The page carries its style, its drawings (SVG) and its pictures (PNG) inside, runs no script and
refers to nothing outside, so that it can be sent as one file and opened without a network.
"""

import base64
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowpipe.errors import InvalidArgument
from flowpipe.metrics import confusion_matrix
from flowpipe.report.drawings import confusion_svg, curves_svg, interval_svg
from flowpipe.report.results import (
    NETWORK_COLUMNS,
    Result,
    header_cells,
    network_cells,
    results_table,
    row_cells,
)
from flowpipe.report.style import STYLE
from flowpipe.scores import Scores

MAX_MISTAKES = 20
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
    folds: Sequence[Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    factors: Mapping[str, float] | None = None,
    networks: Mapping[str, Mapping[str, Any]] | None = None,
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
    folds : sequence of mapping of str to number, optional
        One mapping per fold. A float in 0 to 1 is shown in per cent; means and sample standard
        deviations of the float columns stand below. A key "fold" names the row.
    notes : sequence of str
        Sentences below the headline.
    factors : mapping of str to float, optional
        Accuracy of a stream on the factor of the classes that it can see.
    networks : mapping of str to mapping, optional
        Stream → model, input, parameters, macs, clip_accuracy, video_accuracy, seconds.

    Raises
    ------
    InvalidArgument
        If there are no scores at all.
    """
    named = [(scores.stream, scores) for scores in streams]
    named += [(f"fused: {name}", scores) for name, scores in fused.items()]
    if not named:
        raise InvalidArgument("no scores of a stream or a fusion; a report needs one at least")
    sections = [
        ("Results", _results_html(results_table(streams, fused))),
        ("Networks", _networks_html(networks or {})),
        ("Folds", _folds_html(folds or ())),
        ("Own factors", _pairs_html({name: _number(v) for name, v in (factors or {}).items()})),
        ("Frames and their flow", _box("samples", map(_sample_html, samples))),
        ("Learning curves", "".join(_history_html(name, log) for name, log in history.items())),
        (
            "Confusion",
            _box("confusions", (_confusion_html(name, scores) for name, scores in named)),
        ),
        ("Worst mistakes", _mistakes_html(streams, fused)),
        ("Protocol", _pairs_html(dict(_flatten(protocol)))),
        ("Versions", _pairs_html(versions)),
    ]
    body = "".join(
        f"<section><h2>{name}</h2>{content}</section>\n" for name, content in sections if content
    )
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>"
        f'<h1>{escape(title)}</h1><p class="headline">{escape(headline)}</p>{paragraphs}'
        f"</header>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
    return _write_aside(Path(path), page)


def _write_aside(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=target.parent) as folder:
        aside = Path(folder) / target.name
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    return target


def _box(kind: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f'<div class="{kind}">{content}</div>' if content else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells that are HTML already; the first column holds the names of the rows."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return (
        f'<div class="scroll"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'
        if body
        else ""
    )


def _results_html(results: Sequence[Result]) -> str:
    rows = [[*map(escape, row_cells(row, results)), interval_svg(row)] for row in results]
    return _table([*header_cells(results), "0 to 100 %"], rows) + (
        '<p class="small">Every number counts videos: clips and crops are averaged before. The '
        "interval (Wilson) says how far another draw of test videos could move top-1, and "
        "nothing of other seeds or training sets.</p>"
    )


def _networks_html(networks: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[escape(name), *map(escape, network_cells(row))] for name, row in networks.items()]
    return _table(["stream", *NETWORK_COLUMNS], rows)


def _folds_html(folds: Sequence[Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for fold in folds for key in fold if key != "fold"))
    rows = [
        [escape(str(fold.get("fold", number))), *(_number(fold.get(key)) for key in columns)]
        for number, fold in enumerate(folds, start=1)
    ]
    if len(folds) > 1:
        summary = [_mean_and_deviation([f[key] for f in folds if key in f]) for key in columns]
        rows.append(["mean ± deviation", *summary])
    return _table(["fold", *columns], rows, kind="folds" if len(folds) > 1 else "")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.4g}"
    return "–" if value is None else escape(str(value))


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2 or not all(isinstance(value, float) for value in values):
        return ""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if all(0 <= value <= 1 for value in values):
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    return f"{mean:.4g} ± {deviation:.2g}"


def _pairs_html(pairs: Mapping[str, Any]) -> str:
    rows = [[escape(str(name)), escape(str(value))] for name, value in pairs.items()]
    return _table([], rows, kind="pairs")


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(
                value, ensure_ascii=False, default=str
            )  # fmt: skip
            yield f"{prefix}{key}", text


def _sample_html(sample: Sample) -> str:
    images = "".join(
        f'<img alt="{kind}" src="data:image/png;base64,{_png(image_HWC)}">'
        for kind, image_HWC in (("frame", sample.rgb_HWC), ("flow", sample.flow_rgb_HWC))
    )
    caption = f"<b>{escape(sample.title)}</b> {escape(sample.caption)}"
    return f'<figure class="sample">{images}<figcaption>{caption}</figcaption></figure>'


def _png(rgb_HWC: npt.NDArray[np.uint8]) -> str:
    import cv2

    written, data = cv2.imencode(".png", np.ascontiguousarray(rgb_HWC[..., ::-1]))
    if not written:
        raise InvalidArgument(f"image of shape {rgb_HWC.shape} cannot be written as PNG")
    return base64.b64encode(data.tobytes()).decode("ascii")


def _history_html(stream: str, records: Sequence[Mapping[str, Any]]) -> str:
    """One panel per kind of number that the records of training hold."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for position, record in enumerate(records, start=1):
        epoch = float(record.get("epoch", position))
        for key, value in record.items():
            kind = next((name for word, name in CURVES.items() if word in key), None)
            # A record without a test has None there; a diverged loss (NaN) leaves a gap.
            if kind is not None and isinstance(value, int | float):
                panels.setdefault(kind, {}).setdefault(key, []).append((epoch, float(value)))
    drawings = "".join(
        f"<div><h4>{kind}</h4>{curves_svg(panels[kind])}</div>"
        for kind in dict.fromkeys(CURVES.values())
        if kind in panels
    )
    return f'<h3>{escape(stream)}</h3><div class="panels">{drawings}</div>' if drawings else ""


def _confusion_html(name: str, scores: Scores) -> str:
    known_N = scores.labels_N >= 0
    if not known_N.any() or scores.targets_NK is not None:
        return ""
    counts_KK = confusion_matrix(
        scores.labels_N[known_N], scores.predictions_N[known_N], len(scores.classes)
    )
    return (
        f'<figure class="confusion"><figcaption>{escape(name)}</figcaption><div class="scroll">'
        f"{confusion_svg(counts_KK, scores.classes)}</div></figure>"
    )


def _mistakes_html(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> str:
    """Videos whose true class came out least probable, with what each stream thought of it."""
    name, scores = next(iter(fused.items())) if fused else (streams[0].stream, streams[0])
    rows_known = np.flatnonzero(scores.labels_N >= 0)
    if not rows_known.size:
        return ""
    wrong = rows_known[~scores.correct_N[rows_known]]
    sentence = f"{len(wrong)} of {len(rows_known)} videos are mistaken by {name}"
    if not wrong.size:
        return f"<p>{escape(sentence)}.</p>"
    truth_N = scores.probabilities_NK[np.arange(len(scores.ids)), scores.labels_N]
    worst = wrong[np.argsort(truth_N[wrong], kind="stable")][:MAX_MISTAKES]
    others = [(s, {i: row for row, i in enumerate(s.ids)}) for s in streams]
    table = []
    for row in worst:
        truth, taken = int(scores.labels_N[row]), int(scores.predictions_N[row])
        pairs = [_pair(scores, int(row), truth, taken)] if fused else []
        for stream, place in others:
            there = place.get(scores.ids[row])
            pairs.append("–" if there is None else _pair(stream, there, truth, taken))
        names = [scores.ids[row], scores.classes[truth], scores.classes[taken]]
        table.append([*map(escape, names), *pairs])
    shown = f"; the {len(worst)} worst" if len(worst) < len(wrong) else ""
    header = [
        "video",
        "truth",
        "taken for",
        *([name] if fused else []),
        *(s.stream for s in streams),
    ]
    return (
        f'<p class="small">{escape(sentence + shown)}. Probability of the truth → of the class '
        f"it was taken for, in per cent.</p>{_table(header, table, kind='mistakes')}"
    )


def _pair(scores: Scores, row: int, truth: int, taken: int) -> str:
    own, other = scores.probabilities_NK[row, [truth, taken]]
    return f"{100 * own:.1f} → {100 * other:.1f}"
