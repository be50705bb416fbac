"""Vector instructions for numba kernels over rows of float32.

numba vectorises a loop when it can show that no store changes a later load. With a dozen planes
of one buffer it cannot, so these kernels emit the vectors themselves, as LLVM's portable vector
code (lowered to AVX-512, AVX2, SSE or NEON alike), and read like their formula::

    @vector_kernel(float32(rows, intp, intp))
    def sum_of_squares(k, row, start, count):
        total = k.variable(0.0)
        with k.lanes(count) as x:
            value = k.load(row, k.at(start, x))
            total.set(total.get() + value * value)
        return total.get().sum()

inside an njit function: `sum_of_squares(buffer, first, length)`. A last vector may reach beyond
`count`, so rows need that much room behind them. numba's cache on disk does not notice a change
of this file: touch the file of the kernels as well.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

rows = types.Array(types.float32, 1, "C")
"""Type of a flat buffer of float32; kernels address it by offsets, in floats."""

_FEATURES = llvm.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx") else 4
"""Floats in one register of this machine."""

# Reassociation and reciprocals are fine; there are no NaN and no infinities in these kernels.
_FAST = ("fast",)
_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)

Scalar = float | int


class Vector:
    """A vector of float32 under construction; operators take vectors and numbers."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    def _same(self, other: "Vector | Scalar") -> Any:
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.value.type, [float(other)] * self.value.type.count)

    def _new(self, value: Any) -> "Vector":
        return Vector(self.builder, value)

    def __add__(self, other: "Vector | Scalar") -> "Vector":
        return self._new(self.builder.fadd(self.value, self._same(other), flags=_FAST))

    def __sub__(self, other: "Vector | Scalar") -> "Vector":
        return self._new(self.builder.fsub(self.value, self._same(other), flags=_FAST))

    def __mul__(self, other: "Vector | Scalar") -> "Vector":
        return self._new(self.builder.fmul(self.value, self._same(other), flags=_FAST))

    def __neg__(self) -> "Vector":
        return self * -1.0

    def reciprocal(self) -> "Vector":
        """1 / x."""
        return self._new(self.builder.fdiv(self._same(1.0), self.value, flags=_FAST))

    def sqrt(self) -> "Vector":
        """Square root."""
        return self._new(self._call("llvm.sqrt", self.value.type, [self.value]))

    def minimum(self, other: "Vector | Scalar") -> "Vector":
        """Smaller of two."""
        return self.where("<", other, self, other)

    def maximum(self, other: "Vector | Scalar") -> "Vector":
        """Larger of two."""
        return self.where(">", other, self, other)

    def where(
        self,
        comparison: str,
        threshold: "Vector | Scalar",
        then: "Vector | Scalar",
        otherwise: "Vector | Scalar",
    ) -> "Vector":
        """Lane by lane `then` where `self comparison threshold` holds, else `otherwise`."""
        holds = self.builder.fcmp_ordered(
            comparison, self.value, self._same(threshold), flags=("nnan", "nsz")
        )
        return self._new(self.builder.select(holds, self._same(then), self._same(otherwise)))

    def pick(self, lanes: list[int]) -> "Vector":
        """Give the lanes of these numbers."""
        order = ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes)
        unused = ir.Constant(self.value.type, ir.Undefined)
        return self._new(self.builder.shuffle_vector(self.value, unused, order))

    def sum(self) -> Any:
        """Sum of the lanes, a scalar."""
        start = ir.Constant(_FLOAT, 0.0)
        return self._call("llvm.vector.reduce.fadd", _FLOAT, [start, self.value])

    def _call(self, name: str, result: Any, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        full_name = f"{name}.v{self.value.type.count}f32"
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            self.builder.module, kind, full_name
        )
        return self.builder.call(function, arguments, fastmath=_FAST)


class Variable:
    """A vector that changes in a loop."""

    def __init__(self, builder: ir.IRBuilder, place: Any) -> None:
        self.builder, self.place = builder, place

    def get(self) -> Vector:
        return Vector(self.builder, self.builder.load(self.place))

    def set(self, vector: Vector) -> None:
        self.builder.store(vector.value, self.place)


class Kernel:
    """What a kernel's body builds with; its arguments are LLVM values."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def at(self, *terms: Any) -> Any:
        """Sum of offsets, LLVM values or numbers."""
        total = None
        for term in terms:
            value = _INT64(term) if isinstance(term, int) else term
            total = value if total is None else self.builder.add(total, value)
        return total

    def times(self, value: Any, factor: int) -> Any:
        """An offset several times."""
        return self.builder.mul(value, _INT64(factor))

    def load(self, buffer: Any, offset: Any, lanes: int = LANES) -> Vector:
        """Read `lanes` floats that follow each other."""
        place = self._vector_place(buffer, offset, lanes)
        return Vector(self.builder, self.builder.load(place, align=4))

    def store(self, vector: Vector, buffer: Any, offset: Any) -> None:
        """Write a vector."""
        place = self._vector_place(buffer, offset, vector.value.type.count)
        self.builder.store(vector.value, place, align=4)

    def _vector_place(self, buffer: Any, offset: Any, lanes: int) -> Any:
        place = self.builder.gep(buffer, [offset])
        return self.builder.bitcast(place, ir.VectorType(_FLOAT, lanes).as_pointer())

    def load_scalar(self, buffer: Any, offset: Any) -> Any:
        """Read one number of a buffer."""
        return self.builder.load(self.builder.gep(buffer, [offset]))

    def splat(self, scalar: Any, lanes: int = LANES) -> Vector:
        """The same scalar in each lane."""
        kind = ir.VectorType(_FLOAT, lanes)
        unused = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(unused, scalar, _INT32(0))
        return Vector(self.builder, first).pick([0] * lanes)

    def constant(self, numbers: list[float]) -> Vector:
        """One number for each lane."""
        kind = ir.VectorType(_FLOAT, len(numbers))
        return Vector(self.builder, ir.Constant(kind, [float(number) for number in numbers]))

    def variable(self, start: float) -> Variable:
        """A vector that can be set anew, each lane `start`."""
        kind = ir.VectorType(_FLOAT, LANES)
        place = cgutils.alloca_once(self.builder, kind)  # type: ignore[no-untyped-call]
        variable = Variable(self.builder, place)
        variable.set(self.constant([start] * LANES))
        return variable

    @contextmanager
    def lanes(self, count: Any, step: int = LANES) -> Iterator[Any]:
        """Loop over x = 0, `step`, 2·`step`, … < count."""
        with cgutils.for_range_slice(self.builder, _INT64(0), count, _INT64(step), _INT64) as (
            x,
            _,
        ):
            yield x


def vector_kernel(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of numba from a body `(kernel, *arguments)`.

    Parameters
    ----------
    signature : numba signature
        Buffers arrive as pointers, numbers as LLVM values. A body gives a scalar, or None where
        the signature says `void`.
    """

    def decorate(body: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, found: Any, arguments: Any) -> Any:
            given = [
                context.make_array(kind)(context, builder, value=argument).data
                if isinstance(kind, types.Array)
                else argument
                for kind, argument in zip(found.args, arguments, strict=True)
            ]
            result = body(Kernel(builder), *given)
            return context.get_dummy_value() if result is None else result

        def typed(typing_context: Any, *arguments: Any) -> Any:
            return signature, generate

        # numba reads the number of arguments from the signature.
        typed.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
        typed.__name__ = body.__name__
        typed.__doc__ = body.__doc__
        return intrinsic(typed)

    return decorate
