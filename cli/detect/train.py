"""`flowpipe detect train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option, out_option, workers_option
from ..output import print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.detection.examples import Use


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@out_option("The run. [default: runs/CONFIG]")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="The flow cache. [default: OUT/cache]"
)
@click.option("--boxes", metavar="SPEC", help="Person boxes of the tests; see detect predict.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key: train.epochs=5."
)
@workers_option()
@json_option
def train(
    config: Path,
    out: Path | None,
    cache: Path | None,
    boxes: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Train a detector of actions: from boxes of persons with labels to who does what, where.

    CONFIG names the videos and the boxes (AVA's CSV and label map, plain CSV
    video,time_s,x1,y1,x2,y2,label,person, tubes, UCF101-24's and JHMDB's .mat) and what the streams
    see. Flow is computed where it is missing. A killed run goes on where it stood, with the same
    command.
    """
    from flowpipe.detection.experiment import train as run
    from flowpipe.detection.settings import load_settings

    given = list(overrides)
    if cache is not None:
        given.append(f'data.cache="{cache.absolute()}"')
    if boxes is not None:
        kind, colon, file = boxes.partition(":")
        given.append(f'persons.boxes="{kind}{colon}{Path(file).absolute() if file else ""}"')
    settings = load_settings(config, given)
    out = out or Path("runs") / config.resolve().stem
    with progress_line("train") as update:

        def on_epoch(name: str, record: Mapping[str, Any]) -> None:
            update(record["epoch"] / record["epochs"], f"{name}: loss {record['loss']:.3f}")

        result = run(
            settings,
            out,
            workers=workers,
            say=say,
            on_use=_say_use,
            on_progress=lambda p: update(p.share, f"flow of {p.finished}/{p.videos} videos"),
            on_epoch=on_epoch,
        )
    if as_json:
        print_json({**result.record, "run": str(out)})
        return
    _print(result.record)
    say(f"run: {out}")


def _say_use(part: str, use: "Use") -> None:
    """Say what became of the rows; on stderr, since it is no result."""
    say(f"{part}: {use.boxes} boxes on {use.key_frames} key frames of {use.videos} videos")
    for what, boxes, frames in use.rows()[1:]:
        counts = " boxes or labels, ".join(filter(None, (boxes, frames and f"{frames} key frames")))
        say(f"  {what.strip()}: {counts or 0}")


def _print(record: dict[str, Any]) -> None:
    measured = {
        "true boxes": record.get("true_boxes"),
        record.get("found_boxes", {}).get("boxes", ""): record.get("found_boxes"),
    }
    columns = {name: result for name, result in measured.items() if result and "mAP" in result}
    if not columns:
        say("no test videos, so that nothing was measured; [data] test or test_boxes names them")
        return
    rows = [("mAP", *(f"{result['mAP']:.3f}" for result in columns.values()))]
    for name in record["classes"]:
        cells = [result["AP"][name] for result in columns.values()]
        rows.append((name, *("–" if cell is None else f"{cell:.3f}" for cell in cells)))
    for name, value in record["expected"].items():
        rows.append((name, f"{value}", *([""] * (len(columns) - 1))))
    print_table("frame mAP at IoU .5", ("class", *columns), rows)
