"""What a batch looks like before its rows are read: its columns and their types, and what changed since the last.

CSV says its columns in each file's header and Parquet in each footer. JSON lines say them row by row, so a
sample of lines has to do; how often a key was seen there tells a column that is gone from one that is rare.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.packed import blocks, first_lines
from recsys_spark.log.raw import FIELDS, REQUIRED, Batch

_SAMPLE = 1_000  # lines of JSON that show which columns a batch has
_PLAIN_SAMPLE = 100  # lines of CSV without a header that show how many columns there are
_OFTEN = 10  # a key seen so often in one sample is missing from another by chance once in 5,000 times, or less
_KINDS = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object", type(None): "null"}


@dataclass(frozen=True)
class Part:
    """Files of a batch that are alike, and so are read alike."""

    names: tuple[str, ...]
    """Columns in order; of JSON lines, those that are read."""
    header: str | None = None
    """The header line of CSV."""
    types: str = ""
    """Of Parquet, all names with their types."""


@dataclass
class Shape:
    """The parts of a batch with their files, and its columns."""

    batch: Batch
    parts: dict[Part, list[Path]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    """Type of each column as the format names it, of JSON lines `int`, `string`, `list` and so on."""
    often: list[str] = field(default_factory=list)
    """The columns whose absence from the next batch would be no chance."""

    def entries(self) -> dict[str, Any]:
        """Return what the batch's manifest keeps."""
        return {"columns": self.columns, "often": self.often}


def mapping(config: LogConfig, available: Iterable[str]) -> dict[str, str]:
    """Return our name -> the log's name, of the columns that the log has.

    Raises:
        ConfigError: `log.columns` or a type's `requires` names a field that there is none of.
    """
    unknown = sorted(set(config.columns) - set(FIELDS))
    if unknown:
        raise ConfigError(f"log.columns: unknown column {unknown[0]!r}; known are {', '.join(FIELDS)}")
    for kind, needed in config.required.items():
        for name in needed:
            if name not in FIELDS and name not in config.attributes:
                known = ", ".join([*FIELDS, *config.attributes])
                raise ConfigError(f"log.event_types.{kind}.requires: unknown field {name!r}; known are {known}")
            if config.columns and name in FIELDS and name not in config.columns:
                raise ConfigError(f"log.event_types.{kind}.requires: log.columns maps no {name!r}; map it")
    return dict(config.columns) if config.columns else {f: f for f in FIELDS if f in set(available)}


def codec(encoding: str) -> str:
    """Return Python's name of the encoding: of those that Spark decodes, one whose lines end in a line feed."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        name = ""
    if name not in ("utf-8", "ascii", "iso8859-1"):
        raise ConfigError(f"log.encoding {encoding!r}: is not among UTF-8 and ISO-8859-1 (latin-1); convert the log")
    return name


def shape_of(config: LogConfig, batch: Batch, files: list[Path]) -> Shape:
    """Look at a batch's files.

    Args:
        config: the log's section.
        batch: whose files they are.
        files: as `packed.unpack` returns them.

    Raises:
        DataError: a column that every batch needs is not there, or a file is not what `log.format` says.
        ConfigError: see `mapping`.
    """
    mapping(config, FIELDS)
    look = {"jsonl": _look_at_json, "csv": _look_at_csv, "parquet": _look_at_parquet}[config.format]
    shape = Shape(batch)
    look(config, shape, files)
    return shape


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Word what changed between the `entries` of two batches.

    >>> changes({"columns": {"a": "int", "b": "int"}, "often": ["a", "b"]},
    ...         {"columns": {"a": "string", "c": "int"}, "often": ["a", "c"]})
    ["column 'a' was int, is string", "column 'b' is gone", "new column 'c'"]
    """
    old, new = before["columns"], after["columns"]
    if not old or not new:  # no row to tell from
        return []
    found = []
    for name in sorted({*old, *new}):
        if name not in new:
            found += [f"column {name!r} is gone"] if name in before["often"] else []
        elif name not in old:
            found += [f"new column {name!r}"] if name in after["often"] else []
        elif old[name] != new[name] and "null" not in (old[name], new[name]):
            found.append(f"column {name!r} was {old[name]}, is {new[name]}")
    return found


