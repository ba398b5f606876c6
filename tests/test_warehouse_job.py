"""The warehouse's tool through its job: six verbs, on tables written by the warehouse itself."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from night import write_config

from recsys_spark.pipeline import job, warehouse
from recsys_spark.warehouse import Warehouse
from recsys_spark.warehouse.locks import ERASING, exclusive

DAY = "2026-01-05"


def run(config, *arguments):
    return job.run(
        "warehouse", warehouse.run, "", [*arguments, "--config", str(config)],
        flags=warehouse.FLAGS, options=warehouse.OPTIONS, verbs=warehouse.VERBS, alone=True, leased=False,
    )  # fmt: skip


def write(house, slot, name, *parents, rows=3, flip=True):
    def build(path: Path) -> dict[str, object]:
        (path / "data").mkdir()
        ids = pa.table({"user_id": pa.array([f"{name}-{n}" for n in range(rows)])})
        pq.write_table(ids, path / "data" / "part-0.parquet")
        return {"table": slot.path.name, "rows": rows, **house.parents(*parents)}

    return slot.materialize(name, build, flip=flip)[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One MLflow store for all: making one takes longer than a test."""
    return f"{{uri: 'sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db'}}"


@pytest.fixture
def house(tmp_path, store):
    """Events -> a data set of two versions -> a model -> three published tables; and its configuration."""
    house = Warehouse(tmp_path / "warehouse" / "tiny")
    events = write(house, house.slot("events", batch=DAY), "e1")
    ids = write(house, house.slot("user_ids"), "v000001")
    for name in ("d1", "d2"):
        data = write(house, house.slot("interactions", date=DAY), name, events, ids)
        past = write(house, house.slot("histories", date=DAY), name, data)
        feed = write(house, house.slot("feeds/pairs", date=DAY), name, data)
    model = write(house, house.slot("models/als", date=DAY), "m1", data, feed)
    for name in ("r1", "r2", "r3"):
        write(house, house.slot("recommendations"), name, past, model, ids, rows=5)
    return house, write_config(tmp_path, tracking=store)


def answer(capfd):
    said = capfd.readouterr()
    return json.loads(said.out.strip().splitlines()[-1]), said


def test_list_shows_tables_and_the_versions_of_one(house, capfd):
    house, config = house
    assert run(config, "list") == 0
    line, said = answer(capfd)
    assert line["counts"]["slots"] == 7 and line["counts"]["versions"] == 12 and line["counts"]["bytes"] > 0
    assert line["outputs"]["live"]["recommendations"] == "r3"
    assert "feeds/pairs/date=2026-01-05" in said.out
    assert run(config, "list", "--table", "recommendations") == 0
    line, said = answer(capfd)
    assert line["outputs"] == {"live": "r3", "versions": ["r1", "r2", "r3"]}


def test_show_names_rows_columns_and_parents(house, capfd):
    house, config = house
    assert run(config, "show", "--table", "recommendations", "--version", "r1") == 0
    line, said = answer(capfd)
    assert line["outputs"] == {"version": "recommendations/r1", "live": False}
    assert line["counts"]["files"] == 1 and line["counts"]["rows"] == 5
    assert "user_id string" in said.out and "models/als/date=2026-01-05/m1" in said.out


def test_lineage_goes_both_ways(house, capfd):
    house, config = house
    assert run(config, "lineage", "--table", "interactions") == 0
    line, said = answer(capfd)
    assert line["outputs"]["made_from"] == ["events/batch=2026-01-05/e1", "user_ids/v000001"]
    used = line["outputs"]["used_by"]
    assert {"recommendations/r1", "models/als/date=2026-01-05/m1", "feeds/pairs/date=2026-01-05/d2"} <= {*used}
    house.slot("events", batch=DAY).remove(house.slot("events", batch=DAY).version("e1"))
    assert run(config, "lineage", "--table", "recommendations") == 0
    line, said = answer(capfd)
    assert line["counts"]["gone"] == 1 and "e1  (gone)" in said.out


