"""Compile kernels by numba; what it compiled is kept on disk where that can be."""

import contextlib
from collections.abc import Callable
from typing import Any

from numba import njit

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}


class _Kept:
    """numba's cache on disk, which must never cost a result: unreadable is absent, full is full."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._cache.load_overload(*arguments)
        except Exception:  # a pickle that was cut or changed raises whatever it likes
            return None

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
