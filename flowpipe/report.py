"""Results as a table, as text, and as one page of HTML that needs nothing else.

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
from flowpipe.metrics import (
    accuracy_interval,
    confusion_matrix,
    mean_class_accuracy,
    top_k_accuracy,
)
from flowpipe.scores import Scores
from flowpipe.visualize.page import STYLE, history_html

MAX_MISTAKES = 20
# Above this many classes the cells of a confusion matrix are too small for numbers.
MAX_NUMBERED_CLASSES = 25


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table of results; numbers are None where no video is labelled.

    `top_5` is None for five classes or fewer, too. `videos` counts the labelled videos;
    `low` and `high` are the 95 % interval of `top_1`.
    """

    name: str
    fused: bool
    top_1: float | None
    top_5: float | None
    mean_class: float | None
    low: float | None
    high: float | None
    videos: int


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


def results_table(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> list[Result]:
    """Give one row per stream, then one per fusion (by the name of its method).

    Accuracies are of the labelled videos; those of unknown class are left out.
    """
    rows = [_result(scores, scores.stream, False) for scores in streams]
    return rows + [_result(scores, name, True) for name, scores in fused.items()]


def summary_text(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> str:
    """Give the table of results as plain text, columns aligned, ends of lines trimmed."""
    results = results_table(streams, fused)
    rows = [_header(results), *(_cells(result, results) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
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
        Further numbers, shown as they are.

    Raises
    ------
    InvalidArgument
        If there are no scores at all.
    """
    everything = {scores.stream: scores for scores in streams} | dict(fused)
    if not everything:
        raise InvalidArgument("no scores of a stream or a fusion; a report needs one at least")
    sections = [
        ("Results", _results_html(results_table(streams, fused))),
        ("Folds", _folds_html(folds or ())),
        ("Numbers", _pairs_html({name: f"{value:.4g}" for name, value in (factors or {}).items()})),
        ("Frames and their flow", "".join(map(_sample_html, samples))),
        ("Learning curves", "".join(history_html(name, log) for name, log in history.items())),
        ("Confusion", "".join(_confusion_html(name, s) for name, s in everything.items())),
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


def _result(scores: Scores, name: str, fused: bool) -> Result:
    known_N = scores.labels_N >= 0
    videos = int(np.count_nonzero(known_N))
    if not videos:
        return Result(
            name=name, fused=fused, top_1=None, top_5=None, mean_class=None, low=None, high=None,
            videos=0,
        )  # fmt: skip
    probabilities_NK, labels_N = scores.probabilities_NK[known_N], scores.labels_N[known_N]
    top_1 = top_k_accuracy(probabilities_NK, labels_N)
    low, high = accuracy_interval(top_1, videos)
    return Result(
        name=name,
        fused=fused,
        top_1=top_1,
        top_5=top_k_accuracy(probabilities_NK, labels_N, 5) if len(scores.classes) > 5 else None,
        mean_class=mean_class_accuracy(probabilities_NK, labels_N),
        low=low,
        high=high,
        videos=videos,
    )


def _header(results: Sequence[Result]) -> list[str]:
    top_5 = ["top-5 %"] if any(result.top_5 is not None for result in results) else []
    return ["scores", "top-1 %", *top_5, "mean class %", "95 % interval", "videos"]


def _cells(result: Result, results: Sequence[Result]) -> list[str]:
    has_top_5 = any(other.top_5 is not None for other in results)
    interval = "–"
    if result.low is not None and result.high is not None:
        interval = f"{100 * result.low:.1f}–{100 * result.high:.1f}"
    return [
        f"fused: {result.name}" if result.fused else result.name,
        _percent(result.top_1),
        *([_percent(result.top_5)] if has_top_5 else []),
        _percent(result.mean_class),
        interval,
        str(result.videos),
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


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
    rows = [[*map(escape, _cells(r, results)), _interval_svg(r)] for r in results]
    return _table([*_header(results), "0 to 100 %"], rows) + (
        '<p class="small">Every number counts videos: clips and crops are averaged before. The '
        "interval (Wilson) says how far another draw of test videos could move top-1, and "
        "nothing of other seeds or training sets.</p>"
    )


def _interval_svg(result: Result) -> str:
    if result.top_1 is None or result.low is None or result.high is None:
        return "–"
    low, middle, high = (4 + 152 * share for share in (result.low, result.top_1, result.high))
    return (
        '<svg class="interval" width="160" height="14" role="img" aria-label="interval">'
        '<path class="axis" d="M4 7H156M4 4V10M156 4V10"/>'
        f'<path class="bar" d="M{low:.1f} 7H{high:.1f}"/>'
        f'<circle class="dot" cx="{middle:.1f}" cy="7" r="3.5"/></svg>'
    )


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


def _confusion_html(name: str, scores: Scores) -> str:
    known_N = scores.labels_N >= 0
    if not known_N.any():
        return ""
    num_classes = len(scores.classes)
    counts_KK = confusion_matrix(
        scores.labels_N[known_N], scores.predictions_N[known_N], num_classes
    )
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    numbered = num_classes <= MAX_NUMBERED_CLASSES
    cell, font = (26, 11) if numbered else (10, 8)
    labels = [label if len(label) <= 24 else f"{label[:23]}…" for label in scores.classes]
    margin = 10 + round(0.56 * font * max(map(len, labels)))
    parts = []
    for row, label in enumerate(labels):
        middle = (row + 0.5) * cell
        text = escape(label)
        parts.append(f'<text x="-5" y="{middle:.1f}" class="row">{text}</text>')
        parts.append(f'<text transform="translate({middle:.1f} -5) rotate(-90)">{text}</text>')
    for row, column in np.argwhere(counts_KK):
        count, share = counts_KK[row, column], shares_KK[row, column]
        tip = f"{scores.classes[row]} taken for {scores.classes[column]}: {count}"
        kind = "right" if row == column else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{column * cell}" y="{row * cell}" width="{cell - 1}" '
            f'height="{cell - 1}" fill-opacity="{0.15 + 0.85 * share:.2f}">'
            f"<title>{escape(tip)}</title></rect>"
        )
        if numbered:
            x, y = (column + 0.5) * cell - 0.5, (row + 0.5) * cell
            strong = " on" if share > 0.5 else ""
            parts.append(f'<text class="count{strong}" x="{x:.1f}" y="{y:.1f}">{count}</text>')
    side = cell * num_classes
    parts.append(f'<rect class="frame" x="-0.5" y="-0.5" width="{side}" height="{side}"/>')
    return (
        f'<figure class="confusion"><figcaption>{escape(name)}</figcaption><div class="scroll">'
        f'<svg width="{margin + side + 2}" height="{margin + side + 2}" font-size="{font}" '
        f'role="img" aria-label="confusion matrix"><g transform="translate({margin} {margin})">'
        f"{''.join(parts)}</g></svg></div></figure>"
    )


def _mistakes_html(streams: Sequence[Scores], fused: Mapping[str, Scores]) -> str:
    """Videos whose true class came out least probable, with what each stream thought of it."""
    name, scores = next(iter(fused.items())) if fused else (streams[0].stream, streams[0])
    rows_known = np.flatnonzero(scores.labels_N >= 0)
    if not rows_known.size:
        return ""
    wrong = rows_known[scores.predictions_N[rows_known] != scores.labels_N[rows_known]]
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
