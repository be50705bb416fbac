"""`flowpipe predict`: the class of each video, or what happens when."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import check_outputs, json_option
from .output import print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.experiment.timeline import Timeline, TimelineReader

LOCALISER = "localiser.json"  # what a run of flowpipe localise has, and no other
PIPE = "-"
INTERRUPTED = 130
SHOWN_SEGMENTS = 40


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A time: 0.5, 0.5s or 500ms."""

    name = "S"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip().lower()
        factor = 0.001 if text.endswith("ms") else 1.0
        try:
            seconds = float(text.removesuffix("ms").removesuffix("s")) * factor
        except ValueError:
            seconds = -1
        if not seconds >= 0:  # nor nan
            self.fail(f"{value!r} is no time in seconds, such as 0.5s", param, ctx)
        return seconds


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN|MODEL")
@click.argument("videos", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--fold", help="The fold whose networks are used. [default: the run's first]")
@click.option(
    "--top", type=click.IntRange(min=1), help="Classes to show. [default: 3; 5 with --json]"
)
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), help="Write all scores to this file."
)
@click.option(
    "--every", type=Seconds(), help="Scores over time: a window every S seconds, such as 0.5s."
)
@click.option("--window", type=Seconds(), help="Length of a window. [default: what clips span]")
@click.option("--least", type=Seconds(), help="Shortest segment. [default: two windows]")
@click.option(
    "--segments", "segments_file", type=click.Path(path_type=Path), help="Write segments (CSV)."
)
@click.option(
    "--page", type=click.Path(path_type=Path), help="Write one HTML file: video, timeline, table."
)
@click.option(
    "--video",
    "annotated",
    type=click.Path(path_type=Path),
    help="Write the video with its labels (MP4); several videos: a folder.",
)
@click.option(
    "--other-flow",
    is_flag=True,
    help="Go on where the flow computed here is not that the networks were trained on.",
)
@json_option
def predict(
    run: Path,
    videos: tuple[str, ...],
    fold: str | None,
    top: int | None,
    csv_file: Path | None,
    every: float | None,
    window: float | None,
    least: float | None,
    segments_file: Path | None,
    page: Path | None,
    annotated: Path | None,
    other_flow: bool,
    as_json: bool,
) -> None:
    """Predict the classes of new videos with a trained RUN, or an exported MODEL (.flowpipe).

    A SOURCE is a video, a folder or a list. With --every a long video gets scores over time;
    memory does not grow with its length and nothing is kept on disk. There "-" reads a video from
    standard input as it comes, and /dev/video0 a camera. A RUN of flowpipe localise gives segments.
    """
    folder = annotated is not None and (annotated.is_dir() or len(videos) > 1)
    check_outputs([csv_file, segments_file, page, None if folder else annotated], videos)
    if (run / LOCALISER).is_file():
        unfit = {
            "--fold": fold, "--top": top, "--window": window, "--least": least,
            "--video": annotated, "--json": as_json or None,
        }  # fmt: skip
        for name, value in unfit.items():
            if value is not None:
                raise click.UsageError(
                    f"{run} is a localiser, for which there is no {name}; flowpipe localise "
                    "predict has all of its options"
                )
        _localise(run, videos, csv_file or segments_file, page)
        return
    from flowpipe.experiment.sharing import open_run

    over_time = {
        "--window": window, "--least": least, "--segments": segments_file, "--page": page,
        "--video": annotated,
    }  # fmt: skip
    if every is None:
        for name, value in over_time.items():
            if value is not None:
                raise click.UsageError(f"{name} is for scores over time: give --every too")
        with progress_line("predict") as update:
            experiment = open_run(run, on_progress=lambda stage, share, text: update(share, text))
            experiment.use_flow(None, {}, other_flow=other_flow)
            result = experiment.predict(videos, fold)
        for failure in result.failures:
            say(f"{failure.name}: {failure.reason}")
        if csv_file is not None:
            result.to_csv(csv_file)
        if as_json:
            print_json(result.as_record(top or 5))
        elif result.scores:
            print_table("", *result.table(top or 3))
        click.get_current_context().exit(1 if result.failures else 0)
    from flowpipe.experiment.timeline import TimelineReader

    experiment = open_run(run)
    experiment.use_flow(None, {}, other_flow=other_flow)
    reader = TimelineReader(experiment, every_s=every, window_s=window, fold=fold)
    timelines, paths, status = _timelines(reader, videos, quiet=as_json)
    if timelines:
        _write_files(
            timelines,
            paths,
            csv_file=csv_file,
            segments_file=segments_file,
            page=page,
            annotated=annotated,
            least=least,
        )
        _show(timelines, least, as_json)
    click.get_current_context().exit(status)


def _localise(run: Path, videos: tuple[str, ...], csv_file: Path | None, page: Path | None) -> None:
    """Say when what happens, by a localiser: segments are what it gives in place of scores."""
    from .localise.predict import predict as localise

    click.get_current_context().invoke(
        localise,
        run=run,
        videos=tuple(map(Path, videos)),
        csv_file=csv_file,
        page=page is not None,
        out=page,
    )


