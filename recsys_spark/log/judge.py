"""What makes a row of the raw log an event, and the reason why it is none.

Every row is typed and gets the first reason of `REASONS` that holds, or none.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.log.raw import FIELDS, WHOLE

REASONS = {
    "too_long": "a line above log.max_line_bytes; its first 1,024 characters are kept",
    "bad_encoding": "not text in log.encoding; what cannot be read stands there as U+FFFD",
    "malformed": "not a whole line of the log's format",
    "missing_user": "no user id",
    "missing_item": "no item id",
    "long_id": "a user, item or event id above log.max_id_length characters",
    "unknown_type": "an event type that log.event_types does not list",
    "missing_field": "without a field that log.event_types requires of its type",
    "bad_timestamp": "a time that cannot be read, or before log.not_before",
    "future": "later than the day on which the row arrived, or today",
    "too_late": "arrived more than log.late_days after its day",
    "bad_rating": "a rating that is not a number",
}
"""The closed list of reasons; a row gets the first that holds."""

_IDS = ("user_id", "item_id", "event_id")
_TRIMMED = ("user_id", "item_id", "session_id", "device", "country")


def judge(rows: DataFrame, config: LogConfig) -> DataFrame:
    """Type the text columns of `read.read_batches` and add `reason`, null for a good row.

    Returns:
        `batch`, `raw`, `reason`, `digest` (MD5 of the raw text) and the columns of `events` but `copies`.
    """
    kind = F.col("event_type")
    if config.default_type is not None:
        kind = F.coalesce(kind, F.lit(config.default_type))
    rating = F.col("rating").try_cast("float")  # reads "NaN" and "inf", too
    typed = rows.withColumn("digest", F.md5("raw")).select(
        "batch", "raw", "problem", "digest", "attributes",
        *(_filled(c).alias(c) for c in _TRIMMED),
        F.coalesce(_filled("event_id"), F.col("digest")).alias("event_id"),
        kind.alias("event_type"),
        _timestamp(config.timestamps, config.timezone).alias("timestamp"),
        rating.alias("rating"),
        (F.col("rating").isNotNull() & ~F.coalesce(F.abs(rating) < float("inf"), F.lit(False))).alias("bad_rating"),
        F.col("position").try_cast("int").alias("position"),
        F.col("split").alias("split"),
        _lacks_a_field(config, kind).alias("missing_field"),
        (F.greatest(*(F.length(_filled(c)) for c in _IDS)) > config.max_id_length).alias("long_id"),
    )  # fmt: skip
    typed = typed.withColumn("date", F.to_date("timestamp"))
    delivered = F.when(F.col("batch") != WHOLE, F.col("batch").try_cast("date"))  # null for a whole log
    checks = {
        **{name: F.col("problem") == name for name in ("too_long", "bad_encoding", "malformed")},
        "missing_user": F.col("user_id").isNull(),
        "missing_item": F.col("item_id").isNull(),
        "long_id": F.col("long_id"),
        "unknown_type": F.col("event_type").isNull() | ~F.col("event_type").isin(*config.event_types),
        "missing_field": F.col("missing_field"),
        "bad_timestamp": F.col("timestamp").isNull()
        | (F.col("timestamp") < F.lit(config.not_before).cast("timestamp")),
        "future": F.coalesce(F.col("date") > F.coalesce(delivered, F.current_date()), F.lit(False)),
        "too_late": F.coalesce(F.datediff(delivered, "date") > config.late_days, F.lit(False)),
        "bad_rating": F.col("bad_rating"),
    }
    assert list(checks) == list(REASONS)
    reason = F.coalesce(*(F.when(check, F.lit(name)) for name, check in checks.items()))
    return typed.withColumn("reason", reason).drop("problem", "bad_rating", "missing_field", "long_id")


def _filled(name: str) -> Column:
    """Return a field without blanks around it, null where nothing is left."""
    return F.nullif(F.trim(name), F.lit(""))


def _lacks_a_field(config: LogConfig, kind: Column) -> Column:
    """Tell whether a field that the row's type requires is empty; a position that is no number is none."""
    lacking = F.lit(False)
    for name, fields in config.required.items():
        for field in fields:
            value = _filled(field) if field in FIELDS else F.col("attributes").getItem(field)
            if field == "position":
                value = F.col("position").try_cast("int").cast("string")
            if field == "event_type" and config.default_type is not None:
                continue
            lacking |= F.coalesce(kind == name, F.lit(False)) & value.isNull()
    return lacking


def _timestamp(kind: str, zone: str) -> Column:
    """Read the time as UTC."""
    text = F.col("timestamp")
    if kind == "iso":  # Spark alone would take 10:00 for a time of today, whenever that is
        time = F.when(text.rlike(r"^\s*\d{4}-\d{1,2}-\d"), text.try_cast("timestamp"))
        if zone != "UTC":
            names_no_offset = text.rlike(r"^\s*\d{4}-\d{1,2}-\d{1,2}(?:[T ][0-9:.]*)?\s*$")
            time = F.when(names_no_offset, F.to_utc_timestamp(time, zone)).otherwise(time)
        return time
    number = text.try_cast("double")
    seconds = number if kind == "seconds" else number / 1000
    # a double past year 9999 would overflow the cast, so it is as unreadable as a word
    return F.when(F.abs(seconds) < 253402300800, F.timestamp_seconds(seconds))
