"""A network layer by layer: output size, receptive field, parameters, multiply-adds.

`describe` runs a network once on torch's meta device, where only shapes are computed, so that the
largest takes seconds and no memory. A row is a layer without layers inside, or a multiplication,
pooling or average that a network computes in its own `forward`; layers that change neither size
nor field and have no parameter (ReLU, dropout) have no row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowpipe.errors import FlowpipeError, InvalidArgument
from flowpipe.models import TABLE, build_for_clip, input_layout
from flowpipe.models.analysis.receptive_field import Field, Tracer
from flowpipe.models.layers import Undrawn


@dataclass(frozen=True)
class Layer:
    """One row of the table.

    Attributes
    ----------
    name : str
        Dotted name of the layer; operations of a network's own `forward` stand behind the name
        of the layer that computes them.
    kind : str
        Its class, or the operation.
    output : tuple of int
        C×T×H×W, C×H×W behind a 2D layer that has no time, or fewer behind flattening.
    receptive_field : (T, H, W)
        In frames and pixels of the clip; the largest of any value of the output.
    parameters : int
        Those that no earlier row has.
    macs : int
        Multiply-adds for one clip, over all calls.
    calls : int
        How often it ran: once per step for a recurrent cell.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    receptive_field: tuple[int, int, int]
    parameters: int
    macs: int
    calls: int = 1


@dataclass(frozen=True)
class Summary:
    """A network on one clip.

    Attributes
    ----------
    input : (C, T, H, W)
    layout : str
        How the network takes the clip.
    parameters, macs : int
        Totals.
    layers : tuple of Layer
        In the order in which they ran.
    blocks : mapping of str to Layer
        Size and field of what layers with layers inside gave, by name.
    without_rule : tuple of str
        Operations whose fields are upper bounds and whose multiply-adds are not counted.
    """

    input: tuple[int, int, int, int]
    layout: str
    parameters: int
    macs: int
    layers: tuple[Layer, ...]
    blocks: Mapping[str, Layer]
    without_rule: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        record = asdict(self)
        del record["blocks"]
        return record

    def at_depth(self, depth: int) -> "Summary":
        """Join the layers of each block whose dotted name has `depth` parts.

        Raises
        ------
        InvalidArgument
            If `depth` < 1.
        """
        if depth < 1:
            raise InvalidArgument(f"depth {depth} must be ≥ 1; 1 joins the layers of each stage")
        joined: dict[str, Layer] = {}
        for layer in self.layers:
            name = ".".join(layer.name.split(".")[:depth])
            own = layer if name == layer.name else self.blocks.get(name, layer)
            before = joined.get(name)
            joined[name] = replace(
                own,
                name=name,
                parameters=layer.parameters + (before.parameters if before else 0),
                macs=layer.macs + (before.macs if before else 0),
                calls=1,
            )
        return replace(self, layers=tuple(joined.values()))


def describe(
    name: str,
    *,
    num_classes: int,
    clip: Sequence[int] | None = None,
    **parameters: Any,
) -> Summary:
    """Describe a network by its name.

    Parameters
    ----------
    name : str
        A name of `TABLE`, or your own as `package.module:callable`.
    num_classes : int
        K.
    clip : (C, T, H, W), optional
        The clip; a network of layout "CHW" gets it as T·C channels. Default: the published one;
        3×1×112×112 or 3×16×112×112 for your own.
    **parameters
        Keyword parameters of the network.

    Raises
    ------
    UnknownName, InvalidArgument
        As `build`, and if the network cannot take the clip.
    """
    if clip is not None and (len(clip) != 4 or min(clip) < 1):
        raise InvalidArgument(
            f"clip {','.join(map(str, clip))} must be C,T,H,W, four whole numbers ≥ 1; "
            "3,16,112,112 is C3D's"
        )

    if clip is not None:
        channels, frames, height, width = clip
        size = (channels, frames, height, width)
    elif name in TABLE:
        size = TABLE[name].clip_CTHW
    else:
        size = (3, 1 if input_layout(name, **parameters) == "CHW" else 16, 112, 112)

    def run(device: str) -> Summary:
        with torch.random.fork_rng(devices=[]), torch.device(device), Undrawn():
            network = build_for_clip(name, size, num_classes=num_classes, **parameters)
        return summarise(network, size)

    try:
        return run("meta")
    except FlowpipeError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        # A network that looks at values, or takes its weights from arrays, needs real ones.
        return _run_really(run)


def _run_really(run: Callable[[str], Summary]) -> Summary:
    try:
        return run("cpu")
    except (RuntimeError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidArgument(
            f"the network cannot take this clip: {reason}; give another one"
        ) from error


def summarise(network: nn.Module, clip: Sequence[int]) -> Summary:
    """Describe a network that is built, on the device where it lies; its mode is kept.

    Parameters
    ----------
    network : nn.Module
        With `input_layout`.
    clip : (C, T, H, W)

    Raises
    ------
    InvalidArgument
        If the network cannot take the clip.
    """
    channels, frames, height, width = clip
    layout = str(network.input_layout)
    shapes = {
        "CHW": (1, frames * channels, height, width),
        "CTHW": (1, channels, frames, height, width),
        "TCHW": (1, frames, channels, height, width),
    }
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), device:
            value = torch.zeros(shapes[layout])
            rows = _Rows(network)
            tracer = Tracer(value, clip, layout, rows.on_operation)
            rows.run(tracer, value)
    finally:
        for module, training in modes:
            module.training = training
    return Summary(
        (channels, frames, height, width),
        layout,
        sum(p.numel() for p in network.parameters()),
        sum(layer.macs for layer in rows.layers),
        tuple(rows.layers),
        rows.blocks,
        tuple(sorted(tracer.unknown)),
    )


