"""What was known of users and items at a moment, as a ranking model asks for it: one row each, found by dense id."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.errors import DataError
from recsys_spark.models.base import Ints

OF_USERS, OF_ITEMS = "of_users", "of_items"
"""The two folders of a moment, as `recsys_spark.dataset.features.moments` writes them."""


@dataclass(frozen=True)
class Moment:
    """The features of a moment, not encoded.

    Attributes:
        users, items: a column of each feature; the last row is that of nobody: null, or NaN.
        user_rows, item_rows: row of each dense id, [largest id + 1]; that of nobody where there is none.
        tastes: offsets [rows + 1], categories (row in `categories`) and shares of the users' tastes, user by user.
        categories: all that items are of, each once.
        categories_of: the rows in `categories` of each row of `items`, [rows, most of an item]; padded with -1.
    """

    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    user_rows: Ints
    item_rows: Ints
    tastes: tuple[Ints, Ints, np.ndarray]
    categories: tuple[str, ...]
    categories_of: Ints

    @classmethod
    def of(cls, users: pa.Table, items: pa.Table) -> Moment:
        """Take the two tables into memory."""
        of_users = {n: _column(users, n) for n in users.column_names if n not in ("user_id", "taste")}
        of_items = {n: _column(items, n) for n in items.column_names if n not in ("item_id", "categories")}
        each = [[c for c in categories or () if c is not None] for categories in items["categories"].to_pylist()]
        categories = tuple(sorted({c for of in each for c in of}))
        number = {c: i for i, c in enumerate(categories)}
        categories_of = np.full((len(each) + 1, max(map(len, each), default=0)), -1, np.int64)  # the last: of nobody
        for row, of in enumerate(each):
            categories_of[row, : len(of)] = [number[c] for c in of]
        taste = users["taste"].combine_chunks()
        taste = taste.chunk(0) if isinstance(taste, pa.ChunkedArray) else taste
        offsets = taste.offsets.to_numpy().astype(np.int64)
        return cls(
            of_users, of_items, _rows(users["user_id"]), _rows(items["item_id"]),
            (
                np.append(offsets, offsets[-1]),  # nobody has none
                np.array([number.get(c, -1) for c in taste.keys.to_pylist()], np.int64),
                taste.items.to_numpy(zero_copy_only=False).astype(np.float64),
            ),
            categories,
            categories_of,
        )  # fmt: skip

    def user_taste(self, users: Ints, items: Ints) -> np.ndarray:
        """Return the feature `user_taste` of rows of users [B] and of each one's rows of items [B, C], [B, C]."""
        offsets, categories, shares = self.tastes
        share = np.zeros((len(users), len(self.categories) + 1))  # the last stands for no category
        for b, row in enumerate(users):
            at = slice(offsets[row], offsets[row + 1])
            share[b, categories[at]] = shares[at]
        share[:, -1] = 0
        of = self.categories_of[items]  # [B, C, K]
        return share[np.arange(len(users))[:, None, None], of].sum(axis=2)


@functools.lru_cache(maxsize=2)
def load(folder: Path) -> Moment:
    """Read a moment; kept in memory, because Spark asks once per block of users.

    Raises:
        DataError: it is not there.
    """
    if not (folder / OF_USERS).is_dir():
        raise DataError(
            f"{folder}: no features of users and items, which a ranking model reads; add impressions to dataset.feeds "
            "and build the data set again"
        )
    return Moment.of(pq.read_table(folder / OF_USERS), pq.read_table(folder / OF_ITEMS))


def rows_of(rows: Ints, ids: Ints) -> Ints:
    """Return the row of each id, of any shape; an id beyond the last is nobody's."""
    return np.where(ids < len(rows), rows[np.minimum(ids, len(rows) - 1)], -1)


def _rows(ids: pa.ChunkedArray) -> Ints:
    found = ids.to_numpy()
    rows = np.full(int(found.max(initial=0)) + 1, -1, np.int64)
    rows[found] = np.arange(len(found))
    return rows


def _column(table: pa.Table, name: str) -> Any:
    """Return a column with one more value, of nobody: text as objects, and numbers as float64 with NaN for null."""
    column = table[name]
    if pa.types.is_string(column.type):
        return np.array([*column.to_pylist(), None], object)
    return np.append(column.cast(pa.float64()).to_numpy(), np.nan)
