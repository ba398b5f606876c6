"""Raw log -> events and quarantine: nothing is lost, nothing is counted twice, and running again changes nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.errors import DataError
from recsys_spark.log.ingest import ingest
from recsys_spark.log.judge import REASONS
from recsys_spark.warehouse import Warehouse

DAY = "2026-03-02"
TYPES = {"impression": 0, "view": 1, "rating": {"weight": 1, "requires": ["rating"]}}
LONGEST = 2_000  # bytes of a line in the literal day


def line(event_id: str | None, user: object, item: object, kind: object, time: str, **more: object) -> str:
    fields = {"event_id": event_id, "user_id": user, "item_id": item, "event_type": kind, "timestamp": time, **more}
    return json.dumps(fields)


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def session(user: str, time: str) -> str:
    """The id of a session that a user began at a time."""
    start = dt.datetime.fromisoformat(time).replace(tzinfo=dt.UTC)
    return md5(f"{user}\n{(start - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)}")


NO_ID = json.dumps({"user_id": "u3", "item_id": "i1", "event_type": "impression", "timestamp": f"{DAY}T11:00:00Z",
                    "position": 3, "session_id": "s1", "device": "mobile", "country": "NL", "extra": [1]})  # fmt: skip
EMPTY_ID = [line("", "u4", "i1", "view", f"{DAY} 12:00:00"), line("", "u4", "i2", "view", f"{DAY} 12:00:00")]
GOOD = [
    line("e1", "u1", "i1", "view", f"{DAY}T10:00:00Z"),
    line("e1", "u1", "i1", "view", f"{DAY}T10:00:00Z"),  # the same row once more
    line("e1", "u1", "i2", "view", f"{DAY}T09:00:00Z"),  # another row by the same id, and an earlier one
    line("e2", " u2 ", "i2", "rating", f"{DAY}T01:30:00+02:00", rating=4.5),  # the day before in UTC: not too late
    line("e3", 7, "i2", "rating", f"{DAY}T23:59:59.999Z", rating="3"),  # the last moment that is not the future
    NO_ID,
    NO_ID,
    *EMPTY_ID,
]


def event(
    event_id: str, user: str, item: str, kind: str, time: str, rating: float | None = None, copies: int = 1
) -> tuple:
    """An event whose session is its own, and that has nothing more than this."""
    return event_id, user, item, kind, time, time[:10], rating, None, session(user, time), None, None, copies


EVENTS = {
    event("e1", "u1", "i2", "view", f"{DAY} 09:00:00", copies=3),
    event("e2", "u2", "i2", "rating", "2026-03-01 23:30:00", 4.5),
    event("e3", "7", "i2", "rating", f"{DAY} 23:59:59.999", 3.0),
    (md5(NO_ID), "u3", "i1", "impression", f"{DAY} 11:00:00", DAY, None, 3, "s1", "mobile", "NL", 2),
    event(md5(EMPTY_ID[0]), "u4", "i1", "view", f"{DAY} 12:00:00"),
    event(md5(EMPTY_ID[1]), "u4", "i2", "view", f"{DAY} 12:00:00"),
}
BAD = {
    line("x1", "u1", "i1", "view", f"{DAY}T10:00:00Z")[:40]: "malformed",
    GOOD[0] + line("x2", "u9", "i9", "view", f"{DAY}T10:00:00Z"): "malformed",  # a line end was lost
    "": "malformed",
    "no json": "malformed",
    line("x3", None, "i1", "view", f"{DAY}T10:00:00Z", rating="x"): "missing_user",  # the first reason that holds
    line("x4", "  ", "i1", "view", f"{DAY}T10:00:00Z"): "missing_user",
    line("x5", "u1", "", "view", f"{DAY}T10:00:00Z"): "missing_item",
    line("x6", "u1", "i1", "hover", f"{DAY}T10:00:00Z"): "unknown_type",
    line("x7", "u1", "i1", None, f"{DAY}T10:00:00Z"): "unknown_type",
    line("x8", "u1", "i1", "view", "not-a-time"): "bad_timestamp",
    line("x9", "u1", "i1", "view", "10:30:00"): "bad_timestamp",  # Spark alone takes it for today's
    line("x10", "u1", "i1", "view", "1969-12-31T23:59:59Z"): "bad_timestamp",
    line("x11", "u1", "i1", "view", "2026-02-30T10:00:00Z"): "bad_timestamp",
    line("x17", "u1", "i1", "view", "1989-12-31T23:59:59.999Z"): "bad_timestamp",
    line("x18", "u1", "i1", "rating", f"{DAY}T10:00:00Z"): "missing_field",
    line("x19", "u1", "i1", "rating", f"{DAY}T10:00:00Z", rating=" "): "missing_field",
    line("x20", "u" * 257, "i1", "hover", f"{DAY}T10:00:00Z"): "long_id",
    line("x21" * 100, "u1", "i1", "view", f"{DAY}T10:00:00Z"): "long_id",
    "\udcff" + GOOD[0]: "bad_encoding",  # a byte that is no UTF-8
    line("x22", "u1", "i1", "view", f"{DAY}T10:00:00Z", text="ü" * (LONGEST // 2)): "too_long",
    "\udc89PNG" + "\x00\udcfe" * 3_000: "too_long",
    line("x12", "u1", "i1", "view", "2026-03-03T00:00:00Z"): "future",
    line("x13", "u1", "i1", "view", "2026-02-28T23:59:59.999Z"): "too_late",
    line("x14", "u1", "i1", "rating", f"{DAY}T10:00:00Z", rating="good"): "bad_rating",
    line("x15", "u1", "i1", "rating", f"{DAY}T10:00:00Z", rating="NaN"): "bad_rating",
    line("x16", "u1", "i1", "rating", f"{DAY}T10:00:00Z", rating=1e300): "bad_rating",
}


def write_day(log: Path, day: str, lines: list[str], part: int = 0) -> None:
    folder = log / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"part-{part}.jsonl").write_bytes(
        "".join(f"{text}\n" for text in lines).encode("utf-8", "surrogateescape")
    )


def kept(text: str, reason: str) -> str:
    """What the quarantine keeps of a row whose bytes are written as `write_day` does."""
    text = text[:1_024] if reason == "too_long" else text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def config_of(path: Path, **settings: object) -> LogConfig:
    return LogConfig.model_validate(
        {"path": str(path), "event_types": TYPES, "max_bad_share": 1.0, "late_days": 1, **settings}
    )


def events_of(spark: SparkSession, warehouse: Warehouse, batch: str) -> Counter:
    """The rows of a batch that is live, without the columns that no row here has."""
    rows = spark.read.parquet(warehouse.slot("events", batch=batch).current().data)
    assert rows.where("split is not null").isEmpty()
    assert rows.where("size(attributes) > 0").isEmpty()
    rows = rows.withColumn("timestamp", F.col("timestamp").cast("string")).withColumn(
        "date", F.col("date").cast("string")
    )
    return Counter(tuple(row) for row in rows.drop("split", "attributes").collect())


def quarantine_of(spark: SparkSession, warehouse: Warehouse, batch: str) -> Counter:
    rows = spark.read.parquet(warehouse.slot("quarantine", batch=batch).current().data)
    return Counter((row.raw, row.reason) for row in rows.collect())


def one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message and all(str(part) in message for part in parts), message


def test_every_reason_every_duplicate_and_every_event_of_a_literal_day(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    assert set(BAD.values()) == set(REASONS), "a reason without a row"
    rows = [*GOOD, *BAD]
    write_day(log, DAY, rows[::2])
    write_day(log, DAY, rows[1::2], part=1)
    (log / f"date={DAY}" / "_SUCCESS").touch()
    (log / f"date={DAY}" / ".part-0.jsonl.crc").write_bytes(b"\x00")
    result = ingest(spark, warehouse, config_of(log, max_line_bytes=LONGEST), dt.date.fromisoformat(DAY))

    assert events_of(spark, warehouse, DAY) == Counter(EVENTS)
    assert quarantine_of(spark, warehouse, DAY) == Counter((kept(*bad), bad[1]) for bad in BAD.items())
    reasons = Counter(BAD.values())
    assert result.counts == {
        "rows_in": len(rows), "events": 6, "duplicates": 3, "quarantined": len(BAD), "bots": 0, "erased": 0,
        **{r: reasons[r] for r in REASONS}
    }  # fmt: skip
    assert result.built == 1 and result.events[DAY].manifest["last_day"] == DAY
    assert list(result.events) == [DAY] and result.events[DAY] == warehouse.slot("events", batch=DAY).current()
    assert not (warehouse.root / ".ingest" / "aside").exists()

    before = {p: p.stat().st_mtime_ns for p in warehouse.root.rglob("*") if p.suffix == ".parquet"}
    again = ingest(spark, warehouse, config_of(log, max_line_bytes=LONGEST), dt.date.fromisoformat(DAY))
    assert again.built == 0 and again.events == result.events and again.counts == result.counts
    assert before == {p: p.stat().st_mtime_ns for p in warehouse.root.rglob("*") if p.suffix == ".parquet"}

    # a stricter threshold reads nothing again but holds for what was read; other types are another reading
    strict = config_of(log, max_line_bytes=LONGEST, max_bad_share=0.1)
    with pytest.raises(DataError, match=r"log\.max_bad_share"):
        ingest(spark, warehouse, strict, dt.date.fromisoformat(DAY))
    assert before == {p: p.stat().st_mtime_ns for p in warehouse.root.rglob("*") if p.suffix == ".parquet"}
    other = ingest(
        spark,
        warehouse,
        config_of(log, max_line_bytes=LONGEST, event_types={**TYPES, "hover": 1}),
        dt.date.fromisoformat(DAY),
    )
    assert other.built == 1 and other.counts["unknown_type"] == 1 and other.counts["events"] == 7


TIMES = {  # text -> UTC, None where it is no time
    "2026-03-01T00:00:00Z": "2026-03-01 00:00:00",
    "2026-03-01T23:59:59.999Z": "2026-03-01 23:59:59.999",
    "2026-03-02T01:59:00+02:00": "2026-03-01 23:59:00",
    "2026-03-02T08:15:30": "2026-03-02 08:15:30",
    "2026-03-02 22:00:00-03:00": "2026-03-03 01:00:00",
    "2026-03-03": "2026-03-03 00:00:00",
    "2026-03-04T00:00:00.001Z": "2026-03-04 00:00:00.001",
    "1989-12-31T23:00:00-02:00": "1990-01-01 01:00:00",
    "1969-12-31T23:00:00-02:00": None,
    "1970-01-01T00:00:00+01:00": None,
    "yesterday": None,
    "now": None,
    "2026": None,
    "": None,
}
DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


def random_row(rng: random.Random) -> str:
    row = {
        "event_id": rng.choice([None, "", *(f"e{i}" for i in range(60))]),
        "user_id": rng.choice(["u1", "u2", "u3", " u3", "ü4", 5] * 4 + [None, "", " "]),
        "item_id": rng.choice(["i1", "i2", "i3", 4] * 5 + [None, ""]),
        "event_type": rng.choice([*TYPES] * 6 + [None, "", "View"]),
        "timestamp": rng.choice([*TIMES, *[t for t in TIMES if TIMES[t] and "2026" in t] * 3]),
        "rating": rng.choice([None] * 9 + [5, 2.5, "4", "", "five", "inf", "-1"]),
        "position": rng.choice([None, 1, "2", "x"]),
        "session_id": rng.choice([None, None, "s1", " "]),
    }
    if rng.random() < 0.02:
        row[rng.choice(["user_id", "item_id", "event_id"])] = "😀" * 257
    if rng.random() < 0.01:
        row["text"] = "😀" * 500
    text = json.dumps({k: v for k, v in row.items() if v is not None or rng.random() < 0.5}, ensure_ascii=False)
    if rng.random() < 0.02:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["\udc80", "\udcc3", "\udcf0\udc9f", "\udced\udca0\udc80"]) + text[at:]
    return text[: rng.randrange(len(text))] if rng.random() < 0.05 else text


def judge(text: str, batch: str, late_days: int) -> tuple[str | None, dict]:
    """The rules once more, in plain Python: the reason, or None, and the fields."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > LONGEST:
        return "too_long", {}
    try:
        data.decode()
    except UnicodeDecodeError:
        return "bad_encoding", {}
    try:
        row = json.loads(text)
    except ValueError:
        return "malformed", {}
    user, item = (str(row[k]).strip() if row.get(k) is not None else "" for k in ("user_id", "item_id"))
    time = TIMES[row["timestamp"]] if row.get("timestamp") is not None else None
    rating = {None: None, 5: 5.0, 2.5: 2.5, "4": 4.0, "-1": -1.0}.get(row.get("rating"), "bad")
    day, arrived = dt.date.fromisoformat((time or "2026-03-01")[:10]), dt.date.fromisoformat(batch)
    checks = {
        "missing_user": not user,
        "missing_item": not item,
        "long_id": any(len(str(row.get(k) or "").strip()) > 256 for k in ("user_id", "item_id", "event_id")),
        "unknown_type": row.get("event_type") not in TYPES,
        "missing_field": row.get("event_type") == "rating" and row.get("rating") in (None, ""),
        "bad_timestamp": time is None,
        "future": day > arrived,
        "too_late": (arrived - day).days > late_days,
        "bad_rating": rating == "bad",
    }
    position = {1: 1, "2": 2}.get(row.get("position"))
    event = (
        row.get("event_id") or md5(text), user, item, row.get("event_type"), time, str(day), rating, position,
        (row.get("session_id") or "").strip() or None, None, None,
    )  # fmt: skip
    return next((reason for reason, holds in checks.items() if holds), None), {"event": event, "time": time}


