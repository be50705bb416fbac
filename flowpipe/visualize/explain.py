"""Where and when the evidence for a class lies in a clip, and in a whole video.

Gradient: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep inside convolutional networks", 2013,
doi:10.48550/arXiv.1312.6034. Grad-CAM: R. Selvaraju et al., ICCV 2017, doi:10.1109/ICCV.2017.74;
the weights are means over space and time, the map is brought to the clip's size by cell centres.
Integrated gradients: M. Sundararajan, A. Taly, Q. Yan, ICML 2017, doi:10.48550/arXiv.1703.01365.
Occlusion: M. Zeiler, R. Fergus, ECCV 2014, doi:10.1007/978-3-319-10590-1_53, in space and time; a
part counts half by what hiding it takes and half by what it brings alone.

Slopes at the clip itself (gradient, Grad-CAM) vanish where a network is sure: the gates of an LSTM
are shut then, and what is left lies at its last frames. Integrated gradients begin at an empty clip
and see the rise. Deep maps of Grad-CAM reach over the whole picture, and a class's even share of
them is heat as well.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.streams import Backward, EntryLike, StreamInput
from flowpipe.clips.transforms import View
from flowpipe.errors import InvalidArgument
from flowpipe.visualize.network import check_class, class_logits, from_BTCHW, to_BTCHW, untouched

Method = Literal["integrated", "occlusion", "gradcam", "gradient"]
METHODS = get_args(Method)
# Steps on the straight way from nothing to the clip.
STEPS, BATCH = 64, 8
# Occlusion: windows along time, height and width.
WINDOWS = (6, 4, 4)
# A map is tried by what its hottest part, this share of the clip, does to the class.
HOTTEST = 1 / 8
# Of the short side, the deviation of the bell over the maps of a video.
BELL = 1 / 32
# A heat map of every frame is kept.
MOST_FRAMES = 3000


@dataclass(frozen=True)
class Evidence:
    """What speaks for a class in a clip.

    Attributes
    ----------
    pathway : str
        Of which pathway; empty for the whole network.
    signed_THW : array of float32
        The attributions, at the size of the network's input; what speaks against is negative.
        Of the gradient and Grad-CAM there is nothing negative.
    logit, blank_logit : float
        Of the class for the clip, and for an input of zeros (mean colour, no motion).
    times : int
        Instants that the map itself tells apart: 1 for Grad-CAM of a stack in one picture.
    hottest, elsewhere : float
        What the hottest eighth of the map is worth: how far the logit moves, half by hiding it and
        half by showing it alone. And what the same shape is worth half a clip away, at best. A map
        whose `hottest` does not exceed `elsewhere` points at nothing.
    """

    pathway: str
    signed_THW: NDArray[np.float32]
    logit: float
    blank_logit: float
    times: int
    hottest: float
    elsewhere: float

    @property
    def heat_THW(self) -> NDArray[np.float32]:
        """What speaks for the class, unscaled."""
        return np.maximum(self.signed_THW, 0)

    @property
    def curve_T(self) -> NDArray[np.float32]:
        """The mean of the heat over space."""
        return np.asarray(self.heat_THW.mean((1, 2)), np.float32)


def explain(
    model: nn.Module, clip: Tensor, stream: StreamInput, number: int, method: Method
) -> list[Evidence]:
    """Return the evidence for a class in one clip.

    Grad-CAM and integrated gradients return a map for each pathway of the network.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    clip : tensor of `stream.input_shape`
        As the network takes it (`to_network_input`).
    stream : StreamInput
    number : int
        The class.
    method : {"integrated", "occlusion", "gradcam", "gradient"}

    Raises
    ------
    InvalidArgument
        If the network has no such class or, for Grad-CAM, no maps.
    """
    if method not in METHODS:
        raise InvalidArgument(f'method "{method}" must be one of {", ".join(METHODS)}')
    values = clip[None].detach()
    with untouched(model):
        with torch.no_grad():
            logits_BK = class_logits(model, torch.cat([values, torch.zeros_like(values)]))
        check_class(number, logits_BK)
        logit, blank = (float(value) for value in logits_BK[:, number])
        run: Callable[..., list[tuple[str, Tensor, int]]] = _RULES[method]
        found = []
        for pathway, signed_THW, times in run(model, values, stream, number):
            worth_B = _worth(model, values, stream, number, _hottest_and_elsewhere(signed_THW))
            here, *others = worth_B.tolist()
            signed = signed_THW.cpu().float().numpy()
            found.append(Evidence(pathway, signed, logit, blank, times, here, max(others)))
    return found


def _hottest_and_elsewhere(heat_THW: Tensor) -> list[Tensor]:
    """Return masks: of the hottest part, then of its shape moved by half a clip along the axes."""
    order = heat_THW.flatten().argsort(descending=True)
    mask_THW = torch.zeros_like(heat_THW, dtype=torch.bool)
    mask_THW.view(-1)[order[: math.ceil(HOTTEST * len(order))]] = True
    halves = itertools.product(*({0, length // 2} for length in mask_THW.shape))
    return [mask_THW.roll(shifts, (0, 1, 2)) for shifts in sorted(halves)]


def _worth(
    model: nn.Module, values: Tensor, stream: StreamInput, number: int, masks: Iterable[Tensor]
) -> Tensor:
    """Return what parts of a clip are worth: half what hiding each takes, half what it brings.

    Where each of several parts suffices, hiding one takes nothing; where several are needed, one
    alone brings nothing. Of a linear network both are the same.
    """
    whole_TCHW = to_BTCHW(values, stream)[0]

    def logits_B(shown_BTCHW: Tensor) -> Tensor:
        return class_logits(model, from_BTCHW(shown_BTCHW, stream))[:, number]

    left, twice = iter(masks), []
    with torch.no_grad():
        whole, blank = logits_B(torch.stack([whole_TCHW, torch.zeros_like(whole_TCHW)]))
        while some := list(itertools.islice(left, BATCH)):
            shown = torch.stack(some)[:, :, None]
            twice.append(logits_B(whole_TCHW * shown) - logits_B(whole_TCHW * ~shown))
    worth_B: Tensor = (torch.cat(twice) + whole - blank) / 2
    return worth_B


def _gradient_of(model: nn.Module, values: Tensor, number: int) -> Tensor:
    values = values.detach().requires_grad_()
    # cuDNN has no way back through a recurrent layer in evaluation mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not values.is_cuda):
        score = class_logits(model, values)[:, number].sum()
        return torch.autograd.grad(score, values)[0]


def _by_gradient(
    model: nn.Module, values: Tensor, stream: StreamInput, number: int
) -> list[tuple[str, Tensor, int]]:
    slope_TCHW = to_BTCHW(_gradient_of(model, values, number), stream)[0]
    pieces = torch.split(slope_TCHW, [part.channels for part in stream.parts], 1)
    maps = [
        piece.norm(dim=1) if part.input == "flow" else piece.abs().amax(1)
        for part, piece in zip(stream.parts, pieces, strict=True)
    ]
    return [("", torch.stack(maps).amax(0), stream.frames)]


def _by_integration(
    model: nn.Module, values: Tensor, stream: StreamInput, number: int
) -> list[tuple[str, Tensor, int]]:
    if len(pathways := _pathways(model)) > 1:
        return _by_integration_of_pathways(model, values, stream, number, pathways)
    total = torch.zeros_like(values)
    for some in _shares(values):
        total += _gradient_of(model, values * some, number).sum(0, keepdim=True)
    given = to_BTCHW(values * total / STEPS, stream)[0].sum(1)
    return [("", given, stream.frames)]


def _by_integration_of_pathways(
    model: nn.Module,
    values: Tensor,
    stream: StreamInput,
    number: int,
    pathways: Mapping[str, nn.Module],
) -> list[tuple[str, Tensor, int]]:
    """Divide what the clip gains among the inputs of the pathways, each at its own instants."""
    taken: dict[str, Tensor] = {}

    def take(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            taken[name] = inputs[0]

        return hook

    hooks = [stem.register_forward_pre_hook(take(name)) for name, stem in pathways.items()]
    given: dict[str, Tensor] = {}
    try:
        for some in _shares(values):
            with torch.enable_grad():
                way = (values * some).requires_grad_()
                score = class_logits(model, way)[:, number].sum()
                slopes = torch.autograd.grad(score, [taken[name] for name in pathways])
            for name, slope in zip(pathways, slopes, strict=True):
                piece_CTHW = (slope * taken[name].detach() / some).sum(0)
                given[name] = given.get(name, 0) + piece_CTHW.sum(0) / STEPS
    finally:
        for each in hooks:
            each.remove()
    return [(name, _to_clip_size(piece, stream), len(piece)) for name, piece in given.items()]


def _pathways(model: nn.Module) -> dict[str, nn.Module]:
    """Return the first layer of each pathway by the pathway's name."""
    stems = [str(model.stem_name), *getattr(model, "other_stem_names", ())]
    return {stem.split(".")[0]: model.get_submodule(stem) for stem in stems}


