"""The assignment table and the events of its users, as days of users, and as moments of every look."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import AssignmentsConfig, ExperimentConfig
from recsys_spark.errors import DataError
from recsys_spark.evaluation.ab.daily import COUNTS, SIZE, Look, looks
from recsys_spark.evaluation.user_sums import Moments

_NEEDED = ("user_id", "arm", "assigned_at")
_LOOKS = "day int, arm string, metric string, n long, mean array<double>, scatter array<double>"
_EPOCH = dt.date(1970, 1, 1)

Looks = dict[tuple[dt.date, str, str], Moments]
"""Day, arm and metric -> moments of the users' vectors."""


@dataclass(frozen=True)
class Assignments:
    """Users and their arms."""

    rows: DataFrame
    """`user_id`, `arm`, `assigned_at` (timestamp); a user once."""
    crossed: int
    """Users who were given more than one arm, and are left out."""


def read_assignments(spark: SparkSession, config: AssignmentsConfig) -> Assignments:
    """Read the assignment table; a user who stands in it twice with one arm has it since the first time.

    Raises:
        DataError: the table is missing, cannot be read, lacks a column or holds nobody, or a row lacks user, arm or a
            time that can be read.
    """
    path = config.resolve()
    if not path.exists():
        raise DataError(f"{path}: no such assignment table; set experiment.assignments.path")
    try:
        rows = _read(spark, config, str(path))
    except (Py4JJavaError, PySparkException) as error:
        raise DataError(
            f"{path}: cannot be read as {config.format}; mend it, or experiment.assignments.format"
        ) from error
    named = {name: config.columns.get(name, name) for name in _NEEDED}
    for name, column in named.items():
        if column not in rows.columns:
            raise DataError(f"{path}: has no column {column!r}; name it in experiment.assignments.columns.{name}")
    texts = {n: F.nullif(F.trim(F.col(f"`{named[n]}`").cast("string")), F.lit("")).alias(n) for n in ("user_id", "arm")}
    since = F.col(f"`{named['assigned_at']}`").cast("string")
    since = F.when(since.rlike(r"^\s*\d{4}-\d"), since.try_cast("timestamp")).alias("assigned_at")  # 10:00 is no day
    read = rows.select(*texts.values(), since)
    bad = F.col("user_id").isNull() | F.col("arm").isNull() | F.col("assigned_at").isNull()
    per_user = read.groupBy("user_id").agg(
        F.count_distinct("arm").alias("arms"), F.min("arm").alias("arm"), F.min("assigned_at").alias("assigned_at")
    )
    wrong, total = read.agg(F.count_if(bad), F.count("*")).first()
    if not total:
        raise DataError(f"{path}: gives nobody an arm")
    if wrong:
        raise DataError(f"{path}: {wrong} rows lack a user, an arm, or a time such as 2026-01-31 08:00:00; mend them")
    once = per_user.where("arms = 1").drop("arms")
    return Assignments(once, per_user.where("arms > 1").count())


def _read(spark: SparkSession, config: AssignmentsConfig, path: str) -> DataFrame:
    if config.format == "parquet":
        return spark.read.parquet(path)
    if config.format == "jsonl":
        return spark.read.json(path)
    options = {"sep": config.delimiter, "header": config.header, "encoding": config.encoding, "escape": '"'}
    return spark.read.csv(path, **options)


def user_days(
    assigned: DataFrame, events: DataFrame, items: DataFrame, config: ExperimentConfig, until: dt.date
) -> DataFrame:
    """Count what each assigned user did, by day: the rows that `daily.looks` takes.

    An event counts for its user's arm from the moment of the assignment on, and before it, up to `pre_days` back, for
    CUPED. Every user who was given an arm by the end of `until` has a row, whether with or without an event.

    Args:
        assigned: `user_id`, `arm`, `assigned_at`.
        events: rows of `EVENTS` up to `until`, each event once.
        items: rows of `ITEMS`.
    """
    users = assigned.where(F.to_date("assigned_at") <= F.lit(until))
    own = users.select("user_id", "arm", "assigned_at", F.unix_date(F.to_date("assigned_at")).alias("assigned"))
    rows = events.select("user_id", "item_id", "event_type", "timestamp", "date", "attributes").join(own, "user_id")
    rows = rows.where(F.col("timestamp") >= F.col("assigned_at") - F.expr(f"make_dt_interval({config.pre_days})"))
    day, kind = F.unix_date("date"), F.col("event_type")
    after = day - F.col("assigned")
    retained = after.between(config.retention_days, 2 * config.retention_days - 1)
    counted = {
        "impressions": F.count_if(kind == config.impression), "clicks": F.count_if(kind == config.click),
        "purchases": F.count_if(kind == config.purchase),
        "revenue": F.coalesce(F.sum(F.when(kind == config.purchase, F.col("paid"))), F.lit(0.0)),
        "active": F.lit(1), "retained": F.max(retained.cast("int")),
    }  # fmt: skip
    by = ["user_id", "arm", "assigned", day.alias("day"), (F.col("timestamp") < F.col("assigned_at")).alias("pre")]
    done = _with_paid(rows, items, config).groupBy(by).agg(*(_number(c).alias(n) for n, c in counted.items()))
    there = own.select(
        "user_id", "arm", "assigned", F.col("assigned").alias("day"), F.lit(False).alias("pre"),
        *(_number(F.lit(0)).alias(name) for name in COUNTS),
    )  # fmt: skip
    return done.unionByName(there)


def _number(column: Column) -> Column:
    return column.cast("double")


def _with_paid(rows: DataFrame, items: DataFrame, config: ExperimentConfig) -> DataFrame:
    """Add what was paid: the attribute of the event, or the price of its item."""
    if config.revenue_attribute is not None:
        return rows.withColumn(
            "paid", F.try_element_at("attributes", F.lit(config.revenue_attribute)).try_cast("double")
        )
    prices = items.select("item_id", F.col("price").cast("double").alias("paid"))
    return rows.join(prices, "item_id", "left")


def moments_of_looks(days: DataFrame, first: dt.date, last: dt.date, retention_days: int) -> Looks:
    """Add up the days of users at every look from `first` to `last`; only sums travel to the driver."""
    numbers = range((first - _EPOCH).days, (last - _EPOCH).days + 1)

    def partial(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        rows = list(batches)
        if rows:
            yield _frame(list(looks(pd.concat(rows), numbers, retention_days)))

    found: Looks = {}
    for row in days.repartition("user_id").mapInPandas(partial, _LOOKS).collect():
        key = (_EPOCH + dt.timedelta(days=row.day), row.arm, row.metric)
        part = Moments(
            row.n, pd.Series(row.mean).to_numpy(float), pd.Series(row.scatter).to_numpy(float).reshape(SIZE, SIZE)
        )
        found[key] = found[key] + part if key in found else part
    return found


def _frame(found: list[Look]) -> pd.DataFrame:
    rows = [
        (look.day, look.arm, look.metric, look.moments.n, look.moments.mean, look.moments.scatter.ravel())
        for look in found
    ]
    return pd.DataFrame(rows, columns=["day", "arm", "metric", "n", "mean", "scatter"])
