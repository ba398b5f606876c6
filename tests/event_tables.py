"""Live batches of `events` without a raw log: what the stations behind `ingest` are tested on."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.warehouse import Version, Warehouse

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("date", pa.date32()),
        ("rating", pa.float32()),
        ("position", pa.int32()),
        ("session_id", pa.string()),
        ("device", pa.string()),
        ("country", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("split", pa.string()),
        ("copies", pa.int32()),
    ]
)


def event(number: int, time: dt.datetime, **fields: Any) -> dict[str, Any]:
    """One row of `events`."""
    plain = {"event_id": f"e{number}", "user_id": "u1", "item_id": "i1", "event_type": "view", "copies": 1}
    return {**dict.fromkeys(SCHEMA.names), **plain, "timestamp": time, "date": time.date(), **fields}


def publish(warehouse: Warehouse, batch: str, rows: list[dict], name: str = "v1", **counts: int) -> Version:
    """Make rows the live version of a batch."""

    def build(path: Path) -> dict[str, Any]:
        (path / "data").mkdir()
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        for part in (0, 1):  # two files: no order of rows to rely on
            pq.write_table(table.slice(*((0, len(rows) // 2), (len(rows) // 2,))[part]), path / f"data/{part}.parquet")
        entries = {"rows_in": len(rows), "events": len(rows), "duplicates": 0, "quarantined": 0, **counts}
        return {"table": "events", "batch": batch, "counts": entries,
                "last_day": str(max((r["date"] for r in rows), default=""))}  # fmt: skip

    return warehouse.slot("events", batch=batch).materialize(f"{batch}-{name}", build)[0]
