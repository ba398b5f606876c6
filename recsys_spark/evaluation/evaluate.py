"""Measure models on held-out users over the full catalogue: per user in Spark, summed with intervals.

Scoring, top-K and metrics run in one pass over the users; what is kept per user is written to
`user_metrics`, so that any slice or pair of models can be compared later without scoring again.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark import models
from recsys_spark.config import EvaluationConfig
from recsys_spark.evaluation.bootstrap import BootstrapSums, Interval, bootstrap_sums_by_name
from recsys_spark.evaluation.metrics import coverage_at_k, evaluate_lists
from recsys_spark.models.base import Recommender, UserBlock
from recsys_spark.recommendation.select import blocks, recommend_block
from recsys_spark.recommendation.topk import read_block
from recsys_spark.schemas import USER_METRICS

KNOWN_BEFORE = {"valid": "train", "test": "valid"}
"""Part that is measured -> the `known` of the histories that stand beside it."""

FALLBACK = "popularity"
"""Name of the candidate that serves the users whom another does not know."""

Results = dict[str, dict[str, dict[str, Interval]]]
"""Model -> split -> metric -> interval."""


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
    moments: Path | None = None,
) -> DataFrame:
    """Measure one model on one part: rows of `USER_METRICS`, one per user with a history and a truth.

    Args:
        histories: the `histories` table.
        split: valid or test.
        fallback: the saved model that serves whom this one does not know; what is measured is what would be
            published.
        moments: features of users and items by moment, for a model that ranks by them.
    """
    moment = moments / f"known={KNOWN_BEFORE[split]}" if moments else None
    path, name, ks = candidate.path, candidate.name, config.ks
    measured = histories.where(F.col("known") == KNOWN_BEFORE[split])
    measured = measured.where((F.size("held_out") > 0) & (F.size("items") > 0))

    def measure(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        model = models.load(path, moment)
        for rows in batches:
            done = 0
            for users in blocks(read_block(pa.RecordBatch.from_pandas(rows)), block_users):
                part = rows.iloc[done : done + len(users)]
                done += len(users)
                ranked, _ = recommend_block(model, users, max(ks))
                cold = ~(ranked > 0).any(axis=1)
                if fallback is not None and cold.any():
                    ranked[cold] = recommend_block(models.load(fallback), users, max(ks))[0][cold]
                metrics = evaluate_lists(ranked, list(part["held_out"]), ks)
                errors = _rating_errors(model, users, part)
                yield pd.DataFrame(
                    {
                        "model": name,
                        "split": split,
                        "user_id": users.user_id.astype(np.int32),
                        "items": [row[row > 0].astype(np.int32) for row in ranked],
                        "metrics": [
                            dict(zip(metrics, row, strict=True)) for row in zip(*metrics.values(), strict=True)
                        ],
                        **errors,
                    }
                )

    columns = ["user_id", "items", "weights", "ratings", "held_out", "held_out_ratings"]
    return measured.select(columns).mapInPandas(measure, USER_METRICS.schema)


def _rating_errors(model: Recommender, users: UserBlock, rows: pd.DataFrame) -> dict[str, Any]:
    """Sums of squared and absolute errors over each user's held-out ratings, and how many there are."""
    sums = np.zeros((len(users), 3))
    if model.rates:
        predicted = model.rate(users)  # type: ignore[attr-defined]
        for b, (items, ratings) in enumerate(zip(rows["held_out"], rows["held_out_ratings"], strict=True)):
            known = np.asarray(items) < model.n_items
            error = predicted[b, np.asarray(items)[known]] - np.asarray(ratings, np.float64)[known]
            error = error[np.isfinite(error)]
            sums[b] = (error**2).sum(), np.abs(error).sum(), len(error)
    return {"squared_error": sums[:, 0], "absolute_error": sums[:, 1], "rated": sums[:, 2].astype(np.int32)}


def summarise(users: DataFrame, catalogue: int, config: EvaluationConfig, seed: int) -> Results:
    """Average the per-user metrics with bootstrap intervals; add coverage, and RMSE and MAE where rated.

    Args:
        users: rows of `USER_METRICS`, of any models and parts.
        catalogue: items that could have been recommended.
    """
    sums: dict[tuple[str, str, str], BootstrapSums] = {}
    for (model, split, metric), part in _bootstrap(users, config.replicates, seed):
        key = (model, split, metric)
        sums[key] = sums[key] + part if key in sums else part
    results: Results = {}
    for (model, split, metric), total in sorted(sums.items()):
        results.setdefault(model, {}).setdefault(split, {})[metric] = total.interval(config.confidence)
    for row in _totals(users, config.ks).collect():
        at = results[row.model][row.split]
        for k in config.ks:
            distinct = min(row[f"items@{k}"], catalogue)  # a champion of another night may know other items
            at[f"coverage@{k}"] = _exact(coverage_at_k(distinct, catalogue), row.n)
        if row.rated:
            at["rmse"] = _exact(float(np.sqrt(row.squared_error / row.rated)), row.rated)
            at["mae"] = _exact(row.absolute_error / row.rated, row.rated)
    return results


