"""What a network looks at, which snippets of a video, and which layer is kept.

A *snippet* is T items (frames or flows), `stride` apart; the next one starts `step` items later.
Only snippets that lie inside the video are taken; a video shorter than one snippet gives one, its
last item repeated::

    frames 4, step 2, video of 9 items      ffff.....   ..ffff...   ....ffff.

A network that looks at one item (`CHW`, trained on single frames) gives the mean of its features
over the T items of a snippet; each item goes through the network once, however snippets overlap.
Of maps the mean over positions is kept, or, with `spatial`, the map (its mean over time).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.cache import Entry, FeatureRecipe
from flowpipe.cache.header import STORAGES
from flowpipe.clips import sampling
from flowpipe.clips.network_input import to_network_input
from flowpipe.clips.streams import StreamInput
from flowpipe.clips.transforms import Content, TestCrops, apply_view, make_test_views, to_layout
from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.models.weights import model_state
from flowpipe.models.weights.folding import fold_batch_norm
from flowpipe.training.devices import choose_device, place

# I3D's flow: ±20 px to 0..255 by truncation, and back to −1..1 by v/255·2 − 1.
LEVELS = 255
USUAL_FRAME_S = 0.04


@dataclass(frozen=True)
class Snippets:
    """Where the snippets of a video lie: rows of items, and seconds.

    Attributes
    ----------
    rows_TF : array of T×F int64
        The items of each snippet.
    span_s : array of T×2 float64
    fps : float
        Items per second.
    """

    rows_TF: NDArray[np.int64]
    span_s: NDArray[np.float64]
    fps: float

    @property
    def centre_s(self) -> NDArray[np.float64]:
        return self.span_s.mean(axis=1)  # type: ignore[no-any-return]


class FeatureExtractor:
    """A network, what it looks at, and which of its layers is kept.

    Parameters
    ----------
    model : nn.Module
        From `flowpipe.models.build`; it is put into evaluation mode.
    stream : StreamInput
        Input, size and values; its `frames` and `stride` (or `fps`) make a snippet.
    network, parameters
        The network's name and parameters, for the key.
    step : int, optional
        Items from snippet to snippet; by default the snippet's own length.
    frames : int, optional
        Items of a snippet, where that is not what the network takes: see the module.
    layer : str, optional
        Dotted name of the layer whose output is kept; by default what goes into the classifier.
    spatial : bool
        Keep the maps' rows and columns.
    crops, crop_scale
        See `flowpipe.clips.transforms.make_test_views`; the mean over several crops is kept.
    storage : "f16" or "f32"
    truncate_flow : bool
        Truncate flow to 256 levels within ±`flow_scale_px`, as I3D's was.
    device : "auto", "cpu" or "cuda"

    Raises
    ------
    InvalidArgument
        For arguments outside their rules, or a layer the network has not.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: StreamInput,
        *,
        network: str,
        parameters: Mapping[str, Any] | None = None,
        step: int | None = None,
        frames: int | None = None,
        layer: str | None = None,
        spatial: bool = False,
        crops: TestCrops = "center",
        crop_scale: float = 0.875,
        storage: str = "f16",
        truncate_flow: bool = False,
        device: str = "auto",
    ) -> None:
        if storage not in STORAGES:
            raise InvalidArgument(f'dtype "{storage}" must be one of {", ".join(STORAGES)}')
        if stream.input not in ("rgb", "flow", "rgbdiff") or stream.stacking != "plain":
            raise InvalidArgument(
                f"features are computed from rgb, flow or rgbdiff, items in a row; here the input "
                f"is {stream.input}, stacking {stream.stacking}"
            )
        if spatial and crops != "center":
            raise InvalidArgument(f'maps of "{crops}" crops have no mean; spatial needs "center"')
        if truncate_flow and stream.input != "flow":
            raise InvalidArgument(f"truncate_flow is for flow, not for {stream.input}")
        self.frames = stream.frames if frames is None else frames
        self.step = sampling.span(self.frames, stream.frame_step) if step is None else step
        if self.frames < 1 or self.step < 1:
            raise InvalidArgument(f"frames {self.frames} and step {self.step} must be ≥ 1")
        self.device = torch.device(choose_device(device))
        self.model = place(model, self.device).eval()
        self.layer = f"input of {model.classifier_name}" if layer is None else layer
        self._named = layer
        find_layer(model, layer)
        self.spatial, self.crops, self.crop_scale = spatial, crops, crop_scale
        self.storage, self.truncate_flow = storage, truncate_flow
        self.stream = self._stream_of_network(stream)
        self.pooled = self.stream.frames != self.frames
        self._weights_sha256 = weights_digest(model)
        # The same numbers within rounding, sooner.
        draw = torch.Generator().manual_seed(0)
        example = torch.rand((1, *self.stream.input_shape), generator=draw).to(self.device)
        self.model = fold_batch_norm(model, example, run=self._reach)
        self.shape = tuple(self._features(self._zeros(self.stream)).shape[1:])
        self._network, self._parameters = network, dict(parameters or {})

    def recipe(self, source: str) -> FeatureRecipe:
        """Give the recipe of features of flow entries of the recipe `source` (its id)."""
        stream = self.stream
        return FeatureRecipe(
            source=source,
            input=stream.input,
            network=self._network,
            network_parameters=self._parameters,
            weights_sha256=self._weights_sha256,
            layer=self.layer,
            spatial=self.spatial,
            frames=self.frames,
            stride=stream.frame_step,
            fps=stream.fps,
            step=self.step,
            crop_size=(stream.crop_size[0], stream.crop_size[1]),
            crop_scale=self.crop_scale,
            crops=self.crops,
            values=self._values_rule(),
            storage=self.storage,
        )

    def snippets(self, entry: Entry) -> Snippets:
        """Give the snippets of a video."""
        stream = self.stream
        length = stream.length(entry)
        pts_s = entry.pts_s
        steps_s = np.diff(pts_s)
        usual_s = float(np.median(steps_s)) if steps_s.size else USUAL_FRAME_S
        if stream.fps is None:
            items = np.arange(length)
            # Flow i ends where frame i + 1 is shown; the last frame is shown as long as others.
            bounds_s = np.append(pts_s, pts_s[-1] + usual_s)[: length + 1]
            fps = round(1 / usual_s, 6)
        else:
            fps = stream.fps
            last_s = float(pts_s[length - 1] - pts_s[0])
            count = int((last_s + sampling.TIME_SLACK_S) * fps) + 1
            items = sampling.low_rate_indices(pts_s[:length], float(pts_s[0]), count, fps)
            bounds_s = pts_s[0] + np.arange(count + 1) / fps
        covers = sampling.span(self.frames, stream.frame_step)
        starts = sampling.dense_starts(len(items), covers, self.step)
        rows = [
            sampling.clip_indices(int(start), self.frames, stream.frame_step, len(items))
            for start in starts
        ]
        stops = np.minimum(starts + covers, len(items))
        span_s = np.stack([bounds_s[starts], bounds_s[stops]], axis=1)
        return Snippets(items[np.stack(rows)], span_s, fps)

    def units(self, snippets: Snippets) -> NDArray[np.int64]:
        """Give what goes through the network, U×F items: whole snippets, or each item once."""
        if self.pooled:
            return np.unique(snippets.rows_TF)[:, None]
        return snippets.rows_TF

    def read(self, entry: Entry, units_UF: NDArray[np.int64]) -> Tensor:
        """Give the codes of some units, U·V × the network's clip, as a data loader would."""
        stream = self.stream
        unique, places = np.unique(units_UF, return_inverse=True)
        codes_TCHW = stream.items(entry, unique)
        views = make_test_views(
            (entry.height, entry.width),
            stream.crop_size,
            crops=self.crops,
            scale=self.crop_scale,
        )
        content: Content = stream.input  # type: ignore[assignment]
        seen = [apply_view(codes_TCHW, view, stream.crop_size, content) for view in views]
        clips = [
            to_layout(view_TCHW[rows], stream.layout)
            for rows in places.reshape(units_UF.shape)
            for view_TCHW in seen
        ]
        return torch.from_numpy(np.stack(clips))

    def compute(self, codes: Tensor, entry: Entry) -> NDArray[np.float32]:
        """Give the features of the units that `read` gave, U × `shape`, float32."""
        stream = self.stream
        views = 10 if self.crops == "ten" else {"center": 1, "three": 3, "five": 5}[self.crops]
        with torch.inference_mode():
            moved = {stream.name: codes.to(self.device, non_blocking=True)}
            quantiser = entry.quantiser if stream.input == "flow" else None
            values = to_network_input(moved, stream, quantiser)
            if self.truncate_flow:
                values = truncated(values)
            features = self._features(values)
            mean = features.reshape(-1, views, *features.shape[1:]).mean(1)
            return mean.float().cpu().numpy()

    def _features(self, clips: Tensor) -> Tensor:
        """Run the network as far as the layer, and average what is not kept."""
        found = value = self._reach(self.model, clips)
        if value.ndim == 5:
            value = value.mean(2)
        if value.ndim == 3:
            value = value.mean(1)
        if value.ndim == 4 and not self.spatial:
            value = value.mean((2, 3))
        if self.spatial and value.ndim != 4:
            raise InvalidArgument(
                f'layer "{self.layer}" gives {tuple(found.shape[1:])}, which is no map; name a '
                "convolution or pooling with --layer, or leave --spatial out"
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

    def _stream_of_network(self, stream: StreamInput) -> StreamInput:
        """The stream of one unit: of T items, or of one whose features are averaged over T."""
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
            form += f", truncated to {LEVELS + 1} levels" if self.truncate_flow else ""
            return f"px / {stream.flow_scale_px:g}{form}"
        return stream.rgb_range if stream.input == "rgb" else "difference"


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
    """Give (layer, whether its input is meant): the classifier's input where none is named.

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
