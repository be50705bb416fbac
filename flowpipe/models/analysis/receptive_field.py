"""The receptive field of every value of a running network, and its multiply-adds.

A value of a layer depends on a box of the clip: an interval of frames, of rows and of columns.
`Tracer` runs beside a forward pass and computes the ends of the boxes for every tensor by the
operation that made it: a convolution takes the union over its window, an addition that of its
terms, a view moves the ends as it moves the values. Branches, residuals, recurrences and
attention need no rule of their own.

Where a window reaches into padding the ends go on as they do inside, so that a size is that of
the formula r + (k − 1)·j (kernel k, distance j between neighbours, in input steps) and may exceed
the input. Where a layer joins a whole axis (global average, fully connected layer, attention),
the field is the input there and no more.

Only shapes matter: the pass may run on torch's meta device, where nothing is computed.

References
----------
A. Araujo, W. Norris, J. Sim, "Computing receptive fields of convolutional neural networks",
Distill, 2019. https://doi.org/10.23915/distill.00021
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

Shape: TypeAlias = tuple[int, ...]
# Name of the operation, its multiply-adds, its output, the output's shape with every axis that it
# joined kept at length 1, and the field that came in.
OnOperation: TypeAlias = Callable[[str, int, Tensor, Shape, "Field | None"], None]

# Ends of what depends on nothing, first > last: no union keeps them.
NOTHING = 2**28

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "var", "std", "prod")
SOFTMAXES = ("_softmax", "_safe_softmax", "_log_softmax", "native_layer_norm")
POOLS = (
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
)
ADAPTIVE_POOLS = (
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
COPIES = ("clone", "_to_copy", "detach", "alias", "lift_fresh", "native_dropout")
CONSTANTS = (
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty",
)  # fmt: skip
# Operations that give values another place and leave them as they are.
MOVES = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "slice",
    "select", "unsqueeze", "squeeze", "expand", "split", "split_with_sizes", "unsafe_split",
    "unsafe_split_with_sizes", "unbind", "cat", "stack", "flip", "roll", "repeat", "unfold",
    "index_select", "index", "movedim", "diagonal",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Field:
    """Ends of the boxes of one tensor's values, along T, H and W.

    Attributes
    ----------
    first, last : three tensors of the tensor's own shape
        First and last index of the interval. Axes along which nothing changes have stride 0, so
        that they take no memory.
    jump : three int
        Input steps between neighbours; remembered for axes that have shrunk to length 1.
    """

    first: tuple[Tensor, ...]
    last: tuple[Tensor, ...]
    jump: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Largest T×H×W of a box; 0 where nothing of the clip arrives."""
        t, h, w = (
            max(0, int((_core(last) - _core(first)).max()) + 1)
            for first, last in zip(self.first, self.last, strict=True)
        )
        return t, h, w


