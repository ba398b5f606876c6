"""The Poisson bootstrap of a table's rows: each partition sums its own users, and only the sums travel."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.bootstrap import BootstrapSums, bootstrap_sums_by_name
from recsys_spark.evaluation.maps import map_columns

Key = tuple[str, str, str]
"""Model, split, and the name of what was measured."""


def bootstrap_rows(rows: DataFrame, values: Column, replicates: int, seed: int) -> dict[Key, BootstrapSums]:
    """Sum the replicates of every number that each user has, by model and split.

    Args:
        rows: with the columns `model`, `split` and `user_id`, one row per user of each.
        values: a `map<string,double>`; a user without an entry, or with NaN there, does not count for it.
    """

    def partial(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: dict[Key, BootstrapSums] = {}
        for batch in batches:
            groups = pa.Table.from_batches([batch]).group_by(["model", "split"]).aggregate([])
            for group in sorted(groups.to_pylist(), key=lambda g: (g["model"], g["split"])):
                of = pc.and_(pc.equal(batch["model"], group["model"]), pc.equal(batch["split"], group["split"]))
                some = batch.filter(of)
                columns = map_columns(some["values"])
                users = some["user_id"].to_numpy()
                for name, part in bootstrap_sums_by_name(columns, users, replicates, seed).items():
                    key = (group["model"], group["split"], name)
                    sums[key] = sums[key] + part if key in sums else part
        yield pa.RecordBatch.from_pydict({"sums": pa.array([pickle.dumps(sums)], pa.binary())})

    found: dict[Key, list[BootstrapSums]] = {}
    chosen = rows.select("model", "split", "user_id", values.alias("values"))
    for row in chosen.mapInArrow(partial, "sums binary").collect():
        for key, part in pickle.loads(row.sums).items():
            found.setdefault(key, []).append(part)
    return {key: reduce(BootstrapSums.__add__, parts) for key, parts in sorted(found.items())}


def paired_rows(users: DataFrame, a: str, b: str, column: str) -> DataFrame:
    """Return what model a has more than model b for each test user that both were measured on.

    Args:
        users: rows of `USER_METRICS`.
        column: `metrics` or `slices`; a name that either lacks is left out.

    Returns:
        `user_id`, and under `column` the differences by name.
    """
    of_a, of_b = (
        users.where((F.col("model") == m) & (F.col("split") == "test")).select("user_id", F.col(column).alias(alias))
        for m, alias in ((a, "a"), (b, "b"))
    )
    both = of_a.join(of_b, "user_id")
    zipped = F.map_zip_with("a", "b", lambda _, x, y: x - y)
    return both.select("user_id", F.map_filter(zipped, lambda _, d: d.isNotNull()).alias(column))


def paired_sums(users: DataFrame, a: str, b: str, column: str, replicates: int, seed: int) -> dict[str, BootstrapSums]:
    """Bootstrap the differences of `paired_rows`, by name."""
    rows = paired_rows(users, a, b, column)
    pairs = rows.select(F.lit("a-b").alias("model"), F.lit("test").alias("split"), "user_id", column)
    return {name: sums for (_, _, name), sums in bootstrap_rows(pairs, F.col(column), replicates, seed).items()}


def paired_values(users: DataFrame, a: str, b: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Collect the differences of one metric: user ids int64 `[B]` and values float64 `[B]`, for a test on the driver.

    16 bytes per user, so that ten million users take 160 MB.
    """
    rows = paired_rows(users, a, b, "metrics").select("user_id", F.col("metrics")[metric].alias("value")).toArrow()
    order = np.argsort(rows["user_id"].to_numpy())
    ids, values = (rows[name].to_numpy()[order] for name in ("user_id", "value"))
    return ids.astype(np.int64), values.astype(np.float64)
