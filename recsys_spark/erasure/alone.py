"""Nobody else may write while people are erased: what a run has read before, it could write back afterwards."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from recsys_spark.errors import RunError
from recsys_spark.log.suppression import TABLE
from recsys_spark.warehouse import ERASING, exclusive

_SPARE_FILES = 512  # that this process may need open beside the locks


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock that every job shares, and those of everything that was ever written.

    The second kind keeps out what is no job, such as a notebook that builds a table.
    """
    whole = [root / ERASING, root / ".night"]
    slots = [lock.parent for lock in sorted(root.rglob(".lock")) if lock.parent not in (*whole, root / TABLE)]
    _allow_files(len(slots) + _SPARE_FILES)
    with contextlib.ExitStack() as held:
        for folder in [*whole, *slots]:
            held.enter_context(exclusive(folder))
        yield


def _allow_files(needed: int) -> None:
    """Raise this process's limit of open files: each lock is one, and a year of days has thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise RunError(f"the warehouse has {needed} locks, this process may open {hard} files; raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
