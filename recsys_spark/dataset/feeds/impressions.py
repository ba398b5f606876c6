"""The feed of impressions: one row per item shown, with features of the moment and what came of it.

Ranking models learn from it. The training part is the feed; the valid and test parts lie beside it, encoded
alike, to measure on. A log without impressions, such as MovieLens, gives a row per rating instead, and on request rows
of items that were not rated: see `drawn`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.features.describe import DRAWN, FLOATS, SIZES, TEXTS, describe_events
from recsys_spark.dataset.features.encoding import FILE, fit_encoding
from recsys_spark.dataset.features.moments import write_moments
from recsys_spark.dataset.feeds.drawn import with_drawn
from recsys_spark.dataset.feeds.writer import describe_files, write_files, write_rows
from recsys_spark.dataset.splits import GAP, PARTS, time_part
from recsys_spark.errors import DataError

IMPRESSION = "impression"
RATING = "rating"
POSITIVE, RATED = "label_positive", "label_rating"
POSITION = "position"
MOMENTS = "moments"
"""Folder of the feed's version with the features at each moment of the histories."""
_IDENTITY = ["user_id", "item_id", "_shown"]


def write_impressions(
    spark: SparkSession,
    interactions: DataFrame,
    events: DataFrame,
    items: DataFrame,
    config: Config,
    until: dt.date,
    path: Path,
) -> dict[str, Any]:
    """Write the impressions below `path` and return the manifest's entries.

    The training part goes to `data/`, the others to `valid/` and `test/`, how features were encoded to
    `encoding.json`, and what will be known of users and items when lists are made to `moments/`. Columns: `user_id`,
    `item_id`, `timestamp` (int64, seconds since 1970 UTC), the ids, numbers and history of
    `recsys_spark.dataset.features`, and the labels, float32 0 or 1; see `label_rows`.

    Args:
        interactions: the rows of `INTERACTIONS`; only splits that are no split by time ask them for the part.
        events: all events up to `until`, with dense ids; see `describe_events`.
        items: the catalogue with dense ids.

    Raises:
        DataError: the log has neither impressions nor ratings, or none of them in the training part.
    """
    types = config.log.weights
    kind = next((k for k in (IMPRESSION, RATING) if k in types), None)
    if kind is None:
        raise DataError(
            "log.event_types has neither 'impression' nor 'rating', so there is nothing to rank; "
            "take impressions out of dataset.feeds"
        )
    drawn = config.dataset.drawn_impressions
    labels = label_columns(types) if kind == IMPRESSION else {POSITIVE: [], **({RATED: []} if drawn else {})}
    parted = part_events(events, interactions, config, until).repartition("user_id")  # suits every window below
    shown = parted
    if drawn:
        acting = F.col("event_type").isin([k for k, weight in types.items() if weight > 0])
        shown = with_drawn(parted, _is_rating(), acting, drawn, config.seed).repartition("user_id")
    labelled = label_rows(shown, kind, labels, config.dataset.label_hours, config.dataset.positive_rating)
    which, length = F.col("_row") & F.col("_part").isNotNull(), config.dataset.history_length
    described = describe_events(labelled, items, types, which, length).persist()
    counts = {part: 0 for part in PARTS} | {
        r["_part"]: r["count"] for r in described.groupBy("_part").count().collect()
    }
    if not counts["train"]:
        raise DataError(
            f"no {kind} in the training part before {until}; choose a later --date, "
            "or take impressions out of dataset.feeds"
        )

    encoding = fit_encoding(described.where("_part = 'train'"), FLOATS, TEXTS)
    encoding.save(path / FILE)
    columns = ["user_id", "item_id", "timestamp", *TEXTS, *SIZES, *FLOATS, "history", *labels, "_shown", "_part"]
    seconds = F.unix_seconds("timestamp").alias("timestamp")
    encoded = encoding.apply(described).select(*(seconds if c == "timestamp" else c for c in columns))
    top = described.agg(F.max("user_id"), F.max("item_id"), F.max("position")).first()
    rows = {part: encoded.where(F.col("_part") == part) for part in PARTS}
    written = write_rows(spark, rows["train"], counts["train"], path, _IDENTITY, config)
    for part in PARTS[1:]:
        files = max(1, min(counts[part], config.dataset.feed_files))
        write_files(spark, rows[part], counts[part], path / part, _IDENTITY, files, config.seed)
        beside = describe_files(path / part, counts[part])
        if beside["schema"] != written["schema"]:
            raise AssertionError(f"{path / part}: has the columns {beside['schema']}, not those of the feed")
    described.unpersist()
    write_moments(parted, items, config, until, path / MOMENTS)
    sizes = {**SIZES, POSITION: SIZES[POSITION] if top[2] else 1}
    return {
        "table": "feeds/impressions", "kind": "impressions", "rows_are": kind, **written,
        "parts": counts, "n_users": top[0] + 1, "n_items": top[1] + 1,
        "history_length": length, "ids": {**encoding.sizes(), **sizes}, "floats": list(FLOATS), "labels": list(labels),
    }  # fmt: skip


