"""The k-core: drop users and items with fewer than k interactions until none is left to drop."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, Observation
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
    counted = together(*(functools.partial(_degrees, edges, side, k, scratch) for side in sides))
    degrees = {side: rows for side, (rows, _) in zip(sides, counted, strict=True)}
    falls = {side: some for side, (_, some) in zip(sides, counted, strict=True)}
    gone: dict[str, DataFrame | None] = dict.fromkeys(sides)
    step, (side, other) = 0, sides
    while any(falls.values()):
        step += 1
        if falls[side]:
            fallen = degrees[side].where(F.col("degree") < k).select(side)
            lost = edges.join(fallen, side, "left_semi")
            removed = gone[other]
            if removed is not None:
                lost = lost.join(removed, other, "left_anti")
            lost = lost.groupBy(other).agg(F.count("*").alias("lost"))
            left = F.col("degree") - F.coalesce("lost", F.lit(0))
            earlier = gone[side]
            gone[side] = fallen if earlier is None else earlier.unionByName(fallen)
            degrees[side], falls[side] = degrees[side].where(F.col("degree") >= k), False
            after = degrees[other].join(lost, other, "left").select(other, left.alias("degree"))
            degrees[other], falls[other] = _keep(after, k, scratch / f"degrees-{step}")
        side, other = other, side
    return Core(degrees["user_id"].select("user_id"), degrees["item_id"].select("item_id"))


def _degrees(edges: DataFrame, side: str, k: int, scratch: Path) -> tuple[DataFrame, bool]:
    return _keep(edges.groupBy(side).agg(F.count("*").alias("degree")), k, scratch / side)


def _keep(rows: DataFrame, k: int, path: Path) -> tuple[DataFrame, bool]:
    """Write degrees and return them, and whether any is below k: seen while they are written, so it costs no job."""
    seen = Observation()
    observed = rows.observe(seen, F.count_if(F.col("degree") < k).alias("fallen"))
    observed.write.option("compression", "lz4_raw").parquet(str(path))
    return rows.sparkSession.read.schema(rows.schema).parquet(str(path)), bool(seen.get.get("fallen"))
