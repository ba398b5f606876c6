"""Top-K over Spark partitions against the numpy kernel on one block of all users."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.recommendation.topk import top_k
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
    days = {u: dt.date(2026, 1, 1 + u) for u in range(1, N_USERS)}
    rows = [
        ("test", u, items, [1.0] * len(items), [float("nan")] * len(items), [], [], days[u])
        for u, items in histories().items()
    ]
    return spark.createDataFrame(rows, HISTORIES.schema).cache()


@pytest.fixture
def recommend(spark, frame, tmp_path):
    """A function that writes some users' histories and returns their lists."""
    runs = iter(range(99))

    def run(path, k=K, block_users=4, rows=frame, files=2, **more):
        folder = tmp_path / str(next(runs))
        rows.repartition(files, "last_day", "user_id").write.parquet(str(folder / "histories"))
        return lists(top_k(spark, folder / "histories", path, k, block_users, folder / "lists", **more))

    return run


def lists(df):
    return {r.user_id: (r["items"], r.scores) for r in df.collect()}


def test_equals_the_kernel_on_one_block(saved, recommend):
    model, path = saved
    of = histories()
    got = recommend(path)
    assert got.keys() == of.keys()
    items, scores = recommend_block(model, UserBlock.of(list(of), list(of.values())), K)
    for b, u in enumerate(of):
        n = int((items[b] > 0).sum())
        assert got[u][0] == items[b, :n].tolist()
        np.testing.assert_allclose(got[u][1], scores[b, :n], rtol=1e-6)
    assert got[9] == ([], [])  # nothing left
    assert (got[5][0] == []) == (got[17][0] == []) == (model.name == "als")  # no history to fold in


def test_lists_hold_distinct_unseen_known_items(saved, recommend):
    model, path = saved
    trained = set(np.flatnonzero(model.known if model.name == "als" else model.counts > 0).tolist())
    for u, (items, scores) in recommend(path, block_users=3).items():
        assert len(items) == len(set(items)) == len(scores) <= K
        assert set(items) <= trained - set(histories()[u])
        ranked = [(-s, i) for i, s in zip(items, scores, strict=True)]
        assert ranked == sorted(ranked)  # best first, equal scores by smaller id


def test_popularity_ties_go_to_the_smaller_id(frame, recommend, tmp_path):
    popularity_model().save(tmp_path)
    got = recommend(tmp_path, 7, rows=frame.where("user_id = 5"))
    assert got[5] == ([11, 1, 3, 4, 10, 6, 7], [5, 3, 3, 3, 3, 2, 2])


def test_does_not_depend_on_how_users_are_dealt_out(saved, recommend):
    _, path = saved
    reference = recommend(path, block_users=1000, files=1)
    for files, block_users in ((1, 1), (3, 2), (5, 7)):
        got = recommend(path, block_users=block_users, files=files)
        assert {u: items for u, (items, _) in got.items()} == {u: items for u, (items, _) in reference.items()}
        for u, (_, scores) in got.items():
            np.testing.assert_allclose(scores, reference[u][1], rtol=1e-6)


def test_the_fallback_serves_whom_the_model_does_not_know_and_the_inactive_are_left_out(
    spark, frame, recommend, tmp_path
):
    for model in (als_model(), popularity_model()):
        (tmp_path / model.name).mkdir()
        model.save(tmp_path / model.name)
    als, popular = (recommend(tmp_path / name) for name in ("als", "popularity"))
    both = recommend(tmp_path / "als", fallback=tmp_path / "popularity")
    assert both == {u: mine if mine[0] else popular[u] for u, mine in als.items()}
    assert both[5] == popular[5] != als[5]
    assert set(recommend(tmp_path / "als", since=dt.date(2026, 1, 11))) == set(range(10, N_USERS))


def test_a_killed_run_goes_on_where_it_stopped(spark, frame, tmp_path):
    popularity_model().save(tmp_path)
    frame.repartition(4, "user_id").write.parquet(str(tmp_path / "histories"))
    arguments = (spark, tmp_path / "histories", tmp_path, K, 5, tmp_path / "lists")
    whole = lists(top_k(*arguments))
    files = sorted((tmp_path / "lists").glob("*.parquet"))
    files[0].unlink()
    (tmp_path / "lists" / ".half-written.parquet.x").write_bytes(b"PAR1")
    stood = {file: file.stat().st_mtime_ns for file in files[1:]}
    assert lists(top_k(*arguments)) == whole
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == stood and files[0].exists()


def test_nobody_gives_no_rows(saved, frame, recommend):
    assert recommend(saved[1], rows=frame.where("user_id < 0")) == {}
