"""The raw log on disk: which batches there are, and every format read into the same typed rows."""

from __future__ import annotations

import datetime as dt
import gzip
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError, UserError
from recsys_spark.log.ingest import ingest
from recsys_spark.log.judge import judge
from recsys_spark.log.packed import unpack
from recsys_spark.log.raw import find_batches
from recsys_spark.log.read import read_batches
from recsys_spark.log.shape import shape_of
from recsys_spark.warehouse import Warehouse

GOOD_LINE = '{"user_id":"u","item_id":"i","event_type":"view","timestamp":"2026-01-01"}\n'


def config_of(path: Path, **settings: object) -> LogConfig:
    return LogConfig.model_validate({"path": str(path), "event_types": {"view": 1, "rating": 1}, **settings})


def rows_of(spark: SparkSession, config: LogConfig, *names: str) -> list[tuple]:
    """Read and judge a log; return (user, item, type, time, rating, split, reason), sorted."""
    batches = find_batches(config, None)
    with tempfile.TemporaryDirectory() as scratch:
        files = unpack(spark, batches, Path(scratch))
        shapes = [shape_of(config, batch, files[batch.name]) for batch in batches]
        rows = judge(read_batches(spark, config, shapes), config).cache()
        rows.count()
    columns = ["user_id", "item_id", "event_type", "cast(timestamp as string)", "rating", *names, "reason"]
    return sorted((tuple(row) for row in rows.selectExpr(*columns).collect()), key=str)


def test_csv_with_header_quotes_and_names_that_need_quoting(spark, tmp_path):
    header = ",user id,item:id,what,When it was,stars,part\n"
    (tmp_path / "a.csv").write_text(
        header
        + '0,u1,"i,1",view,2026-01-01T10:00:00Z,,train\n'
        + '1,u2,"the ""best""",rating,2026-01-01T12:00:00+02:00,4.5,test\n'
        + "2,u3,i3,view,2026-01-01\n"  # too short
        + "3,u4,i4,view,2026-01-01T10:00:00Z,,train,more\n"  # too long
        + ",,,,,,\n"
    )
    (tmp_path / "b.csv").write_text(header + "4,u5,i5,view,2026-01-02 00:00:00,,valid\n\n")
    columns = {"user_id": "user id", "item_id": "item:id", "event_type": "what", "timestamp": "When it was"}
    config = config_of(tmp_path, format="csv", columns={**columns, "rating": "stars", "split": "part"})
    rows = rows_of(spark, config, "split")
    assert [row for row in rows if row[-1] is None] == [
        ("u1", "i,1", "view", "2026-01-01 10:00:00", None, "train", None),
        ("u2", 'the "best"', "rating", "2026-01-01 10:00:00", 4.5, "test", None),
        ("u5", "i5", "view", "2026-01-02 00:00:00", None, "valid", None),
    ]
    assert sorted(row[-1] for row in rows if row[-1]) == ["malformed"] * 3 + ["missing_user"]


def test_text_without_header_with_a_long_delimiter_and_epoch_seconds(spark, tmp_path):
    (tmp_path / "ratings.dat").write_text(
        "1::1193::5::978300760\n1::661::3::978302109.5\n2::661::x::978302109\n3::1::1::-1\n"
    )
    columns = {"user_id": "_c0", "item_id": "_c1", "rating": "_c2", "timestamp": "_c3"}
    settings = {"format": "csv", "delimiter": "::", "header": False, "columns": columns}
    config = config_of(tmp_path / "ratings.dat", **settings, timestamps="seconds", default_type="rating")
    assert rows_of(spark, config) == [
        ("1", "1193", "rating", "2000-12-31 22:12:40", 5.0, None),
        ("1", "661", "rating", "2000-12-31 22:35:09.5", 3.0, None),
        ("2", "661", "rating", "2000-12-31 22:35:09", None, "bad_rating"),
        ("3", "1", "rating", "1969-12-31 23:59:59", 1.0, "bad_timestamp"),
    ]


