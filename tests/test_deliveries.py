"""Deliveries as they come: packed, huge, binary, in many files, with columns of their own, or no longer there."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import json
import lzma
import os
import shutil
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.ingest import ingest
from recsys_spark.log.judge import REASONS
from recsys_spark.warehouse import Warehouse

DAY = "2026-03-02"


def line(number: int, **more: object) -> str:
    row = {"event_id": f"e{number}", "user_id": f"u{number % 3}", "item_id": f"i{number}", "event_type": "view",
           "timestamp": f"{DAY}T10:00:00Z", **more}  # fmt: skip
    return json.dumps({k: v for k, v in row.items() if v != "-"})


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def config_of(path: Path, **settings: object) -> LogConfig:
    types = {"view": 1, "rating": 1}
    return LogConfig.model_validate({"path": str(path), "event_types": types, "max_bad_share": 1.0, **settings})


def conserved(result) -> dict[str, int]:
    """The counts that are not zero, after what has to hold of them."""
    c = result.counts
    assert c["rows_in"] == c["events"] + c["duplicates"] + c["quarantined"] + c["bots"]
    assert c["quarantined"] == sum(c[reason] for reason in REASONS)
    return {name: n for name, n in c.items() if n}


def events_of(spark, warehouse: Warehouse, batch: str, *columns: str) -> list[tuple]:
    rows = spark.read.parquet(warehouse.slot("events", batch=batch).current().data)
    return sorted((tuple(row) for row in rows.selectExpr(*columns).collect()), key=str)


def raw_of(spark, warehouse: Warehouse, batch: str) -> list[tuple]:
    rows = spark.read.parquet(warehouse.slot("quarantine", batch=batch).current().data)
    return sorted(map(tuple, rows.select("reason", "raw").collect()))


def _stream(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def _snappy(data: bytes) -> bytes:
    return pa.Codec("snappy").compress(data, asbytes=True)


def _snappy_blocks(data: bytes) -> bytes:
    """Hadoop's: here two blocks, the first of two chunks."""
    half, third = len(data) // 2, len(data) // 3
    chunks = [_snappy(part) for part in (data[:third], data[third:half], data[half:])]
    sized = [len(c).to_bytes(4, "big") + c for c in chunks]
    return half.to_bytes(4, "big") + sized[0] + sized[1] + (len(data) - half).to_bytes(4, "big") + sized[2]


def _snappy_frames(data: bytes) -> bytes:
    body = b"\0\0\0\0" + _snappy(data)
    plain = b"\0\0\0\0" + b"\n"
    return (
        b"\xff\x06\x00\x00sNaPpY\x00" + len(body).to_bytes(3, "little") + body
        + b"\xfe\x02\x00\x00pp\x01" + len(plain).to_bytes(3, "little") + plain
    )  # fmt: skip


PACKED = {
    "a.jsonl.gz": gzip.compress, "b.jsonl.bz2": bz2.compress, "c.jsonl.zst": lambda d: _stream(d, "zstd"),
    "d.jsonl.snappy": _snappy_blocks, "e.jsonl.snappy": _snappy_frames, "f.jsonl.lz4": lambda d: _stream(d, "lz4"),
    "g.jsonl.deflate": zlib.compress, "h.jsonl.xz": lzma.compress, "i.jsonl": lambda d: d,
    "j.jsonl.zst": lambda d: _stream(d, "zstd") + _stream(b"\n", "zstd"),
}  # fmt: skip


def test_packed_and_plain_files_stand_side_by_side(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    for day, start in ((DAY, 0), ("2026-03-03", 100)):
        for n, (name, pack) in enumerate(PACKED.items()):
            text = f"{line(start + 2 * n)}\n{line(start + 2 * n + 1)}\n"
            write(log / f"date={day}" / name, pack(text.encode()))
    counts = conserved(ingest(spark, warehouse, config_of(log), None))
    blank = 4  # the lines in j.jsonl.zst and the frames of e.jsonl.snappy, on both days
    assert counts == {"rows_in": 40 + blank, "events": 40, "quarantined": blank, "malformed": blank}
    assert events_of(spark, warehouse, DAY, "event_id") == sorted((f"e{n}",) for n in range(20))
    assert events_of(spark, warehouse, "2026-03-03", "event_id") == sorted((f"e{100 + n}",) for n in range(20))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "c.jsonl.zst", "d.jsonl.snappy"])
