"""`flowpipe features`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowpipe.features.options import FeatureOptions

from .options import (
    device_option,
    json_option,
    out_option,
    parse_arguments,
    record_options,
    workers_option,
)
from .output import byte_size, duration, print_json, print_table, progress_line, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowpipe.features.computing import FeaturesResult
    from flowpipe.features.extractor import Extractor
    from flowpipe.runs import Progress

WHOLE_VIDEO = "all"
CONTENTS = ("rgb", "flow", "rgbdiff")


def parse_clip(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """`T,STEP` or `T` → (frames, step or None); "all" as it is."""
    if text is None or text == WHOLE_VIDEO:
        return text
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f'"{text}" is not T,STEP, such as 16,8')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else None


def parse_weights(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, Path]:
    """`FILE`, or `rgb=FILE,flow=FILE` → what the network looks at ("": not said) → file."""
    weights: dict[str, Path] = {}
    for text in given:
        several = text.startswith(tuple(f"{content}=" for content in CONTENTS))
        for part in text.split(",") if several else [text]:
            content, equals, file = part.partition("=")
            key = content if equals and content in CONTENTS else ""
            weights[key] = Path(file if key else part)
    return weights


def parse_contents(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[str, ...]:
    """`rgb,flow` → the two."""
    contents = tuple(text.split(",")) if text else ()
    for content in contents:
        if content not in CONTENTS:
            raise click.BadParameter(f'"{content}" is not one of {", ".join(CONTENTS)}')
    return contents


@click.command()
@click.argument("source", metavar="RUN|NETWORK")
@click.argument("videos", nargs=-1, metavar="[VIDEO]...")
@click.option(
    "--cache",
    "cache_path",
    type=click.Path(path_type=Path),
    help="The flow cache to read; with VIDEOs, to fill. [default: in --out]",
)
@out_option("The cache of features; with VIDEOs, the folder of .npy files.", required=True)
@click.option("--name", help="What the features are called. [default: the stream, or the input]")
@click.option("--recipe", metavar="ID", help="Of a cache of several recipes, the one to read.")
@click.option("--stream", metavar="NAME", help="Of a RUN. [default: its only one]")
@click.option("--fold", metavar="K|all", help="Of a RUN; all: NAME-K for each. [default: first]")
@click.option(
    "--weights",
    multiple=True,
    metavar="FILE|rgb=FILE,flow=FILE",
    callback=parse_weights,
    help="Of a NETWORK, or of the two that look at frames and flow.",
)
@click.option(
    "--weights-origin",
    "origin",
    metavar="NAME",
    help="Where weights come from, if names do not tell; flowpipe: they are your own.",
)
@click.option(
    "--random-weights", is_flag=True, help="Use random weights for a NETWORK (tests only)."
)
@click.option(
    "--input",
    "contents",
    metavar="rgb|flow|rgbdiff,...",
    callback=parse_contents,
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
@click.option("--flow", metavar="METHOD", help="With VIDEOs. [default: what the network knows]")
@workers_option("With VIDEOs: processes that extract. [default: one per core]")
@click.option("--batch-size", type=int, metavar="N", help="Clips at a time.")
@click.option("--readers", type=int, metavar="N", help="Threads that read ahead.")
@json_option
def features(
    source: str,
    videos: tuple[str, ...],
    cache_path: Path | None,
    out: Path,
    as_json: bool,
    name: str | None,
    recipe: str | None,
    layer: str | None,
    clip: Any,
    device: str,
    flow: str | None,
    workers: int | None,
    batch_size: int | None,
    readers: int | None,
    **options: Any,
) -> None:
    """Compute features of every video of a cache, or of VIDEOs, once.

    \b
    RUN      a finished run: the network of a stream, as it was trained
    NETWORK  by name, with --weights; i3d with rgb=FILE,flow=FILE
             flow-histogram: directions and speeds by cell of a grid, no weights

    From a cache, the features go into a cache of features. From VIDEOs, flow and frames are
    extracted as the network wants them, and each video becomes OUT/VIDEO.npy (T×D, networks side
    by side) and OUT/VIDEO.json (the time of each row). A row belongs to a snippet: T items in a
    row. What is there already is not computed again; other weights, layers or flow are other
    features, and NAME stands for the last ones. Exit status: 0 all videos have features, 1 some
    failed, 2 misuse.

    \b
    flowpipe features i3d videos --weights rgb=rgb.pt,flow=flow.pt --out npy
    flowpipe features flow-histogram videos --out npy
    """
    from flowpipe.experiment.features import NetworkChoice, extractors_of

    of_network = (
        "stream", "fold", "weights", "origin", "random_weights", "contents", "parameters"
    )  # fmt: skip
    choice = NetworkChoice(**{key: options.pop(key) for key in of_network})
    options["spatial"] = bool(options["spatial"])
    frames, clip_step = (None, None) if clip in (None, WHOLE_VIDEO) else clip
    extractors = extractors_of(
        source,
        choice,
        layer,
        FeatureOptions(frames, clip_step, **options),
        name=name,
        whole_video=clip == WHOLE_VIDEO,
        published=bool(videos),
        device=device,
        say=say,
    )
    how = {"batch_size": batch_size, "readers": readers}
    if videos:
        if recipe is not None:
            raise click.UsageError("--recipe chooses of a cache; with VIDEOs there is one")
        _of_videos(videos, out, dict(extractors), flow, cache_path, workers, how, as_json)
    elif cache_path is None:
        raise click.UsageError("give --cache, a cache of flow, or VIDEOs")
    elif flow is not None or workers is not None:
        raise click.UsageError("--flow and --workers are for VIDEOs; the cache has its flow")
    else:
        _of_cache(cache_path, recipe, out, extractors, how, as_json)


def _of_cache(
    cache_path: Path,
    recipe: str | None,
    out: Path,
    extractors: "Iterable[tuple[str, Extractor]]",
    how: dict[str, Any],
    as_json: bool,
) -> None:
    from flowpipe.cache import open_cache
    from flowpipe.features.computing import compute_features

    cache = open_cache(cache_path, recipe=recipe)
    results = []
    for named, extractor in extractors:
        with progress_line("features") as update:
            result = compute_features(
                extractor,
                cache,
                out,
                name=named,
                on_progress=lambda p: update(p.share, _words(p)),
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


def _of_videos(
    videos: tuple[str, ...],
    out: Path,
    extractors: "dict[str, Extractor]",
    flow: str | None,
    cache_path: Path | None,
    workers: int | None,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    from flowpipe.features.videos import features_of_videos

    stages = ["extract", *extractors]
    with progress_line("features") as update:
        done = features_of_videos(
            videos,
            out,
            extractors,
            flow=flow,
            cache=cache_path,
            workers=workers,
            on_progress=lambda stage, p: update(
                (stages.index(stage) + p.share) / len(stages), f"{stage}: {_words(p)}"
            ),
            **how,
        )
    failures = [f for result in (done.extraction, *done.features) for f in result.failures]
    if as_json:
        print_json(
            {
                "out": str(out),
                "files": [{"file": str(one.path), **one.record} for one in done.exported],
                "features": [as_record(result) for result in done.features],
                "failures": [{"name": f.name, "reason": f.reason} for f in failures],
            }
        )
    else:
        for one in done.exported:
            click.echo(str(one.path))
        seconds = done.extraction.seconds + sum(result.seconds for result in done.features)
        say(f"{len(done.exported)} videos in {out}, {duration(seconds)}")
    for failure in failures:
        say(f"  {failure.name}: {failure.reason}")
    click.get_current_context().exit(1 if done.failed else 0)


def _words(progress: "Progress") -> str:
    rate = progress.items / max(progress.seconds, 1e-9)
    return f"{progress.finished}/{progress.videos} videos, {rate:.0f} per second"


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
