"""`flowpipe train`, and the table of results."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import json_option, out_option
from .output import counted, hanging, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.experiment.folder import Start
    from flowpipe.experiment.results import RunResult
    from flowpipe.experiment.settings import Settings
    from flowpipe.scores import Scores


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key: train.epochs=5."
)
@click.option(
    "--fold",
    metavar="K|all",
    help="A fold of the annotations, or all. [default: all of a FOLDER, the first of a CONFIG]",
)
@click.option("--folds", "num_folds", type=click.IntRange(2), help="Of a FOLDER: random folds.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Of a FOLDER: time for training."
)
@click.option("--dry-run", is_flag=True, help="Of a FOLDER: show the plan and what it costs.")
@click.option("--stream", metavar="NAME", help="Only this stream.")
@click.option(
    "--weights",
    multiple=True,
    metavar="[STREAM=]FILE",
    help="Start a stream, or all, from a state dict (.pth, .pt, .safetensors); of a FOLDER, a "
    "network of pictures that the still stream asks.",
)
@out_option("The run. [default: runs/NAME]")
@json_option
def train(
    source: Path,
    overrides: tuple[str, ...],
    fold: str | None,
    num_folds: int | None,
    minutes: float | None,
    dry_run: bool,
    stream: str | None,
    weights: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Train a classifier of videos: extract flow, train every stream, test, fuse, report.

    SOURCE is a FOLDER of videos (one folder for each class, perhaps in train, val and test
    folders, or with an annotations.csv), whose settings are chosen and written to
    RUN/config.toml; or a CONFIG (TOML). Run the same command again to resume; the result is the
    same. On several GPUs, or processes: torchrun --nproc-per-node 2 -m flowpipe train CONFIG
    """
    from flowpipe.experiment.experiment import Experiment
    from flowpipe.experiment.settings import load_settings
    from flowpipe.training.ranks import join

    plan = None
    if source.is_dir():
        from flowpipe.experiment import folder

        begun = folder.start(
            source,
            out=out,
            minutes=minutes,
            num_folds=num_folds,
            fold=fold,
            overrides=overrides,
            weights=weights,
            workers=os.cpu_count() or 1,
        )
        settings, out, fold, plan = begun.settings, begun.out, begun.fold, begun.plan
        weights = ()  # they stand in its settings
        show_plan(begun)
        if dry_run:
            if as_json:
                print_json(plan_record(begun))
            return
        if plan is not None:
            folder.write_config(out, plan)
    else:
        settings = load_settings(source, overrides)
        given = {"--folds": num_folds, "--minutes": minutes, "--dry-run": dry_run or None}
        for name, value in given.items():
            if value is not None:
                raise click.UsageError(f"{name} is for a FOLDER of videos; {source} is a file")
        out = out or Path("runs") / source.stem
    settings = start_from(settings.only(stream), weights)
    extraction = EXTRACTION_SHARE if plan is None else plan.extraction_share
    with progress_line("train") as update:
        experiment = Experiment(
            settings,
            out,
            # What the plan has said already is not said again.
            on_message=lambda text: None if plan and text in plan.reasons else say(text),
            on_progress=lambda stage, share, text: update(
                extraction * share if stage == "extract" else extraction + (1 - extraction) * share,
                text,
            ),
        )
        result = experiment.run(fold)
    if not join().first:
        return
    page = experiment.report()
    if as_json:
        print_json({**result.as_record(), "report": str(page)})
        return
    if source.is_dir():
        print_summary(result)
    else:
        print_results(result)
    say(f"report: {page}")
    say(f"next: flowpipe predict {out} VIDEO")


# Of the time of a run, what extraction takes where no plan says it; it only moves the bar.
EXTRACTION_SHARE = 0.15


def show_plan(begun: "Start") -> None:
    """Say what was seen, what is chosen and what it costs."""
    say(begun.description)
    if begun.plan is None:
        return
    for reason in begun.plan.reasons:
        say(hanging(reason))
    plan = begun.plan
    minutes = counted(max(1, round(plan.minutes)), "minute", "minutes")
    say(f"about {plan.flows:,} flows, {plan.megabytes:.0f} MB, {minutes} here; run: {begun.out}")


