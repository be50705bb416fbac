"""`flowpipe extract`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import parse_arguments, parse_size
from .output import byte_size, duration, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.extraction import ExtractionResult, Progress


def parse_shard(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """`i/n` → (i, n)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise click.BadParameter(f'"{text}" is not I/N, such as 1/8')
    return int(match[1]), int(match[2])


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The cache directory.")
@click.option(
    "--flow",
    default="tvl1",
    show_default=True,
    metavar="NAME",
    help="tvl1, dis, dis+tvl1, farneback, raft, …; or your own package.module:callable.",
)
@click.option(
    "--flow-arg",
    "flow_parameters",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_arguments,
    help="A parameter of the method; may be repeated.",
)
@click.option(
    "--short-side", type=int, metavar="N", help="Shrink or enlarge the short side to N px."
)
@click.option("--size", metavar="HxW", callback=parse_size, help="Exact size in px.")
@click.option("--fps", type=float, metavar="F", help="Resample to F frames/s, by timestamp.")
@click.option("--rgb/--no-rgb", default=True, show_default=True, help="Keep the frames too.")
@click.option("--backward", is_flag=True, help="Compute the backward flow too.")
@click.option(
    "--cuts",
    is_flag=True,
    help="Look for cuts between shots: flow over one is zero, and no clip leads over it.",
)
@click.option(
    "--confidence",
    is_flag=True,
    help="Keep beside the flow how far to trust it (computed both ways: twice the time).",
)
@click.option(
    "--storage",
    type=click.Choice(["u8", "i16", "f16"]),
    default="u8",
    show_default=True,
    help="8 bit within ±bound; 16 bit at 1/64 px; half precision.",
)
@click.option(
    "--codec",
    type=click.Choice(["jpegls", "zstd"]),
    help="jpegls: smallest (default); zstd: fastest to read (f16 needs it).",
)
@click.option("--bound", "bound_px", type=float, metavar="PX", help="Bound of u8. [default: 20]")
@click.option(
    "--tolerance",
    "tolerance_px",
    type=float,
    default=0.0,
    metavar="PX",
    help="Error that i16 may have per component, for smaller files.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="cpu",
    show_default=True,
    help="Where flow is computed: tvl1, gmflow, raft can on a CUDA GPU. auto: there if they can.",
)
@click.option("--workers", type=int, metavar="N", help="Processes. [default: one per core]")
@click.option("--retry-failed", is_flag=True, help="Try videos again that failed before.")
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    metavar="S",
    help="Skip a video that makes no progress for S seconds.",
)
@click.option(
    "--max-pixels",
    type=int,
    default=8192 * 8192,
    show_default=True,
    metavar="N",
    help="Refuse videos with more pixels in a frame.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=parse_shard,
    help="Only the I-th of N parts, for job arrays; parts go by content.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Compute on the workers of this Dask scheduler, tcp://host:port.",
)
@click.option("--dry-run", is_flag=True, help="Show what there is to do, compute nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def extract(
    sources: tuple[str, ...],
    out: Path,
    as_json: bool,
    dry_run: bool,
    device: str,
    **options: Any,
) -> None:
    """Compute the flow of videos into a cache.

    SOURCE is a video, a directory (searched for videos; class folders give labels), or a CSV or
    TXT list. What is in the cache already is not computed again: run the same command again to
    resume. Exit status: 0 all videos have flow, 1 some failed, 2 misuse.
    """
    from flowpipe.extraction import extract as run
    from flowpipe.flow.device import choose_device

    if device == "auto":
        device, reason = choose_device(options["flow"], device)
        say(reason)
    if dry_run:
        result = run(sources, out, device=device, dry_run=True, **options)
    else:
        with progress_line("extract") as update:
            result = run(
                sources, out, device=device, on_progress=lambda p: update(*_told(p)), **options
            )
    if as_json:
        print_json(as_record(result))
    else:
        _print_result(result, out, dry_run)
    print_failures(result)
    click.get_current_context().exit(1 if result.failed else 0)


def _told(progress: "Progress") -> tuple[float, str]:
    rate = progress.flows / progress.seconds if progress.seconds > 0 else 0.0
    failed = f", {progress.failed} failed" if progress.failed else ""
    return (
        progress.share,
        f"{progress.finished}/{progress.videos} videos{failed}, {rate:.0f} flows/s",
    )


def as_record(result: "ExtractionResult") -> dict[str, Any]:
    """Give what `--json` prints."""
    names = ("videos", "done", "skipped", "failed", "flows", "flows_total", "bytes")
    record = {name: getattr(result, name) for name in names}
    return {
        **record,
        "seconds": round(result.seconds, 3),
        "flows_per_s": round(result.flows_per_s, 2),
        "clipped_share": result.clipped_share,
        "to_do": result.to_do,
        "recipe": result.recipe,
        "stage_seconds": {k: round(v, 3) for k, v in result.stage_seconds.items()},
        "failures": [
            {"name": f.name, "path": str(f.path), "reason": f.reason, "earlier": f.earlier}
            for f in result.failures
        ],
        "notes": result.notes,
    }


def _print_result(result: "ExtractionResult", out: Path, dry_run: bool) -> None:
    if dry_run:
        rows = [
            ("to look at", f"{result.to_do}"),
            ("in the cache already", f"{result.skipped}"),
            ("failed, as before", f"{result.failed}"),
        ]
        print_table(f"{out}: recipe {result.recipe}, nothing computed", ("videos", ""), rows)
        return
    rows = [
        ("videos done", f"{result.done}"),
        ("videos skipped (there already)", f"{result.skipped}"),
        ("videos failed", f"{result.failed}"),
        ("flows computed", f"{result.flows}"),
        ("flows in the cache for these", f"{result.flows_total}"),
        ("flows/s", f"{result.flows_per_s:.1f}" if result.flows else "–"),
        ("time", duration(result.seconds)),
        ("size", byte_size(result.bytes)),
        ("clipped share", f"{result.clipped_share:.3%}"),
    ]
    print_table(f"{out}: recipe {result.recipe}", ("", "extract"), rows)


def print_failures(result: "ExtractionResult") -> None:
    """List notes and failures, the failures last."""
    for name, problem in sorted(result.notes.items()):
        say(f"note: {name}: {problem}")
    if not result.failures:
        return
    say(f"{result.failed} of {result.videos} videos have no flow:")
    for failure in result.failures:
        say(f"  {failure.name}: {failure.reason}" + (" (as before)" if failure.earlier else ""))
    if any(failure.earlier for failure in result.failures):
        say("--retry-failed tries again those that failed before.")
