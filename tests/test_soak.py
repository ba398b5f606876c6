"""The soak's own parts: faults are dealt as they should be, and its checks see what is wrong with a table."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from soak import invariants
from soak.faults import CATALOGUE
from soak.run import Broken
from soak.soak import deal

DAY = dt.date(2026, 1, 8)


@pytest.mark.parametrize("seed", range(20))
def test_fourteen_nights_see_every_fault_once(seed):
    dealt = deal(14, seed)
    counts = Counter(fault.name for night in dealt for fault in night)
    assert counts == dict.fromkeys(CATALOGUE, 1), "no fault is left out"
    for number, night in enumerate(dealt):
        assert sum(not fault.afterwards for fault in night) == 1
        for fault in night:
            assert number + fault.nights < 14
            others = [f for later in dealt[number + 1 : number + fault.nights + 1] for f in later]
            assert not fault.nights or not any(f.delivers for f in others), "one delivery is late at a time"
    assert deal(14, seed) == dealt


def test_seeds_differ_and_faults_come_again_in_more_nights():
    assert deal(14, 1) != deal(14, 2)
    assert Counter(f.name for night in deal(30, 1) for f in night)["driver"] == 2
    assert {f.name for night in deal(4, 1, ["driver", "postgres"]) for f in night} == {"driver", "postgres"}


def test_every_fault_says_what_it_is_and_what_mends_it():
    assert len(CATALOGUE) >= 15
    for fault in CATALOGUE.values():
        assert fault.what and fault.remedy, fault.name


def version(slot, name, rows, **manifest):
    """Write a version by hand and make it live."""
    (slot / name / "data").mkdir(parents=True)
    table = pa.table(rows)
    pq.write_table(table, slot / name / "data" / "part-0.parquet")
    contents = {"data/part-0.parquet": {"rows": len(table)}}
    (slot / name / "_manifest.json").write_text(json.dumps({"created_at": "2026", "contents": contents, **manifest}))
    (slot / "_current").write_text(f"{name}\n")


def event(number, **more):
    return {"event_id": f"e{number}", "user_id": f"u{number % 3}", **more}


@pytest.fixture
def house(tmp_path):
    """A warehouse and a log of one day: four events, one of them twice, and a line that is none."""
    events = [event(n, copies=2 if n == 0 else 1) for n in range(4)]
    lines = [json.dumps(event(n)) for n in (0, 0, 1, 2, 3)]
    root, day = tmp_path / "w", f"batch={DAY}"
    version(root / "events" / day, "v", {k: [e[k] for e in events] for k in events[0]})
    empty = {"event_id": pa.array([], "string"), "copies": pa.array([], "int32"), "user_id": pa.array([], "string")}
    version(root / "bots" / day, "v", empty)
    version(root / "quarantine" / day, "v", {"raw": ["{broken"], "reason": ["malformed"]})
    folder = tmp_path / "log" / f"date={DAY}"
    folder.mkdir(parents=True)
    (folder / "part-0.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    return root, tmp_path / "log"


def test_rows_that_are_accounted_for(house):
    assert invariants.rows_lost(*house) == 6


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("a line more was delivered", "lines came in"),
        ("an event is there twice", "an event is there twice"),
        ("another row is in the quarantine", "neither an event nor in the quarantine"),
    ],
)
def test_rows_that_are_not(house, fault, words):
    root, log = house
    if fault == "a line more was delivered":
        with open(log / f"date={DAY}" / "part-0.jsonl", "a") as file:
            file.write(json.dumps(event(9)) + "\n")
    elif fault == "an event is there twice":
        rows = {"event_id": ["e0", "e0", "e1", "e2", "e3"], "copies": [1] * 5, "user_id": ["u0"] * 5}
        version(root / "events" / f"batch={DAY}", "w", rows)
    else:
        version(root / "quarantine" / f"batch={DAY}", "w", {"raw": ["{another"], "reason": ["malformed"]})
    with pytest.raises(Broken, match=words):
        invariants.rows_lost(root, log)


def publish(root, rows, name=f"{DAY}-a", **manifest):
    columns = ("user_id", "rank", "item_id")
    table = {c: [r[i] for r in rows] for i, c in enumerate(columns)} | {"run_date": [DAY] * len(rows)}
    version(root / "recommendations", name, table, **manifest)


GOOD = [(user, rank, f"i{rank}") for user in ("u0", "u1", "u2") for rank in (1, 2)]


def test_lists_that_are_whole(house):
    publish(house[0], GOOD)
    assert invariants.lists(house[0], DAY).startswith("3 lists, 100%")
    assert invariants.published(house[0]).version == f"{DAY}-a"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*GOOD[:-1], ("u2", 2, "i1")], "u2 has an item twice"),
        ([*GOOD[:-1], ("u2", 3, "i9")], "u2 has the ranks"),
        (GOOD[:4], "1 users have a list or an event, and not both"),
        ([*GOOD, ("u9", 1, "i1")], "1 users have a list or an event, and not both"),
        ([*GOOD, ("u1", 1, "i1")], "u1 has the ranks"),
    ],
)
def test_lists_that_are_not(house, rows, words):
    publish(house[0], rows)
    with pytest.raises(Broken, match=words):
        invariants.lists(house[0], DAY)


def test_other_lists_are_told_apart_and_the_youngest_has_to_be_live(house):
    publish(house[0], GOOD, "2026-01-08-a", created_at="2026-01-08T03:00:01+00:00")
    first = invariants.published(house[0])
    publish(house[0], GOOD[::-1], "2026-01-08-b", created_at="2026-01-08T03:00:02+00:00")
    assert invariants.published(house[0]).digest == first.digest, "the order of the rows is none of the lists'"
    invariants.newest_is_live(house[0])
    publish(house[0], [*GOOD[:-1], ("u2", 2, "i7")], "2026-01-08-c", created_at="2026-01-08T03:00:00+00:00")
    assert invariants.published(house[0]).digest != first.digest
    with pytest.raises(Broken, match="not the youngest"):
        invariants.newest_is_live(house[0])


def test_ids_that_move(tmp_path):
    for table in ("user_ids", "item_ids"):
        version(tmp_path / table, "v1", {"raw_id": ["a", "b"], "id": [1, 2]})
    before = invariants.ids(tmp_path)
    version(tmp_path / "user_ids", "v2", {"raw_id": ["a", "b", "c"], "id": [1, 2, 3]})
    invariants.ids_moved(before, invariants.ids(tmp_path))
    version(tmp_path / "user_ids", "v3", {"raw_id": ["b", "a", "c"], "id": [1, 2, 3]})
    with pytest.raises(Broken, match="user_ids: 2 ids have moved"):
        invariants.ids_moved(before, invariants.ids(tmp_path))
    version(tmp_path / "user_ids", "v4", {"raw_id": ["a", "b", "c"], "id": [1, 2, 2]})
    with pytest.raises(Broken, match="each once"):
        invariants.ids(tmp_path)


def test_what_lies_on_the_disk_without_need(tmp_path):
    for day in range(1, 9):
        version(tmp_path / f"interactions/date=2026-01-{day:02}", "v", {"x": [1]})
    version(tmp_path / "recommendations", "v", {"x": [1]})
    invariants.bounded(tmp_path, versions=2, days=4, today=DAY)
    with pytest.raises(Broken, match="4 dates are older than 3 days"):
        invariants.bounded(tmp_path, versions=2, days=3, today=DAY)
    for number in range(3):
        version(tmp_path / "interactions/date=2026-01-08", f"w{number}", {"x": [1]})
    with pytest.raises(Broken, match="has 4 versions, 3 may stay"):
        invariants.bounded(tmp_path, versions=2, days=4, today=DAY)
    invariants.bounded(tmp_path, versions=3, days=4, today=DAY)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(bytes(3 << 20))
    with pytest.raises(Broken, match="MB lie in no version"):
        invariants.bounded(tmp_path, versions=3, days=4, today=DAY)


def test_a_table_with_fewer_rows_than_its_manifest_counts(tmp_path):
    tables = ("interactions", "histories", "feeds/pairs", "user_metrics", "exposures", "serving", "models/als")
    for table in tables:
        version(tmp_path / table / f"date={DAY}", "v", {"x": [1, 2]})
    version(tmp_path / "recommendations", f"{DAY}-a", {"x": [1]})
    invariants.complete(tmp_path, DAY)
    exposed = tmp_path / f"exposures/date={DAY}"
    (exposed / "_current").unlink()
    with pytest.raises(Broken, match=f"exposures of {DAY} is not there"):
        invariants.complete(tmp_path, DAY)
    version(tmp_path / "recommendations", f"{DAY + dt.timedelta(days=1)}-a", {"x": [1]})
    invariants.complete(tmp_path, DAY)  # a day that was late: its lists were shown to nobody
    (exposed / "_current").write_text("v\n")
    pq.write_table(pa.table({"x": [1]}), tmp_path / f"histories/date={DAY}/v/data/part-0.parquet")
    with pytest.raises(Broken, match="has not the 2 rows"):
        invariants.complete(tmp_path, DAY)
    (tmp_path / f"histories/date={DAY}/_current").unlink()
    with pytest.raises(Broken, match=f"histories of {DAY} is not there"):
        invariants.complete(tmp_path, DAY)
