"""`flowpipe see class`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from flowpipe.experiment.experiment import Experiment

# A literal copy of flowpipe.visualize.maximise.SPEEDS: torch costs --help seconds.
SPEEDS = ("slow", "medium", "fast")
# Videos of a class whose clips are tried.
MOST_TRAINING = 32


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

    A page of all (classes.html) and one to guess by (quiz.html, the answers folded); of each class
    a clip (MP4) and all moments in rows with a slice through time at the end of each (PNG). Beside
    the activation stand those of noise of the same strength and of the best training clip, where
    the training videos are at hand. What does not exceed noise is refused.
    """
    from flowpipe.errors import InvalidArgument
    from flowpipe.experiment.sharing import open_run
    from flowpipe.report.seen import SeenClass, SeenClip, write_classes_page, write_quiz_page
    from flowpipe.visualize.drawing import write_movie, write_png
    from flowpipe.visualize.maximise import SPEEDS as CHI
    from flowpipe.visualize.maximise import best_clip, maximise
    from flowpipe.visualize.moving import film, paint, sheet, side_by_side

    experiment = open_run(run)
    classes = list(experiment.results["classes"])
    wanted = range(len(classes)) if label == "all" else [class_number(experiment, label)]
    # As in a lecture: appearance, then slow and fast motion.
    shown = sorted(networks(experiment, stream, fold), key=lambda own: own[1].has_flow)
    training = _training_videos(experiment, fold)
    out.mkdir(parents=True, exist_ok=True)
    record: list[dict[str, Any]] = []
    pages: list[SeenClass] = []
    for number in wanted:
        parts, clips = {}, []
        for name, look, model in shown:
            best, best_name = None, ""
            if training is not None and (ids := training[1].get(classes[number])):
                step = -(-len(ids) // MOST_TRAINING)  # spread evenly
                best, best_name = best_clip(model, look, training[0], ids[::step], number)
            # A single picture has no speed.
            for speed in speeds if look.frames > 1 else ("still",):
                try:
                    found = maximise(
                        model, look, number, chi=CHI.get(speed, 0.0), steps=steps, seed=seed
                    )
                except InvalidArgument as error:
                    say(f"{classes[number]}, {name}, {speed}: {error}")
                    clips.append(SeenClip(name, speed, refusal=str(error)))
                    continue
                moments = parts[f"{name} {speed}"] = paint(found, look)
                strip, through = film(moments)
                clips.append(SeenClip(
                    name, speed, strip, len(moments), through if len(moments) > 1 else None,
                    found.activation, found.noise_activation, best, best_name,
                ))  # fmt: skip
                record.append({
                    "class": classes[number], "stream": name, "speed": speed,
                    "activation": found.activation, "noise": found.noise_activation,
                    "best_training": best, "best_clip": best_name,
                    "chi": found.chi, "kappa": found.kappa, "weight": found.weight,
                    "seed": seed, "steps": steps,
                })  # fmt: skip
        pages.append(SeenClass(classes[number], clips))
        if parts:
            title = classes[number].replace("/", "_")
            write_png(out / f"{title}.png", sheet(parts))
            write_movie(out / f"{title}.mp4", side_by_side(parts), 10)
            say(f"{classes[number]}: {out / title}.png, .mp4")
    write_json(out / "activations.json", record)
    title = experiment.settings.title or run.stem
    say(f"page: {write_classes_page(out / 'classes.html', title, pages)}")
    if len(pages) > 1:
        say(f"to guess by: {write_quiz_page(out / 'quiz.html', title, pages, seed=seed)}")
    if as_json:
        print_json({"maximised": record})
    else:
        rows = [
            [r["class"], r["stream"], r["speed"], *map(_two, (r["activation"], r["noise"])),
             _two(r["best_training"])]
            for r in record
        ]  # fmt: skip
        header = ["class", "stream", "speed", "activation", "of noise", "of the best training clip"]
        print_table("", header, rows, text_columns=3)
    refused = any(clip.refusal for each in pages for clip in each.clips)
    click.get_current_context().exit(1 if refused else 0)


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _training_videos(experiment: "Experiment", fold: str | None) -> Any:
    """Return the cache and the ids of the training videos; None where they are not at hand."""
    from flowpipe.errors import FlowpipeError

    try:
        return experiment.training_videos(experiment.fold_name(fold))
    except FlowpipeError as error:
        say(f"the best training clip is left out: {error}")
        return None
