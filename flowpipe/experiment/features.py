"""From what a person names, a run, a network or a preset, to a `FeatureExtractor`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowpipe.cache import Cache, FlowRecipe
from flowpipe.clips.streams import StreamInput
from flowpipe.errors import ConfigError, InvalidArgument, UnknownName, nearest_name
from flowpipe.experiment.experiment import Experiment
from flowpipe.features.extractor import FeatureExtractor
from flowpipe.features.presets import PRESETS
from flowpipe.models import TABLE, build_for_clip, input_layout
from flowpipe.models.weights import load_weights, read_state

DEFAULT_CROP_SIZE = (224, 224)
DEFAULT_CROP_SCALE = 0.875
DEFAULT_FLOWS = 10
SEED = 0


def extractors_of(
    source: str,
    cache: Cache,
    *,
    stream: str | None,
    fold: str | None,
    weights: Path | None,
    random_weights: bool,
    content: str | None,
    parameters: Mapping[str, Any],
    layer: str | None,
    spatial: bool,
    clip: tuple[int, int | None] | None,
    fps: float | None,
    crops: str | None,
    crop_size: tuple[int, int] | None,
    crop_scale: float | None,
    storage: str,
    device: str,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, str, FeatureExtractor]]:
    """Give (name of the features, what is added to it, extractor): several only for fold "all".

    Raises
    ------
    InvalidArgument, UnknownName
        For options that do not go with the source, or a source that is nothing known.
    """
    common: dict[str, Any] = {
        "layer": layer,
        "spatial": spatial,
        "crops": crops or "center",
        "storage": storage,
        "device": device,
        "frames": clip[0] if clip else None,
        "step": clip[1] if clip else None,
    }
    if Path(source).is_dir():
        given = {
            "--weights": weights,
            "--input": content,
            "--model-arg": parameters,
            "--random-weights": random_weights,
        }
        if used := [option for option, value in given.items() if value]:
            raise InvalidArgument(
                f"{', '.join(used)} do not go with the run {source}, which has its own"
            )
        changes = {"fps": fps, "crop_size": crop_size}
        scale = crop_scale
        yield from _of_run(Path(source), stream, fold, changes, scale, common)
        return
    if stream or fold:
        raise InvalidArgument(f'--stream and --fold belong to a run; "{source}" is no directory')
    yield _of_model(
        source, cache, weights, random_weights, content, parameters, clip, fps, crop_size,
        crop_scale, common, say,
    )  # fmt: skip


def _of_run(
    run: Path,
    stream: str | None,
    fold: str | None,
    changes: Mapping[str, Any],
    crop_scale: float | None,
    common: Mapping[str, Any],
) -> Iterator[tuple[str, str, FeatureExtractor]]:
    experiment = Experiment.of_run(run)
    settings, results = experiment.settings, experiment.results
    usable = [name for name, s in settings.streams.items() if s.input != "features"]
    if stream is None and len(usable) != 1:
        raise InvalidArgument(f"{run} has the streams {', '.join(usable)}; choose with --stream")
    name = stream or usable[0]
    if name not in usable:
        raise InvalidArgument(
            f'{run} has no stream "{name}" on flow or frames{nearest_name(name, usable)}; it has '
            f"{', '.join(usable)}"
        )
    folds = [str(row["fold"]) for row in results["folds"]]
    if fold not in (None, "all", *folds):
        raise ConfigError(
            f'{run} has no fold "{fold}"{nearest_name(str(fold), folds)}; it has {", ".join(folds)}'
        )
    wanted = settings.streams[name].clip_input(name)
    if changes["fps"] is not None:
        wanted = replace(wanted, fps=changes["fps"], frame_step=1)
    if changes["crop_size"] is not None:
        wanted = replace(wanted, crop_size=changes["crop_size"])
    for chosen in folds if fold == "all" else [fold or folds[0]]:
        model = experiment.trained(experiment.stream(name, chosen), chosen, len(results["classes"]))
        yield (
            name,
            f"-{chosen}" if fold == "all" else "",
            FeatureExtractor(
                model,
                wanted,
                network=settings.streams[name].model,
                parameters=settings.streams[name].model_parameters,
                crop_scale=settings.test.crop_scale if crop_scale is None else crop_scale,
                **common,
            ),
        )


def _of_model(
    source: str,
    cache: Cache,
    weights: Path | None,
    random_weights: bool,
    content: str | None,
    parameters: Mapping[str, Any],
    clip: tuple[int, int | None] | None,
    fps: float | None,
    crop_size: tuple[int, int] | None,
    crop_scale: float | None,
    common: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[str, str, FeatureExtractor]:
    preset = PRESETS.get(source)
    if preset is None and source not in TABLE and ":" not in source:
        known = [*PRESETS, *TABLE]
        raise UnknownName(
            f'"{source}" is neither a run nor a network{nearest_name(source, known)}; known: '
            f"{', '.join(sorted(known))}; or give your own as package.module:callable"
        )
    if weights is None and not random_weights:
        raise InvalidArgument(
            f'"{source}" without weights gives features of random numbers: name a file of trained '
            "weights with --weights, or say --random-weights if random ones are what you want"
        )
    if weights is not None and random_weights:
        raise InvalidArgument("--weights and --random-weights exclude each other; give one")
    truncate, scale, classes = False, DEFAULT_CROP_SCALE, None
    if preset is not None:
        if content not in (None, preset.stream.input):
            raise InvalidArgument(f"{source} looks at {preset.stream.input}, not at {content}")
        for recipe in map(cache.recipes.get, {row.recipe for row in cache.rows()}):
            if isinstance(recipe, FlowRecipe):
                preset.check(recipe)
        network, stream = preset.model, preset.stream
        truncate, scale, classes = preset.truncate_flow, preset.crop_scale, preset.num_classes
    else:
        network = source
        stream = _stream_of_model(source, content or "rgb", parameters, clip)
    stream = replace(
        stream, crop_size=crop_size or stream.crop_size, fps=fps if fps else stream.fps
    )
    if clip is not None and stream.layout != "CHW":
        stream = replace(stream, frames=clip[0])
    if weights is not None:
        classes = _classes_in(weights, network, stream, parameters) or classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_for_clip(network, stream.clip_CTHW, num_classes=classes or 1, **parameters)
    if weights is not None:
        say(str(load_weights(model, weights)))
    else:
        say(f"{source}: random weights, seed {SEED}; these features mean nothing")
    extractor = FeatureExtractor(
        model,
        stream,
        network=network,
        parameters=parameters,
        crop_scale=scale if crop_scale is None else crop_scale,
        truncate_flow=truncate,
        **common,
    )
    return stream.input, "", extractor


def _stream_of_model(
    name: str, content: str, parameters: Mapping[str, Any], clip: tuple[int, int | None] | None
) -> StreamInput:
    """One frame, or ten flows, for a 2D network; snippets as they are asked for otherwise."""
    layout = input_layout(name, **parameters)
    if layout == "CHW":
        frames = 1 if content != "flow" else (clip[0] if clip else DEFAULT_FLOWS)
    elif clip is None:
        raise InvalidArgument(f'"{name}" takes clips; say how long, such as --clip 16,8')
    else:
        frames = clip[0]
    made = StreamInput(content, "rgb", frames, crop_size=DEFAULT_CROP_SIZE, layout=layout)
    return replace(made, input=content)  # type: ignore[arg-type]


def _classes_in(
    weights: Path, network: str, stream: StreamInput, parameters: Mapping[str, Any]
) -> int | None:
    """Classes of the classifier in a file of weights; None where it has none."""
    with torch.device("meta"):
        empty = build_for_clip(network, stream.clip_CTHW, num_classes=1, **parameters)
    kernel = read_state(weights).get(f"{empty.classifier_name}.weight")
    return None if kernel is None else int(kernel.shape[0])
