"""Twenty users of a night: what they had, what was published to them, and what each model would say.

A page names people, so an erasure has to find them on it: every id stands in an attribute `data-user` and nowhere
else in another spelling, and `people_on` reads these.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark import models
from recsys_spark.models.base import UserBlock
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.recommendation.topk import read_block

PEOPLE, SHOWN = 20, 10
_MARKED = re.compile(r'data-user="([^"]*)"')


@dataclass(frozen=True)
class Item:
    """An item as people read it."""

    item_id: str
    title: str
    kind: str
    """Its first category; empty where the catalogue has none."""
    score: float | None = None
    """In a list: the model's score. In a history: its weight."""


@dataclass(frozen=True)
class Person:
    """One user."""

    user_id: str
    history: Sequence[Item]
    """The newest first."""
    n_history: int
    published: Sequence[Item]
    by: str
    """Model that gave the published list."""
    said: Mapping[str, Sequence[Item]]
    """By model: its list; empty where it does not know the user."""


def people(
    spark: SparkSession,
    published: DataFrame,
    histories: DataFrame,
    dictionaries: tuple[DataFrame, DataFrame],
    catalogue: DataFrame,
    saved: Mapping[str, Path],
    moment: Path | None,
    wanted: Sequence[str] | None = None,
) -> list[Person]:
    """Ask every model about some users.

    Args:
        published: rows of `RECOMMENDATIONS`.
        histories: those of `HISTORIES`.
        dictionaries: `user_ids` and `item_ids`.
        catalogue: rows of `ITEMS`.
        saved: models by name.
        moment: features of users and items, for a model that ranks by them.
        wanted: users as the log names them; None = twenty, by a hash of their ids: mostly the same every night.
    """
    users, items = dictionaries
    chosen = published.select("user_id").distinct()
    if wanted is None:
        chosen = chosen.orderBy(F.xxhash64("user_id"), "user_id").limit(PEOPLE)
    else:
        chosen = chosen.where(F.col("user_id").isin(*wanted))
    ids = chosen.join(users, chosen["user_id"] == users["raw_id"]).select("id", F.col("raw_id").alias("raw"))
    known = histories.where("known = 'test'").join(ids, histories["user_id"] == ids["id"])
    rows = known.select("raw", "user_id", "items", "weights", "ratings").toArrow().sort_by("raw")
    rows = rows.combine_chunks()
    lists = published.join(F.broadcast(chosen), "user_id").where(F.col("rank") <= SHOWN)
    given = lists.select("user_id", "rank", "item_id", "score", "model").orderBy("user_id", "rank").collect()
    block = read_block(rows) if len(rows) else UserBlock.of([], [])
    said = {name: _ask(path, moment, block) for name, path in saved.items()} if len(rows) else {}
    needed = {i for found in said.values() for row in found for i, _ in row} | {int(i) for i in block.items}
    read = _names(spark, needed, {row["item_id"] for row in given}, items, catalogue)
    return [_person(n, raw, block, given, said, read) for n, raw in enumerate(rows["raw"].to_pylist())]


def people_on(page: str) -> set[str]:
    """Return the ids of the users whom a page names.

    >>> sorted(people_on('<article data-user="a&amp;b"></article><article data-user="c">'))
    ['a&b', 'c']
    """
    return {html.unescape(found) for found in _MARKED.findall(page)}


def _ask(path: Path, moment: Path | None, users: UserBlock) -> list[list[tuple[int, float]]]:
    ranked, scores = recommend_block(models.load(path, moment), users, SHOWN)
    return [
        [(int(i), float(s)) for i, s in zip(row, of, strict=True) if i > 0]
        for row, of in zip(ranked, scores, strict=True)
    ]


@dataclass(frozen=True)
class _Names:
    """The items that are shown: by dense id the log's id, and by that title and first category."""

    raw: Mapping[int, str]
    titles: Mapping[str, tuple[str, str]]

    def item(self, raw: str, score: float | None = None) -> Item:
        title, kind = self.titles.get(raw, (raw, ""))
        return Item(raw, title, kind, score)

    def dense(self, item: int, score: float | None = None) -> Item:
        return self.item(self.raw.get(item, f"item {item}"), score)


def _names(spark: SparkSession, dense: set[int], raw: set[str], items: DataFrame, catalogue: DataFrame) -> _Names:
    numbers = spark.createDataFrame(pa.table({"id": pa.array(sorted(dense), pa.int32())}))
    found = {
        row["id"]: row["raw_id"] for row in items.join(F.broadcast(numbers), "id").select("id", "raw_id").collect()
    }
    named = spark.createDataFrame(pa.table({"item_id": pa.array(sorted({*raw, *found.values()}), pa.string())}))
    rows = catalogue.join(F.broadcast(named), "item_id").select(
        "item_id", "title", F.get("categories", F.lit(0)).alias("kind")
    )
    titles = {row["item_id"]: (row["title"] or row["item_id"], row["kind"] or "") for row in rows.collect()}
    return _Names(found, titles)


def _person(n: int, raw: str, block: UserBlock, given: list, said: Mapping[str, list], names: _Names) -> Person:
    own = slice(block.offsets[n], block.offsets[n + 1])
    had = list(zip(block.items[own].tolist(), block.weights[own].tolist(), strict=True))
    mine = [row for row in given if row["user_id"] == raw]
    return Person(
        raw,
        [names.dense(i, w) for i, w in had[:-SHOWN - 1:-1]],
        len(had),
        [names.item(row["item_id"], row["score"]) for row in mine],
        mine[0]["model"] if mine else "",
        {name: [names.dense(i, s) for i, s in found[n]] for name, found in said.items()},
    )  # fmt: skip
