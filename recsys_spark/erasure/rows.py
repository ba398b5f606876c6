"""Take people out of one Parquet file: read by row groups, write aside, replace in one step.

A reader that opens the file sees the old one or the new one whole. Row groups stay row groups, so that a file
of a feed keeps its one, and codec, types and Spark's own metadata stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_spark.erasure.people import TOMBSTONE, People
from recsys_spark.erasure.quarantined import RowText, naming
from recsys_spark.warehouse.contents import announce

ASIDE = ".erase-"
"""Names of files that an erasure writes aside begin with this."""


@dataclass(frozen=True)
class Task:
    """Everything that the erasure of a file needs to know, as plain values that pickle."""

    people: People
    ids: tuple[int, ...]
    """Their dense ids in this warehouse."""
    text: RowText


@dataclass
class FileResult:
    """What was found in a file and what is in it now."""

    path: str
    before: int = 0
    removed: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    """Counts of what stays in it, for the manifest."""

    @property
    def after(self) -> int:
        return self.before - self.removed


def rule_of(path: Path, table: str, schema: pa.Schema) -> str | None:
    """Return by what a file's rows belong to a person: a rule of `_mask`, or None where they belong to nobody."""
    if table in ("items", "item_ids", "erasures", "user_ids"):
        return None
    if table == "quarantine":
        return "raw"
    if "user_id" in schema.names:
        return "user" if pa.types.is_string(schema.field("user_id").type) else "id"
    return "served" if "raw_id" in schema.names and path.parent.name == "users" else None


def erase_rows(path: Path, table: str, task: Task) -> FileResult:
    """Remove the people's rows from a file of a table and count what it holds afterwards."""
    file = _open(path)
    result = FileResult(str(path), before=file.metadata.num_rows)
    rule = rule_of(path, table, file.schema_arrow)
    if rule is None:
        return result
    groups = _groups(table, file.schema_arrow)
    wanted = sorted({*_COLUMNS[rule], *groups})
    masks = []
    for i in range(file.num_row_groups):
        rows = file.read_row_group(i, columns=wanted)
        masks.append(_mask(rows, rule, task))
        _count(rows.filter(pa.array(~masks[-1])), groups, result.groups)
    result.removed = int(sum(mask.sum() for mask in masks))
    if result.removed and table.startswith("feed") and path.parent.name == "users":
        return _erase_counts(path, file, masks, result)
    if result.removed:
        rewrite(path, file, lambda i, rows: rows.filter(pa.array(~masks[i])))
    return result


_COLUMNS = {"user": ("user_id",), "id": ("user_id",), "raw": ("raw", "reason"), "served": ("raw_id",)}


def _mask(rows: pa.Table, rule: str, task: Task) -> np.ndarray:
    if rule == "raw":
        return naming(rows, task.text, task.people)
    column = rows[_COLUMNS[rule][0]]
    wanted = pa.array(task.ids, column.type) if rule == "id" else task.people.as_array()
    return pc.is_in(column, value_set=wanted).to_numpy().astype(bool)


def _groups(table: str, schema: pa.Schema) -> list[str]:
    by_table = {
        "events": ["copies"], "bots": ["copies"], "quarantine": ["reason"],
        "interactions": ["split", "in_core", "cold_user", "cold_item"],
        "histories": ["held_out"], "recommendations": ["user_id"],
    }  # fmt: skip
    return [name for name in by_table.get(table, []) if name in schema.names]


def _count(rows: pa.Table, columns: list[str], groups: dict[str, int]) -> None:
    for name in columns:
        if name == "copies":
            found = {"copies": pc.sum(rows[name]).as_py() or 0}
        elif name == "held_out":
            found = {"held_out": pc.sum(pc.greater(pc.list_value_length(rows[name]), 0)).as_py() or 0}
        elif name == "in_core":
            found = {"core": pc.sum(rows[name]).as_py() or 0}
        elif name in ("cold_user", "cold_item"):
            parts = pc.value_counts(rows.filter(rows[name])["split"]).to_pylist()
            found = {f"{name}:{v['values']}": v["counts"] for v in parts}
        elif name == "user_id":
            found = {"users": pc.count_distinct(rows[name]).as_py()}
        else:
            found = {f"{name}:{v['values']}": v["counts"] for v in pc.value_counts(rows[name]).to_pylist()}
        for key, n in found.items():
            groups[key] = groups.get(key, 0) + n


