"""Which quarantined rows name a person as their user."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.config import LogConfig
from recsys_spark.erasure.people import People
from recsys_spark.log.privacy import UNPARSED


@dataclass(frozen=True)
class RowText:
    """How the log's rows are written, as far as it takes to find the user of one."""

    csv: bool
    delimiter: str
    columns: tuple[str, ...]
    """Names of the user column of a JSON row: the log's, and that of a row which was redacted."""
    position: int | None
    """Of the user column of a CSV row; None where no header says it, and then any field may be the user's."""

    @classmethod
    def of(cls, config: LogConfig) -> RowText:
        """Read what the configuration, and the header of the log where it still lies there, say."""
        name = config.columns.get("user_id", "user_id")
        position = _position(config, name) if config.format == "csv" else None
        return cls(config.format == "csv", config.delimiter, tuple({name, "user_id"}), position)

    def users(self, raw: str) -> set[str] | None:
        """Return the user ids that a row names, or None where it cannot be parsed."""
        if self.csv and not raw.startswith("{"):
            fields = _split(raw, self.delimiter)
            if fields is None or (self.position is not None and self.position >= len(fields)):
                return None
            found = fields if self.position is None else [fields[self.position]]
            return {field.strip() for field in found}
        pairs: list[tuple[str, object]] = []

        def note(found: list[tuple[str, object]]) -> dict[str, object]:
            pairs.extend(found)  # of a key that stands twice, both: who knows which one another parser takes
            return dict(found)

        try:
            row = json.loads(raw, object_pairs_hook=note)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict):
            return None
        return {str(value).strip() for key, value in pairs if key in self.columns}


def naming(rows: pa.Table, text: RowText, people: People) -> np.ndarray:
    """Say of each row of `raw` and `reason` whether it names one of the people as its user, bool [rows].

    A row that cannot be parsed does as soon as its text contains the id, anywhere.
    """
    raw, reasons = rows["raw"], rows["reason"]
    escaped = "\\" if not text.csv else '"'  # such a row may spell an id in another way
    suspect = pc.match_substring(raw, escaped)
    for name in people.names:
        suspect = pc.or_(suspect, pc.match_substring(raw, name))
        if text.csv and '"' in name:
            suspect = pc.or_(suspect, pc.match_substring(raw, '"'))
    hit = np.zeros(len(rows), bool)
    for i in np.flatnonzero(suspect.to_numpy().astype(bool)):
        line = raw[i].as_py()
        users = None if reasons[i].as_py() in UNPARSED else text.users(line)
        hit[i] = _contains(line, people) if users is None else bool(users & people.names)
    return hit


def _contains(line: str, people: People) -> bool:
    forms = (f for n in people.names for f in (n, json.dumps(n)[1:-1], json.dumps(n, ensure_ascii=False)[1:-1]))
    return any(form in line for form in forms)


def _split(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=delimiter)) if len(delimiter) == 1 else line.split(delimiter)
    except (csv.Error, StopIteration):
        return None


def _position(config: LogConfig, name: str) -> int | None:
    if not config.header:
        return int(name[2:]) if name.startswith("_c") and name[2:].isdigit() else None
    path = config.resolve()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("[!._]*") if f.is_file())
    try:
        with open(files[0], encoding="utf-8-sig", errors="replace") as opened:
            return (_split(opened.readline().rstrip("\r\n"), config.delimiter) or []).index(name)
    except (IndexError, OSError, ValueError):
        return None
