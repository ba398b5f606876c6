"""Which versions go: held against the rules written out in plain Python, on warehouses drawn at random."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.warehouse import MANIFEST, Warehouse, pointer
from recsys_spark.warehouse.expiry import expired
from recsys_spark.warehouse.lineage import children, graph, reach

TODAY = dt.date(2026, 3, 10)
SLOTS = [
    "events/batch=2026-03-01", "recommendations", "user_ids", "erasures",
    *(f"{table}/date=2026-03-{day:02}" for table in ("interactions", "models/als") for day in (1, 5, 9, 10)),
]  # fmt: skip


def plant(root: Path, slot: str, name: str, age: int, parents: list[str], live: bool = False) -> str:
    """Write a version's manifest by hand."""
    (root / slot / name).mkdir(parents=True)
    manifest = {"created_at": f"2026-03-10T00:{age:02}:00", "parents": parents}
    (root / slot / name / MANIFEST).write_text(json.dumps(manifest))
    if live:
        pointer.write(root / slot, name)
    return f"{slot}/{name}"


def gone(warehouse: Warehouse, versions: int, days: int | None, named: list[str] = []) -> set[str]:  # noqa: B006
    return {warehouse.id_of(v) for _, v in expired(warehouse, versions, days, TODAY, named)}


def test_old_dates_go_and_what_is_published_keeps_what_it_was_made_from(tmp_path):
    events = plant(tmp_path, "events/batch=2026-01-01", "e1", 0, [], live=True)
    made = {}
    for day in ("2026-01-01", "2026-02-01", "2026-03-10"):
        data = plant(tmp_path, f"interactions/date={day}", "d", 1, [events], live=True)
        earlier = [made[max(made)]] if made else []
        made[day] = plant(tmp_path, f"models/als/date={day}", "m", 2, [data, *earlier], live=True)
    plant(tmp_path, "recommendations", "old", 3, [made["2026-01-01"]])
    plant(tmp_path, "recommendations", "new", 4, [made["2026-03-10"]], live=True)
    warehouse = Warehouse(tmp_path)
    january = {"interactions/date=2026-01-01/d", "models/als/date=2026-01-01/m"}
    february = {"interactions/date=2026-02-01/d", "models/als/date=2026-02-01/m"}
    assert gone(warehouse, 2, 30) == february
    assert gone(warehouse, 1, 30) == january | february | {"recommendations/old"}
    assert gone(warehouse, 1, None) == {"recommendations/old"}
    assert gone(warehouse, 1, 30, ["models/als/date=2026-02-01/m"]) == january | {"recommendations/old"}


def test_a_rolled_back_table_keeps_its_live_version(tmp_path):
    for age, name in enumerate(("v1", "v2", "v3")):
        plant(tmp_path, "items", name, age, [], live=name == "v1")
    assert gone(Warehouse(tmp_path), 1, 30) == {"items/v2"}


@st.composite
def warehouses(draw):
    """Versions as (slot, name, parents, live); parents come before their children."""
    made: list[tuple[str, str, list[str], bool]] = []
    for number in range(draw(st.integers(1, 14))):
        slot = draw(st.sampled_from(SLOTS))
        ids = [f"{s}/{n}" for s, n, _, _ in made]
        parents = draw(st.lists(st.sampled_from(ids), max_size=3, unique=True)) if ids else []
        made.append((slot, f"v{number:02}", parents, draw(st.booleans())))
    return made


@settings(max_examples=60, deadline=None)
@given(warehouses(), st.integers(1, 2), st.sampled_from([None, 0, 1, 5]), st.data())
def test_against_the_rules_in_plain_python(made, versions, days, data):
    named = data.draw(st.lists(st.sampled_from([f"{s}/{n}" for s, n, _, _ in made]), max_size=1))
    with tempfile.TemporaryDirectory() as folder:
        for age, (slot, name, parents, live) in enumerate(made):
            plant(Path(folder), slot, name, age, parents, live)
        found = gone(Warehouse(Path(folder)), versions, days, named)

    def table(slot):
        return slot.split("/date=")[0].split("/batch=")[0]

    live = {slot: f"{slot}/{name}" for slot, name, _, is_live in made if is_live}  # the last one that went live
    stays = set(named)
    for slot in {slot for slot, *_ in made}:
        ids = [f"{s}/{n}" for s, n, _, _ in made if s == slot]
        if slot == "erasures":
            stays |= set(ids)
        elif days is None or "date=" not in slot or dt.date.fromisoformat(slot[-10:]) >= TODAY - dt.timedelta(days):
            stays |= {*ids[-versions:], live.get(slot, ids[-1])}
    changed = True
    while changed:
        more = {
            parent
            for slot, name, parents, _ in made
            for parent in parents
            if f"{slot}/{name}" in stays and table(parent.rpartition("/")[0]) != table(slot)
        }
        changed, stays = not more <= stays, stays | more
    assert found == {f"{s}/{n}" for s, n, _, _ in made} - stays


def test_the_graph_is_that_of_the_manifests(tmp_path):
    a = plant(tmp_path, "events/batch=all", "a", 0, [])
    b = plant(tmp_path, "interactions/date=2026-03-01", "b", 1, [a, "user_ids/gone"])
    c = plant(tmp_path, "feeds/pairs/date=2026-03-01", "c", 2, [b])
    (tmp_path / "champions" / "v1-x").mkdir(parents=True)
    (tmp_path / "champions" / "v1-x" / MANIFEST).write_text("{}")
    found = graph(Warehouse(tmp_path))
    assert found == {a: [], b: [a, "user_ids/gone"], c: [b]}
    assert reach([c], found) == {a, b, c, "user_ids/gone"}
    assert reach([a], children(found)) == {a, b, c}


@pytest.mark.parametrize("empty", [True, False])
def test_a_warehouse_without_versions_has_nothing_to_expire(tmp_path, empty):
    if not empty:
        (tmp_path / "events").mkdir()
    assert gone(Warehouse(tmp_path), 1, 0) == set()
