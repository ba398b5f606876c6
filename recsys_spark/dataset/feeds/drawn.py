"""Items that nobody asked for, drawn beside each rating: what a ranker of a log without impressions learns from.

Ratings alone say what people think of what they came to, not what they come to next. A drawn row stands for an
impression that nothing came of: the same user at the same moment, an item drawn in proportion to its ratings in
training to the power of 3/4 (Mikolov et al. 2013, "Distributed representations of words and phrases and their
compositionality", section 2.2), and 0 for every label.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.dataset.features.describe import DRAWN
from recsys_spark.dataset.splits import GAP, PARTS
from recsys_spark.hashing import uniforms

HELD_OUT = 50
"""Least number drawn beside a row of the valid and the test part: so few rows tell epochs apart by many comparisons."""
_POWER = 0.75
_ORDER = (PARTS[0], GAP, *PARTS[1:])


def with_drawn(events: DataFrame, rated: Column, acting: Column, k: int, seed: int) -> DataFrame:
    """Add k drawn rows for each rating, of event type `DRAWN`; of a held-out one `HELD_OUT`, if that is more.

    What a user has by the end of the row's part is left out, so there are fewer beside the ratings of people who had
    much. What they come to in a later part is not: else its absence would tell of it. So the draws of a part are the
    same whatever comes after it.

    Args:
        events: with dense ids and `_part`; see `part_events`.
        rated: which of them get drawn rows.
        acting: which of them mean that the user had the item.
        seed: which rows are drawn follows from it and from the rating's user, item and time alone.
    """
    order = F.create_map(*(F.lit(x) for i, part in enumerate(_ORDER) for x in (part, i)))
    place = order[F.coalesce("_part", F.lit(GAP))]
    rows = events.where(rated & F.col("_part").isNotNull())
    counts = rows.where(F.col("_part") == PARTS[0]).groupBy("item_id").count().sort("item_id").toPandas()
    if counts.empty:
        return events
    ids = counts["item_id"].to_numpy(np.int32)
    reach = np.cumsum(counts["count"].to_numpy(np.float64) ** _POWER)

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            n = batch["_n"].to_numpy()
            numbers = uniforms(seed, batch["_key"].to_numpy(), int(n.max(initial=0)))
            chosen = numbers[np.arange(numbers.shape[1]) < n[:, None]] * reach[-1]
            beside = batch.take(pa.array(np.repeat(np.arange(len(n)), n)))
            found = np.searchsorted(reach, chosen, side="right")
            items = pa.array(ids[np.minimum(found, len(ids) - 1)])  # a product may be rounded up to the last sum
            yield pa.RecordBatch.from_arrays([*(beside[name] for name in kept), items], [*kept, "item_id"])

    asked = rows.select(
        "user_id", "timestamp", "date", "session_id", "device", "country", "_part",
        F.xxhash64("user_id", "item_id", "timestamp").alias("_key"),
        F.when(F.col("_part") == PARTS[0], k).otherwise(max(k, HELD_OUT)).alias("_n"),
    )  # fmt: skip
    kept = dict(asked.drop("_key", "_n").dtypes)
    schema = ", ".join(f"{name} {kind}" for name, kind in {**kept, "item_id": "int"}.items())
    drawn = asked.mapInArrow(draw, schema).withColumn("_place", place)
    had = events.where(acting).groupBy("user_id", "item_id").agg(F.min(place).alias("_had"))
    new = drawn.join(had, ["user_id", "item_id"], "left").where("_had is null or _had > _place")
    new = new.drop("_had", "_place").withColumn("event_type", F.lit(DRAWN))
    return events.unionByName(new, allowMissingColumns=True)
