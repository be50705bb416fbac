"""Networks that classify boxes: clips with their boxes in, logits R×K out.

`RoiNetwork` is any 2D or 3D row of the table of networks under the detection head of SlowFast [1]:
one pass over the whole frames, then RoIAlign of each box on the last maps. `PersonNetwork` learns
from few videos on a CPU: it cuts each person out of the input, so that near and far ones, and those
of other videos, come in one size.

References
----------
.. [1] C. Feichtenhofer, H. Fan, J. Malik, K. He, "SlowFast networks for video recognition",
   ICCV 2019, section 5. https://doi.org/10.1109/ICCV.2019.00630
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowpipe.detection.histogram import HistogramNetwork
from flowpipe.detection.person_cut import PersonCut
from flowpipe.detection.roi_align import roi_align
from flowpipe.errors import InvalidArgument
from flowpipe.models import build_for_clip
from flowpipe.models.layers import dropout_layer
from flowpipe.registry import check_parameters

PERSON, HISTOGRAM = "person", "flow-histogram"
MOST_WIDTH = 1024


def build_network(
    model: str,
    clip_CTHW: tuple[int, int, int, int],
    *,
    num_classes: int,
    **parameters: Any,
) -> "RoiNetwork | PersonNetwork | HistogramNetwork":
    """Make a network that classifies boxes, with fresh weights.

    Parameters
    ----------
    model : str
        "person", "flow-histogram", or a row of the table of networks of layout CHW or CTHW.
    clip_CTHW : tuple of int
        Channels per frame, frames, height and width of a usual clip; others may have another
        height and width.
    num_classes : int
    **parameters
        Of the network; of a row those of `RoiNetwork` too: `dilated`, `context`, `dropout`.
    """
    small: dict[str, Any] = {PERSON: PersonNetwork, HISTOGRAM: HistogramNetwork}
    if model in small:
        given = {"num_classes": num_classes, "channels": clip_CTHW[0]}
        if model == PERSON:
            given["frames"] = clip_CTHW[1]
        check_parameters(small[model], model, parameters, kind="model", given=given)
        return small[model](**given, **parameters)  # type: ignore[no-any-return]
    return RoiNetwork(model, clip_CTHW, num_classes=num_classes, **parameters)


class RoiNetwork(nn.Module):
    """A row of the table of networks under the detection head.

    The maps before the network's pooling are averaged over time; each box, and around it the box
    enlarged by `context`, is read off by RoIAlign and its maximum taken; pathways side by side;
    dropout; linear.

    Parameters
    ----------
    model, clip_CTHW, num_classes
        As for `build_network`.
    dilated : bool
        Residual networks: res5 with spatial stride 1 and dilation 2, so that maps are 1/16 of the
        frame, not 1/32. Weights are the same.
    context : float, optional
        How many times as wide and high the box is that is read besides; None: the box alone.
    dropout : float
    roi_size : int
        Bins of a box along each axis.
    **parameters
        Of the row.
    """

    # One box serves the whole clip: it is in the middle.
    moves = False

    def __init__(
        self,
        model: str,
        clip_CTHW: tuple[int, int, int, int],
        *,
        num_classes: int,
        dilated: bool = True,
        context: float | None = None,
        dropout: float = 0.5,
        roi_size: int = 7,
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.trunk = build_for_clip(model, clip_CTHW, num_classes=num_classes, **parameters)
        self.layout = str(self.trunk.input_layout)
        if self.layout == "TCHW":
            raise InvalidArgument(
                f'model "{model}" sees one frame after the other and has no map of the clip; '
                "choose a 3D one such as slow-r50, or a 2D one on stacked flow",
                parameter="model",
            )
        if dilated:
            _dilate(self.trunk)
        self.taps, planes, self.stride = _find_maps(self.trunk, self.layout, clip_CTHW)
        # What comes after the maps is not needed, and its weights are not to be counted.
        self.trunk.set_submodule(str(self.trunk.classifier_name), nn.Identity())
        self.roi_size = roi_size
        self.scales = (1.0,) if context is None else (1.0, context)
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(planes * len(self.scales), num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return logits R×K of all boxes, one clip after the other.

        Parameters
        ----------
        clips : sequence of C×T×H×W tensor
        boxes : sequence of N×T×4 tensor
            Of each clip, at each of its times, in its px; those of the middle count.
        """
        maps = _maps(self.trunk, self.taps, _stacked(clips, self.layout))
        boxes_R4, items_R = _joined([each[:, each.shape[1] // 2] for each in boxes])
        pooled = []
        for map_BCHW in maps:
            for scale in self.scales:
                bins = roi_align(
                    map_BCHW,
                    _enlarged(boxes_R4, scale),
                    items_R,
                    size=(self.roi_size, self.roi_size),
                    scale=1 / self.stride,
                )
                pooled.append(bins.amax((2, 3)))
        return self.fc(self.dropout(torch.cat(pooled, 1)))  # type: ignore[no-any-return]


class PersonNetwork(PersonCut):
    """Cuts persons out of the clip and classifies each; made for small data, after no paper.

    A square around the box, `context` times its longer side, is read by RoIAlign at `size` px from
    every field of flow or frame; beside it lies a channel that is 1 within the box. Flow is in
    px: it is divided by the box's height, since who is near moves further. Convolutions over space
    and time follow, then maximum and mean over all positions.

    Parameters
    ----------
    num_classes
        K.
    channels
        Of a frame: 2 of flow, 3 of RGB, 5 of both (flow comes last).
    frames
        T, of the clip.
    width
        Planes of the first convolution.
    context
        Side of the square, in longer sides of the box.
    size
        Of the cut-out in px.
    dropout
        Share of the pooled features dropped, in [0, 1).
    """

    # A clip may begin earlier or later: boxes are known at each of its times.
    moves = True

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        frames: int,
        width: int = 16,
        context: float = 2.0,
        size: int = 40,
        follow: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(context=context, size=size, follow=follow)
        if not 1 <= width <= MOST_WIDTH:
            raise InvalidArgument(f"width {width} must be 1 to {MOST_WIDTH}; 16 is usual")
        self.features = nn.Sequential(
            *_conv(channels + 1, width, (3, 5, 5), (1, 2, 2)),
            *_conv(width, 2 * width, (3, 3, 3), (1, 2, 2)),
            *_conv(2 * width, 4 * width, (3, 3, 3), (2, 2, 2)),
            *_conv(4 * width, 4 * width, (3, 3, 3), (1, 1, 1)),
        )
        self.dropout = dropout_layer(dropout)
        self.fc = nn.Linear(2 * 4 * width, num_classes)

    def forward(self, clips: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return logits R×K of all boxes, one clip after the other; arguments as `RoiNetwork`."""
        cut = [self.cut(clip, of_clip) for clip, of_clip in zip(clips, boxes, strict=True)]
        x = self.features(torch.cat(cut))
        pooled = torch.cat([x.mean((2, 3, 4)), x.amax((2, 3, 4))], 1)
        return self.fc(self.dropout(pooled))  # type: ignore[no-any-return]


def _conv(
    in_planes: int, planes: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return [
        nn.Conv3d(in_planes, planes, kernel, stride, padding, bias=False),
        nn.BatchNorm3d(planes),
        nn.ReLU(inplace=True),
    ]


def _stacked(clips: Sequence[Tensor], layout: str) -> Tensor:
    """Return clips as one batch; smaller ones are filled up with zeros, right and below."""
    height = max(clip.shape[2] for clip in clips)
    width = max(clip.shape[3] for clip in clips)
    filled = [
        functional.pad(clip, (0, width - clip.shape[3], 0, height - clip.shape[2]))
        for clip in clips
    ]
    batch = torch.stack(filled)
    # T·C channels, those of a frame together.
    return batch.transpose(1, 2).flatten(1, 2) if layout == "CHW" else batch


def _joined(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([len(each) for each in boxes], device=boxes[0].device)
    items = torch.arange(len(boxes), device=boxes[0].device).repeat_interleave(counts)
    return torch.cat(list(boxes)), items


def _enlarged(boxes_R4: Tensor, scale: float) -> Tensor:
    middle = (boxes_R4[:, :2] + boxes_R4[:, 2:]) / 2
    half = (boxes_R4[:, 2:] - boxes_R4[:, :2]) * scale / 2
    return torch.cat([middle - half, middle + half], 1)


def _dilate(trunk: nn.Module) -> None:
    """Take the spatial stride out of res5, and give its 3×3 kernels dilation 2 in its place."""
    for name, stage in trunk.named_modules():
        if name.rsplit(".", 1)[-1] != "layer4":
            continue
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                time = layer.stride[:-2]
                if len(time) and time[0] != 1 and layer.stride[-1] == 1:
                    continue
                layer.stride = (*time, 1, 1)
                if layer.kernel_size[-1] == 3:
                    layer.dilation = (*layer.dilation[:-2], 2, 2)
                    layer.padding = (*layer.padding[:-2], 2, 2)


# A layer, whose output is taken (of "<avgpool" the input), and which of its calls: a ReLU may stand
# in a network twice.
Tap = tuple[str, int]


class _MapsComplete(Exception):
    """Ends the pass through a network once its last maps are there."""


def _maps(trunk: nn.Module, taps: Sequence[Tap], batch: Tensor) -> list[Tensor]:
    """Return maps averaged over time; the pass through the network ends at the last of them."""
    found: dict[Tap, Tensor] = {}
    calls = Counter[Tap]()

    def keep(tap: Tap) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any = None) -> None:
            calls[tap] += 1
            if calls[tap] < tap[1]:
                return
            found[tap] = inputs[0] if tap[0].startswith("<") else output
            if len(found) == len(taps):
                raise _MapsComplete

        return hook

    hooks = []
    for tap in taps:
        layer = trunk.get_submodule(tap[0].removeprefix("<"))
        before = tap[0].startswith("<")
        register: Any = layer.register_forward_pre_hook if before else layer.register_forward_hook
        hooks.append(register(keep(tap)))
    try:
        trunk(batch)
    except _MapsComplete:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[tap].mean(2) if found[tap].ndim == 5 else found[tap] for tap in taps]


def _find_maps(
    trunk: nn.Module, layout: str, clip_CTHW: tuple[int, int, int, int]
) -> tuple[tuple[Tap, ...], int, int]:
    """Return the layers that make the last maps, their planes together, and their stride.

    Those are the outputs of res5 of each pathway, else what enters the last pooling before the
    classifier, else the last output of several positions before it.
    """
    stages = tuple(name for name, _ in trunk.named_modules() if name.rsplit(".", 1)[-1] == "layer4")
    classifier = str(trunk.classifier_name)
    shapes: dict[str, torch.Size] = {}
    calls = Counter[str]()
    reached: list[str] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += not reached
            if name == classifier:
                reached.append(name)
            # An adaptive pooling has as many positions for any frame: no map of it.
            if reached or isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
                if not reached and _is_map(inputs[0]):
                    shapes[f"<{name}"] = inputs[0].shape
            elif _is_map(output):
                # The last to come is the last in a dict.
                shapes.pop(name, None)
                shapes[name] = output.shape
            elif inputs and _is_map(inputs[0]):
                shapes[f"<{name}"] = inputs[0].shape

        return hook

    hooks = [
        module.register_forward_hook(note(name)) for name, module in trunk.named_modules() if name
    ]
    training = trunk.training
    try:
        with torch.no_grad():
            trunk.eval()(_stacked([torch.zeros(clip_CTHW)], layout))
    finally:
        trunk.train(training)
        for hook in hooks:
            hook.remove()
    taps = stages or tuple(shapes)[-1:]
    if not taps or any(name not in shapes for name in taps):
        raise InvalidArgument(
            "the network has no map of several positions before its classifier; give larger "
            "frames or choose another model",
            parameter="model",
        )
    planes = sum(shapes[name][1] for name in taps)
    # Strides are powers of two; the borders of a small map hide it.
    stride = 2 ** round(math.log2(clip_CTHW[3] / shapes[taps[0]][-1]))
    return tuple((name, calls[name.removeprefix("<")]) for name in taps), planes, stride


def _is_map(value: object) -> bool:
    if not isinstance(value, Tensor) or value.ndim not in (4, 5):
        return False
    return value.shape[-1] * value.shape[-2] > 1