def _shares(values: Tensor) -> Sequence[Tensor]:
    """Return the places on the way from nothing to the clip, in batches that multiply `values`."""
    shares = (torch.arange(STEPS, device=values.device) + 0.5) / STEPS
    return torch.split(shares.reshape(-1, *[1] * (values.ndim - 1)), BATCH)


def _to_clip_size(piece_THW: Tensor, stream: StreamInput) -> Tensor:
    """Repeat the values of fewer instants over the clip; their sum stays."""
    sized = nn.functional.interpolate(piece_THW[None, None], (stream.frames, *stream.crop_size))
    return sized[0, 0] * (piece_THW.numel() / sized.numel())


def _by_occlusion(
    model: nn.Module, values: Tensor, stream: StreamInput, number: int
) -> list[tuple[str, Tensor, int]]:
    lengths = (stream.frames, *stream.crop_size)
    places = [
        torch.arange(length, device=values.device) * min(windows, length) // length
        for length, windows in zip(lengths, WINDOWS, strict=True)
    ]
    counts = [int(place[-1]) + 1 for place in places]
    t, y, x = torch.meshgrid(*places, indexing="ij")
    cells_THW = (t * counts[1] + y) * counts[2] + x
    masks = (cells_THW == cell for cell in range(math.prod(counts)))
    worth_N = _worth(model, values, stream, number, masks)
    return [("", worth_N[cells_THW], counts[0])]


