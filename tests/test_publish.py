"""publish() on a warehouse written by hand: what is published, what never is, and where the pointer points."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import ExplorationConfig, PublishConfig
from recsys_spark.errors import DataError
from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation import index
from recsys_spark.recommendation import publish as station
from recsys_spark.recommendation.exploration import propensities
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.schemas import EXPOSURES, RECOMMENDATIONS
from recsys_spark.warehouse import Warehouse

DAY = dt.date(2026, 1, 10)
ITEMS = 12  # ids 1..12; 11 and 12 have no training row
K = 4
HISTORIES = {
    1: [1, 2, 3], 2: [2], 3: [], 4: [4, 5, 6, 7], 5: [12], 6: [9, 10, 1],
    7: [1, 2, 3, 4, 5, 6, 7, 8], 8: [3, 5, 11],
}  # fmt: skip
"""User 3 only looked and 5 had an untrained item: both cold. 7 has two items left."""
COLD = {"u3", "u5"}
SLEEPING = {2, 8}  # their last event was ten days ago


def histories_table():
    columns = {
        "user_id": pa.array(HISTORIES, pa.int32()),
        "items": pa.array(HISTORIES.values(), pa.list_(pa.int32())),
        "weights": pa.array([[1.0] * len(h) for h in HISTORIES.values()], pa.list_(pa.float32())),
        "ratings": pa.array([[float("nan")] * len(h) for h in HISTORIES.values()], pa.list_(pa.float32())),
        "held_out": pa.array([[]] * len(HISTORIES), pa.list_(pa.int32())),
        "held_out_ratings": pa.array([[]] * len(HISTORIES), pa.list_(pa.float32())),
        "last_day": pa.array([DAY - dt.timedelta(days=10 * (u in SLEEPING)) for u in HISTORIES], pa.date32()),
    }
    return pa.table(columns)


class Night:
    """A warehouse with dictionaries, one version of histories, and two saved models."""

    def __init__(self, spark, root):
        self.spark, self.warehouse = spark, Warehouse(root)
        for table, prefix, n in (("user_ids", "u", len(HISTORIES)), ("item_ids", "i", ITEMS)):
            rows = pa.table({
                "raw_id": [f"{prefix}{i}" for i in range(1, n + 1)],
                "id": pa.array(range(1, n + 1), pa.int32()),
            })  # fmt: skip
            self._write(self.warehouse.slot(table), "v000001", rows, "data")
        slot = self.warehouse.slot("histories", date=DAY)
        self.histories = self._write(slot, f"{DAY}-aaa", histories_table(), "data/known=test")
        # a row of another moment, which must not be served
        train = histories_table().slice(0, 1)
        (self.histories.path / "data/known=train").mkdir()
        pq.write_table(train, self.histories.path / "data/known=train/rows.parquet")

        trained = (np.arange(ITEMS + 1) > 0) & (np.arange(ITEMS + 1) < 11)
        factors = np.random.default_rng(1).normal(size=(ITEMS + 1, 3)).astype(np.float32) * trained[:, None]
        counts = np.where(trained, [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 0, 0], 0).astype(np.float32)
        self.models = {
            "als": AlsModel(factors, trained, AlsConfig(rank=3)),
            "popularity": Popularity(counts, np.full(ITEMS + 1, np.nan, np.float32)),
        }
        for name, model in self.models.items():
            (root / name).mkdir(parents=True)
            model.save(root / name)
        self.slot = self.warehouse.slot(RECOMMENDATIONS.name)

    @staticmethod
    def _write(slot, name, rows, folder):
        def build(path):
            (path / folder).mkdir(parents=True)
            pq.write_table(rows, path / folder / "rows.parquet")
            return {"rows": len(rows)}

        return slot.materialize(name, build)[0]

    def publish(self, until=DAY, model="als", **config):
        root = self.warehouse.root
        return station.publish(
            self.spark, self.warehouse, PublishConfig(**{"k": K, "block_users": 3, **config}), until,
            self.histories, root / model, f"{model}-v1", root / "popularity",
        )  # fmt: skip

    def lists(self, version):
        """User -> [(rank, item, score, model)] by rank."""
        found = {}
        for r in pq.read_table(version.data).to_pylist():
            found.setdefault(r["user_id"], []).append((r["rank"], r["item_id"], r["score"], r["model"]))
        return {u: sorted(rows) for u, rows in found.items()}


@pytest.fixture(scope="module")
def published(spark, tmp_path_factory):
    """A night whose lists are live; no test changes what its pointer points at."""
    night = Night(spark, tmp_path_factory.mktemp("published"))
    version, made = night.publish()
    assert made
    return night, version


def test_every_user_gets_distinct_unseen_items(published):
    night, version = published
    lists = night.lists(version)
    assert lists.keys() == {f"u{u}" for u in HISTORIES}
    for u, seen in HISTORIES.items():
        rows = lists[f"u{u}"]
        items = [item for _, item, _, _ in rows]
        assert len(rows) == (2 if u == 7 else K)
        assert [rank for rank, *_ in rows] == list(range(1, len(rows) + 1))
        assert len(set(items)) == len(items)
        assert not {f"i{i}" for i in seen} & set(items)
        assert set(items) <= {f"i{i}" for i in range(1, 11)}  # the log's ids, and trained items alone


def test_lists_are_the_models(published):
    """Dense ids come back as the log's: the list of user 4 by hand from the factors."""
    night, version = published
    scores = night.models["als"].score(UserBlock.of([4], [HISTORIES[4]]))[0]
    best = sorted((i for i in range(1, 11) if i not in HISTORIES[4]), key=lambda i: -scores[i])[:K]
    rows = night.lists(version)["u4"]
    assert [item for _, item, _, _ in rows] == [f"i{i}" for i in best]
    assert [score for _, _, score, _ in rows] == pytest.approx(scores[best].tolist(), rel=1e-5)


