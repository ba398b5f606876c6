"""The published lists in the form in which they are handed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from recsys_spark.errors import DataError
from recsys_spark.log.suppression import erased_count
from recsys_spark.warehouse import Version, Warehouse

_COLUMNS = ("user_id", "rank", "item_id", "score", "model", "run_date")
_WITHOUT = "-without-"


@dataclass(frozen=True)
class UserList:
    """What is recommended to one user, best first."""

    user_id: str
    items: list[str]
    scores: list[float]
    model: str
    run_date: str

    def value(self) -> str:
        """Return the list without its user as JSON."""
        body = {"items": self.items, "scores": self.scores, "model": self.model, "run_date": self.run_date}
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"))

    def line(self) -> str:
        """Return the list with its user as a line of JSON."""
        return f'{{"user_id":{json.dumps(self.user_id, ensure_ascii=False)},{self.value()[1:]}'


def export_name(warehouse: Warehouse, version: Version) -> str:
    """Name an exported version: that of the table, and how many people were erased by then.

    An erasure takes people out of a published version that keeps its name; exported again, it is to be another one.
    """
    erased = erased_count(warehouse)
    return f"{version.name}{_WITHOUT}{erased}" if erased else version.name


def outdated(name: str, live: str) -> bool:
    """Whether an exported version holds people who were erased before the live one was made.

    >>> outdated("2026-01-01-a", "2026-01-02-b-without-3"), outdated("2026-01-01-a", "2026-01-02-b")
    (True, False)
    """
    return _erased(name) < _erased(live)


def _erased(name: str) -> int:
    return int(name.rpartition(_WITHOUT)[2]) if _WITHOUT in name else 0


def files_of(version: Version) -> list[Path]:
    """Return the Parquet files of the published table, in order."""
    return sorted(Path(version.data).glob("*.parquet"))


def lists_of(path: Path) -> Iterator[UserList]:
    """Read the lists of a file; a user is in one file, with ranks from 1 one after the other.

    Raises:
        DataError: the rows of a user are not together, or not in order.
    """
    done: UserList | None = None
    for batch in pq.ParquetFile(path).iter_batches(columns=list(_COLUMNS)):
        columns = {name: batch.column(name).to_pylist() for name in _COLUMNS}
        for user, rank, item, score, model, day in zip(*(columns[name] for name in _COLUMNS), strict=True):
            if done is None or rank == 1:
                if done is not None:
                    yield done
                done = UserList(user, [], [], model, str(day))
            if user != done.user_id or rank != len(done.items) + 1:
                raise DataError(f"{path}: the list of a user is not in one piece; publish it again")
            done.items.append(item)
            done.scores.append(round(score, 6))
    if done is not None:
        yield done