def _timelines(
    reader: "TimelineReader", sources: tuple[str, ...], *, quiet: bool
) -> tuple[list["Timeline"], dict[str, Path], int]:
    """Return the timelines, the file of each video, and the exit status.

    What ends a source early costs what comes after it, not what was seen before.
    """
    from flowpipe.datasets import videos_of
    from flowpipe.errors import FlowpipeError, VideoError
    from flowpipe.experiment.timeline import Pace
    from flowpipe.video.decoding import Damage
    from flowpipe.video.live import live_frames

    live = [source for source in sources if source == PIPE or source.startswith("/dev/")]
    timelines: list[Timeline] = []
    paths: dict[str, Path] = {}
    faults: list[BaseException] = []

    def ended(name: str, error: BaseException) -> None:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        say(f"{name}: {why}; what was seen before is kept")
        faults.append(error)

    for source in live:
        pace = Pace()
        given: Any = sys.stdin.buffer if source == PIPE else source

        def show(timeline: "Timeline", pace: Pace = pace) -> None:
            *_, (_, start, end, label, score) = timeline.rows()
            say(
                f"{start:8.2f} to {end:.2f} s  {label} {score:.2f}  "
                f"({pace.frames_per_s:.0f} frames/s, {pace.behind_s:.1f} s behind)"
            )

        damage = Damage()
        timelines.append(
            reader.read(
                source,
                pace.counted(live_frames(given, **reader.geometry(), damage=damage)),
                at_once=1,
                on_window=None if quiet else show,
                on_fault=partial(ended, source),
            )
        )
        if note := damage.reason():
            say(f"note: {source}: {note}")
    if any(isinstance(error, KeyboardInterrupt) for error in faults):
        return timelines, paths, INTERRUPTED
    others = [source for source in sources if source not in live]
    given_videos, empty = videos_of(others) if others else ([], [])
    for path in empty:
        say(f"{path} holds no video")
        faults.append(VideoError(f"{path} holds no video"))
    for video in given_videos:
        try:
            with _bar(video.id) as update:
                frames_of = reader.frames(video.path)
                length_s = frames_of.info.duration_s

                def report(
                    timeline: "Timeline", length_s: float | None = length_s, update: Any = update
                ) -> None:
                    share = timeline.ends_s[-1] / length_s if length_s else 0.0
                    update(min(1.0, share), f"{timeline.ends_s[-1]:.0f} s")

                timeline = reader.read(
                    video.id, frames_of, on_window=report, on_fault=partial(ended, video.id)
                )
            if frames_of.problem:
                say(f"note: {video.id}: {frames_of.problem}")
            timelines.append(timeline)
            paths[video.id] = video.path
        except FlowpipeError as error:
            say(f"{video.id}: {error}")
            faults.append(error)
    return timelines, paths, 1 if faults else 0


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    with progress_line(Path(name).name) as update:
        yield update


def _write_files(
    timelines: list["Timeline"],
    paths: dict[str, Path],
    *,
    csv_file: Path | None,
    segments_file: Path | None,
    page: Path | None,
    annotated: Path | None,
    least: float | None,
) -> None:
    from flowpipe.experiment.timeline import write_csv, write_page, write_segments

    if csv_file is not None:
        write_csv(csv_file, timelines)
    if segments_file is not None:
        write_segments(segments_file, timelines, least_s=least)
    if page is not None:
        write_page(page, timelines, paths=paths, least_s=least)
        say(f"page: {page}")
    if annotated is not None:
        from flowpipe.report.annotated import write_annotated

        if not paths.keys() >= {timeline.video for timeline in timelines}:
            raise click.UsageError("a live source cannot be read again for --video")
        for timeline, target in zip(timelines, _targets(annotated, timelines), strict=True):
            check_outputs([target], paths.values())
            write_annotated(paths[timeline.video], target, timeline.segments(least_s=least))
            say(f"video: {target}")


def _targets(out: Path, timelines: list["Timeline"]) -> list[Path]:
    """Return the file of each annotated video: `out` of one, in the folder `out` of several."""
    if len(timelines) == 1 and not out.is_dir():
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    stems = [Path(timeline.video).stem for timeline in timelines]
    if len(set(stems)) < len(stems):  # called alike in several folders
        stems = [str(Path(t.video).with_suffix("")).replace("/", "-") for t in timelines]
    return [out / f"{stem}.mp4" for stem in stems]


def _show(timelines: list["Timeline"], least: float | None, as_json: bool) -> None:
    """Print the segments of each video."""
    if as_json:
        print_json({"videos": {each.video: each.as_record(least) for each in timelines}})
        return
    for timeline in timelines:
        segments = timeline.segments(least_s=least)
        rows = [
            [f"{s.start_s:.2f}", f"{s.end_s:.2f}", s.label, f"{s.score:.2f}"]
            for s in segments[:SHOWN_SEGMENTS]
        ]
        print_table(timeline.video, ["from s", "to s", "label", "score"], rows)
        if len(segments) > SHOWN_SEGMENTS:
            say(f"and {len(segments) - SHOWN_SEGMENTS} more segments; --segments FILE has all")