def _bootstrap(users: DataFrame, replicates: int, seed: int) -> Iterator[tuple[tuple[str, str, str], BootstrapSums]]:
    """Sum the replicates within each partition, so that only sums travel to the driver."""

    def partial(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        sums: dict[tuple[str, str, str], BootstrapSums] = {}
        for rows in batches:
            for (model, split), group in rows.groupby(["model", "split"], sort=True):
                values = pd.DataFrame([dict(m) for m in group["metrics"]])
                by_metric = {str(name): values[name].to_numpy(float) for name in values}
                for metric, part in bootstrap_sums_by_name(
                    by_metric, group["user_id"].to_numpy(), replicates, seed
                ).items():
                    key = (str(model), str(split), metric)
                    sums[key] = sums[key] + part if key in sums else part
        yield pd.DataFrame({"sums": [pickle.dumps(sums)]})

    for row in users.select("model", "split", "user_id", "metrics").mapInPandas(partial, "sums binary").collect():
        yield from pickle.loads(row.sums).items()


def _totals(users: DataFrame, ks: list[int]) -> DataFrame:
    """Per model and part: distinct items in the first k ranks, users, and sums of rating errors."""
    errors = [F.sum(c).alias(c) for c in ("squared_error", "absolute_error", "rated")]
    totals = users.groupBy("model", "split").agg(F.count("*").alias("n"), *errors)
    ranked = users.select("model", "split", F.posexplode("items").alias("rank", "item"))
    distinct = [F.count_distinct(F.when(F.col("rank") < k, F.col("item"))).alias(f"items@{k}") for k in ks]
    covered = ranked.groupBy("model", "split").agg(*distinct)
    return totals.join(covered, ["model", "split"], "left").fillna(0)


def _exact(value: float, n: int) -> Interval:
    """A figure of the whole part, without a spread of its own."""
    return Interval(value, float("nan"), float("nan"), int(n))


def compare(users: DataFrame, a: str, b: str, metric: str, config: EvaluationConfig, seed: int) -> Interval:
    """Bootstrap the mean of metric(a) - metric(b) over the test users that both were measured on."""
    value = F.col("metrics")[metric].alias("value")
    of_a, of_b = (
        users.where((F.col("model") == m) & (F.col("split") == "test")).select("user_id", value) for m in (a, b)
    )
    pairs = of_a.withColumnRenamed("value", "a").join(of_b.withColumnRenamed("value", "b"), "user_id")
    difference = pairs.select(
        F.lit("a-b").alias("model"),
        F.lit("test").alias("split"),
        "user_id",
        F.create_map(F.lit(metric), F.col("a") - F.col("b")).alias("metrics"),
    )
    parts = [part for _, part in _bootstrap(difference, config.replicates, seed)]
    return reduce(BootstrapSums.__add__, parts, BootstrapSums.empty(config.replicates)).interval(config.confidence)


def to_json(results: Results) -> dict[str, Any]:
    """Turn intervals into plain mappings, for a manifest."""
    return {m: {s: {k: asdict(i) for k, i in ks.items()} for s, ks in ss.items()} for m, ss in results.items()}


def from_json(values: dict[str, Any]) -> Results:
    """Undo `to_json`."""
    return {m: {s: {k: Interval(**i) for k, i in ks.items()} for s, ks in ss.items()} for m, ss in values.items()}


def evaluate(
    spark: SparkSession, candidates: list[Candidate], histories: Path, catalogue: int, path: Path,
    config: EvaluationConfig, block_users: int, seed: int, moments: Path | None = None,
) -> Results:  # fmt: skip
    """Measure every candidate on valid and test, write `user_metrics` below `path` and summarise it.

    Args:
        histories: the rows of the `histories` table.
        moments: features of users and items by moment, for a model that ranks by them.
    """
    rows = spark.read.parquet(str(histories))
    fallback = next((c.path for c in candidates if c.name == FALLBACK), None)
    for candidate in candidates:
        for split in KNOWN_BEFORE:
            scored = score_users(rows, candidate, split, config, block_users, fallback, moments)
            USER_METRICS.conform(scored).write.mode("append").parquet(str(path / "data"))
    return summarise(spark.read.parquet(str(path / "data")), catalogue, config, seed)
