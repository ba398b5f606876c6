"""What has to hold of the lists before anyone sees them; a table that fails is never published."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import PublishConfig
from recsys_spark.errors import DataError


@dataclass(frozen=True)
class Checked:
    """Figures of a list table that passed."""

    users: int
    rows: int
    coverage: float
    """Distinct items in the lists / items that could be recommended."""
    churn: float | None
    """Mean over the users of both tables of 1 - overlap / k; None without a table to compare with."""


def check_lists(
    lists: DataFrame, seen: DataFrame, users: int, catalogue: int, last: DataFrame | None, config: PublishConfig
) -> Checked:
    """Check a table of `RECOMMENDATIONS` and return its figures.

    Args:
        lists: the rows to be published.
        seen: `user_id` and `item_id` as the log names them, of everything that was interacted with.
        users: how many users should have a list.
        catalogue: how many items can be recommended.
        last: what is published now.

    Raises:
        DataError: a user without a list or with a short one though items are left, an item twice, seen or
            unknown, ranks with gaps, or coverage or churn out of bounds.
    """
    k = config.k
    seen_by = seen.groupBy("user_id").agg(F.count("*").alias("seen"))
    per_user = lists.groupBy("user_id").agg(
        F.count("*").alias("n"), F.count_distinct("item_id").alias("distinct"), F.max("rank").alias("last_rank")
    )
    left = F.greatest(F.lit(0), F.lit(catalogue) - F.coalesce("seen", F.lit(0)))
    bad = per_user.join(seen_by, "user_id", "left").select(
        F.count("*").alias("users"),
        F.coalesce(F.sum("n"), F.lit(0)).alias("rows"),
        F.count_if(F.col("n") < F.least(F.lit(k), left)).alias("short"),
        F.count_if((F.col("n") != F.col("distinct")) | (F.col("n") != F.col("last_rank"))).alias("repeated"),
    )
    counts = bad.first()
    assert counts is not None
    unknown = lists.where("item_id is null or user_id is null").count()
    repeats = lists.join(seen, ["user_id", "item_id"], "left_semi").count()
    finished = seen_by.where(F.col("seen") >= catalogue).join(lists, "user_id", "left_anti").count()
    missing = users - finished - counts.users  # who has had everything has no list and needs none
    faults = {
        f"{unknown} rows with an unknown user or item": unknown,
        f"{missing} users without a list": missing,
        f"{counts.short} lists shorter than k = {k} with items left": counts.short,
        f"{counts.repeated} lists with an item twice or a gap in the ranks": counts.repeated,
        f"{repeats} items that their user has had": repeats,
    }
    for fault, found in faults.items():
        if found:
            raise DataError(f"the new lists have {fault}; they are not published")

    coverage = lists.select("item_id").distinct().count() / max(catalogue, 1)
    if coverage < config.min_coverage:
        raise DataError(
            f"the new lists cover {coverage:.1%} of the items, publish.min_coverage is {config.min_coverage:.1%}; "
            "they are not published"
        )
    churn = _churn(lists, last, k) if last is not None else None
    if churn is not None and churn > config.max_churn:
        raise DataError(
            f"the new lists differ from the published ones by {churn:.1%}, publish.max_churn is "
            f"{config.max_churn:.1%}; they are not published"
        )
    return Checked(counts.users, counts.rows, coverage, churn)


def _churn(lists: DataFrame, last: DataFrame, k: int) -> float | None:
    old = last.where(F.col("rank") <= k).select("user_id", "item_id")
    both = lists.select("user_id").distinct().join(old.select("user_id").distinct(), "user_id")
    users = both.count()
    if not users:
        return None
    kept = lists.join(old, ["user_id", "item_id"], "left_semi").count()
    total = lists.join(both, "user_id", "left_semi").count()
    return 1 - kept / max(total, 1)
