"""Compiling the few loops that numpy cannot do fast: one decorator, so that all kernels are compiled alike."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
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
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: a user without a home, a package that cannot be written to
        return njit(**options)(function)
    compile_one, lock = compiled.compile, Path(compiled.stats.cache_path) / ".compiling"

    def compile_alone(signature: Any) -> Any:
        with _alone(lock):
            return compile_one(signature)

    # Numba writes its index of a function's variants without a lock: of two tasks of Spark that compile at once, one
    # could come to load what the other has written for arguments of another type. And a waiter finds the work done.
    compiled.compile = compile_alone
    return compiled


_thread = threading.RLock()
_depth = 0


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of the machine in; one that compiles what a function calls is in already."""
    global _depth
    with _thread, contextlib.ExitStack() as stack:
        if not _depth:
            with contextlib.suppress(OSError):  # the folder cannot be written to any more: nothing will be kept
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(path, "wb"))
                fcntl.flock(file, fcntl.LOCK_EX)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
