"""Compiling the few loops that numpy cannot do fast: one decorator, so that all kernels are compiled alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile a function of numpy arrays to machine code that holds no lock; compiled once, kept on disk.

    Sums may be reordered, so that they fill the processor's vector registers. NaN and infinities keep their meaning.
    """
    # of numba's fast mathematics all but nnan and ninf: scores are compared with -inf
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: a user without a home, a package that cannot be written to
        return njit(**options)(function)
