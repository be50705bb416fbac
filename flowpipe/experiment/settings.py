"""A TOML configuration as frozen dataclasses; unknown keys are refused with the nearest name."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flowpipe.cache import FlowRecipe
from flowpipe.clips.streams import FLOW_SCALE_PX, StreamInput
from flowpipe.config import apply_overrides, from_table, read_toml
from flowpipe.errors import ConfigError, InvalidArgument, nearest_name
from flowpipe.experiment.results import SETTINGS_FILE, read_run_file
from flowpipe.fusion import Method
from flowpipe.models import input_layout
from flowpipe.registry import refuse_foreign_code
from flowpipe.training import TestOptions, TrainOptions
from flowpipe.training.options import MOST_CLIPS

Form = Literal[
    "folders",
    "csv",
    "list",
    "ucf101",
    "hmdb51",
    "kinetics",
    "boris",
    "elan",
    "label-studio",
    "via",
    "activitynet",
]

# The head that is fitted to whole videos, not trained on clips.
SVM = "svm"
# Inputs of streams that need no network: what moves in a whole clip, and what its frames look like.
FLOW_HISTOGRAM, FRAME_HISTOGRAM = "flow-histogram", "frame-histogram"
SMALL_CNN = "small-cnn"
HISTOGRAMS = (FLOW_HISTOGRAM, FRAME_HISTOGRAM)
# Options of training that a stream may have of its own.
OWN_OPTIONS = ("epochs", "learning_rate", "clips_per_video")


def one_or_two(size: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return (height, width) of a size of two numbers, or of one for both."""
    if len(size) not in (1, 2) or min(size) < 1:
        raise InvalidArgument(f"{name} {list(size)} must be [height, width] in px, like [112, 112]")
    return size[0], size[-1]


@dataclass(frozen=True)
class DataSettings:
    """The videos and their labels; the table `[data]` of a configuration.

    Paths are relative to the configuration, `annotations` to `root`.

    Attributes
    ----------
    root : Path
        Folder of the videos.
    form : str, optional
        What the annotations are; found by looking where it is not given.
    annotations : Path, optional
        File of labels, or folder of official splits; by default annotations.csv or splits.csv in
        the root, else one folder for each class.
    video_column : str, optional
        Column of the videos in a CSV file.
    label_column : str, optional
        Column of the labels.
    label_separator : str, optional
        What separates the labels of a video that has several.
    skip_missing : bool
        Leave out videos that are listed and not there, or cannot be read, and say how many.
    generate : int, optional
        Videos that are made at the root first.
    generator : "textures" or "time-only"
        What is made: the videos of the quickstart (`datasets.synthetic`), or words and shapes of
        which no frame shows anything (`datasets.time_only`).
    fold_column : str, optional
        Column of the folds.
    folds : int, optional
        Folds to make at random, of whole groups.
    group_column : str, optional
        Column of what a split must keep together: an actor, a film.
    group_pattern : str, optional
        Regular expression whose match in a video's path names its group.
    test_fraction : float
        Share of test videos of a single random split.
    flip : bool or "auto"
        Whether an action in the mirror is the same action; "auto" looks whether names of classes
        ("left", "right") or mirrored clips say otherwise.
    cache : Path, optional
        Cache of flow and frames; by default in the run.
    features : Path, optional
        Store of cached features.
    """

    root: Path
    form: Form | None = None
    annotations: Path | None = None
    video_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    skip_missing: bool = False
    generate: int | None = None
    generator: Literal["textures", "time-only"] = "textures"
    fold_column: str | None = None
    folds: int | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    test_fraction: float = 0.25
    flip: bool | Literal["auto"] = "auto"
    cache: Path | None = None
    features: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise InvalidArgument(
                f"test_fraction {self.test_fraction} must be between 0 and 1; 0.25 is usual"
            )
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            raise InvalidArgument(
                f'group_pattern "{self.group_pattern}" must be a regular expression: {error}'
            ) from error


