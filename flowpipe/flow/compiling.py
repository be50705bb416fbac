"""Compile kernels by numba; what it compiled is kept on disk where that can be."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from numba import njit

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}


class _Kept:
    """numba's cache on disk, which must never cost a result: unreadable is absent, full is full."""

    # Called when a kernel is not there, and so has to be compiled.
    missed: ClassVar[list[Callable[[], object]]] = []

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            found = self._cache.load_overload(*arguments)
        except Exception:  # a pickle that was cut or changed raises whatever it likes
            found = None
        if found is None and self.missed:
            self.missed.pop()()
        return found

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(OSError):
            self._cache.save_overload(*arguments)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call.

    Where numba finds no folder to write to (containers, read-only installations) or no room in
    it, the kernel is compiled for this process only.
    """
    made: Any = njit(**OPTIONS)(function)
    with contextlib.suppress(RuntimeError):  # numba's "no locator available"
        made.enable_caching()
    made._cache = _Kept(made._cache)
    return made


@contextlib.contextmanager
def on_missing(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` once, when a first kernel is not on disk and so has to be compiled."""
    _Kept.missed.append(tell)
    try:
        yield
    finally:
        _Kept.missed.clear()