def test_a_packed_file_that_was_cut_off_is_named(spark, tmp_path, name):
    data = PACKED[name]("".join(f"{line(n, text=os.urandom(40).hex())}\n" for n in range(3_000)).encode())
    write(tmp_path / "log" / name, data[: len(data) - len(data) // 3])
    with pytest.raises(DataError) as error:
        ingest(spark, Warehouse(tmp_path / "warehouse"), config_of(tmp_path / "log"), None)
    assert name in str(error.value) and "deliver it again" in str(error.value) and "\n" not in str(error.value)


def test_a_line_of_100_mb_and_binary_files_are_rows_of_the_quarantine(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    huge = f'{{"user_id": "{"ü" * (50 << 20)}"}}'
    write(log / "huge.jsonl", f"{line(1)}\n{huge}\n{line(2)}\n")
    image = [b"\x89PNG\r", b"\x00\xff\xfe" * 10, b"IHDR\x00\x01", b"\xc3"]
    write(log / "image.jsonl", b"\n".join(image))
    write(log / "latin.jsonl", f"{line(3, device='café')}\n".replace("\\u00e9", "é").encode("latin-1"))
    write(log / "wide.jsonl", f"{line(4)}\n".encode("utf-16"))
    write(log / "deep.jsonl", "[" * 5_000 + "]" * 5_000 + "\n")
    counts = conserved(ingest(spark, warehouse, config_of(log), None))
    assert counts["events"] == 2 and counts["too_long"] == 1 and counts["rows_in"] == 2 + counts["quarantined"]
    assert counts["quarantined"] == counts["too_long"] + counts["bad_encoding"] + counts["malformed"]
    bad = raw_of(spark, warehouse, "all")
    assert ("too_long", huge[:1_024]) in bad
    assert ("bad_encoding", line(3, device="café").replace("\\u00e9", "\ufffd")) in bad
    # readers other than Spark, too, want text to be text
    read = pq.read_table(warehouse.slot("quarantine", batch="all").current().data)
    assert sorted(read.column("raw").to_pylist()) == sorted(raw for _, raw in bad)


def test_ids_of_four_bytes_attributes_and_required_fields(spark, tmp_path):
    rows = [
        line(1, user_id="🦊🐙", item_id="\U0010ffff", shop="🏬", stars=4, seen=[1, {"a": 2}]),
        line(2, shop=" ", stars="-"),
        line(3, event_type="rating", rating=3),  # without a shop
        line(4, event_type="rating", rating=3, shop="s"),
        line(5, event_type="rating", shop="s", position="x"),
    ]
    write(tmp_path / "a.jsonl", "\n".join(rows))
    types = {"view": 1, "rating": {"weight": 2, "requires": ["rating", "shop"]}}
    config = config_of(tmp_path / "a.jsonl", event_types=types, attributes=["shop", "stars", "seen", "nowhere"])
    warehouse = Warehouse(tmp_path / "warehouse")
    assert conserved(ingest(spark, warehouse, config, None)) == {
        "rows_in": 5, "events": 3, "quarantined": 2, "missing_field": 2
    }  # fmt: skip
    found = events_of(spark, warehouse, "all", "event_id", "user_id", "item_id", "to_json(attributes)")
    assert [(*row[:3], json.loads(row[3])) for row in found] == [
        ("e1", "🦊🐙", "\U0010ffff", {"shop": "🏬", "stars": "4", "seen": '[1,{"a":2}]'}),
        ("e2", "u2", "i2", {}),
        ("e4", "u1", "i4", {"shop": "s"}),
    ]
    wrong = config.model_copy(update={"attributes": ["stars"]})
    with pytest.raises(ConfigError, match=r"log\.event_types\.rating\.requires: unknown field 'shop'"):
        ingest(spark, warehouse, wrong, None)


def test_times_without_an_offset_are_in_the_zone_of_the_log(spark, tmp_path):
    times = {  # the clocks go forward on 2026-03-29 at 02:00, and back on 2025-10-26 at 03:00
        "2026-01-10T12:00:00": "2026-01-10 11:00:00",
        "2026-01-10 12:00:00.5Z": "2026-01-10 12:00:00.5",
        "2026-01-10T12:00:00-05:00": "2026-01-10 17:00:00",
        "2026-07-10T12:00:00": "2026-07-10 10:00:00",
        "2026-03-29T02:30:00": "2026-03-29 01:30:00",
        "2025-10-26T02:30:00": "2025-10-26 00:30:00",
        "2026-01-10": "2026-01-09 23:00:00",
        "2026-01-10T12:00:00+01": "2026-01-10 11:00:00",
    }
    write(tmp_path / "a.jsonl", "\n".join(line(n, timestamp=t) for n, t in enumerate(times)))
    warehouse = Warehouse(tmp_path / "warehouse")
    ingest(spark, warehouse, config_of(tmp_path / "a.jsonl", timezone="Europe/Berlin"), None)
    found = dict(events_of(spark, warehouse, "all", "event_id", "cast(timestamp as string)"))
    assert found == {f"e{n}": utc for n, utc in enumerate(times.values())}


@pytest.mark.parametrize("unit", ["seconds", "milliseconds"])
def test_times_in_other_units_are_refused(spark, tmp_path, unit):
    second = 1_772_445_600
    times = [
        second,
        second * 10**3,
        second * 10**6,
        second * 10**9,
        str(second),
        "2026-03-02T10:00:00Z",
        -1,
        1e300,
        "NaN",
    ]
    write(tmp_path / "a.jsonl", "\n".join(line(n, timestamp=t) for n, t in enumerate(times)))
    counts = conserved(ingest(spark, Warehouse(tmp_path / "warehouse"), config_of(tmp_path, timestamps=unit), None))
    good = 2 if unit == "seconds" else 1
    assert counts == {"rows_in": 9, "events": good, "quarantined": 9 - good, "bad_timestamp": 9 - good}


def test_five_hundred_small_files_are_few_tasks(spark, tmp_path):
    for n in range(500):
        write(tmp_path / "log" / f"date={DAY}" / f"part [{n}]*.jsonl", line(n) + "\n")
    group = "five hundred files"
    spark.sparkContext.setJobGroup(group, group)
    result = ingest(spark, Warehouse(tmp_path / "warehouse"), config_of(tmp_path / "log"), None)
    tracker = spark.sparkContext.statusTracker()
    stages = [s for job in tracker.getJobIdsForGroup(group) for s in tracker.getJobInfo(job).stageIds]
    tasks = [tracker.getStageInfo(s).numTasks for s in stages if tracker.getStageInfo(s)]
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    assert conserved(result) == {"rows_in": 500, "events": 500}
    assert tasks and max(tasks) < 50


def test_parquet_of_many_types_in_one_batch_and_the_next(spark, tmp_path):
    moment = dt.datetime(2026, 3, 2, 10, 0, 0, 123456)
    more = {
        "nested": pa.array([{"a": [1], "b": {"c": None}}]),
        "tags": pa.array([["x", None]]),
        "blob": pa.array([b"\xff"]),
    }
    ns = pa.scalar(int(moment.replace(tzinfo=dt.UTC).timestamp()) * 10**9 + 123_456_789, pa.int64()).as_py()
    kinds = {
        "int": (pa.array([7], pa.int32()), pa.array([ns], pa.timestamp("ns", tz="UTC"))),
        "long": (pa.array([7], pa.int64()), pa.array([ns], pa.timestamp("ns"))),
        "decimal": (
            pa.array([decimal.Decimal(7)], pa.decimal128(20, 0)),
            pa.array([moment], pa.timestamp("us", tz="UTC")),
        ),
        "double": (pa.array([7.0], pa.float64()), pa.array([moment], pa.timestamp("ms"), safe=False)),
        "string": (pa.array(["7"]), pa.array([f"{DAY} 10:00:00.123"])),
        "bytes": (pa.array([b"7"]), pa.array([f"{DAY}T11:00:00.123+01:00"])),
    }
    for n, (name, (user, time)) in enumerate(kinds.items()):
        day = DAY if n < 4 else "2026-03-03"
        table = pa.table({"user_id": user, "item_id": [name], "event_type": ["view"], "timestamp": time, **more})
        (tmp_path / "log" / f"date={day}").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "log" / f"date={day}" / f"{name}.parquet")
    odd = pa.table({"user_id": [b"\xff7"], "item_id": ["odd"], "event_type": ["view"], "timestamp": [f"{DAY} 10:00"]})
    pq.write_table(odd, tmp_path / "log" / "date=2026-03-03" / "odd.parquet")
    old = tmp_path / "log" / f"date={DAY}" / "int96.parquet"
    table = pa.table({"user_id": [7], "item_id": ["int96"], "event_type": ["view"], "timestamp": pa.array([moment])})
    pq.write_table(table, old, use_deprecated_int96_timestamps=True)
    warehouse = Warehouse(tmp_path / "warehouse")
    result = ingest(spark, warehouse, config_of(tmp_path / "log", format="parquet"), None)
    assert conserved(result) == {"rows_in": 8, "events": 7, "quarantined": 1, "bad_encoding": 1}
    found = events_of(spark, warehouse, DAY, "user_id", "item_id", "cast(timestamp as string)")
    found += events_of(spark, warehouse, "2026-03-03", "user_id", "item_id", "cast(timestamp as string)")
    at = {"double": ".123", "string": ".123", "bytes": ".123"}
    assert sorted(found) == sorted(("7", n, f"{DAY} 10:00:00{at.get(n, '.123456')}") for n in [*kinds, "int96"])
    manifest = result.events[DAY].manifest
    assert manifest["columns"]["user_id"] == "decimal128(20, 0) or double or int32 or int64"


def test_csv_files_of_one_batch_with_their_columns_in_another_order(spark, tmp_path):
    write(tmp_path / "log" / "a.csv", f"user_id,item_id,timestamp,shop\nu1,i1,{DAY},s1\n")
    write(tmp_path / "log" / "b.csv", f"item_id,timestamp,user_id\ni2,{DAY},u2\n")
    write(tmp_path / "log" / "c.csv", "")
    config = config_of(tmp_path / "log", format="csv", default_type="view", attributes=["shop"])
    warehouse = Warehouse(tmp_path / "warehouse")
    assert conserved(ingest(spark, warehouse, config, None)) == {"rows_in": 2, "events": 2}
    assert events_of(spark, warehouse, "all", "user_id", "item_id", "attributes['shop']") == [
        ("u1", "i1", "s1"), ("u2", "i2", None)
    ]  # fmt: skip


def test_what_changed_in_the_columns_is_noted_by_batch(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    days = {
        "2026-03-01": {"device": "tv", "shop": 1},
        "2026-03-02": {"device": "tv", "shop": None},  # a null says nothing of a type
        "2026-03-03": {"shop": "s", "extra": True},
        "2026-03-04": {"shop": "s", "extra": True},
    }
    for day, more in days.items():
        rows = [line(n, timestamp=f"{day}T01:00:00Z", **more) for n in range(12)]
        rare = [line(12, timestamp=f"{day}T01:00:00Z", **more, **{f"rare{day}": 1})]
        write(log / f"date={day}" / "a.jsonl", "\n".join(rows + rare))
    expected = {
        "2026-03-03": ["column 'device' is gone", "new column 'extra'", "column 'shop' was int, is string"],
    }
    config = config_of(log, attributes=["shop"])
    moved = shutil.move(log / "date=2026-03-02", tmp_path / "late")
    first = ingest(spark, warehouse, config, None)
    assert first.changes == expected
    shutil.move(moved, log / "date=2026-03-02")
    second = ingest(spark, warehouse, config, None)
    assert second.built == 1 and second.changes == {
        "2026-03-03": ["column 'device' is gone", "new column 'extra'"]  # of a null, nothing is known
    }
    assert second.events["2026-03-01"].manifest["columns"]["shop"] == "int"
    assert events_of(spark, warehouse, "2026-03-03", "device is null and attributes['shop'] = 's'") == [(True,)] * 13


def test_a_required_column_that_is_gone_is_refused_by_name(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    types = {"view": {"weight": 1, "requires": ["shop"]}}
    config = config_of(log, format="csv", default_type="view", event_types=types, attributes=["shop"])
    write(log / "date=2026-03-01" / "a.csv", "user_id,item_id,timestamp,shop\nu1,i1,2026-03-01,s1\n")
    ingest(spark, warehouse, config, None)
    write(log / f"date={DAY}" / "b.csv", f"user_id,item_id,timestamp\nu1,i1,{DAY}\n")
    with pytest.raises(DataError, match=r"b\.csv: no column 'shop'"):
        ingest(spark, warehouse, config, None)
    assert warehouse.keys("events", "batch") == ["2026-03-01"]


@pytest.mark.parametrize("stray", ["dt=2026-03-01/a.jsonl", "date=2026-13-01/a.jsonl", "a.jsonl", "old/x/a.jsonl"])
def test_data_beside_the_days_is_refused_by_name(spark, tmp_path, stray):
    log = tmp_path / "log"
    write(log / f"date={DAY}" / "a.jsonl", line(1))
    for ignored in ("_tmp/a.jsonl", ".hidden", f"date={DAY}/.b.jsonl", f"date={DAY}/_temporary/c.jsonl"):
        write(log / ignored, "rubbish")
    (log / "empty").mkdir()
    assert ingest(spark, Warehouse(tmp_path / "warehouse"), config_of(log), None).counts["rows_in"] == 1
    write(log / stray, line(2))
    with pytest.raises(DataError) as error:
        ingest(spark, Warehouse(tmp_path / "warehouse"), config_of(log), None)
    assert str(log / stray.split("/")[0]) in str(error.value)


def test_retention_deletes_what_is_past_and_keeps_what_the_log_no_longer_has(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    days = [f"2026-03-0{d}" for d in range(1, 6)]
    for day in days:
        write(log / f"date={day}" / "a.jsonl", line(1, timestamp=f"{day}T01:00:00Z"))
    kept = config_of(log, retention_days=2)
    first = ingest(spark, warehouse, config_of(log), dt.date(2026, 3, 4))
    assert list(first.events) == days[:4]
    shutil.rmtree(log / "date=2026-03-03")  # expired in the log, not in the warehouse
    result = ingest(spark, warehouse, kept, dt.date(2026, 3, 4))
    assert list(result.events) == ["2026-03-02", "2026-03-03", "2026-03-04"] and result.built == 0
    assert result.counts["events"] == 3
    assert warehouse.keys("events", "batch") == days[1:4]
    for table in ("events", "quarantine", "bots"):
        assert not warehouse.slot(table, batch=days[0]).versions() and warehouse.slot(table, batch=days[1]).versions()
    result = ingest(spark, warehouse, kept, None)
    assert list(result.events) == days[2:] and result.built == 1
    result = ingest(spark, warehouse, config_of(log), None)  # without a retention, what is gone was withdrawn
    assert list(result.events) == [days[0], days[1], days[3], days[4]] and result.built == 2
    assert warehouse.keys("bots", "batch") == list(result.events)


def test_an_event_without_a_session_gets_one_by_its_pauses(spark, tmp_path):
    minutes = [0, 30, 60, 91, 91, 122, 122]
    rows = [
        line(n, user_id="u", timestamp=str(dt.datetime(2026, 3, 2) + dt.timedelta(minutes=m)))
        for n, m in enumerate(minutes)
    ]
    rows += [line(20, user_id="u", session_id="own", timestamp=f"{DAY} 00:45:00"), line(21, user_id="v", timestamp=DAY)]
    write(tmp_path / "a.jsonl", "\n".join(rows))
    warehouse = Warehouse(tmp_path / "warehouse")
    ingest(spark, warehouse, config_of(tmp_path / "a.jsonl"), None)
    found = spark.read.parquet(warehouse.slot("events", batch="all").current().data)
    groups = found.groupBy("user_id", "session_id").agg(F.sort_array(F.collect_list("event_id")).alias("ids")).collect()
    assert sorted(g.ids for g in groups) == [["e0", "e1", "e2"], ["e20"], ["e21"], ["e3", "e4"], ["e5", "e6"]]