def _by_gradcam(
    model: nn.Module, values: Tensor, stream: StreamInput, number: int
) -> list[tuple[str, Tensor, int]]:
    fired: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                fired.append((name, output))

        return hook

    hooks = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if name]
    values = values.detach().requires_grad_()
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not values.is_cuda):
            score = class_logits(model, values)[0, number]
    finally:
        for each in hooks:
            each.remove()
    pathways = list(_pathways(model))
    if len(pathways) == 1:
        pathways = [""]
    found = []
    for pathway in pathways:
        own = [(name, out) for name, out in fired if name.startswith(pathway)]
        cam_THW = _last_cam(model, own, score, stream)
        sized = nn.functional.interpolate(
            cam_THW[None, None], (stream.frames, *stream.crop_size), mode="trilinear"
        )
        found.append((pathway, sized[0, 0], len(cam_THW)))
    return found


def _last_cam(
    model: nn.Module, fired: Sequence[tuple[str, Tensor]], score: Tensor, stream: StreamInput
) -> Tensor:
    """Return the map T'×H'×W' of the last layer whose output lies in space and time.

    ::

        CHW     1×C×H'×W'       one map for the whole stack
        CTHW    1×C×T'×H'×W'    weights are means over space and time
        TCHW    T×C×H'×W'       frames folded into the batch, each with its own weights: what a
                                recurrent layer behind them makes of each frame is in these. The
                                states of a recurrence are none: of many to one, only the last
                                has a gradient.
        tokens  1×N×D           of a transformer, by its `token_grid`
    """
    grid_THW = getattr(model, "token_grid", None)
    for name, output in reversed(fired):
        pieces = [output]
        if grid_THW is not None:
            if output.ndim != 3 or output.shape[1] not in (own := math.prod(grid_THW), own + 1):
                continue
        elif stream.layout == "TCHW":
            # A network may run its layers once for each piece of the clip.
            if len(output) != stream.frames:
                pieces = [out for same, out in fired if same == name and out.shape == output.shape]
            if output.ndim != 4 or sum(map(len, pieces)) != stream.frames:
                continue
        elif output.ndim != len(stream.layout) + 1:
            continue
        if grid_THW is None and output.shape[-2] * output.shape[-1] == 1:  # pooled already
            continue
        slopes = torch.autograd.grad(score, pieces, retain_graph=True, allow_unused=True)
        if any(slope is None for slope in slopes):
            continue
        if grid_THW is None:
            return torch.cat([_cam(a, g) for a, g in zip(pieces, slopes, strict=True)])
        # The class is read from one token alone: the last block's others say nothing.
        patches = slopes[0][:, -math.prod(grid_THW) :]
        if patches.any():
            maps = output[:, -math.prod(grid_THW) :]
            return _cam_of_tokens(maps, patches, grid_THW, str(model.token_order))
    raise InvalidArgument(
        f"{type(model).__name__} has no maps that Grad-CAM could weigh; occlusion and gradients "
        "look at any network"
    )


