"""What is wrong with a feed, in one line, before the first step: its manifest and its files' footers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_spark.errors import ConfigError, DataError

_TABLES = {"user_id": "users", "item_id": "items", "items": "items", "history": "items"}
"""Which table the ids of a column are rows of."""


def check_feed(path: Path, manifest: dict[str, Any], columns: Sequence[str], batch_size: int, ranks: int) -> None:
    """Hold a feed against what is asked of it, and its files against its manifest.

    Args:
        path: a version of a feed.
        columns: what a model wants to read.

    Raises:
        ConfigError: there are too few row groups or rows for the ranks, or a column is missing.
        DataError: a file is missing, damaged, or not what the manifest says.
    """
    groups = manifest["row_groups"]
    if groups < ranks:
        raise ConfigError(
            f"the training feed has {groups} row groups for {ranks} ranks; "
            f"set dataset.feed_files to {ranks} or more, or train.ranks to {groups} or less"
        )
    types = dict(manifest["schema"])
    missing = [name for name in columns if name not in types]
    if missing:
        raise ConfigError(
            f"{path}: the feed has the columns {', '.join(types)} and no column {missing[0]!r}, which the model reads; "
            "train it on another kind of feed, or build the data set again"
        )
    if batch_size == 1 and manifest["rows"] % ranks:
        raise ConfigError(
            f"{path}: {manifest['rows']} rows in batches of 1 leave one of {ranks} ranks without a row in the last "
            "step; set the model's batch_size to 2 or more"
        )
    lengths: dict[str, int] = {}
    for entry in manifest["files"]:
        _check_file(path / "data" / entry["file"], entry["rows"], {name: types[name] for name in columns}, lengths)


def check_ids(path: Path, manifest: dict[str, Any], columns: Sequence[str], known: Mapping[str, int]) -> None:
    """Hold the ids of a feed against the tables that they are looked up in.

    Args:
        columns: those that a model reads; what is no column of ids is left alone.
        known: rows of the tables of `users` and `items`.

    Raises:
        DataError: an id is negative or past its table. Names the file, the column and both numbers.
    """
    for entry in manifest["files"]:
        file = path / "data" / entry["file"]
        for column in columns:
            if column in _TABLES:
                table = _TABLES[column]
                least, most = _extent(file, column)
                if least < 0 or most >= known[table]:
                    raise DataError(
                        f"{file}: {column!r} has ids from {least} to {most}, the table of {table} has rows 0 to "
                        f"{known[table] - 1}; {_remedy(file)}"
                    )


def _extent(file: Path, column: str) -> tuple[int, int]:
    """Return a column's least and greatest value, from the footer or, where that has none, from the rows."""
    metadata, schema = footer(file)
    noted = metadata.row_group(0).column(schema.names.index(column)).statistics
    if noted is not None and noted.has_min_max:
        return noted.min, noted.max
    values = pq.read_table(file, columns=[column])[column].combine_chunks()
    found = pc.min_max(values.flatten() if pa.types.is_list(values.type) else values).as_py()
    return found["min"], found["max"]


def _check_file(file: Path, rows: int, types: dict[str, str], lengths: dict[str, int]) -> None:
    """Hold a file against the manifest, and its lists against those of the files before it."""
    metadata, schema = footer(file)
    found = {field.name: _plain(field.type) for field in schema}
    for name, expected in types.items():
        if found.get(name) != expected:
            has = f"column {name!r} as {found[name]}" if name in found else f"no column {name!r}"
            raise _against_manifest(file, has, expected)
    if metadata.num_rows != rows or metadata.num_row_groups != 1:
        has = f"{metadata.num_rows} rows in {metadata.num_row_groups} row groups"
        raise _against_manifest(file, has, f"{rows} in 1")
    for name in types:
        length = metadata.row_group(0).column(schema.names.index(name)).num_values // rows
        if lengths.setdefault(name, length) != length:
            raise DataError(f"{file}: lists of {length} in {name!r}, {lengths[name]} in other files; {_remedy(file)}")


def footer(file: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    """Read a file's footer; a `DataError` names the file if that fails."""
    try:
        with pq.ParquetFile(file) as opened:
            return opened.metadata, opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> DataError:
    """Say that a file of a feed cannot be read."""
    says = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{file}: the feed's manifest lists it, but it cannot be read ({says}); {_remedy(file)}")


def _against_manifest(file: Path, has: str, expected: str) -> DataError:
    return DataError(f"{file}: the file has {has}, the feed's manifest says {expected}; {_remedy(file)}")


def _remedy(file: Path) -> str:
    return f"restore the file, or remove {file.parent.parent} and build the data set again"


def _plain(kind: pa.DataType) -> str:
    """Name a type as manifests do."""
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)
