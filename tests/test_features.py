"""Features of events against plain Python, that none of them looks ahead, and how they are encoded."""

from __future__ import annotations

import datetime as dt
import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.dataset.features.context import MAX_POSITION
from recsys_spark.dataset.features.crosses import CROSS_BUCKETS
from recsys_spark.dataset.features.describe import FLOATS, SIZES, TEXTS, describe_events
from recsys_spark.dataset.features.encoding import Encoding, fit_encoding
from recsys_spark.dataset.features.repeat import BUCKETS
from recsys_spark.dataset.features.user import RECENCY_CAP_HOURS

TYPES = {"impression": 0.0, "click": 1.0, "purchase": 3.0}
ITEMS = {1: ["a", "z"], 2: ["a"], 3: ["b", "z", "b"], 4: [], 5: None}  # 6 is not in the catalogue
PRICES = {1: 9.0, 2: 0.0, 3: None, 4: 0.5, 5: 19.0}
EVENTS = (
    "user_id int, item_id int, event_type string, timestamp timestamp, date date, rating float, position int, "
    "session_id string, device string, country string, number int"
)
START = dt.datetime(2026, 1, 1, 20, 30)
MICROSECOND = dt.timedelta(microseconds=1)


def event(number: int, user: int, item: int, kind: str, time: dt.datetime, **more: object) -> tuple:
    row = {"rating": None, "position": None, "session_id": None, "device": None, "country": None, **more}
    return (user, item, kind, time.replace(tzinfo=dt.UTC), time.date(), *row.values(), number)


