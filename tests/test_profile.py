"""Profiles of random events against a plain oracle, and samples of keys against sets of keys."""

import datetime as dt
import decimal
import random
from collections import Counter

import numpy as np
import pytest
from event_tables import event, publish
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.log import profile as station
from recsys_spark.log.key_sample import KeySample
from recsys_spark.log.profile import Histogram, known_columns, profile_batches, standing_profile
from recsys_spark.warehouse import Warehouse

DAYS = [f"2026-03-0{d}" for d in range(1, 6)]
COLUMNS = ["event_type", "device", "rating", "position", "hour", "shop"]
RATINGS = [None, 0.0, -0.0, 4.5, 1.0, 123456.0, 0.0123456, -7.77, float("nan")]


def random_day(rng: random.Random, day: str, n: int) -> list[dict]:
    start = dt.datetime.fromisoformat(f"{day}T00:00:00+00:00")
    rows = []
    for number in range(n):
        late = rng.random() < 0.1
        rows.append(
            event(
                number,
                start + dt.timedelta(days=-1 if late else 0, milliseconds=rng.randrange(86_400_000)),
                user_id=f"ü{rng.randrange(40)}",
                item_id=f"i{rng.randrange(25)}",
                event_type=rng.choice(["view", "click", "click"]),
                rating=rng.choice(RATINGS),
                position=rng.choice([None, 1, 2, 9, 10, 99, 104, 105, 2_000_000_000]),
                device=rng.choice([None, "tv", "mobile", "müsli"]),
                attributes=rng.choice([None, {}, {"shop": "a"}, {"shop": "b", "x": "y"}]),
            )
        )
    return rows


def number(value: float | None) -> float | None:
    """Two significant digits, half up."""
    if value is None or value != value:
        return None
    exact = decimal.Decimal(float(np.float32(value)))
    rounded = decimal.Context(prec=2, rounding=decimal.ROUND_HALF_UP).create_decimal(exact)
    return float(rounded) + 0.0


def plain(rows: list[dict], day: str) -> dict:
    own = [r for r in rows if str(r["date"]) == day]
    counts = {
        "event_type": Counter(r["event_type"] for r in own),
        "device": Counter(r["device"] for r in own),
        "rating": Counter(number(r["rating"]) for r in own),
        "position": Counter(number(r["position"]) for r in own),
        "hour": Counter(f"{r['timestamp'].hour:02}" for r in own),
        "shop": Counter((r["attributes"] or {}).get("shop") for r in own),
    }
    return {
        "counts": counts,
        "events": len(own),
        "late": len(rows) - len(own),
        "last": max((r["timestamp"] for r in own), default=None),
        "users": len({r["user_id"] for r in own}),
        "items": len({r["item_id"] for r in own}),
        "nulls": {c: sum(r[c] is None for r in own) for c in ("rating", "device", "attributes", "country", "user_id")},
    }


def counted(histogram: Histogram) -> Counter:
    values = {(float(k) if histogram.numeric else k): n for k, n in histogram.values.items()}
    return Counter({**values, **({None: histogram.missing} if histogram.missing else {})})


@pytest.fixture(scope="module")
def log(spark, tmp_path_factory):
    rng = random.Random(3)
    warehouse = Warehouse(tmp_path_factory.mktemp("ware house"))  # a folder whose name a URI would escape
    rows = {day: random_day(rng, day, 200) for day in DAYS}
    rows[DAYS[3]] = [r for r in rows[DAYS[3]] if str(r["date"]) != DAYS[3]]  # nothing of its own day
    events = {d: publish(warehouse, d, r, quarantined=3, rows_in=500, bots=7) for d, r in rows.items()}
    return warehouse, rows, events


@pytest.fixture(scope="module")
def profiles(spark, log):
    warehouse, _, events = log
    return profile_batches(spark, warehouse, events, COLUMNS)


@pytest.mark.parametrize("day", DAYS)
def test_a_profile_is_what_a_plain_count_gives(profiles, log, day):
    found, wanted = profiles[day], plain(log[1][day], day)
    assert (found.batch, found.day) == (day, dt.date.fromisoformat(day))
    assert (found.events, found.late, found.last) == (wanted["events"], wanted["late"], wanted["last"])
    assert (found.kept, found.rows_in, found.quarantined, found.bots) == (len(log[1][day]), 500, 3, 7)
    assert found.bad_share == 3 / 500 and found.bot_share == 7 / (7 + len(log[1][day]))
    assert {c: found.nulls[c] for c in wanted["nulls"]} == wanted["nulls"]
    assert found.nulls["shop"] == wanted["counts"]["shop"][None]
    if not wanted["events"]:
        assert not found.histograms and found.users is None
        return
    assert set(found.histograms) == set(COLUMNS)
    for column, histogram in found.histograms.items():
        assert counted(histogram) == wanted["counts"][column], column
        assert histogram.other == 0 and histogram.numeric == (column in ("rating", "position"))
    assert (found.users.distinct, found.items.distinct) == (wanted["users"], wanted["items"])


def test_shares_of_new_keys_are_those_of_the_sets(profiles, log):
    def users(day):
        return {r["user_id"] for r in log[1][day] if str(r["date"]) == day}

    for day, before in ((DAYS[2], DAYS[:2]), (DAYS[4], DAYS[1:2]), (DAYS[0], [])):
        new = users(day) - set().union(*map(users, before))
        assert profiles[day].users.new_share([profiles[d].users for d in before]) == len(new) / len(users(day))