@dataclass
class _Call:
    """A layer that is running: the clip's field and size as they came in, what it multiplied."""

    name: str
    module: nn.Module
    arrived: tuple[tuple[int, ...], Field | None] | None
    macs: int = 0


class _Rows:
    """Collect rows from hooks on all layers, and from operations outside of the innermost."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers: list[Layer] = []
        self._running: list[_Call] = []
        self.blocks: dict[str, Layer] = {}
        self._counted: set[int] = set()
        self._tracer: Tracer

    def run(self, tracer: Tracer, clip: Tensor) -> None:
        self._tracer = tracer
        handles = []
        for name, module in self.network.named_modules():
            before, after = self._hooks(name)
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
        try:
            with tracer:
                self.network(clip)
        finally:
            for handle in handles:
                handle.remove()
        left = self._own_parameters(self.network, recurse=True)
        if left:
            self.layers.append(Layer("(not run)", "parameters", (), (0, 0, 0), left, 0, 0))

    def on_operation(
        self,
        name: str,
        macs: int,
        output: Tensor,
        shape: tuple[int, ...],
        arrived: Field | None,
    ) -> None:
        call = self._running[-1]
        if not list(call.module.children()) and len(self._running) > 1:
            call.macs += macs
            return
        kind = KINDS.get(name, name)
        field = self._tracer.field(output)
        if field is None:
            return
        self._add(
            f"{call.name}.{kind}".lstrip("."),
            kind,
            _clip_shape(shape, arrived),
            field,
            self._own_parameters(call.module) if macs else 0,
            macs,
        )

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: Any) -> None:
            arrived = None
            if args and isinstance(args[0], Tensor):
                arrived = (tuple(args[0].shape), self._tracer.field(args[0]))
            self._running.append(_Call(name, module, arrived))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._finish(self._running.pop(), output)

        return before, after

    def _finish(self, call: _Call, output: Any) -> None:
        """Add the row of a layer without layers inside, or of one's parameters of its own."""
        value = output[0] if isinstance(output, tuple | list) else output
        field = self._tracer.field(value)
        own = self._own_parameters(call.module)
        if field is None:
            return
        if list(call.module.children()):
            shape = _clip_shape(value.shape, field)
            self.blocks[call.name] = Layer(
                call.name, type(call.module).__name__, shape, field.size, 0, 0
            )
            if not own:
                return
        unchanged = call.arrived is not None and (
            call.arrived[0] == tuple(value.shape)
            and call.arrived[1] is not None
            and call.arrived[1].size == field.size
        )
        again = any(layer.name == call.name for layer in self.layers)
        if unchanged and not own and not call.macs and not again:
            return
        if not self._running and not own and not call.macs:
            return
        kind = type(call.module).__name__
        self._add(call.name, kind, _clip_shape(value.shape, field), field, own, call.macs)

    def _add(
        self,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        field: Field,
        parameters: int,
        macs: int,
    ) -> None:
        """Add a row, or join it to that of an earlier call with the same size."""
        t, h, w = field.size
        for place, layer in enumerate(self.layers):
            if layer.name == name and layer.output == shape:
                a, b, c = layer.receptive_field
                self.layers[place] = Layer(
                    name,
                    kind,
                    shape,
                    (max(t, a), max(h, b), max(w, c)),
                    layer.parameters + parameters,
                    layer.macs + macs,
                    layer.calls + 1,
                )
                return
        self.layers.append(Layer(name, kind, shape, (t, h, w), parameters, macs))

    def _own_parameters(self, module: nn.Module, *, recurse: bool = False) -> int:
        """Count the parameters that no row has yet."""
        count = 0
        for parameter in module.parameters(recurse=recurse):
            if id(parameter) not in self._counted:
                self._counted.add(id(parameter))
                count += parameter.numel()
        return count


# What functions are called in torch's own terms.
KINDS = {
    "convolution": "conv",
    "addmm": "linear",
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
}


def _clip_shape(shape: Sequence[int], field: Field | None) -> tuple[int, ...]:
    """Turn a tensor's shape into C×T×H×W: frames may stand in the batch or before the channels.

    `field` tells the latter: where the frames that a value depends on change along axis 1.

    ::

        1×C×T×H×W → C×T×H×W    1×C×H×W → C×H×W    1×D → D
        1×T×C×H×W → C×T×H×W    T×C×H×W → C×T×H×W  T×D → D×T    1×T×D → D×T
    """
    batch, *rest = shape
    if batch > 1:
        return (rest[0], batch, *rest[1:]) if rest else (batch,)
    if len(rest) == 2 and rest[0] == 1:
        return (rest[1],)
    if field is not None and len(rest) in (2, 4) and field.first[0].dim() == len(shape):
        pair = (field.first[0], field.last[0])
        varies = [any(e.shape[d] > 1 and e.stride(d) != 0 for e in pair) for d in (0, 1, 2)]
        if (varies[1] or rest[0] == 1) and not varies[2]:
            return (rest[1], rest[0], *rest[2:])
    return tuple(rest)
