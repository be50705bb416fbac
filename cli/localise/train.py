"""`flowpipe localise train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..options import json_option, out_option, workers_option
from ..output import print_json, print_table, progress_line, say


@click.command()
@click.argument("source", metavar="CONFIG|FOLDER", type=click.Path(path_type=Path, exists=True))
@out_option("The run. [default: runs/SOURCE]")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path, exists=True),
    help="Who does what from when to when. [default: the only such file in FOLDER]",
)
@click.option("--method", help="pyramid, two-stage, snippets. [default: pyramid]")
@click.option(
    "--features", metavar="NAME,...", help="[default: flow-histogram,flow-histogram-follow]"
)
@click.option("--fusion", type=click.Choice(["early", "late"]), help="Of several features.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="The flow cache. [default: OUT/cache]"
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="The cache of features. [default: OUT/features]",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key: train.epochs=5."
)
@workers_option()
@json_option
def train(
    source: Path,
    out: Path | None,
    annotations: Path | None,
    method: str | None,
    features: str | None,
    fusion: str | None,
    cache: Path | None,
    store: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Train a localiser: from long videos with annotations to when what happens.

    FOLDER holds videos and one annotation file (plain CSV video,label,start_s,end_s, ActivityNet's
    JSON and its dialects, and the other forms of flowpipe localise eval). Flow, and features of it
    that need no weights, are computed where they are missing. Videos of the subset training teach,
    those of validation are measured; without subsets all teach. Run the same command again to
    resume.
    """
    from flowpipe.localisation.experiment import load_settings
    from flowpipe.localisation.experiment import train as run
    from flowpipe.report.localisation import write_localisation_page

    given = list(overrides)
    paths = {"data.annotations": annotations, "data.cache": cache, "data.store": store}
    given += [f'{key}="{path.absolute()}"' for key, path in paths.items() if path is not None]
    names = {"method": method, "fusion": fusion}
    given += [f'{key}="{name}"' for key, name in names.items() if name is not None]
    if features is not None:
        chosen = ", ".join(f'"{name.strip()}"' for name in features.split(","))
        given.append(f"features=[{chosen}]")
    settings = load_settings(source, given)
    out = out or Path("runs") / source.resolve().stem
    with progress_line("train") as update:

        def on_epoch(name: str, record: Mapping[str, Any]) -> None:
            update(record["epoch"] / record["epochs"], f"{name}: loss {record['loss']:.3f}")

        result = run(
            settings,
            out,
            workers=workers,
            say=say,
            on_progress=lambda p: update(p.share, f"flow of {p.finished}/{p.videos} videos"),
            on_epoch=on_epoch,
        )
    page = write_localisation_page(
        out / "report.html",
        f"{settings.method} on {', '.join(settings.features)}",
        result.detections,
        truth=result.truth,
        paths=result.paths,
        record=result.record,
    )
    if as_json:
        print_json({**result.record, "run": str(out), "report": str(page)})
        return
    _print(result.record)
    say(f"run: {out}, report: {page}")


def _print(record: dict[str, Any]) -> None:
    if "mAP" not in record:
        say("no test subset, so that nothing was measured; flowpipe localise predict and eval do")
        return
    header = ("tIoU", *record["mAP"], "average")
    rows = [
        ("measured", *(f"{value:.3f}" for value in (*record["mAP"].values(), record["average"])))
    ]
    for name, published in record["expected"].items():
        cells = [published.get(key) for key in (*record["mAP"], "average")]
        rows.append((name, *("–" if cell is None else f"{cell:.3f}" for cell in cells)))
    print_table(f"mAP on subset {record['test_subset']}", header, rows)