def test_cold_users_get_popular_items(published):
    night, version = published
    lists = night.lists(version)
    for u, rows in lists.items():
        assert {model for *_, model in rows} == {"popularity" if u in COLD else "als"}
    for u in COLD:
        assert [(item, score) for _, item, score, _ in lists[u]] == [("i1", 9), ("i3", 8), ("i5", 7), ("i7", 6)]


def test_manifest_and_pointer(published):
    night, version = published
    assert night.slot.current().name == version.name
    entries = version.manifest
    items = {item for rows in night.lists(version).values() for _, item, _, _ in rows}
    assert (entries["users"], entries["rows"], entries["churn"]) == (8, 7 * K + 2, None)
    assert entries["coverage"] == pytest.approx(len(items) / 10)
    assert (entries["run_date"], entries["model"]) == (str(DAY), "als-v1")
    table = pq.read_table(version.data)
    assert table.column_names == [field.name for field in RECOMMENDATIONS.schema.fields]
    assert set(table["run_date"].to_pylist()) == {DAY}


def test_a_second_publish_reuses_the_first(published):
    night, version = published
    again, made = night.publish()
    assert not made
    assert (again.name, again.manifest) == (version.name, version.manifest)
    assert len(night.slot.versions()) == 1


def test_an_index_is_used_where_it_is_good_enough(spark, tmp_path, published, monkeypatch, capfd):
    whole, exact = published
    night = Night(spark, tmp_path)
    version, _ = night.publish(index="ivf")
    assert version.manifest["index"] is None  # one list of ten items: looking through it is a scan
    assert "do not hold 95% of the best items" in capfd.readouterr().err
    monkeypatch.setattr(index, "_MOST_PROBED", 1.0)
    version, _ = night.publish(index="ivf", min_recall=0.5)
    assert version.manifest["index"] == {
        "lists": 1,
        "probes": 1,
        "recall": 1.0,
        "users": version.manifest["index"]["users"],
    }
    assert "1 of 1 lists hold 100.0% of the best items" in capfd.readouterr().err
    found, wanted = night.lists(version), whole.lists(exact)
    assert {u: [row[:2] for row in rows] for u, rows in found.items()} == {
        u: [row[:2] for row in rows] for u, rows in wanted.items()
    }
    assert not list(night.slot.path.glob(".topk-*"))
    night.publish(model="popularity", index="ivf")
    assert "popularity has no item vectors; every item is compared" in capfd.readouterr().err


def test_what_is_published_is_logged_with_its_propensity(published):
    night, version = published
    exposed = night.warehouse.slot("exposures", date=DAY).current()
    assert exposed.name == version.name and exposed.manifest["policy"] == "greedy"
    rows = pq.read_table(exposed.data)
    assert rows.column_names == [field.name for field in EXPOSURES.schema.fields]
    lists = {(r["user_id"], r["rank"], r["item_id"], r["score"], r["model"]) for r in rows.to_pylist()}
    assert lists == {(u, *row) for u, of in night.lists(version).items() for row in of}
    assert set(rows["policy"].to_pylist()) == {"greedy"} and set(rows["propensity"].to_pylist()) == {1.0}


def test_drawn_lists_are_published_and_logged_with_the_chance_they_had(spark, tmp_path):
    night = Night(spark, tmp_path)
    exploration = {"policy": "plackett_luce", "temperature": 0.8, "candidates": 6}
    version, _ = night.publish(exploration=exploration)
    config = ExplorationConfig(**exploration)
    rows = pq.read_table(night.warehouse.slot("exposures", date=DAY).current().data).to_pylist()
    of = {}
    for r in sorted(rows, key=lambda r: (r["user_id"], r["rank"])):
        of.setdefault(r["user_id"], []).append(r)
    assert {u: [(r["rank"], r["item_id"]) for r in of[u]] for u in of} == {
        u: [row[:2] for row in rows] for u, rows in night.lists(version).items()
    }
    for u, history in HISTORIES.items():
        model = night.models["popularity" if f"u{u}" in COLD else "als"]
        items, scores = recommend_block(model, UserBlock.of([u], [history]), 6)
        shown = [int(r["item_id"][1:]) for r in of[f"u{u}"]]
        assert len(shown) == (2 if u == 7 else K)
        want = propensities(items, scores, np.array([shown]), config)[0]
        assert [r["propensity"] for r in of[f"u{u}"]] == pytest.approx(want.tolist(), rel=1e-4)
        assert {r["policy"] for r in of[f"u{u}"]} == {"plackett_luce 0.8 of 6"}
    best = {u: [i for _, i, _, _ in rows] for u, rows in night.lists(night.publish()[0]).items()}
    assert any([r["item_id"] for r in of[u]] != best[u] for u in of)
    # run again from nothing, the night draws the same
    again = Night(spark, tmp_path / "again")
    assert again.lists(again.publish(exploration=exploration)[0]) == night.lists(version)


