"""`flowpipe fuse`."""

from pathlib import Path

import click

from .options import check_outputs, json_option, out_option
from .output import print_json, print_table, say


@click.command()
@click.argument("scores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(["logsum", "average", "weighted", "svm", "sum"]),
    default="logsum",
    show_default=True,
    help="Sum of log-probabilities, mean, mean by weights, linear SVM, sum of logits.",
)
@click.option("--weight", "weights", multiple=True, type=float, help="One per file, for weighted.")
@click.option(
    "--training",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Scores of other videos, one file per stream, to fit svm or to search weights on.",
)
@out_option("Write the fused scores (.npz).")
@json_option
def fuse(
    scores: tuple[Path, ...],
    method: str,
    weights: tuple[float, ...],
    training: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Fuse score files of several streams, joined by video id."""
    from flowpipe.fusion import fuse as run
    from flowpipe.metrics import mean_class_accuracy, top_k_accuracy
    from flowpipe.scores import load_scores

    check_outputs([out], (*scores, *training))
    streams = [load_scores(path) for path in scores]
    fused = run(
        streams,
        method,  # type: ignore[arg-type]
        weights=weights or None,
        training=[load_scores(path) for path in training] or None,
    )
    known = [i for i, label in zip(fused.ids, fused.labels_N, strict=True) if label >= 0]
    rows = []
    for each in [*streams, fused] if known else []:
        labelled = each.select(known)
        pair = (labelled.probabilities_NK, fused.select(known).labels_N)
        rows.append((each.stream, top_k_accuracy(*pair, 1), mean_class_accuracy(*pair)))
    if out is not None:
        say(f"wrote {fused.save(out)}")
    if as_json:
        names = [name for name, _, _ in rows]
        print_json(
            {
                "method": method,
                "videos": len(fused.ids),
                "accuracy": dict(zip(names, (top for _, top, _ in rows), strict=True)),
                "protocol": fused.protocol,
            }
        )
    elif rows:
        table = [(name, f"{top:.1%}", f"{mean:.1%}") for name, top, mean in rows]
        print_table(f"{method}, {len(known)} videos", ("", "accuracy", "class mean"), table)
    else:
        say(f"fused {len(fused.ids)} videos; none has a label, so there is no accuracy")
