"""What the user last interacted with before the event: the history that a ranking model attends to."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

_LOOK_BACK = 4
"""A history of n distinct items is looked for in the last 4 n interactions: a click and a purchase are two."""


def add_history(rows: DataFrame, acts: DataFrame, length: int) -> DataFrame:
    """Add `history` [length]: the user's newest distinct items strictly before the row, oldest first.

    An item stands where its last interaction puts it, item ids break ties, and 0 pads on the left, as in the table
    `histories`. An interaction holds the history up to and with itself, and a row finds it by how many came before.

    Args:
        rows: with `user_id` and `_past`, the number of the user's past interactions.
        acts: `user_id`, `item_id` and `_us` of the interactions alone.
    """
    order = Window.partitionBy("user_id").orderBy("_us", "item_id")
    seen = F.collect_list("item_id").over(order.rowsBetween(1 - _LOOK_BACK * length, 0))
    newest = F.slice(F.array_distinct(F.reverse(seen)), 1, length)
    recent = acts.select("user_id", F.row_number().over(order).alias("_past"), newest.alias("_newest"))
    none = F.array().cast("array<int>")
    found = rows.join(recent, ["user_id", "_past"], "left").withColumn("_newest", F.coalesce("_newest", none))
    padding = F.array_repeat(F.lit(0), F.lit(length) - F.size("_newest"))
    return found.withColumn("history", F.concat(padding, F.reverse("_newest"))).drop("_newest")
