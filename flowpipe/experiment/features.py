"""From what a person names, a run, a network or flow histograms, to extractors of features."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowpipe.clips.streams import INPUTS
from flowpipe.errors import ConfigError, InvalidArgument, nearest_name
from flowpipe.experiment.experiment import Experiment
from flowpipe.features import histogram
from flowpipe.features.extractor import Extractor, FeatureExtractor, FrozenNetwork
from flowpipe.features.options import FeatureOptions, WantedInput
from flowpipe.features.presets import PRESETS, named_network


@dataclass(frozen=True)
class NetworkChoice:
    """Which network is meant, beside its name; each field goes with one kind of name.

    Attributes
    ----------
    stream : str, optional
        Of a run. [default: its only one]
    fold : str, optional
        Of a run; "all": each. [default: the first]
    weights : dict of str to Path
        Of a network, by what it looks at ("rgb", "flow"); "": by `contents`, or by default.
    origin : str, optional
        Of the weights, where several origins have such files; "flowpipe": one's own.
    random_weights : bool
        Of a network: random ones are wanted.
    contents : tuple of str
        What a network looks at: "rgb", "flow", "rgbdiff". [default: rgb]
    parameters : dict
        A parameter of the network.
    """

    stream: str | None = None
    fold: str | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    origin: str | None = None
    random_weights: bool = False
    contents: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse the fields that do not go with the kind of name."""
        if used := tuple(name for name in names if getattr(self, name)):
            raise InvalidArgument(f"{', '.join(used)}: {why}", parameter=used)

    def networks(self) -> list[tuple[Any, Path | None]]:
        """Return (what it looks at, or None for the default; file of weights) of each network."""
        named = {content: path for content, path in self.weights.items() if content}
        if named and (self.contents or "" in self.weights):
            raise InvalidArgument(
                f"weights of {', '.join(named)} say what their networks look at; give no more",
                parameter=("weights", "contents"),
            )
        if named:
            return list(named.items())
        if len(self.contents) > 1 and self.weights:
            raise InvalidArgument(
                f"one file of weights for {' and '.join(self.contents)}; give one for each",
                parameter="weights",
            )
        return [(content, self.weights.get("")) for content in self.contents or (None,)]


OF_RUN = ("stream", "fold")
OF_NETWORK = ("weights", "origin", "random_weights", "contents", "parameters")


def extractors_of(
    source: str,
    choice: NetworkChoice,
    layer: str | None = None,
    options: FeatureOptions | None = None,
    *,
    name: str | None = None,
    whole_video: bool = False,
    published: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, Extractor]]:
    """Yield (name of the features, extractor): several for fold "all", or several weights.

    Parameters
    ----------
    source : str
        Folder of a run, name of a network, or "flow-histogram".
    choice : NetworkChoice
    layer : str, optional
        The layer whose output is kept.
    options : FeatureOptions, optional
    name : str, optional
        What the features are called; by default the stream, the input, or "flow-histogram".
    whole_video : bool
        Flow histograms only: each video is one snippet.
    published : bool
        Of a network that was published for frames and for flow ("i3d"), take the published input;
        where nothing says which, both.
    device : "auto", "cpu" or "cuda"
    say : callable
        Called with what became of the weights.

    Raises
    ------
    InvalidArgument, UnknownName
        For options that do not go with the source, or a source that is nothing known.
    """
    options = options or FeatureOptions()
    if whole_video and source != histogram.NAME:
        raise InvalidArgument(
            f"{source} takes snippets of a length; {histogram.NAME} alone takes whole videos",
            parameter="clip",
        )
    if Path(source).is_dir():
        choice.refuse(OF_NETWORK, f"the run {source} has its own")
        for found, suffix, network in run_networks(Path(source), choice.stream, choice.fold):
            yield (name or found) + suffix, FeatureExtractor(network, layer, options, device=device)
        return
    if Path(source).is_file():
        raise InvalidArgument(f"{source} is no network; name the folder of a run, or a network")
    choice.refuse(OF_RUN, f'they belong to a run, and "{source}" is no directory')
    if source == histogram.NAME:
        choice.refuse(OF_NETWORK[:4], "histograms of flow have no weights")
        yield name or source, _histogram(options, layer, whole_video, choice.parameters)
        return
    pair = published and f"{source}-flow" in PRESETS
    if pair and choice.random_weights and not choice.contents:
        choice = replace(choice, contents=("rgb", "flow"))
    for content, weights in choice.networks():
        preset = f"{source}-{content or 'rgb'}"
        network = named_network(
            preset if pair and preset in PRESETS else source,
            options,
            weights=weights,
            origin=choice.origin,
            random_weights=choice.random_weights,
            content=content,
            parameters=choice.parameters,
            say=say,
        )
        own = network.stream.input
        suffix = "" if name is None or len(choice.networks()) == 1 else f"-{own}"
        yield (name or own) + suffix, FeatureExtractor(network, layer, options, device=device)


