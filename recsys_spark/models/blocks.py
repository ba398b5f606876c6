"""The interactions as blocks of rows in CSR on the shared disk, packed once and memory-mapped from then on.

Two passes, both in Spark's tasks and none of it through a Spark shuffle: every partition of the interactions is written
once sorted by block of users, and once by block of items; then every block gathers its pieces and sorts them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import DataError
from recsys_spark.native import kernel
from recsys_spark.session import deal

_LARGEST_ID = 2**31 - 2
_PIECE_ROWS = 1 << 20
"""Rows that a task sorts at a time: what bounds its memory, however large its partition is."""


@dataclass(frozen=True)
class Extent:
    """How much there is to pack: the largest ids + 1, and the rows."""

    users: int
    items: int
    entries: int

    def blocks(self, asked: int | None = None, entries: int = 1_000_000, least: int = 8) -> int:
        """Return how many blocks a side is cut into: what was asked for, or one per so many entries."""
        return asked or max(least, self.entries // entries)


@dataclass(frozen=True)
class Side:
    """The users, or the items: ids 0 to `rows` - 1, in blocks of `height` rows, and their files."""

    name: str
    rows: int
    height: int
    folder: Path

    @classmethod
    def of(cls, name: str, rows: int, blocks: int, folder: Path, unit: int = 1) -> Side:
        """Cut into at most `blocks` blocks, each of a multiple of `unit` rows."""
        return cls(name, rows, unit * math.ceil(rows / blocks / unit), folder)

    @classmethod
    def both(cls, extent: Extent, blocks: int, folder: Path, unit: int = 1) -> tuple[Side, Side]:
        """Return the users and the items."""
        return cls.of("users", extent.users, blocks, folder, unit), cls.of("items", extent.items, blocks, folder, unit)

    @property
    def blocks(self) -> int:
        return math.ceil(self.rows / self.height)

    def csr(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Map a block: indptr [height + 1], ids of the other side [E], values [E]."""
        parts = ("indptr", "indices", "values")
        # "c": the kernels are compiled for arrays that could be written to
        indptr, indices, values = (np.load(self._block(block, part), mmap_mode="c") for part in parts)
        return np.asarray(indptr), np.asarray(indices), np.asarray(values)

    def _block(self, block: int, part: str) -> Path:
        return self.folder / f"{self.name}-{block:05d}-{part}.npy"

    def piece(self, piece: str, part: str) -> Path:
        return self.folder / f"piece-{self.name}-{piece}-{part}.npy"

    def write_piece(self, piece: str, own: np.ndarray, other: np.ndarray, values: np.ndarray) -> None:
        """Write some entries, sorted by block, and where each block begins."""
        block = own // self.height
        order = _stable_order(block, self.blocks)
        np.save(self.piece(piece, "entries"), np.stack([own[order], other[order], values[order].view(np.int32)]))
        np.save(self.piece(piece, "starts"), np.searchsorted(block[order], np.arange(self.blocks + 1)))

    def write_block(self, block: int, pieces: list[str], other_rows: int) -> None:
        """Gather a block's entries and write them in CSR, sorted by row, then by the other side's id."""
        found = []
        for piece in pieces:
            starts = np.load(self.piece(piece, "starts"))
            entries = np.load(self.piece(piece, "entries"), mmap_mode="r")
            found.append(entries[:, starts[block] : starts[block + 1]])
        own, other, values = np.concatenate(found, axis=1)
        own -= block * self.height
        order = _stable_order(other, other_rows)
        order = order[_stable_order(own[order], self.height)]
        np.save(self._block(block, "indptr"), np.searchsorted(own[order], np.arange(self.height + 1)))
        np.save(self._block(block, "indices"), other[order])
        np.save(self._block(block, "values"), values[order].view(np.float32))


def check(rows: DataFrame, what: str, remedy: str, signed: bool = False) -> tuple[DataFrame, Extent]:
    """Return rows as `pack` takes them, and how much that is.

    Args:
        rows: `user_id`, `item_id` and `value`.
        what, remedy: what the value is, and what to do about a bad one, for the error.
        signed: whether the value may be negative.

    Raises:
        DataError: there is no row, an id is no dense id, a value is no number, or negative.
    """
    x = F.col("value")
    wrong = x.isNull() | F.isnan(x) | (F.abs(x) == float("inf"))
    found = rows.agg(
        F.max("user_id").alias("user"), F.max("item_id").alias("item"), F.count("*").alias("n"),
        F.least(F.min("user_id"), F.min("item_id")).alias("least"),
        F.count_if(wrong if signed else wrong | (x < 0)).alias("wrong"),
    ).first()  # fmt: skip
    if not found.n:
        raise DataError("no interaction to train on")
    if found.wrong:
        raise DataError(f"{found.wrong} interactions have a {what} that is negative or no number; {remedy}")
    if found.least < 0 or max(found.user, found.item) > _LARGEST_ID:
        raise DataError(
            f"ids reach from {found.least} to {max(found.user, found.item)}: dense ids are 1 to {_LARGEST_ID}"
        )
    typed = rows.selectExpr("int(user_id) user_id", "int(item_id) item_id", "float(value) value")
    return typed, Extent(found.user + 1, found.item + 1, found.n)


def pack(rows: DataFrame, users: Side, items: Side) -> None:
    """Write the blocks of both sides.

    Args:
        rows: `user_id`, `item_id` (int) and `value` (float).
    """
    spark = rows.sparkSession.sparkContext

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        partition = TaskContext.get().partitionId()
        for number, (user, item, value) in enumerate(_in_parts(batches)):
            piece = f"{partition:05d}-{number:05d}"
            users.write_piece(piece, user, item, value)
            items.write_piece(piece, item, user, value)
            yield pa.RecordBatch.from_arrays([pa.array([piece])], ["piece"])

    pieces = sorted(row.piece for row in rows.mapInArrow(split, "piece string").collect())
    jobs = [(side, other, block) for side, other in ((users, items), (items, users)) for block in range(side.blocks)]
    deal(spark, jobs).foreach(lambda job: job[0].write_block(job[2], pieces, job[1].rows))
    for file in users.folder.glob("piece-*"):
        file.unlink()


def _in_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[list[np.ndarray]]:
    """Put batches together until they are about `_PIECE_ROWS` rows: the columns of each part, as numpy arrays."""
    schema = pa.schema([("user_id", pa.int32()), ("item_id", pa.int32()), ("value", pa.float32())])
    part: list[pa.RecordBatch] = []
    for batch in itertools.chain(batches, [None]):
        if part and (batch is None or sum(map(len, part)) + len(batch) > _PIECE_ROWS):
            table = pa.Table.from_batches(part, schema)
            yield [table[name].to_numpy() for name in schema.names]
            part = []
        if batch is not None:
            # from its columns alone: Spark says of some that they hold no nulls, which makes another schema
            part.append(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


@kernel
def _stable_order(keys, n):  # type: ignore[no-untyped-def]
    """Return the stable order of integer keys from 0 to n - 1 (counting sort)."""
    at = np.zeros(n + 1, np.int64)
    for k in keys:
        at[k + 1] += 1
    for k in range(n):
        at[k + 1] += at[k]
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        k = keys[i]
        order[at[k]] = i
        at[k] += 1
    return order