def draw_events(seed: int, n: int = 130) -> list[tuple]:
    """Few users and items, times on a coarse grid of weeks so that many are equal, and a microsecond apart."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        time = START + dt.timedelta(hours=rng.choice([1, 5, 24]) * rng.randrange(40))
        time += rng.choice([0, 0, 1, -1]) * MICROSECOND
        rows.append(event(
            number, rng.randrange(1, 6), rng.randrange(1, 7), rng.choice(list(TYPES)), time,
            position=rng.choice([None, 1, 2, 1000, -3]), session_id=rng.choice([None, "s", "t"]),
            device=rng.choice([None, "app", "web"]), country=rng.choice([None, "DE"]),
        ))  # fmt: skip
    return rows


def describe(spark, rows: list[tuple], which: str = "true") -> dict[int, dict]:
    events = spark.createDataFrame(rows, EVENTS).repartition(3)
    items = spark.createDataFrame(
        [(i, ITEMS[i], PRICES[i]) for i in ITEMS], "item_id int, categories array<string>, price float"
    )
    found = describe_events(events, items, TYPES, F.expr(which)).collect()
    features = [*TEXTS, *SIZES, *FLOATS]
    assert len({row.number for row in found}) == len(found)
    return {row.number: {name: row[name] for name in features} for row in found}


def plain(rows: list[tuple]) -> dict[int, dict]:
    """Every feature again, by its definition; `device_hour` only as far as it is defined without a hash."""
    described = {}
    for user, item, _, time, day, _, position, session, device, country, number in rows:
        mine = [r for r in rows if r[0] == user and r[3] < time]
        acts = [r for r in mine if TYPES[r[2]] > 0]
        categories = list(dict.fromkeys(ITEMS.get(item) or []))
        alike = sum(category in (ITEMS.get(r[1]) or []) for r in acts for category in categories)
        weight = sum(TYPES[r[2]] for r in acts if r[1] == item)
        since = [(time - r[3]) / dt.timedelta(hours=1) for r in acts]
        shown = [r for r in rows if r[1] == item and r[4] < day]
        ages = [(day - r[4]).days for r in shown if TYPES[r[2]] > 0]
        n1, n7 = sum(a == 1 for a in ages), sum(a <= 7 for a in ages)
        price = PRICES.get(item)
        described[number] = {
            "device": device, "country": country, "category": next(iter(categories), None),
            "hour": time.hour, "weekday": time.weekday(),
            "position": 0 if position is None else min(max(position, 0), MAX_POSITION),
            "device_hour": device and (device, time.hour // 6),
            "user_activity": math.log1p(len(acts)),
            "user_recency_hours": min([*since, RECENCY_CAP_HOURS]),
            "item_last_day": math.log1p(n1), "item_last_week": math.log1p(n7),
            "item_trend": (n1 + 1) / (n7 / 7 + 1),
            "item_age_days": max([(day - r[4]).days for r in shown], default=0),
            "item_price": None if price is None else math.log1p(price),
            "session_events": math.log1p(sum(r[7] == session for r in mine)) if session else 0,
            "user_taste": alike / len(acts) if acts else 0,
            "user_item": math.log1p(weight),
            "user_item_bucket": min(math.ceil(4 * math.log2(1 + weight) - 1e-6), BUCKETS - 1),
        }  # fmt: skip
    return described


@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 10**6))
def test_features_are_what_their_definitions_say(spark, seed):
    rows = draw_events(seed)
    # not every row is asked for; those that are not count as past all the same
    found = describe(spark, rows, "number % 5 > 0")
    expected = {number: row for number, row in plain(rows).items() if number % 5}
    crosses: dict[tuple, int] = {}
    for number, row in expected.items():
        pair, hashed = row.pop("device_hour"), found[number].pop("device_hour")
        for name, value in row.items():
            near = pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float | int) else value
            assert found[number][name] == near, (name, rows[number])
        assert (hashed == 0) if pair is None else (1 <= hashed <= CROSS_BUCKETS)
        assert pair is None or crosses.setdefault(pair, hashed) == hashed
    assert set(found) == set(expected) and len(set(crosses.values())) > 4
    for name in ("user_taste", "user_item", "user_recency_hours", "item_last_week", "item_trend", "item_age_days"):
        assert len({row[name] for row in expected.values()}) > 5, f"{name} hardly varies: the test is weak"


USER = ("user_activity", "user_recency_hours", "user_taste", "user_item", "session_events")
ITEM = ("item_last_day", "item_last_week", "item_trend", "item_age_days")


def test_nothing_that_happens_later_or_at_once_changes_a_row(spark):
    """Planted events of the same user and of the same item: later, at once, and before.

    The probe of each case is event 0 of a user and an item of its own, so that one job judges them all.
    """
    time = dt.datetime(2026, 3, 4, 12)
    midnight = dt.datetime(2026, 3, 4)
    day = dt.timedelta(days=1)
    plants = {  # time of the planted event -> the features that it may change, as (of the user, of the item)
        time + 5 * day: (set(), set()),
        time + dt.timedelta(hours=1): (set(), set()),
        time + MICROSECOND: (set(), set()),
        time: (set(), set()),
        time - MICROSECOND: (set(USER), set()),
        midnight: (set(USER), set()),
        midnight - MICROSECOND: (set(USER), set(ITEM)),
        midnight - 6 * day: (set(USER), {"item_last_week", "item_trend", "item_age_days"}),
        midnight - 7 * day - MICROSECOND: (set(USER), {"item_age_days"}),
    }
    cases = [(user_side, when) for user_side in (True, False) for when in plants]
    own = {"session_id": "s", "device": "app"}

    def features(planted: bool) -> dict[int, dict]:
        rows = []
        for case, (user_side, when) in enumerate(cases):
            user, item = 10 + case, 3  # item 3 has a category; items of their own have none
            if not user_side:
                item = 100 + case
            # a past of its own, so that no feature is at an edge
            rows.append(event(1000 + case, user, 1, "click", time - 40 * day, **own))
            rows.append(event(2000 + case, user, item, "impression", time, **own))
            if planted and user_side:
                rows.append(event(3000 + case, user, 3, "click", when, **own))
            if planted and not user_side:
                rows.append(event(3000 + case, 500 + case, item, "click", when, **own))
        found = describe(spark, rows, "number >= 2000 and number < 3000")
        # the planted events of the users are all of item 3: what they do to its popularity is no matter here
        sides = [USER if user_side else (*USER, *ITEM) for user_side, _ in cases]
        return {c: {n: found[2000 + c][n] for n in side} for c, side in enumerate(sides)}

    before, after = features(False), features(True)
    for case, (user_side, when) in enumerate(cases):
        changed = {name for name, value in before[case].items() if after[case][name] != value}
        assert changed == plants[when][0 if user_side else 1], (when, "user" if user_side else "item")


# Encoding ---------------------------------------------------------------------------------------------


def test_encoding_is_fitted_on_what_it_is_given_and_applied_to_anything(spark, tmp_path):
    train = [(1.0, 3.0, "b", None), (2.0, 3.0, "a", None), (6.0, 3.0, "c", None), (None, 3.0, "c", None)]
    schema = "x double, y double, t string, u string"
    frame = spark.createDataFrame(train, schema)
    encoding = fit_encoding(frame, ["x", "y"], ["t", "u"])
    spread = math.sqrt((4 + 1 + 9) / 3)
    assert encoding.scales["x"] == pytest.approx((3.0, spread)) and encoding.scales["y"] == (3.0, 1.0)
    assert encoding.vocabularies == {"t": ("c", "a", "b"), "u": ()}, "by falling count, then by value"
    assert encoding.sizes() == {"t": 4, "u": 1}
    assert fit_encoding(frame.repartition(3), ["x", "y"], ["t", "u"]) == encoding

    encoding.save(tmp_path / "encoding.json")
    read = Encoding.load(tmp_path / "encoding.json")
    assert read == encoding
    other = spark.createDataFrame([(3.0, 4.0, "c", "new"), (None, None, "é", None), (9.0, 3.0, None, None)], schema)
    applied = read.apply(other).select("x", "y", "t", "u")
    assert [kind for _, kind in applied.dtypes] == ["float", "float", "int", "int"]
    found = sorted((tuple(row) for row in applied.collect()), reverse=True)
    expected = sorted([(0.0, 1.0, 1, 0), (0.0, 0.0, 0, 0), (6 / spread, 0.0, 0, 0)], reverse=True)
    assert [pytest.approx(row, rel=1e-6) for row in expected] == found


def test_sums_do_not_depend_on_the_order_of_the_rows(spark):
    values = [(random.Random(7 * i).random() * 700,) for i in range(1000)]
    fits = {
        tuple(fit_encoding(spark.createDataFrame(rows, "x double").repartition(p), ["x"], []).scales["x"])
        for rows, p in ((values, 1), (values[::-1], 7))
    }
    assert len(fits) == 1
    mean = math.fsum(v for (v,) in values) / 1000
    assert fits.pop() == pytest.approx((mean, math.sqrt(math.fsum((v - mean) ** 2 for (v,) in values) / 1000)))
