"""`flowpipe detect eval`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option
from ..output import print_json, print_table, say
from ..thresholds import by_threshold, parse_thresholds

if TYPE_CHECKING:
    from flowpipe.metrics.matching import ErrorKind

# A literal copy of flowpipe.metrics.boxes.AVA_CAP: numpy costs --help a quarter of a second.
CAP = 50
# No box of shares of the picture, 0 to 1, reaches so far beyond it.
MUCH_MORE = 3
TUBE_RULES = (
    "UCF101-24's rules: tubes by score, the free tube of highest spatio-temporal IoU > t, area "
    "under the whole curve"
)


@click.command()
@click.argument("truth", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("detections", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--protocol",
    type=click.Choice(["ava", "tubes"]),
    required=True,
    help="Boxes on key frames, or tubes.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PBTXT",
    help="AVA's label map: which classes count, and their names.",
)
@click.option(
    "--exclude",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CSV",
    help="ava: video,second rows that are left out on both sides.",
)
@click.option(
    "--cap",
    type=click.IntRange(0),
    default=CAP,
    show_default=True,
    help="ava: rows of a key frame that count, the best; 0: all.",
)
@click.option(
    "--iou",
    metavar="T,...",
    callback=parse_thresholds,
    help="tubes: thresholds. [default: .05,.1,.2,.3,.5,.75]",
)
@json_option
def evaluate(
    truth: Path,
    detections: Path,
    protocol: str,
    labels: Path | None,
    exclude: Path | None,
    cap: int,
    iou: tuple[float, ...] | None,
    as_json: bool,
) -> None:
    """Measure DETECTIONS against TRUTH, exactly as the public programs do.

    \b
    ava    video,second,x1,y1,x2,y2,action,person (detections: score), or with a header
           video,time_s,x1,y1,x2,y2,label,person,score
    tubes  video,tube,label,frame,x,y,w,h,score (the truth without score)
    """
    from flowpipe.detection.annotations import read_label_map
    from flowpipe.sealed import check_listed

    check_listed(detections)
    names = None if labels is None else read_label_map(labels)
    if protocol == "ava":
        if iou is not None:
            raise click.UsageError("--iou is for tubes; AVA's frame mAP is at IoU .5")
        record = _boxes(truth, detections, names, exclude, cap)
    else:
        if exclude is not None:
            raise click.UsageError("--exclude is for key frames (--protocol ava)")
        record = _tubes(truth, detections, names, iou)
    if as_json:
        print_json(record)
    else:
        _print(record)


def _boxes(
    truth: Path,
    detections: Path,
    names: dict[str, str] | None,
    exclude: Path | None,
    cap: int,
) -> dict[str, Any]:
    from flowpipe.detection.annotations import read_boxes, read_key_frames
    from flowpipe.metrics.boxes import box_precision

    excluded = frozenset() if exclude is None else read_key_frames(exclude)
    known, found = read_boxes(truth, names), read_boxes(detections, names, scored=True)
    largest = [abs(rows.boxes).max(initial=0.0) for rows in (known, found)]
    if len(known) and len(found) and min(largest) <= 1 < MUCH_MORE < max(largest):
        say(
            f"note: boxes of the truth reach to {largest[0]:g}, those of the detections to "
            f"{largest[1]:g}: pixels on one side, shares of the picture on the other?"
        )
    result = box_precision(
        known,
        found,
        None if names is None else list(dict.fromkeys(names.values())),
        excluded=excluded,
        cap=cap or None,
    )
    kept = f"the best {cap} rows of a key frame" if cap else "all rows of a key frame"
    left = f"; {len(excluded)} key frames excluded on both sides" if excluded else ""
    return {
        "protocol": "ava",
        "rules": f"AVA's official rules: IoU ≥ .5, the nearest box only, {kept}, classes without "
        f"truth left out of the mean{left}",
        "mAP": result.mean_ap,
        "AP": {name: None if math.isnan(value) else value for name, value in result.ap.items()},
        "boxes": len(known),
        "detections": len(found),
        "dropped": result.dropped,
        "errors": _kinds(result.errors),
    }


def _tubes(
    truth: Path,
    detections: Path,
    names: dict[str, str] | None,
    iou: tuple[float, ...] | None,
) -> dict[str, Any]:
    from flowpipe.detection.annotations import read_tubes
    from flowpipe.metrics.tubes import DEFAULT_IOU, tube_precision

    known, found = read_tubes(truth), read_tubes(detections, scored=True)
    classes = None if names is None else list(dict.fromkeys(names.values()))
    result = tube_precision(known, found, classes, iou=iou or DEFAULT_IOU)
    present = {tube.label for tube in known}
    return {
        "protocol": "tubes",
        "rules": f"{TUBE_RULES}; mean over {len(result.classes)} classes, of which "
        f"{len(present & set(result.classes))} have truth (others count 0)",
        "mAP": by_threshold(result.iou, result.map_T.tolist()),
        "average": float(result.map_T.mean()),
        "AP": {
            name: by_threshold(result.iou, row)
            for name, row in zip(result.classes, result.ap_KT.tolist(), strict=True)
        },
        "tubes": len(known),
        "detections": len(found),
        "dropped": {},
        "errors": _kinds(result.errors),
    }


def _kinds(errors: "tuple[ErrorKind, ...]") -> dict[str, dict[str, float]]:
    return {kind.name: {"count": kind.count, "cost": kind.cost} for kind in errors}


def _print(record: dict[str, Any]) -> None:
    say(record["rules"])
    for reason, count in record["dropped"].items():
        say(f"note: {count} detections do not count: {reason}")
    if record["protocol"] == "ava":
        shown = [(n, "–" if value is None else f"{value:.4f}") for n, value in record["AP"].items()]
        print_table("", ("class", "AP"), [("mAP", f"{record['mAP']:.4f}"), *shown])
    else:
        rows = [("mAP", *(f"{value:.4f}" for value in record["mAP"].values()))]
        for name, values in record["AP"].items():
            rows.append((name, *(f"{value:.4f}" for value in values.values())))
        print_table("", ("IoU", *record["mAP"]), rows)
    kinds = [(k, str(e["count"]), f"{e['cost']:.4f}") for k, e in record["errors"].items()]
    print_table("errors at IoU .5", ("kind", "count", "costs mAP"), kinds)
    say(
        "count: among as many detections of a class, the best, as it has instances; "
        "costs: what mAP would gain without this kind"
    )
