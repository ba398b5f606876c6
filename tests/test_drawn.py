"""Items drawn beside ratings: whose they are, how they are drawn, and that no feature or label leaks by them."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.sql import functions as F
from test_features import EVENTS as NUMBERED
from test_features import FLOATS, SIZES, TEXTS, describe, plain
from test_features import draw_events as draw_numbered
from test_feeds import EVENTS, UNTIL, config_of, event, finish, interactions_of, part_of, rows_of

from recsys_spark.dataset.features.describe import DRAWN
from recsys_spark.dataset.feeds.drawn import HELD_OUT, with_drawn
from recsys_spark.dataset.feeds.impressions import write_impressions

TYPES = {"rating": 1.0, "view": 0.5, "scroll": 0.0}
K = 3


def ratings(seed: int = 5) -> list[tuple]:
    """Few of many items over all parts: ratings, views, which count as had, and scrolls, which do not."""
    rng, rows = random.Random(seed), []
    for user in [*range(1, 13)] * 14:
        time = dt.datetime(2026, 1, 6) + dt.timedelta(minutes=30 * rng.randrange(5 * 48))
        kind = rng.choices(list(TYPES), [4, 1, 1])[0]
        rating = rng.choice([None, 1.0, 3.5, 4.0, 5.0]) if kind == "rating" else None
        rows.append(event(user, rng.randrange(1, 31), kind, time, rating))
    return rows


def drawn_of(spark, rows: list[tuple], seed: int = 1, parts: int = 3) -> list:
    events = spark.createDataFrame(rows, EVENTS).repartition(parts)
    parted = events.withColumn("_part", F.expr("decode(day(date), 10, 'test', 9, 'valid', 8, null, 'train')"))
    rated, acting = F.expr("event_type = 'rating' and rating is not null"), F.col("event_type").isin("rating", "view")
    every = with_drawn(parted, rated, acting, K, seed).collect()
    real = Counter((r.user_id, r.item_id, r.event_type, r.rating, r.date) for r in every if r.event_type != DRAWN)
    assert real == Counter((r[0], r[1], r[2], r[5], r[4]) for r in rows)
    return [r for r in every if r.event_type == DRAWN]


PLACE = {"train": 0, None: 1, "valid": 2, "test": 3}  # without a part: a gap between training and the rest


def test_what_is_drawn_is_new_to_the_user_and_known_to_training(spark):
    rows = ratings()
    found = drawn_of(spark, rows)
    asked: Counter = Counter()
    for r in rows:
        if r[2] == "rating" and r[5] is not None and part_of(r[4]):
            asked[r[0], r[3].replace(tzinfo=None), part_of(r[4])] += K if part_of(r[4]) == "train" else HELD_OUT
    had: dict[int, set] = defaultdict(set)
    for r in rows:
        if r[2] != "scroll":
            had[r[0]].add((r[1], PLACE[part_of(r[4])]))
    in_training = {r[1] for r in rows if r[2] == "rating" and r[5] is not None and part_of(r[4]) == "train"}
    got: Counter = Counter()
    for r in found:
        assert r.rating is None and r.position is None and r.item_id in in_training and r.date == r.timestamp.date()
        assert all(place > PLACE[r._part] for item, place in had[r.user_id] if item == r.item_id)
        got[r.user_id, r.timestamp, r._part] += 1
    assert got <= asked and {part for _, _, part in got} == {"train", "valid", "test"}
    # nothing else is left out: an item that comes later is drawn as any other
    later = {(u, item) for u, items in had.items() for item, place in items if place and (item, 0) not in items}
    assert later & {(r.user_id, r.item_id) for r in found if r._part == "train"}


def test_the_same_rows_are_drawn_whatever_comes_later_and_however_they_lie(spark):
    rows = ratings()

    def drawn(rows: list[tuple], **how: int) -> Counter:
        return Counter((r.user_id, r.item_id, r.timestamp, r._part) for r in drawn_of(spark, rows, **how))

    every = drawn(rows)
    assert drawn(rows[::-1], parts=5) == every != drawn(rows, seed=2)
    early = drawn([r for r in rows if part_of(r[4]) == "train"])
    assert early == Counter({key: n for key, n in every.items() if key[-1] == "train"})
    assert not drawn([r for r in rows if part_of(r[4]) == "test"])


def test_items_are_drawn_in_proportion_to_their_ratings_to_three_quarters(spark):
    time, many = dt.datetime(2026, 1, 2), {1: 400, 2: 81, 3: 16, 4: 1}
    rows = [event(u, i, "rating", time + dt.timedelta(seconds=u), 4.0) for i, n in many.items() for u in range(n)]
    rows += [event(10_000 + u, 5, "rating", time, 4.0) for u in range(1000)]  # who have none of the four
    new = Counter(r.item_id for r in drawn_of(spark, rows) if r.user_id >= 10_000)
    assert 5 not in new
    weights = {i: n**0.75 for i, n in many.items()}
    n, total = sum(new.values()), sum(weights.values()) + 1000**0.75
    for item, weight in weights.items():
        p = weight / total
        assert abs(new[item] - 3000 * p) < 4 * np.sqrt(3000 * p * (1 - p)), item
    assert n < 3000


def test_drawn_rows_count_in_no_feature_and_have_those_of_an_event_that_happens_then(spark):
    rows = draw_numbered(11, 90)
    planted = []
    for number in range(12):
        user, item, _, time, day, *_, session, device, country, _ = rows[7 * number]
        planted.append((user, item % 6 + 1, DRAWN, time, day, None, None, session, device, country, 1000 + number))
    first = min(r[3] for r in rows) - dt.timedelta(
        days=5
    )  # before any event of the items, whose age it does not change
    planted += [(1, i, DRAWN, first, first.date(), None, None, None, None, None, 2000 + i) for i in range(1, 7)]
    assert len(rows[0]) == len(NUMBERED.split(", ")) == len(planted[0]) == len(planted[-1])
    found, before = describe(spark, rows + planted), describe(spark, rows)
    assert {n: row for n, row in found.items() if n < 1000} == before
    for one in planted:
        shown = (*one[:2], "impression", *one[3:])
        expected = plain([*rows, shown])[one[-1]]
        for name in (*TEXTS, *SIZES, *FLOATS):
            if name != "device_hour":
                near, value = found[one[-1]][name], expected[name]
                assert near == (pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value), name


def test_the_feed_has_ratings_as_ever_and_zeros_beside_them(spark, tmp_path):
    rows = ratings()
    events = spark.createDataFrame(rows, EVENTS).repartition(2)
    items = spark.createDataFrame([(1, ["a"], 2.5)], "item_id int, categories array<string>, price float")
    nothing = interactions_of(spark, [(1, 1, "train", 0, True)])
    config = config_of(TYPES, drawn_impressions=K)
    manifest = finish(tmp_path, write_impressions(spark, nothing, events, items, config, UNTIL, tmp_path))
    assert manifest["labels"] == ["label_positive", "label_rating"] and manifest["rows_are"] == "rating"
    for part, folder in (("train", "data"), ("valid", "valid"), ("test", "test")):
        found = rows_of(tmp_path / folder)
        real, new = ([r for r in found if r["label_rating"] == label] for label in (1, 0))
        expected = [r for r in rows if r[2] == "rating" and r[5] is not None and part_of(r[4]) == part]
        labels = Counter((r["user_id"], r["item_id"], r["timestamp"], r["label_positive"]) for r in real)
        assert labels == Counter((r[0], r[1], int(r[3].timestamp()), float(r[5] >= 4)) for r in expected)
        assert manifest["parts"][part] == len(found) == len(real) + len(new) > len(real)
        assert not any(r["label_positive"] for r in new)
        moments = {(r["user_id"], r["timestamp"]): r["history"] for r in real}
        assert all(moments[r["user_id"], r["timestamp"]] == r["history"] for r in new)
        assert any(any(r["history"]) for r in new)
    of_items = rows_of(tmp_path / "moments" / "known=train" / "of_items")
    assert {r["item_id"] for r in of_items} == {r[1] for r in rows if part_of(r[4]) in (None, "train")}


def test_beside_impressions_nothing_is_drawn():
    with pytest.raises(
        ValidationError, match=r"dataset\.drawn_impressions is for a log without impressions.*set it to 0"
    ):
        config_of(drawn_impressions=2)
