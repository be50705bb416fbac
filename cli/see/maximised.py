"""`flowpipe see class`."""

from pathlib import Path
from typing import Any

import click

from ..options import json_option
from ..output import print_json, print_table, say
from .common import (
    class_number,
    fold_option,
    networks,
    out_option,
    run_argument,
    stream_option,
    write_json,
)

# A literal copy of flowpipe.visualize.maximise.SPEEDS: torch costs --help seconds.
SPEEDS = ("slow", "medium", "fast")


def _parse_speeds(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    given = tuple(part.strip() for part in text.split(","))
    for name in given:
        if name not in SPEEDS:
            raise click.BadParameter(f'"{name}" is not one of {", ".join(SPEEDS)}')
    return tuple(dict.fromkeys(given))


@click.command("class")
@run_argument
@click.option("--class", "label", required=True, help='The class, or "all".')
@click.option(
    "--speed",
    "speeds",
    default="slow,fast",
    show_default=True,
    callback=_parse_speeds,
    metavar="SPEED,...",
    help="Of slow, medium and fast.",
)
@click.option("--steps", type=click.IntRange(10), default=300, show_default=True, help="Steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise at the start.")
@stream_option
@fold_option
@out_option
@json_option
def maximised(
    run: Path,
    label: str,
    speeds: tuple[str, ...],
    steps: int,
    seed: int,
    stream: str | None,
    fold: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Show the input that a class likes best: side by side for each stream and speed.

    A clip (MP4), all moments in rows with a slice through time at the end of each (PNG), and the
    activation beside that of noise of the same strength. What does not exceed noise is refused.
    """
    from flowpipe.errors import InvalidArgument
    from flowpipe.experiment.sharing import open_run
    from flowpipe.visualize.drawing import write_movie, write_png
    from flowpipe.visualize.maximise import SPEEDS as CHI
    from flowpipe.visualize.maximise import maximise
    from flowpipe.visualize.moving import paint, sheet, side_by_side

    experiment = open_run(run)
    classes = list(experiment.results["classes"])
    wanted = range(len(classes)) if label == "all" else [class_number(experiment, label)]
    shown = list(networks(experiment, stream, fold))
    out.mkdir(parents=True, exist_ok=True)
    record: list[dict[str, Any]] = []
    refused = 0
    for number in wanted:
        parts = {}
        for name, look, model in shown:
            # A single picture has no speed.
            for speed in speeds if look.frames > 1 else ("still",):
                try:
                    found = maximise(
                        model, look, number, chi=CHI.get(speed, 0.0), steps=steps, seed=seed
                    )
                except InvalidArgument as error:
                    say(f"{classes[number]}, {name}, {speed}: {error}")
                    refused += 1
                    continue
                parts[f"{name} {speed}"] = paint(found, look)
                record.append({
                    "class": classes[number], "stream": name, "speed": speed,
                    "activation": found.activation, "noise": found.noise_activation,
                    "chi": found.chi, "kappa": found.kappa, "weight": found.weight,
                    "seed": seed, "steps": steps,
                })  # fmt: skip
        if parts:
            title = classes[number].replace("/", "_")
            write_png(out / f"{title}.png", sheet(parts))
            write_movie(out / f"{title}.mp4", side_by_side(parts), 10)
            say(f"{classes[number]}: {out / title}.png, .mp4")
    write_json(out / "activations.json", record)
    if as_json:
        print_json({"maximised": record})
    else:
        rows = [
            [r["class"], r["stream"], r["speed"], f"{r['activation']:.2f}", f"{r['noise']:.2f}"]
            for r in record
        ]
        header = ["class", "stream", "speed", "activation", "of noise"]
        print_table("", header, rows, text_columns=3)
    click.get_current_context().exit(1 if refused else 0)
