"""Networks by name: what each looks at, what the cache must hold for it, and its weights.

I3D: Carreira, Zisserman: Quo vadis, action recognition?, CVPR 2017,
doi:10.1109/CVPR.2017.502. 25 frames per second by timestamp, short side 256, centre crop 224,
16 frames a snippet (64 in the paper); RGB in −1..1; flow by TV-L1, truncated at
±20 px to 256 levels, in −1..1. Features are the 1024 averages that go into the classifier.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flowpipe.clips.streams import RGB_RANGES, PixelValues, StreamInput
from flowpipe.errors import InvalidArgument, UnknownName, nearest_name
from flowpipe.features.extractor import FrozenNetwork
from flowpipe.features.options import FeatureOptions, WantedInput
from flowpipe.models import build_for_clip, input_layout
from flowpipe.models.table import TABLE
from flowpipe.models.weights import (
    ORIGINS,
    classes_of,
    load_network,
    load_weights,
    read_state,
    recognise,
    variant_parameters,
)
from flowpipe.models.weights.origins import origin_named

DEFAULT_CROP_SCALE = 0.875
DEFAULT_CROP_SIZE = (224, 224)
DEFAULT_FLOWS = 10
SEED = 0

I3D_BOUND_PX = 20.0
TVL1 = ("tvl1", "opencv-tvl1")
# The origin of weights under flowpipe's own names.
OWN = "flowpipe"
I3D_INPUT = WantedInput(fps=25.0, short_side=256, strict=True)


@dataclass(frozen=True)
class Preset:
    """A network and its pre-processing.

    Attributes
    ----------
    model : str
        A name of `flowpipe.models.table.TABLE`.
    stream : StreamInput
    wanted : WantedInput
    crop_scale : float
    truncate_flow : bool
    num_classes : int
        Of the published network.
    """

    model: str
    stream: StreamInput
    wanted: WantedInput
    crop_scale: float = 224 / 256
    truncate_flow: bool = False
    num_classes: int = 400


PRESETS: Mapping[str, Preset] = {
    "i3d-rgb": Preset(
        "i3d", StreamInput("rgb", "rgb", 16, layout="CTHW", rgb_range="symmetric"), I3D_INPUT
    ),
    "i3d-flow": Preset(
        "i3d",
        StreamInput("flow", "flow", 16, layout="CTHW", flow_scale_px=I3D_BOUND_PX),
        replace(
            I3D_INPUT,
            flow="tvl1",
            known_flows=TVL1,
            bound_px=I3D_BOUND_PX,
        ),
        truncate_flow=True,
    ),
}


def named_network(
    name: str,
    options: FeatureOptions | None = None,
    *,
    weights: Path | None = None,
    origin: str | None = None,
    random_weights: bool = False,
    content: Literal["rgb", "flow", "rgbdiff"] | None = None,
    parameters: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> FrozenNetwork:
    """Build a network by its name and give it its weights.

    Parameters
    ----------
    name : str
        Of `PRESETS`, of `flowpipe.models.table.TABLE` or the beginning of several of its names
        ("slowfast"), or your own as `package.module:callable`.
    options : FeatureOptions, optional
        Its length and size of snippets count, where the network is built for one.
    weights : Path, optional
        File of trained weights. One of a known origin brings its pre-processing.
    origin : str, optional
        Of `flowpipe.models.weights.ORIGINS`, where several have the same names and shapes;
        "flowpipe": weights of one's own, whatever their names.
    random_weights : bool
        True: random ones are what is wanted.
    content : "rgb", "flow" or "rgbdiff", optional
        What the network looks at; by default what the preset does, or frames.
    parameters : mapping, optional
        The network's.
    say : callable
        Called with what became of the weights.

    Raises
    ------
    UnknownName
        If there is no such network.
    InvalidArgument
        For neither or both of `weights` and `random_weights`, or what does not go with the name.
    """
    options, parameters = options or FeatureOptions(), dict(parameters or {})
    preset = PRESETS.get(name)
    # "slowfast" is a family: a file says which of its networks it is of, else the first is meant.
    family = [row for row in TABLE if row.startswith(f"{name}-") and not row.endswith("-tiny")]
    if preset is None and name not in TABLE and not family and ":" not in name:
        known = [*PRESETS, *TABLE]
        raise UnknownName(
            f'"{name}" is neither a run nor a network{nearest_name(name, known)}; known: '
            f"{', '.join(sorted(known))}; or give your own as package.module:callable"
        )
    if (weights is None) == (not random_weights):
        raise InvalidArgument(
            f'"{name}" without weights gives features of random numbers: name a file of trained '
            "weights, or ask for random ones if they are what you want"
            if weights is None
            else "weights of a file and random ones exclude each other; give one",
            parameter=("weights", "random_weights"),
        )
    own = origin == OWN
    if weights is not None and preset is None and not own:
        found = _published(name, weights, origin, options, content, parameters, say)
        if found is not None:
            return found
    if preset is None:
        name = name if name in TABLE or not family else family[0]
        model_name, scale, truncate, classes = name, DEFAULT_CROP_SCALE, False, None
        wanted = WantedInput(flow="tvl1" if content == "flow" else None)
        stream = _stream_of(name, content or "rgb", options, parameters)
    else:
        if content not in (None, preset.stream.input):
            raise InvalidArgument(f"{name} looks at {preset.stream.input}, not at {content}")
        model_name, stream, wanted = preset.model, preset.stream, preset.wanted
        scale, truncate, classes = preset.crop_scale, preset.truncate_flow, preset.num_classes
    stream = options.stream_of(stream)
    if options.frames is not None and stream.layout != "CHW":
        stream = replace(stream, frames=options.frames)
    if weights is not None:
        origin = None if own else origin
        if not own:
            parameters = variant_parameters(model_name, weights, origin=origin) | parameters
        with torch.device("meta"):
            empty = build_for_clip(model_name, stream.clip_CTHW, num_classes=1, **parameters)
        if preset is not None:
            _check_channels(weights, empty, stream)
        classes = classes_of(empty, weights, origin=origin) or classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_for_clip(model_name, stream.clip_CTHW, num_classes=classes or 1, **parameters)
    if weights is not None:
        say(str(load_weights(model, weights, origin=origin)))
    else:
        say(f"{name}: random weights, seed {SEED}; these features mean nothing")
    source = None if weights is None else weights.name
    return FrozenNetwork(model, stream, model_name, parameters, scale, truncate, wanted, source)


def _published(
    name: str,
    weights: Path,
    origin: str | None,
    options: FeatureOptions,
    content: str | None,
    parameters: Mapping[str, Any],
    say: Callable[[str], None],
) -> FrozenNetwork | None:
    """Return the network of a public file as its authors run it; None for a file of one's own."""
    shapes = {name: tuple(value.shape) for name, value in read_state(weights).items()}
    public = [known for known in ORIGINS if known != OWN]
    if origin is None and not any(
        origin_named(known).recognise(shapes, where=str(weights)) for known in public
    ):
        return None
    found = recognise(shapes, where=str(weights), origin=origin)
    if found.model != name and not found.model.startswith(f"{name}-"):
        raise InvalidArgument(
            f"{weights} is of {found.summary}, not of {name}; ask for {found.model}, or give the "
            f'origin "{OWN}" if they are weights of your own',
            parameter="origin",
        )
    made = found.preprocessing
    if made is None:
        return None
    if content not in (None, made.input):
        raise InvalidArgument(f"{weights} looks at {made.input}, not at {content}")
    model = load_network(weights, origin, **parameters)
    say(str(model.report))
    height, width = (made.resize, made.resize) if isinstance(made.resize, int) else made.resize
    looks_at_flow = made.input == "flow"
    channels = 2 if looks_at_flow else 3
    layout = input_layout(found.model)
    frames = int(str(model.in_channels)) // channels if layout == "CHW" else made.frames
    values = PixelValues(made.scale, made.mean, made.std, made.order)
    stream = StreamInput(
        made.input,
        made.input,
        frames,
        frame_step=made.frame_step if frames > 1 else 1,
        crop_size=made.crop,
        layout=layout,
        flow_scale_px=made.scale * made.std[0],
        rgb_range="imagenet" if values == RGB_RANGES["imagenet"] else values,
    )
    wanted = WantedInput(
        fps=made.fps,
        short_side=made.resize if isinstance(made.resize, int) else None,
        size=None if isinstance(made.resize, int) else made.resize,
        flow=made.flow if looks_at_flow else None,
        known_flows=TVL1 if made.flow in TVL1 else (),
        bound_px=made.bound_px,
    )
    stream = options.stream_of(stream)
    if options.frames is not None and layout != "CHW":
        stream = replace(stream, frames=options.frames)
    return FrozenNetwork(
        model,
        stream,
        found.model,
        {**found.parameters, **parameters},
        min(1.0, made.crop[0] / min(height, width)),
        truncate_flow=looks_at_flow and found.model.startswith("i3d"),
        wanted=wanted,
        weights=weights.name,
    )


