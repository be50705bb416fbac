"""A frozen network: what it looks at, which snippets of a video, which of its layers is kept.

A network that looks at one item (`CHW`, trained on single frames) gives the mean of its features
over the T items of a snippet; each item goes through the network once, however snippets overlap.
Of maps the mean over positions is kept, or, with `spatial`, the map (its mean over time).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.cache import Entry, FeatureRecipe
from flowpipe.clips import sampling
from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.streams import StreamInput
from flowpipe.clips.transforms import Content, apply_view, make_test_views, to_layout
from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.features.options import FeatureOptions, WantedInput
from flowpipe.features.snippets import Snippets, cut_snippets
from flowpipe.models.weights import model_state
from flowpipe.models.weights.folding import fold_batch_norm
from flowpipe.training.devices import choose_device, place

# I3D's flow: ±20 px to 0..255 by truncation, and back to −1..1 by v/255·2 − 1.
LEVELS = 255
# Items that one batch holds by default; sixteen frames at 224² are 2.4 MB of codes.
BATCH_ITEMS = 64
MOST_IN_BATCH = 16
VIEWS = {"center": 1, "three": 3, "five": 5, "ten": 10}


class Extractor(Protocol):
    """What `compute_features` needs: fulfilled by `FeatureExtractor` and `FlowHistogram`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one snippet's features."""

    @property
    def input(self) -> str:
        """ "rgb", "flow" or "rgbdiff"."""

    @property
    def wanted(self) -> WantedInput:
        """What a cache must hold for it."""

    @property
    def weights(self) -> str | None:
        """Where its weights come from; None: they are random numbers."""

    @property
    def batch_size(self) -> int:
        """Units at a time."""

    @property
    def readers(self) -> int:
        """Threads that read ahead."""

    def recipe(self, source: str) -> FeatureRecipe: ...
    def snippets(self, entry: Entry) -> Snippets: ...
    def units(self, snippets: Snippets) -> NDArray[np.int64]: ...
    def read(self, entry: Entry, units_UF: NDArray[np.int64]) -> Any: ...
    def compute(self, codes: Any, entry: Entry) -> NDArray[np.float32]: ...
    def rows(
        self, entry: Entry, snippets: Snippets, computed: Iterable[NDArray[np.float32]]
    ) -> Iterable[NDArray[np.float32]]: ...
    def software(self) -> dict[str, str]: ...


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network and what it looks at.

    Attributes
    ----------
    model : nn.Module
        From `flowpipe.models.build`, with its weights.
    stream : StreamInput
        Input, size and values as it was trained.
    name, parameters
        The network's name and parameters, for the key.
    crop_scale : float
        Box, as a share of the largest that fits.
    truncate_flow : bool
        Truncate flow to 256 levels within ±`flow_scale_px`, as I3D's was.
    wanted : WantedInput
        What a cache must hold for it.
    weights : str, optional
        Where its weights come from, such as the name of a file; None: random numbers.
    """

    model: nn.Module
    stream: StreamInput
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    crop_scale: float = 0.875
    truncate_flow: bool = False
    wanted: WantedInput = field(default_factory=WantedInput)
    weights: str | None = None

    def __post_init__(self) -> None:
        stream = self.stream
        if stream.input not in ("rgb", "flow", "rgbdiff") or stream.stacking != "plain":
            raise InvalidArgument(
                f"features are computed from rgb, flow or rgbdiff, items in a row; here the input "
                f"is {stream.input}, stacking {stream.stacking}"
            )
        if self.truncate_flow and stream.input != "flow":
            raise InvalidArgument(f"truncate_flow is for flow, not for {stream.input}")


class FeatureExtractor:
    """A frozen network, and which of its layers is kept of which snippets.

    Parameters
    ----------
    network : FrozenNetwork
        Its model is put into evaluation mode.
    layer : str, optional
        Dotted name of the layer whose output is kept; by default what goes into the classifier.
    options : FeatureOptions
    device : "auto", "cpu" or "cuda"

    Attributes
    ----------
    stream : StreamInput
        What one unit is: a snippet, or one item of it.
    frames, clip_step : int
        Items of a snippet, and from one to the next.
    shape : tuple of int
        Of one snippet's features.

    Raises
    ------
    InvalidArgument
        For options that do not go with the network, or a layer it has not.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        layer: str | None = None,
        options: FeatureOptions | None = None,
        *,
        device: str = "auto",
    ) -> None:
        options = options or FeatureOptions()
        model, stream = network.model, options.stream_of(network.stream)
        self.network, self.options = network, options
        self.frames = stream.frames if options.frames is None else options.frames
        covers = sampling.span(self.frames, stream.frame_step)
        self.clip_step = covers if options.clip_step is None else options.clip_step
        self.crop_scale = network.crop_scale if options.crop_scale is None else options.crop_scale
        self.device = torch.device(choose_device(device))
        self.model = place(model, self.device).eval()
        self.layer = f"input of {model.classifier_name}" if layer is None else layer
        self._named = layer
        find_layer(model, layer)
        self.stream = self._stream_of_unit(stream)
        self.pooled = self.stream.frames != self.frames
        self._weights_sha256 = weights_digest(model)
        # The same numbers within rounding, sooner.
        draw = torch.Generator().manual_seed(0)
        example = torch.rand((1, *self.stream.input_shape), generator=draw).to(self.device)
        self.model = fold_batch_norm(model, example, run=self._reach)
        self.shape = tuple(self._features(self._zeros(self.stream)).shape[1:])

    @property
    def input(self) -> str:
        """What the network looks at."""
        return self.stream.input

    @property
    def wanted(self) -> WantedInput:
        """What a cache must hold for the network."""
        return self.network.wanted

    @property
    def weights(self) -> str | None:
        """Where the network's weights come from; None: they are random numbers."""
        return self.network.weights

    @property
    def batch_size(self) -> int:
        """Units at a time, unless another number is asked for."""
        stream = self.stream
        items = BATCH_ITEMS // stream.frames
        if stream.layout == "CHW":  # stacks that overlap share most of their items
            covers = sampling.span(stream.frames, stream.frame_step)
            items = max(items, (BATCH_ITEMS - covers) // self.clip_step + 1)
        return max(1, min(MOST_IN_BATCH, items))

    @property
    def readers(self) -> int:
        """Threads that read ahead: one for a CPU, which the network keeps busy."""
        return (os.cpu_count() or 1) if self.device.type == "cuda" else 1

    def software(self) -> dict[str, str]:
        """Return the versions and the device that take part beside flowpipe itself."""
        found = {"torch": torch.__version__, "device": self.device.type}
        if self.device.type == "cuda":
            found["gpu"] = torch.cuda.get_device_name(self.device)
        return found

    def recipe(self, source: str) -> FeatureRecipe:
        """Return the recipe of features of flow entries of the recipe `source` (its id)."""
        stream, options = self.stream, self.options
        return FeatureRecipe(
            source=source,
            input=stream.input,
            network=self.network.name,
            network_parameters=dict(self.network.parameters),
            weights_sha256=self._weights_sha256,
            layer=self.layer,
            spatial=options.spatial,
            frames=self.frames,
            stride=stream.frame_step,
            fps=stream.fps,
            step=self.clip_step,
            crop_size=(stream.crop_size[0], stream.crop_size[1]),
            crop_scale=self.crop_scale,
            crops=options.crops,
            values=self._values_rule(),
            storage=options.storage,
        )

    def snippets(self, entry: Entry) -> Snippets:
        """Return the snippets of a video."""
        return cut_snippets(entry, self.stream, self.frames, self.clip_step)

    def units(self, snippets: Snippets) -> NDArray[np.int64]:
        """Return what goes through the network, U×F items: whole snippets, or each item once."""
        if self.pooled:
            return np.unique(snippets.rows_TF)[:, None]
        return snippets.rows_TF

    def read(self, entry: Entry, units_UF: NDArray[np.int64]) -> Tensor:
        """Return the codes of some units, U·V × the network's clip, as a data loader would."""
        stream = self.stream
        unique, places = np.unique(units_UF, return_inverse=True)
        codes_TCHW = stream.items(entry, unique)
        views = make_test_views(
            (entry.height, entry.width),
            stream.crop_size,
            crops=self.options.crops,
            scale=self.crop_scale,
        )
        content: Content = stream.input  # type: ignore[assignment]
        seen = [apply_view(codes_TCHW, view, stream.crop_size, content) for view in views]
        clips = [
            to_layout(view_TCHW[rows], stream.layout)
            for rows in places.reshape(units_UF.shape)
            for view_TCHW in seen
        ]
        codes = torch.from_numpy(np.stack(clips))
        return codes.pin_memory() if self.device.type == "cuda" else codes

    def compute(self, codes: Tensor, entry: Entry) -> NDArray[np.float32]:
        """Return the features of the units that `read` gave, U × `shape`, float32."""
        stream = self.stream
        views = VIEWS[self.options.crops]
        with torch.inference_mode():
            moved = {stream.name: codes.to(self.device, non_blocking=True)}
            quantiser = entry.quantiser if stream.input == "flow" else None
            values = to_network_input(moved, stream, quantiser)
            if self.network.truncate_flow:
                values = truncated(values)
            features = self._features(values)
            mean = features.reshape(-1, views, *features.shape[1:]).mean(1)
            return mean.float().cpu().numpy()

    def rows(
        self, entry: Entry, snippets: Snippets, computed: Iterable[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the features of snippets, in order: of the units, or means over their items."""
        if not self.pooled:
            yield from computed
            return
        items = iter(self.units(snippets)[:, 0].tolist())
        values = (value for batch in computed for value in batch)
        waiting: dict[int, NDArray[np.float32]] = {}
        for snippet in snippets.rows_TF.tolist():
            for item in [item for item in waiting if item < snippet[0]]:
                del waiting[item]
            while snippet[-1] not in waiting:
                waiting[next(items)] = next(values)
            yield np.mean([waiting[item] for item in snippet], axis=0)[None]

    def _features(self, clips: Tensor) -> Tensor:
        """Run the network as far as the layer, and average what is not kept."""
        found = value = self._reach(self.model, clips)
        if value.ndim == 5:
            value = value.mean(2)
        if value.ndim == 3:
            value = value.mean(1)
        if value.ndim == 4 and not self.options.spatial:
            value = value.mean((2, 3))
        if self.options.spatial and value.ndim != 4:
            raise InvalidArgument(
                f'layer "{self.layer}" gives {tuple(found.shape[1:])}, which is no map; name a '
                "convolution or pooling, or keep means",
                parameter=("layer", "spatial"),
            )
        return value

    def _reach(self, model: nn.Module, clips: Tensor) -> Tensor:
        """Run a network as far as the layer, whose output (or input) is given."""
        module, before = find_layer(model, self._named)

        def keep(value: Any) -> None:
            raise _Reached(value[0] if isinstance(value, tuple) else value)

        if before:
            handle = module.register_forward_pre_hook(lambda _, given: keep(given))
        else:
            handle = module.register_forward_hook(lambda _, given, out: keep(out))
        try:
            with torch.inference_mode():
                model(clips)
        except _Reached as reached:
            return reached.value
        finally:
            handle.remove()
        raise InvalidArgument(f'layer "{self.layer}" is not reached; choose another')

    def _stream_of_unit(self, stream: StreamInput) -> StreamInput:
        """Return the stream of one unit: of T items, or of one, averaged over T later."""
        if stream.layout == "CHW":
            if self.frames != stream.frames and stream.frames != 1:
                raise InvalidArgument(
                    f"snippets of {self.frames} items do not go with a network that takes "
                    f"{stream.frames} at once; leave the length to the network, or give "
                    f"{stream.frames}"
                )
            return stream
        whole = replace(stream, frames=self.frames)
        if stream.layout != "TCHW" or self.frames == 1:
            return whole
        rows = len(self._features(self._zeros(whole)))
        # A layer that sees one frame at a time gives B·T rows, not B.
        return whole if rows == 1 else replace(stream, frames=1)

    def _zeros(self, stream: StreamInput) -> Tensor:
        return torch.zeros((1, *stream.input_shape), device=self.device)

    def _values_rule(self) -> str:
        stream = self.stream
        if stream.input == "flow":
            form = ", mean subtracted" if stream.mean_subtraction else ""
            form += f", truncated to {LEVELS + 1} levels" if self.network.truncate_flow else ""
            return f"px / {stream.flow_scale_px:g}{form}"
        return str(stream.rgb_range) if stream.input == "rgb" else "difference"


class _Reached(Exception):
    """The layer has been reached: what follows need not be computed."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def truncated(values: Tensor) -> Tensor:
    """Take −1..1 to the 256 levels of the truncating 8-bit family and back, as I3D saw flow.

    ::

        −1 → −1      0 → 127/255·2 − 1 = −0.0039      1 → 1
    """
    levels = ((values.clamp(-1, 1) + 1) * (LEVELS / 2)).floor()
    return levels * (2 / LEVELS) - 1


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(model_state(model).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_layer(model: nn.Module, name: str | None) -> tuple[nn.Module, bool]:
    """Return (layer, whether its input is meant): the classifier's input where none is named.

    Raises
    ------
    InvalidArgument
        If the network has no such layer.
    """
    layers = dict(model.named_modules())
    if name is None:
        return layers[str(model.classifier_name)], True
    if name not in layers or not name:
        known = [layer for layer in layers if layer]
        shown = ", ".join(known[-12:])
        raise InvalidArgument(
            f'the network has no layer "{name}"{nearest_name(name, known)}; the last ones are '
            f"{shown}"
        )
    return layers[name], False
