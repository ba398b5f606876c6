"""The item catalogue, from whatever file the log brings, one row per item."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.catalogue import ingest_items
from recsys_spark.schemas import ITEMS
from recsys_spark.warehouse import Version, Warehouse


def config_of(path: Path, **settings: object) -> LogConfig:
    return LogConfig.model_validate({"path": "log.jsonl", "items": {"path": str(path), **settings}})


def rows_of(spark: SparkSession, version: Version) -> list[tuple]:
    rows = spark.read.parquet(version.data)
    assert rows.columns == ITEMS.schema.names
    assert [f.dataType for f in rows.schema] == [f.dataType for f in ITEMS.schema]
    return sorted(tuple(row) for row in rows.collect())


def test_json_lines_and_what_a_second_run_does(spark, tmp_path):
    path, warehouse = tmp_path / "items.jsonl", Warehouse(tmp_path / "warehouse")
    path.write_text(
        '{"item_id":"i2","title":"Two","categories":["b","a"]}\n'
        '{"item_id":"i1","title":"One","description":"First, of all","categories":[],"price":3}\n'
        '{"item_id":"i2","title":"Two again","categories":["b","a"]}\n'
        '{"title":"nobody\'s"}\n{"item_id":"i3"\n{"item_id":4}\n'
    )
    version = ingest_items(spark, warehouse, config_of(path))
    assert rows_of(spark, version) == [
        ("4", None, None, None, None), ("i1", "One", "First, of all", [], 3.0), ("i2", "Two", None, ["b", "a"], None),
    ]  # fmt: skip
    assert version.manifest["rows"] == 3
    assert ingest_items(spark, warehouse, config_of(path)) == version == warehouse.slot("items").current()

    os.utime(path, ns=(1, 1))  # delivered anew
    with path.open("a") as file:
        file.write('{"item_id":"i5","title":"Five"}\n')
    changed = ingest_items(spark, warehouse, config_of(path))
    assert changed.name != version.name and changed.manifest["rows"] == 4
    assert [v.name for v in warehouse.slot("items").versions()] == [version.name, changed.name]


def test_csv_with_a_map_quotes_and_a_separator_that_is_no_pattern(spark, tmp_path):
    path = tmp_path / "movies.csv"
    path.write_text('id,name,genres\n1,"Café, ""The""",Drama|Sci-Fi\n2,Two,Drama\n3,,\n', encoding="utf-8")
    columns = {"item_id": "id", "title": "name", "categories": "genres"}
    version = ingest_items(spark, Warehouse(tmp_path / "w"), config_of(path, format="csv", columns=columns))
    assert rows_of(spark, version) == [
        ("1", 'Café, "The"', None, ["Drama", "Sci-Fi"], None), ("2", "Two", None, ["Drama"], None),
        ("3", None, None, None, None),
    ]  # fmt: skip


def test_prices_that_are_none(spark, tmp_path, capfd):
    path = tmp_path / "items.csv"
    wrong = ["-1", "NaN", "Infinity", "1e60", "9,90 EUR", "free", ""]
    path.write_text("item_id,price\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(wrong)) + "7, 9.90\n8,0\n")
    config = config_of(path, format="csv", columns={"price": "price"})
    rows = rows_of(spark, ingest_items(spark, Warehouse(tmp_path / "w"), config))
    prices = {row[0]: row[-1] for row in rows}
    assert prices == {str(i): None for i in range(len(wrong))} | {"7": pytest.approx(9.9), "8": 0.0}
    assert "warning" not in capfd.readouterr().err

    path.write_text("item_id,price\n1,€ 9.90\n")
    ingest_items(spark, Warehouse(tmp_path / "w"), config)
    assert "items.csv: no 'price' is a price, such as 9.90" in capfd.readouterr().err


def test_parquet_with_lists(spark, tmp_path):
    source = spark.createDataFrame(
        [(1, ["x"], 9.5), (2, None, -1.0)], "item_id int, categories array<string>, price double"
    )
    source.write.parquet(str(tmp_path / "items"))
    version = ingest_items(spark, Warehouse(tmp_path / "w"), config_of(tmp_path / "items", format="parquet"))
    assert rows_of(spark, version) == [("1", None, None, ["x"], 9.5), ("2", None, None, None, None)]


def test_a_log_without_a_catalogue_has_an_empty_one(spark, tmp_path):
    version = ingest_items(spark, Warehouse(tmp_path), LogConfig(path="log.jsonl"))
    assert version.manifest["rows"] == 0 and rows_of(spark, version) == []


@pytest.mark.parametrize(
    ("text", "settings", "kind", "says"),
    [
        (None, {}, DataError, "items: no such item catalogue"),
        ('{"title":"x"}\n', {}, DataError, "items: holds no item"),
        ("", {}, DataError, "items: holds no item"),
        ("id,title\n1,x\n", {"format": "csv"}, DataError, "no column 'item_id'; it has id, title"),
        (
            "id,t\n1,x\n",
            {"format": "csv", "columns": {"item_id": "id", "title": "name"}},
            DataError,
            "no column 'name'",
        ),
        ("id\n1\n", {"format": "csv", "columns": {"item_id": "id", "name": "t"}}, ConfigError, "unknown column 'name'"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_nothing(spark, tmp_path, text, settings, kind, says):
    path, warehouse = tmp_path / "items", Warehouse(tmp_path / "w")
    if text is not None:
        path.write_text(text)
    with pytest.raises(kind) as error:
        ingest_items(spark, warehouse, config_of(path, **settings))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert warehouse.slot("items").current() is None