def _look_at_json(config: LogConfig, shape: Shape, files: list[Path]) -> None:
    kinds: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    lines = 0
    for file in files:  # some of each, for the files of a day may come from several producers
        for line in _head(config, file, max(1, _SAMPLE // max(1, len(files)))):
            row: Any = None
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
            if isinstance(row, dict):
                lines += 1
                seen.update(row.keys())
                for name, value in row.items():
                    kinds.setdefault(name, set()).add(_KINDS[type(value)])
    if lines:  # else every sampled row is bad: they go to quarantine, and the bad share stops the run
        _check_columns(config, kinds, shape.batch.path)
    shape.columns.update((name, _kind(kinds[name])) for name in sorted(kinds))
    shape.often.extend(name for name in sorted(kinds) if seen[name] >= min(_OFTEN, lines))
    names = {*mapping(config, FIELDS).values(), *config.attributes}
    shape.parts[Part(tuple(sorted(names)))] = files


def _kind(kinds: set[str]) -> str:
    """Name what a key holds, nulls aside."""
    known = kinds - {"null"} or kinds
    return "float" if known == {"int", "float"} else " or ".join(sorted(known))


def _look_at_csv(config: LogConfig, shape: Shape, files: list[Path]) -> None:
    for file in files:
        head = _head(config, file, 1 if config.header else _PLAIN_SAMPLE)
        if not head:
            if any(blocks(file)):
                raise DataError(
                    f"{file}: its first line is longer than log.max_line_bytes; mend log.format or the file"
                )
            continue  # an empty file has no row either
        if config.header:
            names = tuple(_split(head[0], config.delimiter))
        else:  # as many as most lines have, should the first be a bad one
            widths = Counter(len(_split(line, config.delimiter)) for line in head)
            names = tuple(f"_c{i}" for i in range(widths.most_common(1)[0][0]))
        _check_columns(config, names, file)
        shape.parts.setdefault(Part(names, head[0] if config.header else None), []).append(file)
        shape.columns.update(dict.fromkeys(names, "string"))
    shape.often.extend(shape.columns)


def _look_at_parquet(config: LogConfig, shape: Shape, files: list[Path]) -> None:
    if not files:
        raise DataError(f"{shape.batch.path}: holds no Parquet file")
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError):
            raise DataError(f"{file}: is no Parquet file; mend log.format or remove the file") from None
        types = {f.name: str(f.type) for f in schema}
        _check_columns(config, types, file)
        shape.parts.setdefault(Part(tuple(types), types=json.dumps(types)), []).append(file)
        for name, kind in types.items():
            known = shape.columns.get(name, kind)
            shape.columns[name] = known if kind in known.split(" or ") else f"{known} or {kind}"
    shape.often.extend(shape.columns)


def _head(config: LogConfig, file: Path, count: int) -> list[str]:
    encoding = codec(config.encoding)
    encoding = encoding if encoding == "iso8859-1" else "utf-8"
    return [line.decode(encoding, "replace") for line in first_lines(file, count, config.max_line_bytes)]


def _split(line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:  # what is no text need not be a row either
        return [line]


def _check_columns(config: LogConfig, names: Iterable[str], where: Path) -> None:
    """Refuse files without a column that the log needs, by the column's name."""
    have = list(names)
    # rows of JSON lines may leave optional fields out, so only what every log needs is asked of a sample
    optional = config.format == "jsonl"
    if config.columns:
        needed = [source for ours, source in config.columns.items() if ours in REQUIRED or not optional]
    else:
        needed = [*REQUIRED, *([] if config.default_type else ["event_type"])]
    if not optional:
        needed += [config.columns.get(name, name) for fields in config.required.values() for name in fields]
    missing = [c for c in needed if c not in have]
    if missing:
        names = ", ".join("".join(c if c.isprintable() else "?" for c in n[:40]) for n in sorted(have)[:12])
        raise DataError(f"{where}: no column {missing[0]!r}; it has {names}; mend log.columns (or log.header)")
