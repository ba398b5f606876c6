"""Which segment each user belongs to: the device, the country or another attribute that most of their events have."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

_COLUMNS = ("device", "country")


def user_segments(interactions: DataFrame, numbered: DataFrame, attribute: str) -> DataFrame:
    """Return `user_id` and `segment` (string) of the users whose training events say it.

    Args:
        interactions: the rows of `INTERACTIONS`; of the events those count that made one of its training rows.
        numbered: the events, with dense ids.
        attribute: `device`, `country`, or one of `log.attributes`; among equally frequent values the smallest counts.
    """
    value = F.col(attribute) if attribute in _COLUMNS else F.col("attributes")[attribute]
    training = interactions.where("split = 'train'").select("user_id", "item_id", F.col("timestamp").alias("_last"))
    known = numbered.select("user_id", "item_id", F.unix_timestamp("timestamp").alias("_at"), value.alias("segment"))
    past = known.where("segment is not null").join(training, ["user_id", "item_id"]).where("_at <= _last")
    return past.groupBy("user_id").agg(F.mode("segment", True).alias("segment"))