def run_networks(
    run: Path, stream: str | None = None, fold: str | None = None
) -> Iterator[tuple[str, str, FrozenNetwork]]:
    """Yield (stream, what is added to its name, network) of a finished run, as it was trained.

    Parameters
    ----------
    run : Path
    stream : str, optional
        By default the only one on flow or frames.
    fold : str, optional
        By default the first; "all": each in turn, and "-FOLD" is added to its name.

    Raises
    ------
    InvalidArgument, ConfigError
        If the run has no such stream or fold.
    """
    experiment = Experiment.of_run(run)
    settings, results = experiment.settings, experiment.results
    usable = [name for name, stream in settings.streams.items() if stream.input in INPUTS]
    if stream is None and len(usable) != 1:
        raise InvalidArgument(
            f"{run} has the streams {', '.join(usable)}; choose one", parameter="stream"
        )
    name = stream or usable[0]
    if name not in usable:
        raise InvalidArgument(
            f'{run} has no stream "{name}" on flow or frames{nearest_name(name, usable)}; it has '
            f"{', '.join(usable)}",
            parameter="stream",
        )
    folds = [str(row["fold"]) for row in results["folds"]]
    if fold not in (None, "all", *folds):
        raise ConfigError(
            f'{run} has no fold "{fold}"{nearest_name(str(fold), folds)}; it has '
            f"{', '.join(folds)}",
            parameter="fold",
        )
    trained, num_classes = settings.streams[name], len(results["classes"])
    extracted = settings.extract.recipe()
    wanted = WantedInput(fps=extracted.fps, recipe=extracted)
    if trained.clip_input(name).input == "flow":
        wanted = replace(
            wanted,
            flow=extracted.flow,
            known_flows=(extracted.flow,),
            flow_parameters=extracted.flow_parameters,
        )
    for chosen in folds if fold == "all" else [fold or folds[0]]:
        yield (
            name,
            f"-{chosen}" if fold == "all" else "",
            FrozenNetwork(
                experiment.trained(experiment.stream(name, chosen), chosen, num_classes),
                trained.clip_input(name),
                trained.model,
                trained.model_parameters,
                settings.test.crop_scale,
                wanted=wanted,
                weights=f"the run {run}, fold {chosen}",
            ),
        )


def _histogram(
    options: FeatureOptions, layer: str | None, whole_video: bool, parameters: Mapping[str, Any]
) -> histogram.FlowHistogram:
    plain = FeatureOptions(options.frames, options.clip_step, storage=options.storage)
    if layer is not None or options != plain:
        raise InvalidArgument(
            f"{histogram.NAME} counts whole fields as they are cached: it has no layers, crops, "
            "maps or rate of its own"
        )
    unknown = [name for name in parameters if name not in histogram.PARAMETERS]
    if unknown:
        raise InvalidArgument(
            f'{histogram.NAME} has no parameter "{unknown[0]}"'
            f"{nearest_name(unknown[0], histogram.PARAMETERS)}; it has "
            f"{', '.join(histogram.PARAMETERS)}",
            parameter="parameters",
        )
    values: dict[str, Any] = {**parameters, "storage": options.storage}
    if "grid" in values:
        values["grid"] = tuple(values["grid"])
    if whole_video:
        values |= {"frames": None}
    elif options.frames is not None:
        values |= {"frames": options.frames, "clip_step": options.clip_step}
    return histogram.FlowHistogram(histogram.HistogramOptions(**values))
