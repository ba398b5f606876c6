"""The raw log as it lies on disk: which batches there are, and of which files.

A batch is one delivery: a folder `date=YYYY-MM-DD` below the log's path, or the whole log ("all") where
there are no such folders. Names that begin with a dot or an underscore are markers and no part of the log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.config import LogConfig
from recsys_spark.errors import DataError

FIELDS = (
    "event_id", "user_id", "item_id", "event_type", "timestamp", "rating", "position",
    "session_id", "device", "country", "split",
)  # fmt: skip
REQUIRED = ("user_id", "item_id", "timestamp")
WHOLE = "all"


@dataclass(frozen=True)
class Batch:
    """One delivery of the raw log."""

    name: str
    """`YYYY-MM-DD`, or `all`."""
    path: Path

    def files(self) -> list[Path]:
        """Return the data files, sorted."""
        return sorted(_data_files(self.path))

    def state(self) -> list[tuple[str, int, int]]:
        """Return (name, bytes, mtime in ns) of every file: what the batch's version is keyed by."""
        stats = [(f, f.stat()) for f in self.files()]
        return [(f.name, s.st_size, s.st_mtime_ns) for f, s in stats]


def find_batches(config: LogConfig, until: dt.date | None) -> list[Batch]:
    """Return the batches delivered up to a day, oldest first, without those past `log.retention_days`.

    Raises:
        DataError: no log, no rows in it, a day for which the log has no folder, or data in a daily log
            that belongs to no day.
    """
    path = config.resolve()
    if not path.exists():
        raise DataError(f"{path}: no such log; set log.path, or fetch it with `make data`")
    daily = [Batch(_day(p), p) for p in sorted(path.glob("date=*")) if p.is_dir()] if path.is_dir() else []
    batches = daily or [Batch(WHOLE, path)]
    if daily:
        _refuse_strays(path)
    if not any(f.stat().st_size for batch in batches for f in batch.files()):
        raise DataError(f"{path}: the log is empty; nothing to recommend from")
    if daily and until is not None:
        if until.isoformat() not in {b.name for b in daily}:
            span = f"{daily[0].name} to {daily[-1].name}"
            raise DataError(f"{path}: has no day {until}; it holds {span}, choose one of them with --date")
        batches = [b for b in daily if b.name <= until.isoformat()]
    oldest = oldest_day(config, batches[-1].name)
    return [b for b in batches if oldest is None or b.name >= oldest]


def oldest_day(config: LogConfig, last: str) -> str | None:
    """Return the first day that `log.retention_days` keeps, by the newest batch; None where all are kept."""
    if config.retention_days is None or last == WHOLE:
        return None
    return (dt.date.fromisoformat(last) - dt.timedelta(days=config.retention_days)).isoformat()


def _data_files(path: Path) -> Iterator[Path]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        hidden = any(part.startswith((".", "_")) for part in file.relative_to(path.parent).parts[1:])
        if not hidden and not file.name.startswith((".", "_")) and file.is_file():
            yield file


def _refuse_strays(path: Path) -> None:
    """Data beside the days would be left out without a word."""
    for entry in sorted(path.iterdir()):
        is_day = entry.is_dir() and entry.name.startswith("date=")
        if not is_day and not entry.name.startswith((".", "_")) and any(_data_files(entry)):
            raise DataError(f"{entry}: belongs to no day of the log; move it into a folder date=YYYY-MM-DD, or away")


def _day(path: Path) -> str:
    name = path.name.removeprefix("date=")
    try:
        if dt.date.fromisoformat(name).isoformat() == name:
            return name
    except ValueError:
        pass
    raise DataError(f"{path}: is not a day of the calendar; name the folder date=YYYY-MM-DD")