def clip_field(clip_shape: Sequence[int], layout: str) -> Field:
    """Return the field of a clip: every value depends on its own frame, row and column.

    Parameters
    ----------
    clip_shape : (C, T, H, W)
    layout : {"CHW", "CTHW", "TCHW"}
        How the network takes the clip; "CHW" has T·C channels, frame after frame.
    """
    channels, *sizes = clip_shape
    t, h, w = (torch.arange(size, dtype=torch.int32, device="cpu") for size in sizes)
    rows: Shape
    if layout == "CTHW":
        shape, places = (1, channels, *sizes), (2, 3, 4)
    elif layout == "TCHW":
        shape, places = (1, sizes[0], channels, *sizes[1:]), (1, 3, 4)
    else:
        t = t.repeat_interleave(channels)
        shape, places = (1, len(t), *sizes[1:]), (1, 2, 3)
    ends = []
    for index, place in zip((t, h, w), places, strict=True):
        rows = tuple(-1 if dim == place else 1 for dim in range(len(shape)))
        ends.append(index.reshape(rows).expand(shape))
    return Field(tuple(ends), tuple(ends), (1, 1, 1))


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the fields of all tensors that depend on a clip, and count multiply-adds.

    Parameters
    ----------
    clip : Tensor
        The network's input, batch 1; its forward pass runs inside `with tracer:`.
    clip_shape : (C, T, H, W)
    layout : str
        See `clip_field`.
    on_operation : callable
        Called for each operation that multiplies, slides a window or joins an axis.

    Attributes
    ----------
    unknown : set of str
        Operations without a rule. What they give is taken to depend on all they were given, so
        that fields behind them are upper bounds.
    """

    def __init__(
        self, clip: Tensor, clip_shape: Sequence[int], layout: str, on_operation: OnOperation
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields = WeakTensorKeyDictionary()
        self._fields[clip] = clip_field(clip_shape, layout)
        self._ends = [size - 1 for size in clip_shape[1:]]
        self._on_operation = on_operation
        self.unknown: set[str] = set()

    def field(self, value: object) -> Field | None:
        """Return the field of a tensor; None where it does not depend on the clip."""
        known = isinstance(value, Tensor) and value in self._fields
        found: Field | None = self._fields[value] if known else None
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        terms = [f for leaf in tree_leaves((args, kwargs)) if (f := self.field(leaf)) is not None]
        if terms and outputs:
            fields = self._follow(func, name, args, kwargs, outputs, terms)
            for output, field in zip(outputs, fields, strict=True):
                self._fields[output] = field
        count = flop_registry.get(func.overloadpacket)
        macs = count(*args, **kwargs, out_val=out) // 2 if count is not None else 0
        slides = name == "convolution" or name in POOLS or name in ADAPTIVE_POOLS
        if macs or slides:
            shape = tuple(outputs[0].shape)
            self._on_operation(name, macs, outputs[0], shape, self.field(args[0]))
        elif name in REDUCTIONS and terms:
            shape = _kept_shape(args, kwargs)
            self._on_operation(name, 0, outputs[0], shape, self.field(args[0]))
        return out

    def _follow(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        outputs: list[Tensor],
        terms: list[Field],
    ) -> list[Field]:
        """Return the field of each output."""
        own = self.field(args[0]) if args else None
        shape = outputs[0].shape
        if name in MOVES and (fields := self._moved(func, name, args, kwargs)) is not None:
            return fields
        if name in PRODUCTS:
            return [self._product(name, args, shape)]
        if name in CONSTANTS:
            return [_nothing(shape)]
        if own is None or name in ("copy_", "where"):
            pass
        elif name in COPIES or "batch_norm" in name:
            return [own] * len(outputs)
        elif name in POOLS or (name == "convolution" and not args[6]):
            return [self._windowed(own, name, args, shape)] * len(outputs)
        elif name in ADAPTIVE_POOLS:
            return [self._adaptive(own, args[0].shape, shape)] * len(outputs)
        elif name == "constant_pad_nd":
            return [self._padded(own, args[0].shape, args[1])]
        elif name in REDUCTIONS or name in SOFTMAXES:
            return [self._reduced(own, name, args, kwargs, shape)] * len(outputs)
        if torch.Tag.pointwise in func.tags or name == "copy_":
            return [self._pointwise(name, args[0], terms, shape)]
        self.unknown.add(name)
        return [self._whole(terms, output.shape) for output in outputs]

    def _moved(self, func: Any, name: str, args: Any, kwargs: Any) -> list[Field] | None:
        """Move the ends by the same operation; None where its index has no values (meta)."""
        sources = args[0] if isinstance(args[0], list | tuple) else [args[0]]
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves((args[1:], kwargs))):
            indices = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor)]
            if any(index.is_meta for index in indices):
                return None
        fields = [self.field(source) or _nothing(source.shape) for source in sources]
        if name in ("view", "_unsafe_view", "_reshape_alias"):
            func, args, kwargs = torch.reshape, args[:2], {}
        moved: list[list[Tensor]] = []
        for ends in zip(*((*field.first, *field.last) for field in fields), strict=True):
            first_argument = list(ends) if isinstance(args[0], list | tuple) else ends[0].detach()
            moved.append(
                [_compressed(e) for e in tree_leaves(func(first_argument, *args[1:], **kwargs))]
            )
        jump = [max(jumps) for jumps in zip(*(field.jump for field in fields), strict=True)]
        return [
            Field(
                ends[:3],
                ends[3:],
                tuple(_jump(first, old) for first, old in zip(ends[:3], jump, strict=True)),
            )
            for ends in zip(*moved, strict=True)
        ]

    def _product(self, name: str, args: Any, shape: Sequence[int]) -> Field:
        """A row of the left factor meets a column of the right one."""
        *bias, left, right = args[:3] if name in ("addmm", "baddbmm") else args[:2]
        terms = []
        for factor, dim in ((left, -1), (right, -2)):
            if (field := self.field(factor)) is not None:
                terms.append(self._joined(field, [dim % factor.dim()]))
        terms += [field for term in bias if (field := self.field(term)) is not None]
        return _union(terms, shape)

    def _reduced(
        self, own: Field, name: str, args: Any, kwargs: Any, shape: Sequence[int]
    ) -> Field:
        value = args[0]
        if name == "native_layer_norm":
            dims = list(range(value.dim() - len(args[1]), value.dim()))
        else:
            dims = _dims(args, kwargs)
        joined = self._joined(own, dims)
        if len(shape) == value.dim():
            return _union([joined], shape)
        return Field(
            tuple(ends.squeeze(dims) for ends in joined.first),
            tuple(ends.squeeze(dims) for ends in joined.last),
            joined.jump,
        )

    def _pointwise(
        self, name: str, target: object, terms: list[Field], shape: Sequence[int]
    ) -> Field:
        if name == "copy_":
            terms = terms[-1:]
            # Values written into a part of a tensor: the whole is taken to depend on them.
            base = target._base if isinstance(target, Tensor) else None
            if base is not None:
                self.unknown.add("copy_ into a part")
                earlier = self.field(base) or _nothing(base.shape)
                self._fields[base] = _union([earlier, self._whole(terms, base.shape)], base.shape)
        return _union(terms, shape)

    def _joined(self, field: Field, dims: Sequence[int], *, cut: bool = True) -> Field:
        """Unite along whole axes, kept at length 1; what was united is cut at the input's ends.

        Not where one value's box holds all others': those are branches that were concatenated.
        """
        firsts, lasts = [], []
        for first, last, end in zip(field.first, field.last, self._ends, strict=True):
            low, high = _core(first).amin(list(dims), True), _core(last).amax(list(dims), True)
            largest = (_core(last) - _core(first)).amax(list(dims), True)
            if cut and bool((high - low > largest).any()):
                low, high = _clamped(low, high, end)
            kept = [1 if dim in dims else size for dim, size in enumerate(first.shape)]
            firsts.append(low.expand(kept))
            lasts.append(high.expand(kept))
        return Field(tuple(firsts), tuple(lasts), field.jump)

    def _whole(self, terms: Sequence[Field], shape: Sequence[int]) -> Field:
        """All of the terms together, for every value of a shape."""
        scalars = []
        for term in terms:
            flat = self._joined(term, range(term.first[0].dim()))
            pairs = [
                _clamped(first.reshape(()), last.reshape(()), end)
                for first, last, end in zip(flat.first, flat.last, self._ends, strict=True)
            ]
            firsts, lasts = zip(*pairs, strict=True)
            scalars.append(Field(firsts, lasts, term.jump))
        return _union(scalars, shape)

    def _windowed(self, field: Field, name: str, args: Any, shape: Sequence[int]) -> Field:
        value = args[0]
        if name == "convolution":
            # Frames or branches in the channels; padding goes on as without them.
            field = self._joined(field, [1], cut=False)
            kernel = list(args[1].shape[2:])
            steps, paddings, dilations = args[3], args[4], args[5]
        else:
            kernel = args[1]
            steps = args[2] if len(args) > 2 and args[2] else kernel
            paddings = args[3] if len(args) > 3 else [0]
            dilations = args[4] if len(args) > 4 and name.startswith("max") else [1]
        rank = len(kernel) if name == "convolution" else int(name.split("pool")[1][0])
        for number in range(rank):
            dim = value.dim() - rank + number
            numbers = (
                values[number] if len(values) > 1 else values[0]
                for values in (kernel, steps, paddings, dilations)
            )
            size, step, padding, dilation = numbers
            window = _Window(size, step, padding, dilation, shape[dim])
            field = self._slid(field, dim, window)
        return _union([field], shape)

    def _slid(self, field: Field, dim: int, window: "_Window") -> Field:
        """Unite over a window along one dim."""
        firsts, lasts, jumps = [], [], []
        for axis, end in enumerate(self._ends):
            first, last, jump = field.first[axis], field.last[axis], field.jump[axis]
            length, carries = first.shape[dim], _axis_of(dim, first.dim()) == axis
            varies = max(_core(first).shape[dim], _core(last).shape[dim]) > 1
            step = jump if length == 1 and carries else 0
            low = _slide(first, dim, window, step, lower=True)
            high = _slide(last, dim, window, step, lower=False)
            if varies and window.covers(length):
                low, high = _clamped(low, high, end)
            firsts.append(low)
            lasts.append(high)
            jumps.append(jump * window.stride if varies or step else jump)
        return Field(tuple(firsts), tuple(lasts), tuple(jumps))

    def _adaptive(self, field: Field, before: Sequence[int], after: Sequence[int]) -> Field:
        for dim in range(len(before)):
            if after[dim] == 1:
                field = self._joined(field, [dim])
            elif after[dim] != before[dim]:
                n, m = before[dim], after[dim]
                parts = [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
                field = Field(
                    tuple(
                        torch.cat([e[_at(dim, p)].amin(dim, True) for p in parts], dim)
                        for e in field.first
                    ),
                    tuple(
                        torch.cat([e[_at(dim, p)].amax(dim, True) for p in parts], dim)
                        for e in field.last
                    ),
                    tuple(jump * n // m for jump in field.jump),
                )
        return _union([field], after)

    def _padded(self, field: Field, before: Sequence[int], pads: Sequence[int]) -> Field:
        for number in range(len(pads) // 2):
            dim = len(before) - 1 - number
            left, right = pads[2 * number : 2 * number + 2]
            length = before[dim]
            ends = []
            for axis, each in enumerate((*field.first, *field.last)):
                carries = length == 1 and _axis_of(dim, len(before)) == axis % 3
                step = field.jump[axis % 3] if carries else 0
                longer = _extended(_core(each), dim, length, left, right, step)
                shape = list(each.shape)
                shape[dim] = length + left + right
                ends.append(longer.expand(shape))
            field = Field(tuple(ends[:3]), tuple(ends[3:]), field.jump)
        return field


@dataclass(frozen=True)
class _Window:
    kernel: int
    stride: int
    padding: int
    dilation: int
    length_out: int

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    def covers(self, length: int) -> bool:
        """Whether it joins the whole axis, like a global pooling or a fully connected layer."""
        return self.padding == 0 and self.length_out == 1 and self.reach >= length


def _slide(ends: Tensor, dim: int, window: _Window, step: int, *, lower: bool) -> Tensor:
    length, shape = ends.shape[dim], list(ends.shape)
    shape[dim] = window.length_out
    after = (window.length_out - 1) * window.stride + window.reach - length - window.padding
    longer = _extended(_core(ends), dim, length, window.padding, after, step)
    if longer.shape[dim] > 1 or window.length_out == 1:
        views = longer.unfold(dim, min(window.reach, longer.shape[dim]), window.stride)
        longer = views.amin(-1) if lower else views.amax(-1)
    return longer.expand(shape)


def _extended(core: Tensor, dim: int, length: int, before: int, after: int, step: int) -> Tensor:
    """Go on at both sides of one dim as the values do inside; a negative number cuts."""
    if core.shape[dim] == 1 and (length > 1 or not step):
        return core  # the same everywhere
    size = core.shape[dim]
    start, stop = max(0, -before), size - max(0, -after)
    head_step = tail_step = core.new_tensor(step)
    if size > 1:
        head_step = core.narrow(dim, 1, 1) - core.narrow(dim, 0, 1)
        tail_step = core.narrow(dim, size - 1, 1) - core.narrow(dim, size - 2, 1)
    rows = [-1 if d == dim else 1 for d in range(core.dim())]
    parts = [core.narrow(dim, start, stop - start)]
    if before > 0:
        count = torch.arange(before, 0, -1, dtype=core.dtype, device="cpu").reshape(rows)
        parts.insert(0, core.narrow(dim, 0, 1) - head_step * count)
    if after > 0:
        count = torch.arange(1, after + 1, dtype=core.dtype, device="cpu").reshape(rows)
        parts.append(core.narrow(dim, size - 1, 1) + tail_step * count)
    return torch.cat(parts, dim)


def _union(terms: Sequence[Field], shape: Sequence[int]) -> Field:
    """Unite value by value, after broadcasting to a shape."""
    ends = []
    for number in range(6):
        unite = torch.minimum if number < 3 else torch.maximum
        united: Tensor | None = None
        for term in terms:
            core = _core((*term.first, *term.last)[number].expand(list(shape)))
            united = core if united is None else unite(united, core)
        assert united is not None
        ends.append(united.expand(list(shape)))
    jump = tuple(max(jumps) for jumps in zip(*(term.jump for term in terms), strict=True))
    return Field(tuple(ends[:3]), tuple(ends[3:]), jump)


def _nothing(shape: Sequence[int]) -> Field:
    first, last = (
        torch.full([1] * len(shape), end, dtype=torch.int32, device="cpu").expand(list(shape))
        for end in (NOTHING, -NOTHING)
    )
    return Field((first,) * 3, (last,) * 3, (1, 1, 1))


def _core(ends: Tensor) -> Tensor:
    """Cut every axis along which nothing changes (stride 0) to length 1."""
    for dim, (size, stride) in enumerate(zip(ends.shape, ends.stride(), strict=True)):
        if size > 1 and stride == 0:
            ends = ends.narrow(dim, 0, 1)
    return ends


def _compressed(ends: Tensor) -> Tensor:
    """Give axes along which nothing changes the stride 0 again, which copies lose."""
    core = _core(ends)
    for dim in range(core.dim()):
        if core.shape[dim] > 1 and bool((core == core.narrow(dim, 0, 1)).all()):
            core = core.narrow(dim, 0, 1)
    return core.expand(ends.shape)


def _jump(first: Tensor, otherwise: int) -> int:
    core = _core(first)
    for dim in range(core.dim()):
        if core.shape[dim] > 1:
            steps = core.diff(dim=dim).abs()
            if bool((steps > 0).any()):
                return int(steps[steps > 0].min())
    return otherwise


def _clamped(first: Tensor, last: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Cut at the input's ends; what depends on nothing stays so."""
    shape = torch.broadcast_shapes(first.shape, last.shape)  # type: ignore[no-untyped-call]
    low, high = _core(first), _core(last)
    nothing = low > high
    return (
        torch.where(nothing, low, low.clamp(0, end)).expand(shape),
        torch.where(nothing, high, high.clamp(0, end)).expand(shape),
    )


def _axis_of(dim: int, ndim: int) -> int | None:
    """Which of T, H, W a dim of length 1 stands for: …THW, …HW, or T alone behind channels."""
    if dim < 2:
        return None
    return 0 if ndim == 3 else dim - ndim + 3


def _at(dim: int, part: range) -> tuple[slice, ...]:
    return (*(slice(None),) * dim, slice(part.start, part.stop))


def _dims(args: Any, kwargs: Any) -> list[int]:
    """The axes that a reduction joins; all of them where none is given."""
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    ndim = args[0].dim()
    if given is None or given == []:
        return list(range(ndim))
    return [dim % ndim for dim in (given if isinstance(given, list | tuple) else [given])]


def _kept_shape(args: Any, kwargs: Any) -> Shape:
    dims = _dims(args, kwargs)
    return tuple(1 if dim in dims else size for dim, size in enumerate(args[0].shape))
