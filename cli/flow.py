"""`flowpipe flow VIDEO`, and bench, eval, compare."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json, print_table, progress_line, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHODS = "tvl1,tvl1-nomedian,tvl1-fast,farneback,dis"

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)


def parse_methods(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """`a,b` → ["a", "b"]."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("no method named; such as tvl1,dis")
    return names


class VideosOrCommand(click.Group):
    """A group whose first word may also be a video: then `look` is meant."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first = arguments[0] if arguments else ""
        if first not in self.commands and (Path(first).suffix or Path(first).exists()):
            return "look", self.commands["look"], arguments
        return super().resolve_command(context, arguments)


@click.group(cls=VideosOrCommand)
def flow() -> None:
    """Show the flow of a few videos (flowpipe flow VIDEO...), or measure flow methods.

    The commands below measure: speed, error against ground truth, differences.
    """


@flow.command()
@click.argument(
    "videos", nargs=-1, required=True, metavar="VIDEO...", type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("flow"),
    show_default=True,
    help="Folder of the files.",
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["mp4", "png", "npy", "flo"]),
    default="mp4",
    show_default=True,
    help="A video beside its flow; pictures; arrays T×H×W×2; Middlebury files.",
)
@click.option("--flow", "method", default="dis+tvl1", show_default=True, help="The method.")
@click.option("--short-side", type=click.IntRange(16), metavar="N", help="Resize the frames first.")
@click.option("--fps", type=float, help="Take frames at this rate.")
@click.option(
    "--scale", type=float, metavar="PX", help="Full color at PX. [default: one for all videos]"
)
@click.option("--arrows", is_flag=True, help="Draw arrows on the frames too.")
@json_option
def look(
    videos: tuple[Path, ...],
    out: Path,
    form: str,
    method: str,
    short_side: int | None,
    fps: float | None,
    scale: float | None,
    arrows: bool,
    as_json: bool,
) -> None:
    """Compute the flow of a few videos to look at, or to load.

    Hue is direction, saturation is length; all videos share one scale, and stillness stays white.
    Nothing is kept but the files; flowpipe extract fills a cache.
    """
    from flowpipe.flow.look import write_flow

    with progress_line("flow") as update:
        made = write_flow(
            videos,
            out,
            form,
            method=method,
            short_side=short_side,
            fps=fps,
            scale_px=scale,
            arrows=arrows,
            on_progress=update,
        )
    if as_json:
        print_json([{**each, "file": str(each["file"])} for each in made])
        return
    for each in made:
        shown = (
            "" if form in ("npy", "flo") else f", full color at {each['scale_px']:g} px per frame"
        )
        say(f"{each['file']}: {each['flows']} flows{shown}")


@flow.command()
@click.option(
    "--frames",
    "videos",
    multiple=True,
    metavar="VIDEO",
    type=click.Path(path_type=Path),
    help="Where the pairs come from; may be repeated. [default: a generated video]",
)
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Per video.")
@click.option("--short-side", type=click.IntRange(16), metavar="N", help="Resize the frames first.")
@click.option(
    "--methods", default=METHODS, show_default=True, callback=parse_methods, help="NAME,NAME..."
)
@json_option
def bench(
    videos: tuple[Path, ...],
    pairs: int,
    short_side: int | None,
    methods: list[str],
    as_json: bool,
) -> None:
    """Time methods side by side on the same pairs of frames, one thread each.

    The reference is OpenCV's TV-L1 (opencv-tvl1): ratios of speed and differences in px are to it.
    """
    import tempfile

    from flowpipe.flow.bench import bench as run
    from flowpipe.flow.bench import read_pairs

    with tempfile.TemporaryDirectory(prefix="flowpipe-") as folder:
        sources = list(videos) or [_generated(Path(folder))]
        found = [
            pair
            for video in sources
            for pair in read_pairs(video, count=pairs, short_side=short_side)
        ]
    if not videos:
        say("the frames are generated; --frames VIDEO measures on your own")
    with progress_line("bench") as update:
        rows = run(
            found,
            methods,
            on_progress=lambda done, total: update(done / total, f"{done}/{total} pairs"),
        )
    height, width = found[0][0].shape
    if as_json:
        sizes = sorted({pair[0].shape for pair in found})
        print_json({"pairs": len(found), "sizes": sizes, "methods": [asdict(row) for row in rows]})
        return
    cells = [
        (
            row.method,
            f"{row.ms_per_pair:.1f}",
            f"{row.ratio:.1f}",
            f"{row.mean_difference_px:.4f}",
            f"{row.percentile_99_px:.3f}",
            f"{row.share_within_tenth:.1%}",
            "" if row.ns_per_pixel_iteration is None else f"{row.ns_per_pixel_iteration:.2f}",
        )
        for row in rows
    ]
    header = (
        "method",
        "ms/pair",
        "speed ×",
        "difference px",
        "99 % px",
        "within 0.1 px",
        "ns/(px·iteration)",
    )
    print_table(f"{len(found)} pairs, the first {height}×{width}, one thread", header, cells)


def _generated(folder: Path) -> Path:
    from flowpipe.datasets.synthetic import write_videos

    write_videos(folder, clips=18)
    return next(iter(sorted(folder.rglob("*.mp4"))))


@flow.command(name="eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--methods", default=METHODS, show_default=True, callback=parse_methods, help="NAME,NAME..."
)
@click.option(
    "--render",
    type=click.Choice(["clean", "final"]),
    default="clean",
    show_default=True,
    help="Of Sintel.",
)
@json_option
def evaluate(folder: Path, methods: list[str], render: str, as_json: bool) -> None:
    """Compare methods with the true flow below DIR.

    DIR is laid out as Middlebury, Sintel, KITTI or Flying Chairs. Errors are over the pixels
    whose truth is known: mean end-point error, and shares above 1, 3 and 5 px.
    """
    import time

    from flowpipe.flow import create
    from flowpipe.flow.bench import one_thread
    from flowpipe.flow.evaluation import find_pairs, flow_errors, read_grey, read_truth

    pairs = find_pairs(folder, render=render)
    made = {name: create(name) for name in methods}
    records: list[dict[str, Any]] = []
    with progress_line("eval") as update, one_thread():
        for number, pair in enumerate(pairs):
            truth_HWC, known_HW = read_truth(pair.truth)
            first, second = read_grey(pair.first), read_grey(pair.second)
            for name, method in made.items():
                update(number / len(pairs), f"{pair.name}, {name}")
                started = time.perf_counter()
                uv_HWC = method(first, second)
                ms = (time.perf_counter() - started) * 1e3
                errors = asdict(flow_errors(uv_HWC, truth_HWC, known_HW))
                records.append({"pair": pair.name, "method": name, **errors, "ms": ms})
    means = {name: _means([r for r in records if r["method"] == name]) for name in methods}
    if as_json:
        print_json({"pairs": records, "mean": means})
        return
    by_pair = {(r["pair"], r["method"]): r["end_point_px"] for r in records}
    rows = [(pair.name, *(f"{by_pair[pair.name, name]:.3f}" for name in methods)) for pair in pairs]
    rows.append(("mean", *(f"{means[name]['end_point_px']:.3f}" for name in methods)))
    print_table(f"{folder}: mean end-point error in px", ("", *methods), rows)
    kinds = {
        "outliers_1px": "above 1 px",
        "outliers_3px": "above 3 px",
        "outliers_5px": "above 5 px",
        "outliers_kitti": "above 3 px and 5 % (Fl)",
    }
    shares = [
        (told, *(f"{means[name][kind]:.1%}" for name in methods)) for kind, told in kinds.items()
    ]
    shares.append(("ms, one thread", *(f"{means[name]['ms']:.0f}" for name in methods)))
    print_table(f"means over {len(pairs)} pairs", ("", *methods), shares)


def _means(records: list[dict[str, Any]]) -> dict[str, float]:
    names = [key for key, value in records[0].items() if isinstance(value, float)]
    return {name: sum(record[name] for record in records) / len(records) for name in names}


@flow.command()
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@json_option
def compare(one: str, other: str, as_json: bool) -> None:
    """Tell how far two flows are apart: .flo files, KITTI PNGs or cache entries.

    A and B are each a file, or CACHE::VIDEO for all the fields of a cached video, or
    CACHE::VIDEO::RECIPE where the cache holds several recipes.
    """
    from flowpipe.flow.evaluation import flow_difference

    difference = asdict(flow_difference(_read(one), _read(other)))
    if as_json:
        print_json(difference)
        return
    rows = [
        ("mean", f"{difference['mean_px']:.4f} px"),
        ("median", f"{difference['median_px']:.4f} px"),
        ("99 % below", f"{difference['percentile_99_px']:.4f} px"),
        ("largest", f"{difference['largest_px']:.4f} px"),
        ("within 0.1 px", f"{difference['share_within_tenth']:.2%}"),
    ]
    fields = difference["fields"]
    print_table(f"{fields} field{'s' if fields > 1 else ''}", ("difference", ""), rows)


def _read(told: str) -> "NDArray[np.float32]":
    """Give H×W×2 of a file, or T×H×W×2 of a cache entry; unknown pixels become zero motion."""
    import numpy as np

    from flowpipe.errors import InvalidArgument
    from flowpipe.flow.evaluation import read_truth

    if "::" in told:
        from flowpipe.cache import open_cache

        path, video, *recipe = told.split("::")
        if len(recipe) > 1:
            raise InvalidArgument(f'"{told}" is not CACHE::VIDEO or CACHE::VIDEO::RECIPE')
        return np.asarray(open_cache(path, recipe=recipe[0] if recipe else None)[video].flow[:])
    path_of = Path(told)
    if path_of.suffix.lower() not in (".flo", ".png"):
        raise InvalidArgument(
            f'"{told}" is neither a .flo or .png file nor CACHE::VIDEO; name one of these'
        )
    uv_HWC, known_HW = read_truth(path_of)
    return np.where(known_HW[..., None], uv_HWC, np.float32(0))
