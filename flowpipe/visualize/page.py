"""The look of a report page, and learning curves as SVG drawn here: no script, nothing fetched."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PANEL_WIDTH, PANEL_HEIGHT = 300, 150
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 8, 22, 22

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5f6b7a; --line: #d9dee5;
  --paper: #ffffff; --band: #f5f7f9; --main: #0b6bcb; --other: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa6b5; --line: #343c46;
  --paper: #14181d; --band: #1c2229; --main: #6cb2ff; --other: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main { max-width: 1060px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 44px; padding-bottom: 10px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 38px 0 10px; padding-bottom: 4px;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 14px; margin: 16px 0 4px; font-weight: 600; }
.headline { font-size: 19px; color: var(--main); margin: 0 0 8px; }
p { margin: 6px 0; max-width: 76ch; }
.small { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums;
  font-size: 14px; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; }
th:first-child { text-align: left; font-weight: 500; }
table.folds tbody tr:last-child { font-weight: 600; }
table.pairs td, table.mistakes td { text-align: left; white-space: normal; }
table.pairs th { color: var(--soft); vertical-align: top; }
figure { display: inline-block; margin: 6px 18px 14px 0; vertical-align: top; }
figure.sample img { height: 150px; image-rendering: auto; margin-right: 6px; border-radius: 3px;
  border: 1px solid var(--line); }
figcaption { font-size: 13px; color: var(--soft); }
svg { display: inline-block; vertical-align: middle; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); fill: none; }
svg .bar { stroke: var(--main); stroke-width: 3; fill: none; }
svg .dot { fill: var(--main); }
svg .curve { stroke: var(--main); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg .curve.second { stroke: var(--other); }
svg .title { fill: var(--ink); font-weight: 600; }
"""

KINDS = (
    ("loss", ("loss",)),
    ("accuracy (training clips)", ("accuracy", "top_")),
    ("learning rate", ("learning_rate",)),
)


def history_html(stream: str, log: Sequence[Mapping[str, Any]]) -> str:
    """Draw the learning curves of a stream, one panel for each kind of number.

    Parameters
    ----------
    stream : str
    log : sequence of mapping
        One record per epoch: `epoch`, and numbers whose names hold "loss", "accuracy" or "top_",
        or "learning_rate".
    """
    panels = []
    for title, words in KINDS:
        keys = [
            key
            for key in dict.fromkeys(key for record in log for key in record)
            if any(word in key for word in words)
        ]
        curves = {
            key: [
                (float(record.get("epoch", number)), float(record[key]))
                for number, record in enumerate(log, start=1)
                if isinstance(record.get(key), int | float)
            ]
            for key in keys
        }
        curves = {key: points for key, points in curves.items() if points}
        if curves:
            panels.append(_panel_svg(title, curves))
    return f"<h3>{escape(stream)}</h3>{''.join(panels)}" if panels else ""


def _panel_svg(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    top = max(max(ys), 1e-12)
    if "accuracy" in title:
        top = 1.0
    low = min(0.0, min(ys))

    def place(x: float, y: float) -> str:
        across = MARGIN_LEFT + (x - left) / (right - left) * (
            PANEL_WIDTH - MARGIN_LEFT - MARGIN_RIGHT
        )
        height = PANEL_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
        down = PANEL_HEIGHT - MARGIN_BOTTOM - (y - low) / (top - low or 1) * height
        return f"{across:.1f} {down:.1f}"

    base, end = PANEL_HEIGHT - MARGIN_BOTTOM, PANEL_WIDTH - MARGIN_RIGHT
    parts = [
        f'<svg width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" role="img" '
        f'aria-label="{escape(title)} by epoch">',
        f'<text class="title" x="{MARGIN_LEFT}" y="13">{escape(title)}</text>',
        f'<path class="axis" d="M{MARGIN_LEFT} {MARGIN_TOP}V{base}H{end}"/>',
        _text(MARGIN_LEFT - 5, MARGIN_TOP + 6, f"{top:.3g}", "end"),
        _text(MARGIN_LEFT - 5, base, f"{low:.3g}", "end"),
        _text(MARGIN_LEFT, base + 15, f"{left:g}", "start"),
        _text(end, base + 15, f"epoch {right:g}", "end"),
    ]
    for number, points in enumerate(curves.values()):
        kind = "curve second" if number % 2 else "curve"
        line = "L".join(place(x, y) for x, y in points)
        parts.append(f'<path class="{kind}" d="M{line}"/>')
        if len(points) == 1:
            x, y = place(*points[0]).split()
            parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>')
    return "".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
