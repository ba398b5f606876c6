"""Measure models on held-out users over the full catalogue, in one pass of Spark over the users.

What is kept per user is written to `user_metrics`, so that any pair of models can be compared later without scoring
again; `results` makes figures with intervals of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from recsys_spark import models
from recsys_spark.config import EvaluationConfig
from recsys_spark.evaluation.beyond import beyond_accuracy
from recsys_spark.evaluation.cost import Block, Cost, block_times, milliseconds, size_of
from recsys_spark.evaluation.item_facts import ItemFacts
from recsys_spark.evaluation.lists import truth_of
from recsys_spark.evaluation.maps import map_array
from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.evaluation.metrics.hits import Ints, Truth
from recsys_spark.evaluation.results import Results, compare, from_json, summarise, to_json
from recsys_spark.evaluation.slices import ItemCounts, activity_label, slice_values
from recsys_spark.models.base import Recommender, UserBlock
from recsys_spark.recommendation.select import blocks, recommend_block
from recsys_spark.recommendation.topk import read_block
from recsys_spark.schemas import USER_METRICS

__all__ = [
    "FALLBACK",
    "KNOWN_BEFORE",
    "Candidate",
    "Results",
    "compare",
    "evaluate",
    "from_json",
    "score_users",
    "summarise",
    "to_json",
]

KNOWN_BEFORE = {"valid": "train", "test": "valid"}
"""Part that is measured -> the `known` of the histories that stand beside it."""

FALLBACK = "popularity"
"""Name of the candidate that serves the users whom another does not know."""

_COLUMNS = ["user_id", "items", "weights", "ratings", "held_out", "held_out_ratings", "labels"]


@dataclass(frozen=True)
class Candidate:
    """A saved model to be measured, and how its lists are named in the tables."""

    name: str
    version: str
    path: Path


def score_users(
    histories: DataFrame,
    candidate: Candidate,
    split: str,
    config: EvaluationConfig,
    block_users: int,
    fallback: Path | None = None,
    counts: ItemCounts | None = None,
    moments: Path | None = None,
    times: Accumulator[list[Block]] | None = None,
    facts: ItemFacts | None = None,
) -> DataFrame:
    """Measure one model on one part: rows of `USER_METRICS`, one per user with a history and a truth.

    Args:
        histories: the `histories` table; with a column `labels`, the users' further slices.
        split: valid or test.
        fallback: the saved model that serves whom this one does not know; what is measured is what would be
            published.
        counts: where given, novelty, popularity, serendipity and the slices of items are measured too.
        moments: features of users and items by moment, for a model that ranks by them.
        times: told how long the model took for each block, while the rows are written.
        facts: where given, diversity and freshness are measured too.
    """
    moment = moments / f"known={KNOWN_BEFORE[split]}" if moments else None
    path, name, ks = candidate.path, candidate.name, config.ks
    measured = histories.where(F.col("known") == KNOWN_BEFORE[split])
    measured = measured.where((F.size("held_out") > 0) & (F.size("items") > 0))
    none = F.array().cast("array<string>")
    labels = F.coalesce("labels", none) if "labels" in histories.columns else none
    if "activity" in config.slices:
        labels = F.array_append(labels, activity_label())
    schema = to_arrow_schema(USER_METRICS.schema)

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = models.load(path, moment)
        for rows in batches:
            done = 0
            for users in blocks(read_block(rows), block_users):
                part = rows.slice(done, len(users))
                done += len(users)
                start = time.perf_counter()
                ranked, _ = recommend_block(model, users, max(ks))
                if times is not None:
                    times.add([(len(users), time.perf_counter() - start)])
                cold = ~(ranked > 0).any(axis=1)
                if fallback is not None and cold.any():
                    ranked[cold] = recommend_block(models.load(fallback), users, max(ks))[0][cold]
                truth = truth_of(part["held_out"])
                slices = slice_values(ranked, truth, part["labels"], counts if "item" in config.slices else None)
                metrics = evaluate_lists(ranked, truth, ks)
                metrics |= beyond_accuracy(ranked, truth, users, config, counts, facts)
                columns = [
                    pa.array([name] * len(users)), pa.array([split] * len(users)),
                    pa.array(users.user_id.astype(np.int32)), _list_array(ranked),
                    map_array(metrics), map_array(slices, leave_out_nan=True),
                    *_rating_errors(model, users, truth, part),
                ]  # fmt: skip
                # the names of a map's own fields are pyarrow's in one and Spark's in the other
                yield pa.RecordBatch.from_arrays(
                    [column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
                )

    return measured.withColumn("labels", labels).select(_COLUMNS).mapInArrow(measure, USER_METRICS.schema)


def _list_array(ranked: Ints) -> pa.ListArray:
    """Lists `[B, K]` as Arrow has them, without the padding."""
    filled = ranked > 0
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ranked[filled].astype(np.int32)))


def _rating_errors(model: Recommender, users: UserBlock, truth: Truth, rows: pa.RecordBatch) -> list[pa.Array]:
    """Sums of squared and absolute errors over each user's held-out ratings, and how many there are."""
    sums = np.zeros((3, len(users)))
    if model.rates:
        predicted = model.rate(users)  # type: ignore[attr-defined]
        of, ratings = np.repeat(np.arange(len(users)), np.diff(truth.offsets)), rows["held_out_ratings"].flatten()
        known = truth.items < model.n_items
        of, items, actual = of[known], truth.items[known], ratings.to_numpy(zero_copy_only=False)[known]
        error = predicted[of, items] - actual.astype(np.float64)
        of, error = of[np.isfinite(error)], error[np.isfinite(error)]
        for s, value in enumerate((error**2, np.abs(error), np.ones(len(error)))):
            sums[s] = np.bincount(of, value, len(users))
    return [pa.array(sums[0]), pa.array(sums[1]), pa.array(sums[2].astype(np.int32))]


