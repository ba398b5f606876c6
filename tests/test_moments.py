"""Histories of events, and the features at a moment: the same as of an event that happens then."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from test_features import EVENTS, ITEMS, PRICES, TYPES, draw_events, event

from recsys_spark.config import Config, LogConfig
from recsys_spark.dataset.features import item, moments, user
from recsys_spark.dataset.features.describe import describe_events
from recsys_spark.dataset.features.encoding import fit_encoding
from recsys_spark.dataset.features.moments import asked_on, describe_moment, write_moments
from recsys_spark.dataset.features.repeat import BUCKETS
from recsys_spark.models.base import UserBlock
from recsys_spark.models.moment import Moment, load
from recsys_spark.models.torch_ranker import TorchRanker, repeat_bucket

LENGTH = 3


def plain_history(rows: list[tuple], who: int, time: dt.datetime) -> list[int]:
    """The user's last distinct items strictly before a time, oldest first; equal times by item."""
    acts = sorted((r[3], r[1]) for r in rows if r[0] == who and r[3] < time and TYPES[r[2]] > 0)
    newest: list[int] = []
    for _, one in reversed(acts[-4 * LENGTH :]):
        if one not in newest:
            newest.append(one)
    kept = newest[:LENGTH][::-1]
    return [0] * (LENGTH - len(kept)) + kept


@pytest.fixture(scope="module")
def items(spark):
    rows = [(i, ITEMS[i], PRICES[i]) for i in ITEMS]
    return spark.createDataFrame(rows, "item_id int, categories array<string>, price float").persist()


@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 10**6))
def test_a_history_is_what_came_strictly_before(spark, items, seed):
    rows = draw_events(seed)
    events = spark.createDataFrame(rows, EVENTS).repartition(3)
    found = describe_events(events, items, TYPES, F.expr("number % 4 > 0"), LENGTH).select("number", "history")
    expected = {r[-1]: plain_history(rows, r[0], r[3]) for r in rows if r[-1] % 4}
    assert {r.number: r.history for r in found.collect()} == expected
    assert len({tuple(h) for h in expected.values()}) > 20 and any(h[0] for h in expected.values())


DAY = dt.date(2026, 1, 20)


def before_the_day() -> list[tuple]:
    return [r for r in draw_events(7, 200) if r[4] < DAY]


def weights_of(who: int) -> dict[int, float]:
    """A user's history, as the table `histories` has it but for the order: by item the weights of what was done."""
    had: dict[int, float] = {}
    for row in before_the_day():
        if row[0] == who and TYPES[row[2]] > 0:
            had[row[1]] = had.get(row[1], 0.0) + TYPES[row[2]]
    return had


@pytest.fixture(scope="module")
def described(spark, items):
    """A moment's two tables, and every user with every item as if they were shown to them on that day."""
    rows = before_the_day()
    assert len(rows) > 100
    planted = []
    for who in sorted({r[0] for r in rows}):
        last = max((r for r in rows if r[0] == who), key=lambda r: (r[3], r[8] or "", r[9] or ""))
        time = dt.datetime.combine(DAY, last[3].time())
        for number, what in enumerate(sorted({r[1] for r in rows})):
            shown = event(1000 + 10 * who + number, who, what, "impression", time, device=last[8], country=last[9])
            planted.append(shown)
    events = spark.createDataFrame(rows, EVENTS)
    every = events.unionByName(spark.createDataFrame(planted, EVENTS))
    asked = describe_events(every, items, TYPES, F.col("number") >= 1000).persist()
    return describe_moment(events, items, TYPES, DAY), asked


def test_a_moment_has_the_features_of_an_event_that_happens_then(described):
    (of_users, of_items), asked = described
    users = {r.user_id: r.asDict() for r in of_users.collect()}
    catalogue = {r.item_id: r.asDict() for r in of_items.collect()}
    rows = asked.collect()
    assert len(rows) == len(users) * len(catalogue) == 30
    for row in rows:
        who, what = users[row.user_id], catalogue[row.item_id]
        for name in ("device", "country", "hour", "weekday", "device_hour", *user.FLOATS, "session_events"):
            assert who[name] == row[name], name
        for name in ("category", *item.FLOATS):
            assert what[name] == row[name], name
        taste = sum(who["taste"].get(category, 0.0) for category in what["categories"] or ())
        assert taste == pytest.approx(row.user_taste, rel=1e-12)
    assert len({r.user_taste for r in rows}) > 4 and len({r.item_trend for r in rows}) > 2


def test_a_ranker_encodes_a_moment_as_the_feed_encodes_events(described, spark, tmp_path):
    (of_users, of_items), asked = described
    floats, texts = (*user.FLOATS, *item.FLOATS, "user_taste", "user_item"), ("device", "country", "category")
    buckets = "user_item_bucket"
    encoding = fit_encoding(asked.where("number % 3 = 0"), floats, texts)
    encoded = encoding.apply(asked).collect()
    of_users.write.parquet(str(tmp_path / "of_users"))
    of_items.write.parquet(str(tmp_path / "of_items"))
    at: Moment = load(tmp_path)

    class Nothing:
        config = None

        def eval(self):
            pass

    ranker = TorchRanker("none", Nothing(), np.ones(1, bool), np.ones(1, bool), encoding.__dict__, 1)
    users, things = (np.array([[r[n]] for r in encoded]) for n in ("user_id", "item_id"))
    user_rows, item_rows = at.user_rows[users[:, 0]], at.item_rows[things]
    for name in (*floats, *texts, buckets):
        if name == "user_taste":
            found = ranker._encode(name, at.user_taste(user_rows, item_rows))[:, 0]
        elif name in ("user_item", buckets):
            had = [weights_of(r[0]) for r in users]
            weight = UserBlock.of(users[:, 0], [list(h) for h in had], [list(h.values()) for h in had]).weight_of(
                things
            )
            found = repeat_bucket(weight, BUCKETS) if name == buckets else ranker._encode(name, np.log1p(weight))
            found = found[:, 0]
            assert len(set(found)) > 4
        elif name in at.users:
            found = ranker._encode(name, at.users[name])[user_rows]
        else:
            found = ranker._encode(name, at.items[name])[item_rows][:, 0]
        expected = np.array([r[name] for r in encoded])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_what_is_held_out_is_in_no_moment_before_it(spark, items, tmp_path, monkeypatch):
    """The moment before the valid part is that of the log without its later parts."""
    monkeypatch.setattr(moments, "PARTS", ("train",))  # the others are made alike
    config = Config(name="t", root="build/t", log=LogConfig(path="logs", event_types=TYPES))
    rows = [r for r in draw_events(3, 80) if r[4] <= DAY]
    part = {DAY: "test", DAY - dt.timedelta(days=1): "valid"}
    events = spark.createDataFrame([(*r, part.get(r[4], "train")) for r in rows], EVENTS + ", _part string")
    write_moments(events, items, config, DAY, tmp_path / "all")
    assert {k: asked_on(k, config, DAY) for k in ("train", "valid", "test")} == {
        "train": DAY - dt.timedelta(days=1), "valid": DAY, "test": DAY + dt.timedelta(days=1),
    }  # fmt: skip
    alone = describe_moment(events.where("_part = 'train'").drop("_part"), items, TYPES, DAY - dt.timedelta(days=1))
    for name, key, expected in (("of_users", "user_id", alone[0]), ("of_items", "item_id", alone[1])):
        found = spark.read.parquet(str(tmp_path / "all" / "known=train" / name)).sort(key).collect()
        assert found == expected.sort(key).collect() and len(found) > 2