def test_latin_1_under_any_of_its_names(spark, tmp_path):
    (tmp_path / "log.tsv").write_bytes("user_id\titem_id\ttimestamp\nJosé\tcafé\t1767225600000\n".encode("latin-1"))
    for encoding in ("latin-1", "ISO-8859-1"):
        config = config_of(tmp_path / "log.tsv", format="csv", delimiter="\t", encoding=encoding, default_type="view",
                           timestamps="milliseconds")  # fmt: skip
        assert rows_of(spark, config) == [("José", "café", "view", "2026-01-01 00:00:00", None, None)]
    # a header's letters are no exception, and neither is a compressed file
    text = "user_id\titem_id\ttimestamp\tprénom\nJosé\tcafé\t1767225600000\tJosé\n".encode("latin-1")
    (tmp_path / "log.tsv").write_bytes(text)
    (tmp_path / "zip.tsv.gz").write_bytes(gzip.compress(text))
    for path in (tmp_path / "log.tsv", tmp_path / "zip.tsv.gz"):
        config = config.model_copy(update={"path": str(path)})
        assert rows_of(spark, config) == [("José", "café", "view", "2026-01-01 00:00:00", None, None)]
    with pytest.raises(ConfigError, match=r"log\.encoding 'klingon'"):
        rows_of(spark, config.model_copy(update={"encoding": "klingon"}))


def test_a_byte_order_mark_is_no_part_of_the_header(spark, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\r\nü,i,2026-01-01\r\n", encoding="utf-8-sig")
    config = config_of(tmp_path / "log.csv", format="csv", default_type="view")
    assert rows_of(spark, config) == [("ü", "i", "view", "2026-01-01 00:00:00", None, None)]


def test_json_lines_under_other_names(spark, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"who":"u1","movie.id":1,"ts":1767225600,"stars":4}\n{"who":"u2","movie.id":2,"ts":"1e300"}\n\n[]\nnull\n'
        '{"who":"u3","movie.id":3,"ts":1},{"who":"u4","movie.id":4,"ts":1}\n'
    )
    columns = {"user_id": "who", "item_id": "movie.id", "timestamp": "ts", "rating": "stars"}
    config = config_of(tmp_path, columns=columns, timestamps="seconds", default_type="view")
    assert rows_of(spark, config) == sorted(
        [("u1", "1", "view", "2026-01-01 00:00:00", 4.0, None), ("u2", "2", "view", None, None, "bad_timestamp")]
        + [("u3", "3", "view", "1970-01-01 00:00:01", None, "malformed")]
        + [(None, None, "view", None, None, "malformed")] * 3,
        key=str,
    )


def test_parquet_with_types_of_its_own(spark, tmp_path):
    time = dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC)
    table = pa.table({
        "uid": pa.array([1, 2, None], pa.int64()),
        "item_id": pa.array(["a", "b", "c"]),
        "at": pa.array([time, None, time], pa.timestamp("us", tz="UTC")),
        "rating": pa.array([0.5, 1.0, None], pa.float64()),
        "blob": pa.array([[1], [], None], pa.list_(pa.int8())),
    })  # fmt: skip
    (tmp_path / "date=2026-01-01").mkdir()
    pq.write_table(table, tmp_path / "date=2026-01-01" / "part-0.parquet")
    columns = {"user_id": "uid", "item_id": "item_id", "timestamp": "at", "rating": "rating"}
    config = config_of(tmp_path, format="parquet", columns=columns, default_type="rating")
    assert rows_of(spark, config) == [
        ("1", "a", "rating", "2026-01-01 08:00:00", 0.5, None),
        ("2", "b", "rating", None, 1.0, "bad_timestamp"),
        (None, "c", "rating", "2026-01-01 08:00:00", None, "missing_user"),
    ]
    wrong = config.model_copy(update={"columns": {**columns, "item_id": "movie"}})
    with pytest.raises(DataError, match="no column 'movie'"):
        rows_of(spark, wrong)