def _cam(activations: Tensor, slopes: Tensor) -> Tensor:
    """Return the map T'×H'×W'; frames that were folded into the batch have each their weights."""
    over = tuple(range(2, activations.ndim))
    weights = slopes.mean(over, keepdim=True)
    cam = (weights * activations).sum(1).relu()
    return (cam if cam.ndim == 3 else cam[0]).detach()


def _cam_of_tokens(
    tokens_BND: Tensor, slopes_BND: Tensor, grid_THW: Sequence[int], order: str
) -> Tensor:
    """Return the map of a transformer's tokens, which lie by time or by place first."""
    weights = slopes_BND.mean(1, keepdim=True)
    cam_N = (weights * tokens_BND).sum(2)[0].relu().detach()
    frames, height, width = grid_THW
    if order == "THW":
        return cam_N.reshape(frames, height, width)
    return cam_N.reshape(height, width, frames).permute(2, 0, 1)


_RULES: dict[str, Callable[..., list[tuple[str, Tensor, int]]]] = {
    "gradcam": _by_gradcam,
    "gradient": _by_gradient,
    "integrated": _by_integration,
    "occlusion": _by_occlusion,
}


@dataclass(frozen=True)
class VideoEvidence:
    """What speaks for a class in a video.

    Attributes
    ----------
    pathway : str
    heat_NHW : array of float32
        Of every frame, in the part of the picture that the network sees; unscaled. Where clips
        overlap it is their mean. What neighbours say for and against is added up first, under a
        bell of 1/32 of the picture: single pixels of a gradient are noise.
    number : int
        The class.
    logits_K : array of float
        Means over the clips.
    clips, times : int
        Clips, and the instants that the map tells apart in each.
    hottest, elsewhere : float
        As of `Evidence`, means over the clips.
    view : View
        The part of the picture.
    """

    pathway: str
    heat_NHW: NDArray[np.float32]
    number: int
    logits_K: NDArray[np.float64]
    clips: int
    times: int
    hottest: float
    elsewhere: float
    view: View

    @property
    def curve_N(self) -> NDArray[np.float32]:
        """The mean of the heat over space, for each frame."""
        return np.asarray(self.heat_NHW.mean((1, 2)), np.float32)


