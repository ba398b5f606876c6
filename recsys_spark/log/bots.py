"""Users whose behaviour in a batch is no person's.

What is counted are acts. An event whose type weighs something is an act. Events of types that weigh
nothing are what the system does, impressions above all, and ten of them may share the moment at which a
page was shown: those of one moment are one act, and no act of choosing an item.

| rule | a user breaks it with |
|---|---|
| `events_per_minute` | more acts than that in a minute of the clock, not all at one moment: a coarse clock proves nothing |
| `items_per_hour` | more distinct items than that in an hour of the clock, in events whose type weighs something |
| `regularity` | at least `regular_events` moments with such events whose gaps have a standard deviation below `regular_spread` times their mean, and a mean of at most an hour |

Gaps count as a day at most. Two nights of sleep are enough to make a person's gaps vary; a mean of an hour
or less leaves out logs that know the day alone, where everybody is regular.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import BotsConfig, LogConfig

RULES = ("events_per_minute", "items_per_hour", "regularity")
"""In the order in which a user who breaks several is given one."""

_USER = ("batch", "user_id")
_MINUTE, _HOUR, _DAY = 60 * 10**6, 3_600 * 10**6, 86_400 * 10**6  # microseconds


def find_bots(events: DataFrame, config: LogConfig) -> DataFrame:
    """Return `batch`, `user_id` and the first `rule` broken, of every user who breaks one.

    Args:
        events: rows with `batch`, `user_id`, `item_id`, `event_type` and `timestamp`, duplicates removed.
        config: the rules are in `bots`, and types of weight 0 are no acts of a user.
    """
    weighty = [name for name, weight in config.weights.items() if weight > 0]
    rows = events.select(
        *_USER, "item_id", F.unix_micros("timestamp").alias("at"), F.col("event_type").isin(weighty).alias("chosen")
    ).repartition(*_USER)  # one shuffle serves all that follows
    moments = rows.groupBy(*_USER, "at").agg(
        F.count_if("chosen").alias("chosen"), F.count_if(~F.col("chosen")).alias("shown")
    )
    found = [rule for rule in (
        _busy_minutes(moments, config.bots), _many_items(rows, config.bots), _regular(moments, config.bots)
    ) if rule is not None]  # fmt: skip
    if not found:
        return events.sparkSession.createDataFrame([], "batch string, user_id string, rule string")
    every = found[0]
    for rule in found[1:]:
        every = every.unionByName(rule)
    first = F.min("place").alias("place")
    return every.groupBy(*_USER).agg(first).select(*_USER, F.get(F.array(*map(F.lit, RULES)), "place").alias("rule"))


def _busy_minutes(moments: DataFrame, config: BotsConfig) -> DataFrame | None:
    if config.events_per_minute is None:
        return None
    acts = F.col("chosen") + F.least("shown", F.lit(1))
    minutes = moments.groupBy(*_USER, F.expr(f"at div {_MINUTE}").alias("minute"))
    busy = minutes.agg(F.sum(acts).alias("acts"), F.count("*").alias("moments"))
    return _named(busy.where((F.col("acts") > config.events_per_minute) & (F.col("moments") > 1)), "events_per_minute")


def _many_items(rows: DataFrame, config: BotsConfig) -> DataFrame | None:
    if config.items_per_hour is None:
        return None
    hours = rows.where("chosen").groupBy(*_USER, F.expr(f"at div {_HOUR}").alias("hour"))
    many = hours.agg(F.count_distinct("item_id").alias("items")).where(F.col("items") > config.items_per_hour)
    return _named(many, "items_per_hour")


def _regular(moments: DataFrame, config: BotsConfig) -> DataFrame | None:
    if config.regular_events is None:
        return None
    before = F.lag("at").over(Window.partitionBy(*_USER).orderBy("at"))
    gap = F.when(before.isNotNull(), F.least(F.col("at") - before, F.lit(_DAY))).cast("decimal(11,0)")
    # Sums of whole numbers are the same in any order; the squares of gaps in doubles would not be.
    n, total, squares = F.count("gap"), F.sum("gap"), F.sum(F.col("gap") * F.col("gap"))
    gaps = moments.where("chosen > 0").select(*_USER, gap.alias("gap")).groupBy(*_USER)
    users = gaps.agg(n.alias("n"), total.cast("double").alias("total"), squares.cast("double").alias("squares"))
    # variance / mean² of the gaps g = n Σg² / (Σg)² - 1
    spread = F.col("n") * F.col("squares") / (F.col("total") * F.col("total")) - 1
    regular = (F.col("n") >= config.regular_events - 1) & (F.col("total") <= F.col("n") * float(_HOUR))
    return _named(users.where(regular & (spread < config.regular_spread**2)), "regularity")


def _named(users: DataFrame, rule: str) -> DataFrame:
    return users.select(*_USER, F.lit(RULES.index(rule)).alias("place"))
