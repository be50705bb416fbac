"""The style of the page: light and dark, nothing fetched."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1c2026; --faint: #68707c;
  --line: #dcdfe3; --hair: #eceef0; --accent: #0b6477; --wrong: #b4492c;
  --c0: #0b6477; --c1: #c0622d; --c2: #6a5a9e; --c3: #4c8a45; --c4: #8d6e32; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e4e6e9; --faint: #949ca8; --line: #343a42; --hair: #23282e;
    --accent: #58b6c9; --wrong: #e58a6b;
    --c0: #58b6c9; --c1: #e79a68; --c2: #ab9be0; --c3: #8cc884; --c4: #cfb070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 2rem 5rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; }
h1, h2, .headline { font-family: Charter, "Bitstream Charter", Georgia, "Times New Roman", serif;
  font-weight: 600; text-wrap: balance; }
h1 { margin: 0; font-size: 1.25rem; color: var(--faint); }
.headline { margin: .3rem 0 1rem; font-size: 2.3rem; line-height: 1.2; }
header p { max-width: 46rem; margin: .4rem 0; }
section { margin-top: 3rem; }
h2 { margin: 0 0 1rem; padding-top: .8rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3, h4, figcaption { margin: 0 0 .3rem; font-size: .95rem; font-weight: 600; }
h4 { color: var(--faint); font-weight: 400; font-size: .85rem; }
figure { margin: 0; }
.small { color: var(--faint); font-size: .85rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem 1.1rem .32rem 0; text-align: right; border-bottom: 1px solid var(--hair);
  font-weight: 400; vertical-align: baseline; overflow-wrap: normal; white-space: nowrap; }
thead th { color: var(--faint); font-size: .8rem; border-bottom-color: var(--line); }
th:first-child, .pairs td, .mistakes td:nth-child(-n+3), .mistakes th:nth-child(-n+3) {
  text-align: left; }
.pairs th { color: var(--faint); vertical-align: top; }
.pairs td { white-space: normal; overflow-wrap: anywhere; }
.best > * { font-weight: 600; }
.folds tbody tr:last-child > * { border-top: 1px solid var(--line); font-weight: 600; }
svg { display: block; font-family: inherit; }
svg text { fill: var(--ink); }
.interval { display: inline-block; vertical-align: middle; }
.axis, .grid { stroke: var(--line); fill: none; }
.bar { stroke: var(--accent); stroke-width: 4; opacity: .35; }
circle.dot { fill: var(--accent); }
.panels { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-bottom: 1.5rem; }
.curves { max-width: 100%; font-size: 11px; }
.curves .x, .curves .y { fill: var(--faint); }
.curves .x { text-anchor: middle; }
.curves .y { text-anchor: end; dominant-baseline: central; }
.curves .key { dominant-baseline: central; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.curve.dot { stroke-linecap: round; stroke-width: 6; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); }
.confusions, .samples { display: flex; flex-wrap: wrap; gap: 2rem 3rem; }
.confusion { max-width: 100%; }
.confusion text { dominant-baseline: central; }
.confusion .row { text-anchor: end; }
.confusion .count { text-anchor: middle; }
.confusion .count.on { fill: var(--paper); }
.confusion .right { fill: var(--accent); } .confusion .wrong { fill: var(--wrong); }
.confusion .frame { fill: none; stroke: var(--line); }
.sample { width: min(100%, 31rem); }
.sample img { width: 49%; margin-right: 1%; vertical-align: top; image-rendering: auto; }
.sample figcaption { margin-top: .4rem; font-weight: 400; font-size: .85rem; color: var(--faint); }
.sample b { color: var(--ink); font-weight: 600; }
@media print { body { padding: 0; } section { break-inside: avoid; } }
"""