def _stream_of(
    name: str,
    content: Literal["rgb", "flow", "rgbdiff"],
    options: FeatureOptions,
    parameters: Mapping[str, Any],
) -> StreamInput:
    """One frame, or ten flows, for a 2D network; for others as long as the table has it."""
    layout = input_layout(name, **parameters)
    row = TABLE.get(name)
    size = DEFAULT_CROP_SIZE if row is None else row.clip_CTHW[2:]
    if layout == "CHW" and content == "flow":
        frames: int | None = options.frames or DEFAULT_FLOWS
    elif layout == "CHW":
        frames = 1
    else:
        frames = options.frames or (None if row is None else row.clip_CTHW[1])
    if frames is None:
        raise InvalidArgument(
            f'"{name}" takes clips; say how long, such as 16 frames', parameter="clip"
        )
    return StreamInput(content, content, frames, crop_size=size, layout=layout)


def _check_channels(weights: Path, model: nn.Module, stream: StreamInput) -> None:
    """Refuse a file of frames for a network of flow, and the other way round."""
    kernel = read_state(weights).get(f"{model.stem_name}.weight")
    if kernel is not None and kernel.shape[1] != stream.in_channels:
        raise InvalidArgument(
            f"{weights} sees {kernel.shape[1]} channels, and {stream.input} has "
            f"{stream.in_channels}; is it the file of the other network?",
            parameter="weights",
        )