def judged(rows: list[str], batch: str) -> tuple[Counter, Counter]:
    """Events (with copies) and quarantine of a batch."""
    bad, good = Counter(), {}
    for text in rows:
        reason, fields = judge(text, batch, late_days=1)
        if reason:
            bad[kept(text, reason), reason] += 1
        else:
            good.setdefault(fields["event"][0], []).append((fields["time"], text, fields["event"]))
    # by time and then by digest; times here are of one format, so their texts are in order
    first = {key: min(found, key=lambda f: (f[0], md5(f[1]))) for key, found in good.items()}
    events = [[*first[key][2], len(found)] for key, found in good.items()]
    last: dict[str, dt.datetime] = {}
    for event in sorted((e for e in events if e[8] is None), key=lambda e: (e[1], e[4])):
        user, time = event[1], dt.datetime.fromisoformat(event[4])
        if user not in last or time - last[user] > dt.timedelta(minutes=30):
            start = event[4]
        last[user], event[8] = time, session(user, start)
    return Counter(map(tuple, events)), bad


def test_a_random_log_against_a_plain_judge_and_in_any_order_of_days(spark, tmp_path):
    rng = random.Random(8)
    rows = {day: [random_row(rng) for _ in range(150)] for day in DAYS}
    for day in DAYS[1:]:  # delivered again on a later day: once in each batch
        rows[day] += rng.sample(rows[DAYS[0]], 20)
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "in-order")
    for day in DAYS:
        write_day(log, day, rows[day])
    result = ingest(spark, warehouse, config_of(log, max_line_bytes=LONGEST), None)

    expected = {day: judged(rows[day], day) for day in DAYS}
    counts = Counter()
    for day in DAYS:
        events, bad = expected[day]
        assert events_of(spark, warehouse, day) == events
        assert quarantine_of(spark, warehouse, day) == bad
        copies = sum(event[-1] for event in events)
        assert len(rows[day]) == copies + bad.total()
        counts += Counter(rows_in=len(rows[day]), events=len(events), duplicates=copies - len(events))
        counts += Counter(quarantined=bad.total()) + Counter(reason for _, reason in bad.elements())
    assert result.counts == {**dict.fromkeys(REASONS, 0), "bots": 0, "erased": 0} | counts and result.built == 3
    assert counts["duplicates"] > 10 and all(counts[reason] for reason in REASONS), "the draw is to hold every case"

    # The same days, as they might straggle in: the last one first.
    late, other = tmp_path / "late", Warehouse(tmp_path / "out-of-order")
    for i, day in enumerate((DAYS[2], DAYS[0], DAYS[1])):
        shutil.copytree(log / f"date={day}", late / f"date={day}")
        step = ingest(
            spark,
            other,
            config_of(late, max_line_bytes=LONGEST),
            dt.date.fromisoformat(max(DAYS[2:] if i < 2 else DAYS)),
        )
        assert step.built == 1
    assert step.counts == result.counts
    assert {b: v.name for b, v in step.events.items()} == {b: v.name for b, v in result.events.items()}
    for day in DAYS:
        assert events_of(spark, other, day) == expected[day][0] and quarantine_of(spark, other, day) == expected[day][1]

    # An earlier run date sees the earlier batches alone, and a changed day is a new version of that day alone.
    until_second = ingest(spark, other, config_of(late, max_line_bytes=LONGEST), dt.date.fromisoformat(DAYS[1]))
    assert list(until_second.events) == DAYS[:2] and until_second.built == 0
    write_day(late, DAYS[1], rows[DAYS[1]][:100])
    changed = ingest(spark, other, config_of(late, max_line_bytes=LONGEST), None)
    assert changed.built == 1 and events_of(spark, other, DAYS[1]) == judged(rows[DAYS[1]][:100], DAYS[1])[0]
    same = [day for day in DAYS if changed.events[day].name == result.events[day].name]
    assert same == [DAYS[0], DAYS[2]]


