"""`flowpipe localise predict`."""

from pathlib import Path

import click

from ..options import check_outputs, out_option, workers_option
from ..output import num_asked, print_table, progress_line, say

SHOWN = 20


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write ActivityNet's submission."
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    help="Write video,label,start_s,end_s,score.",
)
@click.option("--page", is_flag=True, help="Write a page with timelines and the videos.")
@out_option("Where the page goes. [default: localised.html]")
@click.option("--min-score", type=float, default=0.0, show_default=True, help="Leave out below.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="The flow cache. [default: RUN/cache]"
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="The cache of features. [default: RUN/features]",
)
@workers_option()
def predict(
    run: Path,
    videos: tuple[Path, ...],
    json_file: Path | None,
    csv_file: Path | None,
    page: bool,
    out: Path | None,
    min_score: float,
    cache: Path | None,
    store: Path | None,
    workers: int | None,
) -> None:
    """Say when what happens in VIDEOS (files, folders, lists), by the localiser RUN.

    Without --json, --csv and --page the best findings are listed.
    """
    from flowpipe.localisation.annotations import write_detections, write_submission
    from flowpipe.localisation.experiment import predict as find

    check_outputs([json_file, csv_file, out], videos)
    with progress_line("predict") as update:
        detections, durations, paths = find(
            run,
            videos,
            cache=cache,
            store=store,
            workers=workers,
            say=say,
            on_progress=lambda p: update(p.share, f"flow of {p.finished}/{p.videos} videos"),
        )
    assert detections.scores is not None
    detections = detections[detections.scores >= min_score]
    if json_file is not None:
        write_submission(json_file, detections, list(durations))
        say(f"submission: {json_file}")
    if csv_file is not None:
        write_detections(csv_file, detections)
        say(f"segments: {csv_file}")
    if page:
        from flowpipe.report.localisation import write_localisation_page

        written = write_localisation_page(
            out or Path("localised.html"),
            f"found by {run}",
            detections,
            durations_s=durations,
            paths=paths,
        )
        say(f"page: {written}")
    if json_file is None and csv_file is None and not page:
        rows = []
        assert detections.scores is not None
        for row in detections.scores.argsort()[::-1][:SHOWN]:
            start, end = detections.times_s[row]
            rows.append(
                (
                    detections.videos[row],
                    detections.labels[row],
                    f"{start:.2f}",
                    f"{end:.2f}",
                    f"{detections.scores[row]:.3f}",
                )
            )
        print_table("", ("video", "action", "from s", "to s", "score"), rows, text_columns=2)
        left = len(detections) - len(rows)
        if left > 0:
            say(f"and {left} more; --csv and --json write all")
    click.get_current_context().exit(1 if len(durations) < num_asked(videos) else 0)
