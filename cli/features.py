"""`flowpipe features`, and `flowpipe cache import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import parse_arguments, parse_size
from .output import byte_size, duration, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.features.results import FeaturesResult


def parse_clip(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """`T,STRIDE` or `T` → (frames, step or None)."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f'"{text}" is not T,STRIDE, such as 16,8')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else None


@click.command()
@click.argument("source", metavar="RUN|MODEL")
@click.option(
    "--cache",
    "cache_path",
    required=True,
    type=click.Path(path_type=Path),
    help="The flow cache to read.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The store.")
@click.option("--name", help="What the features are called. [default: the stream, or the input]")
@click.option("--recipe", metavar="ID", help="Of a cache of several recipes, the one to read.")
@click.option("--stream", metavar="NAME", help="Of a RUN. [default: its only one]")
@click.option("--fold", metavar="K|all", help="Of a RUN; all: NAME-K for each. [default: first]")
@click.option("--weights", type=click.Path(path_type=Path), help="Of a MODEL.")
@click.option("--random-weights", is_flag=True, help="A MODEL without weights is what I want.")
@click.option(
    "--input",
    "content",
    type=click.Choice(["rgb", "flow", "rgbdiff"]),
    help="What a MODEL looks at. [default: rgb]",
)
@click.option(
    "--model-arg",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_arguments,
    help="A parameter of the MODEL; may be repeated.",
)
@click.option(
    "--layer", metavar="NAME", help="Keep this layer's output. [default: the classifier's input]"
)
@click.option("--spatial", is_flag=True, help="Keep maps, T×D×H'×W', not their mean.")
@click.option(
    "--clip",
    metavar="T,STRIDE",
    callback=parse_clip,
    help="Items of a snippet, and from one to the next. [default: what the network takes, no gap]",
)
@click.option("--fps", type=float, metavar="F", help="Take items at F per second, by timestamp.")
@click.option("--crops", type=click.Choice(["center", "ten"]), help="Ten are averaged.")
@click.option("--crop-size", metavar="HxW", callback=parse_size, help="The network's input in px.")
@click.option("--crop-scale", type=float, metavar="S", help="Of the largest box that fits.")
@click.option(
    "--dtype",
    "storage",
    type=click.Choice(["f16", "f32"]),
    default="f16",
    show_default=True,
    help="Precision in the store.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs.",
)
@click.option("--batch-size", type=int, metavar="N", help="Clips at a time.")
@click.option("--readers", type=int, metavar="N", help="Threads that read ahead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def features(source: str, cache_path: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Compute a network's features of every video of a cache, once, into a store.

    \b
    RUN    a finished run: the network of a stream, as it was trained
    MODEL  a network by name, with --weights; or i3d-rgb, i3d-flow

    A row of features belongs to a snippet: T items in a row. What is in the store already is not
    computed again; other weights, layers or flow are other features, and NAME stands for the last
    ones. Exit status: 0 all videos have features, 1 some failed, 2 misuse.
    """
    from flowpipe.cache import open_cache
    from flowpipe.errors import CacheError
    from flowpipe.experiment.features import extractors_of
    from flowpipe.features.computing import compute_features

    how = {key: options.pop(key) for key in ("batch_size", "readers")}
    name = options.pop("name")
    cache = open_cache(cache_path, recipe=options.pop("recipe"))
    if out.is_file():
        raise CacheError(f"{out} is a file; a store is a directory: give another --out")
    results = []
    for default_name, suffix, extractor in extractors_of(source, cache, say=say, **options):
        with progress_line("features") as update:
            result = compute_features(
                extractor,
                cache,
                out,
                name=(name or default_name) + suffix,
                on_progress=lambda p: update(
                    p.finished / max(1, p.videos),
                    f"{p.finished}/{p.videos} videos, "
                    f"{p.snippets / max(p.seconds, 1e-9):.0f} snippets/s",
                ),
                **how,
            )
        results.append(result)
        if not as_json:
            print_result(result, out)
        print_failures(result)
    if as_json:
        records = [as_record(result) for result in results]
        print_json(records[0] if len(records) == 1 else {"features": records})
    click.get_current_context().exit(1 if any(result.failed for result in results) else 0)


def as_record(result: "FeaturesResult") -> dict[str, Any]:
    """Give what `--json` prints."""
    names = ("name", "recipe", "videos", "done", "skipped", "failed", "snippets")
    record = {name: getattr(result, name) for name in names}
    return {
        **record,
        "snippets_total": result.snippets_total,
        "shape": list(result.shape),
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "snippets_per_s": round(result.snippets_per_s, 2),
        "stage_seconds": {k: round(v, 3) for k, v in result.stage_seconds.items()},
        "failures": [{"name": f.name, "reason": f.reason} for f in result.failures],
    }


def print_result(result: "FeaturesResult", out: Path) -> None:
    rows = [
        ("videos done", f"{result.done}"),
        ("videos skipped (there already)", f"{result.skipped}"),
        ("videos failed", f"{result.failed}"),
        ("snippets computed", f"{result.snippets}"),
        ("snippets in the store for these", f"{result.snippets_total}"),
        ("features of a snippet", "×".join(map(str, result.shape))),
        ("snippets/s", f"{result.snippets_per_s:.1f}" if result.snippets else "–"),
        ("time", duration(result.seconds)),
        ("size", byte_size(result.bytes)),
    ]
    print_table(f'{out}: "{result.name}", recipe {result.recipe}', ("", "features"), rows)


def print_failures(result: "FeaturesResult") -> None:
    if not result.failures:
        return
    say(f"{result.failed} of {result.videos} videos have no features:")
    for failure in result.failures:
        say(f"  {failure.name}: {failure.reason}")
