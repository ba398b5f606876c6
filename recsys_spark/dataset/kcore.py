"""The k-core: drop users and items with fewer than k interactions until none is left to drop."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.session import together


@dataclass(frozen=True)
class Core:
    """The users and items that survive: a pair is in the core if both its ends are."""

    users: DataFrame
    """`user_id`."""
    items: DataFrame
    """`item_id`."""


def k_core(pairs: DataFrame, k: int, scratch: Path) -> Core:
    """Find the largest subset in which every user and every item stands in at least k rows.

    Degrees are counted once. After that each half-round looks only at the rows that it takes away, those of the
    users (or items) that fell below k, and subtracts them from the degrees of the other side; the rows
    themselves are read again and never rewritten. The order of removal does not change the core (Seidman,
    Network structure and minimum degree, 1983).

    Args:
        pairs: one row per (user_id, item_id), cheap to read again: a Parquet table.
        k: least rows; 0 or 1 keeps everything.
        scratch: an existing folder for the degrees; they are on disk and not in a cache, because a plan that
            keeps its lineage doubles with every half-round, and because executors may be lost.
    """
    sides = ("user_id", "item_id")
    edges = pairs.select(*sides)
    degrees = dict(
        zip(sides, together(*(functools.partial(_degrees, edges, side, scratch) for side in sides)), strict=True)
    )
    gone: dict[str, DataFrame | None] = dict.fromkeys(sides)
    step, settled, (side, other) = 0, 0, sides
    while k > 1 and settled < 2:
        step += 1
        fallen = degrees[side].where(F.col("degree") < k).select(side)
        if fallen.isEmpty():
            settled += 1
        else:
            settled = 0
            lost = edges.join(fallen, side, "left_semi")
            removed = gone[other]
            if removed is not None:
                lost = lost.join(removed, other, "left_anti")
            lost = lost.groupBy(other).agg(F.count("*").alias("lost"))
            left = F.col("degree") - F.coalesce("lost", F.lit(0))
            earlier = gone[side]
            gone[side] = fallen if earlier is None else earlier.unionByName(fallen)
            degrees[side] = degrees[side].where(F.col("degree") >= k)
            after = degrees[other].join(lost, other, "left").select(other, left.alias("degree"))
            degrees[other] = _keep(after, scratch / f"degrees-{step}")
        side, other = other, side
    return Core(degrees["user_id"].select("user_id"), degrees["item_id"].select("item_id"))


def _degrees(edges: DataFrame, side: str, scratch: Path) -> DataFrame:
    return _keep(edges.groupBy(side).agg(F.count("*").alias("degree")), scratch / side)


def _keep(rows: DataFrame, path: Path) -> DataFrame:
    rows.write.option("compression", "lz4_raw").parquet(str(path))
    return rows.sparkSession.read.schema(rows.schema).parquet(str(path))