def explain_video(
    model: nn.Module,
    stream: StreamInput,
    entry: EntryLike,
    method: Method,
    *,
    number: int | None = None,
    backward: Backward | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> list[VideoEvidence]:
    """Return the evidence along a video, by clips that overlap by half.

    Parameters
    ----------
    model : nn.Module
    stream : StreamInput
    entry : Entry
        The flow and frames of the video.
    method
        As for `explain`.
    number : int, optional
        The class; by default the network's own answer.
    backward : callable, optional
        Opens the backward flow, for streams that stack it.
    on_progress : callable, optional
        Called with the share done and a text before each clip.

    Raises
    ------
    InvalidArgument
        As `explain`; and for a video of more than 3000 frames.
    """
    count = int(entry.num_frames)
    if count > MOST_FRAMES:
        raise InvalidArgument(
            f"the video has {count} frames, at most {MOST_FRAMES} are explained at once; cut it, "
            "or find the stretch by predictions over time"
        )
    view = stream.test_views(entry)[0]
    assert view is not None
    places = centres_along(stream, entry)
    batch = [clip_at(stream, entry, centre, view, backward) for centre in places]
    with untouched(model), torch.no_grad():
        logits_K = torch.cat([class_logits(model, clip[None]) for clip in batch]).mean(0)
    number = int(logits_K.argmax()) if number is None else number
    sums: dict[str, NDArray[np.float32]] = {}
    times = {}
    tried: dict[str, list[tuple[float, float]]] = {}
    seen_N = np.zeros(count)
    for done, (centre, clip) in enumerate(zip(places, batch, strict=True)):
        if on_progress is not None:
            on_progress(done / len(places), f"{stream.name}: clip {done + 1} of {len(places)}")
        indices = stream.indices(entry, centre, "repeat-last")
        np.add.at(seen_N, indices, 1)
        for found in explain(model, clip, stream, number, method):
            tried.setdefault(found.pathway, []).append((found.hottest, found.elsewhere))
            empty = np.zeros((count, *stream.crop_size), np.float32)
            np.add.at(sums.setdefault(found.pathway, empty), indices, found.signed_THW)
            times[found.pathway] = found.times
    covered = np.flatnonzero(seen_N)
    # Frames between those that clips take show what the nearest taken one shows.
    nearest = covered[np.abs(np.arange(count)[:, None] - covered).argmin(1)]
    sigma_px = min(stream.crop_size) * BELL
    heats = {}
    for name, signed_NHW in sums.items():
        means_NHW = signed_NHW[nearest] / seen_N[nearest, None, None].astype(np.float32)
        blurred = [cv2.GaussianBlur(mean_HW, (0, 0), sigma_px) for mean_HW in means_NHW]
        heats[name] = np.maximum(np.stack(blurred), 0)
    logits = logits_K.double().cpu().numpy()
    worth = {name: [float(mean) for mean in np.mean(pairs, 0)] for name, pairs in tried.items()}
    return [
        VideoEvidence(
            name, heat, number, logits, len(places), times[name], hottest, elsewhere, view
        )
        for name, heat in heats.items()
        for hottest, elsewhere in [worth[name]]
    ]


def centres_along(stream: StreamInput, entry: EntryLike) -> Sequence[int]:
    """Return the centres of clips that overlap by half."""
    first, stop = stream.centres(entry)
    indices = stream.indices(entry, first, "repeat-last")
    step = max(1, int(indices[-1] - indices[0] + 1) // 2)
    return sorted({*range(first, stop, step), stop - 1})


def clip_at(
    stream: StreamInput, entry: EntryLike, centre: int, view: View, backward: Backward | None
) -> Tensor:
    """Return one clip as the network takes it."""

    def none() -> EntryLike:
        raise InvalidArgument(f'stream "{stream.name}" stacks backward flow; give it too')

    codes = stream.clips(entry, centre, [view], "repeat-last", backward or none)
    batch = {stream.name: torch.from_numpy(np.ascontiguousarray(codes))}
    quantiser = entry.quantiser if stream.has_flow else None
    return to_network_input(batch, stream, quantiser)[0]
