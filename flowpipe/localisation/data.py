"""From annotations and videos, or their features, to samples; what is missing is computed."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.cache import Cache, FlowRecipe, open_cache
from flowpipe.datasets import Video
from flowpipe.errors import AnnotationError, CacheNotFound, EntryNotFound, InvalidArgument
from flowpipe.extraction import extract
from flowpipe.features.align import align
from flowpipe.features.computing import compute_features
from flowpipe.features.histogram import FlowHistogram, HistogramOptions
from flowpipe.localisation.annotations import Annotations, names_in, read_annotations
from flowpipe.localisation.timeline import Sample
from flowpipe.runs import Progress
from flowpipe.video import find_videos

# Features that need no weights, and are computed where they are missing.
HISTOGRAMS = {
    "flow-histogram": HistogramOptions(),
    "flow-histogram-follow": HistogramOptions(follow=True),
}
TRAINING_NAMES = ("training", "train")
TEST_NAMES = ("validation", "val", "testing", "test")

Say = Callable[[str], None]
Told = Callable[[Progress], None]


@dataclass(frozen=True)
class DataSettings:
    """Where videos, annotations and features are; the table `[data]` of a configuration.

    Attributes
    ----------
    annotations : Path
        A file or folder that `read_annotations` reads.
    videos : Path, optional
        The folder of the videos; not needed where all features are in the cache.
    train, test : str, optional
        Subsets of the annotations. [default: training, or validation where there is a test
        subset; the next one]
    label_column : str
        Of EPIC-KITCHENS annotations.
    cache : Path, optional
        The flow cache. [default: RUN/cache]
    store : Path, optional
        The cache of features. [default: RUN/features]
    flow : str
        The flow method, where flow is missing.
    """

    annotations: Path
    videos: Path | None = None
    train: str | None = None
    test: str | None = None
    label_column: str = "verb"
    cache: Path | None = None
    store: Path | None = None
    flow: str = "dis"


@dataclass(frozen=True)
class LocalisationData:
    """What a localiser learns from and is tested on.

    Attributes
    ----------
    annotations : Annotations
        With instances clipped to their videos.
    train, test : list of Sample
        `test` may be empty.
    test_subset : str or None
    source : dict
        How the features came about, for new videos.
    paths : dict of str to Path
        The files of the videos that are on disk.
    """

    annotations: Annotations
    train: list[Sample]
    test: list[Sample]
    test_subset: str | None
    source: dict[str, Any]
    paths: dict[str, Path]


def find_annotations(folder: Path) -> Path:
    """Return the one annotation file in a folder.

    Raises
    ------
    AnnotationError
        If there is none, or several.
    """
    found = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.csv")]):
        try:
            read_annotations(path)
        except AnnotationError:
            continue
        found.append(path)
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        raise AnnotationError(
            f"{folder} holds {'several annotation files, ' + names if found else 'none'}; there "
            "must be of one of the forms that flowpipe localise eval lists, or name it"
        )
    return found[0]


def subsets_of(annotations: Annotations, data: DataSettings) -> tuple[str | None, str | None]:
    """Return the names of the training and the test subset; None: all videos, and none."""
    known = {name.lower(): name for name in annotations.subsets.values()}
    train = data.train or next((known[n] for n in TRAINING_NAMES if n in known), None)
    if train is None and {"validation"} < set(known):
        train = known["validation"]  # THUMOS'14 trains on its validation videos
    others = [known[n] for n in TEST_NAMES if n in known and known[n] != train]
    test = data.test or (others[0] if train and others else None)
    if train is not None and test is not None and train.lower() == test.lower():
        raise AnnotationError(f'train and test are both "{train}"; what is tested must not teach')
    return train, test


def load_data(
    data: DataSettings,
    features: Sequence[str],
    out: Path,
    *,
    workers: int | None = None,
    say: Say = lambda text: None,
    on_progress: Told | None = None,
) -> LocalisationData:
    """Read annotations and features; compute flow and histograms of flow that are missing.

    Videos of the annotations that are neither in the cache of features nor on disk are skipped,
    and counted in what is said.

    Raises
    ------
    AnnotationError, EntryNotFound, InvalidArgument
        If nothing is left, or features cannot be computed.
    """
    annotations = read_annotations(data.annotations, label_column=data.label_column)
    train, test = subsets_of(annotations, data)
    wanted = set(annotations.of_subset(train).videos)
    if not len(annotations.of_videos(wanted).segments):
        raise AnnotationError(f"the training videos of {data.annotations} have no instance")
    if test is not None:
        wanted |= set(annotations.of_subset(test).videos)
    annotations = annotations.of_videos(wanted)
    store = data.store or out / "features"
    files = {} if data.videos is None else _files_of(annotations.videos, data.videos)
    source = ensure_features(
        list(files.values()),
        features,
        data.cache or out / "cache",
        store,
        flow=data.flow,
        workers=workers,
        say=say,
        on_progress=on_progress,
    )
    samples = {
        sample.video: sample
        for sample in samples_of(store, features, annotations.videos, annotations.durations_s)
    }
    missing = [video for video in annotations.videos if video not in samples]
    if missing:
        say(
            f"{len(missing)} of {len(annotations.videos)} annotated videos are missing, such as "
            f"{missing[0]}; they are left out"
        )
    annotations = annotations.of_videos(samples)
    annotations, clipped, dropped = annotations.clipped({v: s.end_s for v, s in samples.items()})
    if clipped or dropped:
        say(
            f"{clipped} instances were cut at the ends of their videos; {dropped} without length "
            "or outside were dropped"
        )
    training = [samples[v] for v in annotations.of_subset(train).videos]
    testing = [] if test is None else [samples[v] for v in annotations.of_subset(test).videos]
    if not training:
        raise AnnotationError(f"no training video of {data.annotations} has features")
    paths = {name: video.path for name, video in files.items()}
    return LocalisationData(annotations, training, testing, test, source, paths)


def ensure_features(
    videos: Sequence[Video],
    features: Sequence[str],
    cache: Path,
    store: Path,
    *,
    flow: str | FlowRecipe = "dis",
    workers: int | None = None,
    say: Say = lambda text: None,
    on_progress: Told | None = None,
) -> dict[str, Any]:
    """Compute histograms of flow, and the flow they need, where they are missing.

    Returns
    -------
    dict
        How the features come about, as JSON has it: of new videos the same is computed by it.

    Raises
    ------
    InvalidArgument
        If other features are missing, or features lie under a name but no video is given.
    """
    known = open_cache(store).networks if store.exists() else {}
    unknown = [name for name in features if name not in HISTOGRAMS and name not in known]
    if unknown:
        raise InvalidArgument(
            f'{store} has no features "{unknown[0]}"; flowpipe features computes those of a '
            f"network, {' and '.join(HISTOGRAMS)} are computed by themselves",
            parameter="features",
        )
    needed = [name for name in features if name in HISTOGRAMS]
    if not needed or not videos:
        return {}
    recipe = flow if isinstance(flow, FlowRecipe) else FlowRecipe.make(flow)
    lacking = {name: _lacking(store, name, videos) for name in needed}
    if any(lacking.values()):
        say(f"flow ({recipe.flow}) and {', '.join(needed)} of {len(videos)} videos")
        done = extract(list(videos), cache, recipe, workers=workers, on_progress=on_progress)
        for failure in done.failures:
            say(f"note: {failure.name}: {failure.reason}")
        flows = open_cache(cache, recipe=recipe.id)
        for name, missing in lacking.items():
            if missing:
                compute_features(FlowHistogram(HISTOGRAMS[name]), flows, store, name=name)
    return {
        "flow": json.loads(recipe.to_json()),
        "histograms": {name: asdict(HISTOGRAMS[name]) for name in needed},
    }


def samples_of(
    store: Path,
    features: Sequence[str],
    videos: Sequence[str],
    durations_s: dict[str, float] | Any = None,
) -> list[Sample]:
    """Read the samples of those videos that have all features, on one grid of time."""
    opened = _open(store)
    networks = [opened.select(name) for name in features]
    names = names_in(networks[0].names(), videos)
    samples = []
    for video in videos:
        if video not in names:
            continue
        try:
            entries = [network[names[video]] for network in networks]
        except EntryNotFound:
            continue
        end_s = (durations_s or {}).get(video)
        samples.append(Sample.of(video, align(entries), end_s))
    return samples


def widths_of(store: Path, features: Sequence[str]) -> tuple[int, ...]:
    """Return how many numbers each of the features has per snippet."""
    opened = _open(store)
    widths = []
    for name in features:
        network = opened.select(name)
        widths.append(int(network[network.names()[0]].features.shape[1]))
    return tuple(widths)


def _open(store: Path) -> Cache:
    try:
        return open_cache(store)
    except CacheNotFound as error:
        raise InvalidArgument(
            f"no features at {store}, and no folder of videos to compute them of; name one",
            parameter="videos",
        ) from error


def _lacking(store: Path, name: str, videos: Iterable[Video]) -> list[str]:
    """Return the videos without these features."""
    if not store.exists():
        return [video.id for video in videos]
    opened = open_cache(store)
    if name not in opened.networks:
        return [video.id for video in videos]
    here = set(opened.select(name).names())
    return [video.id for video in videos if video.id not in here]


def _files_of(annotated: Sequence[str], folder: Path) -> dict[str, Video]:
    """Return the video files of a folder that the annotations name, by that name."""
    paths = {path.relative_to(folder).as_posix(): path for path in find_videos(folder)}
    names = names_in(sorted(paths), annotated)
    return {name: Video(file, paths[file]) for name, file in names.items()}


def instances_line(lengths_s: Sequence[float]) -> str:
    """Return how long instances are, for people."""
    if not len(lengths_s):
        return "no instances"
    low, mid, high = np.quantile(np.asarray(lengths_s), (0.05, 0.5, 0.95))
    return f"{len(lengths_s)} instances, {low:.1f} to {high:.1f} s, half of them below {mid:.1f} s"