def test_batches_are_days_or_the_whole_log(tmp_path):
    for day in ("2026-01-03", "2026-01-01", "2026-01-02"):
        (tmp_path / f"date={day}").mkdir()
        (tmp_path / f"date={day}" / "x.jsonl").write_text(GOOD_LINE)
    config = config_of(tmp_path)
    assert [b.name for b in find_batches(config, None)] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert [b.name for b in find_batches(config, dt.date(2026, 1, 2))] == ["2026-01-01", "2026-01-02"]
    (whole,) = find_batches(config_of(tmp_path / "date=2026-01-01" / "x.jsonl"), dt.date(2020, 1, 1))
    assert whole.name == "all"
    before = whole.state()
    whole.path.write_text(GOOD_LINE * 2)
    assert whole.state() != before


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def missing(log: Path) -> LogConfig:
    return config_of(log / "none.jsonl")


def empty(log: Path) -> LogConfig:
    write(log / "date=2026-01-01" / "a.jsonl", "")
    return config_of(log)


def no_such_day(log: Path) -> LogConfig:
    write(log / "date=2026-01-01" / "a.jsonl", GOOD_LINE)
    write(log / "date=2026-01-03" / "a.jsonl", GOOD_LINE)
    return config_of(log)


def no_day_of_the_calendar(log: Path) -> LogConfig:
    write(log / "date=2024-02-30" / "a.jsonl", GOOD_LINE)
    return config_of(log)


def day_in_another_form(log: Path) -> LogConfig:
    write(log / "date=20260102" / "a.jsonl", GOOD_LINE)
    return config_of(log)


def empty_day(log: Path) -> LogConfig:
    write(log / "date=2026-01-01" / "a.jsonl", GOOD_LINE)
    write(log / "date=2026-01-02" / "a.jsonl", "")
    return config_of(log)


def json_without_time(log: Path) -> LogConfig:
    return config_of(write(log / "a.jsonl", '{"user_id":"u","item_id":"i","event_type":"view","when":1}\n'))


def csv_without_column(log: Path) -> LogConfig:
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time", "rating": "stars"}
    return config_of(
        write(log / "a.csv", "user,item,time\nu,i,1\n"), format="csv", columns=columns, default_type="view"
    )


def header_taken_for_a_row(log: Path) -> LogConfig:
    return config_of(write(log / "a.csv", "u,i,view,2026-01-01\n"), format="csv")


def no_parquet(log: Path) -> LogConfig:
    return config_of(write(log / "a.parquet", GOOD_LINE), format="parquet")


def unknown_column(log: Path) -> LogConfig:
    columns = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp", "event_typ": "event_type"}
    return config_of(write(log / "a.jsonl", GOOD_LINE), columns=columns, default_type="view")


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (missing, DataError, "none.jsonl: no such log"),
        (empty, DataError, "empty"),
        (no_such_day, DataError, "no day 2026-01-02; it holds 2026-01-01 to 2026-01-03"),
        (no_day_of_the_calendar, DataError, "date=2024-02-30: is not a day"),
        (day_in_another_form, DataError, "date=20260102: is not a day"),
        (empty_day, DataError, "date=2026-01-02: holds no row"),
        (json_without_time, DataError, "a.jsonl: no column 'timestamp'"),
        (csv_without_column, DataError, "a.csv: no column 'stars'"),
        (header_taken_for_a_row, DataError, "log.header"),
        (no_parquet, DataError, "a.parquet: is no Parquet file"),
        (unknown_column, ConfigError, "log.columns: unknown column 'event_typ'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_read_is_one_line_that_says_where(spark, tmp_path, make, kind, says):
    config = make(tmp_path / "log")
    warehouse = Warehouse(tmp_path / "warehouse")
    with pytest.raises(UserError) as error:
        ingest(spark, warehouse, config, dt.date(2026, 1, 2))
    assert type(error.value) is kind
    assert says in str(error.value) and "\n" not in str(error.value)
    assert "2026-01-02" not in warehouse.keys("events", "batch") and "all" not in warehouse.keys("events", "batch")
