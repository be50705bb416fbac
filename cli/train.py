"""`flowpipe train`, and the table of results."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.experiment.run import RunResult


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key: train.epochs=5."
)
@click.option("--fold", metavar="K|all", help="A fold of the annotations, or all. [default: first]")
@click.option("--stream", metavar="NAME", help="Only this stream.")
@click.option("--out", type=click.Path(path_type=Path), help="The run. [default: runs/CONFIG]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def train(
    config: Path,
    overrides: tuple[str, ...],
    fold: str | None,
    stream: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train every stream of CONFIG (TOML) from a cache, test it, fuse, and write the report.

    What is missing in the cache is extracted first. A killed run goes on where it stood, with
    the same command, and ends with the same numbers. On several GPUs, or processes:
    torchrun --nproc-per-node 2 -m flowpipe train CONFIG
    """
    from flowpipe.experiment.pages import report_run
    from flowpipe.experiment.run import run_experiment
    from flowpipe.experiment.settings import load_settings
    from flowpipe.ranks import join

    settings = load_settings(config, overrides).only(stream)
    out = out or Path("runs") / config.stem
    with progress_line("train") as update:
        result = run_experiment(
            settings,
            out,
            fold=fold,
            say=say,
            on_extract=lambda p: update(
                0.0, f"extracting: {p.finished}/{p.videos} videos, {p.flows} flows"
            ),
            on_share=update,
        )
    if not join().first:
        return
    page = report_run(out)
    if as_json:
        print_json({**result.as_record(), "report": str(page)})
    else:
        print_results(result)
        say(f"report: {page}")


def print_results(result: "RunResult", title: str = "") -> None:
    """Print one row for each stream and fusion: mean accuracy over folds, and each fold's."""
    record = result.as_record()
    names = [*result.streams, *(f"fused ({name})" for name in result.fused)]
    several = len(result.folds) > 1
    header = ["", "accuracy", "class mean", *(f["fold"] for f in result.folds if several)]
    rows = []
    for name in names:
        method = name.removeprefix("fused (").removesuffix(")")
        mean = record["accuracy"].get(name, record["fusions"].get(method))
        per_fold = [f"{fold[name]:.1%}" for fold in result.folds if several]
        mark = " ←" if method == result.headline and result.fused else ""
        class_mean = record["mean_class_accuracy"][method]
        rows.append([name + mark, f"{mean:.1%}", f"{class_mean:.1%}", *per_fold])
    print_table(title or f"{record['videos']} test videos", header, rows)