def test_a_log_that_is_too_bad_leaves_what_was_live(spark, tmp_path):
    log, warehouse = tmp_path / "events.jsonl", Warehouse(tmp_path / "warehouse")
    good = [line(f"e{i}", "u1", "i1", "view", "2020-01-01T00:00:00Z") for i in range(8)]  # a whole log has no arrival
    bad = [line("x", None, "i1", "view", "2026-01-01T00:00:00Z"), line("y", "u", "i", "view", "?")]

    def write(rows: list[str], stamp: int) -> None:
        log.write_text("".join(f"{row}\n" for row in rows))
        os.utime(log, ns=(stamp, stamp))

    write([*good, *bad], 1)
    first = ingest(spark, warehouse, config_of(log, max_bad_share=0.2), None)  # as bad as is allowed
    assert first.counts["events"] == 8 and list(first.events) == ["all"]

    write([*good[:7], *bad], 2)
    with pytest.raises(DataError) as error:
        ingest(spark, warehouse, config_of(log, max_bad_share=0.2), None)
    one_line(error, log, "22.2%", "9 rows", "log.max_bad_share", "20.0%")
    assert error.value.exit_code == 3
    assert warehouse.slot("events", batch="all").current() == first.events["all"]
    assert quarantine_of(spark, warehouse, "all").total() == 2, "the bad rows of the run that failed are there to see"

    write(bad[1:] * 3, 3)
    with pytest.raises(DataError) as error:
        ingest(spark, warehouse, config_of(log), None)  # every row bad is too bad at any threshold
    one_line(error, log, "100.0%", "bad_timestamp")
    assert warehouse.slot("events", batch="all").current() == first.events["all"]

    write(good, 4)
    second = ingest(spark, warehouse, config_of(log, max_bad_share=0.2), None)
    assert second.built == 1 and second.events["all"].name != first.events["all"].name
    assert quarantine_of(spark, warehouse, "all").total() == 0
    assert spark.read.parquet(warehouse.slot("quarantine", batch="all").current().data).columns == ["raw", "reason"]