def test_each_day_is_profiled_once_ever_and_many_cost_as_many_jobs_as_one(spark, log, profiles, monkeypatch):
    warehouse, rows, events = log
    jobs = spark.sparkContext.statusTracker().getJobIdsForGroup

    def profiled(group, chosen, columns=COLUMNS):
        spark.sparkContext.setJobGroup(group, "")
        try:
            return profile_batches(spark, warehouse, chosen, columns), len(jobs(group))
        finally:
            spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)

    again, none = profiled("again", events)
    assert none == 0 and again[DAYS[0]].histograms == profiles[DAYS[0]].histograms
    assert again[DAYS[0]].last == profiles[DAYS[0]].last
    assert np.array_equal(again[DAYS[0]].users.hashes, profiles[DAYS[0]].users.hashes)
    assert standing_profile(warehouse, DAYS[0]).nulls == profiles[DAYS[0]].nulls
    assert standing_profile(warehouse, "2020-01-01") is None

    # a day delivered anew is profiled anew, the others are not; few values and hashes are kept where there are many
    monkeypatch.setattr(station, "TOP", 3)
    monkeypatch.setattr(station, "SIZE", 8)
    changed = publish(warehouse, DAYS[1], rows[DAYS[1]], name="v2")
    cut, one = profiled("one", {**events, DAYS[1]: changed})
    assert cut[DAYS[0]].histograms == profiles[DAYS[0]].histograms
    for column, histogram in cut[DAYS[1]].histograms.items():
        whole = profiles[DAYS[1]].histograms[column]
        assert list(histogram.values.items()) == sorted(whole.values.items(), key=lambda v: (-v[1], v[0]))[:3]
        assert histogram.missing == whole.missing
        assert histogram.other == sum(whole.values.values()) - sum(histogram.values.values())
    assert np.array_equal(cut[DAYS[1]].users.hashes, profiles[DAYS[1]].users.hashes[:8])
    _, many = profiled("many", events, [*COLUMNS, "country"])
    assert 0 < many <= one + 1, (one, many)


def test_nulls_are_counted_without_keeping_a_value(spark, log):
    warehouse, rows, events = log
    found = profile_batches(spark, warehouse, {DAYS[0]: events[DAYS[0]]}, ["device"], ["shop", "user_id"])[DAYS[0]]
    assert found.nulls["shop"] == plain(rows[DAYS[0]], DAYS[0])["counts"]["shop"][None] and found.nulls["user_id"] == 0
    assert set(found.histograms) == {"device", "event_type"}


def test_a_whole_log_is_counted_and_no_more(spark, tmp_path):
    warehouse = Warehouse(tmp_path)
    rows = [event(i, dt.datetime(2020, 1, 1 + i, tzinfo=dt.UTC)) for i in range(9)]
    found = profile_batches(spark, warehouse, {"all": publish(warehouse, "all", rows)}, COLUMNS)["all"]
    assert (found.events, found.late, found.day) == (9, 0, None)
    assert found.nulls["rating"] == 9 and found.last == rows[-1]["timestamp"]
    assert found.histograms == {} and found.users is None and found.items is None


def test_known_columns():
    known = known_columns(["shop"])
    assert {"device", "hour", "shop", "rating"} <= set(known) and not {"attributes", "timestamp"} & set(known)


def test_histograms_add_up():
    a, b = Histogram(False, {"x": 1, "y": 2}, 3, 4), Histogram(False, {"y": 5, "z": 6}, 7, 8)
    assert a + b == Histogram(False, {"x": 1, "y": 7, "z": 6}, 10, 12)


def hashes(keys) -> np.ndarray:
    """Uniform signed 64-bit hashes of whole numbers (splitmix64's finaliser)."""
    x = np.array(sorted(keys), np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


keys = st.sets(st.integers(1, 60), max_size=40)


@settings(max_examples=60, deadline=None)
@given(keys, st.lists(keys, max_size=4))
def test_samples_of_few_keys_are_exact(mine, others):
    share = KeySample.of(hashes(mine), 64).new_share([KeySample.of(hashes(o), 64) for o in others])
    assert KeySample.of(hashes(mine), 64).distinct == len(mine)
    assert share == (pytest.approx(len(mine - set().union(*others)) / len(mine)) if mine else None)


@pytest.mark.parametrize("new", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("days", [1, 7])
def test_samples_of_many_keys_are_within_their_error(new, days):
    size, n = 1_024, 60_000
    first = int(n * (1 - new))
    mine = KeySample.of(hashes(range(first, first + n)), size)  # the last n - first are known
    before = [KeySample.of(hashes(range(d, n, days)), size) for d in range(days)]  # together they have 0..n
    before.append(KeySample.of(hashes(range(n)), size))
    known = len(set(range(first, first + n)) & set(range(n))) / n
    assert abs(mine.distinct / n - 1) < 4 / np.sqrt(size - 2)
    assert abs(mine.new_share(before) - (1 - known)) <= 4 * np.sqrt(known * (1 - known) / (0.8 * size)) + 1e-9


def test_the_error_grows_against_a_larger_set_and_stays_unbiased():
    mine, all_users = KeySample.of(hashes(range(5_000)), 1_024), KeySample.of(hashes(range(2_500, 100_000)), 1_024)
    assert abs(mine.new_share([all_users]) - 0.5) < 4 * np.sqrt(0.25 / (1_024 * 5_000 / 97_500))
