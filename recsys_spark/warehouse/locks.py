"""Locks that die with their process: who may write a folder, and the lease of a running job.

All are `flock` on a file, which a local disk and NFS from version 4 on give to one process of all machines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from recsys_spark.errors import RunError

ERASING = ".erasing"
"""Folder whose lock every job shares and an erasure has alone."""
LEASES = ".leases"
"""Folder of the leases, a file for each job and date."""
_LOCK = ".lock"
_POLL_SECONDS = 0.2


class Busy(RunError):
    """Another run holds the lock."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock dies with the process, however that dies."""
    with _locked(folder, fcntl.LOCK_EX, f"{folder}: another run is writing it; wait for that run to end"):
        yield


@contextlib.contextmanager
def shared(folder: Path, busy: str) -> Iterator[None]:
    """Keep out who wants the folder for itself alone, and nobody else; refused with `busy` while somebody has it."""
    with _locked(folder, fcntl.LOCK_SH, busy):
        yield


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Do something short one after the other: waits for whoever has the file locked."""
    with open(path, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def lease(root: Path, job: str, date: str | None, command: Sequence[str] = (), patience: float = 0.0) -> Iterator[None]:
    """Hold the lease of a job's command: a scheduler that tries again finds the first run, and starts no second.

    The scheduler may believe a run dead that lives on, as where its worker was killed and `spark-submit` was not. The
    lease is a lock of the job's own process, so it is free when, and only when, that process is gone.

    Args:
        date: the run date as given.
        command: what else tells this command from another of the job, such as its overrides: searches of two models
            may run beside each other.
        patience: seconds to wait for the other run, and then go on; it has done the work by then, or left it.

    Raises:
        Busy: the other run still lives after `patience` seconds; the message says which and since when.
    """
    folder = root.absolute() / LEASES
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job}-{date or 'undated'}-{hashlib.sha256(json.dumps(command).encode()).hexdigest()[:12]}"
    end = time.monotonic() + patience
    with open(path, "a+", encoding="utf-8") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    what = f"{job} of {date}" if date else job
                    raise Busy(f"{what}: {_holder(held)}; wait for that run to end") from None
                time.sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))
        held.truncate(0)
        since = dt.datetime.now(dt.UTC).isoformat("T", "seconds")
        held.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}))
        held.flush()
        yield


def _holder(held: IO[str]) -> str:
    try:
        held.seek(0)
        who = json.loads(held.read())
        return f"another run of it is alive (process {who['pid']} on {who['host']}, since {who['since']})"
    except (ValueError, KeyError):  # it has the lock and has not said yet who it is
        return "another run of it is alive"


@contextlib.contextmanager
def _locked(folder: Path, kind: int, busy: str) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = held.enter_context(open(folder / _LOCK, "w", encoding="utf-8"))
                try:
                    fcntl.flock(lock, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Busy(busy) from None
                if os.fstat(lock.fileno()).st_nlink:
                    break
            # who had it removed the folder (see `Slot.materialize`) while this run opened the file: begin again
        yield
