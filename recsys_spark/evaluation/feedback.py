"""From published lists and what came of them to off-policy estimates of other models, in Spark's tasks.

A list that was published for a run date is what its user is shown on the days after it. The other model is asked what
it would have drawn at that moment, from the user's history as it was then; nothing that the lists led to may be in it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark import models
from recsys_spark.config import ExplorationConfig, OffPolicyConfig
from recsys_spark.evaluation.evaluate import Candidate
from recsys_spark.evaluation.off_policy import SUMS, OffPolicy, Rounds, read, user_sums
from recsys_spark.evaluation.user_sums import Floats, Moments
from recsys_spark.models.base import UserBlock
from recsys_spark.recommendation.exploration import GREEDY, propensities
from recsys_spark.recommendation.select import blocks, recommend_block

_FOLDS = 2


def rewarded(exposures: DataFrame, events: DataFrame, config: OffPolicyConfig, last: dt.date) -> DataFrame:
    """Join what was shown by chance to what came of it.

    Only users with an event in the window count: a list that nobody looked at says nothing about its order. This takes
    it that who comes does not hang on the list.

    Args:
        exposures: rows of `EXPOSURES` of one run date.
        events: rows of `EVENTS`.
        last: the last day of the window; it begins on the day after the run date.

    Returns:
        `user_id`, `rank`, `item_id`, `propensity` and `reward` (1.0 where the user did one of `config.rewards` with the
        item, else 0.0), of the first `config.ranks` ranks of the lists that explored.
    """
    lists = exposures.where((F.col("policy") != GREEDY) & (F.col("rank") <= config.ranks))
    window = events.join(lists.select("user_id", "run_date").distinct(), "user_id")
    window = window.where((F.col("date") > F.col("run_date")) & (F.col("date") <= F.lit(last)))
    came = window.select("user_id").distinct()
    done = window.where(F.col("event_type").isin(config.rewards)).select("user_id", "item_id").distinct()
    rows = lists.join(came, "user_id", "left_semi").join(
        done.withColumn("reward", F.lit(1.0)), ["user_id", "item_id"], "left"
    )
    return rows.select("user_id", "rank", "item_id", "propensity", F.coalesce("reward", F.lit(0.0)).alias("reward"))


def by_user(rows: DataFrame, histories: DataFrame) -> DataFrame:
    """Gather the lists of each user beside the history from before they were published.

    Args:
        rows: as `rewarded` returns them, with dense ids.
        histories: rows of `HISTORIES` of one moment; who has none there has an empty history.

    Returns:
        `user_id`, the lists `shown`, `chances`, `rewards` and `predicted` by rank, and `items`, `weights`, `ratings`.
    """
    fold = F.pmod(F.xxhash64("user_id"), F.lit(_FOLDS))
    # what a rank earns on the users of the other fold: a prediction must not have learnt from what it predicts
    rates = rows.groupBy(((fold + 1) % _FOLDS).alias("fold"), "rank").agg(F.avg("reward").alias("predicted"))
    known = rows.withColumn("fold", fold).join(F.broadcast(rates), ["fold", "rank"], "left").fillna(0.0, ["predicted"])
    cells = F.sort_array(F.collect_list(F.struct("rank", "item_id", "propensity", "reward", "predicted"))).alias("c")
    lists = known.groupBy("user_id").agg(cells).select(
        "user_id", F.col("c.item_id").alias("shown"), F.col("c.propensity").alias("chances"),
        F.col("c.reward").alias("rewards"), F.col("c.predicted").alias("predicted"),
    )  # fmt: skip
    return lists.join(histories.select("user_id", "items", "weights", "ratings"), "user_id", "left")


def estimate(
    users: DataFrame, candidate: Candidate, fallback: Path, policy: ExplorationConfig, config: OffPolicyConfig,
    block_users: int, confidence: float,
) -> OffPolicy:  # fmt: skip
    """Estimate what a model would have earned per shown item, had its lists been drawn by a policy.

    Args:
        users: as `by_user` returns them.
        fallback: the saved model that serves whom the candidate does not know.
        policy: how the candidate's lists are drawn; `none` = its own order.
    """

    def partial(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        model, total = models.load(candidate.path), Moments.empty(len(SUMS))
        for rows in batches:
            done = 0
            for block in blocks(_users(rows), block_users):
                part = rows.iloc[done : done + len(block)]
                done += len(block)
                n = config.ranks if policy.policy == "none" else policy.candidates
                items, scores = recommend_block(model, block, n)
                cold = np.flatnonzero(~(items > 0).any(axis=1))
                if len(cold):
                    items[cold], scores[cold] = recommend_block(models.load(fallback), block.only(cold), n)
                shown = _padded(part["shown"], config.ranks, 0).astype(np.int64)
                target = propensities(items, scores, shown, policy)
                total = total + Moments.of(_sums(part, block.user_id, shown, target, config))
        yield pd.DataFrame({"n": [total.n], "mean": [total.mean], "scatter": [total.scatter.ravel()]})

    found = users.mapInPandas(partial, "n long, mean array<double>, scatter array<double>").collect()
    parts = (Moments(r.n, np.array(r.mean), np.array(r.scatter).reshape(len(SUMS), len(SUMS))) for r in found)
    return read(Moments.total(parts, len(SUMS)), confidence)


def _sums(rows: pd.DataFrame, user: np.ndarray, shown: np.ndarray, target: Floats, config: OffPolicyConfig) -> Floats:
    """Return the sums of each user of a block, [U, V]."""
    there = shown > 0
    logging, reward, predicted = (
        _padded(rows[c], config.ranks, 0.0)[there] for c in ("chances", "rewards", "predicted")
    )
    of_list = np.broadcast_to(user[:, None], shown.shape)[there]
    rank = np.broadcast_to(np.arange(shown.shape[1]), shown.shape)[there]
    rounds = Rounds.of(reward, logging, target[there], of_list, of_list, rank)
    return user_sums(rounds, config.cap, predicted, predicted)


def _users(rows: pd.DataFrame) -> UserBlock:
    lists = [[x if x is not None else () for x in rows[name]] for name in ("items", "weights", "ratings")]
    return UserBlock.of(rows["user_id"].to_numpy(), *lists)


def _padded(lists: pd.Series, width: int, fill: float) -> np.ndarray:
    out = np.full((len(lists), width), fill, np.float64)
    for row, values in enumerate(lists):
        out[row, : len(values)] = values
    return out
