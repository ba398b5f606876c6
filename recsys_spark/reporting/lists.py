"""What the models' lists show of the catalogue, how far down they are right, and what is new since last night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.evaluation.evaluate import KNOWN_BEFORE
from recsys_spark.evaluation.lists import ranked_matrix
from recsys_spark.evaluation.metrics.beyond_accuracy import churn_at_k
from recsys_spark.warehouse import Version

K = 10
_POINTS = 50
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """Of the lists that the models were measured by, on test."""

    hits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By model, from rank 1: the share of users whose item at that rank is held out."""
    shown: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """By model, of the Lorenz curve: the share of the catalogue, least shown first, and its share of the exposure."""
    trained: Sequence[tuple[float, float]] = ()
    """The same of the training interactions."""
    popular: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By model: what share of its first ten ranks each tenth of the catalogue has, the most popular tenth first."""
    churn: Mapping[str, float] = field(default_factory=dict)
    """By model: the share of the first ten items that its list of the night before had not."""


def lists(
    spark: SparkSession, measured: Version, histories: Version | None, items: Path | None, before: Version | None
) -> Lists:
    """Look at the lists of a night's test users.

    Args:
        measured: a version of `user_metrics`; `before`: that of the night before.
        histories: of the data set that it was measured on; None = gone.
        items: how many training users have each item (`item_id`, `count`), as the feed has it; None = gone.
    """
    users = spark.read.parquet(measured.data).where("split = 'test'").select("model", "user_id", "items")
    hits = _hits(users, spark.read.parquet(histories.data)) if histories else {}
    old = spark.read.parquet(before.data).where("split = 'test'") if before else None
    churn = _churn(old.select("model", "user_id", "items"), users) if old is not None else {}
    if items is None:
        return Lists(hits, churn=churn)
    table = spark.read.parquet(str(items)).select("item_id", "count").toArrow()
    counts = np.zeros(int(table["item_id"].to_numpy().max(initial=0)) + 1, np.int64)
    counts[table["item_id"].to_numpy()] = table["count"].to_numpy()
    exposed = _exposed(users, len(counts))
    order = np.argsort(-counts[1:], kind="stable")
    order = order[: int((counts > 0).sum())]  # what nobody had, no model knows
    shown = {name: lorenz(of[1:][order]) for name, of in exposed.items()}
    tenths = {name: _tenths(of[1:][order]) for name, of in exposed.items()}
    return Lists(hits, shown, lorenz(counts[1:][order]), tenths, churn)


def lorenz(counts: Counts) -> list[tuple[float, float]]:
    """Return points of the Lorenz curve: the share of the items, rarest first, and what share of all they have.

    >>> lorenz(np.array([1, 3]))
    [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)]
    """
    total = counts.sum()
    if not total:
        return []
    cumulated = np.concatenate([[0], np.cumsum(np.sort(counts))]) / total
    at = np.unique(np.linspace(0, len(counts), min(_POINTS, len(counts)) + 1).round().astype(int))
    return [(float(i / len(counts)), float(cumulated[i])) for i in at]


def _tenths(by_popularity: Counts) -> list[float]:
    parts = [float(part.sum()) for part in np.array_split(by_popularity, 10)]
    total = sum(parts)
    return [part / total if total else 0.0 for part in parts]


def _hits(users: DataFrame, histories: DataFrame) -> dict[str, list[float]]:
    known = histories.where(F.col("known") == KNOWN_BEFORE["test"]).select("user_id", "held_out")
    ranked = users.join(known, "user_id").select("model", "held_out", F.posexplode("items").alias("rank", "item"))
    right = F.array_contains("held_out", F.col("item")).cast("double")
    sizes = {row["model"]: row["count"] for row in users.groupBy("model").count().collect()}
    rows = ranked.groupBy("model", "rank").agg(F.sum(right).alias("right")).collect()
    found: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda r: (r["model"], r["rank"])):
        found.setdefault(row["model"], []).append(row["right"] / sizes[row["model"]])
    return found


def _exposed(users: DataFrame, n_items: int) -> dict[str, Counts]:
    """Return how many lists have each item in their first ten ranks, by model, `[n_items]`."""
    rows = users.select("model", F.explode(F.slice("items", 1, K)).alias("item")).groupBy("model", "item").count()
    table = rows.toPandas()
    found = {}
    for name, of in table.groupby("model"):
        counts = np.zeros(max(n_items, int(of["item"].max()) + 1), np.int64)
        counts[of["item"].to_numpy()] = of["count"].to_numpy()
        found[str(name)] = counts
    return dict(sorted(found.items()))


def _churn(before: DataFrame, after: DataFrame) -> dict[str, float]:
    """Average `churn_at_k` over the users that a model was measured on in both nights."""
    both = before.withColumnRenamed("items", "old").join(after, ["model", "user_id"])
    sums = both.select("model", "old", "items").mapInArrow(
        partial(_churn_sums, k=K), "model string, total double, n long"
    )
    rows = sums.groupBy("model").agg(F.sum("total").alias("total"), F.sum("n").alias("n")).collect()
    return {row["model"]: row["total"] / row["n"] for row in sorted(rows) if row["n"]}


def _churn_sums(batches: Iterator[pa.RecordBatch], k: int) -> Iterator[pa.RecordBatch]:
    for rows in batches:
        values = churn_at_k(ranked_matrix(rows["old"], k), ranked_matrix(rows["items"], k), k)
        kept = ~np.isnan(values)
        names = rows["model"].dictionary_encode()
        of = names.indices.to_numpy()[kept]
        yield pa.RecordBatch.from_pydict({
            "model": names.dictionary, "total": np.bincount(of, values[kept], len(names.dictionary)),
            "n": np.bincount(of, minlength=len(names.dictionary)),
        })  # fmt: skip