@dataclass(frozen=True)
class ExtractSettings:
    """How flow is computed; the table `[extract]`, arguments of `flowpipe.extract`.

    Attributes
    ----------
    flow : str
        The method: a name of the flow table, NAME+tvl1, or package.module:callable.
    flow_parameters : dict
        Of the method.
    short_side : int, optional
        Shorter side of the frames in px; by default as they are.
    size : tuple of int, optional
        Exact (height, width) in px.
    fps : float, optional
        Frames per second, taken by timestamp; by default all.
    storage : "u8", "i16" or "f16"
        Form of the stored flow.
    codec : "jpegls" or "zstd", optional
        The smallest, or the fastest to read.
    bound_px : float, optional
        Of u8: components beyond are clipped; 20 by default.
    tolerance_px : float
        Of i16: the largest error of a component.
    rgb_quality : int
        JPEG quality of the stored frames, 1 to 100.
    workers : int, optional
        Processes; by default one per core.
    cuts : bool
        Look for cuts between shots: flow over one is zero, and no clip leads over it.
    confidence : bool
        Keep beside the flow how far to trust it, which streams with `confidence` use.
    """

    flow: str = "tvl1"
    flow_parameters: dict[str, Any] = field(default_factory=dict)
    short_side: int | None = None
    size: tuple[int, ...] | None = None
    fps: float | None = None
    storage: Literal["u8", "i16", "f16"] = "u8"
    codec: Literal["jpegls", "zstd"] | None = None
    bound_px: float | None = None
    tolerance_px: float = 0.0
    rgb_quality: int = 95
    workers: int | None = None
    cuts: bool = False
    confidence: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `extract`.

        Raises
        ------
        InvalidArgument
            If the method is code that is not trusted: every way to it leads through here.
        """
        refuse_foreign_code([self.flow, self.flow_parameters], "the configuration of flow")
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**named, "size": None if self.size is None else one_or_two(self.size, "size")}

    def recipe(self) -> FlowRecipe:
        """Return the recipe of the flow that these arguments give."""
        arguments = self.arguments()
        del arguments["codec"], arguments["workers"]
        return FlowRecipe.make(**arguments)


@dataclass(frozen=True)
class StreamSettings:
    """One stream: what its network sees; the table `[streams.NAME]`.

    Attributes
    ----------
    input : str
        Frames, flow, differences of frames, both, cached features, or histograms of the flow or of
        the frames of whole clips (which need no network).
    model : str
        A name of the table of networks, or package.module:callable; of features, a head.
    model_parameters : dict
        Of the network.
    weights : Path, optional
        State dict to start from; public checkpoints are recognised. Of frame-histogram: that of a
        network of pictures, whose answer is weighed beside the histograms.
    weights_origin : str, optional
        Whose checkpoint it is, where two origins share names and shapes.
    features : tuple of str
        Names of cached features, side by side.
    frames : int
        Items of a clip: frames, flow fields or snippets.
    stride : int
        Items from one to the next within a clip.
    fps : float, optional
        Take the items at this rate by timestamp, in place of `stride`.
    crop_size : tuple of int
        (height, width) of the network's input in px.
    stacking : "plain", "bidirectional" or "trajectory"
        How fields of flow are stacked.
    mean_subtraction : bool
        Subtract each field's mean displacement.
    flow_scale_px : float or "auto"
        Flow is divided by this; "auto" takes the root mean square of the training videos' flow.
    rgb_range : "imagenet" or "symmetric"
        ImageNet's mean and deviation, or −1 to 1.
    untrusted : "keep" or "zero"
        Whether flow of little confidence is zero; [extract] confidence must be true then.
    epochs : int, optional
        In place of [train] epochs.
    learning_rate : float, optional
        In place of [train] learning_rate.
    clips_per_video : int, optional
        In place of [train] clips_per_video.
    """

    input: Literal[
        "rgb", "flow", "rgbdiff", "rgb+flow", "features", "flow-histogram", "frame-histogram"
    ]
    model: str = SMALL_CNN
    model_parameters: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_origin: str | None = None
    features: tuple[str, ...] = ()
    frames: int = 1
    stride: int = 1
    fps: float | None = None
    crop_size: tuple[int, ...] = (112, 112)
    stacking: Literal["plain", "bidirectional", "trajectory"] = "plain"
    mean_subtraction: bool = False
    flow_scale_px: float | Literal["auto"] = FLOW_SCALE_PX
    rgb_range: Literal["imagenet", "symmetric"] = "imagenet"
    untrusted: Literal["keep", "zero"] = "keep"
    epochs: int | None = None
    learning_rate: float | None = None
    clips_per_video: int | None = None

    def refuse_foreign_code(self, name: str) -> None:
        """Raise InvalidArgument where the network is code that nobody said to trust."""
        refuse_foreign_code([self.model, self.model_parameters], f'the stream "{name}"')

    def clip_input(self, name: str) -> StreamInput:
        """Return what the network looks at, of a stream on frames or flow; asks the network."""
        self.refuse_foreign_code(name)
        return StreamInput(
            name,
            self.input,  # type: ignore[arg-type]
            self.frames,
            frame_step=self.stride,
            crop_size=one_or_two(self.crop_size, "crop_size"),
            layout=input_layout(self.model, **self.model_parameters),
            stacking=self.stacking,
            mean_subtraction=self.mean_subtraction,
            fps=self.fps,
            # What "auto" stands for is known once flow is there; for checks before, any will do.
            flow_scale_px=FLOW_SCALE_PX if self.flow_scale_px == "auto" else self.flow_scale_px,
            rgb_range=self.rgb_range,
            untrusted=self.untrusted,
        )


@dataclass(frozen=True)
class FuseSettings:
    """How streams become one score; the table `[fuse]`.

    Attributes
    ----------
    headline : str
        The fusion whose accuracy is the run's.
    methods : tuple of str, optional
        Others to be shown beside it; by default logsum, average and, where each video has one
        label, svm.
    training_clips : int
        Clips of each training video that an SVM or weights are fitted to; 0 for none.
    groups : tuple of tuple of str
        Some of the streams, fused beside all of them.
    """

    headline: Method = "logsum"
    methods: tuple[Method, ...] | None = None
    training_clips: int = 2
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.training_clips <= MOST_CLIPS:
            raise InvalidArgument(
                f"training_clips {self.training_clips} must be in [0, {MOST_CLIPS}]; 0 is none"
            )

    def all_methods(self, several_labels: bool) -> tuple[str, ...]:
        """Return the headline and the others; by default those that can be made."""
        learning = self.training_clips > 0 and not several_labels
        usual = ("logsum", "average", *(("svm",) if learning else ()))
        return tuple(
            dict.fromkeys((self.headline, *(usual if self.methods is None else self.methods)))
        )


@dataclass(frozen=True)
class PublishedSettings:
    """What others have reached, to stand beside the results; the table `[published]`.

    Attributes
    ----------
    source : str
        Where it is published.
    accuracy : dict
        Stream or fusion → top-1 accuracy, a share: `spatial = 0.73`.
    """

    source: str = ""
    accuracy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, share in self.accuracy.items():
            if not 0 <= share <= 1:
                raise InvalidArgument(f'[published] accuracy of "{name}", {share}, must be 0 to 1')
        if self.accuracy and not self.source:
            raise InvalidArgument("[published] needs a source: the paper, and its table")


@dataclass(frozen=True)
class Settings:
    """A whole configuration."""

    data: DataSettings
    streams: dict[str, StreamSettings]
    title: str = ""
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    train: TrainOptions = field(default_factory=TrainOptions)
    test: TestOptions = field(default_factory=TestOptions)
    fuse: FuseSettings = field(default_factory=FuseSettings)
    published: PublishedSettings = field(default_factory=PublishedSettings)

    def __post_init__(self) -> None:
        if not self.streams:
            raise ConfigError("no stream: a table [streams.spatial] or [streams.temporal]")
        for name in self.streams:
            if not name.replace("-", "").replace("_", "").isalnum() or name == "fused":
                raise ConfigError(f'stream "{name}" must be of letters, digits, - and _')
        for name, stream in self.streams.items():
            self._check_features(name, stream)
            self.train_options(name)
            one_or_two(stream.crop_size, f'stream "{name}": crop_size')
        if (
            "validated" in (self.fuse.headline, *(self.fuse.methods or ()))
            and not self.train.validation
        ):
            raise ConfigError(
                "fusion validated needs videos held out to choose by: set [train] validation = 0.2"
            )
        if self.train.patience and not self.train.validation:
            raise ConfigError(
                f"[train] patience {self.train.patience} needs videos held out to judge by: set "
                "[train] validation = 0.2"
            )
        for group in self.fuse.groups:
            if len(set(group)) < 2 or len(set(group)) < len(group):
                raise ConfigError(f"[fuse] group {list(group)} must be of two streams or more")
            for name in group:
                if name not in self.streams:
                    raise ConfigError(
                        f'[fuse] group {list(group)}: no stream "{name}"'
                        f"{nearest_name(name, self.streams)}"
                    )

    def _check_features(self, name: str, stream: StreamSettings) -> None:
        if stream.untrusted == "zero" and not self.extract.confidence:
            raise ConfigError(
                f'stream "{name}": untrusted "zero" needs the confidence of flow: set [extract] '
                "confidence = true"
            )
        if stream.input in HISTOGRAMS and stream.model != SMALL_CNN:
            raise ConfigError(
                f'stream "{name}": {stream.input} has no network, and model is "{stream.model}"; '
                'input = "rgb" or "flow" is for networks'
            )
        if stream.input == FLOW_HISTOGRAM and stream.weights is not None:
            raise ConfigError(f'stream "{name}": {stream.input} has no network to give weights to')
        if stream.input in HISTOGRAMS and self.train.loss == "sigmoid":
            raise ConfigError(f'stream "{name}": {stream.input} gives each video one class')
        if (stream.input == "features") != bool(stream.features):
            raise ConfigError(
                f'stream "{name}": input "{stream.input}" and features {list(stream.features)}: '
                'input = "features" needs features = ["NAME", …], and nothing else has them'
            )
        if stream.input == "features" and self.data.features is None:
            raise ConfigError(
                f'stream "{name}": set [data] features to the store that flowpipe features filled'
            )

    def to_json(self) -> str:
        """Return the settings as JSON, to stand beside a run."""
        return json.dumps(asdict(self), default=str, indent=2)

    def train_options(self, name: str) -> TrainOptions:
        """Return how a stream is trained: `[train]`, and what the stream has of its own."""
        own = {key: getattr(self.streams[name], key) for key in OWN_OPTIONS}
        given = {key: value for key, value in own.items() if value is not None}
        return replace(self.train, **given)

    @property
    def needs_flow(self) -> bool:
        """Whether any stream reads the cache of flow and frames."""
        return any(stream.input != "features" for stream in self.streams.values())

    def extract_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `extract`."""
        backward = any(stream.stacking == "bidirectional" for stream in self.streams.values())
        return {**self.extract.arguments(), "rgb": True, "backward": backward}

    def only(self, stream: str | None) -> "Settings":
        """Keep one stream."""
        if stream is None:
            return self
        if stream not in self.streams:
            raise ConfigError(
                f'no stream "{stream}"{nearest_name(stream, self.streams)}; '
                f"there are: {', '.join(self.streams)}"
            )
        return replace(
            self, streams={stream: self.streams[stream]}, fuse=replace(self.fuse, groups=())
        )


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a TOML configuration; its paths become absolute.

    Raises
    ------
    ConfigError
        For an unreadable file, an unknown key (the nearest is named) or a value of a wrong kind.
    """
    table = read_toml(path)
    apply_overrides(table, overrides)
    return settings_from(table, where=path.name, folder=path.parent)


def read_run_settings(out: Path) -> Settings:
    """Return the settings of a run.

    Raises
    ------
    ConfigError
        If there is no run in the folder.
    """
    table = _without_none(read_run_file(out, SETTINGS_FILE))
    return settings_from(table, where=str(out / SETTINGS_FILE), folder=out)


def _without_none(table: Any) -> Any:
    """TOML has no null: a key that is absent stands for None."""
    if isinstance(table, dict):
        return {key: _without_none(value) for key, value in table.items() if value is not None}
    return table


def as_weights_compute(settings: Settings) -> Settings:
    """Return settings whose networks compute as the origins of their initial weights do.

    The parameters that this takes come before none of the configuration's own.
    """
    from flowpipe.models.weights import variant_parameters

    streams = dict(settings.streams)
    for name, stream in streams.items():
        if stream.weights is not None and stream.input not in HISTOGRAMS:
            variant = variant_parameters(stream.model, stream.weights, origin=stream.weights_origin)
            # As they are read again from the run.
            variant = json.loads(json.dumps(variant))
            streams[name] = replace(stream, model_parameters=variant | stream.model_parameters)
    return replace(settings, streams=streams)


def settings_from(table: Mapping[str, Any], *, where: str, folder: Path) -> Settings:
    """Check a table of settings; relative paths are taken from `folder`."""
    settings = from_table(Settings, table, where=where)
    folder = folder.resolve()
    root = (folder / settings.data.root).resolve()
    data = replace(
        settings.data,
        root=root,
        annotations=None if settings.data.annotations is None else root / settings.data.annotations,
        cache=None if settings.data.cache is None else folder / settings.data.cache,
        features=None if settings.data.features is None else folder / settings.data.features,
    )
    streams = {
        name: stream if stream.weights is None else replace(stream, weights=folder / stream.weights)
        for name, stream in settings.streams.items()
    }
    return replace(settings, data=data, streams=streams)
