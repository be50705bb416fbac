"""Clips of a cache for training and testing: torch data sets, samplers, network input.

A *stream* is what one network looks at (`StreamInput`). A sample gives every stream the same
instants and the same box of the same video. It leaves the worker as the codes of the cache
(uint8, int16 or float16, a quarter to a half of float32's bytes); `to_network_input` turns a
batch into float32 on the device where it lies.

Nothing here has a random state: sample i of epoch e is drawn with
`numpy.random.default_rng([seed, e, i])`, so that neither the number of workers nor an
interruption changes what a training sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from flowpipe.clips import sampling, transforms
from flowpipe.clips.order import EpochSampler, check_seed, class_balanced_weights
from flowpipe.clips.streams import (
    CacheLike,
    EntryLike,
    QuantiserLike,
    StreamInput,
    stream_centres,
    stream_indices,
)
from flowpipe.clips.transforms import CropChoice, TestCrops, View
from flowpipe.datasets.video import Video
from flowpipe.errors import AnnotationError, CacheError, InvalidArgument, nearest_name

__all__ = [
    "ClipDataset",
    "EpochSampler",
    "StreamInput",
    "TestClips",
    "class_balanced_weights",
    "to_network_input",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RGBDIFF_STD = 0.226

Sample = dict[str, Any]


class _Clips(TorchDataset[Sample]):
    """What training and test clips share: records, cache, streams, reading."""

    def __init__(
        self,
        records: Sequence[Video],
        cache: CacheLike,
        streams: Sequence[StreamInput],
        *,
        classes: Sequence[str],
        short: sampling.ShortRule,
    ) -> None:
        if not records:
            raise AnnotationError("no video is given; at least one is needed")
        if not streams:
            raise InvalidArgument("no stream is given; at least one is needed")
        names = [stream.name for stream in streams]
        if len(set(names)) != len(names):
            raise InvalidArgument(f"stream names {', '.join(names)} must differ")
        if short not in ("repeat-last", "loop"):
            raise InvalidArgument(f'short "{short}" must be "repeat-last" or "loop"')
        self.records = tuple(records)
        self.cache = cache
        self.streams = tuple(streams)
        self.classes = tuple(classes)
        self.short: sampling.ShortRule = short
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

    def _open(self, record: Video) -> EntryLike:
        entry = self.cache[record.id]
        if any(stream.has_flow for stream in self.streams):
            mine, first = entry.quantiser, self.quantiser
            if mine != first:
                raise CacheError(
                    f'"{record.id}": flow is stored as {mine}, but "{self.records[0].id}" as '
                    f"{first}; one batch cannot hold both: extract all videos with one recipe"
                )
        return entry

    def _centres(self, entry: EntryLike) -> tuple[int, int]:
        """Give `[first, stop)` of the centres that suit all streams; never empty."""
        ranges = [stream_centres(stream, entry) for stream in self.streams]
        first = max(start for start, _ in ranges)
        stop = min(stop for _, stop in ranges)
        return first, max(stop, first + 1)

    def _read(
        self, record: Video, entry: EntryLike, stream: StreamInput, centre: int
    ) -> NDArray[Any]:
        indices = stream_indices(stream, entry, centre, self.short)
        if stream.stacking == "bidirectional":
            half = stream.frames // 2
            past = self.cache.backward(record.id).flow.codes(indices[:half])
            return np.concatenate([past, entry.flow.codes(indices[half:])])
        return read_items(entry, stream.input, indices)

    def _clips(
        self,
        record: Video,
        entry: EntryLike,
        stream: StreamInput,
        centre: int,
        views: Sequence[View],
    ) -> torch.Tensor:
        """Give one clip under several views, read once."""
        parts = []
        for part in stream.parts:
            codes = self._read(record, entry, part, centre)
            parts.append(torch.stack([self._tensor(codes, view, part) for view in views]))
        # Frames and flow may be stored in different types; float32 holds either's codes.
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.float() for part in parts], stream.channel_axis)

    def _tensor(self, codes_TCHW: NDArray[Any], view: View, stream: StreamInput) -> torch.Tensor:
        if stream.input == "features":
            return torch.from_numpy(np.ascontiguousarray(codes_TCHW))
        assert stream.input != "rgb+flow"  # it comes in parts
        seen = transforms.apply_view(codes_TCHW, view, stream.crop_size, stream.input)
        return torch.from_numpy(np.ascontiguousarray(transforms.to_layout(seen, stream.layout)))


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
    streams : sequence of StreamInput
        Their inputs must have one aspect ratio if their boxes are to keep it; the box is drawn
        for the first stream.
    classes : sequence of str
        Class names; the label in a sample is the position.
    seed : int
    training : bool
        False: the middle of the video, the central box of the first scale, no flip.
    clips_per_video : int
        Items per record and epoch.
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
    """

    def __init__(
        self,
        records: Sequence[Video],
        cache: CacheLike,
        streams: Sequence[StreamInput],
        *,
        classes: Sequence[str],
        seed: int = 0,
        training: bool = True,
        clips_per_video: int = 1,
        scales: Sequence[float] = transforms.TSN_SCALES,
        max_distortion: int = 1,
        crop: CropChoice = "corners",
        flip: bool = True,
        short: sampling.ShortRule = "repeat-last",
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
        check_seed(seed)
        self.seed = seed
        self.epoch = 0
        self.training = training
        self.clips_per_video = clips_per_video
        self.scales = tuple(scales)
        self.max_distortion = max_distortion
        self.crop = crop
        self.flip = flip
        # Wrong settings are better met here than in a worker.
        self._draw_view((self.streams[0].crop_size), np.random.default_rng(0))

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
        first, stop = self._centres(entry)
        centre = int(rng.integers(first, stop)) if self.training else (first + stop - 1) // 2
        view = self._draw_view((entry.height, entry.width), rng)
        sample: Sample = {
            stream.name: self._clips(self.records[position], entry, stream, centre, [view])[0]
            for stream in self.streams
        }
        return sample | {"label": int(self.record_labels[position]), "index": position}

    def _draw_view(self, frame_size: tuple[int, int], rng: np.random.Generator) -> View:
        return transforms.draw_view(
            frame_size,
            self.streams[0].crop_size,
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
        streams: Sequence[StreamInput],
        *,
        classes: Sequence[str],
        clips: int = 25,
        crops: TestCrops = "ten",
        crop_scale: float = 0.875,
        flip: bool = False,
        short: sampling.ShortRule = "repeat-last",
    ) -> None:
        super().__init__(records, cache, streams, classes=classes, short=short)
        if clips < 1:
            raise InvalidArgument(f"clips {clips} must be ≥ 1; 25 is the two-stream protocol")
        self.clips = clips
        self.crops = crops
        self.crop_scale = crop_scale
        self.flip = flip
        self.num_views = len(self._views(self.streams[0].crop_size))

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

    def _views(self, frame_size: tuple[int, int]) -> list[View]:
        if self.streams[0].input == "features":
            return [View(0, 0, 1, 1)]
        return transforms.make_test_views(
            frame_size,
            self.streams[0].crop_size,
            crops=self.crops,
            scale=self.crop_scale,
            flip=self.flip,
        )

    def __getitem__(self, item: int) -> Sample:
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} must be in [0, {len(self)})")
        position, clip = divmod(item, self.clips)
        entry = self._open(self.records[position])
        first, stop = self._centres(entry)
        centre = first + int(sampling.test_starts(stop - first, 1, self.clips)[clip])
        views = self._views((entry.height, entry.width))
        sample: Sample = {
            stream.name: self._clips(self.records[position], entry, stream, centre, views)
            for stream in self.streams
        }
        label = int(self.record_labels[position])
        return sample | {"label": label, "index": position, "clip": clip}