def test_a_delivery_that_was_withdrawn_is_no_longer_live_and_may_come_back(spark, tmp_path):
    log, warehouse = tmp_path / "log", Warehouse(tmp_path / "warehouse")
    for day in ("2026-03-01", "2026-03-02", "2026-03-03"):
        write_day(log, day, [line(f"e{day}", "u1", "i1", "view", f"{day}T10:00:00Z")])
    ingest(spark, warehouse, config_of(log), None)
    gone = log / "date=2026-03-02"
    gone.rename(tmp_path / "withdrawn")
    ingest(spark, warehouse, config_of(log), dt.date(2026, 3, 1))  # an earlier day says nothing of later ones
    assert warehouse.keys("events", "batch") == ["2026-03-01", "2026-03-02", "2026-03-03"]
    ingest(spark, warehouse, config_of(log), None)
    assert warehouse.keys("events", "batch") == ["2026-03-01", "2026-03-03"]
    (tmp_path / "withdrawn").rename(gone)
    assert ingest(spark, warehouse, config_of(log), None).built == 0
    assert warehouse.keys("events", "batch") == ["2026-03-01", "2026-03-02", "2026-03-03"]


def test_a_whole_log_has_arrived_by_today(spark, tmp_path):
    log, warehouse = tmp_path / "events.jsonl", Warehouse(tmp_path / "warehouse")
    rows = [line(f"e{i}", "u1", "i1", "view", "2020-01-01T00:00:00Z") for i in range(9)]
    log.write_text("\n".join([*rows, line("x", "u1", "i1", "view", "2999-01-01T00:00:00Z")]) + "\n")
    result = ingest(spark, warehouse, config_of(log, max_bad_share=0.2), None)
    assert result.counts["future"] == 1 and result.events["all"].manifest["last_day"] == "2020-01-01"
