"""Which quarantined rows an erasure takes, however the log of their day was written."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.config import LogConfig
from recsys_spark.erasure.people import People
from recsys_spark.erasure.quarantined import RowText, naming, recorded_columns
from recsys_spark.erasure.rows import Task, erase_rows
from recsys_spark.warehouse import Warehouse

JSON = RowText(False, ",", ("who", "user_id"), None)


def people_of(*names):
    return People.of(names, LogConfig(path="log").privacy, "5a17")


@pytest.mark.parametrize(
    "raw, reason, named",
    [
        ('{"who": "u1", "x": 1}', "bad_rating", True),
        ('{"who": " u1 "}', "bad_rating", True),
        ('{"who": "u12"}', "bad_rating", False),
        ('{"who": "u2", "item": "u1"}', "bad_rating", False),
        ('{"who": "\\u00751"}', "bad_rating", True),
        ('{"who": null, "who": "u1"}', "missing_user", True),
        ('{"who": "u1", "it', "malformed", True),
        ('{"item": "a u1 b', "malformed", True),
        ('{"item": "a u2 b', "malformed", False),
        ('{"item": "\\u00751", "us', "malformed", True),
        ('{"uid": "u1", "item": "i"}', "bad_rating", True),  # of a day when the column had another name
        ('{"uid": "u12", "item": "u"}', "bad_rating", False),
        ("[1, 2]", "malformed", False),
        (None, "malformed", False),
    ],
)
def test_which_quarantined_rows_are_a_persons(tmp_path, raw, reason, named):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"raw": pa.array([raw, "{}"], pa.string()), "reason": [reason, "malformed"]}), path)
    result = erase_rows(path, "quarantine", Task(people_of("u1"), (), JSON))
    assert (result.removed, result.after) == (int(named), 2 - named)
    assert pq.read_table(path)["raw"].to_pylist() == ([raw] if not named else []) + ["{}"]


def test_the_user_of_a_csv_row_stands_where_the_header_says(tmp_path):
    (tmp_path / "log.csv").write_text("item,who,when\n1,2,3\n")
    columns = {"user_id": "who", "item_id": "item", "timestamp": "when"}
    settings = {"path": str(tmp_path / "log.csv"), "format": "csv", "columns": columns}
    assert RowText.of(LogConfig.model_validate(settings)).users('7,"u1",9') == {"u1"}
    headless = {"header": False, "columns": columns | {"user_id": "_c2"}}
    assert RowText.of(LogConfig.model_validate(settings | headless)).users("7,8,u1") == {"u1"}
    (tmp_path / "log.csv").unlink()
    assert RowText.of(LogConfig.model_validate(settings)).users("7,8,u1") == {"7", "8", "u1"}
    assert RowText.of(LogConfig.model_validate(settings)).users("7;8;u1") is None, "of another delimiter"


def test_a_position_counts_only_where_all_headers_agree(tmp_path):
    for day, header in (("01", "item,who,when"), ("02", "item,who,when")):
        (tmp_path / f"log/date=2026-01-{day}").mkdir(parents=True)
        (tmp_path / f"log/date=2026-01-{day}/log.csv").write_text(f"{header}\n1,2,3\n")
    columns = {"user_id": "who", "item_id": "item", "timestamp": "when"}
    config = LogConfig.model_validate({"path": str(tmp_path / "log"), "format": "csv", "columns": columns})
    assert RowText.of(config).position == 1
    manifest = {"columns": dict.fromkeys(["who", "item", "when"], "string")}  # of a day that has left the log
    Warehouse(tmp_path).slot("quarantine", batch="2025-12-31").materialize("v1", lambda _: manifest)
    assert RowText.of(config, recorded_columns(tmp_path)).users("u1,8,9") == {"u1", "8", "9"}
    (tmp_path / "log/date=2026-01-02/log.csv").write_text("when,item,who\n3,1,2\n")
    assert RowText.of(config).users("9,8,u1") == {"u1", "8", "9"}


def test_ids_of_parquet_that_are_numbers_or_bytes_are_known_in_their_json(spark):
    """As Spark writes a row of Parquet into quarantine, and as ingest reads its user."""
    casts = [
        "cast(12345678 as double)",
        "cast(123456789 as float)",
        "binary('u1 ')",
        "5.0D",
        "cast(7 as bigint)",
        "true",
    ]
    row = spark.sql(
        "select " + ", ".join(f"to_json(struct({c} as who, 'x' as item)) c{i}" for i, c in enumerate(casts))
    )
    rows = pa.table({"raw": pa.array([*row.first()], pa.string()), "reason": ["bad_rating"] * len(casts)})
    for number, person in enumerate(["12345678", "123456792", "u1", "5", "7", "true"]):
        assert naming(rows, JSON, people_of(person)).tolist() == [i == number for i in range(len(casts))], person
    cut = pa.table({"raw": pa.array([r[:-4] for r in row.first()], pa.string()), "reason": ["too_long"] * len(casts)})
    assert naming(cut, JSON, people_of("12345678")).tolist() == [True, *[False] * 5]


def test_numbers_of_json_lines_stay_as_they_are_written():
    rows = pa.table({"raw": ['{"who": 1e2}', '{"who": 1.50}', '{"who": 1e999}'], "reason": ["bad_rating"] * 3})
    for person, found in (("1e2", [1, 0, 0]), ("1.50", [0, 1, 0]), ("1.5", [0, 0, 0])):
        assert naming(rows, JSON, people_of(person)).tolist() == list(map(bool, found)), person
