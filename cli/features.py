"""`flowpipe features`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowpipe.features.options import FeatureOptions

from .options import device_option, json_option, out_option, parse_arguments, record_options
from .output import byte_size, duration, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from flowpipe.features.computing import FeaturesResult

WHOLE_VIDEO = "all"


def parse_clip(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """`T,STEP` or `T` → (frames, step or None); "all" as it is."""
    if text is None or text == WHOLE_VIDEO:
        return text
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f'"{text}" is not T,STEP, such as 16,8')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else None


@click.command()
@click.argument("source", metavar="RUN|NETWORK")
@click.option(
    "--cache",
    "cache_path",
    required=True,
    type=click.Path(path_type=Path),
    help="The flow cache to read.",
)
@out_option("The cache of features.", required=True)
@click.option("--name", help="What the features are called. [default: the stream, or the input]")
@click.option("--recipe", metavar="ID", help="Of a cache of several recipes, the one to read.")
@click.option("--stream", metavar="NAME", help="Of a RUN. [default: its only one]")
@click.option("--fold", metavar="K|all", help="Of a RUN; all: NAME-K for each. [default: first]")
@click.option("--weights", type=click.Path(path_type=Path), help="Of a NETWORK.")
@click.option("--random-weights", is_flag=True, help="A NETWORK without weights is what I want.")
@click.option(
    "--input",
    "content",
    type=click.Choice(["rgb", "flow", "rgbdiff"]),
    help="What a NETWORK looks at. [default: rgb]",
)
@click.option(
    "--model-arg",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_arguments,
    help="A parameter of the NETWORK; may be repeated.",
)
@click.option(
    "--layer", metavar="NAME", help="Keep this layer's output. [default: the classifier's input]"
)
@click.option(
    "--clip",
    metavar="T,STEP",
    callback=parse_clip,
    help="Items of a snippet, and from one to the next; of flow-histogram also: all. [default: "
    "what the network takes, no gap]",
)
@record_options(
    FeatureOptions,
    only=("fps", "crops", "crop_size", "crop_scale", "spatial", "storage"),
    names={"storage": "--dtype"},
)
@device_option("Where the network runs.")
@click.option("--batch-size", type=int, metavar="N", help="Clips at a time.")
@click.option("--readers", type=int, metavar="N", help="Threads that read ahead.")
@json_option
def features(
    source: str,
    cache_path: Path,
    out: Path,
    as_json: bool,
    name: str | None,
    recipe: str | None,
    layer: str | None,
    clip: Any,
    device: str,
    batch_size: int | None,
    readers: int | None,
    **options: Any,
) -> None:
    """Compute features of every video of a cache, once, into a cache of features.

    \b
    RUN      a finished run: the network of a stream, as it was trained
    NETWORK  by name, with --weights; or i3d-rgb, i3d-flow
             flow-histogram: directions and speeds by cell of a grid, no weights

    A row of features belongs to a snippet: T items in a row. What is there already is not computed
    again; other weights, layers or flow are other features, and NAME stands for the last ones.
    Exit status: 0 all videos have features, 1 some failed, 2 misuse.
    """
    from flowpipe.cache import open_cache
    from flowpipe.experiment.features import NetworkChoice, extractors_of
    from flowpipe.features.computing import compute_features

    of_network = ("stream", "fold", "weights", "random_weights", "content", "parameters")
    choice = NetworkChoice(**{key: options.pop(key) for key in of_network})
    options["spatial"] = bool(options["spatial"])
    frames, clip_step = (None, None) if clip in (None, WHOLE_VIDEO) else clip
    wanted = FeatureOptions(frames, clip_step, **options)
    cache = open_cache(cache_path, recipe=recipe)
    results = []
    for named, extractor in extractors_of(
        source,
        cache,
        choice,
        layer,
        wanted,
        name=name,
        whole_video=clip == WHOLE_VIDEO,
        device=device,
        say=say,
    ):
        with progress_line("features") as update:
            result = compute_features(
                extractor,
                cache,
                out,
                name=named,
                batch_size=batch_size,
                readers=readers,
                on_progress=lambda p: update(
                    p.share,
                    f"{p.finished}/{p.videos} videos, "
                    f"{p.items / max(p.seconds, 1e-9):.0f} snippets/s",
                ),
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
    """Return what `--json` prints."""
    names = ("name", "recipe", "videos", "done", "skipped", "failed")
    return {
        **{name: getattr(result, name) for name in names},
        "snippets": result.items,
        "snippets_total": result.items_total,
        "shape": list(result.shape),
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "snippets_per_s": round(result.items_per_s, 2),
        "stage_seconds": {k: round(v, 3) for k, v in result.stage_seconds.items()},
        "failures": [{"name": f.name, "reason": f.reason} for f in result.failures],
    }


def print_result(result: "FeaturesResult", out: Path) -> None:
    rows = [
        ("videos done", f"{result.done}"),
        ("videos skipped (there already)", f"{result.skipped}"),
        ("videos failed", f"{result.failed}"),
        ("snippets computed", f"{result.items}"),
        ("snippets in the cache for these", f"{result.items_total}"),
        ("features of a snippet", "×".join(map(str, result.shape))),
        ("snippets/s", f"{result.items_per_s:.1f}" if result.items else "–"),
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
