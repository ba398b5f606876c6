"""Every feature of an event, as of that event: from strictly before its time, or its own circumstances.

Features of the user look back from the event's microsecond, features of the item from the event's UTC day,
because they are kept by day. Nothing else of the log goes in, so what happens later changes no row. All past events
count, those of held-out pairs too: with a split that is not by time, a training row's past may hold them.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.dataset.features import context, crosses, item, repeat, user
from recsys_spark.dataset.features.history import add_history

TEXTS = (*context.TEXTS, "category")
"""Features that are text, to be numbered by `encoding`."""
SIZES = {**context.SIZES, **crosses.SIZES, **repeat.SIZES}
"""Features that are ids as they stand, and how many ids each may have."""
FLOATS = (*user.FLOATS, *item.FLOATS, *context.FLOATS, *crosses.FLOATS, *repeat.FLOATS)
"""Features that are numbers."""
DRAWN = "_drawn"
"""Event type of a row that asks for features and never was: it counts in none, not in its own either."""


def describe_events(
    events: DataFrame, items: DataFrame, weights: dict[str, float], which: Column, length: int | None = None
) -> DataFrame:
    """Return the events for which `which` holds, with the features of all groups.

    Args:
        events: all events that may count as past, with dense `user_id` and `item_id`, and `event_type`,
            `timestamp`, `date`, `position`, `session_id`, `device` and `country`.
        items: the catalogue with dense `item_id`; see `item.add_catalogue`.
        weights: of each event type; an event of weight above 0 is an interaction.
        which: a condition on columns of `events`.
        length: of the histories; None = without.

    Returns:
        The columns of `events` (`position` bounded), and the features: `TEXTS`, `SIZES`, `FLOATS`, and `history`.
    """
    rows = mark(events, weights)
    days = item.popularity(rows)
    acts = rows.where("_acts = 1").select("user_id", "item_id", "_us")
    rows = item.add_catalogue(rows, items)
    rows = repeat.add_repeats(crosses.add_crosses(context.add_context(user.add_user_features(rows)))).where(which)
    rows = rows if length is None else add_history(rows, acts, length)
    return rows.join(days, ["item_id", "date"], "left").drop("_us", "_acts", "_real", "_past", "_worth", "categories")


def mark(events: DataFrame, weights: dict[str, float]) -> DataFrame:
    """Add what the features count by.

    `_us`, microseconds since 1970 UTC; `_acts`, 1 for an interaction, else 0; `_real`, 0 for `DRAWN`; and `_worth`, see
    `repeat`.
    """
    acting = [kind for kind, weight in weights.items() if weight > 0]
    worth = {kind: round(weights[kind] * repeat.PARTS_OF_WEIGHT) for kind in acting}
    of_type = F.create_map(*(F.lit(x) for pair in worth.items() for x in pair))
    return events.withColumns({
        "_us": F.unix_micros("timestamp"),
        "_acts": F.col("event_type").isin(acting).cast("int"),
        "_worth": F.coalesce(of_type[F.col("event_type")].cast("long"), F.lit(0)),
        "_real": (F.col("event_type") != DRAWN).cast("int"),
    })  # fmt: skip
