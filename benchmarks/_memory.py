"""The most memory that a Python worker of Spark takes while a piece of work runs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

_PAUSE = 0.05  # seconds between looks


class WorkerMemory:
    """Watches the workers below this process in a thread of its own.

    What counts is memory that a process has made for itself. Pages of files that it maps, as the factors of ALS, are
    shared with the other workers and given back when someone else needs them.
    """

    def __init__(self) -> None:
        self.mb = 0.0
        """Largest private memory of one worker, MiB."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WorkerMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_PAUSE):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark" in " ".join(process.cmdline()[:4]) and "java" not in process.name():
                        self.mb = max(self.mb, _anonymous_mb(process.pid))
                except (psutil.Error, OSError):  # gone meanwhile
                    continue


def _anonymous_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
