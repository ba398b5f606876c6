"""Parquet -> batches of tensors: every row once per epoch over all ranks, in as many steps on each.

What is read in which order follows from (seed, epoch, rank, ranks) alone (`recsys_spark.feed.deal`), so training that
is resumed at an epoch sees what it would have seen. A reader, Petastorm's or plain pyarrow's, only turns files into
arrays, one row group after the other. All that is promised beyond that is done here, for both:

- Rows are shuffled within their row group. The order of row groups is each epoch's own, and the writer has shuffled
  the rows over all of them, so no wider shuffle is needed.
- Reading and shuffling run ahead on `workers` threads, by a bounded number of row groups.
- Batches are slices of a shuffled row group; only the one across a border is put together from two. With CUDA they are
  in pinned memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_spark.config.night import ReaderName
from recsys_spark.errors import DataError
from recsys_spark.feed import deal
from recsys_spark.feed.check import check_feed
from recsys_spark.feed.columns import Columns
from recsys_spark.feed.deal import Part
from recsys_spark.feed.prefetch import interleaved
from recsys_spark.warehouse import MANIFEST

Batch = dict[str, torch.Tensor]
Read = Callable[[Sequence[Path], Sequence[str]], Generator[Columns, None, None]]
"""Yields the columns of each file's one row group, in the order of the files."""

_AHEAD = 1  # shuffled row groups that wait for the consumer, for each thread
_TENSORS = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}


@dataclass(frozen=True)
class Feed:
    """One rank's view of a training feed.

    Args:
        path: a version of a training feed, of any kind.
        columns: the feed's columns to read; nothing else leaves the disk.
        batch_size: most rows per step and rank.
        workers: threads that read and shuffle; the order of rows is the same for any number.
        reader: what reads the files.

    Raises:
        ConfigError, DataError: see `recsys_spark.feed.check.check_feed`.
    """

    path: Path
    columns: tuple[str, ...]
    batch_size: int
    rank: int
    size: int
    seed: int
    workers: int = 1
    reader: ReaderName = "petastorm"

    def __post_init__(self) -> None:
        check_feed(self.path, self.manifest, self.columns, self.batch_size, self.size)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))

    @property
    def steps(self) -> int:
        """Steps per epoch, the same on every rank."""
        return deal.steps(self.manifest["rows"], self.batch_size, self.size)

    def epoch(self, epoch: int) -> Generator[Batch, None, None]:
        """Yield exactly `steps` batches: int32, int64 or float32 tensors [B] and, for lists of L, [B, L].

        B is `batch_size` or less, and the same in all batches but for one row. The threads are gone when the last
        batch was taken, or the loop was left, by whatever way.

        Raises:
            DataError: a file cannot be read. Names it.
        """
        files = sorted(self.manifest["files"], key=lambda entry: entry["file"])
        parts = deal.parts([entry["rows"] for entry in files], self.rank, self.size, self.seed, epoch)
        paths = [self.path.absolute() / "data" / entry["file"] for entry in files]
        read: Read = import_module(f"recsys_spark.feed.{self.reader}").read
        each = (parts[worker :: self.workers] for worker in range(min(self.workers, len(parts))))
        sources = [_shuffled(read, paths, of, self.columns) for of in each]
        with closing(interleaved(sources, _AHEAD)) as blocks:
            yield from _cut(blocks, deal.batch_sizes(self.manifest["rows"], self.batch_size, self.rank, self.size))


def _shuffled(
    read: Read, paths: list[Path], parts: Sequence[Part], columns: tuple[str, ...]
) -> Generator[Batch, None, None]:
    """Yield each part's rows, shuffled."""
    with closing(read([paths[part.file] for part in parts], columns)) as groups:
        for part, group in zip(parts, groups, strict=True):
            for name in columns:
                if len(group[name]) != part.rows:
                    raise DataError(
                        f"{paths[part.file]}: {len(group[name])} rows of {name!r} were read, the feed's manifest says "
                        f"{part.rows}; was the feed replaced while it was read? Start the training again"
                    )
            order = _order(part)
            yield {name: _take(group[name], order) for name in columns}


def _order(part: Part) -> np.ndarray:
    """Return the places in its file of a part's rows, shuffled."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(part.seed).generate_state(1)[0]))
    # several times as fast as numpy's permutation, which would take longer than all the rest together
    return torch.randperm(part.rows, generator=generator).numpy()[part.start : part.stop]


def _take(values: np.ndarray, order: np.ndarray) -> torch.Tensor:
    """Gather rows into memory that a GPU can copy from."""
    pinned = torch.cuda.is_available()
    rows = torch.empty((len(order), *values.shape[1:]), dtype=_TENSORS[values.dtype], pin_memory=pinned)
    np.take(values, order, axis=0, out=rows.numpy(), mode="clip")  # "raise" would buffer what it takes
    return rows


def _cut(blocks: Iterable[Batch], sizes: Sequence[int]) -> Iterator[Batch]:
    """Cut blocks of rows into batches of the given sizes."""
    left = iter(blocks)
    block: Batch = {}
    at = rows = 0
    for size in sizes:
        batch: Batch = {}
        taken = 0
        while taken < size:
            if at == rows:
                block, at = next(left), 0
                rows = len(next(iter(block.values())))
            stop = min(at + size - taken, rows)
            piece = {name: values[at:stop] for name, values in block.items()}
            batch = _join(batch, piece) if batch else piece
            taken, at = taken + stop - at, stop
        yield batch


def _join(first: Batch, second: Batch) -> Batch:
    joined = {name: torch.cat([first[name], second[name]]) for name in first}
    return {name: values.pin_memory() for name, values in joined.items()} if torch.cuda.is_available() else joined
