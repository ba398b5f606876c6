r"""Which version of a slot is live: a line in a file, readable at any moment.

Where a rename is atomic, `_current` alone would do. Where it is not, as on a mounted object store that copies and then
deletes, a reader may find the file missing or half written. So the line is written twice, and always in this order:

1. `_spare` is replaced by the new line, while `_current` is whole;
2. `_current` is replaced by it, while `_spare` is whole.

A line that does not end in a newline is half a line. A reader takes `_current` if it is whole, else `_spare`. A writer
that was killed in step 2 has made the new version live; the next writer finishes that step before its own first one.

What it needs of the file system: a file that was closed is read as it was written, and `flock` for the writers.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from recsys_spark.warehouse.locks import in_turn

POINTER, SPARE = "_current", "_spare"
_TURN = ".pointer"
_LOOKS = 100
_PAUSE_SECONDS = 0.001


def read(slot: Path) -> str | None:
    """Return the name of the live version, or None where none is."""
    for look in range(_LOOKS):
        lines = [_line(slot / POINTER), _line(slot / SPARE)]
        for line in lines:
            if line and line.endswith("\n"):
                return line.strip()
        if lines == [None, None] and look:  # twice: both may have been written anew between the two files
            return None
        if look:
            time.sleep(_PAUSE_SECONDS)
    return None  # a first writer was killed before it had said anything


def write(slot: Path, name: str) -> None:
    """Make a version the live one."""
    with in_turn(slot / _TURN):
        _finish(slot)
        _put(slot / SPARE, name)
        _put(slot / POINTER, name)


def remove(slot: Path) -> None:
    """Let no version be the live one."""
    if not slot.is_dir():
        return
    with in_turn(slot / _TURN):
        _finish(slot)
        (slot / SPARE).unlink(missing_ok=True)
        (slot / POINTER).unlink(missing_ok=True)


def _finish(slot: Path) -> None:
    """Do what a killed writer did not come to."""
    current, spare = _line(slot / POINTER), _line(slot / SPARE)
    if spare and spare.endswith("\n") and not (current and current.endswith("\n")):
        _put(slot / POINTER, spare.strip())


def _put(path: Path, name: str) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
