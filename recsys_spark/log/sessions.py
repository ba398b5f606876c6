"""Sessions for events whose log names none.

The events of a user that lack a session are taken in order of time; one that comes more than
`log.session_gap_minutes` after the one before begins a session. A session's id is the MD5 of the user and
the time of its first event, so the same events make the same sessions wherever and whenever that happens.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def fill_sessions(events: DataFrame, gap_minutes: int) -> DataFrame:
    """Give every event without a `session_id` one; the others stay as they are.

    Args:
        events: rows with `batch`, `user_id`, `timestamp` and `session_id`; read twice, so best persisted.
        gap_minutes: the longest pause within a session.
    """
    time = F.unix_micros("timestamp")
    by_time = Window.partitionBy("batch", "user_id").orderBy("timestamp")
    before = F.lag(time).over(by_time)
    begins = before.isNull() | (time - before > gap_minutes * 60_000_000)
    lacking = events.where("session_id is null").withColumn("_begins", F.when(begins, F.col("timestamp")))
    # By default the window ends with the last row of the same time: all of them get the same start.
    start = F.unix_micros(F.max("_begins").over(by_time)).cast("string")
    made = F.md5(F.concat_ws("\n", "user_id", start))
    filled = lacking.withColumn("session_id", made).drop("_begins")
    return events.where("session_id is not null").unionByName(filled)