def evaluate(
    spark: SparkSession, candidates: list[Candidate], histories: Path, catalogue: int, path: Path,
    config: EvaluationConfig, block_users: int, seed: int, labels: DataFrame | None = None,
    counts: ItemCounts | None = None, moments: Path | None = None, facts: ItemFacts | None = None,
) -> tuple[Results, dict[str, Cost]]:  # fmt: skip
    """Measure every candidate on valid and test, write `user_metrics` below `path` and summarise it.

    Returns:
        The figures; and what each candidate costs, by the test part's blocks.

    Args:
        histories: the rows of the `histories` table.
        labels: `user_id` and `labels` (array of names), of `slices.user_labels`.
        counts: of the training part, for novelty, popularity, serendipity and the slices of items.
        moments: features of users and items by moment, for a model that ranks by them.
        facts: for diversity and freshness.
    """
    rows, scratch = spark.read.parquet(str(histories)), path / "scratch"
    if labels is not None:  # joined once, not for every model
        measured = rows.where(F.col("known").isin(*KNOWN_BEFORE.values()) & (F.size("held_out") > 0))
        measured.join(labels, "user_id", "left").write.partitionBy("known").parquet(str(scratch))
        rows = spark.read.parquet(str(scratch))
    fallback = next((c.path for c in candidates if c.name == FALLBACK), None)
    costs = {}
    for candidate in candidates:
        for split in KNOWN_BEFORE:
            times = block_times(spark.sparkContext)
            scored = score_users(rows, candidate, split, config, block_users, fallback, counts, moments, times, facts)
            USER_METRICS.conform(scored).write.mode("append").parquet(str(path / "data"))
        # of the test part, which comes last: what the first block of all compiles, valid has paid for
        costs[candidate.name] = Cost(milliseconds(times.value), size_of(candidate.path))
    shutil.rmtree(scratch, ignore_errors=True)
    return summarise(spark.read.parquet(str(path / "data")), catalogue, config, seed), costs
