"""Clips of a cache for training and testing: torch data sets.

A *stream* is what one network looks at (`StreamInput`, `FeatureInput`). A sample gives every
stream the same instants and the same box of the same video. It leaves the worker as the codes of
the cache (uint8, int16 or float16, a quarter to a half of float32's bytes); `to_network_input`
turns a batch into float32 on the device where it lies.

Nothing here has a random state: sample i of epoch e is drawn with
`numpy.random.default_rng([seed, e, i])`, so that neither the number of workers nor an
interruption changes what a training sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from flowpipe.clips import transforms
from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.order import EpochSampler, check_seed, class_balanced_weights
from flowpipe.clips.parts import FramesPart, shot_around
from flowpipe.clips.sampling import ShortRule, segment_starts, test_starts
from flowpipe.clips.streams import (
    AnyInput,
    CacheLike,
    FeatureInput,
    QuantiserLike,
    StreamInput,
)
from flowpipe.clips.transforms import CropChoice, TestCrops, View
from flowpipe.datasets.video import Video
from flowpipe.errors import AnnotationError, CacheError, InvalidArgument, nearest_name

__all__ = [
    "ClipDataset",
    "EpochSampler",
    "FeatureInput",
    "StreamInput",
    "TestClips",
    "class_balanced_weights",
    "to_network_input",
]

Sample = dict[str, Any]
Sampling = Literal["random", "segments"]


class _Clips(TorchDataset[Sample]):
    """What training and test clips share: videos, cache, streams, reading."""

    def __init__(
        self,
        records: Sequence[Video],
        cache: CacheLike,
        streams: Sequence[AnyInput],
        *,
        classes: Sequence[str],
        short: ShortRule,
    ) -> None:
        if not records:
            raise AnnotationError("no video is given; at least one is needed")
        if not streams:
            raise InvalidArgument("no stream is given; at least one is needed")
        names = [stream.name for stream in streams]
        if len(set(names)) != len(names):
            raise InvalidArgument(f"stream names {', '.join(names)} must differ")
        if short not in get_args(ShortRule):
            raise InvalidArgument(f'short "{short}" must be "repeat-last" or "loop"')
        self.records = tuple(records)
        self.cache: Any = cache
        self.streams = tuple(streams)
        self.classes = tuple(classes)
        self.short: ShortRule = short
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.record_labels = np.array(
            [_label_number(record.label, record.id, numbers) for record in self.records],
            dtype=np.int64,
        )
        self._quantiser: QuantiserLike | None = None

    @property
    def record_targets(self) -> NDArray[np.bool_] | None:
        """Which classes each record has, N×K; None where none has several labels."""
        return label_matrix(self.records, self.classes)

    @property
    def quantiser(self) -> QuantiserLike:
        """How the flow codes of every sample turn into pixels (that of the first record)."""
        if self._quantiser is None:
            self._quantiser = self.cache[self.records[0].id].quantiser
        return self._quantiser

    def _open(self, record: Video) -> Any:
        entry = self.cache[record.id]
        if any(stream.has_flow for stream in self.streams):
            mine, first = entry.quantiser, self.quantiser
            if mine != first:
                raise CacheError(
                    f'"{record.id}": flow is stored as {mine}, but "{self.records[0].id}" as '
                    f"{first}; one batch cannot hold both: extract all videos with one recipe"
                )
        return entry

    def _centres(self, entry: Any) -> tuple[int, int]:
        """Return `[first, stop)` of the centres that suit all streams; never empty."""
        ranges = [stream.centres(entry) for stream in self.streams]
        first = max(start for start, _ in ranges)
        stop = min(stop for _, stop in ranges)
        return first, max(stop, first + 1)

    def _sample(self, position: int, entry: Any, centre: int, views: Sequence[Any]) -> Sample:
        """Return the clips of all streams, V × clip each, with label and index.

        In a video with cuts they are of one shot: that of the centre, moved as little as needed.
        """
        record = self.records[position]
        cuts = getattr(entry, "cuts", ())  # features have none
        shot = shot_around(centre, entry.num_frames, cuts) if len(cuts) else None

        def backward() -> Any:
            turned = self.cache.backward(record.id)
            return turned if shot is None else FramesPart(turned, *shot)

        if shot is not None:
            entry = FramesPart(entry, *shot)
            first, stop = self._centres(entry)
            centre = min(max(centre - shot[0], first), stop - 1)
        clips: Sample = {
            stream.name: torch.from_numpy(stream.clips(entry, centre, views, self.short, backward))
            for stream in self.streams
        }
        return clips | {"label": int(self.record_labels[position]), "index": position}


class ClipDataset(_Clips):
    """Training clips: one random instant, box and flip per item, alike for all streams.

    Item i of the epoch is a clip of record `i % len(records)`; it is drawn with
    `default_rng([seed, epoch, i])`. An index is i (the epoch is that of `set_epoch`), or the
    pair `(epoch, i)` that `EpochSampler` gives, which works with persistent workers as well;
    in a pair i may exceed the length, for further draws of the same record.

    Parameters
    ----------
    records : sequence of Video
        Videos; each must have a label.
    cache : Cache
        `cache[record.id]` gives the video's entry.
    streams : sequence of StreamInput, or of FeatureInput
        Their inputs must have one aspect ratio if their boxes are to keep it; the box is drawn
        for the first stream.
    classes : sequence of str
        Class names; the label in a sample is the position.
    seed : int
    training : bool
        False: the middle of the video, the central box of the first scale, no flip.
    clips_per_video : int
        Items per record and epoch.
    sampling : {"random", "segments"}
        Where in its video a training clip lies: anywhere, or, of K = `clips_per_video` clips, the
        k-th in the k-th of K equal parts (Wang et al. 2016, TSN)::

            K 3, one item of 9     fxxfxxxxf     one draw from each third
    scales, max_distortion, crop, flip
        See `transforms.draw_view`.
    short : {"repeat-last", "loop"}
        What stands for frames past the end of a short video.

    Raises
    ------
    AnnotationError
        If a record has no label or one that is not among the classes.
    InvalidArgument
        If streams or numbers break their rule.

    References
    ----------
    Wang et al. (2016), Temporal Segment Networks, doi:10.1007/978-3-319-46484-8_2.
    """

    def __init__(
        self,
        records: Sequence[Video],
        cache: CacheLike,
        streams: Sequence[AnyInput],
        *,
        classes: Sequence[str],
        seed: int = 0,
        training: bool = True,
        clips_per_video: int = 1,
        sampling: Sampling = "random",
        scales: Sequence[float] = transforms.TSN_SCALES,
        max_distortion: int = 1,
        crop: CropChoice = "corners",
        flip: bool = True,
        short: ShortRule = "repeat-last",
    ) -> None:
        super().__init__(records, cache, streams, classes=classes, short=short)
        unlabelled = [r.id for r in self.records if r.label is None]
        if unlabelled:
            raise AnnotationError(
                f'{len(unlabelled)} videos without a label, the first is "{unlabelled[0]}"; '
                "training needs a label for each"
            )
        if clips_per_video < 1:
            raise InvalidArgument(f"clips_per_video {clips_per_video} must be ≥ 1")
        if sampling not in get_args(Sampling):
            raise InvalidArgument(
                f'sampling "{sampling}"{nearest_name(sampling, get_args(Sampling))} must be one of '
                f"{', '.join(get_args(Sampling))}"
            )
        check_seed(seed)
        self.seed = seed
        self.epoch = 0
        self.training = training
        self.clips_per_video = clips_per_video
        self.sampling = sampling
        self.scales = tuple(scales)
        self.max_distortion = max_distortion
        self.crop = crop
        self.flip = flip
        # Wrong settings are better met here than in a worker.
        self._draw_view(None, np.random.default_rng(0))

    def __len__(self) -> int:
        return len(self.records) * self.clips_per_video

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class number of every item, for balanced sampling."""
        return np.tile(self.record_labels, self.clips_per_video)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of plain integer indices."""
        if epoch < 0:
            raise InvalidArgument(f"epoch {epoch} must be ≥ 0")
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        if isinstance(key, tuple):
            epoch, item = key
        else:
            epoch, item = self.epoch, key
            if not 0 <= item < len(self):
                raise IndexError(f"item {item} must be in [0, {len(self)})")
        position = item % len(self.records)
        entry = self._open(self.records[position])
        rng = np.random.default_rng([self.seed, epoch, item])
        centre = self._draw_centre(entry, item, rng)
        sample = self._sample(position, entry, centre, [self._draw_view(entry, rng)])
        return sample | {stream.name: sample[stream.name][0] for stream in self.streams}

    def _draw_centre(self, entry: Any, item: int, rng: np.random.Generator) -> int:
        first, stop = self._centres(entry)
        if not self.training:
            return (first + stop - 1) // 2
        if self.sampling == "random":
            return int(rng.integers(first, stop))
        part = item // len(self.records) % self.clips_per_video
        return first + int(segment_starts(stop - first, 1, self.clips_per_video, rng)[part])

    def _draw_view(self, entry: Any, rng: np.random.Generator) -> View | None:
        return self.streams[0].draw_view(
            entry,
            rng,
            scales=self.scales if self.training else self.scales[:1],
            max_distortion=self.max_distortion,
            crop=self.crop if self.training else "center",
            flip=self.flip and self.training,
        )


class TestClips(_Clips):
    """Test clips: S equally spaced instants per video, each under all test crops.

    Item i is clip `i % clips` of record `i // clips`. A stream's tensor has the crops in front:
    V×C×H×W for layout "CHW"; flatten batch and crops before the network.

    Parameters
    ----------
    records, cache, streams, classes, short
        As for `ClipDataset`; a record without a label gets label −1.
    clips : int
        Clips per video (S).
    crops, crop_scale, flip
        See `transforms.make_test_views`.

    References
    ----------
    Simonyan and Zisserman (2014), section 5, arXiv:1406.2199: 25 clips × 10 crops.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    def __init__(
        self,
        records: Sequence[Video],
        cache: CacheLike,
        streams: Sequence[AnyInput],
        *,
        classes: Sequence[str],
        clips: int = 25,
        crops: TestCrops = "ten",
        crop_scale: float = 0.875,
        flip: bool = False,
        short: ShortRule = "repeat-last",
    ) -> None:
        super().__init__(records, cache, streams, classes=classes, short=short)
        if clips < 1:
            raise InvalidArgument(f"clips {clips} must be ≥ 1; 25 is the two-stream protocol")
        self.clips = clips
        self.crops = crops
        self.crop_scale = crop_scale
        self.flip = flip
        self.num_views = len(self._views(None))

    def __len__(self) -> int:
        return len(self.records) * self.clips

    @property
    def protocol(self) -> dict[str, Any]:
        """What is stored beside the scores."""
        return {
            "clips": self.clips,
            "crops": self.crops,
            "crop_scale": self.crop_scale,
            "flip": self.flip,
            "views": self.num_views,
            "short": self.short,
        }

    def _views(self, entry: Any) -> Sequence[Any]:
        return self.streams[0].test_views(
            entry, crops=self.crops, scale=self.crop_scale, flip=self.flip
        )

    def __getitem__(self, item: int) -> Sample:
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} must be in [0, {len(self)})")
        position, clip = divmod(item, self.clips)
        entry = self._open(self.records[position])
        first, stop = self._centres(entry)
        centre = first + int(test_starts(stop - first, 1, self.clips)[clip])
        return self._sample(position, entry, centre, self._views(entry)) | {"clip": clip}


def label_matrix(records: Sequence[Video], classes: Sequence[str]) -> NDArray[np.bool_] | None:
    """Return which classes each record has, N×K; None where no record has several labels."""
    if not any(len(record.labels) > 1 for record in records):
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    targets_NK = np.zeros((len(records), len(classes)), dtype=np.bool_)
    for row, record in enumerate(records):
        for label in record.labels:
            targets_NK[row, _label_number(label, record.id, numbers)] = True
    return targets_NK


def _label_number(label: str | None, record_id: str, numbers: Mapping[str, int]) -> int:
    if label is None:
        return -1
    if label not in numbers:
        raise AnnotationError(
            f'"{record_id}": label "{label}" is not among the {len(numbers)} '
            f"classes{nearest_name(label, numbers)}"
        )
    return numbers[label]
