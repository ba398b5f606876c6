"""Top-K over Spark partitions against the numpy kernel on one block of all users."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.recommendation.topk import TOP_K, top_k
from recsys_spark.schemas import HISTORIES

N_USERS, N_ITEMS, K = 23, 15, 6


def histories():
    """Users 1..22 with random histories; 5 has none, 9 has seen everything, 17 knows a newer item alone."""
    rng = np.random.default_rng(2)
    of = {u: rng.permutation(np.arange(1, N_ITEMS))[: rng.integers(1, 9)].tolist() for u in range(1, N_USERS)}
    return of | {5: [], 9: list(range(1, N_ITEMS)), 17: [N_ITEMS + 40]}


def als_model():
    rng = np.random.default_rng(4)
    factors = rng.integers(-2, 3, (N_ITEMS, 2)).astype(np.float32)  # small whole numbers: items with equal factors
    known = np.arange(N_ITEMS) > 0
    known[3] = False
    return AlsModel(factors * known[:, None], known, AlsConfig(rank=2))


def popularity_model():
    counts = np.array([0, 3, 1, 3, 3, 0, 2, 2, 1, 1, 3, 5, 1, 2, 0], np.float32)
    return Popularity(counts, np.full(N_ITEMS, np.nan, np.float32))


@pytest.fixture(scope="module", params=[als_model, popularity_model])
def saved(request, tmp_path_factory):
    model = request.param()
    path = tmp_path_factory.mktemp(model.name)
    model.save(path)
    return model, path


@pytest.fixture(scope="module")
def frame(spark):
    rows = [
        ("test", u, items, [1.0] * len(items), [float("nan")] * len(items), [], [], None)
        for u, items in histories().items()
    ]
    return spark.createDataFrame(rows, HISTORIES.schema).cache()


def lists(df):
    return {r.user_id: (r["items"], r.scores) for r in df.collect()}


def test_equals_the_kernel_on_one_block(saved, frame):
    model, path = saved
    of = histories()
    got = lists(top_k(frame, path, K, block_users=4))
    assert got.keys() == of.keys()
    items, scores = recommend_block(model, UserBlock.of(list(of), list(of.values())), K)
    for b, u in enumerate(of):
        n = int((items[b] > 0).sum())
        assert got[u][0] == items[b, :n].tolist()
        np.testing.assert_allclose(got[u][1], scores[b, :n], rtol=1e-6)
    assert got[9] == ([], [])  # nothing left
    assert (got[5][0] == []) == (got[17][0] == []) == (model.name == "als")  # no history to fold in


def test_lists_hold_distinct_unseen_known_items(saved, frame):
    model, path = saved
    trained = set(np.flatnonzero(model.known if model.name == "als" else model.counts > 0).tolist())
    for u, (items, scores) in lists(top_k(frame, path, K, block_users=3)).items():
        assert len(items) == len(set(items)) == len(scores) <= K
        assert set(items) <= trained - set(histories()[u])
        ranked = [(-s, i) for i, s in zip(items, scores, strict=True)]
        assert ranked == sorted(ranked)  # best first, equal scores by smaller id


def test_popularity_ties_go_to_the_smaller_id(frame, tmp_path):
    popularity_model().save(tmp_path)
    got = lists(top_k(frame.where("user_id = 5"), tmp_path, 7, block_users=10))
    assert got[5] == ([11, 1, 3, 4, 10, 6, 7], [5, 3, 3, 3, 3, 2, 2])


def test_does_not_depend_on_how_users_are_dealt_out(saved, frame):
    _, path = saved
    reference = lists(top_k(frame.coalesce(1), path, K, block_users=1000))
    for partitions, block_users in ((1, 1), (3, 2), (5, 7)):
        shuffled = frame.repartition(partitions, "last_day", "user_id")
        got = lists(top_k(shuffled, path, K, block_users))
        assert {u: items for u, (items, _) in got.items()} == {u: items for u, (items, _) in reference.items()}
        for u, (_, scores) in got.items():
            np.testing.assert_allclose(scores, reference[u][1], rtol=1e-6)


def test_nobody_gives_no_rows(saved, frame):
    got = top_k(frame.where("user_id < 0"), saved[1], K, 4)
    assert got.schema == TOP_K
    assert got.collect() == []