def test_too_few_candidates_are_refused():
    with pytest.raises(ValueError, match=r"publish\.exploration\.candidates 3 is below publish\.k 4"):
        PublishConfig(k=4, exploration={"policy": "epsilon", "candidates": 3})


def test_only_active_users(spark, tmp_path):
    night = Night(spark, tmp_path)
    version, _ = night.publish(active_days=7)
    assert night.lists(version).keys() == {f"u{u}" for u in HISTORIES if u not in SLEEPING}
    with pytest.raises(DataError, match="active") as error:
        night.publish(until=DAY + dt.timedelta(days=90), active_days=7)
    assert "\n" not in str(error.value)
    assert night.slot.current().name == version.name


def test_an_older_date_does_not_take_the_pointer_and_a_newer_one_does(spark, tmp_path):
    night = Night(spark, tmp_path)
    live, _ = night.publish()
    older, made = night.publish(until=DAY - dt.timedelta(days=1))
    assert made
    log = night.warehouse.slot("exposures", date=DAY - dt.timedelta(days=1))
    assert log.version(older.name) and log.current() is None  # nobody was shown these
    assert older.name in {v.name for v in night.slot.versions()}
    assert night.slot.current().name == live.name
    assert older.manifest["churn"] == 0  # the same lists

    newer, _ = night.publish(until=DAY + dt.timedelta(days=1), model="popularity")
    assert night.slot.current().name == newer.name
    old, new = ({u: {i for _, i, _, _ in r} for u, r in night.lists(v).items()} for v in (live, newer))
    kept, total = sum(len(old[u] & new[u]) for u in new), sum(map(len, new.values()))
    assert 0 < kept < total
    assert newer.manifest["churn"] == pytest.approx(1 - kept / total)


def test_who_has_had_everything_needs_no_list(spark, tmp_path, monkeypatch):
    monkeypatch.setitem(HISTORIES, 7, list(range(1, ITEMS + 1)))
    night = Night(spark, tmp_path)
    version, _ = night.publish()
    assert night.lists(version).keys() == {f"u{u}" for u in HISTORIES if u != 7}


def put(column, value, where):
    """Put another value into some rows; both are SQL, as no session runs yet."""
    return lambda lists: lists.withColumn(column, F.expr(f"if({where}, {value}, {column})"))


def drop(where):
    return lambda lists: lists.where(f"not ({where})")


SHORT, TWICE = f"1 lists shorter than k = {K}", "1 lists with an item twice or a gap"
FAULTS = {
    "short list": (drop("user_id = 'u2' and rank = 4"), SHORT),
    "shorter than what is left": (drop("user_id = 'u7' and rank = 2"), SHORT),
    "repeated item": (put("item_id", "'i1'", "user_id = 'u3' and rank = 2"), TWICE),
    "gap in the ranks": (put("rank", "5", "user_id = 'u2' and rank = 4"), TWICE),
    "seen item": (put("item_id", "'i3'", "user_id = 'u1' and rank = 2"), "1 items that their user has had"),
    "unknown item": (put("item_id", "null", "user_id = 'u1' and rank = 2"), "1 rows with an unknown user or item"),
    "unknown user": (put("user_id", "null", "user_id = 'u1'"), "4 rows with an unknown user or item"),
    "missing user": (drop("user_id = 'u2'"), "1 users without a list"),
    "nobody": (drop("true"), "8 users without a list"),
}


def assert_refused(night, version, message, **publish):
    with pytest.raises(DataError, match=message) as error:
        night.publish(**publish)
    assert "\n" not in str(error.value)
    assert "not published" in str(error.value)
    assert night.slot.current().name == version.name
    assert [v.name for v in night.slot.versions()] == [version.name]
    assert not list(night.slot.path.glob(".tmp-*"))
    until = publish.get("until", DAY)
    assert [v.name for v in night.warehouse.slot("exposures", date=until).versions()] == [version.name] * (until == DAY)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_lists_is_never_published(published, monkeypatch, fault):
    night, version = published
    spoil, message = FAULTS[fault]
    lists = station._lists
    monkeypatch.setattr(station, "_lists", lambda *args: spoil(lists(*args)))
    assert_refused(night, version, message, until=DAY + dt.timedelta(days=1))


def test_low_coverage_is_never_published(published):
    night, version = published
    assert_refused(night, version, "cover .*publish.min_coverage", model="popularity", min_coverage=1.0)


def test_high_churn_is_never_published(published):
    night, version = published
    assert_refused(night, version, "differ .*publish.max_churn", model="popularity", max_churn=0.05)