def read_items(entry: EntryLike, content: str, indices: NDArray[np.int64]) -> NDArray[Any]:
    """Read items of a video, T×C×H×W: codes of flow, frames, or their differences.

    Indices may repeat, as those of a short clip do; each item is read once.
    """
    wanted = np.union1d(indices, indices + 1) if content == "rgbdiff" else indices
    unique = np.unique(wanted)
    place = np.searchsorted(unique, indices)
    if content == "features":
        features: NDArray[Any] = entry.features[indices]  # type: ignore[attr-defined]
        return features
    if content == "flow":
        codes: NDArray[Any] = entry.flow.codes(unique)
        return codes[place]
    rgb_TCHW = entry.rgb[unique].transpose(0, 3, 1, 2)
    if content == "rgb":
        return rgb_TCHW[place]
    following = np.searchsorted(unique, indices + 1)
    return rgb_TCHW[following].astype(np.int16) - rgb_TCHW[place].astype(np.int16)


def to_network_input(
    batch: Mapping[str, Any], stream: StreamInput, quantiser: QuantiserLike | None = None
) -> torch.Tensor:
    """Turn the codes of one stream into the network's float32 input, on the codes' device.

    RGB is normalised by `stream.rgb_range`; differences are divided by 255 · 0.226; flow is
    decoded to pixels, read along trajectories if the stream stacks them, freed of each field's
    mean if the stream says so, and divided by `stream.flow_scale_px`.

    Parameters
    ----------
    batch : mapping
        A sample or a collated batch, with any axes in front of the clip's own.
    stream : StreamInput
    quantiser : Quantiser
        That of the data set (`dataset.quantiser`); needed for flow only.

    Returns
    -------
    (…, *stream.input_shape) float32 tensor

    Raises
    ------
    InvalidArgument
        If the batch lacks the stream, its shape is another, or flow comes without quantiser.
    """
    if stream.name not in batch:
        raise InvalidArgument(f'batch has no stream "{stream.name}"; it has {", ".join(batch)}')
    codes: torch.Tensor = batch[stream.name]
    shape = stream.input_shape
    if tuple(codes.shape[-len(shape) :]) != shape:
        raise InvalidArgument(
            f'stream "{stream.name}": batch of shape {tuple(codes.shape)} must end in {shape}'
        )
    if stream.input == "rgb+flow":
        channels = [part.in_channels for part in stream.parts]
        pieces = torch.split(codes, channels, stream.channel_axis)
        inputs = [
            to_network_input({stream.name: piece}, part, quantiser)
            for piece, part in zip(pieces, stream.parts, strict=True)
        ]
        return torch.cat(inputs, stream.channel_axis)
    values = codes.to(torch.float32)
    if stream.input == "features":
        return values
    if stream.input == "flow":
        if quantiser is None:
            raise InvalidArgument(
                f'stream "{stream.name}": flow codes need a quantiser; give dataset.quantiser'
            )
        zero, step_px = _code_scale(quantiser)
        values = (values - zero) * step_px
        if stream.stacking == "trajectory":
            values = follow_trajectories(values, stream.layout)
        if stream.mean_subtraction:
            values = values - values.mean(dim=(-2, -1), keepdim=True)
        return values / stream.flow_scale_px
    if stream.input == "rgbdiff":
        return values / (255.0 * RGBDIFF_STD)
    if stream.rgb_range == "symmetric":
        return values / 127.5 - 1.0
    repeats = stream.frames if stream.layout == "CHW" else 1
    trailing = (1, 1, 1) if stream.layout == "CTHW" else (1, 1)
    mean = torch.tensor(IMAGENET_MEAN * repeats, device=codes.device).reshape(-1, *trailing)
    deviation = torch.tensor(IMAGENET_STD * repeats, device=codes.device).reshape(-1, *trailing)
    return (values / 255.0 - mean) / deviation


