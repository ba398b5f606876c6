"""What the user had done with this very item before the event.

Who knows an item clicks on it less. A model that is not told takes it for a judgement on all items of its kind, which
are those that the user likes best, and carries that over to the ones that the user does not know yet.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.dataset.features.user import before

FLOATS = ("user_item",)
BUCKETS = 33
SIZES = {"user_item_bucket": BUCKETS}
_ROUNDED = 1e-6
"""What a logarithm may be too large by where it should be whole."""
PARTS_OF_WEIGHT = 1_000_000
"""Weights are added up in millionths, because whole numbers have the same sum in any order."""


def add_repeats(events: DataFrame) -> DataFrame:
    """Add `user_item` = log(1 + summed weight of the user's past interactions with the item), and `user_item_bucket`.

    The bucket is ⌈4 log₂(1 + summed weight)⌉, at most `BUCKETS` - 1: an id, so that a model can learn of every amount
    what it means. A number times a vector can only say that more means more, or less.

    When lists are made, the weight is that of the item in the user's history, which is the same sum, but where
    `dataset.half_life_days` lets it fade. What a list is made of has none: the user has not had it.

    Args:
        events: with `user_id`, `item_id`, `_us` and `_worth`, the weight of the event's type in `PARTS_OF_WEIGHT`.
    """
    past = F.coalesce(F.sum("_worth").over(before("user_id", "item_id")), F.lit(0))
    weight = past / F.lit(PARTS_OF_WEIGHT)
    bucket = F.ceil(4 * F.log2(1 + weight) - _ROUNDED)
    return events.withColumns({
        "user_item": F.log1p(weight),
        "user_item_bucket": F.least(bucket, F.lit(BUCKETS - 1)).cast("int"),
    })  # fmt: skip
