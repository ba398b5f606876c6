"""Who reads what in an epoch: every row once over all ranks, in as many batches on each.

The files (a row group each) are put into an order of the epoch's own. Their rows, laid end to end in that order, are
cut into one stretch for each rank, as long as the others but for one row. So a rank reads whole files and a part of at
most two, which it shares with its neighbours: both permute the rows of such a file in the same way and take different
places of the permutation. Whole files alone could not be dealt evenly: some ranks would have to read rows twice, or
leave rows out, so that all take the same number of steps.

A rank's stretch is cut into its steps just as evenly, so that a mean over a batch weighs every row (almost) alike and
the last batch of an epoch is no small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """A stretch of a file's permuted rows."""

    file: int
    rows: int
    """Of the whole file."""
    start: int
    stop: int
    seed: tuple[int, ...]
    """Of the permutation; the same on every rank that reads of the file."""


def share(rows: int, rank: int, size: int) -> tuple[int, int]:
    """Return the first row of a rank's share and the one behind its last."""
    return rows * rank // size, rows * (rank + 1) // size


def steps(rows: int, batch_size: int, size: int) -> int:
    """Return the steps of an epoch, on every rank: the fewest whose batches hold the largest share."""
    return -(-rows // (batch_size * size))


def batch_sizes(rows: int, batch_size: int, rank: int, size: int) -> list[int]:
    """Return the rows of each of a rank's batches: at most `batch_size`, and apart by no more than one."""
    start, stop = share(rows, rank, size)
    number = steps(rows, batch_size, size)
    return np.diff((stop - start) * np.arange(number + 1, dtype=np.int64) // number).tolist()


def parts(file_rows: Sequence[int], rank: int, size: int, seed: int, epoch: int) -> list[Part]:
    """Return what a rank reads in an epoch, in order.

    Args:
        file_rows: rows of each file, in an order that does not change.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(file_rows))
    start, stop = share(sum(file_rows), rank, size)
    dealt, first = [], 0
    for file in order.tolist():
        low, high = max(start - first, 0), min(stop - first, file_rows[file])
        if low < high:
            dealt.append(Part(file, file_rows[file], low, high, (seed, epoch, file)))
        first += file_rows[file]
    return dealt