def test_verify_finds_a_flipped_bit_and_a_lost_version(house, capfd):
    house, config = house
    assert run(config, "verify") == 0
    assert answer(capfd)[0]["counts"]["files"] == 12
    path = Path(house.slot("feeds/pairs", date=DAY).current().data) / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    assert run(config, "verify") == 3
    said = capfd.readouterr()
    assert "error: feeds/pairs/date=2026-01-05/d2/data/part-0.parquet: has other bytes" in said.err
    assert run(config, "verify", "--table", "recommendations") == 0
    (house.slot("recommendations").path / "r3" / "_manifest.json").unlink()
    assert run(config, "verify", "--table", "recommendations") == 3
    assert "recommendations: the live version r3 is gone" in capfd.readouterr().err
    assert run(config, "rollback", "--table", "recommendations", "--version", "r2") == 0
    assert run(config, "verify", "--table", "recommendations") == 0


def test_rollback_goes_back_one_and_to_a_name(house, capfd):
    house, config = house
    slot = house.slot("recommendations")
    assert run(config, "rollback", "--table", "recommendations") == 0
    assert slot.current().name == "r2"
    assert run(config, "rollback", "--table", "recommendations") == 0
    assert slot.current().name == "r1"
    assert run(config, "rollback", "--table", "recommendations") == 3
    assert "no version before r1" in capfd.readouterr().err
    assert run(config, "rollback", "--table", "recommendations", "--version", "r3") == 0
    assert slot.current().name == "r3" and len(slot.versions()) == 3


def test_the_tables_of_a_data_set_go_back_together(house):
    house, config = house
    assert run(config, "rollback", "--table", "feeds/pairs") == 0
    live = {t: house.slot(t, date=DAY).current().name for t in ("interactions", "histories", "feeds/pairs")}
    assert set(live.values()) == {"d1"}


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "needs --table", ["rollback"]),
        (2, "an id that was given stays given", ["rollback", "--table", "user_ids"]),
        (3, "has no version r9", ["rollback", "--table", "recommendations", "--version", "r9"]),
        (3, "has no table recomendations", ["list", "--table", "recomendations"]),
        (3, "no such warehouse", ["list", "root=/tmp/there-is-no-such/warehouse/x"]),
        (2, "needs --table", ["lineage"]),
    ],
    ids=str,
)
def test_one_line_says_what_is_wrong(house, capfd, code, words, arguments):
    house, config = house
    if "root=" in arguments[-1]:
        arguments = [*arguments[:-1], f"root={house.root.parent}/other"]
    assert run(config, *arguments) == code
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert words in line


def test_a_damaged_version_does_not_go_live(house, capfd):
    house, config = house
    file = house.slot("recommendations").path / "r1" / "data" / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    assert run(config, "rollback", "--table", "recommendations", "--version", "r1") == 3
    assert "choose another --version" in capfd.readouterr().err
    assert house.slot("recommendations").current().name == "r3"


def test_expire_deletes_what_nothing_needs_and_says_so_before(house, capfd):
    house, config = house
    policy = ["expiry.versions=1", "expiry.days=30"]
    assert run(config, "expire", "--dry-run", *policy) == 0
    line, said = answer(capfd)
    assert line["counts"]["expired"] == 5 and line["outputs"]["deleted"] == []
    assert "would delete recommendations/r1" in said.out
    assert len(house.slot("recommendations").versions()) == 3
    assert run(config, "expire", *policy) == 0
    line, _ = answer(capfd)
    gone = {f"{t}/date=2026-01-05/d1" for t in ("interactions", "histories", "feeds/pairs")}
    assert {*line["outputs"]["deleted"]} == gone | {"recommendations/r1", "recommendations/r2"}
    assert run(config, "verify") == 0 and house.slot("recommendations").current().name == "r3"
    assert run(config, "expire", *policy) == 0
    # a month later nobody needs the night but for what is published
    assert run(config, "expire", "--date", "2026-03-01", *policy) == 0
    assert house.slot("interactions", date=DAY).current().name == "d2"


def test_nothing_expires_beside_a_job_and_no_verb_works_beside_an_erasure(house, capfd):
    house, config = house
    with exclusive(house.root / ERASING):
        assert run(config, "rollback", "--table", "recommendations") == 1
        assert run(config, "expire") == 1
    with exclusive(house.slot("items").path):  # a run that writes
        assert run(config, "expire", "expiry.versions=1") == 1
    assert len(house.slot("recommendations").versions()) == 3