def plan_record(begun: "Start") -> dict[str, Any]:
    """Return the plan as --json prints it."""
    plan = begun.plan
    costs = (
        {}
        if plan is None
        else {
            "reasons": plan.reasons,
            "flows": plan.flows,
            "megabytes": round(plan.megabytes, 1),
            "minutes": round(plan.minutes, 1),
            "config": plan.table,
        }
    )
    return {"out": str(begun.out), "fold": begun.fold, **costs}


def print_summary(result: "RunResult") -> None:
    """Print accuracy, interval and what is to be known of each stream, within 80 columns."""
    from flowpipe.metrics import accuracy_interval

    chance = 1 / len(result.classes)
    rows = []
    weights = _mean_weights(result)
    for name, scores in {**result.streams, **_headline(result)}.items():
        right, videos = int(scores.correct_N.sum()), len(scores.ids)
        low, high = accuracy_interval(right / videos, videos)
        note = ""
        if weights and name in weights:
            note = f"weight {weights[name]:.2f}" if weights[name] >= 0.005 else "left out: chance"
        rows.append([name, f"{right / videos:.1%}", f"{low:.0%} to {high:.0%}", note])
    folds = f", {len(result.folds)} folds" if len(result.folds) > 1 else ""
    videos = len(next(iter(result.streams.values())).ids)
    title = f"{videos} test videos{folds}; chance is {chance:.1%}"
    print_table(title, ["", "videos right", "95 % interval", ""], rows)


def _headline(result: "RunResult") -> dict[str, "Scores"]:
    return {"fused": result.fused[result.headline]} if result.fused else {}


def _mean_weights(result: "RunResult") -> dict[str, float]:
    """Return the weight of each stream in the fused score, on average over the folds."""
    rows = [fold["weights"] for fold in result.folds if "weights" in fold]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def start_from(settings: "Settings", weights: Sequence[str]) -> "Settings":
    """Set the initial weights of streams: "FILE" of all, "STREAM=FILE" of one."""
    from flowpipe.experiment.settings import FLOW_HISTOGRAM

    streams = dict(settings.streams)
    for given in weights:
        name, equals, path = given.partition("=")
        if not equals or (name not in streams and Path(given).is_file()):
            name, path = "", given  # of all; the name of a file may hold a "="
        for each in settings.only(name or None).streams:
            if name or streams[each].input != FLOW_HISTOGRAM:  # which has no network
                streams[each] = replace(streams[each], weights=Path(path).absolute())
    return replace(settings, streams=streams)


def print_results(result: "RunResult", title: str = "") -> None:
    """Print one row for each stream and fusion, and with several folds those of each."""
    from flowpipe.experiment.results import accuracy_names
    from flowpipe.report.results import NETWORK_COLUMNS, network_cells

    record = result.as_record()
    class_means = record["mean_class_accuracy"]

    def class_mean(name: str) -> str:
        return f"{100 * class_means[name]:.1f}" if name in class_means else "–"

    rows = [
        [name, *network_cells(result.networks[name]), class_mean(name)] for name in result.streams
    ]
    blank = [""] * (len(NETWORK_COLUMNS) - 2)
    for name, mean in record["fusions"].items():
        mark = " ←" if name == result.headline else ""
        rows.append([f"fused ({name}){mark}", *blank, f"{100 * mean:.1f}", "", class_mean(name)])
    header = ["", *NETWORK_COLUMNS, "class mean %"]
    print_table(title or f"{record['videos']} test videos", header, rows, text_columns=3)
    if len(result.folds) > 1:
        names = accuracy_names(result.folds[0])
        folds = [[name, *(f"{fold[name]:.1%}" for fold in result.folds)] for name in names]
        print_table("each fold", ["", *(fold["fold"] for fold in result.folds)], folds)
    for note in result.notes:
        say(f"note: {note}")
