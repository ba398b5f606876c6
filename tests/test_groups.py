"""Exposure of groups of items, gaps between groups of users, and what is known of items, against plain Python."""

import math
from collections import defaultdict

import numpy as np
import pytest

from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.evaluation.gaps import user_gaps
from recsys_spark.evaluation.groups import ItemGroups, exposures, kind_groups, popularity_groups, to_json
from recsys_spark.evaluation.item_facts import item_facts
from recsys_spark.reporting.lists import lists
from recsys_spark.schemas import HISTORIES, INTERACTIONS, ITEM_IDS, ITEMS, USER_METRICS
from recsys_spark.warehouse import Version

DAY = 86_400


@pytest.fixture(scope="module")
def facts(spark):
    first = [(1, 2, 0), (1, 1, 5 * DAY), (2, 1, 3 * DAY), (2, 3, 8 * DAY), (3, 9, 0)]
    rows = [(u, i, "train", 1.0, None, t, 1, True, False, False) for u, i, t in first]
    catalogue = [("a", "A", None, ["x", "y"], None), ("b", "B", None, ["y", "y"], None), ("c", "C", None, None, None),
                 ("d", "D", None, ["z", None], None), ("gone", "G", None, ["x"], None)]  # fmt: skip
    numbers = [(name, n, n) for n, name in enumerate("abcd", start=1)]
    frames = (spark.createDataFrame(data, table.schema)
              for data, table in ((rows, INTERACTIONS), (catalogue, ITEMS), (numbers, ITEM_IDS)))  # fmt: skip
    return item_facts(*frames, until=10 * DAY, n_items=5)


def test_items_are_as_old_as_their_first_interaction_and_of_the_kinds_that_the_catalogue_says(facts):
    assert facts.age_days.tolist()[1:4] == [7.0, 10.0, 2.0] and np.isnan(facts.age_days[[0, 4]]).all()
    assert facts.names == ("y", "x", "z")  # the most frequent first, of the items that are numbered
    assert facts.kinds.toarray().tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert np.isnan(facts.ages(9)[5:]).all() and len(facts.ages(9)) == 10


def test_lists_get_the_vectors_of_their_own_items_alone(facts):
    ranked = np.array([[4, 1], [7, 0]])
    places, vectors = facts.listed_kinds(ranked)
    for row, at in zip(ranked.tolist(), places.tolist(), strict=True):
        for item, place in zip(row, at, strict=True):
            assert vectors[place].tolist() == (facts.kinds.toarray()[item].tolist() if 0 < item < 5 else [0, 0, 0])
    assert (places[ranked == 0] == 0).all()


def test_an_item_is_in_the_group_of_its_most_frequent_kind(facts):
    assert kind_groups(facts).of_item.tolist() == [-1, 0, 0, -1, 2]
    assert popularity_groups(np.array([0, 5, 4, 1, 0])).of_item.tolist() == [-1, 1, 0, 0, -1]


LISTS = [("als", 1, [1, 2, 3]), ("als", 2, [3]), ("als", 3, []), ("pop", 1, [1, 4, 9]), ("pop", 2, [1])]
GROUPS = {
    "half": ItemGroups(("left", "right"), np.array([-1, 0, 0, 1, 1])),
    "one": ItemGroups(("all",), np.zeros(5, int)),
}


def metrics(spark, rows, split="test"):
    full = [(model, split, user, items, {}, {}, 0.0, 0.0, 0) for model, user, items in rows]
    return spark.createDataFrame(full, USER_METRICS.schema)


def test_exposures_add_up_over_users_and_partitions(spark):
    users = metrics(spark, LISTS).unionByName(metrics(spark, LISTS, "valid")).repartition(3)
    found = exposures(users, GROUPS)
    expected = defaultdict(float)
    for model, _, items in LISTS:
        for rank, item in enumerate(items, start=1):
            for kind, groups in GROUPS.items():
                if 0 <= item < 5 and groups.of_item[item] >= 0:
                    expected[kind, model, groups.of_item[item]] += 1 / math.log2(rank + 1)
    for kind, groups in GROUPS.items():
        for model in ("als", "pop"):
            assert found[kind][model].tolist() == pytest.approx(
                [expected[kind, model, g] for g in range(len(groups.names))]
            )

    told = to_json(found, GROUPS, np.array([0, 6, 2, 1, 1]))["half"]
    assert (told["left"]["items"], told["left"]["interactions"]) == (0.5, 0.8)
    share = expected["half", "als", 0] / (expected["half", "als", 0] + expected["half", "als", 1])
    assert told["left"]["exposure"]["als"] == pytest.approx(share)
    assert told["left"]["ratio"]["als"] == pytest.approx(share / 0.8)


def test_gaps_are_between_groups_that_are_large_enough():
    of = {name: Interval(mean, 0, 1, n) for name, mean, n in (
        ("activity=1-4", 0.1, 100), ("activity=5-19", 0.4, 100), ("activity=20-99", 0.9, 5), ("item=tail", 0.0, 500),
        ("user=warm", 0.3, 100),
    )}  # fmt: skip
    (gaps,) = user_gaps({"als": {"test": of, "valid": {}}}, 50).values()
    assert gaps.keys() == {"activity"}
    assert gaps["activity"].gap == pytest.approx(0.3)
    assert (gaps["activity"].best, gaps["activity"].worst) == ("5-19", "1-4")


def test_what_the_page_says_of_lists_is_what_they_hold(spark, tmp_path):
    def version(name, frame):
        frame.write.parquet(str(tmp_path / name / "data"))
        return Version(tmp_path / name, {})

    held = {1: [2], 2: [3], 3: [5]}
    histories = [("valid", u, [8], [1.0], [1.0], of, [1.0], None) for u, of in held.items()]
    before = [("als", 1, [2, 9, 1]), ("als", 2, [4]), ("pop", 7, [1])]
    counts = spark.createDataFrame([(1, 4), (2, 3), (3, 2), (4, 1)], "item_id int, count int")
    counts.write.parquet(str(tmp_path / "items"))
    known = version("histories", spark.createDataFrame(histories, HISTORIES.schema))
    found = lists(
        spark, version("now", metrics(spark, LISTS)), known, tmp_path / "items",
        version("before", metrics(spark, before)),
    )  # fmt: skip
    assert found.hits == {"als": pytest.approx([1 / 3, 1 / 3, 0]), "pop": [0, 0, 0]}
    assert found.churn == {"als": pytest.approx((1 / 3 + 1) / 2)}  # of user 1 item 3 is new, of user 2 all
    assert found.trained[-2:] == [(0.75, pytest.approx(0.6)), (1.0, 1.0)]
    assert dict(found.shown["als"])[0.25] == 0 and sum(found.popular["pop"]) == pytest.approx(1)
    assert found.popular["pop"][0] == pytest.approx(2 / 3)  # item 1; item 9 is none that was trained