def follow_trajectories(flow: torch.Tensor, layout: transforms.Layout = "TCHW") -> torch.Tensor:
    """Read each field where the fields before it have moved every point of the first frame to.

    p₁ = p, p_{k+1} = p_k + d_k(p_k); the k-th output at p is d_k(p_k), read bilinearly, and at
    the border where a path leaves the picture.

    Parameters
    ----------
    flow : (…, T, 2, H, W), (…, 2, T, H, W) or (…, 2·T, H, W) tensor
        Consecutive fields in px, in the given layout.
    layout : {"TCHW", "CTHW", "CHW"}

    Returns
    -------
    Tensor of the same shape

    References
    ----------
    Simonyan and Zisserman (2014), section 3.1, "trajectory stacking", arXiv:1406.2199.
    """
    if layout == "CHW":
        fields = flow.unflatten(-3, (-1, 2))  # type: ignore[no-untyped-call]
        return follow_trajectories(fields).flatten(-4, -3)
    if layout == "CTHW":
        return follow_trajectories(flow.transpose(-4, -3)).transpose(-4, -3)
    height, width = flow.shape[-2:]
    fields_NTCHW = flow.reshape(-1, *flow.shape[-4:])
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    points_N2HW = torch.stack([columns, rows]).expand(len(fields_NTCHW), 2, height, width)
    # grid_sample wants −1 and 1 at the centres of the first and last pixels.
    half = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=flow.device) / 2
    found = []
    for field_N2HW in fields_NTCHW.unbind(1):
        grid_NHW2 = points_N2HW.permute(0, 2, 3, 1) / half - 1
        moved = torch.nn.functional.grid_sample(
            field_N2HW, grid_NHW2, padding_mode="border", align_corners=True
        )
        found.append(moved)
        points_N2HW = points_N2HW + moved
    return torch.stack(found, 1).reshape(flow.shape)


def _code_scale(quantiser: QuantiserLike) -> tuple[float, float]:
    """Give the code of zero flow and the pixels per code, as the quantiser itself decodes."""
    if quantiser.storage == "f16":
        return 0.0, 1.0
    zero, reach, dtype = (128, 127, np.uint8) if quantiser.storage == "u8" else (0, 64, np.int16)
    decoded = quantiser.decode(np.array([zero + reach], dtype=dtype))
    return float(zero), float(decoded[0]) / reach


def label_matrix(records: Sequence[Video], classes: Sequence[str]) -> NDArray[np.bool_] | None:
    """Give which classes each record has, N×K; None where no record has several labels."""
    if not any(record.more_labels for record in records):
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