def label_columns(weights: dict[str, float]) -> dict[str, list[str]]:
    """Return the event types that each label column stands for: those that are interactions.

    >>> label_columns({"impression": 0.0, "click": 1.0, "add to cart": 2.0, "scroll": 0.0})
    {'label_click': ['click'], 'label_add_to_cart': ['add to cart']}
    """
    labels = defaultdict(list)
    for kind, weight in weights.items():
        if weight > 0 and kind != IMPRESSION:
            labels["label_" + re.sub(r"\W", "_", kind)].append(kind)
    return dict(labels)


def part_events(events: DataFrame, interactions: DataFrame, config: Config, until: dt.date) -> DataFrame:
    """Add `_part` to events: train, valid or test, or null where an event belongs to none (`dataset.gap_days`).

    A split by time says it by the event's day. A split by the log's column is what the event says. Otherwise
    the part is that of the interaction of the same user and item, the latest should it stand in several, and
    train where there is none, so that no held-out pair is trained on.
    """
    dataset = config.dataset
    if dataset.split == "time":
        part = time_part(F.col("date"), until, dataset.valid_days, dataset.test_days, dataset.gap_days)
        return events.withColumn("_part", F.nullif(part, F.lit(GAP)))
    if dataset.split == "column":
        return events.withColumn("_part", F.col("split"))
    order = F.create_map(*(F.lit(x) for i, part in enumerate(PARTS) for x in (part, i)))
    latest = interactions.groupBy("user_id", "item_id").agg(F.max_by("split", order[F.col("split")]).alias("_part"))
    joined = events.join(latest, ["user_id", "item_id"], "left")
    return joined.withColumn("_part", F.coalesce("_part", F.lit(PARTS[0])))


def label_rows(
    events: DataFrame, kind: str, labels: dict[str, list[str]], hours: int, positive_rating: float
) -> DataFrame:
    """Mark the events that become rows and add what came of each.

    An event labels one impression: the latest of the same user and item at or before it, if that is no more
    than `hours` ago and in the same part. So an item shown twice and clicked once has one positive row, and no
    label knows of what is held out; towards the end of a part labels have seen less than `hours`. A rating is
    its own row, and `label_positive` says whether it is `positive_rating` or more. Of a drawn row that and
    `label_rating`, whether the item was rated at all, are 0.

    Args:
        events: with `_part`.
        kind: event type of the rows, `impression` or `rating`.
        labels: event types of each label column.

    Returns:
        The events with `_row`, the labels (null where `_row` is false), and `_shown`, the number from 1 of
        a row among those of its user, item and part.
    """
    row = _is_rating() | (F.col("event_type") == DRAWN) if kind == RATING else F.col("event_type") == kind
    rows = events.withColumns({"_row": row, "_at": F.unix_micros("timestamp")})
    ties = ["position", "rating", "session_id", "device", "country"]
    keys = ("user_id", "item_id")
    in_part = Window.partitionBy(*keys, "_part").orderBy("_at", F.desc("_row"), *ties)
    shown = F.sum(F.col("_row").cast("int")).over(in_part.rowsBetween(Window.unboundedPreceding, 0))
    rows = rows.withColumn("_shown", shown)
    if kind == RATING:
        liked = F.coalesce(F.col("rating") >= positive_rating, F.lit(False))
        made = {POSITIVE: liked.cast("float"), RATED: _is_rating().cast("float")}
        made = {label: column for label, column in made.items() if label in labels}
    else:
        group = Window.partitionBy(*keys, "_part", "_shown")
        rows = rows.withColumn("_since", F.min(F.when(F.col("_row"), F.col("_at"))).over(group))
        soon = F.col("_at") - F.col("_since") <= hours * 3_600_000_000
        made = {
            label: F.max((soon & F.col("event_type").isin(types)).cast("float")).over(group)
            for label, types in labels.items()
        }
    made = {label: F.when(F.col("_row"), column) for label, column in made.items()}
    return rows.withColumns(made).drop("_at", "_since")


def _is_rating() -> Column:
    return (F.col("event_type") == RATING) & F.col("rating").isNotNull()
