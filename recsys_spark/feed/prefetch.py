"""Iterators that run ahead on threads: bounded, in order, and gone when their consumer is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()


def interleaved(sources: Sequence[Generator[T, None, None]], ahead: int) -> Generator[T, None, None]:
    """Yield the sources' items in turn, each source running on a thread of its own.

    The order does not depend on the threads' timing: first, second, ..., last source, then the first again, until
    the source whose turn it is has no more. Closing the generator, also by leaving the loop over it, stops and joins
    the threads and closes the sources.

    Args:
        sources: none shorter than one behind it, and at most one longer.
        ahead: items of each source that wait to be taken, beside the one it is at.

    Raises:
        Exception: what a source raised, when its turn comes.
    """
    with ExitStack() as stack:
        threads = [stack.enter_context(_Thread(source, ahead)) for source in sources]
        while True:
            for thread in threads:
                item = thread.take()
                if item is _END:
                    return
                yield item  # type: ignore[misc]


class _Thread(Generic[T]):
    """One source on its thread."""

    def __init__(self, source: Generator[T, None, None], ahead: int) -> None:
        self.source = source
        self.queue: queue.Queue[T | object] = queue.Queue(ahead)
        self.stopped = False
        self.error: BaseException | None = None
        # a daemon, so that a consumer that hangs elsewhere can still be ended
        self.thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> _Thread[T]:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True
        while self.thread.is_alive():
            self._drain()  # it may be waiting for room
            self.thread.join(0.01)
        self._drain()

    def take(self) -> T | object:
        item = self.queue.get()
        if item is _END and self.error is not None:
            raise self.error
        return item

    def _run(self) -> None:
        try:
            with closing(self.source) as source:
                for item in source:
                    self.queue.put(item)
                    del item  # or it would be held while the next one is made
                    if self.stopped:
                        break
        except BaseException as error:
            self.error = error
        self.queue.put(_END)

    def _drain(self) -> None:
        while True:
            try:
                self.queue.get_nowait()
            except queue.Empty:
                return
