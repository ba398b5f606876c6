"""Published lists handed over: whole under a version's name, switched to in one step, and back again."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import servers
from night import write_config

from recsys_spark.config import load_config
from recsys_spark.errors import ConfigError, RunError
from recsys_spark.export.files import to_jsonl, to_parquet
from recsys_spark.export.lists import export_name, files_of, lists_of
from recsys_spark.pipeline import export, job
from recsys_spark.warehouse import Slot, Warehouse

COLUMNS = ("user_id", "rank", "item_id", "score", "model", "run_date")
PASSWORD = "a pass/word@1"


def rows_of(number: int, users: int = 40, k: int = 3) -> list[tuple]:
    """The rows of a published version: ids with all that ids may have in them."""
    names = ['u"quoted"', "ünï:code", "a\tb", "back\\slash", "*", *(f"u{n}" for n in range(users - 5))]
    day = dt.date(2026, 1, number)
    return [(u, r, f"i{number}-{r}", 1.0 / (r + number), "als", day) for u in names for r in range(1, k + 1)]


def publish(house: Warehouse, number: int, **more) -> object:
    def build(path: Path) -> dict[str, object]:
        (path / "data").mkdir()
        rows = rows_of(number, **more)
        half = len(rows) // 2 // 3 * 3
        schema = pa.schema(
            [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32()),
             ("model", pa.string()), ("run_date", pa.date32())]
        )  # fmt: skip
        for part, found in enumerate((rows[:half], rows[half:], [])):
            columns = [list(c) for c in zip(*found, strict=True)] if found else [[] for _ in COLUMNS]
            pq.write_table(pa.table(columns, schema=schema), path / "data" / f"part-{part}.parquet")
        return {"table": "recommendations", "run_date": f"2026-01-{number:02}"}

    return house.slot("recommendations").materialize(f"2026-01-{number:02}-abc", build)[0]


def expected(number: int, **more) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for user, _, item, *_ in rows_of(number, **more):
        lists.setdefault(user, []).append(item)
    return lists


@pytest.fixture
def house(tmp_path):
    return Warehouse(tmp_path / "warehouse" / "tiny")


def read_jsonl(folder: Path) -> dict[str, list[str]]:
    files = sorted((folder / (folder / "_current").read_text().strip() / "data").glob("*.gz"))
    found = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert len({f["user_id"] for f in found}) == len(found), "a line for each user"
    return {f["user_id"]: f["items"] for f in found}


def test_lists_are_put_together_in_order(house):
    version = publish(house, 1)
    found = [one for file in files_of(version) for one in lists_of(file)]
    assert {one.user_id: one.items for one in found} == expected(1)
    assert json.loads(found[0].line()) == {
        "user_id": 'u"quoted"', "items": ["i1-1", "i1-2", "i1-3"], "scores": [0.5, 0.333333, 0.25], "model": "als",
        "run_date": "2026-01-01",
    }  # fmt: skip


def test_files_are_versions_with_a_pointer_and_the_oldest_go(house, tmp_path):
    for number in (1, 2, 3):
        version = publish(house, number)
        for to in (to_parquet, to_jsonl):
            done = to(version, version.name, tmp_path / to.__name__, keep=2)
            assert not done["reused"]
    slot = Slot(tmp_path / "to_parquet")
    assert [v.name for v in slot.versions()] == ["2026-01-02-abc", "2026-01-03-abc"]
    exported = pq.read_table(slot.current().data).to_pylist()
    assert exported == pq.read_table(version.data).to_pylist()
    assert read_jsonl(tmp_path / "to_jsonl") == expected(3)
    older = house.slot("recommendations").version("2026-01-02-abc")
    assert to_jsonl(older, older.name, tmp_path / "to_jsonl", keep=2)["reused"], "going back writes nothing"
    assert read_jsonl(tmp_path / "to_jsonl") == expected(2)


def test_the_same_lists_are_the_same_bytes(house, tmp_path):
    version = publish(house, 1)
    for folder in ("a", "b"):
        to_jsonl(version, "v", tmp_path / folder, keep=1)
    one, other = (sorted((tmp_path / f / "v/data").iterdir()) for f in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other] and len(one) == 3


def test_after_an_erasure_the_same_table_is_another_export(house):
    version = publish(house, 1)
    assert export_name(house, version) == version.name
    house.slot("erasures").materialize("v000001", lambda path: {"rows": 2, "finished": 2})
    assert export_name(house, version) == f"{version.name}-without-2"


def test_what_was_exported_before_an_erasure_goes_whatever_is_to_be_kept(house, tmp_path):
    for name in ("a", "b", "a-without-2", "b-without-2", "b-without-10"):
        done = to_jsonl(publish(house, 1), name, tmp_path / "lists", keep=9)
    assert done["deleted"] == ["a-without-2", "b-without-2"]
    assert [v.name for v in Slot(tmp_path / "lists").versions()] == ["b-without-10"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("export.redis=redis://:secret@host/0", "holds a password"),
        ("export.postgres=postgresql://me:secret@host/db", "holds a password"),
        ("export.postgres=postgresql://me@host/db?password=secret", "holds a password"),
        ("export.redis=http://host", "does not begin with redis://"),
        ("export.name=Robert'); DROP TABLE", "export.name"),
    ],
)
def test_addresses_without_passwords(tmp_path, setting, words):
    with pytest.raises(ConfigError, match=words):
        load_config(write_config(tmp_path), [setting])


def run(house, tmp_path, *arguments):
    config = write_config(tmp_path, tracking=f"{{uri: 'sqlite:///{tmp_path}/mlflow.db'}}")
    return job.run("export", export.export, "", ["--config", str(config), *arguments], options=export.OPTIONS)


def test_the_job_hands_over_to_what_is_configured(house, tmp_path, capfd):
    target = f"export.jsonl={tmp_path}/lists"
    assert run(house, tmp_path, target) == 3
    assert "run jobs/recommend.py first" in capfd.readouterr().err
    publish(house, 1)
    publish(house, 2)
    assert run(house, tmp_path) == 0 and "no target is configured" in capfd.readouterr().err
    assert run(house, tmp_path, target) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["counts"] == {"targets": 1, "written": 1}
    assert run(house, tmp_path, target, "--version", "2026-01-01-abc") == 0
    assert read_jsonl(tmp_path / "lists") == expected(1)
    assert run(house, tmp_path, target, "--version", "nothing") == 3
    assert run(house, tmp_path, "export.redis=redis://127.0.0.1:1/0") == 1
    assert "export.redis redis://127.0.0.1:1/0" in capfd.readouterr().err


def watching(read, change):
    """Call `read` on a thread for as long as `change` runs; returns what it saw."""
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            seen.append(read())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        change()
        time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    return seen


@pytest.mark.slow
def test_redis_switches_in_one_step(house, monkeypatch):
    import redis

    from recsys_spark.export.redis import to_redis

    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    with servers.redis(PASSWORD) as address:
        client = redis.Redis.from_url(address, password=PASSWORD, decode_responses=True)

        def hand_over(number, **more):
            version = publish(house, number, users=3_000, **more)
            return to_redis(version, version.name, address, "recommendations:tiny", keep=2)

        def lists():
            live = client.get("recommendations:tiny:current")
            users = expected(1, users=3_000)
            values = client.mget([f"recommendations:tiny:{live}:user:{user}" for user in users])
            return {
                user: json.loads(value)["items"] if value else None for user, value in zip(users, values, strict=True)
            }

        done = hand_over(1)
        assert done["users"] == 3_000 and not done["reused"] and lists() == expected(1, users=3_000)
        one, two = expected(1, users=3_000), expected(2, users=3_000)
        seen = watching(lists, lambda: hand_over(2))
        assert all(found in (one, two) for found in seen) and lists() == two, "all of the old or all of the new"
        hand_over(3)
        assert client.zrange("recommendations:tiny:versions", 0, -1) == ["2026-01-02-abc", "2026-01-03-abc"]
        assert not list(client.scan_iter("recommendations:tiny:2026-01-01*")), "the oldest is gone"
        assert len(list(client.scan_iter("*"))) == 2 * 3_000 + 2
        assert hand_over(2)["reused"] and lists() == two, "and back, writing nothing"
        erased = to_redis(publish(house, 2), "v2-without-1", address, "recommendations:tiny", keep=9)
        assert len(erased["deleted"]) == 2 and len(list(client.scan_iter("*"))) == 3_000 + 2
        hand_over(2)

        # a clock that was ahead when the others were handed over
        ahead = {name: time.time() + 86_400 for name in client.zrange("recommendations:tiny:versions", 0, -1)}
        client.zadd("recommendations:tiny:versions", ahead)
        for number in (1, 3):
            hand_over(number)
            assert lists() == expected(number, users=3_000), "what went live last is none of the oldest"
        names = client.zrange("recommendations:tiny:versions", 0, -1)
        assert names == ["2026-01-01-abc", "2026-01-03-abc"]
        hand_over(2)

        client.set("recommendations:tiny:writing", "somebody else")
        with pytest.raises(RunError, match="another export is writing"):
            hand_over(4)
        assert lists() == two and client.get("recommendations:tiny:writing") == "somebody else"
        client.delete("recommendations:tiny:writing")
        monkeypatch.setenv("REDIS_PASSWORD", "wrong")
        with pytest.raises(RunError, match=r"export\.redis redis://127\.0\.0\.1") as error:
            hand_over(4)
        assert PASSWORD not in str(error.value)


@pytest.mark.slow
def test_postgres_killed_in_mid_export_comes_back_with_the_lists_of_before(house, tmp_path):
    import psycopg

    from recsys_spark.export.postgres import to_postgres

    folder = Path(tempfile.mkdtemp())  # where the user that it runs as may go
    server = servers.Postgres(folder)
    server.start()
    try:

        def hand_over(number):
            version = publish(house, number, users=500)
            return to_postgres(version, version.name, server.address, "recommendations", keep=2)

        def lists():
            with psycopg.connect(server.address) as reader:
                rows = reader.execute("SELECT user_id, item_id FROM recommendations ORDER BY user_id, rank").fetchall()
                tables = reader.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
            found: dict[str, list[str]] = {}
            for user, item in rows:
                found.setdefault(user, []).append(item)
            return found, tables

        def kill_while_it_waits():
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with psycopg.connect(server.address, autocommit=True) as looking:
                while looking.execute(waits).fetchone() == (0,):
                    time.sleep(0.02)
            server.kill()

        hand_over(1)
        with psycopg.connect(server.address) as reading:
            reading.execute("SELECT 1 FROM recommendations LIMIT 1")  # holds the export up, before it switches
            killer = threading.Thread(target=kill_while_it_waits)
            killer.start()
            with pytest.raises(RunError, match=r"export\.postgres .*start it"):
                hand_over(2)
            killer.join()
            reading.close()
        server.start()
        assert lists() == (expected(1, users=500), (1,)), "nothing of the second is left"
        hand_over(2)
        assert lists()[0] == expected(2, users=500)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_postgres_switches_in_one_transaction(house):
    import psycopg

    from recsys_spark.export.postgres import lock_key, to_postgres

    with servers.postgres() as address, psycopg.connect(address, autocommit=True) as reader:

        def hand_over(number):
            version = publish(house, number, users=2_000)
            return to_postgres(version, version.name, address, "recommendations", keep=2)

        def lists():
            rows = reader.execute("SELECT user_id, item_id FROM recommendations ORDER BY user_id, rank").fetchall()
            found: dict[str, list[str]] = {}
            for user, item in rows:
                found.setdefault(user, []).append(item)
            return found

        assert hand_over(1)["rows"] == 6_000
        one, two = expected(1, users=2_000), expected(2, users=2_000)
        assert lists() == one
        row = reader.execute("SELECT * FROM recommendations WHERE user_id = '*' AND rank = 1").fetchone()
        assert row == ("*", 1, "i1-1", 0.5, "als", dt.date(2026, 1, 1))
        seen = watching(lists, lambda: hand_over(2))
        assert all(found in (one, two) for found in seen) and lists() == two
        hand_over(3)
        tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'recommendations_%'"
        assert reader.execute(tables).fetchone() == (2,)
        assert hand_over(2)["reused"] and lists() == two
        erased = to_postgres(publish(house, 2), "v2-without-1", address, "recommendations", keep=9)
        assert len(erased["deleted"]) == 2 and reader.execute(tables).fetchone() == (1,) and lists() == two

        # a clock that was ahead when the live one was handed over
        (live,) = reader.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'recommendations_%'").fetchone()
        ahead = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat()
        reader.execute(f"COMMENT ON TABLE {live} IS '{ahead} v2-without-1'")
        for number in (1, 3, 2):
            to_postgres(publish(house, number, users=2_000), f"v{number}-without-1", address, "recommendations", keep=2)
            assert lists() == expected(number, users=2_000), "what went live last is none of the oldest"
        assert reader.execute(tables).fetchone() == (2,)

        with psycopg.connect(address) as other:  # an export that is under way
            other.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key("recommendations"),))
            with pytest.raises(RunError, match="another export is writing"):
                hand_over(4)
        assert lists() == two
        with pytest.raises(RunError, match=r"export\.postgres .*nobody"):
            to_postgres(publish(house, 5), "v5", address.replace("me@", "nobody@"), "recommendations", 2)
