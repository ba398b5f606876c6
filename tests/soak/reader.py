"""Somebody who reads what is published, all the time, and must never see half of anything."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from soak import invariants

_PAUSE = 0.25


class Reader:
    """Follows the pointer of the published lists on a thread of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.looks, self.faults, self.seen = 0, [], {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        """Read the live version whole; a version is always the same, and is never taken away while it is live."""
        while not self._over.wait(_PAUSE):
            try:
                found = invariants.published(self.root)
            except Exception as error:  # whatever it is, a reader saw it
                self.faults.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}")
                continue
            self.looks += 1
            if self.seen.setdefault(found.version, found.digest) != found.digest:
                self.faults.append(f"{found.version}: other lists than before")
