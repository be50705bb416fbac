"""`flowpipe see why`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option
from ..output import print_json, print_table, progress_line, say
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
    from flowpipe.visualize.explain import VideoEvidence

# A literal copy of flowpipe.visualize.explain.METHODS: torch costs --help seconds.
METHODS = ("integrated", "occlusion", "gradcam", "gradient")


@click.command()
@run_argument
@click.argument("video", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--class", "label", help="The class. [default: each network's own answer]")
@click.option(
    "--method", type=click.Choice(METHODS), default="integrated", show_default=True, help="How."
)
@stream_option
@fold_option
@out_option
@json_option
def why(
    run: Path,
    video: Path,
    label: str | None,
    method: Any,
    stream: str | None,
    fold: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Show where and when in VIDEO the evidence for a class lies: a clip and a curve per stream.

    \b
    integrated  gradients on the way from an empty clip; sums to what the clip gains
    occlusion   what each part is worth, hidden and alone; slow and coarse, the honest reference
    gradcam     the last maps, weighed by how much the class rises with each; fast
    gradient    how much the class would change with each pixel; fast and noisy

    Every map is tried: how far its hottest eighth moves the class, against the same shape
    elsewhere. What points at nothing is named.
    """
    from flowpipe.cache import open_cache
    from flowpipe.datasets import videos_of
    from flowpipe.errors import VideoError
    from flowpipe.experiment.sharing import open_run
    from flowpipe.extraction import extract
    from flowpipe.visualize.explain import explain_video
    from flowpipe.visualize.overlay import write_overlay

    experiment = open_run(run)
    classes = list(experiment.results["classes"])
    number = None if label is None else class_number(experiment, label)
    path = experiment.predict_cache()
    arguments = experiment.settings.extract_arguments()
    shown = list(networks(experiment, stream, fold))
    done = extract([video], path, retry_failed=True, **arguments)
    if done.failures:
        raise VideoError(f"{video}: {done.failures[0].reason}")
    cache, name = open_cache(path, recipe=done.recipe), videos_of([video])[0][0].id
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    for own, look, model in shown:
        with progress_line("see why") as update:
            found = explain_video(
                model,
                look,
                cache[name],
                method,
                number=number,
                backward=lambda: cache.backward(name),
                on_progress=update,
            )
        for each in found:
            title = f"{own}-{each.pathway}" if each.pathway else own
            write_overlay(out / f"{title}.mp4", cache[name], look, each)
            _write_curve(out / f"{title}.csv", cache[name].pts_s, each)
            record[title] = {
                "video": str(video), "stream": own, "method": method,
                "class": classes[each.number], "logit": float(each.logits_K[each.number]),
                "answer": classes[int(each.logits_K.argmax())], "clips": each.clips,
                "times_in_a_clip": each.times, "peak_s": _peak_s(cache[name].pts_s, each),
                "hottest": each.hottest, "elsewhere": each.elsewhere,
            }  # fmt: skip
            write_json(out / f"{title}.json", record[title])
            say(f"{title}: {out / title}.mp4, .csv, .json")
            if each.times == 1 and look.frames > 1:
                say(
                    f"{title}: one map for each clip of {look.frames} items; occlusion and the "
                    "gradients tell its moments apart"
                )
            if each.hottest <= each.elsewhere:
                say(
                    f"{title}: this map points at nothing: its hottest eighth moves the class by "
                    f"{each.hottest:.2f}, the same shape elsewhere by {each.elsewhere:.2f}; "
                    f"{'integrated gradients see' if method == 'occlusion' else 'occlusion sees'} "
                    "more, or the evidence lies everywhere"
                )
    if as_json:
        print_json(record)
        return
    rows = [
        [title, row["class"], row["answer"],
         *(f"{row[key]:.2f}" for key in ("logit", "hottest", "elsewhere", "peak_s"))]
        for title, row in record.items()
    ]  # fmt: skip
    header = [
        "stream", "evidence for", "network's answer", "logit", "hottest 1/8", "elsewhere", "peak s"
    ]  # fmt: skip
    print_table(str(video), header, rows, text_columns=3)


def _peak_s(pts_s: Any, evidence: "VideoEvidence") -> float:
    return float(pts_s[int(evidence.curve_N.argmax())])


def _write_curve(path: Path, pts_s: Any, evidence: "VideoEvidence") -> None:
    """Write the curve: one line per frame."""
    import csv

    from flowpipe.atomic import write_aside

    with write_aside(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", "evidence"])
        for time_s, value in zip(pts_s, evidence.curve_N, strict=True):
            writer.writerow([f"{time_s:.3f}", f"{value:.6g}"])
