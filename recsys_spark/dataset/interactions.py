"""Events -> interactions: one row per user, item and part of the split.

Everything that is shuffled is numbers: user and item are packed into one long, and so are the time, the part
and the type of an event. All events of a user and an item meet on one partition, so that what was delivered
twice is found and what remains is summed up behind a single shuffle, and neither a user nor an item with a
twentieth of all events makes any partition large.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import Config, DatasetConfig, LogConfig
from recsys_spark.dataset.kcore import k_core
from recsys_spark.dataset.splits import PARTS_AND_GAP, check_column, split_at_random, split_leave_one_out, time_part
from recsys_spark.errors import ConfigError
from recsys_spark.schemas import INTERACTIONS

# Seconds until the year 3058. 15 bits are left for the day of delivery, until 2059.
_TYPE_BITS, _PART_BITS, _SECOND_BITS = 10, 3, 35
_SECONDS_PER_DAY = 86_400
_HALF = 1 << 19


def write_summed(numbered: DataFrame, config: Config, until: dt.date, repeated: bool, path: Path) -> DataFrame:
    """Aggregate and split the events; write and return the columns of `aggregate`, and `kept`.

    `kept` says that the row is among the newest `dataset.max_user_interactions` of its user and part.

    Args:
        numbered: events with dense ids (see `events`).
        repeated: see `aggregate`.
        path: written on disk and read again, because what follows reads it often: so the memory that is needed does
            not grow with the log, and a lost executor costs a task.
    """
    pairs, most = _split(numbered, config, until, repeated), config.dataset.max_user_interactions
    newest = Window.partitionBy("user_id", "split").orderBy(F.desc("timestamp"), F.desc("item_id"))
    pairs = pairs.withColumn("kept", F.lit(True) if most is None else F.row_number().over(newest) <= most)
    pairs.write.option("compression", "lz4_raw").parquet(str(path))
    return numbered.sparkSession.read.schema(pairs.schema).parquet(str(path))


def mark_core(pairs: DataFrame, k: int, scratch: Path) -> DataFrame:
    """Find the k-core of the training part; return the columns of `INTERACTIONS`.

    The core looks at kept training rows only: which rows a model learns from must not depend on what is measured.
    Held-out rows stay, and are marked where the core does not know their user or item.

    Args:
        pairs: see `write_summed`.
        k: least training rows of a user and of an item.
        scratch: an existing folder.
    """
    learnt = F.col("kept") & (F.col("split") == "train")
    core = k_core(pairs.where(learnt), k, scratch)
    for column, name, nodes in (("user_id", "cold_user", core.users), ("item_id", "cold_item", core.items)):
        pairs = pairs.join(nodes.withColumn("known", F.lit(True)), column, "left")
        pairs = pairs.withColumn(name, F.col("known").isNull()).drop("known")
    return INTERACTIONS.conform(pairs.withColumn("in_core", learnt & ~F.col("cold_user") & ~F.col("cold_item")))


def _split(numbered: DataFrame, config: Config, until: dt.date, repeated: bool) -> DataFrame:
    settings = config.dataset
    part = None
    if settings.split == "time":
        part = time_part(F.col("date"), until, settings.valid_days, settings.test_days, settings.gap_days)
    elif settings.split == "column":
        check_column(numbered)
        part = F.col("split")
    pairs = aggregate(numbered, config.log, settings, until, part, repeated)
    if settings.split == "leave_one_out":
        return split_leave_one_out(pairs)
    if settings.split == "random":
        print(
            "warning: dataset.split is 'random': models train on the future of what they are tested on", file=sys.stderr
        )
        return split_at_random(pairs, settings.valid_share, settings.test_share, config.seed)
    return pairs


def aggregate(
    numbered: DataFrame, log: LogConfig, config: DatasetConfig, until: dt.date, part: Column | None, repeated: bool
) -> DataFrame:
    """Sum up the events of each user and item (and part).

    An event of weight w and age a, in days before the end of `until`, counts w · 2^(-a / half_life_days):
    exponential decay by half-life; without `dataset.half_life_days` it counts w.

    Args:
        numbered: events with dense `user_id` and `item_id`, `event_key` and `delivered` (see `events`).
        part: name of the part of each event; None where the split looks at the pairs.
        repeated: whether several batches may have delivered the same event; it counts once, as the earliest
            delivered it.

    Returns:
        `user_id`, `item_id`, `weight` (float), `rating` (float: the last; of two in one second the larger;
        else null), `timestamp` (long: seconds of the last event), `events` (int: how many these are), `deliveries`
        (long: how often they were delivered) and, where `part` is given, `split`.
    """
    types = sorted(name for name, weight in log.weights.items() if weight > 0)
    if len(types) >= 1 << _TYPE_BITS:
        raise ConfigError(
            f"log.event_types weighs {len(types)} types; give a weight to {(1 << _TYPE_BITS) - 1} at most"
        )
    fields = (
        (F.col("delivered"), _SECOND_BITS + _PART_BITS + _TYPE_BITS),
        (F.unix_seconds("timestamp"), _PART_BITS + _TYPE_BITS),
        (_code(part, PARTS_AND_GAP) if part is not None else F.lit(0), _TYPE_BITS),
        _code(F.col("event_type"), types),
    )
    pair = _pack((F.col("user_id"), 32), F.col("item_id")).alias("pair")
    rows = numbered.where(F.col("event_type").isin(types)).select(
        pair, "event_key", _pack(*fields).alias("event"), "rating"
    )
    if repeated:  # the delivery's number stands in front, so the least is the earliest
        first = F.min("event").alias("event"), F.min_by("rating", "event").alias("rating"), F.count("*").alias("copies")
        rows = rows.repartition("pair").groupBy("pair", "event_key").agg(*first)
    seconds = F.shiftright("event", _PART_BITS + _TYPE_BITS).bitwiseAND((1 << _SECOND_BITS) - 1)
    kind = F.col("event").bitwiseAND((1 << _TYPE_BITS) - 1)
    where = F.shiftright("event", _TYPE_BITS).bitwiseAND((1 << _PART_BITS) - 1).cast("int")
    weight = _pick(kind, [log.weights[t] for t in types])
    if config.half_life_days is not None:
        end = (until - dt.date(1970, 1, 1)).days * _SECONDS_PER_DAY + _SECONDS_PER_DAY
        weight = weight * F.pow(F.lit(2.0), -(F.lit(end) - seconds) / (config.half_life_days * _SECONDS_PER_DAY))
    # max_by takes one order, and passes over nulls: the rating, to a thousandth, breaks ties within a second
    size = F.greatest(F.least(F.round(F.col("rating") * 1_000), F.lit(_HALF - 1.0)), F.lit(-_HALF + 1.0))
    order = F.when(F.col("rating").isNotNull(), seconds * (2 * _HALF) + size.cast("long"))
    summed = rows.groupBy("pair", *([where.alias("part")] if part is not None else [])).agg(
        F.sum(weight).cast("float").alias("weight"),
        F.max_by("rating", order).alias("rating"),
        F.max(seconds).alias("timestamp"),
        F.count("*").cast("int").alias("events"),
        (F.sum("copies") if repeated else F.count("*")).alias("deliveries"),
    )
    return summed.select(
        F.shiftright("pair", 32).cast("int").alias("user_id"),
        F.col("pair").bitwiseAND(0xFFFFFFFF).cast("int").alias("item_id"),
        "weight", "rating", "timestamp", "events", "deliveries",
        *([_pick(F.col("part"), PARTS_AND_GAP).alias("split")] if part is not None else []),
    )  # fmt: skip


def _pack(*fields: tuple[Column, int] | Column) -> Column:
    """Put non-negative whole numbers side by side into one long: (number, bits to its right), …, the last number."""
    packed = F.lit(0).cast("long")
    for field in fields:
        value, shift = field if isinstance(field, tuple) else (field, 0)
        packed = packed.bitwiseOR(F.shiftleft(value.cast("long"), shift))
    return packed


def _code(name: Column, names: Sequence[str]) -> Column:
    """Position of a name among `names`."""
    return F.coalesce(*(F.when(name == n, F.lit(i)) for i, n in enumerate(names)))


def _pick(code: Column, values: Sequence[float] | Sequence[str]) -> Column:
    """Value at a position: comparisons are compiled, a map would be searched for every row."""
    return F.coalesce(*(F.when(code == i, F.lit(v)) for i, v in enumerate(values)))
