"""`flowpipe see filters`."""

from pathlib import Path
from typing import Any

import click

from ..options import json_option
from ..output import print_json, print_table, say
from .common import fold_option, networks, out_option, run_argument, stream_option, write_json


@click.command()
@run_argument
@stream_option
@fold_option
@out_option
@json_option
def filters(run: Path, stream: str | None, fold: str | None, out: Path, as_json: bool) -> None:
    """Draw the first layer's filters: strips (PNG), a clip (MP4), numbers (JSON).

    Each filter has one scale; zero is the same grey everywhere. Filters on flow have three rows:
    u, v, and both as a colour (zero is white).
    """
    from flowpipe.experiment.sharing import open_run
    from flowpipe.visualize.drawing import write_movie, write_png
    from flowpipe.visualize.filters import CLIP_FPS, LOOPS, first_filters

    experiment = open_run(run)
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    for name, shown, model in networks(experiment, stream, fold):
        found = first_filters(model, shown)
        for each in found:
            title = name if len(found) == 1 else f"{name}-{each.layer}-{each.input}"
            write_png(out / f"{title}.png", each.strips())
            write_movie(out / f"{title}.mp4", each.clip() * LOOPS, CLIP_FPS)
            shape = each.weights_FTCHW.shape
            record[title] = {
                "stream": name, "layer": each.layer, "input": each.input,
                "filters": shape[0], "times": shape[1], "size": list(shape[3:]),
                "dead": int(each.dead_F.sum()), "numbers": each.numbers(),
            }  # fmt: skip
            write_json(out / f"{title}.json", record[title])
            say(f"{title}: {out / title}.png, .mp4, .json")
    if as_json:
        print_json(record)
        return
    rows = [
        [
            title,
            str(own["filters"]),
            str(own["dead"]),
            f"{_mean(own['numbers'], 'how_temporal'):.3f}",
            f"{_mean(own['numbers'], 'centroid_cycles_per_frame'):.3f}",
        ]
        for title, own in record.items()
    ]
    print_table("", ["filters", "number", "dead", "how temporal", "cycles/frame"], rows)


def _mean(numbers: list[dict[str, Any]], key: str) -> float:
    living = [row[key] for row in numbers if not row["dead"]]
    return float(sum(living)) / max(1, len(living))
