"""`flowpipe detect predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import out_option, parse_arguments, workers_option
from ..output import num_asked, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.detection.experiment import SeenFrame
    from flowpipe.detection.tracks import Track

SHOWN = 20


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--boxes",
    "spec",
    metavar="SPEC",
    default="background",
    show_default=True,
    help="Where persons are: csv:FILE, onnx:FILE, background (static camera) or hog.",
)
@click.option(
    "--boxes-arg",
    "box_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_arguments,
    help="An option of these boxes, such as form=yolov8; may be repeated.",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    help="Write video,time_s,x1,y1,x2,y2,label,person,score.",
)
@click.option(
    "--tubes",
    "tubes_file",
    type=click.Path(path_type=Path),
    help="Write when each person does what, as video,tube,label,frame,x,y,w,h,score.",
)
@click.option(
    "--video",
    "drawn",
    type=click.Path(path_type=Path),
    help="Write the video with boxes and labels (MP4); several videos: a folder.",
)
@click.option("--page", is_flag=True, help="Write a page with the videos and who does what when.")
@out_option("Where the page goes. [default: detected.html]")
@click.option("--every", type=float, default=0.2, show_default=True, help="Look every S seconds.")
@click.option("--min-score", type=float, default=0.05, show_default=True, help="Leave out below.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="The flow cache. [default: RUN/cache]"
)
@workers_option()
def predict(
    run: Path,
    videos: tuple[Path, ...],
    spec: str,
    box_options: dict[str, Any],
    csv_file: Path | None,
    tubes_file: Path | None,
    drawn: Path | None,
    page: bool,
    out: Path | None,
    every: float,
    min_score: float,
    cache: Path | None,
    workers: int | None,
) -> None:
    """Say who does what in VIDEOS (files, folders, lists), and where, by the detector RUN.

    Persons are numbered over time. Without a file to write, how long each does what is listed.
    """
    from flowpipe.detection.experiment import predict as find
    from flowpipe.detection.persons import LIMITS
    from flowpipe.detection.rows import DetectionWriter
    from flowpipe.detection.settings import PersonSettings
    from flowpipe.detection.tracks import TrackCollector

    failed: list[str] = []

    def ended(video: str, error: Exception) -> None:
        failed.append(video)
        say(f"{video}: {error}; what was seen before is kept")

    with progress_line("predict") as update:
        classes, paths, frames = find(
            run,
            videos,
            PersonSettings(boxes=spec, options=box_options),
            every_s=every,
            cache=cache,
            workers=workers,
            say=say,
            on_progress=lambda p: update(p.share, f"flow of {p.finished}/{p.videos} videos"),
            on_fault=ended,
        )
        times: dict[tuple[str, int, str], float] = {}
        done: list[str] = []
        collector = TrackCollector()
        with DetectionWriter(csv_file, classes, min_score) as writer:
            for frame in frames:
                writer.add(frame)
                if drawn is not None or page or tubes_file is not None:
                    collector.add(frame)
                _count(times, frame, classes, every)
                if frame.video not in done:
                    done.append(frame.video)
                    update(len(done) / len(paths), f"video {len(done)}/{len(paths)}")
    limit = LIMITS.get(spec, "")
    if limit:
        say(f"note: {limit}")
    if csv_file is not None:
        say(f"boxes: {csv_file}")
    if tubes_file is not None:
        from flowpipe.detection.annotations import write_tubes

        write_tubes(tubes_file, [t for video in paths for t in collector.tubes(video, classes)])
        say(f"tubes: {tubes_file}")
    # Who is seen once is mostly nobody.
    tracks = {video: collector.tracks(video, min_moments=2) for video in paths}
    if drawn is not None:
        _draw(drawn, paths, tracks, classes)
    if page:
        from flowpipe.report.detection import write_detection_page

        html, title = out or Path("detected.html"), f"found by {run}"
        notes = [limit] if limit else []
        page_file = write_detection_page(html, title, tracks, classes, paths=paths, notes=notes)
        say(f"page: {page_file}")
    status = 1 if failed or len(paths) < num_asked(videos) else 0
    if page or any(file is not None for file in (csv_file, tubes_file, drawn)):
        click.get_current_context().exit(status)
    rows = [
        (video, str(person), label, f"{seconds:.1f}")
        for (video, person, label), seconds in sorted(times.items(), key=lambda item: -item[1])
    ]
    header = ("video", "person", "action", "seconds")
    print_table("", header, rows[:SHOWN], text_columns=3)
    if len(rows) > SHOWN:
        say(f"and {len(rows) - SHOWN} more; --csv writes all")
    click.get_current_context().exit(status)


def _draw(
    drawn: Path,
    paths: dict[str, Path],
    tracks: dict[str, list["Track"]],
    classes: tuple[str, ...],
) -> None:
    from flowpipe.report.annotated import write_boxes

    for video, path in paths.items():
        target = drawn if len(paths) == 1 else drawn / f"{video.replace('/', '_')}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        say(f"video: {write_boxes(path, target, tracks[video], classes)}")


def _count(
    times: dict[tuple[str, int, str], float],
    frame: "SeenFrame",
    classes: tuple[str, ...],
    every: float,
) -> None:
    for person, values in zip(frame.ids.tolist(), frame.probabilities, strict=True):
        key = (frame.video, person, classes[int(values.argmax())])
        times[key] = times.get(key, 0.0) + every
