"""What a log is like, batch by batch, read from the warehouse without Spark: for notebooks and people."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.log.drift import drift
from recsys_spark.log.profile import PROFILES, standing_profile
from recsys_spark.log.raw import WHOLE
from recsys_spark.reporting.lists import lorenz
from recsys_spark.schemas import EVENTS
from recsys_spark.warehouse import Version, Warehouse


def volumes(warehouse: Warehouse) -> pd.DataFrame:
    """Return one row per batch: rows in, and what became of them, as `ingest` counted."""
    counts = {batch: version.manifest["counts"] for batch, version in _batches(warehouse)}
    return pd.DataFrame(counts).T.fillna(0).astype(int)


def skew(warehouse: Warehouse) -> dict[str, list[tuple[float, float]]]:
    """Return the Lorenz curves of the events by user and by item: what share of them the rarest have."""
    totals: dict[str, pd.Series] = {}
    for _, version in _batches(warehouse):
        rows = pq.read_table(version.data, columns=["user_id", "item_id"])
        for column in rows.column_names:
            found = rows.group_by(column).aggregate([([], "count_all")]).to_pandas().set_index(column)["count_all"]
            totals[column] = found.add(totals[column], fill_value=0) if column in totals else found
    return {column.removesuffix("_id") + "s": lorenz(of.to_numpy(np.int64)) for column, of in totals.items()}


def sessions(warehouse: Warehouse) -> pd.DataFrame:
    """Return quantiles of the sessions' events, items and minutes; a session that runs past midnight counts twice."""
    parts = []
    for _, version in _batches(warehouse):
        rows = pq.read_table(version.data, columns=["user_id", "session_id", "item_id", "timestamp"])
        seconds = rows["timestamp"].cast(pa.timestamp("us")).cast(pa.int64())
        rows = rows.set_column(3, "at", seconds)
        wanted = [([], "count_all"), ("item_id", "count_distinct"), ("at", "min"), ("at", "max")]
        parts.append(rows.group_by(["user_id", "session_id"]).aggregate(wanted).to_pandas())
    found = pd.concat(parts, ignore_index=True)
    table = pd.DataFrame({
        "events": found["count_all"], "items": found["item_id_count_distinct"],
        "minutes": (found["at_max"] - found["at_min"]) / 60e6,
    })  # fmt: skip
    return table.describe(percentiles=[0.1, 0.5, 0.9, 0.99]).drop(index="std")


def drift_by_day(warehouse: Warehouse) -> pd.DataFrame:
    """Return the PSI of every profiled column on each day against the oldest profile; NaN where it cannot be told."""
    days = [day for day in warehouse.keys(PROFILES, "batch") if day != WHOLE]
    profiles = [p for day in days if (p := standing_profile(warehouse, day)) is not None]
    if not profiles:
        return pd.DataFrame()
    first, rows = profiles[0], {}
    for now in profiles[1:]:
        both = [c for c in first.histograms if c in now.histograms]
        found = {c: drift(first.histograms[c], now.histograms[c]) for c in sorted(both)}
        rows[now.batch] = {c: np.nan if of is None else of.psi for c, of in found.items()}
    return pd.DataFrame(rows).T


def _batches(warehouse: Warehouse) -> Iterator[tuple[str, Version]]:
    for batch in warehouse.keys(EVENTS.name, "batch"):
        yield batch, warehouse.slot(EVENTS.name, batch=batch).require("run jobs/ingest.py first")
