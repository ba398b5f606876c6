"""Which quarantined rows name a person as their user.

How a row is written follows from the log of its own day, of which today's configuration and what still lies of the
log need not say the truth. Where they do not fit a row, all that it holds may be the user: an erasure rather takes one
bad row too many.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark.config import LogConfig
from recsys_spark.erasure.people import People
from recsys_spark.errors import DataError
from recsys_spark.log.packed import first_lines
from recsys_spark.log.privacy import UNPARSED
from recsys_spark.log.raw import WHOLE, Batch
from recsys_spark.schemas import QUARANTINE
from recsys_spark.warehouse import MANIFEST

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class _Number(str):
    """A number of JSON with a point or an exponent, as it is written."""


@dataclass(frozen=True)
class RowText:
    """How the log's rows are written, as far as it takes to find the user of one."""

    csv: bool
    delimiter: str
    columns: tuple[str, ...]
    """Names of the user column of a JSON row: the log's, and that of a row which was redacted."""
    position: int | None
    """Of the user column of a CSV row; None where headers disagree about it, and then any field may be the user's."""

    @classmethod
    def of(cls, config: LogConfig, recorded: Iterable[Sequence[str]] = ()) -> RowText:
        """Read what the configuration and the headers of the log say.

        Args:
            recorded: the columns of batches whose files need not lie in the log any more.
        """
        name = config.columns.get("user_id", "user_id")
        position = _position(config, name, recorded) if config.format == "csv" else None
        return cls(config.format == "csv", config.delimiter, tuple({name, "user_id"}), position)

    def users(self, raw: str) -> set[str] | None:
        """Return the ids that may be those of a row's user, or None where the row cannot be parsed."""
        if self.csv and not raw.startswith("{"):
            fields = _split(raw, self.delimiter)
            if fields is None or len(fields) < 2 or (self.position is not None and self.position >= len(fields)):
                return None
            found = fields if self.position is None else [fields[self.position]]
            return {field.strip() for field in found}
        pairs: list[tuple[str, Any]] = []

        def note(found: list[tuple[str, Any]]) -> dict[str, Any]:
            pairs.extend(found)  # of a key that stands twice, both: who knows which one another parser takes
            return dict(found)

        try:
            row = json.loads(raw, object_pairs_hook=note, parse_float=_Number)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict):
            return None
        values = [v for key, v in pairs if key in self.columns] or [v for _, v in pairs]
        return {form for value in values for form in _forms(value)}


def recorded_columns(root: Path) -> set[tuple[str, ...]]:
    """Return the columns of every batch that has quarantined rows, as the manifests have them."""
    manifests = (json.loads(p.read_text(encoding="utf-8")) for p in root.glob(f"{QUARANTINE.name}/*/[!.]*/{MANIFEST}"))
    return {tuple(m["columns"]) for m in manifests if m.get("columns")}


def naming(rows: pa.Table, text: RowText, people: People) -> np.ndarray:
    """Say of each row of `raw` and `reason` whether it names one of the people as its user, bool [rows].

    A row that cannot be parsed does as soon as its text contains the id, anywhere.
    """
    spelt = {form for name in people.names for form in _spellings(name)}
    hit = np.zeros(len(rows), bool)
    for i, (line, reason) in enumerate(zip(rows["raw"].to_pylist(), rows["reason"].to_pylist(), strict=True)):
        if line is None:
            continue
        users = None if reason in UNPARSED else text.users(line)
        hit[i] = _contains(line, spelt) if users is None else not people.names.isdisjoint(users)
    return hit


def _forms(value: Any) -> set[str]:
    """Return the ids that a value of JSON may stand for, as ingest reads it.

    Rows of Parquet were written as JSON, in which the id 5 of a column of doubles is 5.0 and bytes are base64.
    """
    if value is None:
        return set()
    if isinstance(value, _Number):
        with np.errstate(over="ignore"):
            numbers = (float(value), float(np.float32(value)))
        return {str(value), *(f"{n:.0f}" for n in numbers if n.is_integer())}
    if isinstance(value, str):
        forms = {value.strip()}
        with contextlib.suppress(ValueError):
            forms.add(base64.b64decode(value, validate=True).decode().strip())
        return forms
    return {json.dumps(value)}


def _spellings(name: str) -> set[str]:
    """Return what stands in a text for an id: itself, or what JSON of Parquet makes of it (see `_forms`)."""
    spelt = {name, base64.b64encode(name.encode()).decode()}
    if name.isascii() and name.isdigit() and len(name) > 7:
        digits = name.rstrip("0")
        spelt.add(f"{digits[:1]}.{digits[1:] or '0'}E{len(name) - 1}")
    return spelt


def _contains(line: str, spelt: set[str]) -> bool:
    texts = {line, line.replace('""', '"'), _unescaped(line)}
    return any(form in text for text in texts for form in spelt)


def _unescaped(line: str) -> str:
    """Resolve the escapes of JSON, whatever stands around them."""
    plain = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _CONTROL.get(m[2], m[2]), line)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two of them may be one character


def _split(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=delimiter)) if len(delimiter) == 1 else line.split(delimiter)
    except (csv.Error, StopIteration):
        return None


def _position(config: LogConfig, name: str, recorded: Iterable[Sequence[str]]) -> int | None:
    """Find the user column of CSV, if all headers that are known of have it at one place."""
    if not config.header:
        return int(name[2:]) if name.startswith("_c") and name[2:].isdigit() else None
    headers = {tuple(columns) for columns in recorded}
    try:
        for file in Batch(WHOLE, config.resolve()).files():
            for line in first_lines(file, 1, config.max_line_bytes):
                headers.add(tuple(_split(line.decode(config.encoding, "replace"), config.delimiter) or ()))
    except (DataError, OSError, LookupError):
        return None
    places = {columns.index(name) if name in columns else None for columns in headers}
    return places.pop() if len(places) == 1 else None
