"""`flowpipe export`: a trained run as one file to hand on."""

from pathlib import Path

import click

from .options import json_option
from .output import byte_size, print_json, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file. [default: NAME.flowpipe]")
@click.option("--fold", help="The fold whose networks are taken. [default: the run's first]")
@click.option(
    "--onnx",
    type=click.Path(path_type=Path),
    help="Write each stream's network here as ONNX too (extra onnx).",
)
@json_option
def export(run: Path, out: Path | None, fold: str | None, onnx: Path | None, as_json: bool) -> None:
    """Write a finished RUN as one file: weights, classes, recipe, fusion and a card.

    No code, no video and no pickle is in it. flowpipe predict and report, and flowpipe.load in
    Python, take it wherever a run is taken.
    """
    from flowpipe.experiment.sharing import SUFFIX, export_run

    target = out or Path(f"{run.resolve().name}{SUFFIX}")
    card = export_run(run, target, fold=fold)
    written = []
    if onnx is not None:
        from flowpipe.experiment.onnx import export_onnx

        written = export_onnx(run, onnx, fold=fold)
    size = target.stat().st_size
    if as_json:
        print_json({"out": str(target), "bytes": size, "card": card, "onnx": written})
        return
    low, high = card["interval_95"]
    say(
        f"{target}: {byte_size(size)}, {len(card['classes'])} classes, {card['accuracy']:.1%} "
        f"({low:.0%} to {high:.0%}) of {card['test_videos']} test videos"
    )
    for each in written:
        difference = each["largest_difference"]
        say(
            f"{each['file']}: not compared with torch, onnxruntime is not installed"
            if difference is None
            else f"{each['file']}: logits differ from torch's by {difference:.0e} of their size"
        )
    say(f"next: flowpipe predict {target} VIDEO")
