"""Every table's columns, types and meaning, once.

Stations read and write these tables through `recsys_spark.warehouse`; a table that a station writes is
cast to its schema here, so that a column can change in one place only. `key` names the partition of the
table that a version belongs to: a raw batch, a run date, or nothing where the whole table is versioned.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DateType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)


@dataclass(frozen=True)
class Table:
    """Name, partition key, meaning and columns of a table."""

    name: str
    key: str | None
    meaning: str
    schema: StructType

    def conform(self, df: DataFrame) -> DataFrame:
        """Select this table's columns in order, cast to their types; a missing one raises."""
        return df.select([df[field.name].cast(field.dataType) for field in self.schema.fields])


def _schema(*columns: tuple[str, object, str]) -> StructType:
    return StructType([StructField(n, t, True, {"comment": why}) for n, t, why in columns])


_S, _I, _L, _F = StringType(), IntegerType(), LongType(), FloatType()

EVENTS = Table(
    "events",
    "batch",
    "The clean log: one row per event, no two with the same event_id within a batch.",
    _schema(
        ("event_id", _S, "the log's own id, else a hash of the raw row"),
        ("user_id", _S, "the log's user"),
        ("item_id", _S, "the log's item"),
        ("event_type", _S, "one of log.event_types"),
        ("timestamp", TimestampType(), "when it happened, UTC"),
        ("date", DateType(), "UTC day of the timestamp"),
        ("rating", _F, "the rating of a rating event, else null"),
        ("position", _I, "rank at which the item was shown, from 1, else null"),
        ("session_id", _S, "the log's session, else one by log.session_gap_minutes"),
        ("device", _S, "device class, else null"),
        ("country", _S, "ISO country, else null"),
        ("attributes", MapType(_S, _S), "the columns of log.attributes that the row has"),
        ("split", _S, "train, valid or test where the log ships its split, else null"),
        ("copies", _I, "how often the event was delivered within the batch"),
    ),
)

QUARANTINE = Table(
    "quarantine",
    "batch",
    "Rows that are no events: the raw text and one reason of recsys_spark.log.ingest.REASONS.",
    _schema(("raw", _S, "the row as it came"), ("reason", _S, "why it was refused")),
)

BOTS = Table(
    "bots",
    "batch",
    "Events of users whose behaviour in the batch is no person's; they are no part of `events`.",
    StructType([*EVENTS.schema.fields, StructField("rule", _S, True, {"comment": "rule of recsys_spark.log.bots"})]),
)

ITEMS = Table(
    "items",
    None,
    "The item catalogue, as the log names the items.",
    _schema(
        ("item_id", _S, "the log's item"),
        ("title", _S, "what people read"),
        ("description", _S, "free text, else null"),
        ("categories", ArrayType(_S), "categories, possibly none"),
        ("price", _F, "price, not negative, else null"),
    ),
)

_IDS = (
    ("raw_id", _S, "the log's id"),
    ("id", _I, "dense id from 1; 0 is the unknown"),
    ("key", _L, "64-bit hash of the log's id, by which events are joined"),
)
USER_IDS = Table("user_ids", None, "Append-only dictionary of users.", _schema(*_IDS))
ITEM_IDS = Table("item_ids", None, "Append-only dictionary of items.", _schema(*_IDS))

INTERACTIONS = Table(
    "interactions",
    "date",
    "What a user did with an item, aggregated over the events of one split part.",
    _schema(
        ("user_id", _I, "dense user id"),
        ("item_id", _I, "dense item id"),
        ("split", _S, "train, valid or test"),
        ("weight", _F, "sum of the event types' weights"),
        ("rating", _F, "last rating, else null"),
        ("timestamp", _L, "last event, seconds since 1970 UTC"),
        ("events", _I, "how many events these are"),
        ("in_core", BooleanType(), "a training row that survived the k-core"),
        ("cold_user", BooleanType(), "the user has no training row in the core"),
        ("cold_item", BooleanType(), "the item has no training row in the core"),
    ),
)

HISTORIES = Table(
    "histories",
    "date",
    "What was known of each user at a moment, and what was held out; oldest first, item id breaks ties.",
    _schema(
        ("known", _S, "parts in the history: train, valid (= train + valid) or test (= all)"),
        ("user_id", _I, "dense user id"),
        ("items", ArrayType(_I), "distinct items, oldest first"),
        ("weights", ArrayType(_F), "weight of each"),
        ("ratings", ArrayType(_F), "last rating of each, NaN where there is none"),
        ("held_out", ArrayType(_I), "new items of the next part, sorted; empty for known = test"),
        ("held_out_ratings", ArrayType(_F), "their ratings; NaN where there is none"),
        ("last_day", DateType(), "day of the user's last event of any type; known = test only"),
    ),
)

USER_METRICS = Table(
    "user_metrics",
    "date",
    "How each model did for each user with something held out.",
    _schema(
        ("model", _S, "model name, or champion"),
        ("split", _S, "valid or test"),
        ("user_id", _I, "dense user id"),
        ("items", ArrayType(_I), "the model's list, best first"),
        ("metrics", MapType(_S, DoubleType()), "ndcg@10 and so on"),
        ("slices", MapType(_S, DoubleType()), "NDCG@10 in each slice that the user is measured in"),
        ("squared_error", DoubleType(), "sum over the held-out ratings the model could predict"),
        ("absolute_error", DoubleType(), "the same, of absolute errors"),
        ("rated", _I, "how many those are"),
    ),
)

RECOMMENDATIONS = Table(
    "recommendations",
    None,
    "The published lists; the pointer names the version that is live.",
    _schema(
        ("user_id", _S, "the log's user"),
        ("rank", _I, "from 1"),
        ("item_id", _S, "the log's item"),
        ("score", _F, "the model's score; comparable within a user only"),
        ("model", _S, "model that gave the list; popularity for cold users"),
        ("run_date", DateType(), "the night that published it"),
    ),
)

EXPOSURES = Table(
    "exposures",
    "date",
    "What was published for a run date, and how probable it was: what off-policy estimates are made from.",
    StructType([
        *RECOMMENDATIONS.schema.fields,
        *_schema(
            ("policy", _S, "how the list was drawn; greedy: the model's own order"),
            ("propensity", DoubleType(), "chance of this item at this rank, given the items above it"),
        ).fields,
    ]),
)  # fmt: skip

TABLES = (
    EVENTS, QUARANTINE, BOTS, ITEMS, USER_IDS, ITEM_IDS, INTERACTIONS, HISTORIES, USER_METRICS, RECOMMENDATIONS,
    EXPOSURES,
)  # fmt: skip
