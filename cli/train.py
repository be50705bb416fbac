"""`flowpipe train`, and the table of results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_option, out_option
from .output import print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.experiment.results import RunResult
    from flowpipe.experiment.settings import Settings


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key: train.epochs=5."
)
@click.option("--fold", metavar="K|all", help="A fold of the annotations, or all. [default: first]")
@click.option("--stream", metavar="NAME", help="Only this stream.")
@click.option(
    "--weights",
    multiple=True,
    metavar="[STREAM=]FILE",
    help="Start a stream, or all, from a state dict (.pth, .pt, .safetensors).",
)
@out_option("The run. [default: runs/CONFIG]")
@json_option
def train(
    config: Path,
    overrides: tuple[str, ...],
    fold: str | None,
    stream: str | None,
    weights: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Train every stream of CONFIG (TOML) from a cache, test it, fuse, and write the report.

    What is missing in the cache is extracted first. A killed run goes on where it stood, with
    the same command, and ends with the same numbers. On several GPUs, or processes:
    torchrun --nproc-per-node 2 -m flowpipe train CONFIG
    """
    from flowpipe.experiment.experiment import Experiment
    from flowpipe.experiment.settings import load_settings
    from flowpipe.training.ranks import join

    settings = start_from(load_settings(config, overrides).only(stream), weights)
    out = out or Path("runs") / config.stem
    with progress_line("train") as update:
        experiment = Experiment(
            settings,
            out,
            on_message=say,
            on_progress=lambda stage, share, text: update(share * (stage == "train"), text),
        )
        result = experiment.run(fold)
    if not join().first:
        return
    page = experiment.report()
    if as_json:
        print_json({**result.as_record(), "report": str(page)})
    else:
        print_results(result)
        say(f"report: {page}")


def start_from(settings: "Settings", weights: Sequence[str]) -> "Settings":
    """Set the initial weights of streams: "FILE" of all, "STREAM=FILE" of one."""
    streams = dict(settings.streams)
    for given in weights:
        name, _, path = given.rpartition("=")
        for each in settings.only(name).streams if name else settings.streams:
            streams[each] = replace(streams[each], weights=Path(path).absolute())
    return replace(settings, streams=streams)


def print_results(result: "RunResult", title: str = "") -> None:
    """Print one row for each stream and fusion, and with several folds those of each."""
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
        names = [name for name in result.folds[0] if name not in ("fold", "videos")]
        folds = [[name, *(f"{fold[name]:.1%}" for fold in result.folds)] for name in names]
        print_table("each fold", ["", *(fold["fold"] for fold in result.folds)], folds)