def _erase_counts(path: Path, file: pq.ParquetFile, masks: list[np.ndarray], result: FileResult) -> FileResult:
    """Of a feed's counts per user, keep the row of the largest id, with 0 rows: the tables' size hangs on it."""
    rows = file.read()
    ids, gone = rows["user_id"].to_numpy(), np.concatenate(masks)
    counts = np.where(gone, 0, rows["count"].to_numpy())
    result.removed = int((gone & (rows["count"].to_numpy() > 0)).sum())
    keep = ~gone | (ids == ids.max())
    new = rows.set_column(rows.schema.get_field_index("count"), rows.schema.field("count"), pa.array(counts, "int32"))
    if result.removed:
        result.before = len(rows)
        rewrite(path, file, lambda i, _: new.filter(pa.array(keep)) if i == 0 else new.slice(0, 0))
    return result


def dense_ids(path: Path, people: People) -> list[int]:
    """Return the dense ids that a file of the user dictionary gives to the people."""
    found: list[int] = []
    file = _open(path)
    for i in range(file.num_row_groups):
        rows = file.read_row_group(i, columns=["raw_id", "id"])
        found += rows.filter(pc.is_in(rows["raw_id"], value_set=people.as_array()))["id"].to_pylist()
    return found


def blank_names(path: Path, people: People, tombstones: dict[int, str]) -> FileResult:
    """Put a tombstone in the place of the people's ids in a file of the user dictionary; the dense ids stay."""
    file = _open(path)
    result = FileResult(str(path), before=file.metadata.num_rows)
    result.removed = len(dense_ids(path, people))

    def blank(_: int, rows: pa.Table) -> pa.Table:
        gone = pc.is_in(rows["raw_id"], value_set=people.as_array())
        stones = pa.array([tombstones.get(i, TOMBSTONE) for i in rows["id"].to_pylist()], pa.string())
        index = rows.schema.get_field_index("raw_id")
        rows = rows.set_column(index, rows.schema.field(index), pc.if_else(gone, stones, rows["raw_id"]))
        index = rows.schema.get_field_index("key")  # a hash of the id, from which it could be guessed
        if index < 0:
            return rows
        chance = pa.array([secrets.randbits(63) for _ in range(len(rows))], pa.int64())
        return rows.set_column(index, rows.schema.field(index), pc.if_else(gone, chance, rows["key"]))

    if result.removed:
        rewrite(path, file, blank)
    return result


def _open(path: Path) -> pq.ParquetFile:
    # Spark writes times as INT96, which reaches further than the nanoseconds that they are read as by default
    return pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


def rewrite(path: Path, file: pq.ParquetFile, change: Callable[[int, pa.Table], pa.Table]) -> None:
    """Replace a file by one whose row groups are changed; a group that is left empty goes."""
    columns = range(len(file.schema))
    int96 = any(file.schema.column(i).physical_type == "INT96" for i in columns)
    codec = file.metadata.row_group(0).column(0).compression if file.num_row_groups else "ZSTD"
    schema = pq.read_schema(path)  # that of all who read the file; a time that it cannot hold raises
    with replacing(path) as aside, pq.ParquetWriter(
        aside, schema, compression="NONE" if codec == "UNCOMPRESSED" else codec, use_deprecated_int96_timestamps=int96
    ) as writer:  # fmt: skip
        for i in range(file.num_row_groups):
            rows = change(i, file.read_row_group(i))
            if len(rows):
                writer.write_table(rows.cast(schema), row_group_size=len(rows))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file aside, and put it into the place of `path` if nothing fails."""
    aside = path.with_name(f"{ASIDE}{uuid.uuid4().hex}")
    try:
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        shutil.copymode(path, aside)
        announce(path, aside)
        # Hadoop's checksum is of the old bytes; without one, it checks nothing
        path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
