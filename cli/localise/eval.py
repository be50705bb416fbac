"""`flowpipe localise eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option
from ..output import print_json, print_table, say
from ..thresholds import by_threshold, parse_thresholds

if TYPE_CHECKING:
    from flowpipe.localisation.annotations import Annotations
    from flowpipe.metrics.temporal import Segments

PROPOSAL_NUMBERS = (1, 5, 10, 50, 100)
PROPOSAL_RULES = (
    "ActivityNet's rules for proposals: AR over tIoU .5:.05:.95, 100 a video on the average, "
    "labels ignored; AUC is .99 at best"
)


@click.command()
@click.argument("truth", type=click.Path(path_type=Path, exists=True))
@click.argument("detections", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--protocol",
    type=click.Choice(["activitynet", "thumos14", "proposals"]),
    default="activitynet",
    show_default=True,
    help="Whose rules.",
)
@click.option(
    "--tiou",
    metavar="T,...",
    callback=parse_thresholds,
    help="Thresholds, .3,.5 or .3:.1:.7. [default: activitynet .5:.05:.95, thumos14 .1:.1:.5]",
)
@click.option(
    "--subset",
    help="Of the truth: which videos. [default: the one that all detections are of, else all]",
)
@click.option(
    "--label-column",
    default="verb",
    show_default=True,
    help="Of an EPIC-KITCHENS truth: which column.",
)
@json_option
def evaluate(
    truth: Path,
    detections: Path,
    protocol: str,
    tiou: tuple[float, ...] | None,
    subset: str | None,
    label_column: str,
    as_json: bool,
) -> None:
    """Measure DETECTIONS against TRUTH, exactly as the public programs do.

    TRUTH: plain CSV (video,label,start_s,end_s), ActivityNet's JSON and its dialects, the folder of
    THUMOS'14's text, Charades, EPIC or AFSD CSV. DETECTIONS: ActivityNet's submission JSON, plain
    CSV with score, THUMOS'14 text.
    """
    from flowpipe.localisation.annotations import (
        read_annotations,
        read_detections,
        renamed,
    )
    from flowpipe.sealed import check_listed

    check_listed(detections)
    annotations = read_annotations(truth, label_column=label_column)
    found = read_detections(detections, annotations.label_numbers)
    found = renamed(found, annotations.videos)
    several = len(set(annotations.subsets.values())) > 1
    if subset is None and several:
        subset = annotations.subset_of(found.videos)
    annotations = annotations.of_subset(subset)
    record: dict[str, Any] = {
        "protocol": protocol,
        "subset": subset,
        "videos": len(annotations.videos),
        "instances": len(annotations.segments),
        "detections": len(found),
    }
    known = set(annotations.videos)
    outside = sum(video not in known for video in found.videos)
    if outside:
        use = "count for nothing" if protocol == "proposals" else "count as false"
        say(f"note: {outside} detections are of videos that the truth lacks; they {use}")
    if backward := int((found.lengths_s < 0).sum()):
        say(f"note: {backward} detections end before they begin; they count as false")
    if protocol == "proposals":
        if tiou is not None:
            raise click.UsageError("--tiou is for mAP; the protocol of proposals averages .5:.95")
        _recall(annotations, found, record)
    else:
        _precision(annotations, found, protocol, tiou, record)
    if as_json:
        print_json(record)
    else:
        _print(record)


def _recall(annotations: "Annotations", found: "Segments", record: dict[str, Any]) -> None:
    from flowpipe.metrics.temporal import proposal_recall

    recall = proposal_recall(annotations.segments, found)
    record["rules"] = PROPOSAL_RULES
    record["AR"] = {str(number): recall.at(number) for number in PROPOSAL_NUMBERS}
    record["AUC"] = recall.area


def _precision(
    annotations: "Annotations",
    found: "Segments",
    protocol: str,
    tiou: tuple[float, ...] | None,
    record: dict[str, Any],
) -> None:
    from flowpipe.metrics.temporal import (
        PROTOCOLS,
        temporal_errors,
        temporal_lengths,
        temporal_precision,
    )

    truth = annotations.segments
    result = temporal_precision(
        truth, found, tiou, protocol=protocol, ambiguous=annotations.ambiguous
    )
    if result.unknown:
        say(f"note: {result.unknown} detections are of classes that the truth lacks; ignored")
    at = min(result.tiou, key=lambda value: abs(value - 0.5))
    errors = temporal_errors(truth, found, at)
    lengths = temporal_lengths(truth, found, at)
    record |= {
        "rules": PROTOCOLS[protocol],
        "mAP": by_threshold(result.tiou, result.map_T.tolist()),
        "average": result.average,
        "AP": {
            name: by_threshold(result.tiou, row)
            for name, row in zip(result.classes, result.ap_KT.tolist(), strict=True)
        },
        "ignored": result.unknown,
        "errors": {
            "tiou": at,
            **{kind.name: {"count": kind.count, "cost": kind.cost} for kind in errors},
        },
        "lengths": [asdict(group) for group in lengths],
    }


def _print(record: dict[str, Any]) -> None:
    say(record["rules"])
    subset = f' of subset "{record["subset"]}"' if record["subset"] else ""
    say(f"{record['videos']} videos{subset}, {record['instances']} instances")
    if "AR" in record:
        recall = [(f"AR@{number}", f"{value:.4f}") for number, value in record["AR"].items()]
        print_table("", ("proposals a video", ""), [*recall, ("AUC", f"{record['AUC']:.4f}")])
        return
    header = ("tIoU", *record["mAP"], "average")
    rows = [("mAP", *(f"{v:.4f}" for v in (*record["mAP"].values(), record["average"])))]
    for name, values in record["AP"].items():
        mean = sum(values.values()) / len(values)
        rows.append((name, *(f"{value:.4f}" for value in (*values.values(), mean))))
    print_table("", header, rows)
    at = record["errors"]["tiou"]
    kinds = [
        (k, str(e["count"]), f"{e['cost']:.4f}") for k, e in record["errors"].items() if k != "tiou"
    ]
    print_table(f"errors at tIoU {at:g}", ("kind", "count", "costs mAP"), kinds)
    groups = [
        (
            f"{group['shortest_s']:.1f} to {group['longest_s']:.1f} s",
            str(group["instances"]),
            str(group["found"]),
            f"{group['mean_ap']:.4f}",
        )
        for group in record["lengths"]
    ]
    print_table(f"by length at tIoU {at:g}", ("length", "instances", "found", "mAP"), groups)
    say(
        "count: among as many detections of a class, the best, as it has instances; "
        "costs: what mAP would gain without this kind; both under ActivityNet's rules"
    )
